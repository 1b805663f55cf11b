//! Effects that show a durable fact wait here, in order, until the journal has the fact. The journal
//! tells by sequence number; which store it is, and how slow, changes nothing.

use std::collections::{BTreeSet, VecDeque};

use super::ids::Seq;
use super::slab::WorkerIx;
use super::words::{Effect, Record};
use super::{Fleet, Keep, TaskIx};

#[derive(Debug, Default)]
pub(super) struct Gates {
    /// The last record handed to the journal.
    written: Seq,
    /// The last record known to be durable.
    durable: Seq,
    /// The last record that something waits for.
    awaited: Seq,
    waiting: VecDeque<(Seq, Behind)>,
}

/// What waits for a record.
#[derive(Debug)]
enum Behind {
    Show(Effect),
    /// A task kept by key may be handed over.
    Eligible(TaskIx, super::TaskId),
    /// A worker's process is on the roster.
    Rostered(WorkerIx),
}

impl Gates {
    fn wait(&mut self, seq: Seq, behind: Behind) {
        self.awaited = self.awaited.max(seq);
        self.waiting.push_back((seq, behind));
    }

    pub(super) fn is_durable(&self, seq: Seq) -> bool {
        seq <= self.durable
    }

    /// The tasks that wait here for their hand-over.
    pub(super) fn ineligible(&self) -> BTreeSet<TaskIx> {
        let task = |behind: &Behind| match behind {
            Behind::Eligible(task, _) => Some(*task),
            Behind::Show(_) | Behind::Rostered(_) => None,
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

    pub(super) fn eligible_after(&mut self, seq: Seq, task: TaskIx) {
        let id = self.tasks[task].id;
        self.gates.wait(seq, Behind::Eligible(task, id));
    }

    pub(super) fn rostered_after(&mut self, seq: Seq, worker: WorkerIx) {
        self.gates.wait(seq, Behind::Rostered(worker));
    }

    /// The journal has everything up to `up_to`.
    pub(super) fn durable(&mut self, up_to: Seq) {
        // A journal that confirms what it was never given is not believed.
        self.gates.durable = self.gates.durable.max(up_to.min(self.gates.written));
        while let Some((seq, _)) = self.gates.waiting.front()
            && self.gates.is_durable(*seq)
        {
            let Some((seq, behind)) = self.gates.waiting.pop_front() else { break };
            match behind {
                // Its connection ended meanwhile: the worker still has the result and tells so.
                Behind::Show(Effect::Order(conn, _)) if !self.registry.by_conn.contains_key(&conn) => {}
                Behind::Show(effect) => self.effect(effect),
                Behind::Eligible(task, id) => {
                    // The task may have ended meanwhile, and its place be another's.
                    if self.by_id.get(&id) == Some(&task) {
                        self.become_eligible(task);
                    }
                }
                Behind::Rostered(worker) => {
                    if self.registry.workers.get(worker).is_some_and(|worker| worker.roster == Some(seq)) {
                        self.registry.workers[worker].roster = None;
                        self.refresh(worker);
                    }
                }
            }
        }
    }
}
