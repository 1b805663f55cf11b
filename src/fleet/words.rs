//! The core's words: what it is told (`Event`), what it asks for (`Effect`), and what passes
//! between it and a worker (`Report`, `Order`). Interfaces translate them to frames.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::autoscaler::{PoolRecord, PoolSpec, PoolWord, ProviderReport, Wanted};
use super::ids::*;
use super::notes::Note;
use super::sessions::SessionLease;
use super::task::*;
use super::time::Wall;
use super::topology::Topology;

/// A task on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Its id, made by the shell.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Who waits to hear that it was accepted, or why not.
    pub request: RequestId,
    /// How it is kept.
    pub keep: Keep,
    /// Which door it came in by.
    pub source: Source,
    /// What is asked.
    pub spec: Arc<TaskSpec>,
    /// The task that this one repeats, as it ended.
    pub retry_of: Option<Arc<TaskRecord>>,
}

/// What a worker says of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The topology's name for it: the one dialled, or the one that it claims when it dials in.
    pub worker: WorkerName,
    /// Whether the server dialled.
    pub dialled: bool,
    /// Random per process.
    pub instance: Instance,
    /// The kind of worker.
    pub kind: Arc<str>,
    /// The worker program's version.
    pub version: Arc<str>,
    /// Its own bound on tasks at once.
    pub slots: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The isolation level of tool code.
    pub isolation: Option<Arc<str>>,
    /// Where it serves its own metrics.
    #[serde(default)]
    pub metrics: Option<MetricsPage>,
    /// What it offers.
    pub capabilities: Vec<Offer>,
    /// What it still holds.
    pub attempts: Vec<HeldAttempt>,
    /// The features that it knows.
    pub features: Vec<Arc<str>>,
    /// The store that it last served.
    pub store: Option<StoreId>,
}

/// Where a worker serves metrics of its own, on the host that the topology names for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsPage {
    /// The port.
    pub port: u16,
    /// The path, with its slash.
    pub path: Arc<str>,
}

/// One capability that a worker offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name; may end in `*`.
    pub name: Capability,
    /// For people and agents.
    pub description: Option<Arc<str>>,
    /// JSON Schema of its input, as text.
    pub input_schema: Option<Payload>,
    /// Whether a lost attempt may be repeated without harm.
    pub idempotent: bool,
}

/// An attempt that a registering worker reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub epoch: Epoch,
    /// Whether it has ended.
    pub done: bool,
}

/// What a worker says about its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It began.
    Accepted {
        /// The task.
        task: TaskId,
        /// The attempt.
        epoch: Epoch,
    },
    /// It was not started.
    Rejected {
        /// The task.
        task: TaskId,
        /// The attempt.
        epoch: Epoch,
        /// For people.
        reason: Arc<str>,
        /// Whether another worker, or a later try, may take it.
        retryable: bool,
    },
    /// It ended.
    Result(Box<ResultReport>),
    /// Some frame arrived; sent at most every quarter interval.
    Alive,
    /// The worker's own heartbeat, with everything that runs there.
    Heartbeat {
        /// What runs there, by its own account.
        running: Vec<(TaskId, Epoch)>,
    },
    /// It takes nothing new, finishes what it has, and leaves.
    Goodbye {
        /// For people.
        reason: Arc<str>,
        /// When to dial it again.
        retry_after: Option<Duration>,
    },
}

/// How an attempt ended, by the worker's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultReport {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub epoch: Epoch,
    /// `Succeeded`, `Failed`, `TimedOut` or `Cancelled`.
    pub status: AttemptOutcome,
    /// What it returned.
    pub output: Option<Payload>,
    /// Why it failed.
    pub error: Option<TaskError>,
    /// What it used.
    pub usage: Option<Usage>,
    /// The files that it made; every one of them is stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Of a task in a session: whether that is there after it. `None` from a worker that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_open: Option<bool>,
}

/// Why a connection ended, or was never made. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Why {
    /// Nothing was heard for `heartbeat.timeout`.
    HeartbeatTimeout,
    /// The worker closed it.
    PeerClosed,
    /// The socket broke.
    Io,
    /// The worker broke the protocol.
    Protocol,
    /// The worker did not read.
    SlowConsumer,
    /// Another connection of the same worker took its place.
    Superseded,
    /// A cancelled attempt did not stop in time.
    CancelTimeout,
    /// The worker left the topology.
    RemovedFromConfig,
    /// Its endpoint changed.
    Moved,
    /// The autoscaler let it go.
    ScaledIn,
    /// A person drained it, or it said goodbye.
    Drained,
    /// This server stops.
    ServerShutdown,
}

impl Why {
    /// Every reason, in label order.
    pub const ALL: [Self; 12] = [
        Self::HeartbeatTimeout,
        Self::PeerClosed,
        Self::Io,
        Self::Protocol,
        Self::SlowConsumer,
        Self::Superseded,
        Self::CancelTimeout,
        Self::RemovedFromConfig,
        Self::Moved,
        Self::ScaledIn,
        Self::Drained,
        Self::ServerShutdown,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::PeerClosed => "peer_closed",
            Self::Io => "io",
            Self::Protocol => "protocol",
            Self::SlowConsumer => "slow_consumer",
            Self::Superseded => "superseded",
            Self::CancelTimeout => "cancel_timeout",
            Self::RemovedFromConfig => "removed_from_config",
            Self::Moved => "moved",
            Self::ScaledIn => "scaled_in",
            Self::Drained => "drained",
            Self::ServerShutdown => "server_shutdown",
        }
    }

    /// Whether somebody wanted it so.
    pub fn is_planned(self) -> bool {
        match self {
            Self::RemovedFromConfig | Self::Moved | Self::ScaledIn | Self::Drained | Self::ServerShutdown => {
                true
            }
            Self::HeartbeatTimeout
            | Self::PeerClosed
            | Self::Io
            | Self::Protocol
            | Self::SlowConsumer
            | Self::Superseded
            | Self::CancelTimeout => false,
        }
    }
}

/// How a try to connect ended. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConnectOutcome {
    /// Registered.
    Ok,
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// The name has no address.
    Dns,
    /// TLS failed.
    Tls,
    /// The worker, or the server, refused the token.
    Auth,
    /// The WebSocket handshake or the registration failed.
    Handshake,
    /// The peer speaks another protocol version.
    Version,
    /// A worker of that name is connected.
    Duplicate,
}

impl ConnectOutcome {
    /// Every outcome, in label order.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Refused,
        Self::Timeout,
        Self::Dns,
        Self::Tls,
        Self::Auth,
        Self::Handshake,
        Self::Version,
        Self::Duplicate,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Handshake => "handshake",
            Self::Version => "version",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What a person says about a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorWord {
    /// Take no new tasks; outlives reconnects.
    Cordon(WorkerName),
    /// Take tasks again.
    Uncordon(WorkerName),
    /// Take no new tasks, finish the running ones; stays so until `Uncordon`.
    Drain(WorkerName),
    /// Drain, then stop the process (if the server launched it) or close the connection, and come back.
    Restart(WorkerName),
}

impl OperatorWord {
    /// Which worker it is about.
    pub fn worker(&self) -> &WorkerName {
        match self {
            Self::Cordon(name) | Self::Uncordon(name) | Self::Drain(name) | Self::Restart(name) => name,
        }
    }
}

/// Everything that the core can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A task arrives.
    Submit(Box<Submission>),
    /// A waiting caller's patience ended: record the task, then answer the request with it.
    Promote(TaskId, RequestId),
    /// Every caller of a passing task has hung up.
    Abandoned(TaskId),
    /// Stop a task; the request is answered with it.
    Cancel(TaskId, RequestId),
    /// A person's word about a worker, with that person's name where it is known; the request is
    /// answered.
    Operator(OperatorWord, Option<Arc<str>>, RequestId),
    /// A person's word about a pool, with that person's name where it is known; the request is
    /// answered.
    Pool(PoolWord, Option<Arc<str>>, RequestId),
    /// A pool's provider has answered the call of that number.
    Provided(PoolName, u64, ProviderReport),
    /// A new generation.
    Desired(Arc<Topology>),
    /// A connection is up and the worker has registered.
    LinkUp(ConnId, Box<Registration>),
    /// A dial ended without a registration.
    DialFailed(WorkerName, ConnectOutcome, Arc<str>),
    /// A worker said something.
    Report(ConnId, Report),
    /// A connection ended, or the shell carried out a `Close`.
    LinkDown(ConnId, Why),
    /// A launched process, with its whole group, is gone.
    ProcessGone(WorkerName),
    /// Every record up to this one is on disk.
    Durable {
        /// The last of them.
        up_to: Seq,
        /// Those among them that were not written, because their key names another task already.
        #[serde(default)]
        taken: Vec<KeyTaken>,
    },
    /// The journal refuses writes (true), or takes them again (false).
    StoreFailed(bool),
    /// The server begins to stop: no new work is taken or handed out; launched workers drain.
    Quiesce,
    /// The drain time is over: what launched workers still run is queued again, all are sent away.
    Farewell,
    /// Delete a session; the request is answered.
    EndSession(Tenant, SessionName, RequestId),
    /// A time that `next_wake` named has come, or the shell was away.
    Wake,
}

/// What the core says to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Order {
    /// The answer to a registration.
    Registered(Box<Welcome>),
    /// The registration is not taken; the connection is closed after it.
    Refused {
        /// A short, stable word.
        code: Arc<str>,
        /// For people.
        message: Arc<str>,
    },
    /// Run this.
    Execute(Box<Assignment>),
    /// Stop this.
    Cancel {
        /// The task.
        task: TaskId,
        /// The attempt.
        epoch: Epoch,
        /// Why, as a short, stable word.
        reason: &'static str,
    },
    /// A result has arrived; forget it.
    Ack {
        /// The task.
        task: TaskId,
        /// The attempt.
        epoch: Epoch,
        /// `None` when it was recorded.
        discarded: Option<Discard>,
    },
    /// Finish what runs, take nothing new.
    Drain {
        /// Why, as a short, stable word.
        reason: &'static str,
    },
    /// A session is over: its state may go.
    EndSession {
        /// Which.
        session: SessionName,
    },
    /// The connection is about to be closed.
    Goodbye {
        /// Why.
        reason: Why,
        /// When to come back.
        retry_after: Option<Duration>,
    },
}

/// The core's half of `registered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Welcome {
    /// The name under which the worker is known.
    pub worker: WorkerName,
    /// Tasks at once.
    pub slots: u32,
    /// How often both sides send a heartbeat.
    pub heartbeat_interval: Duration,
    /// How long a silent worker keeps its attempts.
    pub lease: Duration,
    /// Whom the worker serves.
    pub store: StoreId,
    /// Features that both sides know.
    pub features: Vec<Arc<str>>,
    /// Attempts that go on.
    pub keep: Vec<(TaskId, Epoch)>,
    /// Results to send again.
    pub resend: Vec<(TaskId, Epoch)>,
    /// Attempts to stop and forget.
    pub drop: Vec<(TaskId, Epoch)>,
}

/// One attempt, as it is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// The task.
    pub task: TaskId,
    /// The attempt's fencing number.
    pub epoch: Epoch,
    /// From 1.
    pub number: u32,
    /// What is asked.
    pub spec: Arc<TaskSpec>,
    /// How long it may run from now.
    pub limit: Duration,
    /// Of a task in a session: whether it begins it, and how long that lives.
    pub session: Option<SessionLease>,
}

/// Why a result was not recorded. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Discard {
    /// A newer attempt was issued.
    StaleEpoch,
    /// It was recorded before.
    Duplicate,
    /// No such task.
    UnknownTask,
    /// The task had ended otherwise.
    AfterTerminal,
}

impl Discard {
    /// Every reason, in label order.
    pub const ALL: [Self; 4] = [Self::StaleEpoch, Self::Duplicate, Self::UnknownTask, Self::AfterTerminal];

    /// The word used on the wire and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaleEpoch => "stale_epoch",
            Self::Duplicate => "duplicate",
            Self::UnknownTask => "unknown_task",
            Self::AfterTerminal => "after_terminal",
        }
    }
}

/// What the journal keeps. The last version of a key wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A task, whole.
    Task(Arc<TaskRecord>),
    /// A worker process that may hold work; durable before the first hand-over to it.
    Roster(RosterEntry),
    /// A person's words about a worker; an entry that says nothing deletes them.
    Overlay(WorkerName, Overlay),
    /// What is kept of a pool; one that says nothing deletes it.
    Pool(PoolName, PoolRecord),
}

/// A task that was not written: its key names another one, which the core no longer knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTaken {
    /// The record that was not written.
    pub seq: Seq,
    /// The task that has the key.
    pub task: TaskId,
    /// The body that it was submitted with; see [`KeyHash`].
    pub body: u128,
}

/// A worker process, as a restarted server must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// The worker.
    pub worker: WorkerName,
    /// The process.
    pub instance: Instance,
    /// Where it listens, if it does.
    pub endpoint: Option<Arc<str>>,
    /// Whether the server launched it (then it ended with the server).
    pub launched: bool,
    /// What it offered.
    pub capabilities: Vec<Offer>,
}

/// What people have said about a worker; outlives reconnects and restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Overlay {
    /// Takes no new tasks.
    pub cordoned: bool,
    /// Takes no new tasks and is told so.
    pub draining: bool,
    /// Who said so, where it is known.
    #[serde(default)]
    pub by: Option<Arc<str>>,
    /// When.
    #[serde(default)]
    pub at: Wall,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Answer {
    /// The task is accepted (and durable, where it is kept).
    Accepted(Arc<TaskRecord>),
    /// The key names this task already.
    Replayed(Arc<TaskRecord>),
    /// The key names this task already, and only the archive still has it.
    ReplayedFromArchive(TaskId),
    /// The task after a cancel: `cancelling`, or final.
    Cancel(Arc<TaskRecord>),
    /// The person's word was taken.
    Done,
    /// It was not.
    Refused(Refusal),
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Refusal {
    /// As many tasks, or bytes of input, as may wait.
    QueueFull {
        /// Tasks that are not final.
        depth: u64,
    },
    /// As many different demands, or fairness keys, as the core tells apart.
    TooManyKinds {
        /// `demands`, `fairness_keys` or `sessions`.
        what: &'static str,
    },
    /// No worker of the topology could ever offer it.
    UnknownCapability {
        /// What was asked.
        capability: Capability,
        /// The nearest that is offered.
        nearest: Option<Capability>,
    },
    /// The key was used with another body.
    KeyConflict,
    /// The server is stopping.
    Draining,
    /// The journal takes no writes.
    StoreUnavailable,
    /// No task of that id.
    NoSuchTask,
    /// No worker of that name.
    NoSuchWorker,
    /// No pool of that name.
    NoSuchPool,
    /// A pool may not have that size.
    SizeOutOfBounds {
        /// Instances at least, now.
        min: u32,
        /// Instances at most.
        max: u32,
    },
    /// No session of that name.
    NoSuchSession,
    /// The session's state is gone, and nobody has deleted it yet.
    SessionLost {
        /// Which.
        session: SessionName,
        /// What became of it.
        why: Arc<str>,
    },
}

/// Something in a task's life that a watcher is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Happening {
    /// It has a new state.
    State {
        /// The new state.
        state: TaskState,
        /// The attempt that it is about, from 1; 0 before the first.
        attempt: u32,
        /// The worker that it is about.
        worker: Option<WorkerName>,
        /// Why, where there is something to say.
        reason: Option<Arc<str>>,
    },
}

/// Whether an attempt's output may be appended to its task's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Door {
    /// From now on, from this connection.
    Open(ConnId),
    /// No more.
    Shut,
}

/// Everything that the core can ask of the shell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Effect {
    /// Say this to the worker on that connection; first in, first out.
    Order(ConnId, Order),
    /// Flush what was said, then close; `LinkDown` follows.
    Close(ConnId, Why),
    /// Dial this worker; `LinkUp` or `DialFailed` follows.
    Dial(WorkerName),
    /// Stop dialling it; nothing follows.
    HangUp(WorkerName),
    /// See that its program runs.
    Launch(WorkerName),
    /// Stop its program; `ProcessGone` follows.
    Halt(WorkerName),
    /// Ask a pool's provider for this; `Provided` follows. One call of a pool at a time.
    Provision(Arc<PoolSpec>, Arc<Wanted>),
    /// Write this to the journal; `Durable` follows.
    Record(Seq, Record),
    /// Answer a request.
    Answer(RequestId, Answer),
    /// A task is final: every caller who waits for it gets this.
    Finish(TaskId, Arc<TaskRecord>),
    /// Show this to the task's watchers.
    Publish(TaskId, Happening),
    /// Open or shut the way into the task's log.
    Gate(TaskId, Epoch, Door),
    /// Count and log this; nothing depends on it.
    Note(Note),
}
