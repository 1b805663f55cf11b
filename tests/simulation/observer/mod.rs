//! The checker: sees only what the core is told and what it asks for, never inside it, and knows
//! the invariants of RELIABILITY's list by their numbers. What it says is wrong ends the run.
//!
//! I1 no accepted task vanishes, each request is answered once; I2 one final record, immutable;
//! I3 epochs rise; I4 no second lease without a reason to give up the first; I5 one task per key;
//! I6 attempts and deaths are bounded; I7 honest slots; I8 only to a worker that may have it;
//! I9 all ends once nothing goes wrong; I10 what came in is what ended plus what is there; I11 what began
//! and was lost is repeated only where that is safe; I12 nothing that must be kept is taken in while
//! the journal takes no writes; I13 a session's tasks one after another, in one place; I14 each with the
//! input that it came with; I15 no task goes to a worker that must first pass its canary or is ejected,
//! only its own failures eject it, and never too many of a pool at once; I16 a task waits for the workers
//! that it prefers as long as it said. G10 is the retry budget.

mod health;
mod links;
mod retries;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::replay::Start;
use rollcall::fleet::*;

use super::plan::SitePlan;
use super::world::Key;
use health::Health;
use links::Links;
use retries::Retries;
use tasks::Tasks;

/// What a step of the checker says.
pub(crate) type Verdict = Result<(), String>;

/// Times of the core's process, moved by what its loop was away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    mono: Mono,
    /// All that the loop had been away until then.
    away: Duration,
    /// All that its timers had been late until then, where that was not being away.
    late: Duration,
}

/// The checker's picture of the world.
#[derive(Default)]
pub(crate) struct Observer {
    topology: Arc<Topology>,
    tasks: Tasks,
    retries: Retries,
    links: Links,
    health: Health,
    requests: BTreeMap<RequestId, Asked>,
    /// Records that are not known to be durable.
    undurable: BTreeMap<Seq, Record>,
    roster: BTreeMap<WorkerName, BTreeSet<Instance>>,
    /// What people said, as the core was told, and what of it is durable.
    overlays: BTreeMap<WorkerName, Overlay>,
    durable_overlays: BTreeMap<WorkerName, Overlay>,
    /// The core said that it would want to be woken then.
    next_wake: Option<Mono>,
    heard: Mono,
    away: Duration,
    late: Duration,
    quiescing: bool,
    /// The journal takes no writes.
    store_failed: bool,
    /// Workers that may hold more than they were given: they lie, or do not stop when told to.
    dishonest: BTreeSet<WorkerName>,
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    task: Option<TaskId>,
    /// A passing task's caller hears its end instead.
    may_stay_silent: bool,
    /// It came while the journal took no writes, and asks for one.
    must_fail: bool,
}

impl Observer {
    /// A core begins.
    pub(crate) fn boots(&mut self, now: Now, start: &Start) {
        self.heard = now.mono;
        self.away = Duration::ZERO;
        self.late = Duration::ZERO;
        self.next_wake = None;
        self.quiescing = false;
        self.store_failed = false;
        self.retries.forget();
        self.topology = Arc::default();
        let records = start.recovered.iter().flat_map(|found| &found.records);
        let records: Vec<&Record> = records.filter(|record| self.tasks.is_newest_record(record)).collect();
        self.durable_overlays.clear();
        for record in &records {
            if let Record::Roster(_) | Record::Overlay(..) = record {
                self.durable(Record::clone(record));
            }
        }
        self.overlays = self.durable_overlays.clone();
        // By the core's own rule another process under a worker's name means that the one before is
        // dead, also where the worker was moved and the one before winds down elsewhere.
        let rosters = records.iter().filter_map(|record| match record {
            Record::Roster(entry) => Some((entry.worker.clone(), entry.instance.clone())),
            Record::Task(_)
            | Record::HandOver(_)
            | Record::Overlay(..)
            | Record::Pool(..)
            | Record::Session(..) => None,
        });
        let newest: BTreeMap<WorkerName, Instance> = rosters.collect();
        self.tasks.recovered(now, records.into_iter(), &newest);
    }

    /// The core's process is gone, with everything that is not on this disk.
    pub(crate) fn dies(&mut self, disk: &BTreeMap<TaskId, Arc<TaskRecord>>) {
        self.undurable.clear();
        self.requests.clear();
        // What is still on its way to workers was given to slots that they had before.
        self.links.forget();
        self.health = Health::default();
        self.tasks.crashed(disk);
    }

    /// A worker's program runs so many attempts; beyond its slots only if it is not honest.
    pub(crate) fn worker_runs(&mut self, plan: &SitePlan, instance: &Instance, running: &[Key], slots: u32) {
        // Slots may have been lowered below what it had been given; `links` checks that part.
        let dishonest = plan.ignores_cancels || plan.ignores_limits || self.dishonest.contains(&plan.name);
        let most = self.links.most_slots.max(slots);
        let counted = running.iter().filter(|key| !self.links.is_taken_away(instance, key)).count();
        assert!(
            dishonest || counted <= most as usize,
            "I7: {} runs more attempts at once than the {most} slots that any worker ever had: {}",
            plan.name,
            self.links.fates(instance, running)
        );
    }

    /// A worker is about to report what is not so.
    pub(crate) fn lied(&mut self, plan: &SitePlan) {
        self.dishonest.insert(plan.name.clone());
    }

    /// The core is about to be told this.
    pub(crate) fn told(&mut self, now: Now, event: &Event) -> Verdict {
        if now.mono < self.heard {
            return Err("the simulator let time run backwards".to_owned());
        }
        if let Some(wanted) = self.next_wake {
            let late = now.mono.since(self.heard.max(wanted));
            *(if late > Duration::from_secs(2) { &mut self.away } else { &mut self.late }) += late;
        }
        self.heard = now.mono;
        let moment = Moment { mono: now.mono, away: self.away, late: self.late };
        match event {
            Event::Submit(submission) => {
                let passing = submission.keep == Keep::Passing;
                self.ask(submission.request, Some(submission.id), passing);
                if let Some(asked) = self.requests.get_mut(&submission.request) {
                    asked.must_fail = self.store_failed && !passing;
                }
                self.tasks.submitted(submission);
            }
            Event::Promote(task, request) => {
                self.ask(*request, Some(*task), false);
                self.tasks.promoted(*task);
            }
            Event::Abandoned(task) => self.tasks.abandoned(*task),
            Event::Cancel(task, request) => {
                self.ask(*request, Some(*task), false);
                self.tasks.cancel_wanted(*task);
            }
            Event::EndSession(_, session, request) => {
                self.ask(*request, None, false);
                self.tasks.session_deleted(session);
            }
            Event::Operator(word, _, request) => {
                self.ask(*request, None, false);
                self.operator(word);
            }
            Event::Desired(topology) => {
                self.links.desired(now.mono, &self.topology, topology);
                self.health.desired(&self.topology, topology);
                self.carry_words_over(topology);
                self.tasks.settings(&topology.settings);
                self.topology = Arc::clone(topology);
            }
            Event::LinkUp(conn, registration) => {
                let known = self.topology.workers.contains_key(&registration.worker);
                self.links.up(moment, *conn, registration, known, &self.topology)?;
            }
            Event::Report(conn, report) => {
                if let (Report::Accepted { task, epoch }, Some(who)) = (report, self.links.speaker(*conn)) {
                    self.tasks.began(*task, *epoch, who);
                }
                if let Some(worker) = self.links.worker(*conn) {
                    self.health.reported(worker, report);
                }
                if let Report::Result(result) = report {
                    self.tasks.session_told(result);
                }
                let interval = self.topology.settings.heartbeat_interval;
                self.links.reported(moment, *conn, report, interval);
            }
            Event::LinkDown(conn, _) => self.links.down(*conn),
            Event::ProcessGone(worker) => self.links.process_gone(worker),
            Event::Durable { up_to, taken } => {
                let rest = self.undurable.split_off(&Seq(up_to.0 + 1));
                for (seq, record) in std::mem::replace(&mut self.undurable, rest) {
                    match record {
                        Record::Task(task) if taken.iter().any(|taken| taken.seq == seq) => {
                            self.tasks.withdrawn(task.id);
                        }
                        record => self.durable(record),
                    }
                }
            }
            Event::Quiesce | Event::Farewell => {
                self.quiescing = true;
                if *event == Event::Farewell {
                    self.links.farewell();
                }
            }
            Event::StoreFailed(failed) => self.store_failed = *failed,
            Event::Pool(_, _, request) => self.ask(*request, None, false),
            Event::DialFailed(..) | Event::Provided(..) | Event::Fetched(..) | Event::Wake => {}
        }
        Ok(())
    }

    fn ask(&mut self, request: RequestId, task: Option<TaskId>, may_stay_silent: bool) {
        self.requests.insert(request, Asked { task, may_stay_silent, must_fail: false });
    }

    /// What people said about a worker goes on under its new name.
    fn carry_words_over(&mut self, next: &Topology) {
        for (name, change) in Diff::between(&self.topology, next).workers {
            if let Change::Renamed { from } = change
                && let Some(said) = self.overlays.remove(&from)
            {
                self.overlays.insert(name, said);
            }
        }
    }

    fn operator(&mut self, word: &OperatorWord) {
        if !self.topology.workers.contains_key(word.worker()) {
            return;
        }
        let overlay = self.overlays.entry(word.worker().clone()).or_default();
        match word {
            OperatorWord::Cordon(_) => overlay.cordoned = true,
            OperatorWord::Drain(_) => overlay.draining = true,
            OperatorWord::Uncordon(_) => *overlay = Overlay::default(),
            OperatorWord::Restart(_) => {}
        }
    }

    fn durable(&mut self, record: Record) {
        match record {
            Record::Task(task) => self.tasks.durable(task),
            Record::Roster(entry) => {
                self.roster.entry(entry.worker).or_default().insert(entry.instance);
            }
            Record::Overlay(worker, overlay) => {
                self.durable_overlays.insert(worker, overlay);
            }
            // What is kept of a pool is no promise to anybody but its own story.
            // No more is a hand-over, which may never be written.
            Record::HandOver(_) | Record::Pool(..) | Record::Session(..) => {}
        }
    }

    /// The core asked for this.
    pub(crate) fn saw(&mut self, now: Now, effect: &Effect) -> Verdict {
        let moment = Moment { mono: now.mono, away: self.away, late: self.late };
        match effect {
            Effect::Order(conn, order) => self.ordered(moment, *conn, order),
            Effect::Close(conn, why) => self.links.closing(moment, *conn, *why, &self.topology.settings),
            Effect::Record(seq, record) => {
                if self.undurable.last_key_value().is_some_and(|(last, _)| last >= seq) {
                    return Err(format!("record {seq} comes after a later one"));
                }
                self.undurable.insert(*seq, record.clone());
                match record {
                    Record::Task(task) | Record::HandOver(task) => self.tasks.recorded(task),
                    Record::Roster(_) | Record::Overlay(..) | Record::Pool(..) | Record::Session(..) => {
                        Ok(())
                    }
                }
            }
            Effect::Answer(request, answer) => self.answered(*request, answer),
            Effect::Finish(task, record) => self.tasks.finished(now.mono, *task, record),
            Effect::Note(Note::Retried { capability, paid: true, .. }) => {
                self.retries.retried(now.mono, capability)
            }
            Effect::Note(note @ Note::AttemptEnded { task, outcome, .. }) => {
                if *outcome == AttemptOutcome::WorkerLost {
                    self.tasks.attempt_lost(moment, *task, &self.links, &self.topology.settings)?;
                }
                self.health.noted(note, &self.topology)?;
                self.tasks.attempt_ended(*task, *outcome)
            }
            Effect::Note(note @ Note::Health { .. }) => self.health.noted(note, &self.topology),
            Effect::Publish(task, Happening::State { state: TaskState::Queued, reason: None, .. }) => {
                self.tasks.queued(now.mono, *task);
                Ok(())
            }
            Effect::Dial(_)
            | Effect::HangUp(_)
            | Effect::Launch(_)
            | Effect::Provision(..)
            | Effect::Halt(_)
            | Effect::Publish(..)
            | Effect::Gate(..)
            | Effect::Fetch(..)
            | Effect::Note(_) => Ok(()),
        }
    }

    fn answered(&mut self, request: RequestId, answer: &Answer) -> Verdict {
        let Some(asked) = self.requests.remove(&request) else {
            return Err(format!("I1: request {request} is answered twice, or was never made: {answer:?}"));
        };
        if asked.must_fail && !matches!(answer, Answer::Refused(_)) {
            return Err(format!("I12: request {request} is taken in while the journal takes no writes"));
        }
        match answer {
            Answer::Accepted(record) | Answer::Replayed(record) | Answer::Cancel(record) => {
                let cancel = matches!(answer, Answer::Cancel(_));
                self.tasks.promised(asked.task, record, cancel, matches!(answer, Answer::Replayed(_)))
            }
            Answer::Refused(refusal) => {
                if let Some(task) = asked.task {
                    self.tasks.refused(task, refusal);
                }
                Ok(())
            }
            Answer::ReplayedFromArchive(_) | Answer::Done => {
                if let Some(task) = asked.task {
                    self.tasks.answered_otherwise(task);
                }
                Ok(())
            }
        }
    }

    fn ordered(&mut self, moment: Moment, conn: ConnId, order: &Order) -> Verdict {
        self.links.may_speak(conn, order)?;
        match order {
            Order::Registered(welcome) => {
                for key in &welcome.drop {
                    if self.links.reported_done(conn, key) && !self.health.is_canary(key.0, key.1) {
                        self.tasks.may_forget(key, self.links.instance(conn), "dropped")?;
                    }
                }
                for key in &welcome.keep {
                    self.tasks.is_newest(key)?;
                }
                for key in &welcome.resend {
                    // An older result, taken and not yet durable, must not be forgotten either.
                    if self.tasks.is_on_disk(key.0) {
                        self.tasks.is_newest(key)?;
                    }
                }
                if let Some(registration) = self.links.registration(conn) {
                    self.health.welcomed(registration, welcome, &self.topology);
                }
                self.links.welcomed(conn, welcome)
            }
            Order::Execute(assignment) => {
                if self.quiescing {
                    return Err("a stopping server hands out work".to_owned());
                }
                if assignment.number == 1 && !assignment.canary {
                    self.retries.first_attempt(moment.mono, &assignment.spec.capability);
                }
                let held = self.links.execute(moment, conn, assignment, &self.topology)?;
                let known = self.roster.get(&held.worker).is_some_and(|known| known.contains(&held.instance));
                if !known {
                    return Err(format!("{} got work before it was durably on the roster", held.worker));
                }
                let said = self.overlays.get(&held.worker);
                if assignment.canary {
                    self.health.canary_sent(&held.instance, assignment);
                    if said.is_some_and(|said| said.draining) {
                        return Err(format!("{} got a canary while it drains", held.worker));
                    }
                    return Ok(());
                }
                self.health.may_work(&held.worker, &held.instance)?;
                // A worker that drains waits for its sessions, and so runs their tasks.
                let own = assignment.session.is_some_and(|lease| !lease.new);
                if said.is_some_and(|said| said.cordoned || (said.draining && !own)) {
                    return Err(format!("I8: {} got work although a person said no", held.worker));
                }
                self.tasks.handed_over(moment, assignment, held, &self.links, &self.topology.settings)
            }
            Order::Ack { task, epoch, .. } if self.health.is_canary(*task, *epoch) => Ok(()),
            Order::Ack { task, epoch, discarded: None } => {
                self.tasks.may_forget(&(*task, *epoch), self.links.instance(conn), "acknowledged")
            }
            Order::Ack { task, epoch, discarded: Some(Discard::Duplicate) } => {
                let who = self.links.instance(conn);
                self.tasks.may_forget(&(*task, *epoch), who, "acknowledged as a duplicate")
            }
            Order::Ack { .. }
            | Order::Refused { .. }
            | Order::Cancel { .. }
            | Order::Drain { .. }
            | Order::EndSession { .. }
            | Order::Goodbye { .. } => Ok(()),
        }
    }

    /// One step is over.
    pub(crate) fn step_over(&mut self, next_wake: Option<Mono>) {
        self.next_wake = next_wake;
    }

    /// I10: what came in is what ended plus what is there.
    pub(crate) fn conserved(&self, stats: &FleetStats) -> Verdict {
        let mut depth = 0;
        for (capability, stats) in &stats.capabilities {
            let accepted: u64 = stats.accepted.iter().sum();
            let completed: u64 = stats.completed.values().sum();
            let there = stats.queued + stats.delayed + stats.assigned + stats.running + stats.cancelling;
            depth += there;
            if accepted != completed + there {
                return Err(format!(
                    "I10: {capability}: {accepted} accepted, {completed} completed, but {there} there: {stats:?}"
                ));
            }
        }
        let known = self.tasks.open();
        if depth != stats.depth || known != depth {
            return Err(format!(
                "I10: the states add up to {depth}, the depth is {}, seen from outside it is {known}",
                stats.depth
            ));
        }
        Ok(())
    }

    /// Whether nothing waits for anything any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.requests.values().all(|asked| asked.may_stay_silent) && self.tasks.first_open().is_none()
    }

    /// I9: after a long time without faults everything has ended.
    pub(crate) fn settled(&self, fleet: Option<&Fleet>) -> Verdict {
        if let Some(task) = self.tasks.first_open() {
            let why = fleet.and_then(|fleet| fleet.explain(task));
            let record = fleet.and_then(|fleet| fleet.task(task));
            let workers = fleet.map(|fleet| {
                let line = |view: WorkerView| {
                    format!("{} {:?} {}/{}", view.name, view.state, view.slots_used, view.slots_total)
                };
                fleet.workers().into_iter().map(line).collect::<Vec<_>>()
            });
            return Err(format!(
                "I9: {} tasks have not ended; the first, {task}: {record:?}\n{why:?}\n{workers:?}",
                self.tasks.open()
            ));
        }
        match self.requests.iter().find(|(_, asked)| !asked.may_stay_silent) {
            Some((request, asked)) => Err(format!("I1: request {request} ({asked:?}) was never answered")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
