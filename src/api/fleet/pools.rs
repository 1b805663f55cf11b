//! The routes about pools: how they are, what was decided and why, and a person's words.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::decision_form::{decided, decision};
use super::workers::operator;
use crate::api::AppState;
use crate::api::http::body::{self, Answer, Reply, json_of};
use crate::api::http::json::time_text;
use crate::api::tasks::{checked_text, not_json};
use crate::config::{Config, spelled};
use crate::fleet::{PoolName, PoolView, PoolWord, Refusal, Scaling, Wall};
use crate::manager::pools::DemandPoint;

/// `GET /v1/pools`
pub(crate) fn list(state: &AppState) -> Answer {
    let items: Vec<Value> = state.manager().pools().all().iter().map(form).collect();
    json_of(StatusCode::OK, &json!({ "items": items, "next_cursor": null }))
}

/// `GET /v1/pools/{name}`
pub(crate) fn get(state: &AppState, name: &str) -> Reply {
    let view = state.manager().pools().get(name).ok_or(Refusal::NoSuchPool)?;
    Ok(json_of(StatusCode::OK, &form(&view)))
}

/// `GET /v1/pools/{name}/decisions`
pub(crate) fn decisions(state: &AppState, name: &str) -> Reply {
    let view = state.manager().pools().get(name).ok_or(Refusal::NoSuchPool)?;
    let told = state.manager().pools().decisions(&view.spec.name);
    let items: Vec<Value> = told.iter().map(|told| decided(told, &view.spec.scaling)).collect();
    Ok(json_of(StatusCode::OK, &json!({ "items": items, "next_cursor": null })))
}

/// `GET /v1/pools/{name}/demand`
pub(crate) fn demand(state: &AppState, name: &str) -> Reply {
    let view = state.manager().pools().get(name).ok_or(Refusal::NoSuchPool)?;
    let points = state.manager().pools().demand(&view.spec.name);
    let body = json!({
        "pool": view.spec.name,
        "slots": view.last.as_ref().map(|last| last.inputs.slots),
        "scaling": scaling(&view.spec.scaling),
        "points": points.iter().map(point).collect::<Vec<_>>(),
    });
    Ok(json_of(StatusCode::OK, &body))
}

fn point(point: &DemandPoint) -> Value {
    json!({
        "at": time_text(point.at),
        "arrived": point.arrived,
        "work_seconds": point.work.as_secs_f64(),
        "waiting": point.waiting,
        "running": point.running,
        "desired": point.desired,
    })
}

/// What `scale` is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scale {
    to: u32,
}

/// `POST /v1/pools/{name}/scale`
pub(crate) async fn scale(
    state: &AppState,
    config: &Config,
    name: &str,
    request: Request<Incoming>,
) -> Reply {
    let by = operator(request.headers())?;
    let body = body::read(request.into_body(), config.server.max_body).await?;
    let asked: Scale = serde_json::from_str(checked_text(&body)?)
        .map_err(|error| not_json(&error, "a size, such as {\"to\": 4}"))?;
    state.manager().pool_word(PoolWord::Scale(PoolName::from(name), asked.to), by).await?;
    get(state, name)
}

/// `POST /v1/pools/{name}/pause` and `resume`.
pub(crate) async fn say(
    state: &AppState,
    name: &str,
    word: impl FnOnce(PoolName) -> PoolWord,
    request: &Request<Incoming>,
) -> Reply {
    let by = operator(request.headers())?;
    state.manager().pool_word(word(PoolName::from(name)), by).await?;
    get(state, name)
}

fn form(view: &PoolView) -> Value {
    let time = |at: Option<Wall>| at.map(time_text);
    let provider = &view.provider;
    json!({
        "name": view.spec.name,
        "provider": provider.kind.as_str(),
        "desired": view.desired,
        "instances": view.instances,
        "ready": view.ready,
        "draining": view.draining,
        "min": view.min,
        "max": view.max,
        "paused": view.paused.is_some(),
        "paused_by": view.paused.map(|by| view.paused_by.as_deref().unwrap_or(by)),
        "outdated": view.outdated,
        "missing": view.missing,
        "unwanted": view.unwanted,
        "hook": {
            "calling": provider.calling,
            "failures": provider.failures,
            "error": provider.error,
            "retry_at": time(provider.retry_at),
        },
        "last_decision": view.last.as_ref().map(|last| decision(last, &view.spec.scaling)),
        "scaling": scaling(&view.spec.scaling),
    })
}

/// The numbers, under the names of config.yaml. Hooks hold secrets and are left out.
pub(super) fn scaling(scaling: &Scaling) -> Value {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let schedule: Vec<Value> = scaling
        .schedule
        .iter()
        .map(|entry| {
            let days = DAYS.iter().zip(0..).filter(|(_, bit)| entry.days >> bit & 1 == 1);
            let days: Vec<&str> = days.map(|(day, _)| *day).collect();
            json!({ "days": days, "from": clock(entry.from), "to": clock(entry.to), "min": entry.min })
        })
        .collect();
    json!({
        "min": scaling.min,
        "max": scaling.max,
        "target_load": f64::from(scaling.target_load_percent) / 100.0,
        "spare": scaling.spare,
        "upscale_delay": spelled(scaling.upscale_delay),
        "downscale_delay": spelled(scaling.downscale_delay),
        "downscale_to_zero_delay": spelled(scaling.downscale_to_zero_delay),
        "max_step": scaling.max_step,
        "schedule": schedule,
        "paused": scaling.paused,
        "provider": scaling.provider.as_str(),
    })
}
