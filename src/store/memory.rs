//! The store that forgets: everything in memory, bounded by number and bytes. For tests, for mocks,
//! and for servers whose tasks need not survive them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Archive, Journal, Opened, Page, Query, StoreFault};
use crate::fleet::{Record, Seq, StoreId, TaskId, TaskRecord, Tenant, Term, Wall};

/// How much the memory store keeps of finished tasks.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Finished tasks at most.
    pub max_tasks: usize,
    /// Bytes of their inputs and outputs at most.
    pub max_bytes: usize,
    /// For so long at most after they ended; judged whenever another one ends.
    pub max_age: Duration,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { max_tasks: 10_000, max_bytes: 64 << 20, max_age: Duration::from_secs(7 * 24 * 3600) }
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
    finished: VecDeque<(TaskId, usize, Wall)>,
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
        let ended_before = known.is_some_and(|known| known.state.is_final());
        self.tasks.insert(record.id, Arc::clone(record));
        if record.state.is_final() && !ended_before {
            let bytes = size_of_val(&**record)
                + record.spec.input.as_str().len()
                + record.output.as_ref().map_or(0, |output| output.as_str().len());
            self.finished.push_back((record.id, bytes, record.finished_at.unwrap_or_default()));
            self.finished_bytes += bytes;
        }
        let now = record.finished_at.unwrap_or_default();
        while self.finished.front().is_some_and(|(_, _, ended)| {
            self.finished.len() > self.limits.max_tasks
                || self.finished_bytes > self.limits.max_bytes
                || now.since(*ended) > self.limits.max_age
        }) {
            let Some((oldest, bytes, _)) = self.finished.pop_front() else { break };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Keep, RetryWord, Source, TaskSpec, TaskState};

    fn ended(id: u128, at: i64) -> Record {
        let spec = TaskSpec {
            capability: "echo".into(),
            input: "{}".into(),
            labels: BTreeMap::new(),
            priority: 3,
            queue_timeout: None,
            execution_timeout: None,
            deadline: None,
            max_attempts: None,
            session: None,
            fairness_key: None,
            retry: RetryWord::Safe,
            traceparent: None,
        };
        Record::Task(Arc::new(TaskRecord {
            id: TaskId(id),
            tenant: Tenant::default_tenant(),
            version: 1,
            term: Term(1),
            keep: Keep::Kept,
            source: Source::Rest,
            spec: Arc::new(spec),
            state: TaskState::Succeeded,
            attempts: Vec::new(),
            charged: 0,
            deaths: 0,
            output: None,
            error: None,
            usage: None,
            dead_letter: false,
            hint: None,
            pending_reason: None,
            retry_of: None,
            waited: Duration::ZERO,
            submitted_at: Wall(at),
            assigned_at: None,
            started_at: None,
            finished_at: Some(Wall(at)),
        }))
    }

    #[test]
    fn a_dead_letter_that_was_retried_is_listed_as_such_no_more_and_takes_room_once() {
        let dead = |version, dead_letter| {
            let Record::Task(task) = ended(1, 0) else { panic!("it is a task") };
            Record::Task(Arc::new(TaskRecord { version, dead_letter, ..TaskRecord::clone(&task) }))
        };
        let limits = MemoryLimits { max_tasks: 2, ..MemoryLimits::default() };
        let mut store = MemoryStore::new(limits);
        for record in [dead(1, true), dead(2, false), dead(1, true), ended(2, 0)] {
            store.commit(&[(Seq(1), record)]).expect("memory takes everything");
        }
        assert_eq!(listed(&store, None), [2, 1]);
        assert_eq!(listed(&store, Some(true)), []);
    }

    fn kept(limits: MemoryLimits, records: &[Record]) -> Vec<u128> {
        let mut store = MemoryStore::new(limits);
        for record in records {
            store.commit(&[(Seq(1), record.clone())]).expect("memory takes everything");
        }
        listed(&store, None)
    }

    fn listed(store: &MemoryStore, dead_letter: Option<bool>) -> Vec<u128> {
        let query = Query {
            tenant: Tenant::default_tenant(),
            state: None,
            capability: None,
            worker: None,
            dead_letter,
            limit: 100,
            before: None,
        };
        store.list(&query).items.iter().map(|record| record.id.0).collect()
    }

    #[test]
    fn finished_tasks_go_by_number_and_by_age_the_oldest_first() {
        let records = [ended(1, 0), ended(2, 1_000), ended(3, 9_000)];
        assert_eq!(kept(MemoryLimits::default(), &records), [3, 2, 1]);
        assert_eq!(kept(MemoryLimits { max_tasks: 2, ..MemoryLimits::default() }, &records), [3, 2]);
        let young = MemoryLimits { max_age: Duration::from_secs(5), ..MemoryLimits::default() };
        assert_eq!(kept(young, &records), [3]);
    }
}
