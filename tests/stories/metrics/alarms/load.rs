//! Too many tasks, tasks that nobody does in time, and pools that do not become what they ought to be.

use rollcall::client::Client;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep_until};

use super::Watch;
use crate::metrics::proving::{is_ready, post};
use crate::support::process::{WorkerProcess, free_port};
use crate::support::program;

pub(super) const RAISED: [&str; 6] = [
    "RollcallQueueFilling",
    "RollcallTaskErrorBudgetBurn",
    "RollcallQueueWaitBudgetBurn",
    "RollcallAutoscalerLimited",
    "RollcallAutoscalerHookFailing",
    "RollcallAutoscalerDiverged",
];

/// A pool that is full, one whose hook fails, and one whose instances never come; then as they ought to be.
fn config(late: &str, full: u32, hook: &str, absent: u32) -> String {
    format!(
        "
heartbeat: {{ interval: 500ms }}
queue: {{ max_depth: 200 }}
workers:
  - {{ name: late, endpoint: \"ws://{late}\", capabilities: [again, once] }}
pools:
  - name: full
    worker: {{ interface: mock, capabilities: [full.run], slots: 1, mock: {{ latency: 60s }} }}
    scaling: {{ min: 1, max: {full} }}
  - name: failing
    worker: {{ capabilities: [failing.run] }}
    scaling: {{ min: 1, max: 2, provider: exec, hook: {{ command: [{hook}] }} }}
  - name: absent
    worker: {{ capabilities: [absent.run] }}
    scaling: {{ min: {absent}, max: {absent}, provider: exec, hook: {{ command: [/bin/true] }} }}
"
    )
}

async fn submit(client: &Client, number: usize, task: Value) -> Vec<String> {
    let (status, answer) = post(client, "/v1/tasks/batch", json!({ "tasks": vec![task; number] })).await;
    assert_eq!(status, 200, "{answer}");
    let answers = answer["items"].as_array().expect("answers").clone();
    let id = |answer: &Value| answer["task"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    answers.iter().map(id).collect()
}

#[tokio::test]
async fn what_goes_wrong_with_load_and_pools_is_told_and_passes() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let late = free_port();
    let server = program::Server::start(&config(&late.to_string(), 1, "/bin/false", 3));
    let client = Client::new(server.base()).expect("an address");
    is_ready(&client, "full-1").await;
    let mut watch = Watch::over(server.base(), folder.path()).await;

    // They wait for a worker that comes after the promised 30 seconds.
    let waiting = Instant::now();
    submit(&client, 60, json!({ "capability": "again" })).await;
    // As many as the queue takes, of which nobody does any: they expire.
    submit(&client, 110, json!({ "capability": "once", "queue_timeout": "6s" })).await;
    let busy = submit(&client, 4, json!({ "capability": "full.run" })).await;
    watch.fire(&["RollcallQueueFilling", "RollcallAutoscalerLimited", "RollcallTaskErrorBudgetBurn"]).await;
    watch.fire(&["RollcallAutoscalerHookFailing", "RollcallAutoscalerDiverged"]).await;

    // What was wrong with the pools is mended, and nobody fills the one that is full any more.
    let listen = std::fs::read_to_string(server.config()).expect("it is there");
    let listen = listen.lines().next().expect("where it listens").to_owned();
    let mended = config(&late.to_string(), 8, "/bin/true", 1);
    std::fs::write(server.config(), format!("{listen}\n{mended}")).expect("it can be written");
    for id in busy {
        post(&client, &format!("/v1/tasks/{id}/cancel"), Value::Null).await;
    }
    sleep_until(waiting + Duration::from_secs(31)).await;
    let _late = WorkerProcess::listen("late", late, folder.path());
    watch.fire(&["RollcallQueueWaitBudgetBurn"]).await;
    watch.fall(&RAISED).await;
    watch.told(&RAISED);
}
