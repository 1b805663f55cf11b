//! Workers that dial in: only those that are configured, and one process for each name.

use serde_json::json;

use super::fleet;
use crate::support::asking::outcomes;
use crate::support::counting::{CountingWorker, Runs};
use crate::support::process::{WorkerProcess, runs};
use crate::support::scripted::{Scripted, introduction};
use crate::support::{Server, eventually};

#[tokio::test]
async fn a_stranger_is_refused_and_added_nowhere() {
    let server = Server::start(&fleet(&[("ann", None)]));
    let mut stranger = Scripted::dial(&server).await;
    stranger.say(introduction("stranger", "s", json!([]))).await;
    let error = stranger.hear("error").await;
    assert_eq!(error["code"], "unknown_worker", "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("stranger")), "{error}");
    stranger.close_code().await;
    let workers = server.get("/v1/workers").await;
    let names: Vec<_> = workers["items"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["ann"]);
}

#[tokio::test]
async fn a_configured_worker_that_dials_in_runs_tasks() {
    let runs = Runs::new();
    let server = Server::start(&fleet(&[("ann", None)]));
    let waiting = server.submit("count.once", json!({ "n": 1 })).await;
    let ann = CountingWorker::dial_in("ann", &runs, &server);
    let ended = server.task_is(&waiting, "succeeded").await;
    assert_eq!((&ended["output"], outcomes(&ended)), (&json!({ "n": 1 }), vec!["succeeded"]));
    drop(ann);
    server.worker_is("ann", "disconnected").await;
    let _ann = CountingWorker::dial_in("ann", &runs, &server);
    assert_eq!(server.run("count.again", json!(2)).await["state"], "succeeded");
}

#[tokio::test]
async fn of_two_processes_under_one_name_the_second_is_refused() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    // The default times: a busy machine must not look like a silent first one.
    let server = Server::start("workers: [{ name: ann, slots: 4 }]");
    let first = WorkerProcess::dial_in("ann", server.base_url(), folder.path());
    let before = server.worker_is("ann", "ready").await;
    let held = server.submit("once", json!({ "until": "go" })).await;
    server.task_is(&held, "running").await;

    // It comes again and again; each time it is refused.
    let _second = WorkerProcess::dial_in("ann", server.base_url(), folder.path());
    let refused = ["outcome=\"duplicate\""];
    server.metric_reaches("rollcall_worker_connects_total", &refused, 3.0).await;
    let mut third = Scripted::dial(&server).await;
    third.say(introduction("ann", "another", json!([]))).await;
    assert_eq!(third.hear("error").await["code"], "duplicate");

    let mut tasks = Vec::new();
    for _ in 0..20 {
        tasks.push(server.run("once", json!({})).await);
    }
    std::fs::write(folder.path().join("go"), "").expect("a file can be written");
    tasks.push(server.task_is(&held, "succeeded").await);
    for task in &tasks {
        assert_eq!((&task["state"], outcomes(task)), (&json!("succeeded"), vec!["succeeded"]), "{task}");
        assert_eq!(task["output"]["pid"], first.pid(), "the first has them all: {task}");
    }
    assert_eq!(runs(folder.path()).len(), tasks.len(), "no task ran twice");
    let after = server.get("/v1/workers/ann").await;
    assert_eq!((&after["instance"], &after["state"]), (&before["instance"], &json!("ready")));

    // The name is free once its holder is gone.
    first.kill();
    let again = server.run("again", json!({})).await;
    assert_eq!(again["state"], "succeeded", "{again}");
    eventually("ann is the other process", async || {
        let ann = server.get("/v1/workers/ann").await;
        if ann["instance"] != before["instance"] { Ok(()) } else { Err(ann.to_string()) }
    })
    .await;
}
