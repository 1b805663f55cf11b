//! Workers that answer every heartbeat and fail whatever they are given.

use std::path::Path;

use serde_json::{Value, json};

use super::IMPATIENT;
use crate::support::process::{WorkerProcess, free_port, launch_block, runs};
use crate::support::{Server, eventually};

/// Times out are short, or the story is long.
const HEALTH: &str = "health: { base_ejection_time: 1s }\n";

fn falls_sick(folder: &Path, patient: &str) {
    std::fs::write(folder.join("sick"), patient).expect("a file can be written");
}

/// A task for one worker alone, that is tried once.
async fn task_for(server: &Server, who: &str) -> Value {
    let body = json!({ "capability": "python.execute", "labels": { "who": who }, "max_attempts": 1 });
    server.submit_as(body).await
}

/// Gives a worker five tasks, one after another, which all fail: then it is ejected.
async fn fails_five(server: &Server, who: &str) {
    for _ in 0..5 {
        let task = task_for(server, who).await;
        let ended = server.task_is(&task, "failed").await;
        assert_eq!(ended["error"]["code"], "sick", "{ended}");
    }
    server.metric_reaches("rollcall_worker_ejections_total", &["outcome=\"ejected\""], 1.0).await;
}

#[tokio::test]
async fn a_worker_that_fails_every_task_is_ejected_within_six_and_comes_back_after_it_recovered() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let addresses = [free_port(), free_port()];
    let entry = |name: &str, at: usize| {
        format!("  - {{ name: {name}, endpoint: \"ws://{}\", labels: {{ who: {name} }} }}\n", addresses[at])
    };
    let server =
        Server::start(&format!("{IMPATIENT}{HEALTH}workers:\n{}{}", entry("ann", 0), entry("bob", 1)));
    let _workers = [("ann", 0), ("bob", 1)]
        .map(|(name, at)| WorkerProcess::with_canary(name, addresses[at], folder.path()));
    server.worker_is("ann", "ready").await;
    server.worker_is("bob", "ready").await;
    assert_eq!(runs(folder.path()).len(), 2, "each has passed its canary, and that was no task");
    assert_eq!(server.metric("rollcall_worker_canaries_total", &["outcome=\"passed\""]).await, Some(2.0));

    falls_sick(folder.path(), "ann");
    fails_five(&server, "ann").await;
    let ejected = server.worker_is("ann", "ejected").await;
    assert!(ejected["reason"].is_string() && ejected["health"]["ejections"] != 0, "{ejected}");
    let waits = task_for(&server, "ann").await;
    let why = server.get(&format!("/v1/tasks/{}/explain", waits["id"].as_str().expect("an id"))).await;
    assert!(why["summary"].as_str().is_some_and(|why| why.contains("ann: ejected")), "{why}");
    // Whatever its canaries tell, others do the work.
    for _ in 0..10 {
        assert_eq!(server.run("python.execute", json!({})).await["attempts"][0]["worker"], "bob");
    }
    server.metric_reaches("rollcall_worker_canaries_total", &["outcome=\"failed\""], 1.0).await;

    std::fs::remove_file(folder.path().join("sick")).expect("it is there");
    server.task_is(&waits, "succeeded").await;
    server.worker_is("ann", "ready").await;
}

#[tokio::test]
async fn a_launched_worker_that_stays_sick_is_restarted_and_works() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let addresses = [free_port(), free_port()];
    let launch = launch_block(addresses[0], folder.path());
    let server = Server::start(&format!(
        "{IMPATIENT}{HEALTH}workers:\n  - {{ name: ann, endpoint: \"ws://{}\", labels: {{ who: ann }}, {launch} }}\n  \
         - {{ name: bob, endpoint: \"ws://{}\" }}\n",
        addresses[0], addresses[1]
    ));
    let _bob = WorkerProcess::with_canary("bob", addresses[1], folder.path());
    let before = server.worker_is("ann", "ready").await;
    server.worker_is("bob", "ready").await;
    let sick = before["program"]["pid"].as_u64().expect("it runs");
    let first = task_for(&server, "ann").await;
    let pid = server.task_is(&first, "succeeded").await["output"]["pid"].as_u64().expect("a pid");
    falls_sick(folder.path(), &pid.to_string());
    fails_five(&server, "ann").await;

    let after = eventually("another process", async || {
        let ann = server.get("/v1/workers/ann").await;
        let anew = ann["state"] == "ready" && ann["instance"] != before["instance"];
        if anew { Ok(ann) } else { Err(ann.to_string()) }
    })
    .await;
    assert_ne!(after["program"]["pid"].as_u64(), Some(sick));
    let task = task_for(&server, "ann").await;
    let ended = server.task_is(&task, "succeeded").await;
    assert_ne!(ended["output"]["pid"].as_u64(), Some(pid), "{ended}");
}
