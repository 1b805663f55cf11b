//! A worker process that is killed in the middle of a task.

use serde_json::{Value, json};

use super::fleet;
use crate::support::asking::{outcomes, path, rest, states};
use crate::support::process::{WorkerProcess, free_port, runs};
use crate::support::{Server, eventually};

/// Kills a worker while it runs a task, starts it again at the same address, and lets tasks finish.
async fn killed_while_running(capability: &str) -> (Value, Vec<String>, Vec<(String, u64, u32)>) {
    let (folder, address) = (tempfile::tempdir().expect("a folder can be made"), free_port());
    let server = Server::start(&fleet(&[("ann", Some(format!("ws://{address}")))]));
    let ann = WorkerProcess::listen("ann", address, folder.path());
    let before = server.worker_is("ann", "ready").await;
    let task = server.submit(capability, json!({ "until": "go" })).await;
    let events = format!("{}/events", path(&task));
    let mut events = server.client().events(&events, None).await.expect("a stream");
    server.task_is(&task, "running").await;
    ran_once(&folder, &task).await;
    ann.kill();

    let _again = WorkerProcess::listen("ann", address, folder.path());
    eventually("ann is back as another process", async || {
        let ann = server.get("/v1/workers/ann").await;
        let back = ann["state"] == "ready" && ann["instance"] != before["instance"];
        if back { Ok(()) } else { Err(ann.to_string()) }
    })
    .await;
    std::fs::write(folder.path().join("go"), "").expect("a file can be written");
    let told = states(&rest(&mut events).await);
    // A worker that is ready again is one that works.
    let next = server.run(capability, json!({})).await;
    assert_eq!(next["state"], "succeeded", "{next}");
    let ran = runs(folder.path()).into_iter().filter(|(id, ..)| task["id"] == id.as_str()).collect();
    (server.task(&task).await, told, ran)
}

async fn ran_once(folder: &tempfile::TempDir, task: &Value) {
    eventually("the task runs", async || {
        let ran = runs(folder.path());
        if ran.iter().any(|(id, ..)| task["id"] == id.as_str()) { Ok(()) } else { Err(format!("{ran:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_may_be_repeated_is_run_again_and_ends_once() {
    let (task, told, ran) = killed_while_running("again").await;
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(outcomes(&task), ["worker_lost", "succeeded"], "{task}");
    let [(_, first, dead), (_, second, alive)] = &ran[..] else { panic!("it ran {ran:?}") };
    assert!(first < second && dead != alive, "the second attempt has a greater number: {ran:?}");
    assert_eq!((&task["output"]["pid"], &task["output"]["epoch"]), (&json!(alive), &json!(second)));
    assert_ne!(task["attempts"][0]["instance"], task["attempts"][1]["instance"]);
    let ends = told.iter().filter(|state| ["succeeded", "failed", "lost"].contains(&state.as_str()));
    assert_eq!(ends.count(), 1, "{told:?}");
}

#[tokio::test]
async fn what_must_not_be_repeated_is_lost_and_says_so() {
    let (task, told, ran) = killed_while_running("once").await;
    assert_eq!(task["state"], "lost", "{task}");
    assert_eq!(outcomes(&task), ["worker_lost"], "{task}");
    let error = &task["error"];
    assert_eq!((&error["code"], &error["fault"]), (&json!("worker_lost"), &json!("worker")), "{task}");
    assert_eq!(error["side_effects"], "possible", "{task}");
    assert_eq!(ran.len(), 1, "{ran:?}");
    assert_eq!(told.last().map(String::as_str), Some("lost"), "{told:?}");
}

#[tokio::test]
async fn a_task_that_kills_its_workers_is_not_tried_for_ever() {
    let (folder, address) = (tempfile::tempdir().expect("a folder can be made"), free_port());
    let server = Server::start(&fleet(&[("ann", Some(format!("ws://{address}")))]));
    let task = server.submit("again", json!({ "until": "never" })).await;
    for deaths in 1..=2 {
        let ann = WorkerProcess::listen("ann", address, folder.path());
        eventually("the task runs here", async || {
            let ran = runs(folder.path());
            if ran.len() == deaths { Ok(()) } else { Err(format!("{ran:?}")) }
        })
        .await;
        server.task_is(&task, "running").await;
        ann.kill();
    }
    let _harmless = WorkerProcess::listen("ann", address, folder.path());
    let lost = server.task_is(&task, "lost").await;
    assert_eq!((&lost["error"]["code"], &lost["dead_letter"]), (&json!("poison"), &json!(true)), "{lost}");
    assert_eq!(runs(folder.path()).len(), 2);
    let listed = server.get("/v1/tasks?dead_letter=true").await;
    assert_eq!(listed["items"][0]["id"], task["id"], "{listed}");
}
