//! `GET /v1/tasks/{id}/events`: a task's log as server-sent events, to the final state.

use std::sync::Arc;

use futures_util::stream;
use hyper::Request;
use hyper::body::Incoming;

use super::json_form;
use crate::api::AppState;
use crate::api::fleet::events::{last_event_id, open};
use crate::api::http::body::Reply;
use crate::api::http::json::Object;
use crate::api::http::problem::{Problem, Refused};
use crate::api::http::pulse::Pulse;
use crate::api::http::sse::{Event, nothing_more, stream as sse};
use crate::data::{Item, StateChange, Subscription, TaskEvent, What};
use crate::fleet::{TaskId, TaskRecord, Tenant};
use crate::manager::Manager;

/// Follows one task.
pub(crate) async fn follow(
    state: &AppState,
    id: &str,
    pulse: &Arc<Pulse>,
    request: &Request<Incoming>,
) -> Reply {
    let manager = state.manager();
    let before = super::find(state, id).await?;
    let guards = open(state, pulse)?;
    let last = last_event_id(request);
    let subscription = match manager.logs().subscribe(&before, last) {
        Some(live) => live,
        None => look_back(manager, &before, last).await?,
    };
    if subscription.is_over() {
        return Ok(nothing_more());
    }
    // The task may have ended between the two calls before its log was there to be told.
    let task = super::find(state, id).await?;
    if task.state.is_final() {
        manager.logs().finish(task.id, &task);
    }
    let watch = Watch { manager: manager.clone(), task: before.id, subscription, last: None };
    Ok(sse(stream::unfold(watch, Watch::next), guards))
}

/// What the store has of a task that has ended.
async fn look_back(
    manager: &Manager,
    task: &TaskRecord,
    last: Option<&str>,
) -> Result<Subscription, Refused> {
    let kept = manager.archive().log(&task.tenant, task.id).await.map_err(Problem::from)?;
    Ok(manager.logs().look_back(task, kept.as_ref(), last))
}

struct Watch {
    manager: Manager,
    task: TaskId,
    subscription: Subscription,
    /// The id of the last event that was told.
    last: Option<String>,
}

impl Watch {
    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            let event = match self.subscription.next().await? {
                Item::Event(event) => self.event(&event),
                Item::Reset(number) => self.reset(number, &*self.record().await?),
                Item::Gone => {
                    let record = self.record().await?;
                    self.subscription = look_back(&self.manager, &record, self.last.as_deref()).await.ok()?;
                    continue;
                }
            };
            self.last = Some(event.id.clone());
            return Some((event, self));
        }
    }

    /// The whole task; `None` when the server has stopped or forgotten it, which ends the stream.
    async fn record(&self) -> Option<Arc<TaskRecord>> {
        self.manager.task(&Tenant::default_tenant(), self.task).await.ok()
    }

    fn reset(&self, number: u64, record: &TaskRecord) -> Event {
        let mut data = Vec::with_capacity(1_024);
        json_form::write(&mut data, record);
        Event { id: self.subscription.event_id(number), event: "reset", data }
    }

    fn event(&self, event: &TaskEvent) -> Event {
        let (name, data) = form(event);
        Event { id: self.subscription.event_id(event.number), event: name, data }
    }
}

/// An event's name and its JSON.
fn form(event: &TaskEvent) -> (&'static str, Vec<u8>) {
    let mut data = Vec::with_capacity(128);
    let mut object = Object::new(&mut data);
    object.time("at", Some(event.at));
    let name = match &event.what {
        What::State(StateChange { state, attempt, worker, reason }) => {
            object.text("state", state.as_str()).value("attempt", attempt);
            object.maybe_text("worker", worker.as_ref().map(|worker| worker.as_str()));
            object.maybe_text("reason", reason.as_deref());
            "state"
        }
        What::Output { stream, epoch, offset, data } => {
            object.text("stream", stream.as_str()).value("epoch", epoch).value("offset", offset);
            object.text("data", data);
            "output"
        }
        What::Progress { fraction, message } => {
            object.value("fraction", fraction).maybe_text("message", message.as_deref());
            "progress"
        }
        What::Artifact(artifact) => {
            json_form::artifact_fields(&mut object, artifact);
            "artifact"
        }
    };
    object.end();
    (name, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Artifact, ContentHash, Epoch, TaskState, Wall};
    use crate::interface::OutputStream;

    fn shown(what: What) -> (&'static str, serde_json::Value) {
        let (name, data) = form(&TaskEvent { number: 1, at: Wall(0), what });
        (name, serde_json::from_slice(&data).expect("it is JSON"))
    }

    #[test]
    fn each_kind_of_event_has_its_form() {
        let at = "1970-01-01T00:00:00.000Z";
        let state =
            StateChange { state: TaskState::Running, attempt: 1, worker: Some("ann".into()), reason: None };
        assert_eq!(
            shown(What::State(state)),
            (
                "state",
                serde_json::json!({"at": at, "state": "running", "attempt": 1, "worker": "ann", "reason": null})
            )
        );
        let output =
            What::Output { stream: OutputStream::Stderr, epoch: Epoch(9), offset: 3, data: "a\n\"".into() };
        assert_eq!(
            shown(output),
            (
                "output",
                serde_json::json!({"at": at, "stream": "stderr", "epoch": 9, "offset": 3, "data": "a\n\""})
            )
        );
        assert_eq!(
            shown(What::Progress { fraction: None, message: Some("half".into()) }),
            ("progress", serde_json::json!({"at": at, "fraction": null, "message": "half"}))
        );
        let artifact = Artifact {
            name: "a.png".into(),
            media_type: "image/png".into(),
            size: 7,
            sha256: ContentHash([0xab; 32]),
        };
        let sha256 = "ab".repeat(32);
        assert_eq!(
            shown(What::Artifact(artifact)),
            (
                "artifact",
                serde_json::json!({"at": at, "name": "a.png", "media_type": "image/png", "size": 7, "sha256": sha256})
            )
        );
    }
}
