//! What a scrape shows, asked the way that its readers ask: by promtool, by a real Prometheus with
//! our own scrape configuration, and by the queries of our own board.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Server, eventually};

mod alarms;
mod boards;
mod bundle;
mod discovery;
mod faults;
mod planned;
mod probes;
mod prometheus;
mod promql;
mod proving;
mod runbooks;

/// Fast heartbeats, so that a story need not wait half a minute for one.
const FLEET: &str = "
heartbeat: { interval: 1s }
workers:
  - name: echo
    interface: mock
    capabilities: [echo]
    slots: 4
    mock: { latency: 5ms }
  - name: second
    interface: mock
    capabilities: [second.run]
    slots: 2
    mock: { latency: 20ms, failure_rate: 0.2, seed: 7 }
";

async fn page(server: &Server, path: &str) -> String {
    let request = rollcall::client::Request::new(hyper::Method::GET, path);
    let answer = server.send(request).await;
    assert_eq!(answer.status, 200, "{path}");
    String::from_utf8(answer.body.to_vec()).expect("the page is text")
}

/// The sum of a family's samples whose labels contain `part`.
fn sum(page: &str, family: &str, part: &str) -> f64 {
    let samples = page.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix('{'));
    let values = samples.filter(|sample| sample.contains(part)).filter_map(|sample| sample.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
}

/// Sends tasks of both kinds, some of them cancelled, until the time is over; says how many.
async fn load(server: &Server, clients: usize, until: Instant) -> usize {
    let one = async |client: usize| {
        let mut sent = 0;
        while Instant::now() < until {
            let capability = if (client + sent).is_multiple_of(3) { "second.run" } else { "echo" };
            let body =
                json!({ "capability": capability, "input": { "n": sent }, "max_attempts": 2 }).to_string();
            if (client + sent).is_multiple_of(4) {
                let (status, task) = server.post("/v1/tasks", body).await;
                assert_eq!(status, 202, "{task}");
                let id = task["id"].as_str().expect("an id");
                let (status, answer) = server.post(&format!("/v1/tasks/{id}/cancel"), "").await;
                assert!(status == 200 || status == 202, "{answer}");
            } else {
                let (status, task) = server.post("/v1/tasks?wait=20s", body).await;
                assert_eq!(status, 200, "{task}");
            }
            sent += 1;
        }
        sent
    };
    futures_util::future::join_all((0..clients).map(one)).await.into_iter().sum()
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_a_running_server() {
    let server = Server::start(FLEET);
    server.worker_is("echo", "ready").await;
    load(&server, 4, Instant::now() + Duration::from_millis(300)).await;
    let tools = ["promtool".to_owned(), prometheus::three("promtool")];
    for (path, tool) in ["/metrics", "/metrics/workers"]
        .into_iter()
        .flat_map(|path| tools.iter().map(move |tool| (path, tool)))
    {
        let mut tool = Command::new(tool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is missing; `make setup` installs it (Debian's package `prometheus`)");
        let text = page(&server, path).await;
        tool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads its input");
        let said = tool.wait_with_output().expect("promtool ends");
        assert!(said.stdout.is_empty() && said.stderr.is_empty(), "{path}: {said:?}");
    }
}

#[tokio::test]
async fn accepted_less_completed_is_the_backlog_at_every_scrape() {
    let server = Server::start(FLEET);
    server.worker_is("echo", "ready").await;
    let until = Instant::now() + Duration::from_secs(3);
    let scrapes = async {
        let (mut scrapes, mut busiest) = (0, 0.0f64);
        while Instant::now() < until {
            let page = page(&server, "/metrics").await;
            let accepted = sum(&page, "rollcall_task_submissions_total", "outcome=\"accepted\"");
            let completed = sum(&page, "rollcall_tasks_completed_total", "");
            let backlog = sum(&page, "rollcall_queue_tasks", "");
            assert!((accepted - completed - backlog).abs() < 0.5, "{accepted} - {completed} != {backlog}");
            busiest = busiest.max(backlog);
            scrapes += 1;
        }
        (scrapes, busiest)
    };
    let (sent, (scrapes, busiest)) = tokio::join!(load(&server, 16, until), scrapes);
    assert!(sent > 50 && scrapes > 10 && busiest > 0.0, "{sent} tasks, {scrapes} scrapes, {busiest} at once");

    let page = eventually("the end of all tasks", async || {
        let page = page(&server, "/metrics").await;
        if sum(&page, "rollcall_queue_tasks", "") == 0.0 { Ok(page) } else { Err("a backlog".to_owned()) }
    })
    .await;
    let ended = sum(&page, "rollcall_tasks_completed_total", "");
    for histogram in ["rollcall_task_latency_seconds_count", "rollcall_task_attempts_per_task_count"] {
        assert_eq!(sum(&page, histogram, ""), ended, "{histogram}: one observation a task");
    }
}

#[tokio::test]
async fn the_series_of_a_worker_vanish_with_it() {
    let server = Server::start(FLEET);
    server.worker_is("second", "ready").await;
    let before = [page(&server, "/metrics").await, page(&server, "/metrics/workers").await];
    assert!(before[0].contains("capability=\"second.run\"") && before[1].contains("worker=\"second\""));
    assert_eq!(sum(&before[0], "rollcall_workers", "pool=\"static\""), 2.0);

    let (rest, _) = FLEET.split_once("  - name: second").expect("it is there");
    std::fs::write(server.config_file(), rest).expect("the file can be written");
    eventually("a page without the worker", async || {
        let workers = page(&server, "/metrics/workers").await;
        if workers.contains("worker=\"second\"") { Err(workers) } else { Ok(()) }
    })
    .await;
    let after = page(&server, "/metrics").await;
    assert!(!after.contains("second.run"), "a series of a capability that nobody offers");
    assert_eq!(sum(&after, "rollcall_workers", "pool=\"static\""), 1.0);
    assert_eq!(sum(&after, "rollcall_config_worker_changes_total", "change=\"removed\""), 1.0);
    assert_eq!(sum(&after, "rollcall_config_reloads_total", "outcome=\"applied\""), 2.0);
}

/// Ten pools that all scale, with two capabilities each, where everything that may be counted has
/// its series.
fn ten_pools(scaling: &str) -> String {
    let pool = |n: usize| {
        let offers = format!("[\"kind{n}.run\", \"kind{n}.again\"]");
        format!("  - {{ name: p{n}, {} }}\n", scaling.replace("OFFERS", &offers))
    };
    format!("workers: []\npools:\n{}", (0..10).map(pool).collect::<String>())
}

#[tokio::test]
async fn ten_pools_that_scale_and_twenty_capabilities_stay_within_the_budget_of_series() {
    let by_hook = "worker: { capabilities: OFFERS }, scaling: { min: 0, max: 9, provider: exec, hook: { command: [/bin/true] } }";
    let by_process = "worker: { capabilities: OFFERS, launch: { command: [/bin/true, --listen, \"127.0.0.1:{port}\"] }, \
                      endpoint: \"ws://127.0.0.1:{port}\" }, scaling: { min: 0, max: 9, provider: process }";
    let by_mock = "worker: { interface: mock, capabilities: OFFERS }, scaling: { min: 1, max: 9 }";
    for scaling in [by_hook, by_process, by_mock] {
        let server = Server::start(&ten_pools(scaling));
        let page = page(&server, "/metrics").await;
        assert!(page.contains("rollcall_autoscaler_max_workers{pool=\"p9\"} 9"), "{page}");
        let series = page.lines().filter(|line| !line.starts_with('#')).count();
        // Beyond this, a fleet of the usual size costs its Prometheus more than it ought to.
        assert!((4_000..5_000).contains(&series), "{series} series: {scaling}");
    }
}
