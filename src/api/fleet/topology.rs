//! The desired fleet: showing it, planning a change, and reading the file again.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::worker_form::origin;
use crate::api::AppState;
use crate::api::http::body::{self, Answer, Reply, json_of};
use crate::api::http::problem::{self, Refused};
use crate::api::http::query::Query;
use crate::config::{Config, Trigger, listed, spelled};
use crate::fleet::{InterfaceKind, PoolSpec, Refusal, Settings, WorkerSpec};
use crate::manager::desired::{ReloadRejected, Reloaded};

/// The largest file that can be planned; topologies of 10,000 entries are a few MiB.
pub(super) const MAX_FILE: u64 = 16 << 20;

/// `POST /-/reload`
pub(crate) async fn reload(state: &AppState, request: &Request<Incoming>) -> Reply {
    let query = Query::read(request.uri().query(), &["allow_mass_removal"])?;
    let allow = query.parsed("allow_mass_removal", "true or false")?.unwrap_or(false);
    match state.desired().reload(Trigger::Api, allow).await {
        Ok(taken) => Ok(reloaded(StatusCode::OK, &taken)),
        Err(ReloadRejected::Stopped) => Err(Refusal::Draining.into()),
        Err(rejected) => {
            let wrong = problem::CONFIG_REJECTED.with(rejected.to_string()).code(rejected.code());
            let wrong = wrong.hint("what was in force stays in force; mend the file and reload again");
            Err(wrong.problems(rejected.problems()).into())
        }
    }
}

/// What a generation changed.
pub(super) fn reloaded(status: StatusCode, taken: &Reloaded) -> Answer {
    let body = json!({
        "generation": taken.generation,
        "unchanged": taken.unchanged,
        "summary": crate::config::describe(taken.generation, &taken.diff, None),
        "diff": *taken.changes,
        "warnings": taken.warnings,
    });
    json_of(status, &body)
}

/// `POST /v1/topology/plan`, with the file as the body.
pub(crate) async fn plan(state: &AppState, request: Request<Incoming>) -> Reply {
    let body = body::read(request.into_body(), MAX_FILE).await?;
    let text = String::from_utf8(body.into())
        .map_err(|error| problem::CONFIG_REJECTED.with(format!("the file is no UTF-8: {error}")))?;
    match state.desired().plan("request", text).await {
        Ok(plan) => Ok(json_of(StatusCode::OK, &plan)),
        Err(problems) => {
            let wrong = problem::CONFIG_REJECTED.with(listed(&problems)).problems(&problems);
            Err(Refused::new(wrong))
        }
    }
}

/// `GET /v1/topology`
pub(crate) fn get(state: &AppState, config: &Config) -> Answer {
    let topology = state.manager().topology();
    let workers: Vec<Value> =
        topology.workers.values().map(|spec| worker(spec, config.lines.get(&spec.name).copied())).collect();
    let body = json!({
        "generation": topology.generation,
        "file": config.file,
        "hash": config.hash,
        "workers": workers,
        "pools": topology.pools.values().map(|spec| pool(spec, config)).collect::<Vec<_>>(),
        "settings": settings(&topology.settings),
    });
    json_of(StatusCode::OK, &body)
}

/// A pool's entry.
fn pool(spec: &PoolSpec, config: &Config) -> Value {
    let mut template = worker(&spec.template, None);
    if let Some(fields) = template.as_object_mut() {
        for field in ["name", "formerly", "origin", "line", "pool"] {
            fields.remove(field);
        }
    }
    json!({
        "name": spec.name,
        "formerly": spec.formerly,
        "line": config.pool_lines.get(&spec.name),
        "worker": template,
        "scaling": super::pools::scaling(&spec.scaling),
    })
}

/// An entry. A launched program's environment may hold secrets: only its names are shown.
fn worker(spec: &WorkerSpec, line: Option<u32>) -> Value {
    let launch = spec
        .launch
        .as_ref()
        .map(|launch| json!({ "command": launch.command, "env": launch.env.keys().collect::<Vec<_>>() }));
    let interface = match spec.interface {
        InterfaceKind::Websocket => "websocket",
        InterfaceKind::Mock => "mock",
    };
    json!({
        "name": spec.name,
        "formerly": spec.formerly,
        "origin": origin(spec.origin),
        "line": line,
        "pool": spec.pool,
        "interface": interface,
        "endpoint": spec.endpoint,
        "capabilities": spec.capabilities,
        "slots": spec.slots,
        "timeout": spelled(spec.timeout),
        "labels": spec.labels,
        "launch": launch,
        "mock": {
            "latency": spelled(spec.mock.latency),
            "failure_rate": f64::from(spec.mock.failures_per_million) / 1e6,
            "seed": spec.mock.seed,
        },
    })
}

/// The numbers, under the names of config.yaml.
fn settings(settings: &Settings) -> Value {
    let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
    json!({
        "heartbeat": {
            "interval": spelled(settings.heartbeat_interval),
            "suspect_after": spelled(settings.suspect_after),
            "timeout": spelled(settings.heartbeat_timeout),
            "lease": spelled(settings.lease),
        },
        "reconnect": {
            "initial_backoff": spelled(settings.initial_backoff),
            "max_backoff": spelled(settings.max_backoff),
            "multiplier": percent(settings.backoff_multiplier_percent),
            "jitter": percent(settings.backoff_jitter_percent),
        },
        "reload": { "removal_grace": settings.removal_grace.map(spelled) },
        "health": {
            "consecutive_failures": settings.consecutive_failures,
            "base_ejection_time": spelled(settings.base_ejection),
            "max_ejection_time": spelled(settings.max_ejection),
            "max_ejection_percent": settings.max_ejection_percent,
        },
        "queue": {
            "max_depth": settings.max_depth,
            "max_bytes": settings.max_bytes,
            "queue_timeout": spelled(settings.queue_timeout),
            "fairness_weights": settings.fairness_weights,
        },
        "retry": {
            "max_attempts": settings.max_attempts,
            "initial_interval": spelled(settings.retry_initial),
            "backoff_coefficient": percent(settings.retry_coefficient_percent),
            "max_interval": spelled(settings.retry_max),
        },
    })
}
