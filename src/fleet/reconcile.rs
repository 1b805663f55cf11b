//! What a registering worker's attempts become: each one that either side knows of goes on, is asked
//! for again, or is dropped, by comparing epochs and processes.

use std::collections::BTreeSet;

use super::attempts::LIMIT_SLACK;
use super::ids::*;
use super::lifecycle::{Live, Phase};
use super::planted::{Planted, planted};
use super::slab::{TaskIx, WorkerIx};
use super::task::{AttemptOutcome, AttemptRecord, Keep, TaskState};
use super::timers::Timer;
use super::words::*;
use super::{Fleet, Note};

/// Another server of the same store may have been started so often since this one opened it.
const MAX_TERMS_AHEAD: u32 = 1_000;

/// What a registering worker's attempts become.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) keep: Vec<(TaskId, Epoch)>,
    pub(super) resend: Vec<(TaskId, Epoch)>,
    pub(super) drop: Vec<(TaskId, Epoch)>,
}

impl Fleet {
    /// Agrees with a registering worker on every attempt that either side knows of.
    pub(super) fn reconcile(
        &mut self,
        worker: WorkerIx,
        registration: &Registration,
        same_process: bool,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let stranger = registration.store.as_ref().is_some_and(|store| *store != self.store);
        let mut reported = BTreeSet::new();
        for held in &registration.attempts {
            let attempt = (held.task, held.epoch);
            if stranger {
                verdict.drop.push(attempt);
                continue;
            }
            self.never_reuse(held.epoch);
            if self.is_canary(worker, held.task, held.epoch) {
                verdict.drop.push(attempt);
                if !held.done {
                    self.fence(worker, held.task, held.epoch);
                }
                continue;
            }
            match self.claim(worker, held) {
                Some((ix, decision)) => {
                    reported.insert(ix);
                    self.note(Note::Reconciled { task: held.task, decision });
                    if held.done { verdict.resend.push(attempt) } else { verdict.keep.push(attempt) }
                }
                None if held.done && self.is_being_recorded(held.task, held.epoch) => {
                    self.note(Note::Reconciled { task: held.task, decision: "result_accepted" });
                    verdict.resend.push(attempt);
                }
                None => {
                    let decision = if held.done { "result_discarded" } else { "aborted" };
                    self.note(Note::Reconciled { task: held.task, decision });
                    verdict.drop.push(attempt);
                    if !held.done {
                        self.fence(worker, held.task, held.epoch);
                    } else if let Err(reason) =
                        self.judge(worker, held.task, held.epoch, AttemptOutcome::Succeeded)
                    {
                        self.discarded(worker, held.task, held.epoch, reason);
                    }
                }
            }
        }
        let unreported: Vec<TaskIx> =
            self.registry.workers[worker].holds.iter().copied().filter(|ix| !reported.contains(ix)).collect();
        for ix in unreported {
            let task = self.tasks[ix].id;
            self.note(Note::Reconciled { task, decision: "rerun" });
            let reason =
                if same_process { "the worker does not have it" } else { "the worker's process died" };
            self.lost(ix, !same_process, reason);
        }
        verdict
    }

    /// Whether this attempt's result was taken and is not durable yet: then the worker must keep it,
    /// and hears so when it sends it again.
    fn is_being_recorded(&self, task: TaskId, epoch: Epoch) -> bool {
        let (attempts, keep, seq) = match (self.by_id.get(&task), self.finished.tasks.get(&task)) {
            (Some(ix), _) => {
                let task = &self.tasks[*ix];
                (&task.attempts, task.keep, task.seq)
            }
            (None, Some(ended)) => (&ended.record.attempts, ended.record.keep, ended.seq),
            (None, None) => return false,
        };
        let recorded = attempts.iter().any(|attempt| attempt.epoch == epoch && attempt.has_reported());
        let durable = self.gates.is_durable(seq) || planted(Planted::ResultDroppedBeforeCommit);
        recorded && keep != Keep::Passing && !durable
    }

    /// Makes a reported attempt the worker's own, if it is the newest of a live task.
    fn claim(&mut self, worker: WorkerIx, held: &HeldAttempt) -> Option<(TaskIx, &'static str)> {
        let ix = *self.by_id.get(&held.task)?;
        let newest = self.tasks[ix].newest();
        // A hand-over just before a crash may have left no trace in the journal: then the worker
        // knows an attempt that the record does not.
        let untraced = matches!(self.tasks[ix].phase, Phase::Recovering(_))
            && held.epoch.term() < self.term
            && newest.is_none_or(|newest| newest < held.epoch);
        if newest != Some(held.epoch) && !untraced && !planted(Planted::StaleAttemptResumed) {
            return None;
        }
        // Its result has been taken: what the worker still holds is a copy.
        if self.tasks[ix].attempts.last().is_some_and(AttemptRecord::has_reported) && !untraced {
            return None;
        }
        let now = self.now;
        let subject = &self.registry.workers[worker];
        let (name, offer) = (subject.name.clone(), subject.offer(&self.tasks[ix].spec.capability));
        let alone = self.tasks[ix].spec.session.is_none();
        let idempotent = alone && offer.is_some_and(|offer| offer.idempotent);
        let instance = subject.registered.as_ref().map(|registered| registered.instance.clone())?;
        // Only the process that was given it can have it; by whatever name or address it comes.
        let any = planted(Planted::StaleAttemptResumed);
        let its = |attempt: &AttemptRecord| attempt.instance == instance || any;
        if !untraced && !self.tasks[ix].attempts.last().is_some_and(its) {
            return None;
        }
        if let Some(live) = self.tasks[ix].phase.live_mut() {
            let before = std::mem::replace(&mut live.worker, worker);
            live.missing = None;
            self.registry.workers[before].holds.remove(&ix);
            self.registry.workers[worker].holds.insert(ix);
            if before != worker {
                self.left(before);
            }
            self.session_at(ix, worker, true);
            self.reopen(ix, worker);
            if !held.done {
                self.accepted(worker, held.task, held.epoch);
            }
            return Some((ix, if held.done { "result_accepted" } else { "resumed" }));
        }
        match &mut self.tasks[ix].phase {
            Phase::Waiting(_) => {
                self.leave_wait(ix);
            }
            Phase::Recovering(recovering) => self.timers.clear(&mut recovering.timer),
            Phase::Held | Phase::Assigned(_) | Phase::Running(_) | Phase::Cancelling(_) | Phase::Between => {
                return None;
            }
        }
        let task = &mut self.tasks[ix];
        if untraced {
            let number = u32::try_from(task.attempts.len() + 1).unwrap_or(u32::MAX);
            task.attempts.push(AttemptRecord {
                number,
                epoch: held.epoch,
                worker: name,
                instance,
                outcome: None,
                error: None,
                assigned_at: now.wall,
                started_at: Some(now.wall),
                finished_at: None,
            });
            task.assigned_at.get_or_insert(now.wall);
        } else if let Some(attempt) = task.attempts.last_mut() {
            // It was written off too early: it goes on, and what it was charged is given back.
            if attempt.outcome.take().is_some() && attempt.started_at.is_some() {
                task.charged = task.charged.saturating_sub(1);
            }
            attempt.error = None;
            attempt.finished_at = None;
            attempt.started_at.get_or_insert(now.wall);
        }
        task.started_at.get_or_insert(now.wall);
        task.error = None;
        let limit = self.limit_of(ix, worker);
        let timer = Some(self.timers.set(now.mono + limit.span + LIMIT_SLACK, Timer::Limit(ix)));
        let live = Live {
            worker,
            epoch: held.epoch,
            assigned: now.mono,
            limit,
            started: Some(now.mono),
            timer,
            missing: None,
            idempotent,
            overdue: false,
        };
        self.registry.workers[worker].holds.insert(ix);
        self.set_phase(ix, Phase::Running(live));
        self.session_at(ix, worker, true);
        self.reopen(ix, worker);
        self.publish(ix, TaskState::Running, Some("adopted"));
        if self.tasks[ix].keep != Keep::Passing {
            self.write(ix);
        }
        Some((ix, if held.done { "result_accepted" } else { "adopted" }))
    }

    /// The process known as this worker speaks under another name or address now: nothing may be said
    /// on its older connection any more, for it would run beside what is said on the new one.
    pub(super) fn left(&mut self, before: WorkerIx) {
        if self.registry.workers[before].up().is_some() {
            self.drop_link(before, Why::PeerClosed, true);
        } else {
            self.steer(before);
        }
    }

    /// The attempt's output comes from the worker's new connection now.
    fn reopen(&mut self, ix: TaskIx, worker: WorkerIx) {
        let id = self.tasks[ix].id;
        if let (Some(live), Some(conn)) = (self.tasks[ix].phase.live(), self.registry.workers[worker].conn())
        {
            let epoch = live.epoch;
            self.effect(Effect::Gate(id, epoch, Door::Open(conn)));
        }
    }

    /// Says again what was said to a connection that is gone: stop these.
    pub(super) fn repeat_stops(&mut self, worker: WorkerIx, conn: ConnId, kept: &[(TaskId, Epoch)]) {
        for (task, epoch) in kept {
            let Some(ix) = self.held_by(worker, *task, *epoch) else { continue };
            let overdue = self.tasks[ix].phase.live().is_some_and(|live| live.overdue);
            let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
            if cancelling || overdue {
                let reason = if cancelling { "cancelled" } else { "timeout" };
                self.effect(Effect::Order(conn, Order::Cancel { task: *task, epoch: *epoch, reason }));
            }
        }
    }

    /// An epoch above our own means that another server issued it: go past it, so that none repeats.
    fn never_reuse(&mut self, epoch: Epoch) {
        // One of a term far ahead is a lie, and to believe it would use the epochs up.
        if epoch > self.epoch && epoch.term().0 <= self.term.0.saturating_add(MAX_TERMS_AHEAD) {
            self.epoch = epoch;
        }
    }
}
