//! How long `print(1)` takes: in a sandbox made for it, in one that was ready, in a session, and in a bare
//! interpreter beside them in the same run, taken in turns so that a busy machine is as busy for each.

use std::io::{self, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall_python_sandbox::{Config, Limits, Opening, Outcome, Program, Report, Request, Sandbox, open};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Calls of each kind; `--quick` takes a quarter.
const ROUNDS: usize = 60;

fn main() -> io::Result<()> {
    let quick = std::env::args().any(|word| word == "--quick");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(compare(if quick { ROUNDS / 4 } else { ROUNDS }))
}

async fn compare(rounds: usize) -> io::Result<()> {
    let cold = sandbox(0).await?;
    let warm = sandbox(2).await?;
    call(&warm, Some(Opening::New)).await?;
    let [mut bare, mut from_cold, mut from_warm, mut in_session] = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        bare.push(timed(interpreter()).await?);
        from_cold.push(timed(call(&cold, None)).await?);
        warm.is_warm().await;
        from_warm.push(timed(call(&warm, None)).await?);
        // The one that took its place is being made now; it must not stand beside what is measured next.
        warm.is_warm().await;
        in_session.push(timed(call(&warm, Some(Opening::Known))).await?);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "print(1), {rounds} times each, in milliseconds")?;
    let base = middle(&mut bare);
    let rows = [("python3 -I -c", bare), ("cold", from_cold), ("warm", from_warm), ("session", in_session)];
    for (name, mut times) in rows {
        let p50 = middle(&mut times);
        let p95 = times[times.len() * 95 / 100];
        let ratio = p50.as_secs_f64() / base.as_secs_f64();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        writeln!(out, "{name:<14} p50 {:7.1}  p95 {:7.1}  x {ratio:.2}", millis(p50), millis(p95))?;
    }
    cold.close().await;
    warm.close().await;
    Ok(())
}

async fn sandbox(warm: usize) -> io::Result<Sandbox> {
    let imports = ["json", "re", "subprocess", "traceback"].map(str::to_owned).to_vec();
    let opened = open(Config { warm, imports, ..Config::default() }).await;
    opened.map(|(sandbox, _)| sandbox).map_err(io::Error::other)
}

async fn interpreter() -> io::Result<()> {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-I", "-c", "print(1)"]).stdin(Stdio::null());
    let done = command.output().await?;
    if done.stdout == b"1\n" { Ok(()) } else { Err(io::Error::other("the interpreter failed")) }
}

async fn call(sandbox: &Sandbox, session: Option<Opening>) -> io::Result<()> {
    let (output, cancel) = (Arc::new(|_, _: &[u8]| {}), CancellationToken::new());
    let request = Request {
        program: Program::Python { code: "print(1)".into() },
        inputs: Vec::new(),
        outputs: Vec::new(),
        limits: Limits::default(),
        wall: Duration::from_secs(30),
    };
    let hour = Duration::from_secs(3_600);
    let report = match session {
        None => sandbox.run(request, output, &cancel).await,
        Some(opening) => sandbox
            .call("bench", opening, hour, request, output, &cancel)
            .await
            .map_err(|problem| io::Error::other(format!("{problem:?}")))?,
    };
    succeeded(&report)
}

fn succeeded(report: &Report) -> io::Result<()> {
    if report.outcome == Outcome::Ok && report.stdout.shown(16).text == "1\n" {
        return Ok(());
    }
    Err(io::Error::other(format!("{:?}: {}", report.outcome, report.message)))
}

async fn timed(work: impl Future<Output = io::Result<()>>) -> io::Result<Duration> {
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
