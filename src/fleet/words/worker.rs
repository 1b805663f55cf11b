//! What passes between the core and a worker: what a worker says of itself and of its work
//! (`Registration`, `Report`), and what it is told (`Order`). Interfaces translate these to frames.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Why;
use crate::fleet::ids::*;
use crate::fleet::sessions::SessionLease;
use crate::fleet::task::*;

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
    /// The sessions that it has; `None` from one that does not tell.
    #[serde(default)]
    pub sessions: Option<Vec<SessionName>>,
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
    /// It is no task, but the server's own look whether the worker works; workers are not told.
    pub canary: bool,
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
