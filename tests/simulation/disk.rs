//! The simulated journal: takes records in order, makes them durable in batches after a while, and
//! tells the core later still. A crash loses what was not durable; the core never learns which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::dice::Dice;
use super::world::{Happening, World};

/// What [`World::count`] counts here.
pub(crate) const FAILED: &str = "the journal takes no writes for a while";
/// See [`FAILED`].
pub(crate) const UNCLEAR: &str = "a commit fails and is on disk all the same, in part";
/// See [`FAILED`].
pub(crate) const TAKEN: &str = "the journal says that a key is taken";
/// See [`FAILED`].
pub(crate) const READ_AGAIN: &str = "a large input is read again for its hand-over";
/// See [`FAILED`].
pub(crate) const UNREAD: &str = "a large input cannot be read for a while";
/// See [`FAILED`].
pub(crate) const DAMAGED: &str = "a large input is damaged";
/// See [`FAILED`].
pub(crate) const BEHIND: &str = "a hand-over is written later than what comes behind it, or never";
/// See [`FAILED`].
pub(crate) const LOST: &str = "a crash loses what was not committed";

/// What is on disk, and what is on its way there.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) tasks: BTreeMap<TaskId, Arc<TaskRecord>>,
    /// The version before the newest one: a journal may have both.
    older: BTreeMap<TaskId, Arc<TaskRecord>>,
    /// Large inputs, which only the first records of their tasks have.
    inputs: BTreeMap<TaskId, Payload>,
    /// The index by key: whose it is, and the body that it came with.
    keys: BTreeMap<u128, (TaskId, u128)>,
    roster: BTreeMap<WorkerName, RosterEntry>,
    overlays: BTreeMap<WorkerName, Overlay>,
    pools: BTreeMap<PoolName, PoolRecord>,
    sessions: BTreeMap<(Tenant, SessionName), SessionRecord>,
    waiting: VecDeque<(Seq, Record)>,
    /// Hand-overs that wait on, although what came behind them is durable.
    hand_overs: BTreeMap<TaskId, Arc<TaskRecord>>,
    committing: bool,
    /// Takes no writes.
    pub(crate) failed: bool,
    /// Commits take long until then.
    pub(crate) slow_until: u64,
    /// A planted bug: it tells that it has what it has only begun to write.
    pub(crate) confirms_early: bool,
}

impl Disk {
    /// Whether everything that was given to it is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a record, unless it is of a new task whose key names another one.
    fn keep(&mut self, seq: Seq, record: Record) -> Option<KeyTaken> {
        match record {
            Record::HandOver(task)
                if self.tasks.get(&task.id).is_some_and(|known| known.version > task.version) => {}
            Record::Task(task) | Record::HandOver(task) => {
                self.hand_overs.remove(&task.id);
                if let Keep::ByKey(hash) = task.keep
                    && !self.tasks.contains_key(&task.id)
                {
                    let (holder, body) = *self.keys.entry(hash.key).or_insert((task.id, hash.body));
                    if holder != task.id {
                        return Some(KeyTaken { seq, task: holder, body });
                    }
                }
                let task = if task.spec.input.as_str().len() > TaskSpec::LARGE_INPUT {
                    self.inputs.insert(task.id, task.spec.input.clone());
                    Arc::new(TaskRecord {
                        spec: Arc::new(task.spec.without_input()),
                        ..TaskRecord::clone(&task)
                    })
                } else {
                    task
                };
                if let Some(before) = self.tasks.insert(task.id, Arc::clone(&task))
                    && before.version < task.version
                {
                    self.older.insert(task.id, before);
                }
            }
            Record::Roster(entry) => {
                self.roster.insert(entry.worker.clone(), entry);
            }
            Record::Overlay(worker, overlay) => {
                if overlay == Overlay::default() {
                    self.overlays.remove(&worker);
                } else {
                    self.overlays.insert(worker, overlay);
                }
            }
            Record::Pool(pool, record) => {
                self.pools.insert(pool, record);
            }
            Record::Session(tenant, name, record) => {
                if record == SessionRecord::default() {
                    self.sessions.remove(&(tenant, name));
                } else {
                    self.sessions.insert((tenant, name), record);
                }
            }
        }
        None
    }

    fn write_hand_overs(&mut self) {
        for task in std::mem::take(&mut self.hand_overs).into_values() {
            self.keep(Seq(0), Record::HandOver(task));
        }
    }

    /// The server died: what was under way is durable up to some point, and lost from there on.
    pub(crate) fn crash(&mut self, reached: usize) {
        let reached = if self.committing && !self.failed { reached.min(self.waiting.len()) } else { 0 };
        for (seq, record) in self.waiting.drain(..reached).collect::<Vec<_>>() {
            self.keep(seq, record);
        }
        self.waiting.clear();
        self.hand_overs.clear();
        self.committing = false;
    }

    /// The server stopped in order: everything is written before it ends.
    pub(crate) fn flush(&mut self) {
        self.write_hand_overs();
        let waiting = std::mem::take(&mut self.waiting);
        for (seq, record) in waiting {
            self.keep(seq, record);
        }
        self.committing = false;
    }

    /// What an opening of the store finds: everything that is not final, rosters and overlays. Of
    /// some tasks it finds an older version, too, before the newest one or behind it.
    pub(crate) fn open(&self, dice: &mut Dice) -> Vec<Record> {
        let mut tasks = Vec::new();
        for task in self.tasks.values() {
            let older = self.older.get(&task.id).filter(|_| dice.chance(200));
            if task.state.is_final() && older.is_none() {
                continue;
            }
            let behind = dice.chance(500);
            tasks.extend(older.filter(|_| !behind).cloned());
            tasks.push(Arc::clone(task));
            tasks.extend(older.filter(|_| behind).cloned());
        }
        tasks
            .into_iter()
            .map(Record::Task)
            .chain(self.roster.values().cloned().map(Record::Roster))
            .chain(
                self.overlays
                    .iter()
                    .map(|(worker, overlay)| Record::Overlay(worker.clone(), overlay.clone())),
            )
            .chain(self.pools.iter().map(|(pool, record)| Record::Pool(pool.clone(), record.clone())))
            .chain(self.sessions.iter().map(|((tenant, name), record)| {
                Record::Session(tenant.clone(), name.clone(), record.clone())
            }))
            .collect()
    }

    /// What the archive knows of a task.
    pub(crate) fn task(&self, task: TaskId) -> Option<Arc<TaskRecord>> {
        self.tasks.get(&task).cloned()
    }

    /// The workers that had a task of their own accord when it was last written.
    pub(crate) fn hinted(&self) -> BTreeSet<WorkerName> {
        let live = self.tasks.values().filter(|task| !task.state.is_final());
        let hints = live.filter_map(|task| task.hint.as_ref()).map(|hint| &hint.worker);
        let own = |name: &&WorkerName| self.roster.get(*name).is_some_and(|entry| !entry.launched);
        hints.filter(own).cloned().collect()
    }

    /// How many records wait.
    pub(crate) fn backlog(&self) -> usize {
        self.waiting.len()
    }

    /// The worker processes that were launched and may still hold work.
    pub(crate) fn launched(&self) -> Vec<WorkerName> {
        self.roster.values().filter(|entry| entry.launched).map(|entry| entry.worker.clone()).collect()
    }
}

impl World {
    /// The core gave a record to the journal.
    pub(crate) fn write(&mut self, seq: Seq, record: Record) {
        self.disk.waiting.push_back((seq, record));
        self.plan_commit();
    }

    fn plan_commit(&mut self) {
        if self.disk.committing || self.disk.failed || self.disk.waiting.is_empty() {
            return;
        }
        self.disk.committing = true;
        let longest =
            if self.disk.slow_until > self.time { Duration::from_secs(8) } else { self.plan.commit };
        let wait = self.dice.span(Duration::from_micros(100), longest);
        self.soon(Happening::Commit(self.server.life), wait);
        if self.disk.confirms_early
            && let Some((up_to, _)) = self.disk.waiting.back()
        {
            self.hear_in_order(Event::Durable { up_to: *up_to, taken: Vec::new() }, Duration::ZERO);
        }
    }

    /// The core wants an input that it has let go of.
    pub(crate) fn read_input(&mut self, task: TaskId) {
        let Some(input) = self.disk.inputs.get(&task).cloned() else {
            panic!("the core has let go of the input of task {task}, and the disk does not have it");
        };
        let slow = self.disk.slow_until > self.time;
        let longest = Duration::from_millis(if slow { 40_000 } else { 20 });
        let wait = self.dice.span(Duration::from_micros(50), longest);
        let faults = !self.calm && self.plan.fault_every.is_some();
        let answer = if self.disk.failed || faults && self.dice.chance(50) {
            self.count(UNREAD);
            Err(InputFault::Unread("simulated".into()))
        } else if faults && self.dice.chance(5) {
            self.count(DAMAGED);
            Err(InputFault::Damaged("simulated".into()))
        } else {
            self.count(READ_AGAIN);
            Ok(input)
        };
        self.soon(Happening::Hear(self.server.life, Event::Fetched(task, answer)), wait);
    }

    /// A batch is durable; mostly all that waits, sometimes only a part of it.
    pub(crate) fn commit(&mut self, life: u32) {
        if life != self.server.life || !self.disk.committing {
            return;
        }
        self.disk.committing = false;
        if self.disk.failed {
            return;
        }
        let waiting = self.disk.waiting.len();
        let batch = if self.dice.chance(800) { waiting } else { 1 + self.dice.below(waiting) };
        let (mut last, mut taken) = (None, Vec::new());
        if self.dice.chance(500) {
            self.disk.write_hand_overs();
        }
        for _ in 0..batch {
            if let Some((seq, record)) = self.disk.waiting.pop_front() {
                match record {
                    Record::HandOver(task) if self.dice.chance(500) => {
                        self.count(BEHIND);
                        self.disk.hand_overs.insert(task.id, task);
                    }
                    record => taken.extend(self.disk.keep(seq, record)),
                }
                last = Some(seq);
            }
        }
        if let Some(up_to) = last {
            if !taken.is_empty() {
                self.count(TAKEN);
            }
            // Mostly told at once; now and then long after it is on disk.
            let longest = Duration::from_millis(if self.dice.chance(30) { 2_000 } else { 5 });
            let wait = self.dice.span(Duration::from_micros(1), longest);
            // Batches are told in their order: each is told before the next one can be complete.
            self.hear_in_order(Event::Durable { up_to, taken }, wait);
        }
        self.plan_commit();
    }

    /// The journal takes no writes for a while.
    pub(crate) fn store_fails(&mut self) {
        if self.disk.failed || self.server.fleet.is_none() {
            return;
        }
        self.count(FAILED);
        if self.disk.committing && self.dice.chance(500) {
            // What is not confirmed may be there all the same, and is written once more later.
            let reached = self.dice.below(self.disk.backlog() + 1);
            let there: Vec<_> = self.disk.waiting.iter().take(reached).cloned().collect();
            for (seq, record) in there {
                self.count(UNCLEAR);
                self.disk.keep(seq, record);
            }
        }
        self.disk.failed = true;
        self.tell(Event::StoreFailed(true));
        let wait = self.dice.span(Duration::from_millis(100), Duration::from_secs(20));
        self.soon(Happening::StoreMends(self.server.life), wait);
    }

    /// The journal takes writes again, beginning with those that waited.
    pub(crate) fn store_mends(&mut self, life: u32) {
        if life != self.server.life || !self.disk.failed {
            return;
        }
        self.disk.failed = false;
        self.disk.committing = false;
        self.tell(Event::StoreFailed(false));
        self.plan_commit();
    }
}
