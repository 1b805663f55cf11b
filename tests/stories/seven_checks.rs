//! The seven checks of a fleet: it starts, its workers join, tasks run, what happens is told, silence
//! is noticed, errors are told apart, and all of it is counted. Once with mocks for every worker,
//! once with the real Python worker, both from the repository's own config.yaml.

mod with_mocks;
mod with_the_real_worker;

use serde_json::{Value, json};

use crate::support::asking::{data, states};
use crate::support::{Server, eventually};

/// What a newcomer starts with.
const CONFIG: &str = include_str!("../../config.yaml");

/// The names in it.
const WORKERS: [&str; 3] = ["browser", "figma", "python-sandbox"];

/// Short times. Only a worker that is stopped stays silent for as long as `suspect_after`; and none
/// is given up while a busy machine runs other things.
const HEARTBEATS: &str = "\nheartbeat: { interval: 300ms, suspect_after: 2s, timeout: 30s, lease: 60s }\nreconnect: { max_backoff: 300ms }\n";

/// All three workers of the configuration are ready, and nothing is missing.
async fn three_of_three(server: &Server) {
    for name in WORKERS {
        server.worker_is(name, "ready").await;
    }
    let status = server.get("/v1/status").await;
    assert_eq!(status["workers"], json!({ "ready": 3 }), "{status}");
    assert_eq!(server.get("/readyz").await["missing_workers"], json!([]));
}

/// A stream of a task's events: its states in order up to the end, its ids without a gap.
async fn told_in_order(server: &Server, task: &Value) -> Vec<rollcall::client::ServerEvent> {
    let told = server.story_of(task).await;
    let order = ["queued", "assigned", "running", "succeeded"];
    let states = states(&told);
    let places: Vec<_> = states.iter().map(|state| order.iter().position(|known| known == state)).collect();
    assert!(places.is_sorted() && !places.contains(&None), "{states:?}");
    assert_eq!(told.last().map(|event| data(event)["state"].clone()), Some(json!("succeeded")), "{told:?}");
    let number = |id: &String| id.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
    let numbers: Vec<_> = told.iter().map(|event| event.id.as_ref().and_then(number)).collect();
    let first = numbers[0].expect("an id ends in a number");
    let expected: Vec<_> = (first..).take(told.len()).map(Some).collect();
    assert_eq!(numbers, expected, "{told:?}");
    told
}

/// The worker's heartbeats arrive: the time of the last one moves, and they are counted.
async fn heartbeats_arrive(server: &Server, name: &str) {
    let first = server.worker_is(name, "ready").await["last_heartbeat"].clone();
    eventually("the next heartbeat comes", async || {
        let worker = server.get(&format!("/v1/workers/{name}")).await;
        if worker["last_heartbeat"].as_str() > first.as_str() { Ok(()) } else { Err(worker.to_string()) }
    })
    .await;
    server.metric_reaches("rollcall_worker_heartbeats_total", &["pool=\"static\""], 2.0).await;
}

/// A capability that nobody has is refused at the door, with what to do about it.
async fn unknown_capabilities_are_refused(server: &Server) {
    let (status, problem) = server.post("/v1/tasks", r#"{"capability":"python.exekute"}"#).await;
    assert_eq!((status, &problem["code"]), (422, &json!("unknown_capability")), "{problem}");
    assert_eq!(problem["retryable"], false);
    assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("python.execute")), "{problem}");
}

/// A task's latency is counted under its capability, and the families that people look for first
/// are there.
async fn counted(server: &Server, capability: &str, input: Value) {
    let labels = [&*format!("capability=\"{capability}\"")];
    let latency = "rollcall_task_latency_seconds_count";
    let before = server.metric(latency, &labels).await.unwrap_or(0.0);
    assert_eq!(server.run(capability, input).await["state"], "succeeded");
    server.metric_reaches(latency, &labels, before + 1.0).await;
    for family in [
        "rollcall_task_queue_wait_seconds_count",
        "rollcall_task_execution_seconds_count",
        "rollcall_worker_heartbeat_lag_seconds_count",
        "rollcall_pool_reconnects_total",
        "rollcall_worker_slots",
    ] {
        assert!(server.metric(family, &[]).await.is_some(), "{family} is missing");
    }
    server.metric_reaches("rollcall_worker_heartbeat_lag_seconds_count", &["pool=\"static\""], 1.0).await;
}
