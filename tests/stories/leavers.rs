//! Workers that have left the configuration and still run something: they finish it, also when the
//! server was down while the file was edited.

use std::sync::Arc;

use hyper::Method;
use nix::sys::signal::Signal;
use rollcall::client::{Client, Request};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::noting::NotingWorker;
use crate::support::program::Server;

/// A file from which the worker was taken.
const NOBODY: &str = "workers: []\n";

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    client.get(path).await.map_err(|error| error.to_string())
}

async fn accepted(client: &Client, task: Value) -> String {
    let request = Request::new(Method::POST, "/v1/tasks").body(task.to_string());
    let answer = client.send(request).await.expect("an answer");
    let task: Value = serde_json::from_slice(&answer.body).expect("JSON");
    task["id"].as_str().unwrap_or_else(|| panic!("an id: {task}")).to_owned()
}

/// A task that runs for some seconds, once it does and the store knows where.
async fn running(client: &Client, millis: u64) -> String {
    let note = json!({ "capability": "note", "input": { "number": 1, "millis": millis } });
    let id = accepted(client, note).await;
    let state = async || {
        let task = get(client, &format!("/v1/tasks/{id}")).await?;
        if task["state"] == "running" { Ok(()) } else { Err(task.to_string()) }
    };
    eventually("a running task", state).await;
    // Its process, the task, and where it runs, which is written last.
    eventually("three records on the disk", async || {
        let page =
            client.send(Request::new(Method::GET, "/metrics")).await.map_err(|error| error.to_string())?;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let written = page.lines().find_map(|line| line.strip_prefix("rollcall_store_batch_tasks_sum "));
        if written == Some("3") { Ok(()) } else { Err(format!("{written:?}")) }
    })
    .await;
    id
}

#[tokio::test]
async fn a_worker_taken_from_the_file_while_the_server_was_down_finishes_what_it_runs() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let worker = NotingWorker::listen();
    let mut first = Server::start_in(&folder, &worker.config(), &[]);
    let id = running(&Client::new(first.base()).expect("an address"), 4_000).await;
    first.signal(Signal::SIGKILL);
    first.ended();

    let second = Server::start_in(&folder, NOBODY, &[]);
    let client = Client::new(second.base()).expect("an address");
    eventually("the worker, on its way out", async || {
        let ann = get(&client, "/v1/workers/ann").await?;
        if ann["state"] == "draining" { Ok(()) } else { Err(ann.to_string()) }
    })
    .await;
    let task = eventually("the end of the task", async || {
        let task = get(&client, &format!("/v1/tasks/{id}")).await?;
        if task["state"] == "succeeded" { Ok(task) } else { Err(task.to_string()) }
    })
    .await;
    assert_eq!(
        (task["output"]["number"].clone(), task["attempts"].as_array().map(Vec::len)),
        (json!(1), Some(1))
    );
    let starts = worker.starts();
    assert_eq!(starts.iter().filter(|(task, _)| *task == id).count(), 1, "it was not run again: {starts:?}");
    eventually("nobody", async || {
        let workers = get(&client, "/v1/workers").await?;
        if workers["items"] == json!([]) { Ok(()) } else { Err(workers.to_string()) }
    })
    .await;
}
