//! A connection that is cut, or half-open, and given back: a broken socket is not a broken task.

use serde_json::{Value, json};

use super::fleet;
use crate::support::asking::outcomes;
use crate::support::counting::{CountingWorker, Runs};
use crate::support::proxy::Proxy;
use crate::support::{Server, eventually};

/// A worker behind a cable, and a server that dials it through that.
struct Stage {
    server: Server,
    runs: Runs,
    cable: Proxy,
    _worker: CountingWorker,
}

impl Stage {
    async fn set() -> Self {
        let runs = Runs::new();
        let worker = CountingWorker::listen("ann", &runs).await;
        let cable = Proxy::to(worker.address()).await;
        let server = Server::start(&fleet(&[("ann", Some(cable.endpoint()))]));
        server.worker_is("ann", "ready").await;
        Self { server, runs, cable, _worker: worker }
    }

    /// A task that must not be repeated, running until the gate is opened.
    async fn held_task(&self) -> Value {
        let task = self.server.submit("count.once", json!({ "hold": true })).await;
        self.server.task_is(&task, "running").await;
        eventually("it runs on the worker's side", async || {
            if self.runs.of(&task).is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
        })
        .await;
        task
    }

    async fn disconnected(&self) {
        eventually("ann is not connected", async || {
            let ann = self.server.get("/v1/workers/ann").await;
            let gone = ann["state"] == "disconnected" || ann["state"] == "connecting";
            if gone { Ok(()) } else { Err(ann.to_string()) }
        })
        .await;
    }

    async fn ended_in_one_attempt(&self, task: &Value) {
        let ended = self.server.task_is(task, "succeeded").await;
        assert_eq!(outcomes(&ended), ["succeeded"], "{ended}");
        assert_eq!(self.runs.of(task).len(), 1, "{:?}", self.runs.of(task));
    }
}

#[tokio::test]
async fn a_task_goes_on_over_a_cut_and_ends_in_the_same_attempt() {
    let stage = Stage::set().await;
    let before = stage.server.get("/v1/workers/ann").await;
    let task = stage.held_task().await;
    stage.cable.cut();
    stage.disconnected().await;
    let meanwhile = stage.server.task(&task).await;
    assert_eq!(meanwhile["state"], "running", "the worker still has it: {meanwhile}");
    stage.cable.mend();
    let after = stage.server.worker_is("ann", "ready").await;
    assert_eq!(after["instance"], before["instance"]);
    assert_ne!(after["connection"], before["connection"]);
    stage.server.metric_reaches("rollcall_task_reconciliations_total", &["decision=\"resumed\""], 1.0).await;
    stage.runs.open_the_gate();
    stage.ended_in_one_attempt(&task).await;
}

#[tokio::test]
async fn a_result_that_comes_during_a_cut_is_delivered_after_it() {
    let stage = Stage::set().await;
    let task = stage.held_task().await;
    stage.cable.cut();
    stage.disconnected().await;
    stage.runs.open_the_gate();
    // A second one waits meanwhile: nobody else could take it.
    let waiting = stage.server.submit("count.once", json!({})).await;
    stage.cable.mend();
    stage.ended_in_one_attempt(&task).await;
    stage.ended_in_one_attempt(&waiting).await;
}

#[tokio::test]
async fn many_cuts_under_load_lose_and_repeat_nothing() {
    let stage = Stage::set().await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        for n in 0..5 {
            tasks.push(stage.server.submit("count.once", json!({ "millis": 5 * n })).await);
        }
        stage.cable.cut();
        stage.disconnected().await;
        stage.cable.mend();
        stage.server.worker_is("ann", "ready").await;
    }
    for task in &tasks {
        let ended = stage.server.task_is(task, "succeeded").await;
        // A hand-over that fell into a cut never began; the next one is no second run.
        assert_eq!(stage.runs.of(task).len(), 1, "{ended}");
    }
}

#[tokio::test]
async fn a_half_open_connection_is_found_by_its_silence() {
    let stage = Stage::set().await;
    let task = stage.held_task().await;
    stage.cable.hold();
    let why = ["reason=\"heartbeat_timeout\""];
    stage.server.metric_reaches("rollcall_worker_disconnects_total", &why, 1.0).await;
    stage.server.worker_is("ann", "ready").await;
    stage.runs.open_the_gate();
    stage.ended_in_one_attempt(&task).await;
}
