//! Faults that are made, and the alerts that they raise: by our own rules with their times shortened,
//! before a real Prometheus and a real Alertmanager. Each alert falls again once the fault is gone. An
//! alert that no story raises has its reason here.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bundle::{alerts, root};
use super::prometheus::{Alertmanager, Prometheus, Version};

mod configuration;
mod doors;
mod hanging;
mod load;
mod store;
mod workers;

/// A fault must show, and must go, within this: some wait for a backoff.
const PATIENCE: Duration = Duration::from_secs(60);

/// Alerts that no story raises, and why.
const NOT_RAISED: [(&str, &str); 3] = [
    ("RollcallQueueStalled", "a task must have waited for five minutes, which no shorter window changes"),
    ("RollcallPanics", "a panic is a bug, and nothing that can be asked of a server makes one"),
    ("RollcallWatchdog", "it always fires, so it never falls; each story waits for it first"),
];

#[test]
fn every_alert_is_raised_by_a_fault_or_says_why_not() {
    let stories: [&[&str]; 6] = [
        &workers::RAISED,
        &configuration::RAISED,
        &doors::RAISED,
        &load::RAISED,
        &store::RAISED,
        &hanging::RAISED,
    ];
    let raised: BTreeSet<String> = stories.concat().into_iter().map(str::to_owned).collect();
    let excused: BTreeSet<String> = NOT_RAISED.iter().map(|(alert, _)| (*alert).to_owned()).collect();
    assert!(raised.is_disjoint(&excused), "raised, and excused all the same");
    assert_eq!(raised.union(&excused).cloned().collect::<BTreeSet<_>>(), alerts());
}

/// A rules file with the times taken out: what is left is what the alerts say.
fn timeless(rules: &str) -> String {
    let line = |line: &str| match line.trim_start().split(' ').next() {
        Some("for:") => "for".to_owned(),
        Some("keep_firing_for:") => "keep".to_owned(),
        _ => with_windows(line, |_| "_"),
    };
    rules.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A line with each window (`[5m]`) replaced by another one, which is chosen by its unit.
fn with_windows(line: &str, other: impl Fn(char) -> &'static str) -> String {
    let mut parts = line.split('[');
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let window = part.split_once(']').and_then(|(window, rest)| {
            let unit = window.chars().last()?;
            let number = window.strip_suffix(unit)?;
            let is_one = "smhd".contains(unit) && number.parse::<u32>().is_ok();
            is_one.then(|| format!("[{}]{rest}", other(unit)))
        });
        made.push_str(&window.unwrap_or_else(|| format!("[{part}")));
    }
    made
}

/// Our rules, with seconds in the place of minutes, hours and days. Nothing else of them changes.
fn hurried(folder: &Path) -> PathBuf {
    let ours = std::fs::read_to_string(root().join("monitoring/rules/rollcall.yaml")).expect("it is there");
    let line = |line: &str| match line.trim_start().split(' ').next() {
        Some("for:") => "    for: 1s".to_owned(),
        Some("keep_firing_for:") => "    keep_firing_for: 1s".to_owned(),
        _ => with_windows(line, |unit| if unit == 'm' { "8s" } else { "15s" }),
    };
    let text = ours.lines().map(line).collect::<Vec<_>>().join("\n");
    assert_eq!(timeless(&text), timeless(&ours));
    assert!(text.matches("[8s]").count() > 10 && text.matches("[15s]").count() > 10);
    let file = folder.join("rules.yaml");
    std::fs::write(&file, text).expect("a file can be written");
    file
}

/// Prometheus and Alertmanager over a server, and what they have seen.
struct Watch {
    prometheus: Prometheus,
    alertmanager: Alertmanager,
    raised: BTreeSet<&'static str>,
    fallen: BTreeSet<&'static str>,
}

impl Watch {
    /// Ready when the watchdog has come through: alerts get to Alertmanager at all.
    async fn over(server: &str, folder: &Path) -> Self {
        Self::over_all(server, &[], folder).await
    }

    async fn over_all(server: &str, others: &[SocketAddr], folder: &Path) -> Self {
        let alertmanager = Alertmanager::start().await;
        let rules = hurried(folder);
        let prometheus =
            Prometheus::run(Version::Installed, server, others, &rules, alertmanager.address).await;
        let watch = Self { prometheus, alertmanager, raised: BTreeSet::new(), fallen: BTreeSet::new() };
        watch.heard("RollcallWatchdog", "active").await;
        watch
    }

    async fn firing(&self, alert: &str) -> Vec<Value> {
        self.prometheus.value(&format!(r#"ALERTS{{alertname="{alert}", alertstate="firing"}}"#)).await
    }

    /// Waits until all of these fire.
    async fn fire(&mut self, alerts: &[&'static str]) {
        self.fire_while(alerts, async || {}).await;
    }

    /// The same, and makes the fault again and again until then.
    async fn fire_while(&mut self, alerts: &[&'static str], mut fault: impl AsyncFnMut()) {
        let until = Instant::now() + PATIENCE;
        let mut missing = alerts.to_vec();
        while !missing.is_empty() {
            assert!(Instant::now() < until, "{missing:?} did not fire; there are {:?}", self.all().await);
            fault().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut still = Vec::new();
            for alert in missing {
                if self.firing(alert).await.is_empty() {
                    still.push(alert);
                } else {
                    self.raised.insert(alert);
                }
            }
            missing = still;
        }
    }

    /// Waits until none of these fires any more.
    async fn fall(&mut self, alerts: &[&'static str]) {
        let until = Instant::now() + PATIENCE;
        for alert in alerts {
            assert!(self.raised.contains(alert), "{alert} never fired");
            loop {
                let firing = self.firing(alert).await;
                if firing.is_empty() {
                    break;
                }
                assert!(Instant::now() < until, "{alert} does not fall: {firing:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.fallen.insert(alert);
        }
    }

    async fn all(&self) -> Vec<Value> {
        self.prometheus.value("ALERTS").await
    }

    /// Waits until Alertmanager holds the alert in this state: `active`, or `suppressed` by another.
    async fn heard(&self, alert: &str, state: &str) {
        crate::support::eventually(&format!("Alertmanager holds {alert} as {state}"), async || {
            let held = self.alertmanager.alerts(alert).await;
            let found = held.iter().any(|alert| alert["status"]["state"] == state);
            if found { Ok(()) } else { Err(format!("{held:?}")) }
        })
        .await;
    }

    /// The story is told: it has raised what it is known for, and all of that has fallen.
    fn told(&self, known: &[&'static str]) {
        let known: BTreeSet<&str> = known.iter().copied().collect();
        assert_eq!((&self.raised, &self.fallen), (&known, &known));
    }
}

#[test]
fn only_windows_are_replaced() {
    let line = r#"expr: 'predict_linear(x{a=~"[0-9]+"}[1h], 14400) > y[5m] + z[abc] + w["5m"]'"#;
    let made = with_windows(line, |unit| if unit == 'm' { "5s" } else { "10s" });
    assert_eq!(made, r#"expr: 'predict_linear(x{a=~"[0-9]+"}[10s], 14400) > y[5s] + z[abc] + w["5m"]'"#);
}
