//! What the journal keeps, beside what it answers about keys.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::worker::Offer;
use crate::fleet::autoscaler::PoolRecord;
use crate::fleet::ids::*;
use crate::fleet::sessions::SessionRecord;
use crate::fleet::task::TaskRecord;
use crate::fleet::time::Wall;

/// What the journal keeps. The last version of a key wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A task, whole.
    Task(Arc<TaskRecord>),
    /// A task, whole, as its hand-over left it: a hint for the next start. Nothing waits for it, so that it
    /// may be written later than what comes behind it, and not at all if the task's next record is there.
    HandOver(Arc<TaskRecord>),
    /// A worker process that may hold work; durable before the first hand-over to it.
    Roster(RosterEntry),
    /// A person's words about a worker; an entry that says nothing deletes them.
    Overlay(WorkerName, Overlay),
    /// What is kept of a pool; one that says nothing deletes it.
    Pool(PoolName, PoolRecord),
    /// Where a session is; one that says nothing deletes it.
    Session(Tenant, SessionName, SessionRecord),
}

/// Why an input could not be read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputFault {
    /// Not at the moment: the disk errs, or takes too long.
    Unread(Arc<str>),
    /// It is not what was written: to read it again is of no use.
    Damaged(Arc<str>),
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
    /// How long its tasks might run.
    #[serde(default)]
    pub timeout: Option<Duration>,
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

/// A task that was not written: its key names another one, which the core no longer knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTaken {
    /// The record that was not written.
    pub seq: Seq,
    /// The task that has the key.
    pub task: TaskId,
    /// The body that it was submitted with; see [`KeyHash`](crate::fleet::KeyHash).
    pub body: u128,
}
