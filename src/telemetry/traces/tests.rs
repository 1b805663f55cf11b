//! What a task looks like as spans, and in OTLP.

use serde_json::{Value, json};

use super::*;
use crate::fleet::*;

const AT: i64 = 1_700_000_000_000;

fn at(ms: i64) -> Wall {
    Wall(AT + ms)
}

/// Lost by one worker, done by another.
fn twice() -> TaskRecord {
    let attempt = |number: u32, assigned, outcome| AttemptRecord {
        number,
        epoch: Epoch(u64::from(number) + 6),
        worker: "ann".into(),
        instance: "1".into(),
        outcome: Some(outcome),
        error: (outcome == AttemptOutcome::WorkerLost).then(|| "worker_lost".into()),
        assigned_at: at(assigned),
        started_at: (number == 2).then(|| at(assigned + 1)),
        finished_at: Some(at(assigned + 10)),
    };
    let id = TaskId(u128::from(at(-3).0.unsigned_abs()) << 80 | 5);
    let mut record = TaskRecord::in_state(id, TaskSpec::new("echo", "1"), TaskState::Succeeded, at(0));
    record.attempts =
        vec![attempt(1, 20, AttemptOutcome::WorkerLost), attempt(2, 40, AttemptOutcome::Succeeded)];
    record.finished_at = Some(at(50));
    record
}

fn told(record: &TaskRecord) -> Vec<(String, i64, i64)> {
    let spans = spans(&context_of(record), record, at(53));
    assert_eq!(spans.len() as u64, number_of(record));
    spans.iter().map(|span| (span.name.to_string(), span.start.0 - AT, span.end.0 - AT)).collect()
}

#[test]
fn a_tasks_life_is_told_without_gaps() {
    let expected = [
        ("echo", -3, 53),
        ("accept", -3, 0),
        ("queue", 0, 20),
        ("dispatch", 20, 30),
        ("queue", 30, 40),
        ("dispatch", 40, 41),
        ("execution", 41, 50),
        ("record", 50, 53),
    ];
    let expected: Vec<_> = expected.map(|(name, start, end)| (name.to_owned(), start, end)).into();
    assert_eq!(told(&twice()), expected);
}

#[test]
fn a_wait_that_ended_without_an_attempt_is_told_as_well() {
    let mut record = twice();
    record.attempts.clear();
    record.state = TaskState::Expired;
    record.error = Some(TaskError::new("queue_timeout", "nobody came", Fault::Rollcall));
    let names: Vec<_> = told(&record).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["echo", "accept", "queue", "record"]);
    let task = &spans(&context_of(&record), &record, at(53))[0];
    assert_eq!(task.error.as_deref(), Some("nobody came"));
}

#[test]
fn a_clock_that_was_set_back_makes_no_span_end_before_it_begins() {
    let mut record = twice();
    record.finished_at = Some(at(-1_000));
    for span in spans(&context_of(&record), &record, at(-2_000)) {
        assert!(span.end >= span.start, "{span:?}");
    }
}

#[test]
fn spans_have_the_form_that_collectors_read() {
    let mut record = twice();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    record.spec = Arc::new(TaskSpec { traceparent: Some(parent.into()), ..TaskSpec::clone(&record.spec) });
    let context = context_of(&record);
    let body = otlp::body("here", &[(context.trace, spans(&context, &record, at(53)))]);
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
    let task = &spans[0];
    assert_eq!(task["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(task["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!((&task["kind"], &task["name"]), (&json!(2), &json!("echo")));
    assert_eq!(task["startTimeUnixNano"], "1699999999997000000");
    let lost = &spans[3];
    assert_eq!((&lost["name"], &lost["parentSpanId"]), (&json!("dispatch"), &task["spanId"]));
    assert_eq!(lost["status"], json!({ "code": 2, "message": "worker_lost" }));
    // What the worker is told is the span that its own ones belong under.
    let mut text = [0; 55];
    let handed = context.traceparent(Epoch(8), &mut text);
    assert_eq!(Some(handed.split('-').nth(2).expect("a span")), spans[6]["spanId"].as_str());
    assert_eq!(spans[6]["name"], "execution");
}

#[test]
fn a_collector_may_refuse_a_part() {
    let answer = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
    assert_eq!(otlp::refused(answer), (3, "too old".to_owned()));
    assert_eq!(otlp::refused(br#"{"partialSuccess":{"rejectedSpans":2}}"#).0, 2);
    for fine in [&b"{}"[..], b"", b"ok"] {
        assert_eq!(otlp::refused(fine).0, 0);
    }
}
