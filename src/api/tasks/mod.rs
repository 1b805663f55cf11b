//! The routes about tasks.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Request, StatusCode};
use sha2::{Digest, Sha256};

use super::AppState;
use super::http::body::{self, Answer, Reply, json};
use super::http::json::{Object, write_list};
use super::http::problem::{self, Problem, Refused};
use super::http::query::{Query, invalid};
use super::routes::LIST_QUERY;
use crate::config::Config;
use crate::fleet::{
    Capability, Deadline, KeyHash, Refusal, Source, TaskId, TaskRecord, TaskState, Tenant, WorkerName,
    is_traceparent,
};
use crate::manager::{Ask, Submitted};
use crate::store;

mod ask;
pub(super) mod batch;
pub(super) mod events;
pub(super) mod json_form;
mod placement;
mod wait;

pub(super) use ask::{checked_text, not_json};

/// Tasks on a page of a list, unless the request says another number.
const PAGE: usize = 50;
/// Tasks on a page at most.
const MAX_PAGE: usize = 500;
/// The longest that a caller may wait.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Bytes of an `Idempotency-Key` at most.
const MAX_KEY: usize = 128;

/// Bytes of JSON that are read on the thread that dispatches, too.
const INLINE: usize = 64 << 10;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// `POST /v1/tasks`
pub(super) async fn submit(state: &AppState, config: &Config, request: Request<Incoming>) -> Reply {
    let patience = wait::patience(request.uri().query(), request.headers())?;
    let key = idempotency_key(request.headers())?;
    let traceparent = traceparent(request.headers());
    let body = body::read(request.into_body(), config.server.max_body).await?;
    let mut spec = ask::read(&body)?;
    spec.traceparent = traceparent;
    if patience.is_some() && spec.queue_timeout.is_none() {
        spec.queue_timeout = Some(config.topology.settings.queue_timeout);
    }
    let ask = Ask {
        tenant: Tenant::default_tenant(),
        source: Source::Rest,
        key: key.map(|key| KeyHash { key, body: digest(&body) }),
        spec: Arc::new(spec),
        retry_of: None,
    };
    // The connection's read buffer is free for its next request only once nobody holds a part of it.
    drop(body);
    let submitted = match patience {
        Some(patience) => state.manager().execute(ask, patience).await?,
        // In a box: its future is larger than what is moved for everybody else.
        None => Box::pin(state.manager().submit(ask)).await?,
    };
    Ok(match submitted {
        Submitted::Finished(task) => one(StatusCode::OK, &task),
        Submitted::Accepted(task) => accepted(&task),
        Submitted::Replayed(task) => {
            let mut answer = one(StatusCode::OK, &task);
            answer.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            answer
        }
    })
}

/// `GET /v1/tasks`
pub(super) async fn list(state: &AppState, request: &Request<Incoming>) -> Reply {
    let query = Query::read(request.uri().query(), LIST_QUERY)?;
    let named = |text: &str| TaskState::ALL.into_iter().find(|state| state.as_str() == text);
    let wanted = query.get("state").map(|text| {
        let words = || TaskState::ALL.map(TaskState::as_str).join(", ");
        named(text).ok_or_else(|| Refused::new(invalid("state", format!("must be one of {}", words()))))
    });
    let limit = query.parsed::<usize>("limit", "a number from 1 to 500")?.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(invalid("limit", "must be a number from 1 to 500").into());
    }
    let whole = query.parsed("output", "true or false")?.unwrap_or(true);
    let query = store::Query {
        tenant: Tenant::default_tenant(),
        state: wanted.transpose()?,
        capability: query.get("capability").map(Capability::from),
        worker: query.get("worker").map(WorkerName::from),
        dead_letter: query.parsed("dead_letter", "true or false")?,
        limit,
        before: query.parsed::<TaskId>("cursor", "the `next_cursor` of the page before")?,
    };
    let page = state.manager().tasks(query).await.map_err(Problem::from)?;
    let mut out = Vec::with_capacity(64 + 1_024 * page.items.len());
    let mut object = Object::new(&mut out);
    let write = if whole { json_form::write } else { json_form::write_outline };
    write_list(object.name("items"), &page.items, |out, task| write(out, task));
    let next = page.next.map(|id| id.to_string());
    object.maybe_text("next_cursor", next.as_deref());
    object.end();
    Ok(json(StatusCode::OK, out))
}

/// `GET /v1/tasks/{id}`
pub(super) async fn get(state: &AppState, id: &str) -> Reply {
    Ok(one(StatusCode::OK, &*find(state, id).await?))
}

/// `GET /v1/tasks/{id}/explain`
pub(super) async fn explain(state: &AppState, id: &str) -> Reply {
    let task = find(state, id).await?;
    let explanation = state.manager().explain(task.id).await?;
    let mut out = Vec::with_capacity(512);
    let mut object = Object::new(&mut out);
    object.text("task", id).text("state", task.state.as_str());
    match explanation {
        Some(explanation) => {
            object.text("wait", explanation.wait.as_str()).text("summary", &explanation.summary);
            object.list("workers", &explanation.workers, |out, group| {
                let mut item = Object::new(out);
                item.text("worker", &group.workers).value("count", &group.count);
                item.text("reason", &group.reason);
                item.end();
            });
            object.maybe_text("fix", explanation.fix.as_deref());
        }
        None => {
            object.raw("wait", "null").text("summary", &not_waiting(&task));
            object.raw("workers", "[]").raw("fix", "null");
        }
    }
    object.end();
    Ok(json(StatusCode::OK, out))
}

/// What is to say about a task that does not wait.
fn not_waiting(task: &TaskRecord) -> String {
    let worker = task.attempts.last().map_or("a worker", |attempt| attempt.worker.as_str());
    match task.state {
        TaskState::Queued => {
            let reason = task.pending_reason.as_deref().unwrap_or("its turn has not come yet");
            format!("the task waits: {reason}")
        }
        TaskState::Assigned => {
            format!("the task was handed to {worker}, which has not said yet that it began")
        }
        TaskState::Running => format!("the task runs on {worker}"),
        TaskState::Cancelling => format!("the task was told to stop; {worker} has not confirmed it yet"),
        TaskState::Succeeded => "the task has succeeded".to_owned(),
        TaskState::Failed
        | TaskState::TimedOut
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Lost => {
            let why = task.error.as_ref().map_or_else(String::new, |error| format!(": {}", error.message));
            format!("the task has ended {}{why}", task.state.as_str())
        }
    }
}

/// `POST /v1/tasks/{id}/cancel`
pub(super) async fn cancel(state: &AppState, id: &str) -> Reply {
    let task = state.manager().cancel(&Tenant::default_tenant(), parse(id)?).await?;
    let status = if task.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(one(status, &task))
}

/// `POST /v1/tasks/{id}/retry`
pub(super) async fn retry(state: &AppState, id: &str) -> Reply {
    let task = find(state, id).await?;
    if !task.state.is_final() {
        return Err(problem::NOT_FINAL
            .with(format!("the task is {}", task.state.as_str()))
            .hint("cancel it first, or wait for its end")
            .into());
    }
    let mut spec = state.manager().spec(&task).await?;
    // A time of day that has passed would end the new task at once.
    let now = state.manager().clock().now().wall;
    spec.deadline = spec.deadline.filter(|deadline| match deadline {
        Deadline::At(at) => *at > now,
        Deadline::After(_) => true,
    });
    let ask = Ask {
        tenant: task.tenant.clone(),
        source: Source::Rest,
        key: None,
        spec: Arc::new(spec),
        retry_of: Some(task),
    };
    let (Submitted::Finished(task) | Submitted::Accepted(task) | Submitted::Replayed(task)) =
        state.manager().submit(ask).await?;
    Ok(accepted(&task))
}

/// The task of this id.
pub(super) async fn find(state: &AppState, id: &str) -> Result<Arc<TaskRecord>, Refused> {
    Ok(state.manager().task(&Tenant::default_tenant(), parse(id)?).await?)
}

/// An id that is none names no task.
fn parse(id: &str) -> Result<TaskId, Refused> {
    id.parse().map_err(|_| Refused::from(Refusal::NoSuchTask))
}

fn one(status: StatusCode, task: &TaskRecord) -> Answer {
    let size = 768 + task.output.as_ref().map_or(0, |output| output.as_str().len());
    let mut out = Vec::with_capacity(size);
    json_form::write(&mut out, task);
    json(status, out)
}

fn accepted(task: &TaskRecord) -> Answer {
    let mut answer = one(StatusCode::ACCEPTED, task);
    if let Ok(location) = HeaderValue::try_from(format!("/v1/tasks/{}", task.id)) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// Reads and checks here what is small; what is large, on a thread of its own: the one that answers
/// requests dispatches too.
async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    if bytes <= INLINE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| problem::INTERNAL.with(format!("the request could not be read: {error}")).into())
}

/// The key, as the first 16 bytes of its SHA-256.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<u128>, Refused> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(invalid("Idempotency-Key", "must be of 1 to 128 bytes").into());
    }
    Ok(Some(digest(key)))
}

fn digest(bytes: &[u8]) -> u128 {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    hash.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The W3C trace context, if it has the form of version 00; anything else is left out, as the
/// recommendation asks (Trace Context, section 4.3).
fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    is_traceparent(text).then(|| text.into())
}
