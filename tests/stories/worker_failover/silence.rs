//! Workers that stop without a word, and speak again after their tasks were given to others.

use nix::sys::signal::Signal;
use serde_json::json;

use super::fleet;
use crate::support::asking::outcomes;
use crate::support::counting::{CountingWorker, Runs};
use crate::support::process::{WorkerProcess, free_port, runs};
use crate::support::scripted::{Scripted, about};
use crate::support::{Server, eventually};

#[tokio::test]
async fn a_stopped_process_loses_its_task_to_another_and_its_late_result_is_fenced() {
    let (folder, address) = (tempfile::tempdir().expect("a folder can be made"), free_port());
    let spare = free_port();
    let endpoint = |address| Some(format!("ws://{address}"));
    let server = Server::start(&fleet(&[("ann", endpoint(address)), ("bob", endpoint(spare))]));
    let ann = WorkerProcess::listen("ann", address, folder.path());
    let before = server.worker_is("ann", "ready").await;
    let task = server.submit("again", json!({ "until": "go" })).await;
    server.task_is(&task, "running").await;
    ann.signal(Signal::SIGSTOP);
    server.worker_is("ann", "suspect").await;
    let bob = WorkerProcess::listen("bob", spare, folder.path());
    server.worker_is("bob", "ready").await;

    eventually("the task runs elsewhere", async || {
        let task = server.task(&task).await;
        let moved = task["state"] == "running" && task["attempts"][1]["worker"] == "bob";
        if moved { Ok(()) } else { Err(task.to_string()) }
    })
    .await;
    std::fs::write(folder.path().join("go"), "").expect("a file can be written");
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!(outcomes(&ended), ["worker_lost", "succeeded"], "{ended}");
    assert_eq!(ended["output"]["pid"], bob.pid(), "{ended}");

    // It finishes its own attempt, too, and is told that nobody wants it.
    ann.signal(Signal::SIGCONT);
    let after = server.worker_is("ann", "ready").await;
    assert_eq!(after["instance"], before["instance"], "the same process");
    let discarded = |decision: &str| format!("decision=\"{decision}\"");
    eventually("the zombie's attempt is fenced", async || {
        let mut fenced = 0.0;
        for decision in ["aborted", "result_discarded"] {
            let labels = [&*discarded(decision)];
            fenced += server.metric("rollcall_task_reconciliations_total", &labels).await.unwrap_or(0.0);
        }
        fenced += server.metric("rollcall_task_results_discarded_total", &[]).await.unwrap_or(0.0);
        if fenced >= 1.0 { Ok(()) } else { Err(format!("{fenced} were")) }
    })
    .await;
    assert_eq!(server.task(&task).await, ended, "a result never changes");
    assert_eq!(runs(folder.path()).len(), 2, "two attempts, and no third run");
    let next = server.run("again", json!({})).await;
    assert_eq!(next["state"], "succeeded", "{next}");
}

/// The same without luck in the timing: the late result is a frame, and its answer is read.
#[tokio::test]
async fn a_late_result_is_answered_as_stale() {
    let server = Server::start(&fleet(&[("zombie", None)]));
    let (mut zombie, _) = Scripted::register(&server, "zombie", "first", json!([])).await;
    let task = server.submit("again", json!("once")).await;
    let first = zombie.hear("execute").await;
    zombie.say(about(&first, json!({ "type": "accepted" }))).await;
    server.task_is(&task, "running").await;
    // It hangs. The server closes the connection after a while, and takes the task for lost later.
    assert_eq!(zombie.close_code().await, 1008);
    server.task_is(&task, "queued").await;

    let (mut zombie, answer) = Scripted::register(&server, "zombie", "first", json!([])).await;
    assert_eq!(answer["keep"], json!([]));
    let second = zombie.hear("execute").await;
    assert_eq!(second["task"], first["task"]);
    assert!(second["epoch"].as_u64() > first["epoch"].as_u64(), "{second}");
    let late = json!({ "type": "result", "status": "succeeded", "output": "late" });
    zombie.say(about(&first, late.clone())).await;
    let answer = zombie.hear("result_ack").await;
    assert_eq!((&answer["accepted"], &answer["reason"]), (&json!(false), &json!("stale_epoch")));
    zombie.say(about(&second, json!({ "type": "accepted" }))).await;
    let good = json!({ "type": "result", "status": "succeeded", "output": "in time" });
    zombie.say(about(&second, good.clone())).await;
    assert_eq!(zombie.hear("result_ack").await["accepted"], true);
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!(ended["output"], "in time");

    // Said twice, and late once more: the answers differ, the task does not.
    zombie.say(about(&second, good)).await;
    assert_eq!(zombie.hear("result_ack").await["reason"], "duplicate");
    zombie.say(about(&first, late)).await;
    assert_eq!(zombie.hear("result_ack").await["reason"], "stale_epoch");
    assert_eq!(server.task(&task).await, ended);
    for (reason, least) in [("stale_epoch", 2.0), ("duplicate", 1.0)] {
        let reason = format!("reason=\"{reason}\"");
        server.metric_reaches("rollcall_task_results_discarded_total", &[&reason], least).await;
    }
}

#[tokio::test]
async fn a_silent_worker_gets_no_new_tasks() {
    let runs = Runs::new();
    // Suspect soon, and long before the connection is given up.
    let server = Server::start(
        "
heartbeat: { interval: 500ms, suspect_after: 1s, timeout: 60s, lease: 70s }
workers: [{ name: ann }, { name: quiet }]
",
    );
    let (mut quiet, _) = Scripted::register(&server, "quiet", "first", json!([])).await;
    server.worker_is("quiet", "suspect").await;
    // Only it offers this, and it is connected; still nothing is sent to it.
    let task = server.submit("again", json!(1)).await;
    let _ann = CountingWorker::dial_in("ann", &runs, &server);
    server.worker_is("ann", "ready").await;
    let waiting = server.task(&task).await;
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("queued"), &json!([])), "{waiting}");
    assert_eq!(server.run("count.once", json!(2)).await["state"], "succeeded");
    // Any frame is life.
    quiet.say(json!({ "type": "heartbeat", "running": [] })).await;
    let execute = quiet.hear("execute").await;
    assert_eq!(execute["task"], task["id"]);
}
