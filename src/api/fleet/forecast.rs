//! `POST /v1/pools/simulate`: what pools were asked for, run through the rule that is in force and
//! through that of another file.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::topology::MAX_FILE;
use crate::api::AppState;
use crate::api::http::body::{self, Reply, json_of};
use crate::api::http::problem::{self, Refused};
use crate::config::listed;
use crate::fleet::autoscaler::{Demand, Forecast, Instance, forecast};
use crate::fleet::{PoolSpec, Scaling};
use crate::manager::CallError;

/// One pool: what was recorded of it, and the two rules.
struct Question {
    demand: Vec<Demand>,
    instance: Instance,
    old: Arc<PoolSpec>,
    new: Arc<PoolSpec>,
}

/// Answers for every pool that the server and the file both have.
pub(crate) async fn simulate(state: &AppState, request: Request<Incoming>) -> Reply {
    let body = body::read(request.into_body(), MAX_FILE).await?;
    let text = String::from_utf8(body.into())
        .map_err(|error| problem::CONFIG_REJECTED.with(format!("the file is no UTF-8: {error}")))?;
    let config = state.desired().read("request", text).await.map_err(|problems| {
        Refused::new(problem::CONFIG_REJECTED.with(listed(&problems)).problems(&problems))
    })?;
    let board = state.manager().pools();
    let questions: Vec<Question> = board
        .all()
        .iter()
        .filter_map(|view| {
            let new = config.topology.pools.get(&view.spec.name)?.clone();
            let (demand, instance) = board.recorded(view);
            Some(Question { demand, instance, old: view.spec.clone(), new })
        })
        .collect();
    // A day of a pool is a tenth of a second's work.
    let told = tokio::task::spawn_blocking(move || questions.iter().map(answer).collect::<Vec<Value>>());
    let items = told.await.map_err(|_| CallError::Stopped)?;
    Ok(json_of(StatusCode::OK, &json!({ "items": items })))
}

fn answer(question: &Question) -> Value {
    let Question { demand, instance, old, new } = question;
    let told = |scaling: &Scaling| form(&forecast(demand, *instance, scaling));
    json!({
        "pool": old.name,
        "recorded_seconds": demand.iter().map(|span| u64::from(span.seconds)).sum::<u64>(),
        "slots": instance.slots,
        "start_seconds": instance.starts.as_secs_f64(),
        "old": told(&old.scaling),
        "new": told(&new.scaling),
    })
}

fn form(told: &Forecast) -> Value {
    let number = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    json!({
        "tasks": told.tasks,
        "worker_hours": number(told.worker_seconds) / 3_600.0,
        "wait_mean_seconds": told.waited.as_secs_f64() / number(told.tasks.max(1)),
        "wait_p95_seconds": told.wait_p95.as_secs(),
        "wait_most_seconds": told.wait_most.as_secs(),
        "changes": told.changes,
        "flaps": told.flaps,
        "most_workers": told.most,
    })
}
