//! The routes about workers: looking, a person's words, and workers that live beside the file's.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Request, StatusCode};
use serde_json::json;

use super::worker_form::write;
use crate::api::AppState;
use crate::api::http::body::{self, Answer, Reply, json, json_of};
use crate::api::http::problem::{self, Problem, Refused};
use crate::api::http::query::invalid;
use crate::api::tasks::{checked_text, not_json};
use crate::config::Config;
use crate::fleet::{OperatorWord, Refusal, WorkerName, WorkerView};
use crate::manager::desired::{AddRefused, RemoveRefused};
use crate::supervise::ProcessStatus;

/// Says who gives a worker a word; no proof of it.
const OPERATOR: HeaderName = HeaderName::from_static("rollcall-operator");
/// Bytes of such a name at most.
const MAX_OPERATOR: usize = 64;
/// How long a worker that was added may take to be shown.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// `GET /v1/workers/{name}`
pub(crate) fn get(state: &AppState, name: &str) -> Reply {
    let snapshot = state.manager().workers();
    let worker = snapshot.worker(name).ok_or(Refusal::NoSuchWorker)?;
    Ok(one(state, StatusCode::OK, worker))
}

/// `POST /v1/workers/{name}/cordon` and its like.
pub(crate) async fn say(
    state: &AppState,
    name: &str,
    word: impl FnOnce(WorkerName) -> OperatorWord,
    request: &Request<Incoming>,
) -> Reply {
    let by = operator(request.headers())?;
    state.manager().operator(word(WorkerName::from(name)), by).await?;
    get(state, name)
}

/// Whose word it is, as that person says.
pub(super) fn operator(headers: &HeaderMap) -> Result<Option<Arc<str>>, Refused> {
    let Some(name) = headers.get(OPERATOR) else { return Ok(None) };
    match name.to_str() {
        Ok(name) if (1..=MAX_OPERATOR).contains(&name.len()) => Ok(Some(name.into())),
        Ok(_) | Err(_) => {
            Err(invalid("Rollcall-Operator", "must be a name of 1 to 64 ASCII characters").into())
        }
    }
}

/// `POST /v1/workers/{name}/probe`
pub(crate) async fn probe(state: &AppState, name: &str) -> Reply {
    let snapshot = state.manager().workers();
    let worker = snapshot.worker(name).ok_or(Refusal::NoSuchWorker)?;
    let Some(rtt) = state.manager().probe(worker.name.clone()).await? else {
        return Err(problem::NO_ANSWER
            .with(format!("{name} is {} and did not answer", worker.state.as_str()))
            .retry_after(1)
            .into());
    };
    let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
    Ok(json_of(StatusCode::OK, &json!({ "worker": name, "rtt_ms": f64::from(micros) / 1e3 })))
}

/// `POST /v1/workers`
pub(crate) async fn add(state: &AppState, config: &Config, request: Request<Incoming>) -> Reply {
    let body = body::read(request.into_body(), config.server.max_body).await?;
    let entry = serde_json::from_str(checked_text(&body)?).map_err(|error| not_json(&error, WORKER))?;
    let entry = state.desired().worker_from_json(&entry).map_err(|problems| {
        let wrong = problem::INVALID_FIELD.with(crate::config::listed(&problems));
        Refused::new(wrong.hint("an entry has the fields of `workers:` in config.yaml").problems(&problems))
    })?;
    let name = entry.0.name.clone();
    state.desired().add_worker(entry).await.map_err(|refused| Refused::new(not_added(refused, &name)))?;
    let mut answer = shown(state, &name).await;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/workers/{name}")) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

/// What an entry looks like.
const WORKER: &str =
    r#"an entry looks like {"name":"python-2","interface":"websocket","endpoint":"ws://127.0.0.1:3011"}"#;

/// The new worker, as soon as the snapshot has it.
async fn shown(state: &AppState, name: &WorkerName) -> Answer {
    let appears = async {
        loop {
            if let Some(worker) = state.manager().workers().worker(name.as_str()) {
                return one(state, StatusCode::CREATED, worker);
            }
            state.manager().workers_changed().await;
        }
    };
    tokio::time::timeout(SHOWN_WITHIN, appears)
        .await
        .unwrap_or_else(|_| json_of(StatusCode::CREATED, &json!({ "name": name })))
}

fn not_added(refused: AddRefused, name: &WorkerName) -> Problem {
    match refused {
        AddRefused::NameTaken { by: Some((file, line)) } => problem::NAME_TAKEN
            .with(format!("{name:?} is an entry of {file}, line {line}"))
            .hint("edit it there, or take another name"),
        AddRefused::NameTaken { by: None } => problem::NAME_TAKEN
            .with(format!("{name:?} was added before"))
            .hint("remove it first, or take another name"),
        AddRefused::EndpointTaken { by } => {
            problem::ENDPOINT_TAKEN.with(format!("worker {by:?} has this endpoint; endpoints must differ"))
        }
        AddRefused::TooMany => problem::TOO_MANY_WORKERS.with("remove some first"),
        AddRefused::Stopped => Refusal::Draining.into(),
    }
}

/// `DELETE /v1/workers/{name}`
pub(crate) async fn remove(state: &AppState, name: &str) -> Reply {
    let name = WorkerName::from(name);
    let removed = state.desired().remove_worker(&name).await.map_err(|refused| {
        Refused::new(match refused {
            RemoveRefused::InFile { file, line } => problem::WORKER_IN_FILE
                .with(format!("{name:?} is an entry of {file}, line {line}"))
                .hint("remove the entry there; the server takes it up at once"),
            RemoveRefused::NoSuchWorker => Refusal::NoSuchWorker.into(),
            RemoveRefused::Stopped => Refusal::Draining.into(),
        })
    })?;
    Ok(super::topology::reloaded(StatusCode::ACCEPTED, &removed))
}

pub(super) fn program(state: &AppState, worker: &WorkerView) -> Option<ProcessStatus> {
    if worker.launched { state.manager().program(&worker.name) } else { None }
}

fn one(state: &AppState, status: StatusCode, worker: &WorkerView) -> Answer {
    let mut out = Vec::with_capacity(1_024);
    write(&mut out, worker, program(state, worker), true);
    json(status, out)
}
