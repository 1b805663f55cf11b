//! What a task is: what was asked, what became of it, and the record that the journal keeps and
//! every answer shows. The rules that move it are in `lifecycle.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::*;
use super::time::Wall;

/// How a task's record is kept (three kinds; see ARCHITECTURE.md, "Three kinds of task").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// A caller waits for it and gave no key: nothing is on disk before the answer.
    Passing,
    /// An id was given out: the record is durable before the answer.
    Kept,
    /// An `Idempotency-Key` names it: the record is durable before the hand-over.
    ByKey(KeyHash),
}

/// An idempotency key and the body sent with it, as the first 16 bytes of their SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash {
    /// Of the key.
    pub key: u128,
    /// Of the request's body.
    pub body: u128,
}

/// Which door a task came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// The REST API.
    Rest,
    /// The MCP endpoint.
    Mcp,
    /// A program that embeds Rollcall.
    Library,
}

impl Source {
    /// Every source, in label order.
    pub const ALL: [Self; 3] = [Self::Rest, Self::Mcp, Self::Library];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Mcp => "mcp",
            Self::Library => "library",
        }
    }
}

/// When a task must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deadline {
    /// So long after it was accepted, by the monotonic clock.
    After(Duration),
    /// At a time of day, by the wall clock.
    At(Wall),
}

/// When a lost or timed-out attempt may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RetryWord {
    /// Only if the capability was registered as idempotent, or the attempt never started.
    #[default]
    Safe,
    /// Always: the caller says that running twice does no harm.
    Always,
}

/// Where a task would rather run. What its worker must have in any case is among its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Labels that the worker should have beside those that it must have.
    pub preferred: BTreeMap<Arc<str>, Arc<str>>,
    /// How long each wait is for such workers alone; `None`: not at all, they only go first when free.
    pub fallback_after: Option<Duration>,
}

/// What a caller asked for. Checked at the edge: every bound here holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// What to do; no pattern.
    pub capability: Capability,
    /// The input, any JSON; empty, which no JSON is, while only the journal has it.
    pub input: Payload,
    /// Bytes of an input that only the journal has; 0 of one that is here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stowed: u64,
    /// Labels that the worker must all have.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where it would rather run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// 1 (first) to 5.
    pub priority: u8,
    /// How long each wait in the queue may last; `None`: until the deadline, or for ever.
    pub queue_timeout: Option<Duration>,
    /// How long an attempt may run; the worker's own timeout if that is shorter.
    pub execution_timeout: Option<Duration>,
    /// When all must be over.
    pub deadline: Option<Deadline>,
    /// How many charged attempts at most; `None`: as configured.
    pub max_attempts: Option<u32>,
    /// The session that it runs in.
    pub session: Option<SessionName>,
    /// How long the session lives unused after this task; as before, or a quarter of an hour, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ttl: Option<Duration>,
    /// Whose share of the queue it counts against.
    pub fairness_key: Option<FairnessKey>,
    /// Whether a lost attempt may be repeated.
    pub retry: RetryWord,
    /// W3C trace context, passed through.
    pub traceparent: Option<Arc<str>>,
    /// The stored files that the input refers to; none of them goes away before the task has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ContentHash>,
}

impl TaskSpec {
    /// Between 1 (first) and 5.
    pub const USUAL_PRIORITY: u8 = 3;

    /// An input of more bytes leaves the core once its task is recorded, and has a row of its own in a
    /// store, so that a change of state does not write it again.
    pub const LARGE_INPUT: usize = 16 << 10;

    /// A task about which nothing else is said: every field has its default.
    pub fn new(capability: impl Into<Capability>, input: impl Into<Payload>) -> Self {
        Self {
            capability: capability.into(),
            input: input.into(),
            stowed: 0,
            labels: BTreeMap::new(),
            placement: None,
            priority: Self::USUAL_PRIORITY,
            queue_timeout: None,
            execution_timeout: None,
            deadline: None,
            max_attempts: None,
            session: None,
            session_ttl: None,
            fairness_key: None,
            retry: RetryWord::default(),
            traceparent: None,
            artifacts: Vec::new(),
        }
    }

    /// How large its input is, wherever that is.
    pub fn input_bytes(&self) -> u64 {
        self.stowed.max(self.input.as_str().len() as u64)
    }

    /// Whether only the journal has its input.
    pub fn is_stowed(&self) -> bool {
        self.stowed > 0
    }

    /// The same without its input, which the journal has.
    pub fn without_input(&self) -> Self {
        let stowed = self.input_bytes();
        Self { input: Payload::from(""), stowed, ..self.clone() }
    }

    /// The same with the input that the journal had.
    pub fn with_input(&self, input: Payload) -> Self {
        Self { input, stowed: 0, ..self.clone() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where a task is in its life; the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a worker (or for its next attempt).
    Queued,
    /// Handed to a worker that has not said yet that it began.
    Assigned,
    /// A worker runs it.
    Running,
    /// Was told to stop; the worker has not confirmed yet.
    Cancelling,
    /// Final: done.
    Succeeded,
    /// Final: the worker says it failed.
    Failed,
    /// Final: it ran out of execution time, or of its deadline after the start.
    TimedOut,
    /// Final: stopped by a person or a program.
    Cancelled,
    /// Final: waited longer than it was willing to.
    Expired,
    /// Final: its workers went away.
    Lost,
}

impl TaskState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Expired,
        Self::Lost,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }

    /// Whether nothing more can happen to the task.
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Assigned | Self::Running | Self::Cancelling => false,
            Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Cancelled
            | Self::Expired
            | Self::Lost => true,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The worker did it.
    Succeeded,
    /// The worker says it failed.
    Failed,
    /// It ran out of time.
    TimedOut,
    /// It was stopped on request.
    Cancelled,
    /// The worker went away with it.
    WorkerLost,
    /// The worker did not start it; not charged.
    Rejected,
    /// A newer attempt took its place; not charged.
    Superseded,
}

impl AttemptOutcome {
    /// Every outcome, in label order.
    pub const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::WorkerLost,
        Self::Rejected,
        Self::Superseded,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::WorkerLost => "worker_lost",
            Self::Rejected => "rejected",
            Self::Superseded => "superseded",
        }
    }
}

/// Whose fault an ending is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nobody's: it succeeded, or was cancelled.
    None,
    /// The caller's own code, input or limits.
    Caller,
    /// The worker was lost or stopped answering.
    Worker,
    /// Rollcall's: it expired in the queue.
    Rollcall,
}

impl Fault {
    /// Every fault, in label order.
    pub const ALL: [Self; 4] = [Self::None, Self::Caller, Self::Worker, Self::Rollcall];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Caller => "caller",
            Self::Worker => "worker",
            Self::Rollcall => "rollcall",
        }
    }
}

/// What may have happened outside although the task did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SideEffects {
    /// The work never began.
    None,
    /// It began; it may have done anything.
    Possible,
    /// Nobody can say.
    #[default]
    Unknown,
}

/// Why a task did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// A short, stable word.
    pub code: Arc<str>,
    /// A sentence for people.
    pub message: Arc<str>,
    /// Whether another attempt may do better.
    pub retryable: bool,
    /// Whose fault it is.
    pub fault: Fault,
    /// What may have happened outside.
    pub side_effects: SideEffects,
    /// The worker's own details, JSON.
    pub details: Option<Payload>,
}

impl TaskError {
    /// One that another attempt would not better, of work that may have had effects.
    pub fn new(code: impl Into<Arc<str>>, message: impl Into<Arc<str>>, fault: Fault) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            fault,
            side_effects: SideEffects::Possible,
            details: None,
        }
    }
}

/// What an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time, in milliseconds.
    pub wall_ms: Option<u64>,
    /// CPU time, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// The most memory at once, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// The most processes at once.
    pub processes: Option<u64>,
}

/// A file that a task made. Its bytes never enter the core; they are found by their hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// What the worker calls it: any text without control characters, at most 255 bytes; no path.
    pub name: Arc<str>,
    /// What it is, such as `image/png`.
    pub media_type: Arc<str>,
    /// In bytes.
    pub size: u64,
    /// Of its bytes.
    pub sha256: ContentHash,
}

/// One hand-over of a task to one worker, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// From 1.
    pub number: u32,
    /// Its fencing number.
    pub epoch: Epoch,
    /// Who got it.
    pub worker: WorkerName,
    /// Which process of that worker.
    pub instance: Instance,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<AttemptOutcome>,
    /// The error code it ended with.
    pub error: Option<Arc<str>>,
    /// When it was handed over.
    pub assigned_at: Wall,
    /// When the worker said that it began.
    pub started_at: Option<Wall>,
    /// When it ended.
    pub finished_at: Option<Wall>,
}

impl AttemptRecord {
    /// Whether it ended by the worker's own report; one that was written off may still report.
    pub(super) fn has_reported(&self) -> bool {
        match self.outcome {
            Some(
                AttemptOutcome::Succeeded
                | AttemptOutcome::Failed
                | AttemptOutcome::TimedOut
                | AttemptOutcome::Cancelled
                | AttemptOutcome::Rejected,
            ) => true,
            Some(AttemptOutcome::WorkerLost | AttemptOutcome::Superseded) | None => false,
        }
    }
}

/// Where a task was handed to, for a server that finds the record after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The worker.
    pub worker: WorkerName,
    /// The process.
    pub instance: Instance,
    /// The attempt's fencing number.
    pub epoch: Epoch,
    /// Whether the worker had said that it began.
    pub started: bool,
}

/// A task, whole: what the journal keeps (the last version wins) and what every answer shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Rises with each record of this task.
    pub version: u64,
    /// The term that wrote it; a store refuses older ones.
    pub term: Term,
    /// How it is kept.
    pub keep: Keep,
    /// Which door it came in by.
    pub source: Source,
    /// What was asked.
    pub spec: Arc<TaskSpec>,
    /// Where it is.
    pub state: TaskState,
    /// Its attempts, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// How many of them count against `max_attempts`.
    pub charged: u32,
    /// How many workers died with it.
    pub deaths: u32,
    /// What the worker returned, of a failed attempt too.
    pub output: Option<Payload>,
    /// Why it did not succeed.
    pub error: Option<TaskError>,
    /// What the last attempt used.
    pub usage: Option<Usage>,
    /// The files that the last attempt made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Listed, inspected and retried apart.
    pub dead_letter: bool,
    /// Where the newest attempt is, for recovery.
    pub hint: Option<Hint>,
    /// Why it waits, while it is queued.
    pub pending_reason: Option<Arc<str>>,
    /// The task that this one repeats.
    pub retry_of: Option<TaskId>,
    /// How long it has waited in the queue; time while the server was down does not count.
    pub waited: Duration,
    /// When it was accepted.
    pub submitted_at: Wall,
    /// When it was first handed over.
    pub assigned_at: Option<Wall>,
    /// When a worker first said that it began.
    pub started_at: Option<Wall>,
    /// When it became final.
    pub finished_at: Option<Wall>,
}

#[cfg(test)]
impl TaskRecord {
    /// For tests: a kept task in that state, to which nothing else has happened. One that has ended did
    /// so a second after it was accepted.
    pub(crate) fn in_state(id: TaskId, spec: TaskSpec, state: TaskState, accepted: Wall) -> Self {
        Self {
            id,
            tenant: Tenant::default_tenant(),
            version: 1,
            term: Term(1),
            keep: Keep::Kept,
            source: Source::Rest,
            spec: Arc::new(spec),
            state,
            attempts: Vec::new(),
            charged: 0,
            deaths: 0,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            dead_letter: false,
            hint: None,
            pending_reason: None,
            retry_of: None,
            waited: Duration::ZERO,
            submitted_at: accepted,
            assigned_at: None,
            started_at: None,
            finished_at: state.is_final().then(|| accepted + Duration::from_secs(1)),
        }
    }
}
