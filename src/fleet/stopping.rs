//! How an attempt is stopped: because somebody asked, or because its time was up. Its slot stays
//! taken until the worker confirms, or the grace has passed and the attempt is fenced off.

use std::sync::Arc;
use std::time::Duration;

use super::Fleet;
use super::ids::*;
use super::lifecycle::{Live, Phase};
use super::planted::{Planted, planted};
use super::registry::MAX_STUCK;
use super::slab::{TaskIx, WorkerIx};
use super::task::*;
use super::timers::Timer;
use super::words::*;

/// How a cancelled task was stopped; the words of `error.details.stopped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// No worker had begun it.
    NeverStarted,
    /// It waited for another attempt.
    BetweenAttempts,
    /// It stopped by itself when it was told.
    Graceful,
    /// Its worker ended it by force.
    Killed,
    /// Its worker did not confirm, and was cut off.
    Unconfirmed,
}

impl Stopped {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NeverStarted => "never_started",
            Self::BetweenAttempts => "between_attempts",
            Self::Graceful => "graceful",
            Self::Killed => "killed",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::NeverStarted => "no worker had begun it",
            Self::BetweenAttempts => "it was waiting for another attempt",
            Self::Graceful => "it stopped by itself when it was told",
            Self::Killed => "it did not stop by itself and was killed",
            Self::Unconfirmed => "its worker did not confirm that it stopped, and it may still run there",
        }
    }
}

impl Fleet {
    /// Asks a task to stop.
    pub(super) fn cancel(&mut self, id: TaskId, request: RequestId) {
        let Some(ix) = self.by_id.get(&id).copied() else {
            match self.finished.tasks.get(&id) {
                Some(ended) => {
                    let (seq, record) = (ended.seq, Arc::clone(&ended.record));
                    self.show(record.keep, seq, Effect::Answer(request, Answer::Cancel(record)));
                }
                None => self.effect(Effect::Answer(request, Answer::Refused(Refusal::NoSuchTask))),
            }
            return;
        };
        let keep = self.tasks[ix].keep;
        self.tasks[ix].cancel_asked.get_or_insert(self.now.mono);
        if planted(Planted::SlotFreeAtCancel)
            && let Some(worker) = self.tasks[ix].phase.live().map(|live| live.worker)
        {
            self.close_attempt(ix, AttemptOutcome::Cancelled, None);
            self.refresh(worker);
        }
        match &mut self.tasks[ix].phase {
            Phase::Held | Phase::Waiting(_) | Phase::Recovering(_) | Phase::Between => {
                if let Phase::Recovering(recovering) = &mut self.tasks[ix].phase {
                    self.timers.clear(&mut recovering.timer);
                }
                self.leave_wait(ix);
                let seq = self.cancelled_with(ix, Stopped::NeverStarted, None);
                if let Some(ended) = self.finished.tasks.get(&id) {
                    let record = Arc::clone(&ended.record);
                    self.show(keep, seq, Effect::Answer(request, Answer::Cancel(record)));
                }
            }
            Phase::Assigned(_) | Phase::Running(_) => {
                if let Phase::Assigned(live) | Phase::Running(live) = self.set_phase(ix, Phase::Between) {
                    self.begin_stop(ix, live);
                }
                let record = if keep == Keep::Passing { self.picture(ix) } else { self.write(ix) };
                let seq = self.tasks[ix].seq;
                self.show(keep, seq, Effect::Answer(request, Answer::Cancel(record)));
            }
            Phase::Cancelling(_) => {
                let (seq, record) = (self.tasks[ix].seq, self.picture(ix));
                self.show(keep, seq, Effect::Answer(request, Answer::Cancel(record)));
            }
        }
    }

    /// Asks a task to stop of which nobody waits to hear.
    pub(super) fn stop(&mut self, ix: TaskIx) {
        self.tasks[ix].cancel_asked.get_or_insert(self.now.mono);
        match &mut self.tasks[ix].phase {
            Phase::Held | Phase::Waiting(_) | Phase::Recovering(_) | Phase::Between => {
                if let Phase::Recovering(recovering) = &mut self.tasks[ix].phase {
                    self.timers.clear(&mut recovering.timer);
                }
                self.leave_wait(ix);
                self.cancelled(ix, Stopped::NeverStarted);
            }
            Phase::Assigned(_) | Phase::Running(_) => {
                if let Phase::Assigned(live) | Phase::Running(live) = self.set_phase(ix, Phase::Between) {
                    self.begin_stop(ix, live);
                }
                if self.tasks[ix].keep != Keep::Passing {
                    self.write(ix);
                }
            }
            Phase::Cancelling(_) => {}
        }
    }

    fn begin_stop(&mut self, ix: TaskIx, mut live: Live) {
        self.timers.clear(&mut live.timer);
        live.timer = Some(self.timers.set(self.now.mono + self.settings.cancel_grace, Timer::Limit(ix)));
        let (epoch, worker, task) = (live.epoch, live.worker, self.tasks[ix].id);
        self.set_phase(ix, Phase::Cancelling(live));
        if let Some(conn) = self.registry.workers[worker].conn() {
            self.effect(Effect::Order(conn, Order::Cancel { task, epoch, reason: "cancelled" }));
        }
        self.publish(ix, TaskState::Cancelling, None);
    }

    pub(super) fn cancelled(&mut self, ix: TaskIx, how: Stopped) {
        self.cancelled_with(ix, how, None);
    }

    /// Finishes a task that somebody asked to stop, and tells how it was stopped.
    pub(super) fn cancelled_with(&mut self, ix: TaskIx, how: Stopped, recorded: Option<Epoch>) -> Seq {
        let now = self.now.mono;
        let task = &mut self.tasks[ix];
        let started = task.started_at.is_some();
        let took = task.cancel_asked.map_or(Duration::ZERO, |asked| now.since(asked));
        let how = match how {
            Stopped::NeverStarted if started => Stopped::BetweenAttempts,
            Stopped::NeverStarted
            | Stopped::BetweenAttempts
            | Stopped::Graceful
            | Stopped::Killed
            | Stopped::Unconfirmed => how,
        };
        let details = format!("{{\"stopped\":\"{}\",\"took_ms\":{}}}", how.as_str(), took.as_millis());
        let message = format!("it was cancelled on request; {}", how.sentence());
        task.error = Some(TaskError {
            side_effects: if started { SideEffects::Possible } else { SideEffects::None },
            details: Some(Payload::from(details.as_str())),
            ..TaskError::new("cancelled", message, Fault::None)
        });
        self.finish(ix, TaskState::Cancelled, Fault::None, false, recorded)
    }

    /// An attempt has used up its time, or the grace that it had to stop in.
    pub(super) fn limit(&mut self, ix: TaskIx) {
        let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
        let at = self.now.mono + self.settings.cancel_grace;
        let Some(live) = self.tasks[ix].phase.live_mut() else { return };
        live.timer = None;
        let (epoch, worker, started, idempotent) =
            (live.epoch, live.worker, live.started.is_some(), live.idempotent);
        let limit = live.limit;
        if !cancelling && !live.overdue {
            live.overdue = true;
            live.timer = Some(self.timers.set(at, Timer::Limit(ix)));
            let task = self.tasks[ix].id;
            if let Some(conn) = self.registry.workers[worker].conn() {
                self.effect(Effect::Order(conn, Order::Cancel { task, epoch, reason: "timeout" }));
            }
            return;
        }
        let outcome = if cancelling { AttemptOutcome::Cancelled } else { AttemptOutcome::TimedOut };
        let id = self.tasks[ix].id;
        self.close_attempt(ix, outcome, Some("cancel_timeout"));
        self.fence(worker, id, epoch);
        if cancelling {
            self.cancelled(ix, Stopped::Unconfirmed);
        } else {
            self.tasks[ix].charged += 1;
            self.worker_failed(worker);
            let safe = !started || idempotent || self.tasks[ix].spec.retry == RetryWord::Always;
            if safe && self.has_attempts_left(ix) {
                self.try_again(ix, AttemptOutcome::TimedOut);
            } else {
                let grace = self.settings.cancel_grace;
                let message =
                    format!("{}, and the worker did not stop it within {grace:?}", self.overran(ix, limit));
                let error = TaskError::new("worker_stalled", message, Fault::Worker);
                self.tasks[ix].error = Some(TaskError { retryable: safe, ..error });
                self.finish(ix, TaskState::TimedOut, Fault::Worker, safe, None);
            }
        }
        self.stalled(worker);
    }

    /// Remembers that a worker may still run an attempt that is its own no longer.
    pub(super) fn fence(&mut self, worker: WorkerIx, task: TaskId, epoch: Epoch) {
        let stuck = &mut self.registry.workers[worker].stuck;
        stuck.insert((task, epoch));
        if stuck.len() > MAX_STUCK {
            stuck.pop_first();
        }
    }
}
