//! What the core shows of itself: plain values, made on request, that no rule reads back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::*;
use super::task::{Fault, Source, TaskState};
use super::time::Wall;
use super::topology::Origin;
use super::words::{MetricsPage, Offer};

/// A worker's state: the first of these that holds, in this order (`Ready` last).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Left the topology and holds nothing any more.
    Removed,
    /// No connection; the next dial is planned, or it has to dial in.
    Disconnected,
    /// Dialling, or registering.
    Connecting,
    /// Takes no new tasks, finishes what it runs.
    Draining,
    /// Takes no new tasks, by a person's word.
    Cordoned,
    /// Taken out by its failures, for a while.
    Ejected,
    /// Silent for `suspect_after`: no new tasks.
    Suspect,
    /// Takes tasks.
    Ready,
}

impl WorkerState {
    /// Every state that a configured worker can show, in label order.
    pub const SHOWN: [Self; 7] = [
        Self::Connecting,
        Self::Ready,
        Self::Suspect,
        Self::Ejected,
        Self::Cordoned,
        Self::Draining,
        Self::Disconnected,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Draining => "draining",
            Self::Cordoned => "cordoned",
            Self::Ejected => "ejected",
            Self::Suspect => "suspect",
            Self::Ready => "ready",
        }
    }
}

/// A worker, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name.
    pub name: WorkerName,
    /// Its pool.
    pub pool: Option<PoolName>,
    /// Who asked for it.
    pub origin: Origin,
    /// Its state.
    pub state: WorkerState,
    /// Why it is in that state, where there is something to say.
    pub reason: Option<Arc<str>>,
    /// Where the server dials it.
    pub endpoint: Option<Arc<str>>,
    /// Whether the server launches it.
    pub launched: bool,
    /// Whether it is a mock twin.
    pub mock: bool,
    /// The process, while or since it was connected.
    pub instance: Option<Instance>,
    /// The connection, while there is one.
    pub connection: Option<ConnId>,
    /// The kind that it registered.
    pub kind: Option<Arc<str>>,
    /// The version that it registered.
    pub version: Option<Arc<str>>,
    /// The isolation level that it registered.
    pub isolation: Option<Arc<str>>,
    /// Where it serves its own metrics, as this process of it said when it registered.
    pub metrics: Option<MetricsPage>,
    /// What it may be asked for: what it last registered, within what the topology allows; before it
    /// has ever registered, what the topology states.
    pub capabilities: Arc<[Offer]>,
    /// Whether `capabilities` is its own word, of now or of before the server was restarted.
    pub has_registered: bool,
    /// Tasks at once.
    pub slots_total: u32,
    /// Slots that hold an attempt.
    pub slots_used: u32,
    /// Slots lost to attempts that do not stop.
    pub slots_unavailable: u32,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// When its last frame arrived.
    pub last_heartbeat: Option<Wall>,
    /// When this connection was made.
    pub connected_at: Option<Wall>,
    /// Connections made again after a loss.
    pub reconnects: u64,
    /// When it is dialled next.
    pub next_attempt_at: Option<Wall>,
    /// Why the last dial failed, or the last connection ended.
    pub last_error: Option<Arc<str>>,
    /// What its failures, and its canaries, have led to.
    pub health: HealthView,
    /// Attempts that succeeded there.
    pub attempts_ok: u64,
    /// Attempts that ended otherwise.
    pub attempts_error: u64,
}

/// What a worker's failures have led to. The caller's own failing code never counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthView {
    /// Failures of its own since anything went well.
    pub failures_in_a_row: u32,
    /// Ejections that are not forgotten yet: the next one lasts longer for each of them.
    pub ejections: u32,
    /// Ejected until then; after it, until it has passed its canary.
    pub ejected_until: Option<Wall>,
    /// Why it is not ejected although it ought to be: `pool_limit` or `last_ready`.
    pub held_back: Option<&'static str>,
    /// Slots that it may use now: fewer than it has while it comes back from an ejection.
    pub slots_open: u32,
    /// Why it was ejected last, or ought to be.
    pub last_failure: Option<Arc<str>>,
}

/// The state of one capability's tasks, exact at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapabilityStats {
    /// Tasks that the core accepted, by source (`Source::ALL` order). Accepted minus completed is
    /// what the other fields add up to.
    pub accepted: [u64; Source::ALL.len()],
    /// Tasks that became final, by state and fault.
    pub completed: BTreeMap<(TaskState, Fault), u64>,
    /// Queued, and eligible now.
    pub queued: u64,
    /// Queued, not before some later time.
    pub delayed: u64,
    /// Handed over, not acknowledged.
    pub assigned: u64,
    /// Running.
    pub running: u64,
    /// Told to stop.
    pub cancelling: u64,
    /// How long the oldest queued task has been eligible.
    pub oldest_age: Duration,
    /// Queued tasks that no connected worker could take.
    pub unroutable: u64,
}

/// All that a scrape needs of the core, exact at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetStats {
    /// By capability.
    pub capabilities: BTreeMap<Capability, CapabilityStats>,
    /// Tasks that are not final.
    pub depth: u64,
    /// Bytes of their inputs.
    pub bytes: u64,
    /// `queue.max_depth`.
    pub max_depth: u64,
    /// `queue.max_bytes`.
    pub max_bytes: u64,
    /// The generation in force.
    pub generation: Generation,
}

/// What a waiting task waits for; the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For its record: it is kept by key.
    Recording,
    /// After a restart, for the workers that may have it.
    Recovering,
    /// For the time of its next attempt.
    Backoff,
    /// For the retry budget of its capability.
    RetryBudget,
    /// For its turn in its session.
    Session,
    /// For its input, which was too large to be held in memory meanwhile.
    Reading,
    /// For a server that does not stop.
    Stopping,
    /// For one of the workers that it prefers; then any will do.
    Preferred,
    /// For a slot: every worker that could take it is busy.
    Busy,
    /// For a worker that could take it and is away.
    NotReady,
    /// For a worker that the topology does not have.
    Impossible,
    /// For nothing: it is about to be handed over.
    Free,
}

impl Wait {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Recovering => "recovering",
            Self::Backoff => "backoff",
            Self::RetryBudget => "retry_budget",
            Self::Session => "session",
            Self::Reading => "reading",
            Self::Stopping => "stopping",
            Self::Preferred => "preferred",
            Self::Busy => "busy",
            Self::NotReady => "not_ready",
            Self::Impossible => "impossible",
            Self::Free => "free",
        }
    }
}

/// A session, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SessionView {
    /// Its name.
    pub name: SessionName,
    /// Where it is; `None` before a worker has it, and after a loss.
    pub worker: Option<WorkerName>,
    /// The server was started anew, and waits for that worker to come back with it.
    pub away: bool,
    /// What became of it, if its state is gone.
    pub lost: Option<Arc<str>>,
    /// Tasks that run in it or wait for it.
    pub tasks: usize,
    /// How long it lives unused.
    pub ttl: Duration,
    /// When its first task came.
    pub began: Wall,
    /// When it was last used.
    pub used: Wall,
    /// When it ends unless it is used, or, of a lost one, is forgotten; `None` while it is in use.
    pub expires: Option<Wall>,
}

/// Workers that do not take a task for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerGroup {
    /// Their names; of many the first and the last.
    pub workers: String,
    /// How many they are.
    pub count: usize,
    /// Why.
    pub reason: String,
}

/// Why a waiting task waits, from the same index that the balancer reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What kind of wait it is.
    pub wait: Wait,
    /// One sentence: the shortest true reason.
    pub summary: String,
    /// A line per group of like workers, those nearest to taking the task first; a bounded number.
    pub workers: Vec<WorkerGroup>,
    /// The shortest fix, where a person can do something.
    pub fix: Option<String>,
}
