//! `GET /v1/status`: the whole server in one look.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::worker_form::time;
use crate::api::AppState;
use crate::api::http::body::{Reply, json_of};
use crate::fleet::{CapabilityStats, FleetStats, PROBE, WorkerView};
use crate::manager::Snapshot;
use crate::manager::desired::Told;

/// One look.
pub(crate) async fn get(state: &AppState) -> Reply {
    let manager = state.manager();
    let stats = manager.stats().await?;
    let snapshot = manager.workers();
    let reload = state.desired().status();
    // The server's own probes are a matter of its metrics.
    let callers = stats.capabilities.iter().filter(|(capability, _)| capability.as_str() != PROBE);
    let queues: BTreeMap<_, _> =
        callers.map(|(capability, stats)| (capability.as_str(), queue(stats))).collect();
    let store = manager.store_trouble().map_or_else(|| "ok".to_owned(), |why| why.to_string());
    let body = json!({
        "at": time(Some(SystemTime::now())),
        "version": env!("CARGO_PKG_VERSION"),
        "lifecycle": manager.lifecycle().as_str(),
        "store": store,
        "generation": stats.generation,
        "heartbeat_interval_seconds": manager.topology().settings.heartbeat_interval.as_secs_f64(),
        "pressure": pressure(&stats),
        "capacity": capacity(&snapshot),
        "workers": by_state(&snapshot),
        "queues": queues,
        "last_reload": {
            "successful": reload.last_successful,
            "last_success": time(Some(reload.last_success)),
            "config": reload.hash,
            "problems": reload.problems,
        },
        "reloads": reload.recent.iter().map(told).collect::<Vec<_>>(),
        "task_logs": { "bytes": manager.logs().bytes(), "dropped": manager.logs().dropped() },
    });
    Ok(json_of(StatusCode::OK, &body))
}

/// A reload that changed something or was refused.
fn told(reload: &Told) -> Value {
    json!({
        "at": time(Some(reload.at)),
        "trigger": reload.trigger.as_str(),
        "outcome": reload.outcome.as_str(),
        "summary": &*reload.summary,
    })
}

/// How full the server is; at 1 it refuses tasks.
fn pressure(stats: &FleetStats) -> Value {
    let share = |held: u64, limit: u64| {
        // Exact enough to be shown.
        let [held, limit] = [held, limit.max(1)].map(|number| u32::try_from(number >> 8).unwrap_or(u32::MAX));
        f64::from(held) / f64::from(limit.max(1))
    };
    let ratio = share(stats.depth << 8, stats.max_depth << 8).max(share(stats.bytes, stats.max_bytes));
    json!({
        "ratio": (ratio * 1e4).round() / 1e4,
        "tasks": stats.depth,
        "max_tasks": stats.max_depth,
        "bytes": stats.bytes,
        "max_bytes": stats.max_bytes,
    })
}

fn queue(stats: &CapabilityStats) -> Value {
    let completed: u64 = stats.completed.values().sum();
    json!({
        "queued": stats.queued,
        "delayed": stats.delayed,
        "assigned": stats.assigned,
        "running": stats.running,
        "cancelling": stats.cancelling,
        "unroutable": stats.unroutable,
        "oldest_wait_seconds": stats.oldest_age.as_secs_f64(),
        "completed": completed,
    })
}

fn capacity(snapshot: &Snapshot) -> Value {
    let sum =
        |of: fn(&WorkerView) -> u32| snapshot.workers.iter().map(|view| u64::from(of(view))).sum::<u64>();
    let used = sum(|view| view.slots_used);
    let unavailable = sum(|view| view.slots_unavailable);
    let open = |view: &&std::sync::Arc<WorkerView>| view.state == crate::fleet::WorkerState::Ready;
    let free: u64 = snapshot
        .workers
        .iter()
        .filter(open)
        .map(|view| {
            u64::from(view.slots_total.saturating_sub(view.slots_used).saturating_sub(view.slots_unavailable))
        })
        .sum();
    json!({
        "workers": snapshot.workers.len(),
        "slots": { "total": sum(|view| view.slots_total), "used": used, "unavailable": unavailable, "free": free },
    })
}

/// Workers by state; states that none has are left out.
fn by_state(snapshot: &Snapshot) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for view in &snapshot.workers {
        *counts.entry(view.state.as_str()).or_default() += 1;
    }
    counts
}
