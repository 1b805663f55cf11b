//! What passes between the pools of the core and the shell: a person's words, what a provider is
//! asked and answers, what is kept, and what is shown.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rule::Decision;
use super::spec::{PoolSpec, ProviderKind};
use crate::fleet::ids::{PoolName, WorkerName};
use crate::fleet::time::Wall;

/// What a person says about a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolWord {
    /// Have so many instances now; the rule goes on from there.
    Scale(PoolName, u32),
    /// Keep the size as it is, over restarts too.
    Pause(PoolName),
    /// Scale again.
    Resume(PoolName),
}

impl PoolWord {
    /// Which pool it is about.
    pub fn pool(&self) -> &PoolName {
        match self {
            Self::Scale(name, _) | Self::Pause(name) | Self::Resume(name) => name,
        }
    }
}

/// One call of a provider. It says what is wanted, not what to do: the same call twice is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Numbers the calls of one pool.
    pub call: u64,
    /// Instances as far as the provider was told before.
    pub from: u32,
    /// Instances that there ought to be.
    pub to: u32,
    /// Why, as a short, stable word.
    pub reason: &'static str,
    /// The names that new instances have.
    pub added: Vec<WorkerName>,
    /// Instances that may go: they are idle, get no tasks any more, and are disconnected.
    pub victims: Vec<WorkerName>,
}

/// How a call of a provider ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderReport {
    /// It said that it was done.
    Done {
        /// A free port for each added instance that takes one, in their order.
        ports: Vec<u16>,
        /// How long it took.
        took: Duration,
    },
    /// It failed.
    Failed {
        /// Whether it took too long.
        timeout: bool,
        /// For people.
        message: Arc<str>,
        /// How long it took.
        took: Duration,
    },
}

/// What is kept of a pool over restarts; one that says nothing is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Instances that were wanted last.
    pub desired: u32,
    /// Whether a person paused it.
    pub paused: bool,
    /// Who said so last, where it is known.
    pub by: Option<Arc<str>>,
    /// When.
    pub at: Wall,
    /// Instances that may have outlived the server: their names and indices.
    pub members: Vec<(WorkerName, u32)>,
}

/// A pool, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// The entry in force.
    pub spec: Arc<PoolSpec>,
    /// Instances that are wanted.
    pub desired: u32,
    /// The bounds at this time, the schedule included.
    pub min: u32,
    /// See `min`.
    pub max: u32,
    /// Instances that are there or on their way, without those that leave.
    pub instances: u32,
    /// Those of them that take tasks.
    pub ready: u32,
    /// Instances that finish what they run, then go.
    pub draining: u32,
    /// Whether its size is kept, and who says so: `operator`, `config`, or nobody.
    pub paused: Option<&'static str>,
    /// Who paused it, where that is known.
    pub paused_by: Option<Arc<str>>,
    /// The last look.
    pub last: Option<Decision>,
    /// How its provider is.
    pub provider: ProviderView,
    /// Instances that were asked for and have not registered for longer than they should take.
    pub missing: Vec<WorkerName>,
    /// Workers that were to be gone and dialled in all the same, lately.
    pub unwanted: Vec<WorkerName>,
    /// Instances of an older template.
    pub outdated: u32,
}

/// How a pool's provider is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderView {
    /// Which.
    pub kind: ProviderKind,
    /// Whether a call is under way.
    pub calling: bool,
    /// Failures in a row.
    pub failures: u32,
    /// What was wrong last, while it fails.
    pub error: Option<Arc<str>>,
    /// When it is called again, while it fails.
    pub retry_at: Option<Wall>,
}
