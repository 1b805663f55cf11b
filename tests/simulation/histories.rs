//! Small histories, event by event, for the tests of the checkers themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::replay::{Recovered, Start};
use rollcall::fleet::*;

/// A moment after so many seconds.
pub(crate) fn second(seconds: u64) -> Now {
    Now { mono: Mono(seconds * 1_000_000_000), wall: Wall(0) }
}

fn spec(capability: &str) -> Arc<TaskSpec> {
    Arc::new(TaskSpec { max_attempts: Some(3), ..TaskSpec::new(capability, "1") })
}

/// Task `number` arrives; its request has the same number.
pub(crate) fn submit(number: u64, keep: Keep) -> Event {
    Event::Submit(Box::new(Submission {
        id: TaskId(number.into()),
        tenant: Tenant::default_tenant(),
        request: RequestId(number),
        keep,
        source: Source::Rest,
        spec: spec("python.execute"),
        retry_of: None,
    }))
}

/// Everything up to `seq` is on disk.
pub(crate) fn durable(seq: u64) -> Event {
    Event::Durable { up_to: Seq(seq), taken: Vec::new() }
}

/// The process `instance` of the worker "ann" (the part before the `#`) registers.
pub(crate) fn link_up(conn: u64, instance: &str, slots: u32, held: &[(u64, u64, bool)]) -> Event {
    let name = instance.split('#').next().unwrap_or(instance);
    let held = held.iter().map(|(task, epoch, done)| HeldAttempt {
        task: TaskId(u128::from(*task)),
        epoch: Epoch(*epoch),
        done: *done,
    });
    Event::LinkUp(
        ConnId(conn),
        Box::new(Registration {
            worker: name.into(),
            dialled: true,
            instance: instance.into(),
            kind: "test".into(),
            version: "1".into(),
            slots: Some(slots),
            labels: BTreeMap::new(),
            isolation: None,
            metrics: None,
            capabilities: vec![Offer {
                name: "python.*".into(),
                description: None,
                input_schema: None,
                idempotent: true,
            }],
            attempts: held.collect(),
            sessions: None,
            features: Vec::new(),
            store: None,
        }),
    )
}

/// The worker on that connection says that an attempt succeeded.
pub(crate) fn result(conn: u64, task: u64, epoch: u64) -> Event {
    Event::Report(
        ConnId(conn),
        Report::Result(Box::new(ResultReport {
            task: TaskId(task.into()),
            epoch: Epoch(epoch),
            status: AttemptOutcome::Succeeded,
            output: Some("1".into()),
            error: None,
            usage: None,
            artifacts: Vec::new(),
            session_open: None,
        })),
    )
}

/// Task `number` in some state; its version is the record's number.
pub(crate) fn picture(task: u64, version: u64, state: TaskState) -> TaskRecord {
    TaskRecord {
        id: TaskId(task.into()),
        tenant: Tenant::default_tenant(),
        version,
        term: Term(1),
        keep: Keep::Kept,
        source: Source::Rest,
        spec: spec("python.execute"),
        state,
        attempts: Vec::new(),
        charged: 0,
        deaths: 0,
        output: state.is_final().then(|| "1".into()),
        error: None,
        usage: None,
        artifacts: Vec::new(),
        dead_letter: false,
        hint: None,
        pending_reason: None,
        retry_of: None,
        waited: Duration::ZERO,
        submitted_at: Wall(0),
        assigned_at: None,
        started_at: None,
        finished_at: None,
    }
}

/// The core writes a record; of task 1 unless it is the first of another.
pub(crate) fn record(seq: u64, version: u64, state: TaskState) -> Effect {
    let task = if state == TaskState::Queued { seq } else { 1 };
    Effect::Record(Seq(seq), Record::Task(Arc::new(picture(task, version, state))))
}

/// The core answers a submission.
pub(crate) fn accepted(task: u64) -> Effect {
    Effect::Answer(RequestId(task), Answer::Accepted(Arc::new(picture(task, 1, TaskState::Queued))))
}

/// The core ends a task for everybody.
pub(crate) fn finish(task: u64, state: TaskState) -> Effect {
    Effect::Finish(TaskId(task.into()), Arc::new(picture(task, 2, state)))
}

/// The core hands a task over.
pub(crate) fn execute(conn: u64, task: u64, epoch: u64) -> Effect {
    execute_of(conn, task, epoch, "python.execute")
}

/// The core hands a task with that capability over.
pub(crate) fn execute_of(conn: u64, task: u64, epoch: u64, capability: &str) -> Effect {
    let assignment = Assignment {
        task: TaskId(task.into()),
        epoch: Epoch(epoch),
        number: 1,
        spec: spec(capability),
        limit: Duration::from_secs(60),
        session: None,
        canary: false,
    };
    Effect::Order(ConnId(conn), Order::Execute(Box::new(assignment)))
}

/// The core starts from these records.
pub(crate) fn start(records: Vec<Record>) -> Start {
    let recovered = Some(Recovered { now: second(0), records });
    Start { term: Term(2), seed: 1, store: "store-1".into(), recovered }
}
