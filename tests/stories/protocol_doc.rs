//! docs/protocol.md is true: its frames are the wire's frames, and the worker that it prints
//! registers and runs tasks. The code is taken from the page, so it cannot drift from what is run.

use std::collections::BTreeSet;

use rollcall_protocol::{FromServer, FromWorker};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{PATIENCE, Server, eventually, python};

/// The page's code blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    python::blocks("protocol.md", language)
}

#[test]
fn every_frame_on_the_page_is_a_frame_and_none_is_missing() {
    let mut shown = BTreeSet::new();
    for text in blocks("json") {
        let frame: Value = serde_json::from_str(&text).expect("JSON on the page");
        let kind = frame["type"].as_str().expect("a type").to_owned();
        // `heartbeat`, `goodbye` and `error` go both ways; one of the two readers must take it all.
        let worker = FromWorker::decode(&text).map(|frame| (frame.kind(), frame.encode().unwrap()));
        let server = FromServer::decode(&text).map(|frame| (frame.kind(), frame.encode().unwrap()));
        let read = [worker.ok(), server.ok()];
        let whole = read.iter().flatten().any(|(name, written)| {
            let back: Value = serde_json::from_str(written).expect("our own JSON");
            // Nothing on the page is a field that the wire does not know.
            let known = frame.as_object().expect("an object").keys().all(|key| back.get(key).is_some());
            *name == kind && known
        });
        assert!(whole, "not a frame of the wire: {text}");
        shown.insert(kind);
    }
    let wire = "accepted artifact cancel credit drain end_session error execute goodbye heartbeat output progress register registered \
                rejected result result_ack";
    assert_eq!(
        shown.iter().map(String::as_str).collect::<Vec<_>>(),
        wire.split_whitespace().collect::<Vec<_>>()
    );
}

#[test]
fn the_worker_on_the_page_fits_on_a_page() {
    let lines = blocks("python")[0].lines().count();
    assert!(lines < 100, "{lines} lines");
}

/// The page's worker in a process of its own, and its files.
struct Shown {
    program: python::Program,
    _folder: TempDir,
}

impl Shown {
    /// Starts one of the page's two programs. Both files are there, as the page says.
    fn start(file: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for (name, code) in ["worker.py", "dial.py"].iter().zip(blocks("python")) {
            std::fs::write(folder.path().join(name), code).expect("a file can be written");
        }
        let program = python::Program::start(&folder.path().join(file), arguments);
        Self { program, _folder: folder }
    }

    /// Starts the worker that listens; also its port.
    fn listening() -> (Self, u16) {
        let mut shown = Self::start("worker.py", &["127.0.0.1:0"]);
        let port = shown.program.address("port").parse().expect("a port");
        (shown, port)
    }
}

fn config(endpoint: &str) -> String {
    format!("workers:\n  - {{ name: shout, interface: websocket, {endpoint} capabilities: [\"text.*\"] }}\n")
}

/// Submits a task that nobody waits for, and waits until it runs.
async fn running(server: &Server, task: Value) -> String {
    let (status, task) = server.post("/v1/tasks", task.to_string()).await;
    assert_eq!(status, 202, "{task}");
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    becomes(server, &path, "running").await;
    path
}

/// Waits until a task shows this state.
async fn becomes(server: &Server, path: &str, state: &str) -> Value {
    eventually(&format!("{path} is {state}"), async || {
        let task = server.get(path).await;
        if task["state"] == state { Ok(task) } else { Err(task.to_string()) }
    })
    .await
}

#[tokio::test]
async fn the_worker_on_the_page_registers_and_runs_tasks() {
    let (_program, port) = Shown::listening();
    let server = Server::start(&config(&format!("endpoint: \"ws://127.0.0.1:{port}\",")));
    let worker = server.worker_is("shout", "ready").await;
    assert_eq!(worker["slots"]["total"], 4, "{worker}");

    let task = server.run("text.shout", json!({"text": "hello"})).await;
    assert_eq!((&task["state"], &task["output"]), (&json!("succeeded"), &json!("HELLO")), "{task}");
    let task = server.run("text.shout", json!({"words": "hello"})).await;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("task_failed")), "{task}");

    let nap = json!({"capability": "text.nap", "input": {"seconds": 60}});
    let path = running(&server, nap).await;
    let mut events = server.client().events(&format!("{path}/events"), None).await.expect("a stream");
    let output = async {
        while let Some(event) = events.next().await.expect("the stream is whole") {
            if event.event == "output" {
                return event.data;
            }
        }
        panic!("the stream ended without output");
    };
    let output = tokio::time::timeout(PATIENCE, output).await.expect("output comes");
    assert!(output.contains("good night"), "{output}");
    let (status, task) = server.post(&format!("{path}/cancel"), "").await;
    assert!(matches!(status, 200 | 202), "{status} {task}");
    becomes(&server, &path, "cancelled").await;

    let nap = json!({"capability": "text.nap", "input": {"seconds": 60}, "execution_timeout": "100ms"});
    let (status, task) = server.post("/v1/tasks?wait=20s", nap.to_string()).await;
    assert_eq!((status, &task["state"]), (200, &json!("timed_out")), "{task}");
}

#[tokio::test]
async fn its_task_goes_on_while_the_connection_is_cut() {
    let (_program, port) = Shown::listening();
    let wire = Wire::to(port).await;
    let server = Server::start(&config(&format!("endpoint: \"ws://127.0.0.1:{}\",", wire.port)));
    let before = server.worker_is("shout", "ready").await;
    let nap = json!({"capability": "text.nap", "input": {"seconds": 1.5}});
    let path = running(&server, nap).await;

    wire.cut();
    let task = becomes(&server, &path, "succeeded").await;
    assert_eq!(task["output"], "good morning");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "resumed, not run again: {task}");
    let after = server.worker_is("shout", "ready").await;
    assert_eq!(before["instance"], after["instance"]);
    assert_ne!(before["connection"], after["connection"]);
}

#[tokio::test]
async fn the_same_worker_can_dial_in() {
    let server = Server::start(&config(""));
    let url = server.base_url().replace("http://", "ws://");
    let _program = Shown::start("dial.py", &[&url, "shout"]);
    server.worker_is("shout", "ready").await;
    let task = server.run("text.shout", json!({"text": "hello"})).await;
    assert_eq!((&task["state"], &task["output"]), (&json!("succeeded"), &json!("HELLO")), "{task}");
}

/// A wire to a worker that can be cut; what is connected afterwards goes through again.
struct Wire {
    port: u16,
    cuts: watch::Sender<u32>,
}

impl Wire {
    async fn to(worker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (cuts, cut) = watch::channel(0);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", worker)).await?;
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self { port, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
