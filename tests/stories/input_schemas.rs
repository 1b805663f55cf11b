//! Inputs are checked against what workers registered, before a worker sees them.

use std::process::Command;
use std::time::Duration;

use rollcall::agent::{ExecuteError, ExecutorAgent, Task};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::process::{WorkerProcess, free_port};
use crate::support::scripted::{Scripted, about, introduction};

/// Two workers that dial in.
const WORKERS: &str = "
workers:
  - { name: ann, interface: websocket }
  - { name: bob, interface: websocket }
";

/// What `sum` takes.
fn schema() -> Value {
    json!({
        "type": "object", "required": ["of"], "additionalProperties": false,
        "properties": { "of": { "type": "array", "items": { "type": "number" } } },
    })
}

/// A worker that offers `sum`, with this schema.
async fn worker(server: &Server, name: &str, schema: Value) -> Scripted {
    let mut worker = Scripted::dial(server).await;
    let mut frame = introduction(name, name, json!([]));
    frame["capabilities"] = json!([{ "name": "sum", "input_schema": schema }]);
    worker.say(frame).await;
    worker.hear("registered").await;
    server.worker_is(name, "ready").await;
    worker
}

fn sum(of: Value) -> String {
    json!({ "capability": "sum", "input": { "of": of } }).to_string()
}

#[tokio::test]
async fn a_wrong_input_is_refused_with_each_place_that_is_wrong() {
    let server = Server::start(WORKERS);
    let mut ann = worker(&server, "ann", schema()).await;
    for path in ["/v1/tasks", "/v1/tasks?wait=20s"] {
        let (status, problem) = server.post(path, sum(json!([1, "two", 3, null]))).await;
        assert_eq!(
            (status, &problem["code"], &problem["field"]),
            (422, &json!("invalid_input"), &json!("input"))
        );
        let pointers: Vec<_> =
            problem["errors"].as_array().expect("a list").iter().map(|e| &e["pointer"]).collect();
        assert_eq!(pointers, [&json!("/of/1"), &json!("/of/3")], "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("sum")), "{problem}");
    }
    let batch = json!({ "tasks": [
        { "capability": "sum", "input": { "of": [1] } }, { "capability": "sum", "input": { "off": [1] } },
    ] });
    let (_, answer) = server.post("/v1/tasks/batch", batch.to_string()).await;
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(1), &json!(1)), "{answer}");
    assert_eq!(answer["items"][1]["problem"]["code"], "invalid_input");
    let execute = ann.hear("execute").await;
    assert_eq!(execute["input"], json!({ "of": [1] }), "the only one that it gets to see");
    ann.say(about(&execute, json!({ "type": "result", "status": "succeeded", "output": 1 }))).await;
    server.task_is(&answer["items"][0]["task"], "succeeded").await;
    server.metric_reaches("rollcall_task_submissions_total", &[r#"outcome="invalid""#], 3.0).await;
}

#[tokio::test]
async fn where_workers_do_not_agree_each_judges_for_itself() {
    let server = Server::start(WORKERS);
    let _ann = worker(&server, "ann", schema()).await;
    assert_eq!(server.post("/v1/tasks", sum(json!("x"))).await.0, 422);
    let bob = worker(&server, "bob", json!({ "type": "object" })).await;
    assert_eq!(server.post("/v1/tasks", sum(json!("x"))).await.0, 202);
    drop(bob);
    server.worker_is("bob", "disconnected").await;
    assert_eq!(server.post("/v1/tasks", sum(json!("x"))).await.0, 202, "bob will be back");
    let _bob = worker(&server, "bob", schema()).await;
    assert_eq!(server.post("/v1/tasks", sum(json!("x"))).await.0, 422);
}

#[tokio::test]
async fn a_hostile_schema_holds_nothing_up() {
    let server =
        Server::start(&format!("{WORKERS}  - {{ name: echo, interface: mock, capabilities: [echo] }}\n"));
    let either = json!({ "anyOf": [
        { "properties": { "a": { "$ref": "#" } }, "required": ["x"] }, { "properties": { "a": { "$ref": "#" } } },
    ] });
    let _ann = worker(&server, "ann", either).await;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(60), "}".repeat(60));
    let (status, task) = server.post("/v1/tasks", format!(r#"{{"capability":"sum","input":{deep}}}"#)).await;
    assert_eq!(status, 202, "the worker judges it: {task}");
    assert_eq!(server.run("echo", json!(1)).await["state"], "succeeded");
}

#[tokio::test]
async fn the_command_line_lists_what_is_wrong() {
    let server = Server::start(WORKERS);
    let _ann = worker(&server, "ann", schema()).await;
    let arguments = ["run", "sum", "--input", r#"{"of":[1,"two"]}"#, "--server", server.base_url()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(arguments);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("invalid_input") && said.contains("/of/1: "), "{said}");
}

#[tokio::test]
async fn a_program_that_embeds_a_fleet_is_told_the_same() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = free_port();
    let _worker = WorkerProcess::listen("ann", address, folder.path());
    let config =
        format!("workers:\n  - {{ name: ann, interface: websocket, endpoint: \"ws://{address}\" }}\n");
    let agent = ExecutorAgent::from_yaml(config).await.expect("it starts");
    agent.ready(Duration::from_secs(20)).await.expect("the worker comes");
    let refused =
        agent.execute(Task::new("strict").input("no object")).await.expect_err("it wants an object");
    let ExecuteError::Input(invalid) = &refused else { panic!("{refused}") };
    assert_eq!(invalid.errors[0].pointer, "");
    assert!(refused.to_string().contains("strict"), "{refused}");
    agent.shutdown().await;
}
