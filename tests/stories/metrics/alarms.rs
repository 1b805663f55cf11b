//! Faults that are made, and the alerts that they raise: by our own rules with their waits shortened,
//! before a real Prometheus and a real Alertmanager. Each alert falls again once the fault is gone.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::Signal;
use rollcall::client::Client;
use serde_json::{Value, json};

use super::bundle::root;
use super::prometheus::{Alertmanager, Prometheus};
use super::proving::{is_ready, post};
use crate::support::process::{WorkerProcess, free_port};
use crate::support::{eventually, program};

/// Our rules, with seconds in the place of minutes; the service levels' long windows stay.
fn hurried(folder: &Path) -> std::path::PathBuf {
    let ours = std::fs::read_to_string(root().join("monitoring/rules/rollcall.yaml")).expect("it is there");
    let (slos, alerts) = ours.split_once("- name: rollcall.alerts").expect("the group of alerts");
    let line = |line: &str| {
        let line = match line.trim_start().split(' ').next() {
            Some("for:") => "    for: 1s".to_owned(),
            Some("keep_firing_for:") => "    keep_firing_for: 1s".to_owned(),
            _ => line.to_owned(),
        };
        ["1m", "2m", "5m", "10m", "15m"]
            .iter()
            .fold(line, |line, window| line.replace(&format!("[{window}]"), "[4s]"))
    };
    let alerts: Vec<String> = alerts.lines().map(line).collect();
    let text = format!("{slos}- name: rollcall.alerts{}", alerts.join("\n"));
    assert!(text.matches("[4s]").count() > 10 && text.matches("for: 1s").count() > 20);
    let file = folder.join("rules.yaml");
    std::fs::write(&file, text).expect("a file can be written");
    file
}

struct Watch {
    prometheus: Prometheus,
    alertmanager: Alertmanager,
}

impl Watch {
    async fn over(server: &str, folder: &Path) -> Self {
        let alertmanager = Alertmanager::start().await;
        let prometheus = Prometheus::watching(server, &hurried(folder), alertmanager.address).await;
        Self { prometheus, alertmanager }
    }

    async fn firing(&self, alert: &str) -> Vec<Value> {
        self.prometheus.value(&format!(r#"ALERTS{{alertname="{alert}", alertstate="firing"}}"#)).await
    }

    async fn fires(&self, alert: &str) {
        eventually(&format!("{alert} fires"), async || {
            if self.firing(alert).await.is_empty() { Err("it does not".to_owned()) } else { Ok(()) }
        })
        .await;
    }

    async fn falls(&self, alert: &str) {
        eventually(&format!("{alert} falls"), async || {
            let firing = self.firing(alert).await;
            if firing.is_empty() { Ok(()) } else { Err(format!("{firing:?}")) }
        })
        .await;
    }

    /// Waits until Alertmanager holds the alert in this state: `active`, or `suppressed` by another.
    async fn heard(&self, alert: &str, state: &str) {
        eventually(&format!("Alertmanager holds {alert} as {state}"), async || {
            let held = self.alertmanager.alerts(alert).await;
            let found = held.iter().any(|alert| alert["status"]["state"] == state);
            if found { Ok(()) } else { Err(format!("{held:?}")) }
        })
        .await;
    }
}

fn config(victim: SocketAddr) -> String {
    format!(
        "
heartbeat: {{ interval: 500ms }}
retry: {{ initial_interval: 10ms }}
workers:
  - {{ name: broken, interface: mock, capabilities: [broken.run], mock: {{ latency: 1ms, failure_rate: 1.0 }} }}
  - {{ name: victim, endpoint: \"ws://{victim}\", capabilities: [again, once] }}
"
    )
}

#[tokio::test]
async fn faults_raise_their_alerts_and_the_alerts_fall_again() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let victim = free_port();
    let worker = WorkerProcess::listen("victim", victim, folder.path());
    let server = program::Server::start(&config(victim));
    let client = Client::new(server.base()).expect("an address");
    is_ready(&client, "victim").await;
    let watch = Watch::over(server.base(), folder.path()).await;
    // That alerts get through at all.
    watch.heard("RollcallWatchdog", "active").await;

    // A file with a mistake.
    let good = std::fs::read_to_string(server.config()).expect("it is there");
    std::fs::write(server.config(), "workers: [{ nam: x }]\n").expect("it can be written");
    watch.fires("RollcallConfigReloadFailed").await;
    std::fs::write(server.config(), good).expect("it can be written");
    watch.falls("RollcallConfigReloadFailed").await;

    // A task that uses up its attempts.
    let hopeless = json!({ "capability": "broken.run", "max_attempts": 2, "retry": "always" });
    let (status, task) = post(&client, "/v1/tasks?wait=20s", hopeless).await;
    assert_eq!((status, &task["dead_letter"]), (200, &json!(true)), "{task}");
    watch.fires("RollcallDeadLetters").await;
    watch.falls("RollcallDeadLetters").await;

    // A worker dies, and with it the only one of its capability.
    worker.kill();
    let (status, task) = post(&client, "/v1/tasks", json!({ "capability": "again" })).await;
    assert_eq!(status, 202, "{task}");
    for alert in ["RollcallNoWorkerForCapability", "RollcallWorkerDown", "RollcallPoolDegraded"] {
        watch.fires(alert).await;
    }
    // The pool says it for its workers.
    watch.heard("RollcallPoolDegraded", "active").await;
    watch.heard("RollcallWorkerDown", "suppressed").await;
    let _back = WorkerProcess::listen("victim", victim, folder.path());
    for alert in ["RollcallNoWorkerForCapability", "RollcallWorkerDown", "RollcallPoolDegraded"] {
        watch.falls(alert).await;
    }

    // The server hangs.
    server.signal(Signal::SIGSTOP);
    watch.fires("RollcallDown").await;
    server.signal(Signal::SIGCONT);
    watch.falls("RollcallDown").await;
}
