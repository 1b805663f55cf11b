//! The second model: it knows nothing but promises 1 to 3 (accepted means kept; at least once,
//! recorded once; honest slots) and shares no code with the observer, so that the core and one
//! checker cannot make the same mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollcall::fleet::replay::Start;
use rollcall::fleet::*;

/// What was promised, and what has become of it.
#[derive(Default)]
pub(crate) struct Promises {
    /// Tasks whose id somebody has.
    given_out: BTreeSet<TaskId>,
    /// Tasks that have ended for those who asked.
    ended: BTreeMap<TaskId, TaskState>,
    /// What each submission wanted, until its answer.
    wanted: BTreeMap<RequestId, (TaskId, Keep)>,
    /// The task that each key has made.
    keys: BTreeMap<u128, TaskId>,
    /// Records on their way to the disk, and on it.
    under_way: BTreeMap<Seq, Arc<TaskRecord>>,
    disk: BTreeMap<TaskId, Arc<TaskRecord>>,
    /// Tasks that are kept.
    kept: BTreeSet<TaskId>,
    /// The newest attempt of each task, and whose it is.
    attempts: BTreeMap<TaskId, (Epoch, Instance)>,
    /// Outputs that a worker returned for the newest attempt of a task.
    returned: BTreeMap<TaskId, Vec<Option<Payload>>>,
    workers: BTreeMap<ConnId, Registration>,
    /// What each process has been given and has not let go of.
    hands: BTreeMap<Instance, BTreeMap<(TaskId, Epoch), u8>>,
    topology: Arc<Topology>,
    /// Names that a worker had before another.
    renamed: BTreeSet<WorkerName>,
}

impl Promises {
    /// A core begins: all that was given out and has not ended must be there.
    pub(crate) fn boots(&mut self, start: &Start) {
        let Some(found) = &start.recovered else { return };
        for record in &found.records {
            if let Record::Task(task) | Record::HandOver(task) = record
                && self.disk.get(&task.id).is_none_or(|known| known.version <= task.version)
            {
                self.disk.insert(task.id, Arc::clone(task));
            }
        }
        for task in self.given_out.iter().filter(|task| !self.ended.contains_key(task)) {
            assert!(self.disk.contains_key(task), "promise 1: task {task} is not there after a restart");
        }
    }

    /// The core's process is gone.
    pub(crate) fn dies(&mut self, disk: &BTreeMap<TaskId, Arc<TaskRecord>>) {
        for (id, record) in disk {
            if record.state.is_final() {
                self.ended.insert(*id, record.state);
            }
        }
        self.disk.clone_from(disk);
        self.under_way.clear();
        self.wanted.clear();
        self.workers.clear();
        self.hands.clear();
    }

    /// The core is about to be told this.
    pub(crate) fn told(&mut self, event: &Event) {
        match event {
            Event::Submit(submission) => {
                self.wanted.insert(submission.request, (submission.id, submission.keep));
                if submission.keep != Keep::Passing {
                    self.kept.insert(submission.id);
                }
            }
            Event::Promote(task, _) if !self.ended.contains_key(task) => {
                self.kept.insert(*task);
            }
            Event::Desired(topology) => {
                self.renamed.extend(topology.workers.values().filter_map(|entry| entry.formerly.clone()));
                self.topology = Arc::clone(topology);
            }
            Event::LinkUp(conn, registration) => {
                let listed = registration.attempts.iter().filter(|held| !held.done);
                let listed: BTreeSet<_> = listed.map(|held| (held.task, held.epoch)).collect();
                let hands = self.hands.entry(registration.instance.clone()).or_default();
                hands.retain(|key, _| listed.contains(key));
                self.workers.insert(*conn, Registration::clone(registration));
            }
            Event::Report(conn, report) => self.reported(*conn, report),
            Event::Durable { up_to, taken } => {
                let rest = self.under_way.split_off(&Seq(up_to.0 + 1));
                for (seq, record) in std::mem::replace(&mut self.under_way, rest) {
                    if !taken.iter().any(|taken| taken.seq == seq) {
                        self.disk.insert(record.id, record);
                    }
                }
            }
            _ => {}
        }
    }

    fn reported(&mut self, conn: ConnId, report: &Report) {
        let Some(worker) = self.workers.get(&conn) else { return };
        let hands = self.hands.entry(worker.instance.clone()).or_default();
        match report {
            Report::Result(result) => {
                hands.remove(&(result.task, result.epoch));
                let newest = (result.epoch, worker.instance.clone());
                if self.attempts.get(&result.task) == Some(&newest) {
                    self.returned.entry(result.task).or_default().push(result.output.clone());
                }
            }
            Report::Rejected { task, epoch, .. } => {
                hands.remove(&(*task, *epoch));
            }
            Report::Heartbeat { running } => {
                // When the core may believe them is the observer's business; here they may free a slot.
                for (key, missing) in hands.iter_mut() {
                    *missing = if running.contains(key) { 0 } else { *missing + 1 };
                }
                hands.retain(|_, missing| *missing < 2);
            }
            Report::Accepted { .. } | Report::Alive | Report::Goodbye { .. } => {}
        }
    }

    /// The core asked for this.
    pub(crate) fn saw(&mut self, effect: &Effect) -> Result<(), String> {
        match effect {
            Effect::Record(seq, Record::Task(record)) => {
                self.under_way.insert(*seq, Arc::clone(record));
                Ok(())
            }
            Effect::Answer(request, answer) => self.answered(*request, answer),
            Effect::Finish(task, record) => self.ends(*task, record),
            Effect::Order(conn, Order::Execute(assignment)) => self.handed_over(*conn, assignment),
            Effect::Order(conn, Order::Registered(welcome)) => {
                let instance = self.workers.get(conn).map(|worker| &worker.instance);
                if let Some(hands) = instance.and_then(|instance| self.hands.get_mut(instance)) {
                    hands.retain(|key, _| !welcome.drop.contains(key));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn answered(&mut self, request: RequestId, answer: &Answer) -> Result<(), String> {
        let wanted = self.wanted.remove(&request);
        if let (Answer::ReplayedFromArchive(named), Some((_, keep))) = (answer, wanted) {
            let Keep::ByKey(hash) = keep else {
                return Err(format!("promise 2: task {named} is the answer to one without a key"));
            };
            let first = *self.keys.entry(hash.key).or_insert(*named);
            if first != *named || self.disk.get(named).is_none_or(|record| record.keep != keep) {
                return Err(format!(
                    "promise 2: task {named} does not have the key of which it is the answer"
                ));
            }
        }
        if let (Answer::Refused(Refusal::KeyConflict), Some((_, Keep::ByKey(hash)))) = (answer, wanted) {
            let differs = |record: &Arc<TaskRecord>| matches!(record.keep, Keep::ByKey(other) if other.key == hash.key && other.body != hash.body);
            if !self.disk.values().chain(self.under_way.values()).any(differs) {
                return Err("promise 2: a key is refused that nobody used with another body".to_owned());
            }
        }
        let (Answer::Accepted(record) | Answer::Replayed(record)) = answer else { return Ok(()) };
        if self.kept.contains(&record.id) {
            if !self.disk.contains_key(&record.id) {
                return Err(format!("promise 1: task {} is accepted before it is kept", record.id));
            }
            self.given_out.insert(record.id);
        }
        if let Some((_, Keep::ByKey(hash))) = wanted {
            let first = *self.keys.entry(hash.key).or_insert(record.id);
            if first != record.id {
                return Err(format!("promise 2: one key made task {first} and task {}", record.id));
            }
        }
        Ok(())
    }

    fn ends(&mut self, task: TaskId, record: &TaskRecord) -> Result<(), String> {
        if let Some(before) = self.ended.insert(task, record.state) {
            return Err(format!("promise 1: task {task} ended {before:?} and ended {:?}", record.state));
        }
        if self.kept.contains(&task) && self.disk.get(&task).is_none_or(|disk| disk.state != record.state) {
            return Err(format!("promise 1: task {task} ended {:?} before the disk had it", record.state));
        }
        let returned = self.returned.remove(&task).unwrap_or_default();
        if record.state == TaskState::Succeeded && !returned.contains(&record.output) {
            return Err(format!("promise 2: task {task} ended with what its newest attempt never returned"));
        }
        Ok(())
    }

    fn handed_over(&mut self, conn: ConnId, assignment: &Assignment) -> Result<(), String> {
        let task = assignment.task;
        if self.ended.contains_key(&task) {
            return Err(format!("promise 1: task {task} goes on after its end"));
        }
        let Some(worker) = self.workers.get(&conn) else {
            return Err(format!("promise 3: task {task} is handed to nobody"));
        };
        let newest = (assignment.epoch, worker.instance.clone());
        if let Some((before, _)) = self.attempts.insert(task, newest)
            && before >= assignment.epoch
        {
            return Err(format!("promise 2: the epochs of task {task} do not rise"));
        }
        self.returned.remove(&task);
        if !worker.capabilities.iter().any(|offer| offer.name.covers(&assignment.spec.capability)) {
            return Err(format!("promise 3: {} cannot do {}", worker.worker, assignment.spec.capability));
        }
        let hands = self.hands.entry(worker.instance.clone()).or_default();
        hands.insert((task, assignment.epoch), 0);
        // The worker's own bound always holds; the topology's may stand under another name by now.
        let entry =
            self.topology.workers.get(&worker.worker).filter(|entry| !self.renamed.contains(&entry.name));
        let said = entry.and_then(|entry| entry.slots);
        let bound = said.into_iter().chain(worker.slots).min().unwrap_or(u32::MAX);
        if hands.len() > bound as usize {
            return Err(format!(
                "promise 3: {} has {bound} slots and the tasks {:?}",
                worker.worker,
                hands.keys()
            ));
        }
        Ok(())
    }

    /// The end of a run without faults: everything that was given out has ended.
    pub(crate) fn settled(&self) -> Result<(), String> {
        match self.given_out.iter().find(|task| !self.ended.contains_key(task)) {
            Some(task) => Err(format!("promise 1: task {task} was accepted and never ended")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "promises_tests.rs"]
mod tests;
