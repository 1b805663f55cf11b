//! No 202 leaves before the disk has its task, as seen from outside: in the order of the server's
//! system calls.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::Signal;

use super::{client, folder, recorders};
use crate::support::eventually;
use crate::support::machine::{dice, strace};
use crate::support::noting::NotingWorker;
use crate::support::program::Server;
use crate::support::trace::{Call, calls, hex, text};

/// How many 202s a trace has; fails at the first that left too early. A task's id is in the bytes of
/// its record; what is written to the log is safe once a sync of the log that began later has ended.
fn acknowledged_in_order(calls: &[Call]) -> Result<usize, String> {
    let of_log = |call: &&Call| call.file.ends_with("rollcall.db-wal");
    let (mut found, accepted) = (0, hex(b"HTTP/1.1 202"));
    for answer in calls.iter().filter(|call| call.data.starts_with(&accepted)) {
        let text = text(&answer.data);
        let (_, rest) = text.split_once("/v1/tasks/").ok_or_else(|| format!("no location: {text}"))?;
        let id = uuid::Uuid::parse_str(&rest[..36]).map_err(|error| format!("{error}: {text}"))?;
        // In hexadecimal, for that search is the fast one.
        let raw = hex(id.as_bytes());
        let has_id = |call: &&Call| call.name == "pwrite64" && call.data.contains(&raw);
        let written = calls.iter().filter(of_log).find(has_id);
        let written = written.ok_or_else(|| format!("{id} was acknowledged and never written"))?;
        let synced = calls.iter().filter(of_log).any(|call| {
            call.name.ends_with("sync") && call.began > written.ended && call.ended < answer.began
        });
        if !synced {
            return Err(format!("{id} was acknowledged in line {} before a sync", answer.began));
        }
        found += 1;
    }
    Ok(found)
}

#[tokio::test]
async fn each_acknowledgement_leaves_after_the_sync_that_follows_its_write() {
    let (folder, worker, mut dice) = (folder(), NotingWorker::listen(), dice());
    let trace = folder.path().join("trace");
    let seen = "trace=pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg";
    let by = strace(&["-y", "-xx", "-s", "8192", "-e", seen], &trace);
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let mut server = Server::start_in(&folder, &worker.config(), &by);
    let mut recorders = recorders(4, &mut dice);
    let each = recorders.iter_mut().map(async |recorder| {
        let client = client(&server);
        for _ in 0..25 {
            recorder.submit(&client).await;
        }
        recorder.sees_everything_end(&client, &worker).await;
    });
    futures_util::future::join_all(each).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(), Some(0));
    let server = server.pid().to_string();
    let calls = eventually("the whole trace", async || {
        let text = fs::read_to_string(&trace).map_err(|error| error.to_string())?;
        let ends = |line: &str| line.starts_with(&server) && line.contains(" +++ exited");
        if text.lines().any(ends) { Ok(calls(&text)) } else { Err("it goes on".to_owned()) }
    })
    .await;
    let found = acknowledged_in_order(&calls).unwrap_or_else(|early| panic!("{early}"));
    let least = recorders.iter().map(|it| it.acknowledged()).sum::<usize>() / 2;
    assert!(
        found >= least,
        "only {found} of at least {least} acknowledgements were seen in {} calls",
        calls.len()
    );
}

#[test]
fn an_acknowledgement_that_left_too_early_is_noticed() {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let raw = hex(uuid::Uuid::parse_str(id).expect("an id").as_bytes());
    let answer = hex(format!("HTTP/1.1 202 Accepted\r\nlocation: /v1/tasks/{id}\r\n\r\n").as_bytes());
    let log = hex(b"/data/rollcall.db-wal");
    let lines = BTreeMap::from([
        ("write", format!("1 pwrite64(9<{log}>, \"{raw}\", 16, 0) = 16\n")),
        ("begin", format!("1 fdatasync(9<{log}> <unfinished ...>\n")),
        ("end", "1 <... fdatasync resumed>) = 0\n".to_owned()),
        ("fail", "1 <... fdatasync resumed>) = -1 EIO (Input/output error)\n".to_owned()),
        ("answer", format!("2 sendto(12<socket:[7]>, \"{answer}\", 80, 0, NULL, 0) = 80\n")),
    ]);
    let judged = |order: &[&str]| {
        let text: String = order.iter().map(|line| lines[line].as_str()).collect();
        acknowledged_in_order(&calls(&text))
    };
    assert_eq!(judged(&["write", "begin", "end", "answer"]), Ok(1));
    for early in [
        &["answer", "write", "begin", "end"][..],
        &["write", "answer", "begin", "end"],
        &["write", "begin", "answer", "end"],
        &["begin", "write", "end", "answer"],
        &["write", "begin", "fail", "answer"],
        &["begin", "end", "answer"],
    ] {
        assert!(judged(early).is_err(), "{early:?}");
    }
}
