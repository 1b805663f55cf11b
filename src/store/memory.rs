//! The store that forgets: everything in memory, bounded by number and bytes. For tests, for mocks,
//! and for servers whose tasks need not survive them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Archive, Journal, Opened, Page, Query, StoreFault};
use crate::fleet::{Record, Seq, StoreId, TaskId, TaskRecord, Tenant, Term};

/// How much the memory store keeps of finished tasks.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Finished tasks at most.
    pub max_tasks: usize,
    /// Bytes of their inputs and outputs at most.
    pub max_bytes: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { max_tasks: 10_000, max_bytes: 64 << 20 }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    limits: MemoryLimits,
    tasks: BTreeMap<TaskId, Arc<TaskRecord>>,
    /// Finished ones in the order in which they ended, which is the order in which they are forgotten.
    finished: std::collections::VecDeque<(TaskId, usize)>,
    finished_bytes: usize,
}

impl MemoryStore {
    /// An empty store that keeps so much.
    pub fn new(limits: MemoryLimits) -> Self {
        Self { shelf: Arc::new(Mutex::new(Shelf { limits, ..Shelf::default() })) }
    }

    /// Opens it: its first and only term.
    pub fn open(self) -> Opened {
        Opened {
            archive: Arc::new(self.clone()),
            journal: Box::new(self),
            term: Term(1),
            id: StoreId::from(format!("mem-{:016x}", rand::random::<u64>())),
            records: Vec::new(),
        }
    }
}

impl Shelf {
    fn put(&mut self, record: &Arc<TaskRecord>) {
        let known = self.tasks.get(&record.id);
        if known.is_some_and(|known| known.version >= record.version) {
            return;
        }
        self.tasks.insert(record.id, Arc::clone(record));
        if record.state.is_final() {
            let bytes = size_of_val(&**record)
                + record.spec.input.as_str().len()
                + record.output.as_ref().map_or(0, |output| output.as_str().len());
            self.finished.push_back((record.id, bytes));
            self.finished_bytes += bytes;
        }
        while self.finished.len() > self.limits.max_tasks || self.finished_bytes > self.limits.max_bytes {
            let Some((oldest, bytes)) = self.finished.pop_front() else { break };
            self.finished_bytes -= bytes;
            self.tasks.remove(&oldest);
        }
    }
}

impl Journal for MemoryStore {
    fn takes_time(&self) -> bool {
        false
    }

    fn commit(&mut self, batch: &[(Seq, Record)]) -> Result<(), StoreFault> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, record) in batch {
            // Rosters and overlays matter only to a server that starts again, and this store ends with it.
            if let Record::Task(task) = record {
                shelf.put(task);
            }
        }
        Ok(())
    }
}

impl Archive for MemoryStore {
    fn task(&self, tenant: &Tenant, id: TaskId) -> Option<Arc<TaskRecord>> {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.tasks.get(&id).filter(|record| record.tenant == *tenant).cloned()
    }

    fn list(&self, query: &Query) -> Page {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let end = query.before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let wanted = |record: &&Arc<TaskRecord>| {
            record.tenant == query.tenant
                && query.state.is_none_or(|state| record.state == state)
                && query.capability.as_ref().is_none_or(|capability| record.spec.capability == *capability)
                && query.dead_letter.is_none_or(|dead| record.dead_letter == dead)
                && query.worker.as_ref().is_none_or(|worker| {
                    record.attempts.last().is_some_and(|attempt| attempt.worker == *worker)
                })
        };
        let newest_first =
            shelf.tasks.range((std::ops::Bound::Unbounded, end)).rev().map(|(_, record)| record);
        let mut items: Vec<_> = newest_first.filter(wanted).take(query.limit + 1).cloned().collect();
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        Page { next: items.last().filter(|_| more).map(|record| record.id), items }
    }
}
