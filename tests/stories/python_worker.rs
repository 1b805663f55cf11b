//! docs/python-worker.md is true: its programs are taken from the page, and do before a real server
//! what the page says of them.

use std::path::Path;

use hyper::Method;
use rollcall::client::Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::asking::{data, next};
use crate::support::process::free_port;
use crate::support::{Server, eventually, python};

/// The page's programs in a folder, each under the name in its first line.
fn programs() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let blocks = python::blocks("python-worker.md", "python");
    assert_eq!(blocks.len(), 5, "each program of the page has its story");
    for code in blocks {
        let name = code.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a name");
        std::fs::write(folder.path().join(name), &code).expect("a file can be written");
    }
    folder
}

/// The page's configuration with this Python, these programs and a free port; and that port.
fn config(folder: &Path) -> (String, String) {
    let port = free_port().to_string();
    let block = python::blocks("python-worker.md", "yaml").remove(0);
    let place = |name: &str| format!("\"{}\"", folder.join(name).display());
    let config = block
        .replace("127.0.0.1:3006", &port)
        .replace("[python3,", &format!("[\"{}\",", python::interpreter().display()))
        .replace("invoices.py", &place("invoices.py"))
        // What `pip install` would do.
        .replace(" }\n", &format!(", env: {{ PYTHONPATH: \"{}\" }} }}\n", python::sdk().display()));
    // Of the three entries only the last one is launched.
    let launched = config.split("  - ").last().expect("an entry");
    (format!("workers:\n  - {launched}"), port)
}

/// A server that has launched the invoices, and where they listen.
async fn launched(folder: &TempDir) -> (Server, String) {
    let (config, address) = config(folder.path());
    let server = Server::start(&config);
    server.worker_is("invoices-3", "ready").await;
    (server, address)
}

#[tokio::test]
async fn the_worker_on_the_page_parses_says_and_sends_what_it_should() {
    let folder = programs();
    let (server, _) = launched(&folder).await;
    let task = server.submit("invoice.parse", json!({"text": "tea 3\ncake 4"})).await;
    let events = server.story_of(&task).await;
    let said: String = events
        .iter()
        .filter(|event| event.event == "output")
        .map(|event| data(event)["data"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(said, "tea: 3\ncake: 4\n");
    let told = events.iter().filter(|event| event.event == "progress").map(data).next_back();
    assert_eq!(told.map(|it| it["message"].clone()), Some(json!("line 2")));

    let task = server.task(&task).await;
    assert_eq!((&task["state"], &task["output"]["total"]), (&json!("succeeded"), &json!(7)), "{task}");
    let file = &task["artifacts"][0];
    assert_eq!((&file["name"], &file["media_type"]), (&json!("invoice.csv"), &json!("text/csv")));
    let path = format!("/v1/tasks/{}/artifacts/invoice.csv", task["id"].as_str().expect("an id"));
    let answer = server.send(Request::new(Method::GET, path)).await;
    assert_eq!(&answer.body[..], b"tea 3\ncake 4");
}

#[tokio::test]
async fn what_the_caller_did_wrong_is_the_callers_fault() {
    let folder = programs();
    let (server, _) = launched(&folder).await;
    let task = server.run("invoice.parse", json!({"text": "tea 3\ncake"})).await;
    let error = &task["error"];
    assert_eq!(
        (&error["code"], &error["fault"], &error["details"]["line"]),
        (&json!("bad_line"), &json!("caller"), &json!(2)),
        "{task}"
    );
    // What its schema does not allow never reaches it.
    let body = json!({"capability": "invoice.parse", "input": {"words": 1}}).to_string();
    let (status, problem) = server.post("/v1/tasks?wait=20s", body).await;
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_input")), "{problem}");
}

#[tokio::test]
async fn a_plain_function_stops_when_its_task_is_cancelled() {
    let folder = programs();
    let (server, _) = launched(&folder).await;
    let task = server.submit("invoice.wait", Value::Null).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    let mut events = server.client().events(&format!("{path}/events"), None).await.expect("a stream");
    while next(&mut events).await.expect("output comes").event != "output" {}
    let (status, answer) = server.post(&format!("{path}/cancel"), "").await;
    assert!(matches!(status, 200 | 202), "{status} {answer}");
    let task = server.task_is(&task, "cancelled").await;
    assert_eq!(task["error"]["details"]["stopped"], "graceful", "{task}");
}

#[tokio::test]
async fn a_launched_worker_demands_its_token_and_ends_with_the_server() {
    let folder = programs();
    let (server, address) = launched(&folder).await;
    assert_eq!(python_says(&address).await, Some(401));
    drop(server);
    eventually("the worker is gone", async || match python_says(&address).await {
        None => Ok(()),
        Some(status) => Err(format!("it answered {status}")),
    })
    .await;
}

/// The status with which a worker answers a server without a token; `None` when nobody listens.
async fn python_says(address: &str) -> Option<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: rollcall.v1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn the_worker_that_was_brought_over_runs_the_old_functions() {
    let folder = programs();
    let server = Server::start("workers:\n  - { name: tools, interface: websocket }\n");
    let url = server.base_url().replace("http://", "ws://");
    let file = folder.path().join("worker.py");
    let _program = python::Program::start(&file, &["--connect", &url, "--name", "tools"]);
    server.worker_is("tools", "ready").await;
    let (shouted, counted) = tokio::join!(
        server.run("text.shout", json!({"text": "hello"})),
        server.run("text.count", json!({"text": "one two"})),
    );
    assert_eq!(shouted["output"], "HELLO", "{shouted}");
    assert_eq!(counted["output"], json!({"words": 2}), "{counted}");
    let task = server.run("text.shout", json!({})).await;
    assert_eq!(
        (&task["error"]["code"], &task["error"]["message"]),
        (&json!("exception"), &json!("KeyError: 'text'")),
        "{task}"
    );
}

#[tokio::test]
async fn the_notes_of_a_session_are_there_until_it_ends() {
    let folder = programs();
    let address = free_port().to_string();
    let file = folder.path().join("notes.py");
    let _program = python::Program::start(&file, &["--listen", &address]);
    let server = Server::start(&format!("workers:\n  - {{ name: notes, endpoint: \"ws://{address}\" }}\n"));
    server.worker_is("notes", "ready").await;
    let add = async |text: &str| {
        let task = json!({"capability": "notes.add", "input": {"text": text}, "session": "me"});
        server.post("/v1/tasks?wait=20s", task.to_string()).await.1["output"].clone()
    };
    assert_eq!(add("one").await, json!(["one"]));
    assert_eq!(add("two").await, json!(["one", "two"]));
    server.send(Request::new(Method::DELETE, "/v1/sessions/me")).await;
    assert_eq!(add("anew").await, json!(["anew"]));
}

#[test]
fn the_old_server_on_the_page_is_a_program() {
    let folder = programs();
    let code = "import old_server; assert set(old_server.TOOLS) == {'shout', 'count'}";
    let ran = std::process::Command::new(python::interpreter())
        .args(["-c", code])
        .current_dir(folder.path())
        .status();
    assert!(ran.expect("Python starts").success());
}
