//! Where tasks are kept: a journal of whole records that the core writes and never asks, and an
//! archive that everybody else reads. The last version of a record wins; the store decides nothing.

use std::sync::Arc;

use crate::fleet::{
    Capability, Record, Seq, StoreId, TaskId, TaskRecord, TaskState, Tenant, Term, WorkerName,
};

mod memory;
mod writer;

pub use memory::{MemoryLimits, MemoryStore};
pub use writer::{Committed, LINGER, Writer};

/// Why a commit failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFault {
    /// A server with a newer term writes here: this one must stop.
    Fenced {
        /// The newer term.
        by: Term,
    },
    /// The disk is full, failing or gone.
    Io(String),
}

/// The writing side. One that touches a disk lives on a thread of its own.
pub trait Journal: Send {
    /// Whether a commit may take long: then it must not run on the thread that dispatches.
    fn takes_time(&self) -> bool {
        true
    }

    /// Writes a batch whole; durable when it returns.
    ///
    /// # Errors
    /// See [`StoreFault`]; nothing of the batch counts as written then.
    fn commit(&mut self, batch: &[(Seq, Record)]) -> Result<(), StoreFault>;
}

/// The reading side, from any thread.
pub trait Archive: Send + Sync {
    /// One task.
    fn task(&self, tenant: &Tenant, id: TaskId) -> Option<Arc<TaskRecord>>;

    /// A page of tasks, newest first.
    fn list(&self, query: &Query) -> Page;
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

/// One page of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Arc<TaskRecord>>,
    /// `before` of the next page; `None` when this was the last.
    pub next: Option<TaskId>,
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
}
