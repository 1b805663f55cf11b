//! Effects that show a durable fact wait here, in order, until the journal has the fact. The journal
//! tells by sequence number; which store it is, and how slow, changes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::ids::{RequestId, Seq, TaskId};
use super::planted::{Planted, planted};
use super::slab::WorkerIx;
use super::words::{Answer, Effect, KeyTaken, Record, Refusal};
use super::{Fleet, Keep, KeyRow, Note, TaskIx, TaskRecord};

#[derive(Debug, Default)]
pub(super) struct Gates {
    /// The last record handed to the journal.
    written: Seq,
    /// The last record known to be durable.
    durable: Seq,
    /// The last record that something waits for.
    awaited: Seq,
    waiting: VecDeque<(Seq, Behind)>,
    /// Records that were not written and that something here still waits for.
    taken: BTreeMap<Seq, KeyTaken>,
}

/// What waits for a record.
#[derive(Debug)]
enum Behind {
    Show(Effect),
    /// A task kept by key is accepted, and may be handed over; unless the key turns out to be taken.
    Entry(Box<Entry>),
    /// A worker's process is on the roster.
    Rostered(WorkerIx),
    /// A task's input is in the journal.
    Stow(TaskId),
}

/// A task kept by key on its way in.
#[derive(Debug)]
struct Entry {
    /// Its own record, which may come before the one that is waited for.
    own: Seq,
    task: TaskIx,
    request: RequestId,
    record: Arc<TaskRecord>,
}

impl Gates {
    fn wait(&mut self, seq: Seq, behind: Behind) {
        self.awaited = self.awaited.max(seq);
        self.waiting.push_back((seq, behind));
    }

    pub(super) fn is_durable(&self, seq: Seq) -> bool {
        seq <= self.durable
    }

    /// The tasks whose inputs leave memory once their records are durable.
    pub(super) fn stowing(&self) -> BTreeSet<TaskId> {
        let task = |behind: &Behind| match behind {
            Behind::Stow(task) => Some(*task),
            Behind::Show(_) | Behind::Rostered(_) | Behind::Entry(_) => None,
        };
        self.waiting.iter().filter_map(|(_, behind)| task(behind)).collect()
    }

    /// The tasks that wait here for their hand-over.
    pub(super) fn ineligible(&self) -> BTreeSet<TaskIx> {
        let task = |behind: &Behind| match behind {
            Behind::Entry(entry) => Some(entry.task),
            Behind::Show(_) | Behind::Rostered(_) | Behind::Stow(_) => None,
        };
        self.waiting.iter().filter_map(|(_, behind)| task(behind)).collect()
    }
}

impl Fleet {
    /// The last record that an answer waits for, if it is not durable yet: the journal should commit
    /// now. Records that nobody waits for may linger.
    pub fn awaited(&self) -> Option<Seq> {
        (self.gates.awaited > self.gates.durable).then_some(self.gates.awaited)
    }

    /// Hands a record to the journal.
    pub(super) fn record(&mut self, record: Record) -> Seq {
        self.gates.written = Seq(self.gates.written.0 + 1);
        let seq = self.gates.written;
        self.effect(Effect::Record(seq, record));
        seq
    }

    /// Lets an effect out: at once for a passing task, else once `seq` is durable.
    pub(super) fn show(&mut self, keep: Keep, seq: Seq, effect: Effect) {
        match keep {
            Keep::Passing => self.effect(effect),
            Keep::Kept | Keep::ByKey(_) => self.show_after(seq, effect),
        }
    }

    /// Lets an effect out once `seq` is durable.
    pub(super) fn show_after(&mut self, seq: Seq, effect: Effect) {
        if self.gates.is_durable(seq) {
            self.effect(effect);
        } else {
            self.gates.wait(seq, Behind::Show(effect));
        }
    }

    pub(super) fn enters_after(
        &mut self,
        seq: Seq,
        own: Seq,
        task: TaskIx,
        request: RequestId,
        record: Arc<TaskRecord>,
    ) {
        self.gates.wait(seq, Behind::Entry(Box::new(Entry { own, task, request, record })));
    }

    pub(super) fn rostered_after(&mut self, seq: Seq, worker: WorkerIx) {
        self.gates.wait(seq, Behind::Rostered(worker));
    }

    pub(super) fn stow_after(&mut self, seq: Seq, task: TaskId) {
        self.gates.wait(seq, Behind::Stow(task));
    }

    /// The journal has everything up to `up_to`, but for the tasks whose keys were taken.
    pub(super) fn durable(&mut self, up_to: Seq, taken: &[KeyTaken]) {
        // A journal that confirms what it was never given is not believed.
        self.gates.durable = self.gates.durable.max(up_to.min(self.gates.written));
        self.gates.taken.extend(taken.iter().map(|taken| (taken.seq, *taken)));
        while let Some((seq, _)) = self.gates.waiting.front()
            && self.gates.is_durable(*seq)
        {
            let Some((seq, behind)) = self.gates.waiting.pop_front() else { break };
            let taken = self.gates.taken.get(&record_of(seq, &behind)).copied();
            match behind {
                Behind::Entry(entry) => self.enters(*entry, taken.as_ref()),
                Behind::Show(effect) if taken.is_some() => self.show_taken(effect, taken.as_ref()),
                // Its connection ended meanwhile: the worker still has the result and tells so.
                Behind::Show(Effect::Order(conn, _)) if !self.registry.by_conn.contains_key(&conn) => {}
                Behind::Show(effect) => self.effect(effect),
                Behind::Stow(task) if taken.is_none() => self.stow(task),
                // Its key names another task: it was not written.
                Behind::Stow(_) => {}
                Behind::Rostered(worker) => {
                    if self.registry.workers.get(worker).is_some_and(|worker| worker.roster == Some(seq)) {
                        self.registry.workers[worker].roster = None;
                        self.refresh(worker);
                    }
                }
            }
        }
        if !self.gates.taken.is_empty() {
            // What came late for a record stands behind others that are not durable yet.
            let waited: BTreeSet<Seq> =
                self.gates.waiting.iter().map(|(seq, behind)| record_of(*seq, behind)).collect();
            self.gates.taken.retain(|seq, _| waited.contains(seq));
        }
    }

    /// A task kept by key is durable, or was not written since its key names another one.
    fn enters(&mut self, entry: Entry, taken: Option<&KeyTaken>) {
        let Entry { task, request, record, .. } = entry;
        let taken = taken.filter(|_| !planted(Planted::TakenKeyIgnored));
        // The task may have ended meanwhile, and its place be another's.
        let is_there = self.by_id.get(&record.id) == Some(&task);
        let (id, capability, source) = (record.id, record.spec.capability.clone(), record.source);
        let answer = match taken {
            None => Answer::Accepted(record),
            Some(taken) => {
                if let Keep::ByKey(hash) = record.keep
                    && let Some(row) = self.keys.get_mut(&(record.tenant.clone(), hash.key))
                    && row.task == record.id
                {
                    *row = KeyRow { task: taken.task, body: taken.body };
                }
                if is_there {
                    self.withdraw(task);
                }
                named_otherwise(&record, taken)
            }
        };
        let outcome = match &answer {
            Answer::Refused(_) => "conflict",
            Answer::ReplayedFromArchive(_) => "deduplicated",
            Answer::Accepted(_) | Answer::Replayed(_) | Answer::Cancel(_) | Answer::Done => "accepted",
        };
        self.effect(Effect::Answer(request, answer));
        self.note(Note::Submitted { capability, source, outcome });
        if taken.is_none() && is_there {
            self.count_accepted(task);
            self.become_eligible(task);
            self.stow(id);
        }
    }

    /// What waited for a record that was not written: the task never was, whatever became of it here.
    fn show_taken(&mut self, effect: Effect, taken: Option<&KeyTaken>) {
        match (effect, taken) {
            (Effect::Answer(request, Answer::Replayed(record)), Some(taken)) => {
                self.effect(Effect::Answer(request, named_otherwise(&record, taken)));
            }
            (Effect::Answer(request, _), _) => {
                self.effect(Effect::Answer(request, Answer::Refused(Refusal::NoSuchTask)));
            }
            (Effect::Finish(task, _), _) => {
                self.finished.tasks.remove(&task);
            }
            (
                Effect::Publish(..)
                | Effect::Order(..)
                | Effect::Close(..)
                | Effect::Dial(_)
                | Effect::HangUp(_)
                | Effect::Launch(_)
                | Effect::Halt(_)
                | Effect::Provision(..)
                | Effect::Record(..)
                | Effect::Fetch(..)
                | Effect::Gate(..)
                | Effect::Note(_),
                _,
            ) => {}
        }
    }
}

/// The record that decides whether something is let out as it is.
fn record_of(waited: Seq, behind: &Behind) -> Seq {
    match behind {
        Behind::Entry(entry) => entry.own,
        Behind::Show(_) | Behind::Rostered(_) | Behind::Stow(_) => waited,
    }
}

/// The answer to whoever submitted a task whose key names another one.
fn named_otherwise(record: &TaskRecord, taken: &KeyTaken) -> Answer {
    match record.keep {
        Keep::ByKey(hash) if hash.body == taken.body => Answer::ReplayedFromArchive(taken.task),
        Keep::ByKey(_) | Keep::Kept | Keep::Passing => Answer::Refused(Refusal::KeyConflict),
    }
}
