//! An attempt's life: handed over, begun, ended, lost, stopped. Every report is compared with the
//! largest epoch issued for its task; what is older is fenced off.

use std::sync::Arc;
use std::time::Duration;

use super::ids::*;
use super::lifecycle::{Live, Phase, Retry};
use super::planted::{Planted, planted};
use super::slab::{TaskIx, WorkerIx};
use super::stopping::Stopped;
use super::task::*;
use super::timers::Timer;
use super::words::*;
use super::{Fleet, Note};

/// A worker ends an attempt that has used up its time by itself; the server steps in only when it
/// has not done so by this much later.
pub(super) const LIMIT_SLACK: Duration = Duration::from_secs(1);

/// Workers that may die with a task before it counts as poison.
const MAX_DEATHS: u32 = 2;

/// Attempts given back uncharged before they begin to count: a worker that refuses for ever must
/// not hold a task for ever.
const MAX_RETURNS: u32 = 100;

impl Fleet {
    /// Hands an eligible task (out of its queue already) to a worker; with its input, if that is not here.
    pub(super) fn assign(&mut self, ix: TaskIx, worker: WorkerIx, input: Option<Payload>) {
        let epoch = self.next_epoch();
        let limit = self.limit_of(ix, worker);
        let now = self.now;
        let subject = &mut self.registry.workers[worker];
        let (Some(up), Some(registered)) = (subject.up(), subject.registered.as_ref()) else { return };
        let conn = up.conn;
        let instance = registered.instance.clone();
        let name = subject.name.clone();
        let task = &mut self.tasks[ix];
        let wait = match &task.phase {
            Phase::Waiting(waiting) => now.mono.since(waiting.since),
            Phase::Held
            | Phase::Recovering(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => Duration::ZERO,
        };
        // What a session has seen cannot be unseen: there nothing is done twice without harm.
        let idempotent = task.spec.session.is_none()
            && subject.offer(&task.spec.capability).is_some_and(|offer| offer.idempotent);
        subject.holds.insert(ix);
        let number = u32::try_from(task.attempts.len() + 1).unwrap_or(u32::MAX);
        task.attempts.push(AttemptRecord {
            number,
            epoch,
            worker: name,
            instance,
            outcome: None,
            error: None,
            assigned_at: now.wall,
            started_at: None,
            finished_at: None,
        });
        task.assigned_at.get_or_insert(now.wall);
        if number == 1 {
            self.budgets.earn(&task.spec.capability, now.mono);
        }
        let task = &mut self.tasks[ix];
        let spec = match input {
            None => Arc::clone(&task.spec),
            Some(input) => Arc::new(task.spec.with_input(input)),
        };
        let id = task.id;
        let timer = Some(self.timers.set(now.mono + limit.span + LIMIT_SLACK, Timer::Limit(ix)));
        let live = Live {
            worker,
            epoch,
            assigned: now.mono,
            limit,
            started: None,
            timer,
            missing: None,
            idempotent,
            overdue: false,
        };
        self.set_phase(ix, Phase::Assigned(live));
        self.effect(Effect::Gate(id, epoch, Door::Open(conn)));
        let capability = self.tasks[ix].counted_as();
        let session = self.session_at(ix, worker, false);
        let assignment =
            Assignment { task: id, epoch, number, spec, limit: limit.span, session, canary: false };
        self.effect(Effect::Order(conn, Order::Execute(Box::new(assignment))));
        self.publish(ix, TaskState::Assigned, None);
        self.note(Note::Assigned { capability, wait });
        if self.tasks[ix].keep != Keep::Passing {
            self.write_behind(ix);
        }
        self.relist(worker);
    }

    /// The worker says that it began.
    pub(super) fn accepted(&mut self, worker: WorkerIx, id: TaskId, epoch: Epoch) {
        let Some(ix) = self.held_by(worker, id, epoch) else { return };
        let now = self.now;
        let task = &mut self.tasks[ix];
        let Some(live) = task.phase.live_mut() else { return };
        live.missing = None;
        if live.started.is_some() {
            return;
        }
        live.started = Some(now.mono);
        let ack = now.mono.since(live.assigned);
        task.started_at.get_or_insert(now.wall);
        if let Some(attempt) = task.attempts.last_mut() {
            attempt.started_at = Some(now.wall);
        }
        let pool = self.registry.workers[worker].spec.pool.clone();
        self.note(Note::Started { pool, ack });
        if let Phase::Assigned(_) = &self.tasks[ix].phase {
            if let Phase::Assigned(live) = self.set_phase(ix, Phase::Between) {
                self.set_phase(ix, Phase::Running(live));
            }
            self.publish(ix, TaskState::Running, None);
        }
    }

    /// The worker did not take it: offered again, uncharged, unless nothing else can help.
    pub(super) fn rejected(
        &mut self,
        worker: WorkerIx,
        id: TaskId,
        epoch: Epoch,
        reason: &Arc<str>,
        retryable: bool,
    ) {
        let freed = self.registry.workers[worker].stuck.remove(&(id, epoch));
        if let Some(ix) = self.held_by(worker, id, epoch) {
            let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
            self.close_attempt(ix, AttemptOutcome::Rejected, Some("rejected"));
            if cancelling {
                self.cancelled(ix, Stopped::NeverStarted);
            } else if retryable {
                self.give_back(ix, AttemptOutcome::Rejected, "rejected");
            } else {
                let message = format!("the worker refused it: {reason}");
                let error = TaskError::new("rejected", message, Fault::Caller);
                self.tasks[ix].error = Some(TaskError { side_effects: SideEffects::None, ..error });
                self.finish(ix, TaskState::Failed, Fault::Caller, false, Some(epoch));
            }
            self.steer(worker);
        } else if freed {
            self.refresh(worker);
        }
    }

    /// A result arrives: recorded if it is of the newest attempt of a live task, else fenced off.
    pub(super) fn result(&mut self, worker: WorkerIx, conn: ConnId, report: ResultReport) {
        let (id, epoch) = (report.task, report.epoch);
        let freed = self.registry.workers[worker].stuck.remove(&(id, epoch));
        match self.judge(worker, id, epoch, report.status) {
            Ok(ix) => {
                let keep = self.tasks[ix].keep;
                let keep = if planted(Planted::AckBeforeCommit) { Keep::Passing } else { keep };
                let seq = self.conclude(ix, worker, report);
                self.show(keep, seq, Effect::Order(conn, Order::Ack { task: id, epoch, discarded: None }));
                // It may have been the last one that a leaving worker had to finish.
                self.steer(worker);
            }
            Err(reason) => {
                self.discarded(worker, id, epoch, reason);
                let ack = Effect::Order(conn, Order::Ack { task: id, epoch, discarded: Some(reason) });
                // What it repeats must be durable before the worker may forget it.
                let ended = self.finished.tasks.get(&id).map(|ended| (ended.record.keep, ended.seq));
                let live = self.by_id.get(&id).map(|ix| (self.tasks[*ix].keep, self.tasks[*ix].seq));
                match ended.or(live) {
                    Some((keep, seq)) => self.show(keep, seq, ack),
                    None => self.effect(ack),
                }
                if freed {
                    self.refresh(worker);
                }
            }
        }
    }

    /// A result that came too late is noted, and its attempt marked as superseded while its task goes
    /// on; a final record does not change any more.
    pub(super) fn discarded(&mut self, worker: WorkerIx, id: TaskId, epoch: Epoch, reason: Discard) {
        let subject = &self.registry.workers[worker];
        let instance = subject.registered.as_ref().map(|registered| registered.instance.clone());
        let name = subject.name.clone();
        self.note(Note::Discarded { task: id, worker: name, reason });
        let Some(ix) = self.by_id.get(&id).copied() else { return };
        let its = |attempt: &&mut AttemptRecord| {
            attempt.epoch == epoch
                && Some(&attempt.instance) == instance.as_ref()
                && attempt.outcome == Some(AttemptOutcome::WorkerLost)
        };
        if reason == Discard::StaleEpoch
            && let Some(attempt) = self.tasks[ix].attempts.iter_mut().find(its)
        {
            attempt.outcome = Some(AttemptOutcome::Superseded);
            if self.tasks[ix].keep != Keep::Passing {
                self.write(ix);
            }
        }
    }

    /// Whether a result of this attempt may be recorded, and for which task.
    pub(super) fn judge(
        &self,
        worker: WorkerIx,
        id: TaskId,
        epoch: Epoch,
        status: AttemptOutcome,
    ) -> Result<TaskIx, Discard> {
        let Some(ix) = self.by_id.get(&id).copied() else {
            return Err(match self.finished.tasks.get(&id) {
                None => Discard::UnknownTask,
                Some(ended) if ended.recorded == Some(epoch) => Discard::Duplicate,
                Some(ended) if ended.record.attempts.last().is_some_and(|last| last.epoch > epoch) => {
                    Discard::StaleEpoch
                }
                Some(_) => Discard::AfterTerminal,
            });
        };
        let task = &self.tasks[ix];
        match task.newest() {
            Some(newest) if newest == epoch => {}
            Some(_) if planted(Planted::StaleResultRecorded) => return Ok(ix),
            Some(newest) if newest > epoch => return Err(Discard::StaleEpoch),
            Some(_) | None => return Err(Discard::UnknownTask),
        }
        match task.phase.live() {
            // Only the worker that has it may end it.
            Some(live) if live.worker != worker => Err(Discard::UnknownTask),
            Some(_) => Ok(ix),
            None => {
                let registered = self.registry.workers[worker].registered.as_ref();
                let its = |attempt: &&AttemptRecord| {
                    registered.is_some_and(|registered| registered.instance == attempt.instance)
                };
                match task.attempts.last().filter(its) {
                    // Sent twice: the first has put the task back already.
                    Some(attempt) if attempt.has_reported() => Err(Discard::Duplicate),
                    // It stopped what had been taken from it, as it was told: nothing to record, least
                    // of all against the task, which waits for its next attempt.
                    Some(_) if status == AttemptOutcome::Cancelled => Err(Discard::StaleEpoch),
                    Some(_) => Ok(ix),
                    None => Err(Discard::UnknownTask),
                }
            }
        }
    }

    /// Records a result: the task is final, or tried again.
    fn conclude(&mut self, ix: TaskIx, worker: WorkerIx, report: ResultReport) -> Seq {
        let ResultReport { epoch, status, output, error, usage, artifacts, session_open, .. } = report;
        let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
        let overdue = self.tasks[ix].phase.live().is_some_and(|live| live.overdue);
        let idempotent = self.tasks[ix].phase.live().is_some_and(|live| live.idempotent);
        let limit = self.tasks[ix].phase.live().map(|live| live.limit);
        let handed_over = self.tasks[ix].phase.live().map(|live| live.assigned);
        // Stopped because its time was up: that is what is recorded, whatever the worker calls it.
        let status =
            if status == AttemptOutcome::Cancelled && overdue { AttemptOutcome::TimedOut } else { status };
        let code = error.as_ref().map(|error| error.code.clone());
        self.adopt_result(ix);
        self.session_told(ix, worker, session_open);
        self.close_attempt(ix, status, code.as_deref());
        let task = &mut self.tasks[ix];
        task.started_at.get_or_insert(self.now.wall);
        task.output = output;
        task.usage = usage;
        task.artifacts = artifacts;
        task.error = error;
        match status {
            AttemptOutcome::Succeeded => {
                self.tasks[ix].error = None;
                if !self.tasks[ix].is_probe() {
                    self.worker_succeeded(worker);
                    if let Some(since) = handed_over {
                        self.took(ix, worker, self.now.mono.since(since));
                    }
                }
                self.finish(ix, TaskState::Succeeded, Fault::None, false, Some(epoch))
            }
            AttemptOutcome::Failed => {
                let error = self.tasks[ix].error.get_or_insert_with(|| {
                    let message = "the worker reported a failure and no reason";
                    TaskError::new("failed", message, Fault::Caller)
                });
                let (fault, retryable) = (error.fault, error.retryable);
                self.tasks[ix].charged += 1;
                if fault == Fault::Worker || planted(Planted::CallersErrorsEject) {
                    self.worker_failed(worker);
                } else {
                    self.worker_succeeded(worker);
                }
                if retryable && !cancelling && self.has_attempts_left(ix) {
                    self.try_again(ix, AttemptOutcome::Failed)
                } else {
                    self.finish(ix, TaskState::Failed, fault, retryable && !cancelling, Some(epoch))
                }
            }
            AttemptOutcome::TimedOut => {
                self.tasks[ix].charged += 1;
                let overran = limit.map(|limit| (limit.code(), self.overran(ix, limit)));
                let error = self.tasks[ix].error.get_or_insert_with(|| {
                    TaskError::new("timeout", "it ran longer than it may", Fault::Caller)
                });
                // The worker knows that its time was up, and not which limit that was.
                if let Some((code, message)) = overran {
                    error.code = code.into();
                    error.message = message.into();
                }
                self.finish(ix, TaskState::TimedOut, Fault::Caller, false, Some(epoch))
            }
            AttemptOutcome::Cancelled
            | AttemptOutcome::WorkerLost
            | AttemptOutcome::Rejected
            | AttemptOutcome::Superseded => {
                if cancelling {
                    let forced = code.as_deref() == Some("killed");
                    let how = if forced { Stopped::Killed } else { Stopped::Graceful };
                    return self.cancelled_with(ix, how, Some(epoch));
                }
                // The worker stopped it of its own accord, as one that shuts down does.
                self.tasks[ix].charged += 1;
                let safe = idempotent || self.tasks[ix].spec.retry == RetryWord::Always;
                self.after_loss(ix, safe, "the worker stopped it")
            }
        }
    }

    /// A result for a task that had been put back already: out of its wait first.
    fn adopt_result(&mut self, ix: TaskIx) {
        match &mut self.tasks[ix].phase {
            Phase::Waiting(_) => {
                self.leave_wait(ix);
                self.set_phase(ix, Phase::Between);
            }
            Phase::Recovering(recovering) => {
                self.timers.clear(&mut recovering.timer);
                self.set_phase(ix, Phase::Between);
            }
            Phase::Held | Phase::Assigned(_) | Phase::Running(_) | Phase::Cancelling(_) | Phase::Between => {}
        }
    }

    /// Ends the newest attempt: its slot is free, its door shut, its end noted. The task is left
    /// between phases; the caller says what becomes of it.
    pub(super) fn close_attempt(&mut self, ix: TaskIx, outcome: AttemptOutcome, code: Option<&str>) {
        let live = match self.set_phase(ix, Phase::Between) {
            Phase::Assigned(live) | Phase::Running(live) | Phase::Cancelling(live) => Some(live),
            Phase::Held | Phase::Waiting(_) | Phase::Recovering(_) | Phase::Between => None,
        };
        let now = self.now;
        let task = &mut self.tasks[ix];
        let Some(attempt) = task.attempts.last_mut() else { return };
        attempt.outcome = Some(outcome);
        attempt.error = code.map(Into::into);
        attempt.finished_at = Some(now.wall);
        let (id, epoch, worker) = (task.id, attempt.epoch, attempt.worker.clone());
        let capability = task.counted_as();
        let mut execution = None;
        let mut pool = None;
        if let Some(mut live) = live {
            execution = live.started.map(|started| now.mono.since(started));
            self.timers.clear(&mut live.timer);
            let subject = &mut self.registry.workers[live.worker];
            pool = subject.spec.pool.clone();
            subject.holds.remove(&ix);
            match outcome {
                AttemptOutcome::Succeeded => subject.attempts_ok += 1,
                AttemptOutcome::Failed
                | AttemptOutcome::TimedOut
                | AttemptOutcome::Cancelled
                | AttemptOutcome::WorkerLost
                | AttemptOutcome::Rejected
                | AttemptOutcome::Superseded => subject.attempts_error += 1,
            }
            self.registry.changed.insert(live.worker);
            self.effect(Effect::Gate(id, epoch, Door::Shut));
        }
        self.note(Note::AttemptEnded { task: id, capability, worker, pool, outcome, execution });
    }

    /// The worker has it no longer. `death`: its process ended.
    pub(super) fn lost(&mut self, ix: TaskIx, death: bool, reason: &str) {
        let Some(live) = self.tasks[ix].phase.live() else { return };
        let (started, idempotent) = (live.started.is_some(), live.idempotent);
        self.lost_as(ix, death, started, idempotent, reason);
    }

    /// The same for an attempt that is known only from the journal.
    pub(super) fn recovered_as_lost(&mut self, ix: TaskIx, death: bool, started: bool, idempotent: bool) {
        self.lost_as(ix, death, started, idempotent, "its worker did not come back with it");
    }

    fn lost_as(&mut self, ix: TaskIx, death: bool, started: bool, idempotent: bool, reason: &str) {
        let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
        self.close_attempt(ix, AttemptOutcome::WorkerLost, Some("worker_lost"));
        if death {
            self.tasks[ix].deaths += 1;
        }
        if cancelling {
            self.cancelled(ix, if started { Stopped::Unconfirmed } else { Stopped::NeverStarted });
        } else if self.tasks[ix].deaths >= MAX_DEATHS {
            self.tasks[ix].charged += u32::from(started);
            let message = format!("{MAX_DEATHS} workers died while they had it");
            self.lost_for_good(ix, "poison", &message, true);
        } else if !started {
            self.give_back(ix, AttemptOutcome::WorkerLost, reason);
        } else {
            self.tasks[ix].charged += 1;
            let safe = idempotent || self.tasks[ix].spec.retry == RetryWord::Always;
            self.after_loss(ix, safe, reason);
        }
    }

    /// Repeats a charged attempt that was lost, if that is safe and attempts are left.
    fn after_loss(&mut self, ix: TaskIx, safe: bool, reason: &str) -> Seq {
        if !safe && !planted(Planted::UnsafeRepeated) {
            let message = format!(
                "{reason}; it may have had effects, and its capability is not known to be idempotent"
            );
            self.lost_for_good(ix, "worker_lost", &message, false)
        } else if self.has_attempts_left(ix) {
            self.tasks[ix].retry = Some(Retry { outcome: AttemptOutcome::WorkerLost, costs: true });
            self.requeue(ix, Duration::ZERO, reason)
        } else {
            let message = format!("{reason}; its attempts are used up");
            self.lost_for_good(ix, "worker_lost", &message, true)
        }
    }

    fn lost_for_good(&mut self, ix: TaskIx, code: &str, message: &str, dead_letter: bool) -> Seq {
        let error = TaskError::new(code, message, Fault::Worker);
        self.tasks[ix].error = Some(TaskError { retryable: dead_letter, ..error });
        self.finish(ix, TaskState::Lost, Fault::Worker, dead_letter, None)
    }

    /// Offers a task again that never began; not charged, unless it comes back for ever.
    pub(super) fn give_back(&mut self, ix: TaskIx, outcome: AttemptOutcome, reason: &str) {
        self.tasks[ix].returns += 1;
        let returns = self.tasks[ix].returns;
        if returns > MAX_RETURNS {
            let message = format!("handed over {returns} times and never begun; last: {reason}");
            self.lost_for_good(ix, "never_started", &message, true);
            return;
        }
        // What never began has not cost the workers anything, and its loss must not delay it.
        self.tasks[ix].retry = Some(Retry { outcome, costs: outcome == AttemptOutcome::Rejected });
        // The first loss costs no time; a worker that refuses must not be asked in a tight loop.
        let delay = match outcome {
            AttemptOutcome::Rejected => self.retry_delay(returns - 1),
            AttemptOutcome::WorkerLost | AttemptOutcome::Superseded => {
                if returns > 2 {
                    self.retry_delay(returns - 3)
                } else {
                    Duration::ZERO
                }
            }
            AttemptOutcome::Succeeded
            | AttemptOutcome::Failed
            | AttemptOutcome::TimedOut
            | AttemptOutcome::Cancelled => Duration::ZERO,
        };
        self.requeue(ix, delay, reason);
    }

    pub(super) fn try_again(&mut self, ix: TaskIx, outcome: AttemptOutcome) -> Seq {
        self.tasks[ix].retry = Some(Retry { outcome, costs: true });
        let delay = self.retry_delay(self.tasks[ix].charged.saturating_sub(1));
        self.requeue(ix, delay, outcome.as_str())
    }

    pub(super) fn has_attempts_left(&self, ix: TaskIx) -> bool {
        let task = &self.tasks[ix];
        planted(Planted::AttemptsUnbounded)
            || task.charged < task.spec.max_attempts.unwrap_or(self.settings.max_attempts).max(1)
    }

    /// The live attempt, if that worker has it.
    pub(super) fn held_by(&self, worker: WorkerIx, id: TaskId, epoch: Epoch) -> Option<TaskIx> {
        let ix = *self.by_id.get(&id)?;
        let live = self.tasks[ix].phase.live()?;
        (live.worker == worker && live.epoch == epoch).then_some(ix)
    }
}
