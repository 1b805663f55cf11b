//! What the tests of real sandboxes share. Where isolation is missing they fail with the probe's own
//! words; none is ever passed over.
#![allow(dead_code, reason = "each test program uses a part of this")]

pub(crate) mod guard;
pub(crate) mod index;
pub(crate) mod link;
pub(crate) mod wheels;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollcall_python_sandbox::{Config, Limits, Output, Program, Report, Request, Sandbox, open};
use rollcall_worker_sdk::Stream;
use tokio_util::sync::CancellationToken;

/// Time for what should end by itself, on a busy machine.
pub(crate) const AMPLE: Duration = Duration::from_secs(30);

/// Text that a test expects in a result, cut at nothing that matters.
pub(crate) const ALL: usize = 1 << 20;

pub(crate) async fn sandbox() -> Sandbox {
    sandbox_with(Limits::default()).await
}

pub(crate) async fn sandbox_with(limits: Limits) -> Sandbox {
    sandbox_as(Config { limits, ..Config::default() }).await
}

pub(crate) async fn sandbox_as(config: Config) -> Sandbox {
    match open(config).await {
        Ok((sandbox, _)) => sandbox,
        Err(missing) => panic!("{missing}"),
    }
}

pub(crate) fn asking(program: Program) -> Request {
    let (inputs, outputs) = (Vec::new(), Vec::new());
    Request { program, inputs, outputs, limits: Limits::default(), wall: AMPLE }
}

pub(crate) fn python(code: &str) -> Request {
    asking(Program::Python { code: code.into() })
}

pub(crate) fn tool(name: &'static str, arguments: serde_json::Value) -> Request {
    asking(Program::Tool { name, arguments })
}

pub(crate) fn shell(script: &str) -> Request {
    command(&["/bin/sh", "-c", script], "")
}

pub(crate) fn command(argv: &[&str], stdin: &str) -> Request {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let env = serde_json::Map::new();
    asking(Program::Command { argv, stdin: stdin.into(), cwd: "/workspace".into(), env })
}

pub(crate) fn within(wall: Duration, request: Request) -> Request {
    Request { wall, ..request }
}

/// Runs with the limits that the sandbox was opened with.
pub(crate) async fn run(sandbox: &Sandbox, request: Request) -> Report {
    let request = Request { limits: *sandbox.limits(), ..request };
    sandbox.run(request, quiet(), &CancellationToken::new()).await
}

pub(crate) fn quiet() -> Output {
    Arc::new(|_, _| {})
}

pub(crate) fn stdout(report: &Report) -> String {
    report.stdout.shown(ALL).text
}

pub(crate) fn stderr(report: &Report) -> String {
    report.stderr.shown(ALL).text
}

/// Live output, gathered; wakes those who wait for a text in it.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    text: Arc<Mutex<String>>,
    more: Arc<tokio::sync::Notify>,
}

impl Heard {
    pub(crate) fn output(&self) -> Output {
        let heard = self.clone();
        Arc::new(move |_: Stream, bytes: &[u8]| {
            let mut text = heard.text.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&String::from_utf8_lossy(bytes));
            heard.more.notify_one();
        })
    }

    pub(crate) async fn until(&self, wanted: &str) {
        while !self.text.lock().unwrap_or_else(PoisonError::into_inner).contains(wanted) {
            self.more.notified().await;
        }
    }
}

/// Pids of all processes on this machine whose command line has this text in it.
pub(crate) fn processes_with(marker: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("procfs").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| *pid != std::process::id())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
        })
        .collect()
}

/// Waits until something is so, and fails if that takes too long.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never came true: {what}");
}
