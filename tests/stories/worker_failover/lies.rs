//! Workers that break the protocol, or claim what is not theirs. Their connection ends, or their word
//! is refused; the tasks and workers beside them do not notice.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::asking::outcomes;
use crate::support::counting::{CountingWorker, Runs};
use crate::support::scripted::{Scripted, about, introduction};

/// A server with an honest worker that runs a task, and an entry for one that is not honest.
struct Stage {
    server: Server,
    runs: Runs,
    task: Value,
    honest: Value,
    _ann: CountingWorker,
}

impl Stage {
    async fn set() -> Self {
        let runs = Runs::new();
        let ann = CountingWorker::listen("ann", &runs).await;
        // The default times: these stories are about what is said, not when.
        let server = Server::start(&format!(
            "workers:\n  - {{ name: ann, endpoint: \"{}\" }}\n  - {{ name: mallory, slots: 2 }}\n",
            ann.endpoint()
        ));
        let honest = server.worker_is("ann", "ready").await;
        let task = server.submit("count.once", json!({ "hold": true })).await;
        server.task_is(&task, "running").await;
        Self { server, runs, task, honest, _ann: ann }
    }

    /// The honest worker has noticed nothing, and its task ends well.
    async fn ends_well(self) {
        self.runs.open_the_gate();
        let ended = self.server.task_is(&self.task, "succeeded").await;
        assert_eq!(outcomes(&ended), ["succeeded"]);
        assert_eq!(self.runs.of(&self.task).len(), 1);
        let ann = self.server.get("/v1/workers/ann").await;
        for same in ["instance", "connection"] {
            assert_eq!(ann[same], self.honest[same], "{same}");
        }
        assert_eq!(self.server.run("count.again", json!(1)).await["state"], "succeeded");
    }

    async fn counted(&self, kind: &str) {
        let kind = format!("kind=\"{kind}\"");
        self.server.metric_reaches("rollcall_ws_protocol_errors_total", &[&kind], 1.0).await;
    }
}

#[tokio::test]
async fn garbage_ends_the_connection_and_the_task_goes_on_with_the_next() {
    let stage = Stage::set().await;
    let (mut mallory, _) = Scripted::register(&stage.server, "mallory", "m", json!([])).await;
    let task = stage.server.submit("once", json!(1)).await;
    let execute = mallory.hear("execute").await;
    mallory.say(about(&execute, json!({ "type": "accepted" }))).await;
    stage.server.task_is(&task, "running").await;
    mallory.text("{\"type\": \"result\", \u{1F4A5}".to_owned()).await;
    assert_eq!(mallory.close_code().await, 1007);
    stage.counted("bad_json").await;

    let held = json!([about(&execute, json!({ "phase": "running" }))]);
    let (mut mallory, answer) = Scripted::register(&stage.server, "mallory", "m", held).await;
    assert_eq!(answer["keep"][0]["task"], task["id"], "{answer}");
    mallory.say(about(&execute, json!({ "type": "result", "status": "succeeded", "output": 2 }))).await;
    let ended = stage.server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), &ended["output"]), (vec!["succeeded"], &json!(2)));
    stage.ends_well().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_is_not_read() {
    let stage = Stage::set().await;
    let (mut mallory, _) = Scripted::register(&stage.server, "mallory", "m", json!([])).await;
    mallory.text(format!("{{\"type\":\"heartbeat\",\"x\":\"{}\"}}", "x".repeat(2 << 20))).await;
    assert_eq!(mallory.close_code().await, 1009);
    stage.counted("too_big").await;
    stage.ends_well().await;
}

#[tokio::test]
async fn a_wrong_first_frame_is_told_and_closed() {
    let stage = Stage::set().await;
    for first in [json!({ "type": "heartbeat", "running": [] }), json!({ "type": "register", "name": 7 })] {
        let mut mallory = Scripted::dial(&stage.server).await;
        mallory.say(first).await;
        let error = mallory.hear("error").await;
        assert_eq!(error["code"], "bad_register", "{error}");
        assert_eq!(mallory.close_code().await, 1008);
    }
    let mallory = stage.server.get("/v1/workers/mallory").await;
    assert_eq!((&mallory["state"], &mallory["instance"]), (&json!("disconnected"), &Value::Null));
    stage.ends_well().await;
}

#[tokio::test]
async fn a_result_for_what_it_never_had_is_refused() {
    let stage = Stage::set().await;
    let (mut mallory, _) = Scripted::register(&stage.server, "mallory", "m", json!([])).await;
    let epoch = stage.server.task(&stage.task).await["attempts"][0]["epoch"].clone();
    let nobodys = json!({ "task": "0192f0c1-2345-7abc-8def-0123456789ab", "epoch": 7 });
    let somebodys = json!({ "task": stage.task["id"], "epoch": epoch });
    for attempt in [nobodys, somebodys] {
        let claim = json!({ "type": "result", "status": "succeeded", "output": "mine" });
        mallory.say(about(&attempt, claim)).await;
        let answer = mallory.hear("result_ack").await;
        assert_eq!((&answer["accepted"], &answer["reason"]), (&json!(false), &json!("unknown_task")));
    }
    // Nor by holding it from the start, as if it had been cut off.
    drop(mallory);
    stage.server.worker_is("mallory", "disconnected").await;
    let stolen = json!({ "task": stage.task["id"], "epoch": epoch, "phase": "done" });
    let (_mallory, answer) = Scripted::register(&stage.server, "mallory", "m2", json!([stolen])).await;
    assert_eq!((&answer["keep"], &answer["resend"]), (&json!([]), &json!([])), "{answer}");
    assert_eq!(answer["drop"][0]["task"], stage.task["id"], "{answer}");
    let task = stage.server.task(&stage.task).await;
    assert_eq!((&task["state"], &task["output"]), (&json!("running"), &Value::Null), "{task}");
    stage.ends_well().await;
}

#[tokio::test]
async fn a_worker_gets_no_more_than_the_file_grants() {
    let stage = Stage::set().await;
    let mut register = introduction("mallory", "m", json!([]));
    register["slots"] = json!(1_000_000);
    let mut mallory = Scripted::dial(&stage.server).await;
    mallory.say(register).await;
    let answer = mallory.hear("registered").await;
    assert_eq!(answer["slots"], 2, "{answer}");
    let mut tasks = Vec::new();
    for n in 0..3 {
        tasks.push(stage.server.submit("once", json!(n)).await);
    }
    for task in &tasks[..2] {
        assert_eq!(mallory.hear("execute").await["task"], task["id"]);
    }
    stage.server.task_is(&tasks[1], "assigned").await;
    let third = stage.server.task(&tasks[2]).await;
    assert_eq!((&third["state"], &third["attempts"]), (&json!("queued"), &json!([])), "{third}");
    stage.ends_well().await;
}
