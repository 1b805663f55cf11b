//! The one task object, as every answer shows it.

use crate::api::http::json::{Object, write_value};
use crate::fleet::{AttemptRecord, TaskError, TaskRecord};

/// Writes a task.
pub(crate) fn write(out: &mut Vec<u8>, task: &TaskRecord) {
    let mut object = Object::new(out);
    head(&mut object, task);
    object.raw("output", task.output.as_ref().map_or("null", |output| output.as_str()));
    rest(object, task);
}

/// Writes a task without what the worker returned: a thousand of those would be a gigabyte.
pub(super) fn write_outline(out: &mut Vec<u8>, task: &TaskRecord) {
    let mut object = Object::new(out);
    head(&mut object, task);
    rest(object, task);
}

fn head(object: &mut Object<'_>, task: &TaskRecord) {
    {
        use std::io::Write;
        // Writing to a vector cannot fail.
        drop(write!(object.name("id"), "\"{}\"", task.id));
    }
    object.text("state", task.state.as_str()).text("capability", task.spec.capability.as_str());
}

fn rest(mut object: Object<'_>, task: &TaskRecord) {
    let spec = &*task.spec;
    match &task.error {
        Some(error) => write_error(object.name("error"), error),
        None => {
            object.raw("error", "null");
        }
    }
    object.list("attempts", &task.attempts, write_attempt);
    object.maybe_text("pending_reason", task.pending_reason.as_deref());
    object.time("submitted_at", Some(task.submitted_at)).time("assigned_at", task.assigned_at);
    object.time("started_at", task.started_at).time("finished_at", task.finished_at);
    object.value("priority", &spec.priority);
    if !spec.labels.is_empty() {
        object.value("labels", &spec.labels);
    }
    object.raw("dead_letter", if task.dead_letter { "true" } else { "false" });
    object.maybe_text("trace_id", spec.traceparent.as_deref().and_then(|context| context.split('-').nth(1)));
    match task.retry_of {
        Some(id) => object.text("retry_of", &id.to_string()),
        None => object.raw("retry_of", "null"),
    };
    match &task.usage {
        Some(usage) => object.value("usage", usage),
        None => object.raw("usage", "null"),
    };
    object.end();
}

fn write_error(out: &mut Vec<u8>, error: &TaskError) {
    let mut object = Object::new(out);
    object.text("code", &error.code).text("message", &error.message);
    object.raw("retryable", if error.retryable { "true" } else { "false" });
    object.text("fault", error.fault.as_str());
    write_value(object.name("side_effects"), &error.side_effects);
    if let Some(details) = &error.details {
        object.raw("details", details.as_str());
    }
    object.end();
}

fn write_attempt(out: &mut Vec<u8>, attempt: &AttemptRecord) {
    let mut object = Object::new(out);
    object.value("number", &attempt.number).value("epoch", &attempt.epoch);
    object.text("worker", attempt.worker.as_str()).text("instance", attempt.instance.as_str());
    object.maybe_text("outcome", attempt.outcome.map(|outcome| outcome.as_str()));
    object.maybe_text("error", attempt.error.as_deref());
    object.time("assigned_at", Some(attempt.assigned_at)).time("started_at", attempt.started_at);
    object.time("finished_at", attempt.finished_at);
    object.end();
}
