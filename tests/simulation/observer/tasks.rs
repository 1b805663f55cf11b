//! The checker's picture of tasks: what was promised about each, which attempts it had, what is on
//! disk of it, and how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::super::world::Key;
use super::links::{Given, Links};
use super::{Moment, Verdict};

/// What is known of tasks.
#[derive(Default)]
pub(super) struct Tasks {
    tasks: BTreeMap<TaskId, Seen>,
    /// Tasks that have not ended as far as the core has said.
    open: BTreeSet<TaskId>,
    /// The newest epoch of any task, in any term.
    newest: Epoch,
    /// Who had each session last, and on which process.
    sessions: BTreeMap<SessionName, (TaskId, Instance)>,
    /// What sessions tasks are in.
    session_of: BTreeMap<TaskId, SessionName>,
    /// Attempts whose worker said that their session is there after them.
    left_open: BTreeSet<Key>,
    /// Sessions that somebody has heard of, and when they were last used: nobody may begin them again.
    begun: BTreeMap<SessionName, Mono>,
    /// The largest `max_attempts` that was ever in force.
    most_attempts: u32,
}

/// One task.
#[derive(Debug)]
struct Seen {
    keep: Keep,
    input: Payload,
    max_attempts: Option<u32>,
    /// Somebody has its id.
    promised: bool,
    /// Nobody waits for its end any more.
    abandoned: bool,
    recorded: Option<Arc<TaskRecord>>,
    durable: Option<Arc<TaskRecord>>,
    finished: Option<Arc<TaskRecord>>,
    /// Since when it waits for a worker.
    queued: Option<Mono>,
    lease: Option<Lease>,
}

/// The newest attempt.
#[derive(Debug)]
struct Lease {
    epoch: Epoch,
    instance: Instance,
    worker: WorkerName,
    ends: Moment,
    /// The core lived through its beginning, or found it in the journal.
    known: bool,
    recovered: Option<Moment>,
    /// Its capability or its task says that it may be repeated.
    safe: bool,
    /// The core was told that it began.
    began: bool,
    /// It began, was lost, and may not be repeated.
    over: bool,
}

impl Tasks {
    pub(super) fn settings(&mut self, settings: &Settings) {
        self.most_attempts = self.most_attempts.max(settings.max_attempts);
    }

    pub(super) fn submitted(&mut self, submission: &Submission) {
        let seen = Seen {
            keep: submission.keep,
            input: submission.spec.input.clone(),
            max_attempts: submission.spec.max_attempts,
            promised: false,
            abandoned: false,
            recorded: None,
            durable: None,
            finished: None,
            queued: None,
            lease: None,
        };
        self.tasks.insert(submission.id, seen);
        // A task that is kept exists from its first record on: before, its key may name another.
        if submission.keep == Keep::Passing {
            self.open.insert(submission.id);
        }
    }

    pub(super) fn promoted(&mut self, task: TaskId) {
        if let Some(seen) = self.tasks.get_mut(&task)
            && !seen.has_ended()
        {
            seen.keep = Keep::Kept;
        }
    }

    pub(super) fn abandoned(&mut self, task: TaskId) {
        if let Some(seen) = self.tasks.get_mut(&task) {
            seen.abandoned = true;
        }
    }

    pub(super) fn cancel_wanted(&mut self, _: TaskId) {}

    pub(super) fn session_deleted(&mut self, session: &SessionName) {
        self.sessions.remove(session);
        self.begun.remove(session);
        // What is told from now on was of the one that is gone.
        self.session_of.retain(|_, of| of != session);
    }

    /// A worker tells of the session that an attempt was in.
    pub(super) fn session_told(&mut self, report: &ResultReport) {
        if report.session_open == Some(true) {
            self.left_open.insert((report.task, report.epoch));
        }
    }

    /// Tasks of a session run one after another, and where the first began it.
    fn in_session(&mut self, now: Mono, assignment: &Assignment, given: &Given) -> Verdict {
        let (Some(name), Some(lease)) = (&assignment.spec.session, assignment.session) else { return Ok(()) };
        self.session_of.insert(assignment.task, name.clone());
        if let Some(used) = self.begun.get_mut(name) {
            // A loss is remembered for a day.
            if lease.new && now.since(*used) < Duration::from_secs(20 * 3_600) {
                return Err(format!("I13: {name:?} is begun anew, and nobody was told that it is gone"));
            }
            *used = now;
        }
        let before = self.sessions.insert(name.clone(), (assignment.task, given.instance.clone()));
        let Some((task, instance)) = before else { return Ok(()) };
        if task != assignment.task && self.tasks.get(&task).is_some_and(|seen| !seen.has_ended()) {
            return Err(format!("I13: {name:?} has task {task} still, and gets {}", assignment.task));
        }
        if !lease.new && instance != given.instance {
            return Err(format!("I13: {name:?} goes on at {} and was at {instance}", given.instance));
        }
        Ok(())
    }

    /// A submission that named an older task by its key, or was refused, made no task.
    pub(super) fn answered_otherwise(&mut self, task: TaskId) {
        if self.tasks.get(&task).is_some_and(|seen| !seen.promised && seen.recorded.is_none()) {
            self.tasks.remove(&task);
            self.open.remove(&task);
        }
    }

    /// Its key names another task: it was never written, and is as if nobody had submitted it.
    pub(super) fn withdrawn(&mut self, task: TaskId) {
        self.tasks.remove(&task);
        self.open.remove(&task);
    }

    pub(super) fn refused(&mut self, task: TaskId, refusal: &Refusal) {
        if *refusal != Refusal::NoSuchTask {
            self.answered_otherwise(task);
        }
    }

    /// I1, I5: somebody is shown a task: from now on it must not vanish.
    pub(super) fn promised(
        &mut self,
        asked: Option<TaskId>,
        record: &TaskRecord,
        cancel: bool,
        replayed: bool,
    ) -> Verdict {
        if replayed {
            if let Some(asked) = asked.filter(|asked| *asked != record.id) {
                self.answered_otherwise(asked);
            }
        } else if asked != Some(record.id) {
            return Err(format!("I1: the answer about {asked:?} is task {}", record.id));
        }
        let Some(seen) = self.tasks.get_mut(&record.id) else {
            return Err(format!("I1: the core answers with task {}, which nobody submitted", record.id));
        };
        if seen.keep == Keep::Passing {
            return Ok(());
        }
        seen.promised = true;
        if let Some(old) = record.retry_of.and_then(|old| self.tasks.get(&old))
            && old.durable.as_ref().is_some_and(|durable| durable.dead_letter)
        {
            return Err(format!("task {} repeats one that is a dead letter still", record.id));
        }
        let seen = &self.tasks[&record.id];
        let Some(durable) = &seen.durable else {
            return Err(format!("I1: the id of task {} was given out before it was durable", record.id));
        };
        let shown = record.state.is_final() || cancel && record.state == TaskState::Cancelling;
        if shown && durable.version < record.version {
            return Err(format!(
                "I1: task {} is shown as {:?} before that is durable",
                record.id, record.state
            ));
        }
        Ok(())
    }

    /// The newest record of a task; I2: after a final one nothing changes but the dead letter.
    pub(super) fn recorded(&mut self, record: &Arc<TaskRecord>) -> Verdict {
        let Some(seen) = self.tasks.get_mut(&record.id) else {
            return Err(format!("a record of task {}, which nobody submitted", record.id));
        };
        if record.charged as usize > record.attempts.len() {
            return Err(format!("I6: task {} was charged for more than it had: {record:?}", record.id));
        }
        if let Some(last) = &seen.recorded {
            if last.version >= record.version {
                return Err(format!("version {} of task {} is written again", record.version, record.id));
            }
            if record.deaths < last.deaths {
                return Err(format!("I6: task {} forgets that workers died with it", record.id));
            }
            if last.state.is_final() && !same_end(last, record) {
                return Err(format!(
                    "I2: the final record of task {} changes: {last:?} {record:?}",
                    record.id
                ));
            }
        }
        seen.recorded = Some(Arc::clone(record));
        if record.state.is_final() {
            self.open.remove(&record.id);
        } else if !matches!(seen.keep, Keep::ByKey(_)) || seen.durable.is_some() {
            // One that is kept by key exists once it is durable: its key may name another.
            self.open.insert(record.id);
        }
        Ok(())
    }

    pub(super) fn durable(&mut self, record: Arc<TaskRecord>) {
        if let Some(seen) = self.tasks.get_mut(&record.id) {
            if !seen.has_ended() {
                self.open.insert(record.id);
            }
            seen.durable = Some(record);
        }
    }

    /// I2, I3, I6: a task is final for everybody.
    pub(super) fn finished(&mut self, now: Mono, task: TaskId, record: &Arc<TaskRecord>) -> Verdict {
        if let (Some(name), Some(last)) = (self.session_of.remove(&task), record.attempts.last())
            && self.left_open.remove(&(task, last.epoch))
            && record.state == TaskState::Succeeded
        {
            self.begun.insert(name, now);
        }
        let Some(seen) = self.tasks.get_mut(&task) else {
            return Err(format!("I2: task {task} is final, but nobody submitted it"));
        };
        if seen.finished.is_some() {
            return Err(format!("I2: task {task} is final twice"));
        }
        if !record.state.is_final() || record.id != task {
            return Err(format!("I2: task {task} is finished with {record:?}"));
        }
        if seen.keep != Keep::Passing
            && !seen.durable.as_ref().is_some_and(|durable| same_end(durable, record))
        {
            return Err(format!("I2: task {task} is final for its callers before that is durable"));
        }
        let most = seen.max_attempts.unwrap_or(self.most_attempts);
        if record.charged > most || record.deaths > 2 {
            return Err(format!(
                "I6: task {task}: {} attempts of {most}, {} deaths",
                record.charged, record.deaths
            ));
        }
        if record.state == TaskState::Succeeded {
            let last = record.attempts.last().map(|attempt| attempt.epoch);
            // One whose hand-over no record survived a crash is as if it had never been.
            let newest = seen.lease.as_ref().filter(|lease| lease.known).map(|lease| lease.epoch);
            if last.is_none() || newest.is_some() && last != newest {
                return Err(format!("I3: task {task} ended by attempt {last:?}, the newest is {newest:?}"));
            }
        }
        seen.finished = Some(Arc::clone(record));
        self.open.remove(&task);
        Ok(())
    }

    /// I4: an attempt counts as lost only when its process can no longer have it as its own.
    pub(super) fn attempt_lost(
        &self,
        moment: Moment,
        task: TaskId,
        links: &Links,
        settings: &Settings,
    ) -> Verdict {
        let lease = self.tasks.get(&task).and_then(|seen| seen.lease.as_ref());
        let Some(lease) = lease.filter(|lease| lease.known && lease.recovered.is_none()) else {
            return Ok(());
        };
        if links.given_up(moment, &lease.instance, &(task, lease.epoch), settings).is_none() {
            return Err(format!(
                "I4: {} of task {task} counts as lost although {} ({}) still has it",
                lease.epoch, lease.worker, lease.instance
            ));
        }
        Ok(())
    }

    /// A worker says that an attempt began.
    pub(super) fn began(&mut self, task: TaskId, epoch: Epoch, who: &Instance) {
        if let Some(lease) = self.tasks.get_mut(&task).and_then(|seen| seen.lease.as_mut())
            && (lease.epoch, &lease.instance) == (epoch, who)
        {
            lease.began = true;
        }
    }

    pub(super) fn attempt_ended(&mut self, task: TaskId, outcome: AttemptOutcome) -> Verdict {
        match self.tasks.get_mut(&task) {
            Some(seen) if seen.has_ended() => {
                Err(format!("I2: an attempt of {task} ends ({outcome:?}) after the task"))
            }
            Some(seen) => {
                if let Some(lease) = &mut seen.lease {
                    lease.over = lease.began && !lease.safe && outcome == AttemptOutcome::WorkerLost;
                    // What is said of it from here on comes too late.
                    lease.began = false;
                    // How long an adopted attempt may run is counted from its adoption, which shows in
                    // nothing; that its time was up is told, and ends its lease.
                    if outcome == AttemptOutcome::TimedOut && lease.recovered.is_some() {
                        lease.ends = Moment::default();
                    }
                }
                Ok(())
            }
            None => Err(format!("an attempt of {task} ends, which nobody submitted")),
        }
    }

    /// A task waits for a worker from now on.
    pub(super) fn queued(&mut self, now: Mono, task: TaskId) {
        if let Some(seen) = self.tasks.get_mut(&task) {
            seen.queued = Some(now);
        }
    }

    /// I3, I4, I6: a task is handed over.
    pub(super) fn handed_over(
        &mut self,
        moment: Moment,
        assignment: &Assignment,
        given: Given,
        links: &Links,
        settings: &Settings,
    ) -> Verdict {
        let Assignment { task, epoch, limit, .. } = *assignment;
        self.in_session(moment.mono, assignment, &given)?;
        let spec = Arc::clone(&assignment.spec);
        let Some(seen) = self.tasks.get_mut(&task) else {
            return Err(format!("task {task} is handed over, but nobody submitted it"));
        };
        if epoch <= self.newest {
            return Err(format!("I3: epoch {epoch} comes after {}", self.newest));
        }
        self.newest = epoch;
        if assignment.spec.input != seen.input {
            return Err(format!("I14: task {task} is handed over with another input than it came with"));
        }
        if seen.has_ended() {
            return Err(format!("I2: task {task} is handed over after its end"));
        }
        let queued = seen.queued.take();
        if let Some(wait) = spec.placement.as_ref().and_then(|placement| placement.fallback_after)
            && !given.preferred
            && spec.session.is_none()
            && queued.is_none_or(|since| moment.mono.since(since) < wait)
        {
            return Err(format!(
                "I16: task {task} is given to {}, which it does not prefer, before it has waited for {wait:?}",
                given.worker
            ));
        }
        if let Keep::ByKey(_) = seen.keep
            && seen.durable.is_none()
        {
            return Err(format!("task {task}, kept by key, is handed over before it is durable"));
        }
        if seen.lease.as_ref().is_some_and(|lease| lease.over) {
            return Err(format!(
                "I11: task {task}, begun, lost and not safe to repeat, is handed over again"
            ));
        }
        if let Some(lease) = &seen.lease
            && lease.known
        {
            let key: Key = (task, lease.epoch);
            let over = moment.mono >= lease.ends.mono;
            let waited = lease.recovered.is_some_and(|from| moment.mono.since(from.mono) >= settings.lease);
            let reason = match lease.recovered {
                // After a crash nothing is known of the process until it reconciles.
                Some(_) if !links.knows(&lease.worker, &lease.instance) && !waited => None,
                _ => links.given_up(moment, &lease.instance, &key, settings),
            };
            if reason.is_none() && !over && !waited {
                return Err(format!(
                    "I4: task {task} is handed to {} although {} ({}) still has it as {}",
                    given.worker, lease.worker, lease.instance, lease.epoch
                ));
            }
        }
        seen.lease = Some(Lease {
            epoch,
            instance: given.instance,
            worker: given.worker,
            ends: Moment { mono: moment.mono + limit, ..moment },
            known: true,
            recovered: None,
            safe: (given.idempotent && assignment.spec.session.is_none())
                || assignment.spec.retry == RetryWord::Always,
            began: false,
            over: false,
        });
        Ok(())
    }

    /// A kept attempt or a result that is sent again must be the newest of a task that goes on.
    pub(super) fn is_newest(&self, key: &Key) -> Verdict {
        let Some(seen) = self.tasks.get(&key.0) else {
            return Err(format!("I3: {key:?} goes on, but nobody submitted it"));
        };
        match &seen.lease {
            Some(lease) if lease.known && lease.epoch != key.1 => {
                Err(format!("I3: {key:?} goes on although {} is newer", lease.epoch))
            }
            _ => Ok(()),
        }
    }

    /// Before a worker may forget a result, a kept task's record must have it durably.
    pub(super) fn may_forget(&self, key: &Key, who: Option<&Instance>, how: &str) -> Verdict {
        let Some(seen) = self.tasks.get(&key.0) else { return Ok(()) };
        if seen.keep == Keep::Passing {
            return Ok(());
        }
        let in_memory = seen.recorded.as_ref().is_some_and(|record| has_result(record, key.1, who));
        let on_disk = seen.durable.as_ref().is_some_and(|record| has_result(record, key.1, who));
        if in_memory && !on_disk {
            return Err(format!("a result of {} is {how} before it is durable", key.0));
        }
        Ok(())
    }

    /// Whether the disk has all that the core knows of a task.
    pub(super) fn is_on_disk(&self, task: TaskId) -> bool {
        self.tasks.get(&task).is_some_and(|seen| {
            let version = |record: &Option<Arc<TaskRecord>>| record.as_ref().map(|record| record.version);
            version(&seen.recorded) == version(&seen.durable)
        })
    }

    /// The core's process is gone.
    pub(super) fn crashed(&mut self, disk: &BTreeMap<TaskId, Arc<TaskRecord>>) {
        // What became durable without the core being told counts all the same.
        for (id, seen) in &mut self.tasks {
            seen.durable = disk.get(id).cloned();
        }
        self.tasks.retain(|_, seen| seen.durable.is_some());
        self.open.clear();
        for seen in self.tasks.values_mut() {
            seen.recorded.clone_from(&seen.durable);
            if seen.durable.as_ref().is_some_and(|record| record.state.is_final()) {
                seen.finished.clone_from(&seen.durable);
            }
        }
    }

    /// A core begins with these records.
    pub(super) fn recovered<'a>(
        &mut self,
        now: Now,
        records: impl Iterator<Item = &'a Record>,
        roster: &BTreeMap<WorkerName, Instance>,
    ) {
        for record in records {
            let (Record::Task(record) | Record::HandOver(record)) = record else { continue };
            let Some(seen) = self.tasks.get_mut(&record.id) else { continue };
            seen.finished = None;
            seen.keep = record.keep;
            self.open.insert(record.id);
            let current = |hint: &&Hint| roster.get(&hint.worker).is_none_or(|now| *now == hint.instance);
            let hinted = record.hint.as_ref().filter(current).map(|hint| hint.epoch);
            if let Some(lease) = &mut seen.lease {
                lease.known = hinted == Some(lease.epoch);
                (lease.began, lease.over) = (false, false);
                lease.recovered = Some(Moment { mono: now.mono, ..Moment::default() });
                lease.ends = Moment { mono: Mono(u64::MAX), ..Moment::default() };
            }
        }
    }

    /// Whether a record that was found is the newest of its task, and that task goes on.
    pub(super) fn is_newest_record(&self, record: &Record) -> bool {
        let (Record::Task(record) | Record::HandOver(record)) = record else { return true };
        let durable = self.tasks.get(&record.id).and_then(|seen| seen.durable.as_ref());
        durable.is_none_or(|newest| newest.version == record.version && !newest.state.is_final())
    }

    /// How many tasks have not ended.
    pub(super) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// A task that has not ended, or whose end its callers have not heard.
    pub(super) fn first_open(&self) -> Option<TaskId> {
        let unheard = |(id, seen): (&TaskId, &Seen)| seen.finished.is_none().then_some(*id);
        self.open.first().copied().or_else(|| self.tasks.iter().find_map(unheard))
    }
}

impl Seen {
    fn has_ended(&self) -> bool {
        self.finished.is_some() || self.recorded.as_ref().is_some_and(|record| record.state.is_final())
    }
}

/// Whether the end of an attempt that a process reported stands in a record.
fn has_result(record: &TaskRecord, epoch: Epoch, who: Option<&Instance>) -> bool {
    record.attempts.iter().any(|attempt| {
        let written_off =
            matches!(attempt.outcome, None | Some(AttemptOutcome::WorkerLost | AttemptOutcome::Superseded));
        attempt.epoch == epoch && Some(&attempt.instance) == who && !written_off
    })
}

/// Whether two final records tell the same end; only the dead letter may be taken off later.
fn same_end(one: &TaskRecord, other: &TaskRecord) -> bool {
    one.state == other.state
        && one.output == other.output
        && one.error == other.error
        && one.attempts == other.attempts
        && one.finished_at == other.finished_at
}
