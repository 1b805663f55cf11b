//! The JSON of a result: what the code wrote and how it ended, cut so that it always fits a message.

use rollcall_worker_sdk::{TaskEnd, Usage};
use serde::Serialize;

use crate::capture::{Capture, json_len};
use crate::outcome::{ErrorReport, Outcome, Report};

/// Room for both streams together; one that needs less leaves more for the other.
const STREAMS: usize = 192 * 1024;

/// Room for the texts beside them, so that the whole stays below 256 KiB.
const TRACEBACK: usize = 24 * 1024;
const VALUE: usize = 24 * 1024;
const MESSAGE: usize = 4 * 1024;
const KIND: usize = 256;

#[derive(Serialize)]
struct Result<'a> {
    outcome: Outcome,
    stdout: &'a str,
    stderr: &'a str,
    /// Bytes of each stream that are not in the text.
    truncated: Truncated,
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Value>,
}

#[derive(Serialize)]
struct Truncated {
    stdout: u64,
    stderr: u64,
}

/// One value that the code returned.
#[derive(Serialize)]
struct Value {
    text: String,
}

/// Adds the output and the usage to an end.
pub(crate) fn fill(end: TaskEnd, report: &Report) -> TaskEnd {
    let stderr_needs = json_len(&report.stderr.shown(STREAMS / 2).text).min(STREAMS / 2);
    let stdout = report.stdout.shown(STREAMS - stderr_needs);
    let stderr = report.stderr.shown(STREAMS - json_len(&stdout.text).min(STREAMS / 2));
    end.with_output(&Result {
        outcome: report.outcome,
        stdout: &stdout.text,
        stderr: &stderr.text,
        truncated: Truncated { stdout: stdout.dropped, stderr: stderr.dropped },
        exit_code: report.exit_code,
        signal: report.signal,
        error: report.error.as_ref().map(cut_error),
        results: report.last_value.iter().map(|value| Value { text: cut(value, VALUE) }).collect(),
    })
    .with_usage(usage(report))
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
        fill(TaskEnd::succeeded(&()), report).output.expect("an output").get().to_owned()
    }

    #[test]
    fn the_worst_report_fits_a_message() {
        let nasty = "\u{1}".repeat(1 << 20);
        let mut report = Report::failed(nasty.clone());
        report.stdout = stream(&[0xFF; 3 << 20]);
        report.stderr = stream(nasty.as_bytes());
        report.last_value = Some(nasty.clone());
        report.error =
            Some(ErrorReport { kind: nasty.clone(), message: nasty.clone(), traceback: Some(nasty) });
        let json = json(&report);
        assert!(json.len() <= 256 * 1024, "{}", json.len());
    }

    #[test]
    fn a_stream_may_use_the_room_that_the_other_leaves() {
        let mut report = Report::failed("");
        report.stdout = stream(&[b'x'; 190 * 1024]);
        let value: serde_json::Value = serde_json::from_str(&json(&report)).expect("JSON");
        assert_eq!(value["truncated"]["stdout"], 0);
        report.stderr = stream(&[b'y'; 190 * 1024]);
        let value: serde_json::Value = serde_json::from_str(&json(&report)).expect("JSON");
        for name in ["stdout", "stderr"] {
            assert!(value["truncated"][name].as_u64() > Some(80_000), "{name}");
            assert!(value[name].as_str().is_some_and(|text| text.contains("bytes left out")));
        }
    }
}
