//! What the API tells as it happens: a task's events, the fleet's, and what becomes of the streams.

use hyper::Method;
use rollcall::client::{Events, Request, ServerEvent};
use serde_json::json;

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
