//! The store that forgets: everything in memory, bounded by number and bytes. For tests, for mocks,
//! and for servers whose tasks need not survive them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{
    Archive, Batch, Journal, Limits, Opened, Page, Query, ReadFault, Retention, StoreFault, TaskLog,
};
use crate::fleet::{
    Capability, KEY_LIFE, Keep, KeyRow, KeyTaken, MAX_KEYS, Record, Seq, StoreId, TaskId, TaskRecord, Tenant,
    Term, Wall,
};

/// However much disk the retention would allow, memory keeps no more finished tasks...
const MAX_TASKS: u64 = 10_000;

/// Of them, those that nobody asked to keep: their callers have had the answers. Few, so that what
/// each task touches stays in the processor's cache.
const MAX_PASSING: u64 = 500;

/// ... and no more bytes of them.
const MAX_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    limits: Arc<Limits>,
    tasks: BTreeMap<TaskId, Arc<TaskRecord>>,
    logs: BTreeMap<TaskId, Bytes>,
    /// Dead letters among the tasks.
    dead_letters: BTreeMap<Capability, u64>,
    /// Which task has a key, and with which body.
    keys: BTreeMap<(Tenant, u128), (TaskId, u128)>,
    keys_in_order: VecDeque<(Wall, Tenant, u128)>,
    kept: Ring,
    passing: Ring,
}

/// Finished tasks in the order in which they ended, which is the order in which they are forgotten.
#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<(TaskId, u64, Wall)>,
    bytes: u64,
}

impl MemoryStore {
    /// An empty store that keeps so much, and no more than memory allows.
    pub fn new(retention: Retention) -> Self {
        let limits = Arc::new(Limits::new(retention));
        Self { shelf: Arc::new(Mutex::new(Shelf { limits, ..Shelf::default() })) }
    }

    /// Opens it: its first and only term.
    pub fn open(self) -> Opened {
        let limits = Arc::clone(&self.shelf().limits);
        Opened {
            archive: Arc::new(self.clone()),
            journal: Box::new(self),
            term: Term(1),
            id: StoreId::from(format!("mem-{:016x}", rand::random::<u64>())),
            records: Vec::new(),
            failed_recoveries: 0,
            limits,
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn put(&mut self, seq: Seq, record: &Arc<TaskRecord>) -> Option<KeyTaken> {
        let known = self.tasks.get(&record.id);
        if known.is_some_and(|known| known.version >= record.version) {
            return None;
        }
        let record = &match known {
            // The core has let go of the input; this is where it is.
            Some(known) if record.spec.is_stowed() => {
                Arc::new(TaskRecord { spec: Arc::clone(&known.spec), ..TaskRecord::clone(record) })
            }
            Some(_) | None => Arc::clone(record),
        };
        // A dead letter that was retried is written again, and takes its room once.
        let ended_before = known.is_some_and(|known| known.state.is_final());
        if known.is_none()
            && let Some(taken) = self.claim(seq, record)
        {
            return Some(taken);
        }
        if let Some(before) = self.tasks.insert(record.id, Arc::clone(record))
            && before.dead_letter
        {
            uncount(&mut self.dead_letters, &before);
        }
        if record.dead_letter {
            *self.dead_letters.entry(record.spec.capability.clone()).or_default() += 1;
        }
        if record.state.is_final() && !ended_before {
            let bytes = size_of_val(&**record)
                + record.spec.input.as_str().len()
                + record.output.as_ref().map_or(0, |output| output.as_str().len());
            let now = record.finished_at.unwrap_or_default();
            let keep = kept_as(record);
            let ring = self.ring(keep);
            ring.order.push_back((record.id, bytes as u64, now));
            ring.bytes += bytes as u64;
            self.forget(keep, now);
        }
        None
    }

    /// Gives the key to this task; or says whose it is.
    fn claim(&mut self, seq: Seq, record: &TaskRecord) -> Option<KeyTaken> {
        let Keep::ByKey(hash) = record.keep else { return None };
        let name = (record.tenant.clone(), hash.key);
        if let Some((task, body)) = self.keys.get(&name).copied() {
            return (task != record.id).then_some(KeyTaken { seq, task, body });
        }
        self.keys_in_order.push_back((record.submitted_at, name.0.clone(), name.1));
        self.keys.insert(name, (record.id, hash.body));
        while self.keys_in_order.front().is_some_and(|(since, _, _)| {
            self.keys_in_order.len() > MAX_KEYS || record.submitted_at.since(*since) > KEY_LIFE
        }) {
            let Some((_, tenant, key)) = self.keys_in_order.pop_front() else { break };
            self.keys.remove(&(tenant, key));
        }
        None
    }

    fn ring(&mut self, keep: Keep) -> &mut Ring {
        match keep {
            Keep::Passing => &mut self.passing,
            Keep::Kept | Keep::ByKey(_) => &mut self.kept,
        }
    }

    /// Forgets the oldest finished tasks of this kind, as far as they must go.
    fn forget(&mut self, keep: Keep, now: Wall) {
        let limits = self.limits.get();
        let (most, bytes) = (limits.max_tasks.min(MAX_TASKS), limits.max_bytes.min(MAX_BYTES));
        let (ring, most) = match keep {
            Keep::Passing => (&mut self.passing, most.min(MAX_PASSING)),
            Keep::Kept | Keep::ByKey(_) => (&mut self.kept, most),
        };
        while ring.order.front().is_some_and(|(_, _, ended)| {
            ring.order.len() as u64 > most || ring.bytes > bytes || now.since(*ended) > limits.max_age
        }) {
            let Some((oldest, bytes, _)) = ring.order.pop_front() else { break };
            ring.bytes -= bytes;
            if let Some(record) = self.tasks.remove(&oldest)
                && record.dead_letter
            {
                uncount(&mut self.dead_letters, &record);
            }
            if let Some(log) = self.logs.remove(&oldest) {
                ring.bytes -= log.len() as u64;
            }
        }
    }

    fn keep_log(&mut self, log: &TaskLog) {
        let Some(task) = self.tasks.get(&log.task).filter(|task| task.state.is_final()) else { return };
        let keep = kept_as(task);
        if !self.logs.contains_key(&log.task) {
            self.ring(keep).bytes += log.log.len() as u64;
            self.logs.insert(log.task, log.log.clone());
        }
    }
}

/// As which kind a finished task is kept: the server's own probes must not crowd callers' tasks out.
fn kept_as(record: &TaskRecord) -> Keep {
    if record.is_probe() { Keep::Passing } else { record.keep }
}

/// One dead letter less of that record's capability.
fn uncount(dead_letters: &mut BTreeMap<Capability, u64>, record: &TaskRecord) {
    let capability = &record.spec.capability;
    if let Some(count) = dead_letters.get_mut(capability) {
        *count -= 1;
        if *count == 0 {
            dead_letters.remove(capability);
        }
    }
}

impl Journal for MemoryStore {
    fn takes_time(&self) -> bool {
        false
    }

    fn commit(&mut self, batch: &Batch) -> Result<Vec<KeyTaken>, StoreFault> {
        let mut shelf = self.shelf();
        let mut taken = Vec::new();
        for (seq, record) in &batch.records {
            // Rosters and overlays matter only to a server that starts again, and this store ends with it.
            if let Record::Task(task) | Record::HandOver(task) = record {
                taken.extend(shelf.put(*seq, task));
            }
        }
        for log in &batch.logs {
            shelf.keep_log(log);
        }
        Ok(taken)
    }
}

impl Archive for MemoryStore {
    fn takes_time(&self) -> bool {
        false
    }

    fn task(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Arc<TaskRecord>>, ReadFault> {
        Ok(self.shelf().tasks.get(&id).filter(|record| record.tenant == *tenant).cloned())
    }

    fn key(&self, tenant: &Tenant, key: u128) -> Result<Option<KeyRow>, ReadFault> {
        let row = self.shelf().keys.get(&(tenant.clone(), key)).copied();
        Ok(row.map(|(task, body)| KeyRow { task, body }))
    }

    fn list(&self, query: &Query) -> Result<Page, ReadFault> {
        let shelf = self.shelf();
        let end = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        let wanted = |record: &&Arc<TaskRecord>| {
            record.tenant == query.tenant
                && query.state.is_none_or(|state| record.state == state)
                && query.capability.as_ref().is_none_or(|capability| record.spec.capability == *capability)
                && query.dead_letter.is_none_or(|dead| record.dead_letter == dead)
                && query.worker.as_ref().is_none_or(|worker| {
                    record.attempts.last().is_some_and(|attempt| attempt.worker == *worker)
                })
        };
        let newest_first = shelf.tasks.range((Bound::Unbounded, end)).rev().map(|(_, record)| record);
        let mut items: Vec<_> = newest_first.filter(wanted).take(query.limit + 1).cloned().collect();
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        Ok(Page { next: items.last().filter(|_| more).map(|record| record.id), items })
    }

    fn log(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Bytes>, ReadFault> {
        let shelf = self.shelf();
        let ours = shelf.tasks.get(&id).is_some_and(|record| record.tenant == *tenant);
        Ok(if ours { shelf.logs.get(&id).cloned() } else { None })
    }

    fn dead_letters(&self) -> Result<BTreeMap<Capability, u64>, ReadFault> {
        Ok(self.shelf().dead_letters.clone())
    }
}
