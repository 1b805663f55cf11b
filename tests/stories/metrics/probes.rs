//! Probes: tasks that the server sends to itself. They go the whole way into the pool that they are
//! meant for, are counted under a name of their own, and nobody meets them elsewhere.

use hyper::Method;
use rollcall::client::{Client, Request};
use serde_json::Value;

use super::{sum, ten_pools};
use crate::support::{eventually, program};

/// Two pools whose workers are asked for the same, and one worker of none.
const TWINS: &str = "
heartbeat: { interval: 1s }
workers:
  - { name: lone, interface: mock, capabilities: [echo] }
pools:
  - { name: one, worker: { interface: mock, capabilities: [echo] }, scaling: { min: 1, max: 2 } }
  - { name: two, worker: { interface: mock, capabilities: [echo] }, scaling: { min: 1, max: 2 } }
";

async fn page(client: &Client) -> String {
    let answer = client.send(Request::new(Method::GET, "/metrics")).await.expect("an answer");
    String::from_utf8(answer.body.to_vec()).expect("the page is text")
}

/// Attempts of probes in a pool that ended so; none where there is no such series.
fn ended(page: &str, pool: &str, outcome: &str) -> Option<f64> {
    let series = format!(
        "rollcall_task_attempts_total{{capability=\"_probe\",outcome=\"{outcome}\",pool=\"{pool}\"}} "
    );
    page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

#[tokio::test]
async fn probes_go_the_whole_way_into_each_pool_and_stay_among_themselves() {
    let server = program::Server::start(&format!("telemetry: {{ probe: 100ms }}{TWINS}"));
    let client = Client::new(server.base()).expect("an address");
    let seen = eventually("probes of all pools", async || {
        let page = page(&client).await;
        let all = ["one", "two", "static"].map(|pool| ended(&page, pool, "succeeded").unwrap_or(0.0));
        if all.iter().all(|ended| *ended >= 3.0) { Ok(page) } else { Err(format!("{all:?}")) }
    })
    .await;
    let probe = "capability=\"_probe\"";
    let completed = sum(&seen, "rollcall_tasks_completed_total", probe);
    let (accepted, queued) = (
        sum(
            &seen,
            "rollcall_task_submissions_total",
            &format!("{probe},source=\"library\",outcome=\"accepted\""),
        ),
        sum(&seen, "rollcall_queue_tasks", probe),
    );
    assert!(
        completed >= 9.0 && (accepted - completed - queued).abs() < 0.5,
        "{accepted} {completed} {queued}"
    );
    assert_eq!(sum(&seen, "rollcall_task_latency_seconds_count", probe), completed);
    assert_eq!(sum(&seen, "rollcall_task_payload_bytes_count", ""), 0.0, "callers have sent nothing");
    for series in
        ["rollcall_tasks_completed_total", "rollcall_task_submissions_total", "rollcall_task_attempts_total"]
    {
        assert_eq!(sum(&seen, series, "capability=\"echo\""), 0.0, "{series}: that is for callers' tasks");
    }

    let tasks: Value = client.get("/v1/tasks").await.expect("a list");
    assert_eq!(tasks["items"].as_array().map(Vec::len), Some(0), "{tasks}");
    let status: Value = client.get("/v1/status").await.expect("a look");
    assert!(status["queues"].get("_probe").is_none(), "{status}");
    // Nobody can ask for it by that name.
    let body = r#"{"capability":"_probe"}"#.to_owned();
    let answer = client.send(Request::new(Method::POST, "/v1/tasks").body(body)).await.expect("an answer");
    assert_eq!(answer.status, 422);
    // No pool has grown for them.
    for pool in ["one", "two"] {
        let pool: Value = client.get(&format!("/v1/pools/{pool}")).await.expect("it is there");
        assert_eq!(pool["desired"], 1, "{pool}");
    }

    // Where none are wanted, their absence tells nothing, and so is not shown.
    let file = std::fs::read_to_string(server.config()).expect("it is there");
    std::fs::write(server.config(), file.replace("probe: 100ms", "probe: 0s")).expect("it can be written");
    eventually("a page without the pools' probes", async || {
        let page = page(&client).await;
        if ended(&page, "one", "succeeded").is_none() { Ok(()) } else { Err("still there".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn the_probes_of_ten_pools_take_few_series() {
    let by_mock = "worker: { interface: mock, capabilities: OFFERS }, scaling: { min: 1, max: 9 }";
    let server = program::Server::start(&format!("telemetry: {{ probe: 200ms }}\n{}", ten_pools(by_mock)));
    let client = Client::new(server.base()).expect("an address");
    let page = eventually("probes of all pools", async || {
        let page = page(&client).await;
        let missing = (0..10).filter(|n| ended(&page, &format!("p{n}"), "succeeded").is_none()).count();
        if missing == 0 { Ok(page) } else { Err(format!("{missing} pools without")) }
    })
    .await;
    let series = page.lines().filter(|line| line.contains("capability=\"_probe\"")).count();
    // Beside what `ten_pools_that_scale_...` leaves of the budget, whose page has most of these.
    assert!((30..90).contains(&series), "{series} series");
}

#[tokio::test]
async fn a_probe_that_does_not_come_back_is_told_with_its_reason() {
    let config = "
telemetry: { probe: 100ms }
heartbeat: { interval: 1s }
workers:
  - { name: broken, interface: mock, capabilities: [broken.run], mock: { latency: 1ms, failure_rate: 1.0 } }
";
    let server = program::Server::start(config);
    let line =
        tokio::task::spawn_blocking(move || server.logs("RollcallProbeFailing")).await.expect("it is told");
    assert!(line.contains("broken") && line.contains("failed"), "{line}");
}
