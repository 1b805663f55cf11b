//! What a key has named once it goes on naming, whatever the fleet would say to a new task by now.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use nix::sys::signal::Signal;
use rollcall::client::{Answer, Client, Request};
use serde_json::{Value, json};

use crate::support::scripted::{Scripted, about, introduction};
use crate::support::{Server, eventually, program};

/// A worker that dials in, and one that echoes; files go as soon as nobody needs them.
const FLEET: &str = "
retention: { artifacts: 1s }
workers:
  - { name: ann, interface: websocket }
  - { name: echo, interface: mock, capabilities: [mock.echo] }
";

async fn send(client: &Client, path: &str, key: Option<&str>, body: &Value) -> (Answer, Value) {
    let mut request = Request::new(Method::POST, path).body(body.to_string());
    if let Some(key) = key {
        let key = HeaderValue::from_str(key).expect("a header");
        request = request.header(HeaderName::from_static("idempotency-key"), key);
    }
    let answer = client.send(request).await.expect("an answer");
    let told = serde_json::from_slice(&answer.body).expect("JSON");
    (answer, told)
}

/// The same request once more is answered with the task of the first, and nothing else is.
async fn repeats(client: &Client, key: &str, body: &Value, first: &Value, code: &str) {
    for path in ["/v1/tasks", "/v1/tasks?wait=20s"] {
        let (answer, again) = send(client, path, Some(key), body).await;
        assert_eq!((answer.status.as_u16(), &again["id"]), (200, &first["id"]), "{again}");
        assert_eq!(answer.headers["idempotent-replayed"], "true");
        assert_eq!(again["state"], "succeeded");
    }
    let (answer, problem) = send(client, "/v1/tasks", None, body).await;
    assert_eq!((answer.status.as_u16(), &problem["code"]), (422, &json!(code)), "a new one is refused");
    let (answer, problem) = send(client, "/v1/tasks", Some("another"), body).await;
    assert_eq!((answer.status.as_u16(), &problem["code"]), (422, &json!(code)), "under a new key, too");
    let mut other = body.clone();
    other["priority"] = json!(2);
    let (_, problem) = send(client, "/v1/tasks", Some(key), &other).await;
    assert_eq!(problem["code"], "idempotency_key_reused", "{problem}");
}

async fn sums(server: &Server, instance: &str, takes: &str) -> Scripted {
    let mut worker = Scripted::dial(server).await;
    let mut frame = introduction("ann", instance, json!([]));
    frame["capabilities"] = json!([{ "name": "sum", "input_schema": { "required": [takes] } }]);
    worker.say(frame).await;
    worker.hear("registered").await;
    server.worker_is("ann", "ready").await;
    worker
}

#[tokio::test]
async fn a_key_names_its_task_although_the_workers_take_other_inputs_by_now() {
    let server = Server::start(FLEET);
    let mut ann = sums(&server, "1", "of").await;
    let body = json!({ "capability": "sum", "input": { "of": [1, 2] } });
    let (answer, first) = send(server.client(), "/v1/tasks", Some("sum-1"), &body).await;
    assert_eq!(answer.status, 202, "{first}");
    let execute = ann.hear("execute").await;
    ann.say(about(&execute, json!({ "type": "result", "status": "succeeded", "output": 3 }))).await;
    ann.hear("result_ack").await;
    drop(ann);
    server.worker_is("ann", "disconnected").await;
    let _ann = sums(&server, "2", "numbers").await;
    repeats(server.client(), "sum-1", &body, &first, "invalid_input").await;
    // In a batch its body is another one.
    let mut task = body.clone();
    task["idempotency_key"] = json!("sum-1");
    let (_, told) = send(server.client(), "/v1/tasks/batch", None, &json!({ "tasks": [task] })).await;
    assert_eq!(told["items"][0]["problem"]["code"], "idempotency_key_reused", "{told}");
}

#[tokio::test]
async fn a_key_names_its_task_although_the_file_that_it_needed_has_expired() {
    let server = Server::start(FLEET);
    let (status, file) = server.post("/v1/artifacts", "some bytes").await;
    assert_eq!(status, 201, "{file}");
    let reference = json!({ "$artifact": file["$artifact"] });
    let body = json!({ "capability": "mock.echo", "input": reference });
    let (answer, first) = send(server.client(), "/v1/tasks?wait=20s", Some("file-1"), &body).await;
    assert_eq!(answer.status, 200, "{first}");
    server.manager().artifacts().sweep_as_of(SystemTime::now() + Duration::from_secs(700));
    let path = format!("/v1/artifacts/{}", file["sha256"].as_str().expect("a hash"));
    eventually("the file is gone", async || {
        let answer = server.send(Request::new(Method::GET, &path)).await;
        if answer.status == 200 { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await;
    repeats(server.client(), "file-1", &body, &first, "unknown_artifact").await;
}

#[tokio::test]
async fn a_key_names_its_task_after_a_restart_without_its_capability() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let echoes = "workers:\n  - { name: ann, interface: mock, capabilities: [echo] }\n";
    let mut server = program::Server::start_in(&folder, echoes, &[]);
    let client = Client::new(server.base()).expect("an address");
    let body = json!({ "capability": "echo", "input": 1 });
    let (answer, first) = send(&client, "/v1/tasks?wait=20s", Some("echo-1"), &body).await;
    assert_eq!(answer.status, 200, "{first}");
    server.signal(Signal::SIGKILL);
    server.ended();
    let server = program::Server::start_in(&folder, &echoes.replace("[echo]", "[sing]"), &[]);
    let client = Client::new(server.base()).expect("an address");
    repeats(&client, "echo-1", &body, &first, "unknown_capability").await;
}
