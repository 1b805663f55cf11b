//! A fault at the first, second, third, ... call that the server makes to the system, until a short
//! scenario runs through without meeting it: SIGKILL, a disk that fails once, a disk that is full
//! once. By default some of the calls, by chance, and each sync while a database is made; `ROLLCALL_CALL_STEP=1` takes each.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use super::{client, folder};
use crate::support::machine::{Tracer, amount, dice, strace};
use crate::support::noting::NotingWorker;
use crate::support::program::Server;
use crate::support::recorder::{Recorder, Told};

/// From when on calls are counted, per thread of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// The start of a server that has no database yet.
    Creating,
    /// The start of one that was killed before.
    Starting,
    /// The moment when it serves.
    Serving,
}

const SYNCS: &str = "fsync,fdatasync";
const WRITES: &str = "pwrite64";
const SENDS: &str = "sendto,sendmsg,writev";

/// What a scenario is made of. It goes on after an error, so that what follows one is seen as well.
const SUBMISSIONS: usize = 8;

/// So many calls no scenario makes; beyond, the count itself must be wrong.
const MOST: usize = 2_000;

#[tokio::test]
async fn a_kill_while_the_database_is_made_leaves_one_that_opens() {
    for calls in [SYNCS, WRITES] {
        at_every_call(From::Creating, calls, "signal=SIGKILL").await;
    }
}

#[tokio::test]
async fn a_kill_while_it_starts_loses_nothing() {
    for calls in [SYNCS, WRITES] {
        at_every_call(From::Starting, calls, "signal=SIGKILL").await;
    }
}

#[tokio::test]
async fn a_kill_at_any_write_sync_or_send_loses_nothing_acknowledged() {
    for calls in [SYNCS, WRITES, SENDS] {
        at_every_call(From::Serving, calls, "signal=SIGKILL").await;
    }
}

#[tokio::test]
async fn a_disk_that_fails_once_or_is_full_once_loses_nothing_acknowledged() {
    for (calls, error) in [(SYNCS, "EIO"), (WRITES, "EIO"), (WRITES, "ENOSPC")] {
        at_every_call(From::Serving, calls, &format!("error={error}")).await;
    }
}

async fn at_every_call(from: From, calls: &str, fault: &str) {
    let default = match (calls, from) {
        // There are far more writes than others, and few syncs while a database is made.
        (WRITES, _) => 31,
        (_, From::Creating) => 1,
        _ => 5,
    };
    let (mut dice, step) = (dice(), amount("ROLLCALL_CALL_STEP", default));
    let (kept, worker) = (folder(), NotingWorker::listen());
    let (mut all, mut met) = (Vec::new(), 0);
    let mut number = dice.random_range(1..=step);
    loop {
        // Every scenario goes on with the database that the one before has left.
        let new = folder();
        let folder = if from == From::Creating { &new } else { &kept };
        let what = format!("{fault} at call {number} of {calls}, {from:?}");
        let first = u64::try_from(number).expect("small") * 1_000;
        let mut recorder = Recorder::new(first, SmallRng::seed_from_u64(dice.random()));
        let inject = format!("inject={calls}:{fault}:when={number}");
        let fired = scenario(from, folder, &inject, &worker, &mut recorder).await;
        eprintln!("{what}: {}", if fired { "met" } else { "not met" });

        let mut after = Server::start_in(folder, &worker.config(), &[]);
        assert_eq!(recorder.ask_again(&client(&after)).await, Told::Accepted);
        recorder.sees_everything_end(&client(&after), &worker).await;
        after.signal(Signal::SIGKILL);
        after.ended();
        all.push(recorder);
        if !fired {
            break;
        }
        (number, met) = (number + step, met + 1);
        assert!(number < MOST, "{what}: there is no end");
    }
    assert!(met > 0, "no {calls} was met by {fault}, {from:?}");
    worker.never_started_an_attempt_twice();
    if from != From::Creating {
        let server = Server::start_in(&kept, &worker.config(), &[]);
        for recorder in &mut all {
            recorder.finds_everything(&client(&server)).await;
        }
    }
}

/// A server that meets the fault, if it makes so many calls. Returns whether it did.
async fn scenario(
    from: From,
    folder: &Arc<TempDir>,
    inject: &str,
    worker: &NotingWorker,
    recorder: &mut Recorder,
) -> bool {
    let trace = folder.path().join("trace");
    let (calls, _) = inject.trim_start_matches("inject=").split_once(':').expect("calls come first");
    let traced = format!("trace={calls}");
    let options = ["-e", &traced, "-e", inject];
    let by = strace(&options, &trace);
    let (mut server, tracer) = if from == From::Serving {
        let server = Server::start_in(folder, &worker.config(), &[]);
        let tracer = Tracer::attach(server.pid(), &options, &trace);
        (server, Some(tracer))
    } else {
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        (Server::launch(folder, &worker.config(), &by), None)
    };
    if server.serves() {
        submit_some(recorder, &server).await;
        // Results that nobody waits for are recorded a little later.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ended = !server.still_runs();
    if !ended {
        server.signal(Signal::SIGKILL);
    }
    server.ended();
    drop(tracer);
    let trace = std::fs::read_to_string(&trace).unwrap_or_default();
    ended || trace.contains("(INJECTED)")
}

/// Submits a few tasks; those that are refused a few times more.
async fn submit_some(recorder: &mut Recorder, server: &Server) {
    let client = client(server);
    for _ in 0..SUBMISSIONS {
        for _ in 0..20 {
            match recorder.submit(&client).await {
                Told::Accepted => break,
                Told::Refused => tokio::time::sleep(Duration::from_millis(20)).await,
                Told::Nothing => return,
            }
        }
    }
}
