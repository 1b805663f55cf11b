//! The worker program: probes the machine, offers what it can hold, and meets a server.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rollcall_python_sandbox::{
    Arguments, Config, Isolation, Level, LogFormat, Metrics, Offer, Packages, offer, open,
};
use rollcall_worker_sdk::{ConnectOptions, ServeOptions, Token, Worker, lifeline};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};

/// "Configuration error" of sysexits.h: a supervisor need not start us again as long as nothing
/// changes.
const NO_ISOLATION: u8 = 78;

/// A configuration that cannot be: "usage" of sysexits.h is what clap answers, too.
const USAGE: u8 = 2;

/// Whose pip is asked for its index, where no interpreter is named.
const PYTHON: &str = "/usr/bin/python3";

/// The largest task that is taken in, whatever the server's own bound.
const MAX_MESSAGE: usize = 17 << 20;

/// How long running tasks may go on after SIGTERM; then they are stopped and told as such.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a task may take to stop: the code's own grace, the kill, and the clearing away.
const STOP: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(run(arguments))) {
        Ok(Ok(code)) => code,
        Ok(Err(problem)) | Err(problem) => {
            error!(%problem, "cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn run(arguments: Arguments) -> io::Result<ExitCode> {
    let stop = stop_on_signal()?;
    let cut = lifeline()?;
    let settings = match arguments.settings() {
        Ok(settings) => settings,
        Err(problem) => {
            writeln!(io::stderr(), "rollcall-python-sandbox: {problem}")?;
            return Ok(ExitCode::from(USAGE));
        }
    };
    let packages = if settings.packages.offers() && !arguments.check && !arguments.unsafe_no_isolation {
        let python = settings.python.as_deref().unwrap_or(Path::new(PYTHON));
        Some(Arc::new(Packages::new(&settings.packages, &settings.packages_home, python)?))
    } else {
        None
    };
    let config = Config {
        python: settings.python.clone(),
        limits: settings.limits,
        minimum: settings.minimum,
        warm: if arguments.check { 0 } else { settings.warm },
        imports: settings.imports.clone(),
        sessions: settings.sessions,
        packages: packages.as_ref().map(|packages| packages.folder().to_owned()),
        no_isolation: arguments.unsafe_no_isolation,
    };
    let (sandbox, isolation) = match open(config).await {
        Ok(opened) => opened,
        Err(missing) => {
            writeln!(io::stderr(), "rollcall-python-sandbox: {missing}")?;
            return Ok(ExitCode::from(NO_ISOLATION));
        }
    };
    let served = if arguments.check {
        show(&isolation)
    } else {
        let metrics = Metrics::new().map_err(io::Error::other)?;
        let offer = Offer { sandbox: sandbox.clone(), metrics, most: settings.most, packages };
        serve(&arguments, &offer, &isolation, stop, cut).await
    };
    // Whatever ended us, no sandbox outlives it.
    sandbox.close().await;
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    arguments: &Arguments,
    offer: &Offer,
    isolation: &Isolation,
    stop: CancellationToken,
    cut: CancellationToken,
) -> io::Result<()> {
    let token = match &arguments.token_file {
        Some(file) => Some(Token::from_file(file)?),
        None => Token::from_env()?,
    };
    let worker = worker(arguments, offer, isolation, cut);
    let _complaints =
        (isolation.level == Level::None).then(|| AbortOnDropHandle::new(tokio::spawn(complain())));
    info!(isolation = %isolation.level, found = isolation.findings.join("; "), "sandboxes are ready");
    match (&arguments.connect, arguments.listen) {
        (Some(url), _) => {
            let tls = arguments.as_client();
            worker.connect(url, ConnectOptions { token, tls, ..ConnectOptions::default() }, stop).await
        }
        (None, Some(address)) => {
            let (metrics, sandbox) = (offer.metrics.clone(), offer.sandbox.clone());
            let page = move || metrics.page(&sandbox);
            let tls = arguments
                .as_server()
                .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
            let listener = TcpListener::bind(address).await?;
            // For whoever asked for port 0; the log is on standard error.
            writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
            worker.serve(listener, ServeOptions { token, metrics: Some(Arc::new(page)), tls }, stop).await
        }
        (None, None) => Ok(()),
    }
}

/// Nobody shall forget that nothing holds the code.
async fn complain() {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        error!(isolation = "none", "--unsafe-no-isolation: tasks run as plain processes of this machine");
    }
}

fn worker(arguments: &Arguments, offers: &Offer, isolation: &Isolation, cut: CancellationToken) -> Worker {
    let mut worker = Worker::builder("python-sandbox")
        .version(env!("CARGO_PKG_VERSION"))
        .isolation(isolation.level.as_str())
        .stop_grace(STOP)
        .shutdown_grace(DRAIN)
        .max_message(MAX_MESSAGE)
        .lifeline(cut);
    if let Some(name) = &arguments.name {
        worker = worker.name(name);
    }
    if let Some(slots) = arguments.slots {
        worker = worker.slots(slots);
    }
    offer(worker, offers).build()
}

fn show(isolation: &Isolation) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in &isolation.findings {
        writeln!(out, "ok: {finding}")?;
    }
    writeln!(out, "isolation: {}", isolation.level)
}

/// A token that SIGTERM and SIGINT cancel.
fn stop_on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, stop) = (signal(kind)?, stop.clone());
        // Lives as long as the process; it holds nothing.
        drop(tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        }));
    }
    Ok(stop)
}
