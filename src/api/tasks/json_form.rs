//! The one task object, as every answer shows it.

use crate::api::http::json::{Object, TimeText, time_digits, write_list, write_text, write_value};
use crate::config::spelled;
use crate::fleet::{Artifact, AttemptRecord, Placement, TaskError, TaskRecord, Wall};

/// Writes a task.
pub(crate) fn write(out: &mut Vec<u8>, task: &TaskRecord) {
    head(out, task);
    put(out, ",\"output\":", task.output.as_ref().map_or("null", |output| output.as_str()));
    rest(out, task);
}

/// Writes a task without what the worker returned: a thousand of those would be a gigabyte.
pub(super) fn write_outline(out: &mut Vec<u8>, task: &TaskRecord) {
    head(out, task);
    rest(out, task);
}

// Names stand in the text with all that is fixed around them: this is written for every task, and
// each call that copies a few bytes costs as much as one that copies many.

fn head(out: &mut Vec<u8>, task: &TaskRecord) {
    put(out, "{\"id\":\"", task.id.hyphenated(&mut [0; 36]));
    put(out, "\",\"state\":\"", task.state.as_str());
    text(out, "\",\"capability\":", Some(task.spec.capability.as_str()));
}

/// The caller's trace, or the one that the task's id names; see [`crate::fleet::TraceContext`].
fn trace_id(out: &mut Vec<u8>, task: &TaskRecord) {
    match task.spec.traceparent.as_deref().and_then(|context| context.get(3..35)) {
        Some(trace) => out.extend_from_slice(trace.as_bytes()),
        None => {
            let digits = |byte: &u8| *byte != b'-';
            out.extend(task.id.hyphenated(&mut [0; 36]).bytes().filter(digits));
        }
    }
}

fn rest(out: &mut Vec<u8>, task: &TaskRecord) {
    let spec = &*task.spec;
    let mut times = Times::default();
    match &task.error {
        Some(error) => {
            put(out, ",\"error\":", "");
            write_error(out, error);
            put(out, ",\"attempts\":", "");
        }
        None => put(out, ",\"error\":null,\"attempts\":", ""),
    }
    write_list(out, &task.attempts, |out, attempt| write_attempt(out, attempt, &mut times));
    text(out, ",\"pending_reason\":", task.pending_reason.as_deref());
    times.write(out, ",\"submitted_at\":", Some(task.submitted_at));
    times.write(out, ",\"assigned_at\":", task.assigned_at);
    times.write(out, ",\"started_at\":", task.started_at);
    times.write(out, ",\"finished_at\":", task.finished_at);
    number(out, ",\"priority\":", spec.priority.into());
    if !spec.labels.is_empty() {
        put(out, ",\"labels\":", "");
        write_value(out, &spec.labels);
    }
    if let Some(Placement { preferred, fallback_after }) = &spec.placement {
        put(out, ",\"placement\":{\"preferred\":", "");
        write_value(out, preferred);
        text(out, ",\"fallback_after\":", fallback_after.map(spelled).as_deref());
        out.push(b'}');
    }
    put(out, ",\"dead_letter\":", if task.dead_letter { "true" } else { "false" });
    put(out, ",\"trace_id\":\"", "");
    trace_id(out, task);
    out.push(b'"');
    match task.retry_of {
        Some(id) => text(out, ",\"retry_of\":", Some(id.hyphenated(&mut [0; 36]))),
        None => put(out, ",\"retry_of\":null", ""),
    }
    match &task.usage {
        Some(usage) => {
            put(out, ",\"usage\":", "");
            write_value(out, usage);
            put(out, ",\"artifacts\":", "");
        }
        None => put(out, ",\"usage\":null,\"artifacts\":", ""),
    }
    if task.artifacts.is_empty() {
        put(out, "[]}", "");
        return;
    }
    write_list(out, &task.artifacts, |out, artifact| {
        let mut object = Object::new(out);
        artifact_fields(&mut object, artifact);
        object.end();
    });
    out.push(b'}');
}

/// Writes what is known of a file.
pub(crate) fn artifact_fields(object: &mut Object<'_>, artifact: &Artifact) {
    object.text("name", &artifact.name).text("media_type", &artifact.media_type);
    object.value("size", &artifact.size).value("sha256", &artifact.sha256);
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

fn write_attempt(out: &mut Vec<u8>, attempt: &AttemptRecord, times: &mut Times) {
    number(out, "{\"number\":", attempt.number.into());
    number(out, ",\"epoch\":", attempt.epoch.0);
    text(out, ",\"worker\":", Some(attempt.worker.as_str()));
    text(out, ",\"instance\":", Some(attempt.instance.as_str()));
    text(out, ",\"outcome\":", attempt.outcome.map(|outcome| outcome.as_str()));
    text(out, ",\"error\":", attempt.error.as_deref());
    times.write(out, ",\"assigned_at\":", Some(attempt.assigned_at));
    times.write(out, ",\"started_at\":", attempt.started_at);
    times.write(out, ",\"finished_at\":", attempt.finished_at);
    out.push(b'}');
}

fn put(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn text(out: &mut Vec<u8>, before: &str, text: Option<&str>) {
    out.extend_from_slice(before.as_bytes());
    match text {
        Some(text) => write_text(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn number(out: &mut Vec<u8>, before: &str, number: u64) {
    out.extend_from_slice(before.as_bytes());
    write_value(out, &number);
}

/// Most of a task's seven times are of one millisecond: each is put into digits once.
#[derive(Default)]
struct Times {
    last: Option<Wall>,
    text: TimeText,
}

impl Times {
    fn write(&mut self, out: &mut Vec<u8>, before: &str, at: Option<Wall>) {
        out.extend_from_slice(before.as_bytes());
        let Some(at) = at else { return out.extend_from_slice(b"null") };
        if self.last != Some(at) {
            self.last = Some(at);
            self.text = time_digits(at);
        }
        out.push(b'"');
        out.extend_from_slice(&self.text);
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_it_is_whatever_was_written_before() {
        let mut times = Times::default();
        let mut out = Vec::new();
        for at in [Some(Wall(0)), Some(Wall(0)), None, Some(Wall(1)), Some(Wall(0))] {
            times.write(&mut out, ",", at);
        }
        let (zero, one) = ("\"1970-01-01T00:00:00.000Z\"", "\"1970-01-01T00:00:00.001Z\"");
        assert_eq!(String::from_utf8(out).expect("text"), format!(",{zero},{zero},null,{one},{zero}"));
    }
}
