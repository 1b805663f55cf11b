//! One struct per frame. Unknown fields are ignored, so that a newer peer can say more; absent
//! optional fields are left out on the wire.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An attempt's name on the wire: the task's id (a UUID in text) and the fencing number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The task's id, a UUID in its hyphenated form.
    pub task: String,
    /// The fencing number of the attempt; below 2^53.
    pub epoch: u64,
}

/// Worker to server, first frame: who the worker is and what it still holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Register {
    /// The worker's name, as in `config.yaml`. A worker that was dialled may leave it empty.
    #[serde(default)]
    pub name: String,
    /// Random per process: tells a reconnect from a restart.
    pub instance: String,
    /// The pool that the worker belongs to, if it was made for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The kind of worker, such as `python-sandbox`.
    #[serde(default)]
    pub kind: String,
    /// The worker program's own version.
    #[serde(default)]
    pub version: String,
    /// How many tasks at once; absent: the server's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Labels that placement matches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The isolation level of tool code: `full`, `no-cgroup`, `none`; absent where nothing is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// Where the worker serves its own metrics; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsPage>,
    /// What the worker offers.
    pub capabilities: Vec<CapabilityOffer>,
    /// Attempts that still run here, or whose result is not acknowledged.
    #[serde(default)]
    pub attempts: Vec<HeldAttempt>,
    /// The sessions whose state the worker has; absent: it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Vec<String>>,
    /// Feature names; what both sides name is on.
    #[serde(default)]
    pub features: Vec<String>,
    /// The store that the worker last served (from `registered`); another one means "drop all".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_id: Option<String>,
}

/// A page for Prometheus, in [`Register`]: on the host that the server's configuration names, never
/// on another one, so that a worker cannot send Prometheus elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsPage {
    /// Its port.
    pub port: u16,
    /// Its path; `/metrics` if left out.
    #[serde(default = "metrics_path")]
    pub path: String,
}

fn metrics_path() -> String {
    "/metrics".into()
}

/// One capability in [`Register`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CapabilityOffer {
    /// Such as `python.execute`.
    pub name: String,
    /// A sentence for people and for agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of the input, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Box<RawValueEq>>,
    /// True when an attempt that was lost may be run again without harm.
    #[serde(default)]
    pub idempotent: bool,
}

/// Raw JSON that compares by its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawValueEq(pub Box<RawValue>);

impl PartialEq for RawValueEq {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// How far an attempt that a worker holds has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldPhase {
    /// It still runs.
    Running,
    /// It has ended; the result is not acknowledged yet.
    Done,
}

/// One attempt in [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// How far it has come.
    pub phase: HeldPhase,
}

/// Worker to server: the attempt has a slot and starts now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
}

/// Worker to server: the attempt was not started, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// For people.
    pub reason: String,
    /// True when another worker, or a later try, may take it.
    #[serde(default)]
    pub retryable: bool,
}

/// The stream that a piece of output belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Worker to server: live output of a running attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output<'a> {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// Which stream.
    pub stream: Stream,
    /// Where in the stream `data` begins, in bytes; a gap means that the worker dropped something.
    pub offset: u64,
    /// The text; bytes that are not UTF-8 are replaced by U+FFFD before they are sent.
    #[serde(borrow)]
    pub data: Cow<'a, str>,
}

/// Worker to server: how far a running attempt has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// 0.0 to 1.0, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// A short sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Worker to server: a file of a running attempt follows, in binary frames that bear its number (see
/// [`chunk`](crate::chunk)), as far as the server's [`Credit`] goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// Names the upload; each is used once on a connection.
    pub number: u32,
    /// What it is called: no control characters, at most 255 bytes. A later one of the same name
    /// takes the place of the former.
    pub name: String,
    /// What it is, such as `image/png`.
    pub media_type: String,
    /// Its size, in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes, as 64 small hexadecimal digits.
    pub sha256: String,
}

/// How an attempt ended, in the worker's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It did what was asked.
    Succeeded,
    /// It did not; `error` says why.
    Failed,
    /// It ran out of its execution time.
    TimedOut,
    /// It was stopped by a `cancel`.
    Cancelled,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The task's own: its code, its input, its limits.
    #[default]
    Caller,
    /// The worker's.
    Worker,
    /// Rollcall's.
    Rollcall,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskError {
    /// A short, stable word, such as `timeout` or `out_of_memory`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// True when another attempt may do better.
    #[serde(default)]
    pub retryable: bool,
    /// Whose fault it is.
    #[serde(default)]
    pub fault: Fault,
    /// Anything more, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<RawValueEq>>,
}

/// What an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// CPU time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// The most memory at once, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// The most processes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

/// Worker to server: an attempt has ended. Sent again after each reconnect until `result_ack`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskResult<'a> {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// How it ended.
    pub status: Status,
    /// What it returned, of a failed attempt too; any JSON.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub output: Option<&'a RawValue>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Of an attempt in a session: whether that is there after it. Absent: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_open: Option<bool>,
}

/// Worker to server, by the worker's own timer: I am alive, and this runs here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerHeartbeat {
    /// Load of the machine, 0.0 idle to 1.0 busy, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// The attempts that run here now, those not yet acknowledged too.
    #[serde(default)]
    pub running: Vec<AttemptRef>,
}

/// Either side: the connection is about to be closed on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Come back after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Either side: the peer did something that cannot be taken. Never answered by `error`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// A short, stable word, such as `unknown_type`, `duplicate`, `unknown_worker`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// Server to worker, the answer to `register`. Nothing is dispatched before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The name under which the server knows the worker.
    pub name: String,
    /// A new number with each connection; `execute` frames bear it.
    pub connection: u64,
    /// How many tasks at once the server will send.
    pub slots: u32,
    /// How often each side sends `heartbeat`, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// How long a silent worker's attempts stay its own, in milliseconds.
    pub lease_ms: u64,
    /// The server's store; the worker names it in its next `register`.
    pub store_id: String,
    /// What both sides can do.
    #[serde(default)]
    pub features: Vec<String>,
    /// Attempts that go on.
    #[serde(default)]
    pub keep: Vec<AttemptRef>,
    /// Attempts whose result is to be sent again.
    #[serde(default)]
    pub resend: Vec<AttemptRef>,
    /// Attempts to stop and forget, with any result they have.
    #[serde(default)]
    pub drop: Vec<AttemptRef>,
}

/// Server to worker: a result has arrived; the worker forgets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultAck {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// True when it was recorded.
    pub accepted: bool,
    /// Why it was not: `stale_epoch`, `duplicate`, `unknown_task`, `after_terminal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Server to worker: an upload may go on, or what became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Credit {
    /// The upload.
    pub number: u32,
    /// So many more bytes may be sent.
    pub bytes: u64,
    /// It is on disk, whole, and part of the attempt's result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,
    /// It was refused, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
}

/// Server to worker: run this.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execute<'a> {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// The connection it was sent on; a worker ignores an `execute` with any but its current one.
    pub connection: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What to do, such as `python.execute`.
    #[serde(borrow)]
    pub capability: Cow<'a, str>,
    /// The input, any JSON.
    #[serde(borrow)]
    pub input: &'a RawValue,
    /// How long the attempt may run from now, in milliseconds.
    pub deadline_ms: u64,
    /// The session that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// True when this attempt begins its session: what the worker may still have under that name is to be
    /// forgotten. False when it counts on what earlier tasks left there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_new: Option<bool>,
    /// How long the session lives on unused after this attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ttl_ms: Option<u64>,
    /// The same for every attempt of a task: lets a worker find its own repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Server to worker: stop an attempt. Answered by exactly one `result`, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing number.
    pub epoch: u64,
    /// Why: `cancelled`, `timeout`, `superseded`, `unknown`, `removed_from_config`.
    #[serde(default)]
    pub reason: String,
}

/// Server to worker: finish what runs and take nothing new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Server to worker: nobody will name this session any more; its state may go. Only to workers that name
/// the feature `sessions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSession {
    /// Which.
    pub session: String,
}

/// Server to worker, by the server's own timer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHeartbeat {}
