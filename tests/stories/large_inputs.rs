//! Inputs too large to be held while their tasks wait: the server lets go of them, and has them again
//! when a worker is free, whatever happened to it meanwhile.

use std::sync::Arc;

use hyper::Method;
use nix::sys::signal::Signal;
use rollcall::client::{Client, Request};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::program::Server;

const ECHO: &str = "
workers:
  - { name: ann, interface: mock, capabilities: [echo], slots: 4 }
";

/// Bytes of one input, and how many there are.
const INPUT: usize = 256 << 10;
const TASKS: usize = 120;

/// What the server may need beside what it needs with no task waiting: far less than all inputs.
const MORE: usize = 10 << 20;

/// Memory that a server has at the moment, in bytes.
fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells");
    let kib: usize = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib << 10
}

fn client(server: &Server) -> Client {
    Client::new(server.base()).expect("an address")
}

/// No two are alike.
fn input(number: usize) -> Value {
    json!(format!("{number} ").repeat(INPUT / 4))
}

#[tokio::test]
async fn large_inputs_wait_on_the_disk_and_each_worker_gets_the_right_one() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let mut server = Server::start_in(&folder, ECHO, &[]);
    server.says(&["workers", "cordon", "ann"]);
    let mut tasks = Vec::new();
    let mut before = 0;
    for number in 0..TASKS {
        let body = json!({ "capability": "echo", "input": input(number) }).to_string();
        let request = Request::new(Method::POST, "/v1/tasks").body(body);
        let answer = client(&server).send(request).await.expect("an answer");
        let task: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(answer.status, 202, "{task}");
        tasks.push(task["id"].as_str().expect("an id").to_owned());
        // With the first few it has what one request after another takes.
        before = if number < 8 { resident(&server) } else { before };
    }
    let waiting = resident(&server);
    assert!(waiting < before + MORE, "{before} bytes without tasks, {waiting} with {TASKS}");
    server.signal(Signal::SIGKILL);
    server.ended();

    let server = Server::start_in(&folder, ECHO, &[]);
    let recovered = resident(&server);
    assert!(recovered < before + MORE, "{before} bytes without tasks, {recovered} after a restart");
    server.says(&["workers", "uncordon", "ann"]);
    for (number, id) in tasks.iter().enumerate() {
        let task: Value = eventually(&format!("the end of {id}"), async || {
            let task: Value =
                client(&server).get(&format!("/v1/tasks/{id}")).await.map_err(|error| error.to_string())?;
            if task["state"] == "succeeded" { Ok(task) } else { Err(task["state"].to_string()) }
        })
        .await;
        let attempts = task["attempts"].as_array().map_or(0, Vec::len);
        assert!(task["output"] == input(number) && attempts == 1, "task {number} got another's input");
    }
}
