//! The boards and rules before the real thing: the real server with mock and real workers, load and a
//! fault of each kind that can be had here, and a real Prometheus that is asked every query of every
//! panel and rule.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use rollcall::client::{Client, Request};
use serde_json::{Value, json};

use super::boards;
use super::bundle::root;
use super::prometheus::{Prometheus, Version};
use crate::support::process::{WorkerProcess, free_port};
use crate::support::{eventually, program};

/// Mocks of which one fails now and then and one always, the Python sandbox, and a worker program
/// that the story kills.
fn config(sandbox: &str, victim: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_rollcall")).with_file_name("rollcall-python-sandbox");
    assert!(
        program.exists(),
        "{} is missing: run `make test`, or `cargo build --workspace` first",
        program.display()
    );
    format!(
        "
heartbeat: {{ interval: 500ms }}
telemetry: {{ probe: 1s }}
retry: {{ initial_interval: 10ms }}
workers:
  - {{ name: echo, interface: mock, capabilities: [echo], slots: 4, mock: {{ latency: 5ms }} }}
  - {{ name: second, interface: mock, capabilities: [second.run], slots: 2, mock: {{ latency: 20ms, failure_rate: 0.2, seed: 7 }} }}
  - {{ name: broken, interface: mock, capabilities: [broken.run], slots: 2, mock: {{ latency: 5ms, failure_rate: 1.0 }} }}
  - {{ name: victim, endpoint: \"ws://{victim}\", capabilities: [again, once] }}
  - name: python-sandbox
    endpoint: \"ws://{sandbox}\"
    capabilities: [\"python.*\", command.execute]
    launch: {{ command: [\"{}\", --listen, \"{sandbox}\"] }}
pools:
  - name: elastic
    worker: {{ interface: mock, capabilities: [elastic.run], slots: 1, mock: {{ latency: 50ms }} }}
    scaling: {{ min: 1, max: 3 }}
  - name: hooked
    worker: {{ capabilities: [hooked.run] }}
    scaling: {{ min: 1, max: 2, provider: exec, hook: {{ command: [\"/bin/true\"] }} }}
",
        program.display()
    )
}

pub(crate) async fn post(client: &Client, path: &str, body: Value) -> (u16, Value) {
    let request = Request::new(Method::POST, path).body(body.to_string());
    let answer = client.send(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

pub(crate) async fn is_ready(client: &Client, worker: &str) {
    eventually(&format!("{worker} is ready"), async || {
        let seen: Value =
            client.get(&format!("/v1/workers/{worker}")).await.map_err(|error| error.to_string())?;
        if seen["state"] == "ready" { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
}

/// Sends tasks that end well, that fail, that are cancelled and that nobody waits for, and requests
/// that are refused, until the time is over.
async fn load(client: &Client, until: Instant) {
    let one = async |number: usize| {
        let mut sent = number;
        while Instant::now() < until {
            sent += 1;
            let capability = ["echo", "second.run", "python.execute", "broken.run", "elastic.run"][sent % 5];
            let task = json!({ "capability": capability, "input": { "code": "print(6*7)" }, "max_attempts": 2, "retry": "always" });
            if sent.is_multiple_of(3) {
                let (status, task) = post(client, "/v1/tasks", task).await;
                assert_eq!(status, 202, "{task}");
                let id = task["id"].as_str().expect("an id");
                post(client, &format!("/v1/tasks/{id}/cancel"), Value::Null).await;
            } else {
                let (status, task) = post(client, "/v1/tasks?wait=20s", task).await;
                assert_eq!(status, 200, "{task}");
            }
        }
    };
    futures_util::future::join_all((0..6).map(one)).await;
    assert_eq!(post(client, "/v1/tasks", json!({ "capability": "nobody.offers" })).await.0, 422);
    let list: Value = client.get("/v1/tasks?limit=5").await.expect("a list");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn every_query_of_every_panel_and_rule_answers_before_the_real_thing() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let victim = free_port();
    let first = WorkerProcess::listen("victim", victim, folder.path());
    let server = program::Server::start(&config(&free_port().to_string(), &victim.to_string()));
    let client = Client::new(server.base()).expect("an address");
    for worker in ["echo", "victim", "python-sandbox"] {
        is_ready(&client, worker).await;
    }
    // Nothing listens there: what Prometheus does without an Alertmanager is its own business.
    let watching = async |version| {
        let rules = root().join("monitoring/rules/*.yaml");
        Prometheus::run(version, server.base(), &[], &rules, free_port()).await
    };
    let both = [watching(Version::Installed).await, watching(Version::Three).await];
    let events = client.events("/v1/events", None).await.expect("a stream");
    load(&client, Instant::now() + Duration::from_secs(3)).await;
    // A worker dies under its task, and comes back.
    let (status, task) =
        post(&client, "/v1/tasks", json!({ "capability": "again", "input": { "until": "never" } })).await;
    assert_eq!(status, 202, "{task}");
    eventually("a task that runs", async || {
        let seen: Value = client
            .get(&format!("/v1/tasks/{}", task["id"].as_str().expect("an id")))
            .await
            .map_err(|error| error.to_string())?;
        if seen["state"] == "running" { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    first.kill();
    let _second = WorkerProcess::listen("victim", victim, folder.path());
    is_ready(&client, "victim").await;
    load(&client, Instant::now() + Duration::from_secs(3)).await;

    for prometheus in &both {
        all_is_answered(prometheus).await;
    }
    drop(events);
    let [_, three] = &both;
    assert!(three.version().await.starts_with("3."), "{}", three.version().await);
    // It writes whole numbers as what they are, and the service levels count all the same.
    for (le, series) in [("30.0", true), ("30", false)] {
        let found = three.value(&format!("rollcall_task_queue_wait_seconds_bucket{{le=\"{le}\"}}")).await;
        assert_eq!(!found.is_empty(), series, "{le}");
    }
    let slow = three.value("job:rollcall_task_slow_starts:ratio_rate5m").await;
    assert_eq!(slow[0]["value"][1], "0", "all have started in time: {slow:?}");
    // It would not read a page whose type it does not know.
    for target in three.targets().await {
        let ours = target["labels"]["job"].as_str().is_some_and(|job| job.starts_with("rollcall"));
        assert!(!ours || (&target["health"], &target["lastError"]) == (&json!("up"), &json!("")), "{target}");
    }
}

/// Every query of every panel and rule finds something, or has its reason, and what it finds is true.
async fn all_is_answered(prometheus: &Prometheus) {
    let mut unanswered = Vec::new();
    eventually("an answer to every query", async || {
        unanswered = empty_queries(prometheus).await;
        if unanswered.is_empty() { Ok(()) } else { Err(format!("{unanswered:#?}")) }
    })
    .await;
    let rules = prometheus.rules().await;
    assert_eq!(rules.len(), 73);
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["lastError"]), (&json!("ok"), &Value::Null), "{rule}");
    }
    conserved(prometheus).await;
    let pages = prometheus.value(r#"up{job="rollcall-worker-hosts"}"#).await;
    assert_eq!(pages.len(), 1, "the sandbox has a page of its own: {pages:?}");
    assert_eq!(
        (&pages[0]["metric"]["worker"], &pages[0]["value"][1]),
        (&json!("python-sandbox"), &json!("1"))
    );
    let joined = "rollcall_worker_up * on (job, instance, pool) group_left () sum by (job, instance, pool) (rollcall_workers)";
    assert!(prometheus.value(joined).await.len() > 5, "both pages have the same job and instance");
}

/// Accepted less completed is what waits and runs, at every scrape that Prometheus has made.
async fn conserved(prometheus: &Prometheus) {
    let query = r#"sum(rollcall_task_submissions_total{outcome="accepted"}) - sum(rollcall_tasks_completed_total) - sum(rollcall_queue_tasks)"#;
    let found = prometheus.history(query, 60).await;
    let values = found[0]["values"].as_array().expect("samples");
    assert!(values.len() > 4, "{values:?}");
    assert!(values.iter().all(|sample| sample[1] == "0"), "{values:?}");
    let ended = prometheus.value("sum(rollcall_tasks_completed_total)").await;
    let ended: f64 = ended[0]["value"][1].as_str().expect("a value").parse().expect("a number");
    assert!(ended > 20.0, "Prometheus saw tasks end");
}

/// The queries of the boards that find nothing although `grafana/allow-empty.txt` has no reason for it.
async fn empty_queries(prometheus: &Prometheus) -> Vec<String> {
    let mut empty = Vec::new();
    for (_, board) in boards::boards() {
        for (title, query) in boards::queries(&board) {
            if prometheus.value(&boards::filled(query)).await.is_empty() && !may_be_empty(query) {
                empty.push(format!("{title}: {query}"));
            }
        }
    }
    empty
}

/// The regular expressions of `grafana/allow-empty.txt`, without their reasons.
fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("grafana/allow-empty.txt")).expect("it is there");
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let split = |line: &str| {
        let (pattern, reason) = line.split_once(" # ").unwrap_or_else(|| panic!("no reason: {line}"));
        assert!(reason.len() > 10, "no reason: {line}");
        pattern.to_owned()
    };
    lines.map(split).collect()
}

fn may_be_empty(query: &str) -> bool {
    allowed().iter().any(|pattern| matches(pattern, query))
}

/// Whether an extended regular expression is found in a text, as grep sees it.
fn matches(pattern: &str, text: &str) -> bool {
    let mut grep = Command::new("grep")
        .args(["-qE", "-e", pattern])
        .stdin(Stdio::piped())
        .spawn()
        .expect("every Debian has grep");
    // It may have found it and left before it has read all.
    drop(grep.stdin.take().expect("piped").write_all(text.as_bytes()));
    let code = grep.wait().expect("it ends").code();
    assert!(matches!(code, Some(0 | 1)), "{pattern} is no regular expression");
    code == Some(0)
}

#[test]
fn what_may_be_empty_is_little_and_every_line_of_it_is_about_a_query() {
    let allowed = allowed();
    assert!((1..=40).contains(&allowed.len()));
    let boards = boards::boards();
    let queries: Vec<_> = boards.iter().flat_map(|(_, board)| boards::queries(board)).collect();
    for pattern in allowed {
        assert!(queries.iter().any(|(_, query)| matches(&pattern, query)), "{pattern} is about no query");
    }
}
