//! A finished task as spans: the whole, and under it how it came in, each wait, each attempt's
//! hand-over and work, and its way to the disk. All of it is in the task's record, so that nothing is
//! done for traces while a task lives.

use std::borrow::Cow;
use std::sync::Arc;

use crate::fleet::{AttemptOutcome, AttemptRecord, SpanOf, TaskRecord, TaskState, TraceContext, Wall};

/// One span, without its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) name: Cow<'static, str>,
    pub(super) start: Wall,
    pub(super) end: Wall,
    pub(super) attributes: Vec<(&'static str, Said)>,
    /// Why it did not go well.
    pub(super) error: Option<Arc<str>>,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Text(Arc<str>),
    Number(u64),
}

/// How many spans [`spans`] makes of it, without making them.
pub(super) fn number_of(record: &TaskRecord) -> u64 {
    let of_attempt = |attempt: &AttemptRecord| 2 + u64::from(attempt.started_at.is_some());
    3 + record.attempts.iter().map(of_attempt).sum::<u64>() + u64::from(last_wait(record).is_some())
}

/// The spans of a task that has ended, and whose end was recorded at this time.
pub(super) fn spans(context: &TraceContext, record: &TaskRecord, recorded: Wall) -> Vec<Span> {
    let root = context.span(SpanOf::Task);
    let came = record.id.made_at().min(record.submitted_at);
    let ended = record.finished_at.unwrap_or(record.submitted_at);
    let span = |of, name: &'static str, start: Wall, end: Wall| Span {
        id: context.span(of),
        parent: Some(root),
        name: name.into(),
        start,
        // The wall clock may have been set back between the two.
        end: end.max(start),
        attributes: Vec::new(),
        error: None,
    };
    let mut spans = Vec::with_capacity(4 + 3 * record.attempts.len());
    spans.push(Span {
        parent: context.parent,
        name: record.spec.capability.to_string().into(),
        attributes: about(record),
        error: error_of(record),
        ..span(SpanOf::Task, "", came, recorded.max(ended))
    });
    spans.push(span(SpanOf::Accept, "accept", came, record.submitted_at));
    let mut waits_since = record.submitted_at;
    for attempt in &record.attempts {
        spans.push(span(SpanOf::Queue(attempt.number), "queue", waits_since, attempt.assigned_at));
        let over = attempt.finished_at.unwrap_or(ended);
        let begun = attempt.started_at.unwrap_or(over);
        let mut dispatch = span(SpanOf::Dispatch(attempt.epoch), "dispatch", attempt.assigned_at, begun);
        dispatch.attributes = whose(attempt);
        if attempt.started_at.is_some() {
            spans.push(dispatch);
            let mut work = span(SpanOf::Execution(attempt.epoch), "execution", begun, over);
            work.attributes = whose(attempt);
            work.error = went_wrong(attempt);
            spans.push(work);
        } else {
            dispatch.error = went_wrong(attempt);
            spans.push(dispatch);
        }
        waits_since = over;
    }
    if let Some(since) = last_wait(record) {
        let number = u32::try_from(record.attempts.len() + 1).unwrap_or(u32::MAX);
        spans.push(span(SpanOf::Queue(number), "queue", since, ended));
    }
    spans.push(span(SpanOf::Record, "record", ended, recorded));
    spans
}

/// Since when it waited for an attempt that never came.
fn last_wait(record: &TaskRecord) -> Option<Wall> {
    let ended = record.finished_at.unwrap_or(record.submitted_at);
    let last = record.attempts.last();
    let since = last.map_or(record.submitted_at, |attempt| attempt.finished_at.unwrap_or(ended));
    Some(since).filter(|since| *since < ended)
}

fn about(record: &TaskRecord) -> Vec<(&'static str, Said)> {
    let text = |text: &str| Said::Text(text.into());
    let mut about = vec![
        ("rollcall.task.id", Said::Text(record.id.to_string().into())),
        ("rollcall.capability", text(record.spec.capability.as_str())),
        ("rollcall.task.state", text(record.state.as_str())),
        ("rollcall.task.source", text(record.source.as_str())),
        ("rollcall.task.attempts", Said::Number(record.attempts.len() as u64)),
    ];
    if let Some(error) = &record.error {
        about.push(("error.type", Said::Text(Arc::clone(&error.code))));
    }
    about
}

/// A cancelled task has ended as somebody wished.
fn error_of(record: &TaskRecord) -> Option<Arc<str>> {
    let good = matches!(record.state, TaskState::Succeeded | TaskState::Cancelled);
    let error = record.error.as_ref().filter(|_| !good)?;
    Some(Arc::clone(&error.message))
}

fn whose(attempt: &AttemptRecord) -> Vec<(&'static str, Said)> {
    let mut whose = vec![
        ("rollcall.worker", Said::Text(attempt.worker.as_str().into())),
        ("rollcall.worker.instance", Said::Text(attempt.instance.as_str().into())),
        ("rollcall.attempt", Said::Number(attempt.number.into())),
    ];
    if let Some(outcome) = attempt.outcome {
        whose.push(("rollcall.attempt.outcome", Said::Text(outcome.as_str().into())));
    }
    if let Some(code) = &attempt.error {
        whose.push(("error.type", Said::Text(Arc::clone(code))));
    }
    whose
}

fn went_wrong(attempt: &AttemptRecord) -> Option<Arc<str>> {
    match attempt.outcome? {
        AttemptOutcome::Succeeded | AttemptOutcome::Cancelled => None,
        outcome @ (AttemptOutcome::Failed
        | AttemptOutcome::TimedOut
        | AttemptOutcome::WorkerLost
        | AttemptOutcome::Rejected
        | AttemptOutcome::Superseded) => {
            Some(attempt.error.clone().unwrap_or_else(|| outcome.as_str().into()))
        }
    }
}
