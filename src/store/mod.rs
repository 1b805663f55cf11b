//! Where tasks are kept: a journal of whole records that the core writes and never asks, and an
//! archive that everybody else reads. The last version of a record wins; the store decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::config::RetentionConfig;
use crate::fleet::{
    Capability, KeyRow, KeyTaken, Payload, Record, Seq, StoreId, TaskId, TaskRecord, TaskState, Tenant, Term,
    WorkerName,
};

mod inputs;
mod memory;
mod reads;
pub mod sqlite;
#[cfg(test)]
mod tests;
mod writer;

pub use inputs::Inputs;
pub use memory::MemoryStore;
pub use reads::Reads;
pub use writer::{LINGER, Told, Writer};

/// Why a commit failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFault {
    /// A server with a newer term writes here: this one must stop.
    Fenced {
        /// The newer term.
        by: Term,
    },
    /// The disk is full. What holds space back may be let go of.
    Full(String),
    /// The disk is failing or gone. Nothing may be acknowledged before [`Journal::revive`] was.
    Io(String),
    /// What was acknowledged is not there any more: this server must stop.
    Lost(String),
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced { by } => write!(f, "another server writes here, with term {by}"),
            Self::Full(why) => write!(f, "the disk is full: {why}"),
            Self::Io(why) | Self::Lost(why) => f.write_str(why),
        }
    }
}

/// Why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFault {
    /// The record is there and is not what was written.
    Damaged(String),
    /// Too many reads are under way, or this one took too long.
    Busy,
    /// The disk is failing or gone.
    Io(String),
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => f.write_str(what),
            Self::Busy => f.write_str("the store is busy with other reads"),
            Self::Io(why) => write!(f, "the store cannot be read: {why}"),
        }
    }
}

/// What is committed together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The core's records, in its order.
    pub records: Vec<(Seq, Record)>,
    /// Logs of finished tasks; one whose task is not stored is left out.
    pub logs: Vec<TaskLog>,
}

/// The log of a finished task, kept and deleted with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLog {
    /// Whose task.
    pub tenant: Tenant,
    /// The task.
    pub task: TaskId,
    /// The log; the store never looks into it.
    pub log: Bytes,
}

impl Batch {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.logs.is_empty()
    }

    /// Rows in it.
    pub fn len(&self) -> usize {
        self.records.len() + self.logs.len()
    }
}

impl From<Vec<(Seq, Record)>> for Batch {
    fn from(records: Vec<(Seq, Record)>) -> Self {
        Self { records, logs: Vec::new() }
    }
}

/// The writing side. One that touches a disk lives on a thread of its own.
pub trait Journal: Send {
    /// Whether a commit may take long: then it must not run on the thread that dispatches.
    fn takes_time(&self) -> bool {
        true
    }

    /// Writes a batch whole; durable when it returns. A task whose key names another one already is
    /// not written, and told.
    ///
    /// # Errors
    /// See [`StoreFault`]; nothing of the batch counts as written then.
    fn commit(&mut self, batch: &Batch) -> Result<Vec<KeyTaken>, StoreFault>;

    /// After [`StoreFault::Io`]: begins anew, and makes sure that all that was acknowledged is there.
    ///
    /// # Errors
    /// [`StoreFault::Io`] when it must be tried again later; the others are for good.
    fn revive(&mut self) -> Result<(), StoreFault> {
        Ok(())
    }

    /// Lets go of the space that is held back for the worst moment; false when there is none.
    fn make_room(&mut self) -> bool {
        false
    }

    /// Why only results should be recorded for now, and no new submissions: the space that is held
    /// back for the worst moment is gone.
    fn scarce(&self) -> Option<StoreFault> {
        None
    }

    /// A short piece of housekeeping; called between commits, at least every second.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    fn tend(&mut self) -> Result<(), StoreFault> {
        Ok(())
    }

    /// How large it is, for the metrics.
    fn size(&self) -> Option<Size> {
        None
    }

    /// The records that it was opened with have been taken up.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    fn recovered(&mut self) -> Result<(), StoreFault> {
        Ok(())
    }

    /// Puts tasks out of the way that make recovery fail.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    fn set_aside(&mut self, _tasks: &[(Tenant, TaskId)], _why: &str) -> Result<(), StoreFault> {
        Ok(())
    }
}

/// How large a store is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The database.
    pub db: u64,
    /// Its write-ahead log.
    pub wal: u64,
    /// What the disk has left.
    pub free: u64,
}

/// The reading side, from any thread. One that touches a disk is asked through [`Reads`].
pub trait Archive: Send + Sync {
    /// Whether a read may take long: then it must not run on the thread that dispatches.
    fn takes_time(&self) -> bool {
        true
    }

    /// One task.
    ///
    /// # Errors
    /// See [`ReadFault`].
    fn task(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Arc<TaskRecord>>, ReadFault>;

    /// The input of a task, which the task's own records may not have any more.
    ///
    /// # Errors
    /// See [`ReadFault`].
    fn input(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Payload>, ReadFault> {
        Ok(self.task(tenant, id)?.map(|record| record.spec.input.clone()))
    }

    /// The task that has a key.
    ///
    /// # Errors
    /// See [`ReadFault`].
    fn key(&self, tenant: &Tenant, key: u128) -> Result<Option<KeyRow>, ReadFault>;

    /// A page of tasks, newest first. A damaged record is left out, logged and counted.
    ///
    /// # Errors
    /// See [`ReadFault`].
    fn list(&self, query: &Query) -> Result<Page, ReadFault>;

    /// The log of a finished task.
    ///
    /// # Errors
    /// See [`ReadFault`].
    fn log(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Bytes>, ReadFault>;

    /// How many dead letters there are, of all tenants, by capability.
    ///
    /// # Errors
    /// See [`ReadFault`].
    fn dead_letters(&self) -> Result<BTreeMap<Capability, u64>, ReadFault>;
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Whose tasks.
    pub tenant: Tenant,
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this capability.
    pub capability: Option<Capability>,
    /// Only those whose last attempt was on this worker.
    pub worker: Option<WorkerName>,
    /// Only dead letters, or only others.
    pub dead_letter: Option<bool>,
    /// At most so many; 1 to 500.
    pub limit: usize,
    /// Only tasks older than this one (the last of the page before).
    pub before: Option<TaskId>,
}

impl Query {
    /// The newest tasks of a tenant, whatever they are.
    pub fn newest(tenant: Tenant, limit: usize) -> Self {
        Self { tenant, state: None, capability: None, worker: None, dead_letter: None, limit, before: None }
    }
}

/// One page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Arc<TaskRecord>>,
    /// `before` of the next page; `None` when this was the last.
    pub next: Option<TaskId>,
}

/// How much is kept of finished tasks: whichever bound is reached first. The oldest go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// For so long after they ended.
    pub max_age: Duration,
    /// So many.
    pub max_tasks: u64,
    /// So many bytes of them.
    pub max_bytes: u64,
    /// Files that they made, or that callers uploaded, for so long.
    pub artifacts: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let week = Duration::from_secs(7 * 24 * 3600);
        Self { max_age: week, max_tasks: 1_000_000, max_bytes: 10 << 30, artifacts: week }
    }
}

impl From<&RetentionConfig> for Retention {
    fn from(config: &RetentionConfig) -> Self {
        Self {
            max_age: config.finished_tasks,
            max_tasks: config.max_tasks,
            max_bytes: config.max_bytes,
            artifacts: config.artifacts,
        }
    }
}

/// The retention in force; a reload changes it.
#[derive(Debug, Default)]
pub struct Limits(ArcSwap<Retention>);

impl Limits {
    /// These.
    pub fn new(retention: Retention) -> Self {
        Self(ArcSwap::from_pointee(retention))
    }

    /// What is in force.
    pub fn get(&self) -> Retention {
        **self.0.load()
    }

    /// From now on, these.
    pub fn set(&self, retention: Retention) {
        self.0.store(Arc::new(retention));
    }
}

/// A store that has been opened.
pub struct Opened {
    /// The writing side.
    pub journal: Box<dyn Journal>,
    /// The reading side.
    pub archive: Arc<dyn Archive>,
    /// This opening's term.
    pub term: Term,
    /// The store's name.
    pub id: StoreId,
    /// Everything that is not final, and rosters and overlays.
    pub records: Vec<Record>,
    /// How many starts in a row have not come through their recovery.
    pub failed_recoveries: u32,
    /// How much it keeps.
    pub limits: Arc<Limits>,
}
