//! Many tasks in one request: each is answered for itself, in order, and all are kept by one commit.

use std::io::Write;
use std::process::{Command, Stdio};

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use rollcall::client::Request;
use serde_json::{Value, json};

use crate::support::{MOCKS, Server, eventually};

fn items(answer: &Value) -> &Vec<Value> {
    answer["items"].as_array().expect("a list")
}

#[tokio::test]
async fn each_task_of_a_batch_has_an_answer_of_its_own_in_order() {
    let server = Server::start(MOCKS);
    let batch = json!({ "tasks": [
        { "capability": "echo", "input": 1 },
        { "capability": "ecko" },
        { "capability": "echo", "prority": 1 },
        "a task",
        { "capability": "slow", "idempotency_key": "s" },
        { "capability": "slow", "idempotency_key": "s" },
        { "capability": "slow", "idempotency_key": "s", "input": 2 },
    ] });
    let (status, answer) = server.post("/v1/tasks/batch", batch.to_string()).await;
    assert_eq!((status, &answer["accepted"], &answer["refused"]), (200, &json!(3), &json!(4)), "{answer}");
    let told: Vec<(u64, &str)> = items(&answer)
        .iter()
        .map(|item| {
            let word = item["problem"]["code"].as_str().or(item["task"]["capability"].as_str());
            (item["status"].as_u64().expect("a number"), word.expect("a word"))
        })
        .collect();
    let expected = [
        (202, "echo"),
        (422, "unknown_capability"),
        (422, "unknown_field"),
        (400, "not_json"),
        (202, "slow"),
        (200, "slow"),
        (422, "idempotency_key_reused"),
    ];
    assert_eq!(told, expected);
    assert_eq!(items(&answer)[4]["task"]["id"], items(&answer)[5]["task"]["id"]);
    assert_eq!(items(&answer)[5]["replayed"], true);
    assert!(items(&answer)[2]["problem"]["hint"].as_str().is_some_and(|hint| hint.contains("priority")));
    let done = server.task_is(&items(&answer)[0]["task"], "succeeded").await;
    assert_eq!(done["output"], 1);
}

#[tokio::test]
async fn a_thousand_tasks_are_one_batch_and_all_are_done() {
    let server = Server::start(MOCKS);
    let tasks: Vec<Value> = (0..1_000).map(|n| json!({ "capability": "echo", "input": n })).collect();
    let (status, answer) = server.post("/v1/tasks/batch", json!({ "tasks": tasks }).to_string()).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1_000)));
    let mut ids: Vec<_> = items(&answer).iter().map(|item| item["task"]["id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1_000);
    eventually("all are done", async || {
        let depth = server.manager().stats().await.expect("it runs").depth;
        if depth == 0 { Ok(()) } else { Err(format!("{depth} are not")) }
    })
    .await;
    let more = json!({ "tasks": vec![json!({ "capability": "echo" }); 1_001] });
    let (status, problem) = server.post("/v1/tasks/batch", more.to_string()).await;
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_field")));
    assert_eq!(server.manager().stats().await.expect("it runs").depth, 0, "none of them was taken");
}

#[tokio::test]
async fn a_batch_that_the_queue_has_no_room_for_is_taken_as_far_as_there_is() {
    let server = Server::start(&format!("queue: {{ max_depth: 10 }}\n{MOCKS}"));
    let tasks = vec![json!({ "capability": "slow" }); 30];
    let (status, answer) = server.post("/v1/tasks/batch", json!({ "tasks": tasks }).to_string()).await;
    assert_eq!((status, &answer["accepted"], &answer["refused"]), (200, &json!(10), &json!(20)));
    let last = &items(&answer)[29];
    assert_eq!((&last["status"], &last["problem"]["code"]), (&json!(429), &json!("queue_full")));
    assert_eq!(last["problem"]["retryable"], true);
}

#[tokio::test]
async fn a_key_for_the_whole_batch_is_refused_and_not_ignored() {
    let server = Server::start(MOCKS);
    let key = HeaderName::from_static("idempotency-key");
    let request = Request::new(Method::POST, "/v1/tasks/batch")
        .body(r#"{"tasks":[{"capability":"echo"}]}"#)
        .header(key, HeaderValue::from_static("k"));
    assert_eq!(server.send(request).await.status, 422);
}

#[tokio::test]
async fn a_batch_and_each_of_its_tasks_have_limits_of_their_own() {
    let server = Server::start(&format!("server: {{ max_body: 64KiB }}\n{MOCKS}"));
    let small = json!({ "capability": "echo", "input": "x".repeat(50_000) });
    let large = json!({ "capability": "echo", "input": "x".repeat(70_000) });
    let batch = json!({ "tasks": [small, large, small, small] });
    let (status, answer) = server.post("/v1/tasks/batch", batch.to_string()).await;
    let statuses: Vec<_> = items(&answer).iter().map(|item| item["status"].as_u64()).collect();
    assert_eq!((status, statuses), (200, vec![Some(202), Some(413), Some(202), Some(202)]));
    let batch = json!({ "tasks": vec![small; 21] });
    assert_eq!(server.post("/v1/tasks/batch", batch.to_string()).await.0, 413);
}

#[tokio::test]
async fn the_command_line_sends_lines_and_names_those_that_were_refused() {
    let server = Server::start(MOCKS);
    let mut lines: Vec<String> =
        (0..1_200).map(|n| format!(r#"{{"capability":"echo","input":{n}}}"#)).collect();
    lines[3] = "{nonsense".to_owned();
    lines[1_100] = r#"{"capability":"ecko"}"#.to_owned();
    lines.insert(7, String::new());
    let mut child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(["tasks", "batch", "-", "--server", server.base_url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rollcall can be started");
    let mut input = child.stdin.take().expect("it was asked for");
    let text = lines.join("\n");
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).expect("it reads"));
    let output =
        tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic").expect("it ends");
    writer.join().expect("no panic");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1_198);
    assert!(said.contains("line 4: it is not JSON"), "{said}");
    assert!(said.contains("line 1102: ") && said.contains("unknown_capability"), "{said}");
    assert!(said.contains("2 of 1200 tasks were refused"), "{said}");
}
