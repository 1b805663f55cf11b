//! The JSON of a result: what the code wrote and how it ended, cut so that it always fits a message.

use rollcall_worker_sdk::{StoredArtifact, TaskEnd, Usage};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::capture::{Capture, json_len};
use crate::outcome::{ErrorReport, Outcome, Report};

/// Room for both streams together; one that needs less leaves more for the other.
const STREAMS: usize = 160 * 1024;

/// Room for what values look like.
const RESULTS: usize = 48 * 1024;

/// Room for the texts beside them, so that the whole stays below 256 KiB.
const TRACEBACK: usize = 24 * 1024;
const MESSAGE: usize = 4 * 1024;
const KIND: usize = 256;

/// Room for what a tool answers, which writes no streams.
const ANSWER: usize = 240 * 1024;

#[derive(Serialize)]
struct Result<'a> {
    outcome: Outcome,
    stdout: &'a str,
    stderr: &'a str,
    /// What is not in the texts.
    truncated: Truncated,
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    session_lost: bool,
    /// Said only where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<&'static str>,
}

#[derive(Serialize)]
struct Truncated {
    /// In bytes.
    stdout: u64,
    /// In bytes.
    stderr: u64,
    /// Values that were shown and are not told.
    results: usize,
}

/// Adds the output and the usage of code or of a program to an end.
pub(crate) fn fill(end: TaskEnd, report: &Report, stored: &[StoredArtifact]) -> TaskEnd {
    let stderr_needs = json_len(&report.stderr.shown(STREAMS / 2).text).min(STREAMS / 2);
    let stdout = report.stdout.shown(STREAMS - stderr_needs);
    let stderr = report.stderr.shown(STREAMS - json_len(&stdout.text).min(STREAMS / 2));
    let results = within(&report.results, RESULTS, stored);
    end.with_output(&Result {
        outcome: report.outcome,
        stdout: &stdout.text,
        stderr: &stderr.text,
        truncated: Truncated {
            stdout: stdout.dropped,
            stderr: stderr.dropped,
            results: report.results.len() - results.len(),
        },
        exit_code: report.exit_code,
        signal: report.signal,
        error: report.error.as_ref().map(cut_error),
        results,
        session_lost: report.session_lost,
        isolation: report.isolation,
    })
    .with_usage(usage(report))
}

/// Adds what a tool answered to an end.
pub(crate) fn fill_answer(end: TaskEnd, report: &Report, stored: &[StoredArtifact]) -> TaskEnd {
    let mut fields = Map::new();
    fields.insert("outcome".into(), json!(report.outcome));
    match &report.output {
        Some(answer) if answer.to_string().len() <= ANSWER => {
            if let Value::Object(answer) = with_references(answer, stored) {
                fields.extend(answer);
            }
        }
        Some(_) => drop(fields.insert("omitted".into(), json!("the answer is too large"))),
        None => {}
    }
    if let Some(error) = &report.error {
        fields.insert("error".into(), json!(cut_error(error)));
    }
    if report.session_lost {
        fields.insert("session_lost".into(), json!(true));
    }
    if let Some(isolation) = report.isolation {
        fields.insert("isolation".into(), json!(isolation));
    }
    end.with_output(&fields).with_usage(usage(report))
}

/// As many of the values as there is room for.
fn within(values: &[Value], room: usize, stored: &[StoredArtifact]) -> Vec<Value> {
    let mut left = room;
    let told = values.iter().map(|value| with_references(value, stored));
    told.take_while(|value| {
        let needs = value.to_string().len();
        let fits = needs <= left;
        left = left.saturating_sub(needs);
        fits
    })
    .collect()
}

/// A value in which `{"$file": n}` has become the reference to the stored file.
fn with_references(value: &Value, stored: &[StoredArtifact]) -> Value {
    match value {
        Value::Object(fields) => {
            let number = fields.get("$file").and_then(Value::as_u64);
            let file = number.and_then(|number| stored.get(usize::try_from(number).ok()?));
            if let (Some(file), 1) = (file, fields.len()) {
                return json!(file);
            }
            let inner = fields.iter().map(|(name, value)| (name.clone(), with_references(value, stored)));
            Value::Object(inner.collect())
        }
        Value::Array(items) => items.iter().map(|item| with_references(item, stored)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// A message of a length that people read.
pub(crate) fn sentence(message: &str) -> String {
    cut(message, MESSAGE)
}

fn usage(report: &Report) -> Usage {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Usage {
        wall_ms: Some(millis(report.usage.wall)),
        cpu_ms: report.usage.cpu.map(millis),
        peak_memory_bytes: report.usage.peak_memory,
        processes: report.usage.processes,
    }
}

/// The runner shortens these too, but what comes from inside a sandbox may be forged.
fn cut_error(error: &ErrorReport) -> ErrorReport {
    ErrorReport {
        kind: cut(&error.kind, KIND),
        message: cut(&error.message, MESSAGE),
        traceback: error.traceback.as_deref().map(|text| cut(text, TRACEBACK)),
    }
}

fn cut(text: &str, budget: usize) -> String {
    let mut whole = Capture::new(text.len() * 4);
    whole.push(text.as_bytes());
    whole.finish().shown(budget).text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: &[u8]) -> crate::capture::Captured {
        let mut capture = Capture::new(1 << 20);
        capture.push(bytes);
        capture.finish()
    }

    fn json(report: &Report) -> String {
        fill(TaskEnd::succeeded(&()), report, &[]).output.expect("an output").get().to_owned()
    }

    #[test]
    fn the_worst_report_fits_a_message() {
        let nasty = "\u{1}".repeat(1 << 20);
        let mut report = Report::failed(nasty.clone());
        report.stdout = stream(&[0xFF; 3 << 20]);
        report.stderr = stream(nasty.as_bytes());
        report.results = vec![json!({ "text": "x".repeat(8192) }); 16];
        report.error =
            Some(ErrorReport { kind: nasty.clone(), message: nasty.clone(), traceback: Some(nasty) });
        let json = json(&report);
        assert!(json.len() <= 256 * 1024, "{}", json.len());
        assert!(json.contains(r#""results":11}"#), "the values that are left out are counted");
    }

    #[test]
    fn a_file_is_referred_to_by_what_the_server_calls_it() {
        let file = StoredArtifact {
            name: "figure.png".into(),
            media_type: "image/png".into(),
            size: 3,
            sha256: "ab".repeat(32),
        };
        let told = with_references(&json!({ "png": { "$file": 0 }, "svg": { "$file": 7 } }), &[file]);
        assert_eq!(told["png"]["name"], "figure.png");
        assert_eq!(told["svg"], json!({ "$file": 7 }), "one that was never sent refers to nothing");
    }

    #[test]
    fn a_stream_may_use_the_room_that_the_other_leaves() {
        let mut report = Report::failed("");
        report.stdout = stream(&[b'x'; 150 * 1024]);
        let value: Value = serde_json::from_str(&json(&report)).expect("JSON");
        assert_eq!(value["truncated"]["stdout"], 0);
        report.stderr = stream(&[b'y'; 150 * 1024]);
        let value: Value = serde_json::from_str(&json(&report)).expect("JSON");
        for name in ["stdout", "stderr"] {
            assert!(value["truncated"][name].as_u64() > Some(60_000), "{name}");
            assert!(value[name].as_str().is_some_and(|text| text.contains("bytes left out")));
        }
    }
}
