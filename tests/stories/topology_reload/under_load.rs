//! Edits while tasks come in without a pause, or while a task runs that will not end soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::Method;
use rollcall::client::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{entry, file, generation, generation_after, link, rename_over};
use crate::support::asking::outcomes;
use crate::support::counting::{CountingWorker, Runs};
use crate::support::{Server, eventually};

/// Callers who submit one task after the other, each waiting for its end.
struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<Vec<Value>>,
}

impl Load {
    /// Tasks that must not be repeated: a lost one would end `lost`, not hidden by a second run.
    fn start(server: &Server, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for caller in 0..callers {
            let (client, stop) = (server.client().clone(), Arc::clone(&stop));
            set.spawn(async move {
                let mut ended = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let input = json!({ "caller": caller, "n": ended.len(), "millis": 3 });
                    let body = json!({ "capability": "count.once", "input": input });
                    let task: Value = client.post("/v1/tasks?wait=20s", &body).await.expect("it is accepted");
                    assert_eq!(task["output"], input, "{task}");
                    ended.push(task);
                }
                ended
            });
        }
        Self { stop, callers: set }
    }

    /// Lets every caller finish; returns all their tasks.
    async fn stop(self) -> Vec<Value> {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.concat()
    }
}

#[tokio::test]
async fn workers_come_change_move_and_go_and_no_task_is_lost_or_run_twice() {
    let runs = Runs::new();
    let worker = async |name| CountingWorker::listen(name, &runs).await;
    let (steady, wide, new) = (worker("steady").await, worker("wide").await, worker("new").await);
    let (here, there, leaver) = (worker("mover").await, worker("mover").await, worker("leaver").await);
    let stays = entry("steady", &steady, 2);
    let server = Server::start(&file(&[
        stays.clone(),
        entry("wide", &wide, 1),
        entry("mover", &here, 2),
        entry("leaver", &leaver, 2),
    ]));
    for name in ["steady", "wide", "mover", "leaver"] {
        server.worker_is(name, "ready").await;
    }
    let (steady_link, wide_link) = (link(&server, "steady").await, link(&server, "wide").await);
    let mover_link = link(&server, "mover").await;
    let load = Load::start(&server, 8);
    let edits = [
        // Added.
        [
            entry("wide", &wide, 1),
            entry("mover", &here, 2),
            entry("leaver", &leaver, 2),
            entry("new", &new, 2),
        ],
        // Changed in place.
        [
            entry("wide", &wide, 6),
            entry("mover", &here, 2),
            entry("leaver", &leaver, 2),
            entry("new", &new, 2),
        ],
        // Moved.
        [
            entry("wide", &wide, 6),
            entry("mover", &there, 2),
            entry("leaver", &leaver, 2),
            entry("new", &new, 2),
        ],
        // Removed.
        [entry("wide", &wide, 6), entry("mover", &there, 2), String::new(), entry("new", &new, 2)],
    ];
    for edit in edits {
        let (before, ran) = (generation(&server).await, runs.all().len());
        rename_over(&server, &file(&[&[stays.clone()][..], &edit].concat()));
        generation_after(&server, before).await;
        // The next edit comes when this one has met tasks.
        eventually("more tasks have run", async || {
            let now = runs.all().len();
            if now > ran + 40 { Ok(()) } else { Err(format!("{now} after {ran}")) }
        })
        .await;
    }
    for name in ["steady", "wide", "mover", "new"] {
        server.worker_is(name, "ready").await;
    }
    let tasks = load.stop().await;

    for task in &tasks {
        assert_eq!((&task["state"], outcomes(task)), (&json!("succeeded"), vec!["succeeded"]), "{task}");
    }
    let counts = runs.counts();
    assert_eq!(counts.len(), tasks.len(), "every task ran");
    assert_eq!(counts.values().max(), Some(&1), "none ran twice");
    assert_eq!(link(&server, "steady").await, steady_link, "nothing about it has changed");
    assert_eq!(link(&server, "wide").await, wide_link, "slots change in place");
    assert_ne!(link(&server, "mover").await.0, mover_link.0, "another process, at another address");
    for name in ["steady", "wide", "mover", "new", "leaver"] {
        assert!(runs.all().iter().any(|run| run.worker == name), "{name} had a part in it");
    }
    is_gone(&server, "leaver").await;
}

/// Waits until a worker that has left is shown no more.
async fn is_gone(server: &Server, name: &str) {
    eventually(&format!("{name} is gone"), async || {
        let answer = server.send(Request::new(Method::GET, format!("/v1/workers/{name}"))).await;
        if answer.status == 404 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_removed_worker_finishes_what_it_runs() {
    let runs = Runs::new();
    let (ann, bob) = (CountingWorker::listen("ann", &runs).await, CountingWorker::listen("bob", &runs).await);
    let server = Server::start(&file(&[entry("ann", &ann, 1)]));
    let task = server.submit("count.once", json!({ "hold": true })).await;
    server.task_is(&task, "running").await;
    rename_over(&server, &file(&[entry("bob", &bob, 1)]));
    server.worker_is("bob", "ready").await;
    let next = server.run("count.once", json!(1)).await;
    assert_eq!(next["attempts"][0]["worker"], "bob", "nothing new for ann: {next}");
    assert_eq!(server.task(&task).await["state"], "running");
    runs.open_the_gate();
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), &ended["attempts"][0]["worker"]), (vec!["succeeded"], &json!("ann")));
    assert_eq!(runs.of(&task).len(), 1);
    let planned = ["reason=\"removed_from_config\""];
    server.metric_reaches("rollcall_worker_disconnects_total", &planned, 1.0).await;
    is_gone(&server, "ann").await;
}

#[tokio::test]
async fn slots_are_changed_in_place_up_and_down() {
    let runs = Runs::new();
    let ann = CountingWorker::listen("ann", &runs).await;
    let server = Server::start(&file(&[entry("ann", &ann, 1)]));
    server.worker_is("ann", "ready").await;
    let before = link(&server, "ann").await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(server.submit("count.once", json!({ "hold": true })).await);
    }
    let running = async |wanted: u64| {
        eventually(&format!("{wanted} of them run"), async || {
            let ann = server.get("/v1/workers/ann").await;
            let used = ann["slots"]["used"].as_u64();
            if used == Some(wanted) { Ok(()) } else { Err(ann.to_string()) }
        })
        .await;
    };
    running(1).await;
    rename_over(&server, &file(&[entry("ann", &ann, 3)]));
    running(3).await;
    let narrow = generation(&server).await;
    rename_over(&server, &file(&[entry("ann", &ann, 1)]));
    generation_after(&server, narrow).await;
    // Fewer slots stop nothing that runs.
    eventually("three run on one slot", async || {
        let slots = server.get("/v1/workers/ann").await["slots"].clone();
        let as_they_are = json!({ "total": 1, "used": 3, "unavailable": 0 });
        if slots == as_they_are { Ok(()) } else { Err(slots.to_string()) }
    })
    .await;
    assert_eq!(link(&server, "ann").await, before);
    runs.open_the_gate();
    for task in &tasks {
        assert_eq!(outcomes(&server.task_is(task, "succeeded").await), ["succeeded"]);
        assert_eq!(runs.of(task).len(), 1);
    }
    assert_eq!(link(&server, "ann").await, before);
}

#[tokio::test]
async fn a_renamed_worker_keeps_its_connection_and_its_task() {
    let runs = Runs::new();
    let ann = CountingWorker::listen("ann", &runs).await;
    let server = Server::start(&file(&[entry("old", &ann, 2)]));
    server.worker_is("old", "ready").await;
    let before = link(&server, "old").await;
    let task = server.submit("count.once", json!({ "hold": true })).await;
    server.task_is(&task, "running").await;
    let renamed = entry("new", &ann, 2).replace("name: new", "name: new, formerly: old");
    rename_over(&server, &file(&[renamed]));
    server.worker_is("new", "ready").await;
    assert_eq!(link(&server, "new").await, before);
    is_gone(&server, "old").await;
    let also = server.run("count.once", json!(1)).await;
    assert_eq!(also["attempts"][0]["worker"], "new", "{also}");
    runs.open_the_gate();
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), runs.of(&task).len()), (vec!["succeeded"], 1));
}

#[tokio::test]
async fn a_worker_that_is_taken_out_and_put_back_while_it_drains_is_as_before() {
    let runs = Runs::new();
    let (ann, bob) = (CountingWorker::listen("ann", &runs).await, CountingWorker::listen("bob", &runs).await);
    let both = file(&[entry("ann", &ann, 1), entry("bob", &bob, 1)]);
    let server = Server::start(&both);
    server.worker_is("bob", "ready").await;
    server.worker_is("ann", "ready").await;
    let before = link(&server, "ann").await;
    let mut tasks = Vec::new();
    for _ in 0..2 {
        tasks.push(server.submit("count.once", json!({ "hold": true })).await);
    }
    for task in &tasks {
        server.task_is(task, "running").await;
    }
    for text in [file(&[entry("bob", &bob, 1)]), both] {
        let generation = generation(&server).await;
        rename_over(&server, &text);
        generation_after(&server, generation).await;
    }
    server.worker_is("ann", "ready").await;
    assert_eq!(link(&server, "ann").await, before);
    runs.open_the_gate();
    for task in &tasks {
        assert_eq!(outcomes(&server.task_is(task, "succeeded").await), ["succeeded"]);
        assert_eq!(runs.of(task).len(), 1);
    }
}
