//! The one worker object, as every answer shows it.

use serde_json::{Value, json};

use crate::api::http::json::{Object, time_text};
use crate::fleet::{Origin, WorkerView};
use crate::supervise::{ProcessState, ProcessStatus};

/// Writes a worker.
pub(super) fn write(out: &mut Vec<u8>, worker: &WorkerView, program: Option<ProcessStatus>, offers: bool) {
    let mut object = Object::new(out);
    fields(&mut object, worker);
    object.value("program", &program.map(|program| program_form(&program)));
    if offers {
        object.list("offers", worker.capabilities.iter(), |out, offer| {
            let mut item = Object::new(out);
            item.text("name", offer.name.as_str()).maybe_text("description", offer.description.as_deref());
            item.raw("input_schema", offer.input_schema.as_ref().map_or("null", |schema| schema.as_str()));
            item.raw("idempotent", if offer.idempotent { "true" } else { "false" });
            item.end();
        });
    }
    object.end();
}

fn fields(object: &mut Object<'_>, worker: &WorkerView) {
    object.text("name", worker.name.as_str()).text("state", worker.state.as_str());
    object.maybe_text("reason", worker.reason.as_deref());
    object.maybe_text("pool", worker.pool.as_ref().map(|pool| pool.as_str()));
    object.text("origin", origin(worker.origin)).maybe_text("endpoint", worker.endpoint.as_deref());
    object.value("launched", &worker.launched).value("mock", &worker.mock);
    object.maybe_text("instance", worker.instance.as_ref().map(|instance| instance.as_str()));
    object.value("connection", &worker.connection).maybe_text("kind", worker.kind.as_deref());
    object.maybe_text("version", worker.version.as_deref());
    object.maybe_text("isolation", worker.isolation.as_deref());
    let names: Vec<_> = worker.capabilities.iter().map(|offer| offer.name.as_str()).collect();
    object.value("capabilities", &names);
    object.value("slots", &slots(worker)).value("labels", &worker.labels);
    object.time("last_heartbeat", worker.last_heartbeat).time("connected_at", worker.connected_at);
    object.value("reconnects", &worker.reconnects).time("next_attempt_at", worker.next_attempt_at);
    object.maybe_text("last_error", worker.last_error.as_deref());
    object.value("health", &health(worker));
    object.value("attempts", &json!({ "ok": worker.attempts_ok, "error": worker.attempts_error }));
}

fn slots(worker: &WorkerView) -> Value {
    json!({
        "total": worker.slots_total,
        "used": worker.slots_used,
        "unavailable": worker.slots_unavailable,
    })
}

fn health(worker: &WorkerView) -> Value {
    let health = &worker.health;
    json!({
        "failures_in_a_row": health.failures_in_a_row,
        "ejections": health.ejections,
        "ejected_until": health.ejected_until.map(time_text),
        "held_back": health.held_back,
        "slots_open": health.slots_open,
        "last_failure": health.last_failure.as_deref(),
    })
}

/// The program that the server runs for a worker.
fn program_form(program: &ProcessStatus) -> Value {
    let (state, reason) = match &program.state {
        ProcessState::Running => ("running", None),
        ProcessState::BackingOff { .. } => ("backing_off", None),
        ProcessState::GaveUp { reason } => ("gave_up", Some(&**reason)),
        ProcessState::Stopping => ("stopping", None),
    };
    json!({
        "state": state,
        "reason": reason,
        "pid": program.pid,
        "restarts": program.restarts,
        "last_exit": program.last_exit.as_deref(),
    })
}

/// Who asked for a worker, in the word of the API.
pub(super) fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "file",
        Origin::Api => "api",
        Origin::Pool => "pool",
    }
}

/// A time, or `null`.
pub(super) fn time(at: Option<std::time::SystemTime>) -> Value {
    at.filter(|at| *at > std::time::UNIX_EPOCH)
        .map_or(Value::Null, |at| Value::String(time_text(crate::manager::wall_of(at))))
}
