//! Workers that die, flap, stall, answer too late, and tasks that they cannot do.

use nix::sys::signal::Signal;
use rollcall::client::Client;
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::Watch;
use crate::metrics::proving::{is_ready, post};
use crate::support::process::{WorkerProcess, free_port};
use crate::support::program;
use crate::support::scripted::{Scripted, about, introduction};

pub(super) const RAISED: [&str; 9] = [
    "RollcallDeadLetters",
    "RollcallRetryBudgetExhausted",
    "RollcallWorkerFlapping",
    "RollcallZombieResults",
    "RollcallHeartbeatsLate",
    "RollcallMassDisconnect",
    "RollcallNoWorkerForCapability",
    "RollcallWorkerDown",
    "RollcallPoolDegraded",
];

/// Enough that their end is one of many: an alert wants more than five.
const CROWD: usize = 7;

#[tokio::test]
async fn what_goes_wrong_with_workers_is_told_and_passes() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let crowd: Vec<_> = (0..CROWD).map(|n| (format!("worker-{n}"), free_port())).collect();
    let entries: String = crowd
        .iter()
        .map(|(name, at)| {
            format!("  - {{ name: {name}, endpoint: \"ws://{at}\", capabilities: [strict] }}\n")
        })
        .collect();
    let config = format!(
        "
heartbeat: {{ interval: 500ms }}
retry: {{ initial_interval: 10ms }}
workers:
  - {{ name: broken, interface: mock, capabilities: [broken.run], slots: 16, mock: {{ latency: 1ms, failure_rate: 1.0 }} }}
  - {{ name: scripted, capabilities: [again, once] }}
{entries}"
    );
    let server = program::Server::start(&config);
    let client = Client::new(server.base()).expect("an address");
    let all =
        || crowd.iter().map(|(name, at)| WorkerProcess::listen(name, *at, folder.path())).collect::<Vec<_>>();
    let processes = all();
    for (name, _) in &crowd {
        is_ready(&client, name).await;
    }
    let mut watch = Watch::over(server.base(), folder.path()).await;

    // More fails than may be tried again, and all of it uses up its attempts.
    let hopeless = json!({ "capability": "broken.run", "max_attempts": 3, "retry": "always" });
    let tasks = vec![hopeless; 60];
    watch
        .fire_while(&["RollcallDeadLetters", "RollcallRetryBudgetExhausted"], async || {
            let (status, answer) = post(&client, "/v1/tasks/batch", json!({ "tasks": tasks })).await;
            assert_eq!(status, 200, "{answer}");
            sleep(Duration::from_secs(1)).await;
        })
        .await;

    // One that comes and goes.
    watch
        .fire_while(&["RollcallWorkerFlapping"], async || {
            let mut flapping = Scripted::dial_at(server.base()).await;
            flapping.say(introduction("scripted", "first", json!([]))).await;
            flapping.hear("registered").await;
        })
        .await;

    // One that goes on reporting what has been taken from it.
    let mut zombie = Scripted::dial_at(server.base()).await;
    zombie.say(introduction("scripted", "first", json!([]))).await;
    zombie.hear("registered").await;
    let (status, task) = post(&client, "/v1/tasks", json!({ "capability": "again" })).await;
    assert_eq!(status, 202, "{task}");
    let first = zombie.hear("execute").await;
    zombie.say(about(&first, json!({ "type": "rejected", "reason": "busy", "retryable": true }))).await;
    let second = zombie.hear("execute").await;
    assert_eq!(first["task"], second["task"]);
    watch
        .fire_while(&["RollcallZombieResults"], async || {
            for _ in 0..6 {
                let late = json!({ "type": "result", "status": "succeeded", "output": "late" });
                zombie.say(about(&first, late)).await;
            }
        })
        .await;
    let end = json!({ "type": "result", "status": "succeeded", "output": "in time" });
    zombie.say(about(&second, end)).await;
    drop(zombie);

    // All of them stall, again and again, each time for longer than an interval.
    watch
        .fire_while(&["RollcallHeartbeatsLate"], async || {
            processes.iter().for_each(|worker| worker.signal(Signal::SIGSTOP));
            sleep(Duration::from_millis(700)).await;
            processes.iter().for_each(|worker| worker.signal(Signal::SIGCONT));
            sleep(Duration::from_millis(100)).await;
        })
        .await;

    // All of them die, and with them the only ones of their capability.
    let waits = json!({ "capability": "strict", "input": {} });
    processes.into_iter().for_each(WorkerProcess::kill);
    let (status, task) = post(&client, "/v1/tasks", waits).await;
    assert_eq!(status, 202, "{task}");
    let gone = [
        "RollcallMassDisconnect",
        "RollcallNoWorkerForCapability",
        "RollcallWorkerDown",
        "RollcallPoolDegraded",
    ];
    watch.fire(&gone).await;
    // The pool says it for its workers.
    watch.heard("RollcallPoolDegraded", "active").await;
    watch.heard("RollcallWorkerDown", "suppressed").await;

    let _back = all();
    let mut scripted = Scripted::dial_at(server.base()).await;
    scripted.say(introduction("scripted", "first", json!([]))).await;
    scripted.hear("registered").await;
    // It must go on telling that it lives for as long as its alerts are waited for.
    let beats = tokio::spawn(async move {
        loop {
            scripted.say(json!({ "type": "heartbeat", "running": [] })).await;
            sleep(Duration::from_millis(300)).await;
        }
    });
    watch.fall(&RAISED).await;
    beats.abort();
    watch.told(&RAISED);
}
