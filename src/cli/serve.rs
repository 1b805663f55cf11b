//! `rollcall serve`: the server. It puts the rooms together, listens, and ends when it is told to.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::check::{counted, print_problems};
use super::failure::{Failure, Outcome};
use crate::agent::engine::{Engine, EngineError};
use crate::api::{self, AppState, Listeners, WorkersListener};
use crate::config::{
    Apart, Env, LoadError, LoadErrorKind, Loaded, NoAnswer, ServerConfig, Source, StoreKind, Trigger,
};
use crate::manager::desired::Desired;
use crate::supervise::Options;
use crate::telemetry::logs::{self, LevelSwitch};
use crate::telemetry::{Metrics, count_panics};

/// How long the topology may take to be read before a word is said about it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the server and its workers.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The topology.
    #[arg(short, long, value_name = "FILE", default_value = "config.yaml")]
    config: PathBuf,
    /// Write everything that the core is told to this file, for a later look.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl Serve {
    pub(super) async fn run(&self) -> Outcome {
        // Signals first: one that comes while the server starts must end it in order.
        let mut signals = Signals::listen().map_err(Failure::new)?;
        let source = Source::new(&self.config, Env::of_process());
        let Some(loaded) = read(&source, &mut signals).await? else { return Ok(()) };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(failed) => {
                print_problems("error", &failed.problems)?;
                return Err(match failed.kind {
                    LoadErrorKind::Unreadable => {
                        Failure::new("there is no topology to serve; name one with --config FILE")
                    }
                    LoadErrorKind::Invalid => Failure::new(format!(
                        "{} has {}; nothing was started",
                        self.config.display(),
                        counted(failed.problems.len(), "problem")
                    )),
                });
            }
        };
        let config = &loaded.config;
        let metrics = Arc::new(Metrics::default());
        let level = logs::init(&config.telemetry, Arc::clone(&metrics)).map_err(Failure::new)?;
        count_panics(Arc::clone(&metrics));
        raise_file_limit();
        // Before any program starts: an address that is taken must not cost a round of start and stop.
        let mut listeners = bind(&config.server).await?;
        let address = listeners.api.local_addr()?;
        let workers_listen = config.server.workers_listen.clone();
        let programs = Options { server: Some(format!("http://{address}")), ..Options::default() };
        let mut engine = Engine::start(config, StoreKind::Sqlite, metrics, programs, self.record.clone())
            .map_err(|error| match error {
                EngineError::Store(error) => Failure::Store(error.to_string()),
                EngineError::System(error) => Failure::new(format!("cannot start: {error}")),
            })?;
        let desired = engine
            .follow(source, loaded)
            .await
            .map_err(|_| Failure::new("the fleet stopped while it started; its log says why"))?;
        if let (Some(workers), Some(files)) =
            (&mut listeners.workers, workers_listen.and_then(|door| door.tls))
        {
            let door = engine.manager().trust().tls.door(files);
            workers.tls =
                Some(door.map_err(|error| Failure::new(format!("server.workers_listen: {error}")))?);
        }
        let workers = listeners.workers.as_ref().map(|workers| workers.listener.local_addr()).transpose()?;
        let (close, closing) = watch::channel(false);
        let mut serving = JoinSet::new();
        let state = AppState::new(engine.manager().clone(), desired.clone());
        serving.spawn(api::serve(listeners, state, closing));
        let topology = engine.manager().topology();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            "rollcall serves on http://{address}: {}, generation {}",
            counted(topology.workers.len(), "worker"),
            topology.generation
        );
        if let Some(address) = workers {
            info!("workers dial in on {address}");
        }
        let outcome = until_told(&mut signals, &mut engine, &mut serving, &desired, &level).await;
        let drain = desired.config().server.drain_timeout;
        tokio::select! {
            () = stop(engine, drain, close, serving) => info!("stopped"),
            () = signals.stop() => {
                // Always safe: programs end by their lifelines, and what was promised is kept.
                warn!("told again to stop: ending at once");
                return Err(Failure::Silent);
            }
        }
        outcome
    }
}

/// Reads the topology, and says so when that takes long: a file may be a pipe that is only written to
/// once somebody waits for it. Nothing when a signal says stop meanwhile.
async fn read(source: &Source, signals: &mut Signals) -> Result<Option<Result<Loaded, LoadError>>, Failure> {
    let apart = Apart::default();
    let its = source.clone();
    let loading = apart.run(Duration::MAX, move || its.load());
    tokio::pin!(loading);
    let patience = tokio::time::sleep(PATIENCE);
    tokio::pin!(patience);
    let mut told = false;
    loop {
        tokio::select! {
            () = signals.stop() => return Ok(None),
            loaded = &mut loading => return loaded.map(Some).map_err(|why| Failure::new(source.unreadable(&why).headline())),
            () = &mut patience, if !told => {
                told = true;
                eprintln!("waiting for {}: {}", source.path().display(), NoAnswer::Late(PATIENCE));
            }
        }
    }
}

/// Serves until a signal says stop, or something essential has failed.
async fn until_told(
    signals: &mut Signals,
    engine: &mut Engine,
    serving: &mut JoinSet<()>,
    desired: &Desired,
    level: &LevelSwitch,
) -> Outcome {
    let mut reloads = JoinSet::new();
    let mut configs = desired.configs();
    loop {
        tokio::select! {
            word = signals.next() => match word {
                Word::Stop => return Ok(()),
                Word::Reload => {
                    let desired = desired.clone();
                    // What came of it is logged by the desired value's own task.
                    reloads.spawn(async move { drop(desired.reload(Trigger::Sighup, false).await) });
                }
            },
            Some(_) = reloads.join_next() => {}
            Ok(()) = configs.changed() => level.set(configs.borrow_and_update().telemetry.level),
            failed = engine.failed() => {
                error!("{failed}: stopping; this is a bug in Rollcall");
                return Err(Failure::Silent);
            }
            _ = serving.join_next() => {
                error!("the API has ended although nobody asked for it: stopping; this is a bug in Rollcall");
                return Err(Failure::Silent);
            }
        }
    }
}

/// The graceful end: the fleet first, while the API still says that it stops; then the API.
async fn stop(engine: Engine, drain: Duration, close: watch::Sender<bool>, mut serving: JoinSet<()>) {
    info!("stopping: launched workers may finish what they run for up to {drain:?}");
    engine.stop(drain).await;
    close.send_replace(true);
    while let Some(ended) = serving.join_next().await {
        if let Err(error) = ended {
            error!(%error, "the API failed while it stopped");
        }
    }
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next word. Cancel-safe.
    async fn next(&mut self) -> Word {
        tokio::select! {
            biased; // A burst of reloads must not hold back the end.
            _ = self.terminate.recv() => Word::Stop,
            _ = self.interrupt.recv() => Word::Stop,
            _ = self.hangup.recv() => Word::Reload,
        }
    }

    /// The next word to stop; nothing else counts any more. Cancel-safe.
    async fn stop(&mut self) {
        while self.next().await != Word::Stop {}
    }
}

async fn bind(server: &ServerConfig) -> Result<Listeners, Failure> {
    let api = listen(server.listen, "server.listen").await?;
    let metrics = match server.metrics_listen {
        Some(address) => Some(listen(address, "server.metrics_listen").await?),
        None => None,
    };
    let workers = match &server.workers_listen {
        Some(door) => {
            let listener = listen(door.listen, "server.workers_listen").await?;
            Some(WorkersListener { listener, tls: None })
        }
        None => None,
    };
    Ok(Listeners { api, metrics, workers })
}

async fn listen(address: SocketAddr, field: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(": another program listens there (rollcall itself?); stop it, or change {field}")
            }
            _ => format!(": {error}; change {field}"),
        };
        Failure::new(format!("cannot listen on {address}{hint}"))
    })
}

/// Ten thousand workers are as many files; the usual soft limit is 1,024, for programs that use
/// `select`, which this one does not.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the number of open files cannot be raised; many workers may not find room");
    }
}
