//! What the API tells as it happens: a task's events, the fleet's, and what becomes of the streams.

use hyper::Method;
use rollcall::client::{Events, Request, ServerEvent};
use rollcall_worker_sdk::{Capability, ConnectOptions, Stream, Task, TaskContext, TaskEnd, Worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{header, read};
use crate::support::{MOCKS, PATIENCE, Server, eventually};

async fn next(events: &mut Events) -> Option<ServerEvent> {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream is whole")
}

/// Every event until the stream ends.
async fn rest(events: &mut Events) -> Vec<ServerEvent> {
    let mut all = Vec::new();
    while let Some(event) = next(events).await {
        all.push(event);
    }
    all
}

fn states(events: &[ServerEvent]) -> Vec<String> {
    let states = events.iter().filter(|event| event.event == "state");
    states.map(|event| read(event.data.as_bytes())["state"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_task_is_followed_to_its_final_state_and_taken_up_again() {
    let server = Server::start(MOCKS);
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"slow"}"#).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    let events_path = format!("{path}/events");
    let mut events = server.client().events(&events_path, None).await.expect("a stream");
    let mut seen = Vec::new();
    while !states(&seen).contains(&"running".to_owned()) {
        seen.push(next(&mut events).await.expect("it runs before it ends"));
    }
    let (status, cancelled) = server.post(&format!("{path}/cancel"), "").await;
    assert!(matches!(status, 200 | 202), "{cancelled}");
    let tail = rest(&mut events).await;
    assert_eq!(states(&tail).last().map(String::as_str), Some("cancelled"), "{tail:?}");
    let middle = seen.last().and_then(|event| event.id.clone()).expect("an id");
    let mut again = server.client().events(&events_path, Some(&middle)).await.expect("a stream");
    assert_eq!(rest(&mut again).await, tail, "nothing missed, nothing twice");
    let mut foreign = server.client().events(&events_path, Some("99-1")).await.expect("a stream");
    let told = rest(&mut foreign).await;
    assert_eq!(told.first().map(|event| event.event.as_str()), Some("reset"));
    assert_eq!(read(told[0].data.as_bytes())["state"], "cancelled", "the whole task");
    assert_eq!(states(&told).last().map(String::as_str), Some("cancelled"));
    let over = tail.last().and_then(|event| event.id.clone()).expect("an id");
    let (name, value) = header("last-event-id", &over);
    let answer = server.send(Request::new(Method::GET, events_path.as_str()).header(name, value)).await;
    assert_eq!(answer.status, 204, "nothing more will come, so browsers need not ask again");
}

#[tokio::test]
async fn a_watcher_who_comes_after_the_end_is_told_the_end() {
    let server = Server::start(MOCKS);
    let task = server.run("echo", json!(1)).await;
    let path = format!("/v1/tasks/{}/events", task["id"].as_str().expect("an id"));
    let mut events = server.client().events(&path, None).await.expect("a stream");
    assert_eq!(states(&rest(&mut events).await), ["succeeded"]);
}

#[tokio::test]
async fn the_fleet_is_followed() {
    let server = Server::start(MOCKS);
    server.worker_is("echo", "ready").await;
    server.worker_is("slow", "ready").await;
    let mut events = server.client().events("/v1/events", None).await.expect("a stream");
    let mut past = Vec::new();
    let is_ready = |event: &ServerEvent| event.event == "worker_state" && event.data.contains("\"ready\"");
    while past.iter().filter(|event| is_ready(event)).count() < 2 {
        past.push(next(&mut events).await.expect("the past is told first"));
    }
    let last = past.last().and_then(|event| event.id.clone()).expect("an id");
    server.post("/v1/workers/echo/cordon", "").await;
    let mut again = server.client().events("/v1/events", Some(&last)).await.expect("a stream");
    let cordoned = next(&mut again).await.expect("it goes on");
    assert!(cordoned.data.contains("cordoned"), "{cordoned:?}");
    let mut foreign = server.client().events("/v1/events", Some("0-1")).await.expect("a stream");
    assert_eq!(next(&mut foreign).await.map(|event| event.event), Some("reset".to_owned()));
}

#[tokio::test]
async fn a_stream_whose_reader_left_is_forgotten() {
    let server = Server::start(MOCKS);
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"slow"}"#).await;
    let path = format!("/v1/tasks/{}/events", task["id"].as_str().expect("an id"));
    let streams = async |number: u32| {
        let line = format!("rollcall_sse_streams {number}\n");
        eventually(&format!("{number} streams are open"), async || {
            let page = server.send(Request::new(Method::GET, "/metrics")).await;
            let page = String::from_utf8_lossy(&page.body).into_owned();
            if page.contains(&line) { Ok(()) } else { Err(page) }
        })
        .await;
    };
    let mut events = server.client().events(&path, None).await.expect("a stream");
    assert!(next(&mut events).await.is_some());
    streams(1).await;
    drop(events);
    streams(0).await;
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams() {
    let server = Server::start(MOCKS);
    server.worker_is("echo", "ready").await;
    let mut events = server.client().events("/v1/events", None).await.expect("a stream");
    assert!(next(&mut events).await.is_some());
    let began = std::time::Instant::now();
    tokio::task::spawn_blocking(move || drop(server)).await.expect("it stops in peace");
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    rest(&mut events).await;
}

/// A worker that dials in as `name` and offers `count`: it writes the numbers up to its input, one
/// a line, and returns the last.
fn dialled_in(server: &Server, name: &str) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let worker = Worker::builder("counter")
        .name(name)
        .slots(1)
        .capability(Capability::new("count").idempotent(true), async |task: Task, context: TaskContext| {
            let last: u32 = serde_json::from_str(task.input.get()).unwrap_or(0);
            for number in 1..=last {
                context.output(Stream::Stdout, format!("{number}\n"));
                context.progress(Some(f64::from(number) / f64::from(last)), None);
            }
            TaskEnd::succeeded(&last)
        })
        .build();
    let url = server.base_url().replace("http://", "ws://");
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let run = async move {
        worker.connect(&url, ConnectOptions::default(), stopped).await.expect("the URL can be dialled");
    };
    (tokio::spawn(run), stop)
}

#[tokio::test]
async fn output_of_a_worker_that_dialled_in_is_seen_live_and_the_end_comes_last() {
    let server = Server::start("workers: [{ name: counter, interface: websocket, capabilities: [count] }]");
    let (stranger, stop_stranger) = dialled_in(&server, "stranger");
    let (worker, stop) = dialled_in(&server, "counter");
    server.worker_is("counter", "ready").await;
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"count","input":100}"#).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    let mut events = server.client().events(&format!("{path}/events"), None).await.expect("a stream");
    let seen = rest(&mut events).await;
    let said: String = seen
        .iter()
        .filter(|event| event.event == "output")
        .map(|event| read(event.data.as_bytes())["data"].as_str().unwrap_or_default().to_owned())
        .collect();
    let all: String = (1..=100).map(|number| format!("{number}\n")).collect();
    // Who comes after the task began sees what is kept, which is all of so little.
    assert_eq!(said, all);
    assert!(seen.iter().any(|event| event.event == "progress"), "{seen:?}");
    assert_eq!(states(&seen).last().map(String::as_str), Some("succeeded"));
    assert_eq!(seen.last().map(|event| event.event.as_str()), Some("state"), "the end comes last");
    assert_eq!(server.get(&path).await["output"], 100);
    assert_eq!(server.get("/v1/workers").await["items"].as_array().map(Vec::len), Some(1), "no stranger");
    for (stop, task) in [(stop_stranger, stranger), (stop, worker)] {
        stop.cancel();
        task.await.expect("it ends in peace");
    }
    server.worker_is("counter", "disconnected").await;
}
