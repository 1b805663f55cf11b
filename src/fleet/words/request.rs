//! What people and programs ask, and what they are answered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fleet::ids::*;
use crate::fleet::task::*;

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
