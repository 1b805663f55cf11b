//! A task's life outside of attempts: waiting, given up, finished. How it came in is in `intake.rs`,
//! its attempts are in `attempts.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::finished::Ended;
use super::health::backoff;
use super::ids::*;
use super::limits::Limit;
use super::planted::{Planted, planted};
use super::queue::Ticket;
use super::show::{Bucket, CountIx};
use super::slab::{DemandIx, SessionIx, TaskIx, WorkerIx};
use super::task::*;
use super::time::{Mono, Wall};
use super::timers::{Timer, TimerKey};
use super::words::*;
use super::{Fleet, Note};

/// Absolute deadlines are looked at so often at least, because the wall clock may jump.
const WALL_LOOK: Duration = Duration::from_secs(60);

/// A live task: its metadata only; the input is shared.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) tenant: Tenant,
    pub(super) keep: Keep,
    pub(super) source: Source,
    pub(super) spec: Arc<TaskSpec>,
    pub(super) retry_of: Option<TaskId>,
    pub(super) demand: DemandIx,
    /// The session that it is in.
    pub(super) session: Option<SessionIx>,
    /// Where it is counted.
    pub(super) counted: CountIx,
    pub(super) phase: Phase,
    pub(super) version: u64,
    /// The last record of it that was handed to the journal.
    pub(super) seq: Seq,
    pub(super) accepted: Mono,
    pub(super) submitted_at: Wall,
    pub(super) waited: Duration,
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) charged: u32,
    pub(super) deaths: u32,
    /// Attempts given back without a charge.
    pub(super) returns: u32,
    /// How often in a row its input could not be read.
    pub(super) unread: u32,
    /// What the retry that is planned repeats.
    pub(super) retry: Option<Retry>,
    /// When somebody asked to stop it.
    pub(super) cancel_asked: Option<Mono>,
    pub(super) assigned_at: Option<Wall>,
    pub(super) started_at: Option<Wall>,
    pub(super) output: Option<Payload>,
    pub(super) error: Option<TaskError>,
    pub(super) usage: Option<Usage>,
    pub(super) artifacts: Vec<Artifact>,
    pub(super) deadline: Option<TimerKey>,
    pub(super) deadline_at: Option<DeadlineAt>,
}

/// When a task must be over.
#[derive(Debug, Clone, Copy)]
pub(super) enum DeadlineAt {
    Mono(Mono),
    Wall(Wall),
}

/// A retry that has been decided upon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    /// How the attempt before ended.
    pub(super) outcome: AttemptOutcome,
    /// Whether the retry budget has to pay for it.
    pub(super) costs: bool,
}

/// Where a live task is. Each variant has what exists only there.
#[derive(Debug)]
pub(super) enum Phase {
    /// Kept by key: not yet durable, so not yet eligible.
    Held,
    /// Waits for a worker, or for its time.
    Waiting(Waiting),
    /// Found in the journal after a crash: waits for the worker that may have it.
    Recovering(Recovering),
    /// Handed over.
    Assigned(Live),
    /// A worker said that it began.
    Running(Live),
    /// A person or program wants it stopped; the worker has not confirmed.
    Cancelling(Live),
    /// Between two of the others, within one step.
    Between,
}

#[derive(Debug)]
pub(super) struct Waiting {
    /// Since when it is (or from when it will be) eligible.
    pub(super) since: Mono,
    pub(super) delayed: bool,
    /// Another task of its session goes first.
    pub(super) turn: bool,
    /// Its place among those who wait for the retry budget.
    pub(super) starved: Option<u64>,
    pub(super) ticket: Option<Ticket>,
    /// Its input is read for this worker, which keeps a slot free for it meanwhile.
    pub(super) reading_for: Option<WorkerIx>,
    /// Its place in line, which it keeps when that worker cannot take it after all.
    pub(super) number: Option<u64>,
    pub(super) timer: Option<TimerKey>,
    /// When it stops to wait for the workers that it prefers.
    pub(super) fallback: Option<TimerKey>,
}

impl Waiting {
    /// A wait that begins now.
    pub(super) fn since(since: Mono) -> Self {
        Self {
            since,
            delayed: false,
            turn: false,
            starved: None,
            ticket: None,
            reading_for: None,
            number: None,
            timer: None,
            fallback: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Recovering {
    pub(super) hint: Option<Hint>,
    pub(super) timer: Option<TimerKey>,
}

/// A live attempt.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) worker: WorkerIx,
    pub(super) epoch: Epoch,
    pub(super) assigned: Mono,
    /// How long it may run.
    pub(super) limit: Limit,
    pub(super) started: Option<Mono>,
    pub(super) timer: Option<TimerKey>,
    /// Since when no heartbeat has listed it.
    pub(super) missing: Option<Mono>,
    /// Whether the capability was registered as safe to repeat.
    pub(super) idempotent: bool,
    /// It was told to stop because its time was up.
    pub(super) overdue: bool,
}

impl Phase {
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Assigned(live) | Self::Running(live) | Self::Cancelling(live) => Some(live),
            Self::Held | Self::Waiting(_) | Self::Recovering(_) | Self::Between => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match self {
            Self::Assigned(live) | Self::Running(live) | Self::Cancelling(live) => Some(live),
            Self::Held | Self::Waiting(_) | Self::Recovering(_) | Self::Between => None,
        }
    }

    fn bucket(&self) -> Option<Bucket> {
        match self {
            // Counted once its record is written: its key may turn out to be another task's.
            Self::Held => None,
            Self::Recovering(_) => Some(Bucket::Delayed),
            Self::Waiting(waiting) => Some(if waiting.delayed { Bucket::Delayed } else { Bucket::Queued }),
            Self::Assigned(_) => Some(Bucket::Assigned),
            Self::Running(_) => Some(Bucket::Running),
            Self::Cancelling(_) => Some(Bucket::Cancelling),
            Self::Between => None,
        }
    }

    pub(super) fn state(&self) -> TaskState {
        match self {
            Self::Held | Self::Waiting(_) | Self::Recovering(_) | Self::Between => TaskState::Queued,
            Self::Assigned(_) => TaskState::Assigned,
            Self::Running(_) => TaskState::Running,
            Self::Cancelling(_) => TaskState::Cancelling,
        }
    }
}

impl Task {
    /// The largest epoch issued for it.
    pub(super) fn newest(&self) -> Option<Epoch> {
        self.attempts.last().map(|attempt| attempt.epoch)
    }
}

impl Fleet {
    /// The task may start from now on: finds it a worker or queues it.
    pub(super) fn become_eligible(&mut self, ix: TaskIx) {
        if !self.takes_turn(ix) {
            return;
        }
        self.set_phase(ix, Phase::Waiting(Waiting::since(self.now.mono)));
        self.aim(ix);
        self.place(ix);
        let Phase::Waiting(_) = self.tasks[ix].phase else { return };
        if let Some(timeout) = self.queue_timeout_of(ix) {
            let key = self.timers.set(self.now.mono + timeout, Timer::QueueTimeout(ix));
            if let Phase::Waiting(waiting) = &mut self.tasks[ix].phase {
                waiting.timer = Some(key);
            }
        }
        self.publish(ix, TaskState::Queued, None);
    }

    /// Puts a task back that had an attempt: now, or after `delay`. Returns the place in the journal
    /// of what became of it.
    pub(super) fn requeue(&mut self, ix: TaskIx, delay: Duration, reason: &str) -> Seq {
        if self.is_past_deadline(ix) {
            return self.deadline_passed(ix);
        }
        if delay.is_zero() {
            self.start_again(ix);
        } else {
            let since = self.now.mono + delay;
            let timer = Some(self.timers.set(since, Timer::NotBefore(ix)));
            let waiting = Waiting { delayed: true, timer, ..Waiting::since(since) };
            self.set_phase(ix, Phase::Waiting(waiting));
            self.publish(ix, TaskState::Queued, Some(reason));
        }
        if self.tasks[ix].keep != Keep::Passing {
            self.write(ix);
            self.stow_later(ix);
        }
        self.tasks[ix].seq
    }

    /// How long a task waits before its next attempt.
    pub(super) fn retry_delay(&mut self, tries: u32) -> Duration {
        let fraction = self.draw();
        let settings = &self.settings;
        backoff(
            settings.retry_initial,
            settings.retry_max,
            settings.retry_coefficient_percent,
            tries,
            100,
            fraction,
        )
        .max(Duration::from_millis(1))
    }

    pub(super) fn not_before(&mut self, ix: TaskIx) {
        if let Phase::Waiting(waiting) = &mut self.tasks[ix].phase {
            waiting.timer = None;
            self.start_again(ix);
        }
    }

    /// A task's next attempt is due: it is eligible again, if the retry budget pays for it.
    fn start_again(&mut self, ix: TaskIx) {
        let now = self.now.mono;
        if let Some(retry) = self.tasks[ix].retry {
            let capability = self.tasks[ix].spec.capability.clone();
            let counted = self.tasks[ix].counted_as();
            let free = !retry.costs || planted(Planted::RetryBudgetIgnored);
            if !free && !self.budgets.spend(&capability, now) {
                let (place, due) = self.budgets.starve(&capability, ix, now);
                let starved = Some(place);
                let waiting = Waiting { delayed: true, starved, ..Waiting::since(now) };
                self.set_phase(ix, Phase::Waiting(waiting));
                self.publish(ix, TaskState::Queued, Some("retry_budget"));
                self.note(Note::RetryHeld { capability: counted });
                self.plan_feeding(due);
                return;
            }
            self.tasks[ix].retry = None;
            let Retry { outcome, costs: paid } = retry;
            self.note(Note::Retried { capability: counted, outcome, paid });
        }
        self.become_eligible(ix);
    }

    /// The retry budgets have something to give again.
    pub(super) fn feed_retries(&mut self) {
        self.budgets_due = None;
        for ix in self.budgets.feed(self.now.mono) {
            if let Some(Retry { outcome, costs: paid }) = self.tasks[ix].retry.take() {
                let capability = self.tasks[ix].counted_as();
                self.note(Note::Retried { capability, outcome, paid });
            }
            self.become_eligible(ix);
        }
        if let Some(due) = self.budgets.due() {
            self.plan_feeding(due);
        }
    }

    fn plan_feeding(&mut self, due: Mono) {
        if self.budgets_due.is_none_or(|(planned, _)| due < planned) {
            self.timers.clear(&mut self.budgets_due);
            self.budgets_due = Some(self.timers.set(due, Timer::RetryBudget));
        }
    }

    /// Ends a wait: out of the queue, timer cleared, the time counted.
    pub(super) fn leave_wait(&mut self, ix: TaskIx) -> Duration {
        self.unqueue(ix);
        self.stop_reading(ix);
        let now = self.now.mono;
        let task = &mut self.tasks[ix];
        let Phase::Waiting(waiting) = &mut task.phase else { return Duration::ZERO };
        let wait = if waiting.delayed { Duration::ZERO } else { now.since(waiting.since) };
        self.timers.clear(&mut waiting.timer);
        self.timers.clear(&mut waiting.fallback);
        task.retry = None;
        if let Some(place) = waiting.starved.take() {
            self.budgets.leave(&task.spec.capability, place);
        }
        task.waited += wait;
        wait
    }

    pub(super) fn queue_timeout(&mut self, ix: TaskIx) {
        let why = self.nobody_took(ix);
        let timeout = self.queue_timeout_of(ix).unwrap_or_default();
        if let Phase::Waiting(waiting) = &mut self.tasks[ix].phase {
            waiting.timer = None;
            self.leave_wait(ix);
            let message = format!("waited longer than its queue_timeout of {timeout:?}: {why}");
            self.unsuccessful(ix, TaskState::Expired, "queue_timeout", &message);
        }
    }

    pub(super) fn arm_deadline(&mut self, ix: TaskIx) {
        let at = match self.tasks[ix].deadline_at {
            None => return,
            Some(DeadlineAt::Mono(at)) => at,
            Some(DeadlineAt::Wall(wall)) => self.now.mono + wall.since(self.now.wall).min(WALL_LOOK),
        };
        let key = self.timers.set(at, Timer::Deadline(ix));
        self.tasks[ix].deadline = Some(key);
    }

    fn is_past_deadline(&self, ix: TaskIx) -> bool {
        match self.tasks[ix].deadline_at {
            None => false,
            Some(DeadlineAt::Mono(at)) => self.now.mono >= at,
            Some(DeadlineAt::Wall(at)) => self.now.wall >= at,
        }
    }

    /// What is left until the deadline.
    pub(super) fn until_deadline(&self, ix: TaskIx) -> Option<Duration> {
        match self.tasks[ix].deadline_at {
            None => None,
            Some(DeadlineAt::Mono(at)) => Some(at.since(self.now.mono)),
            Some(DeadlineAt::Wall(at)) => Some(at.since(self.now.wall)),
        }
    }

    pub(super) fn deadline(&mut self, ix: TaskIx) {
        self.tasks[ix].deadline = None;
        if !self.is_past_deadline(ix) {
            self.arm_deadline(ix);
            return;
        }
        match &mut self.tasks[ix].phase {
            Phase::Waiting(_) => {
                self.leave_wait(ix);
                self.deadline_passed(ix);
            }
            Phase::Recovering(recovering) => {
                self.timers.clear(&mut recovering.timer);
                self.deadline_passed(ix);
            }
            Phase::Held => {
                self.deadline_passed(ix);
            }
            // A live attempt was given no more time than this; its own limit ends it.
            Phase::Assigned(_) | Phase::Running(_) | Phase::Cancelling(_) | Phase::Between => {}
        }
    }

    fn deadline_passed(&mut self, ix: TaskIx) -> Seq {
        let deadline = self.deadline_text(ix);
        if self.tasks[ix].started_at.is_some() {
            let message = format!("{deadline} passed before an attempt succeeded");
            self.unsuccessful(ix, TaskState::TimedOut, "deadline", &message)
        } else {
            let message = format!("{deadline} passed before a worker could start it");
            self.unsuccessful(ix, TaskState::Expired, "deadline", &message)
        }
    }

    /// Finishes a task that did not succeed, for a reason of Rollcall's own.
    pub(super) fn unsuccessful(&mut self, ix: TaskIx, state: TaskState, code: &str, message: &str) -> Seq {
        let started = self.tasks[ix].started_at.is_some();
        let fault = match state {
            TaskState::Cancelled => Fault::None,
            TaskState::TimedOut | TaskState::Lost => Fault::Worker,
            TaskState::Queued
            | TaskState::Assigned
            | TaskState::Running
            | TaskState::Cancelling
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Expired => Fault::Rollcall,
        };
        self.tasks[ix].error = Some(TaskError {
            retryable: !started && state != TaskState::Cancelled,
            side_effects: if started { SideEffects::Possible } else { SideEffects::None },
            ..TaskError::new(code, message, fault)
        });
        self.finish(ix, state, fault, false, None)
    }

    /// Makes a task final: recorded, told to everybody who waits (when durable, if it is kept), and
    /// out of the core. Returns the record's place in the journal.
    pub(super) fn finish(
        &mut self,
        ix: TaskIx,
        state: TaskState,
        fault: Fault,
        dead_letter: bool,
        recorded: Option<Epoch>,
    ) -> Seq {
        if matches!(self.tasks[ix].phase, Phase::Held) {
            self.count_accepted(ix);
        }
        let Some(mut task) = self.take_out(ix) else { return Seq(0) };
        let mut record = TaskRecord {
            attempts: std::mem::take(&mut task.attempts),
            output: task.output.take(),
            error: task.error.take(),
            artifacts: std::mem::take(&mut task.artifacts),
            ..self.describe(&task, state, task.version + 1)
        };
        record.finished_at = Some(self.now.wall);
        record.dead_letter = dead_letter && !task.is_probe();
        let record = Arc::new(record);
        self.tally.completed(task.counted, state, fault);
        let latency = self.now.mono.since(task.accepted);
        let seq = self.record(Record::Task(Arc::clone(&record)));
        let happening = Happening::State {
            state,
            attempt: u32::try_from(record.attempts.len()).unwrap_or(u32::MAX),
            worker: record.attempts.last().map(|attempt| attempt.worker.clone()),
            reason: record.error.as_ref().map(|error| error.code.clone()),
        };
        self.show(task.keep, seq, Effect::Publish(task.id, happening));
        self.show(task.keep, seq, Effect::Finish(task.id, Arc::clone(&record)));
        self.finished.add(Ended { record: Arc::clone(&record), seq, recorded });
        self.note(Note::Ended { record, fault, latency });
        seq
    }

    pub(super) fn count_accepted(&mut self, ix: TaskIx) {
        let task = &self.tasks[ix];
        self.tally.accepted(task.counted, task.source);
    }

    /// Takes a task out that was never written: as if it had not been submitted.
    pub(super) fn withdraw(&mut self, ix: TaskIx) {
        self.take_out(ix);
    }

    /// Takes a task out of everything that counts or finds it.
    fn take_out(&mut self, ix: TaskIx) -> Option<Task> {
        self.set_phase(ix, Phase::Between);
        let mut task = self.tasks.remove(ix)?;
        self.by_id.remove(&task.id);
        self.timers.clear(&mut task.deadline);
        self.balancer.demands[task.demand].tasks -= 1;
        self.bytes -= task.spec.input_bytes();
        self.leave_session(ix, task.session.take());
        Some(task)
    }

    /// Moves a task between phases and keeps the counts.
    pub(super) fn set_phase(&mut self, ix: TaskIx, phase: Phase) -> Phase {
        let task = &mut self.tasks[ix];
        let (before, after) = (task.phase.bucket(), phase.bucket());
        self.recovering += usize::from(matches!(phase, Phase::Recovering(_)));
        self.recovering -= usize::from(matches!(task.phase, Phase::Recovering(_)));
        let old = std::mem::replace(&mut task.phase, phase);
        if before != after {
            self.tally.moved(task.counted, before, after);
        }
        old
    }

    pub(super) fn publish(&mut self, ix: TaskIx, state: TaskState, reason: Option<&str>) {
        let task = &self.tasks[ix];
        let happening = Happening::State {
            state,
            attempt: u32::try_from(task.attempts.len()).unwrap_or(u32::MAX),
            worker: match state {
                TaskState::Queued => None,
                TaskState::Assigned
                | TaskState::Running
                | TaskState::Cancelling
                | TaskState::Succeeded
                | TaskState::Failed
                | TaskState::TimedOut
                | TaskState::Cancelled
                | TaskState::Expired
                | TaskState::Lost => task.attempts.last().map(|attempt| attempt.worker.clone()),
            },
            reason: reason.map(Into::into),
        };
        let id = task.id;
        self.effect(Effect::Publish(id, happening));
    }

    /// Hands the task's record, as it is now, to the journal.
    pub(super) fn write(&mut self, ix: TaskIx) -> Arc<TaskRecord> {
        self.tasks[ix].version += 1;
        let record = self.picture(ix);
        let seq = self.record(Record::Task(Arc::clone(&record)));
        self.tasks[ix].seq = seq;
        record
    }

    /// The same for a hand-over. What waits for the task's record waits for the one before.
    pub(super) fn write_behind(&mut self, ix: TaskIx) {
        self.tasks[ix].version += 1;
        let record = self.picture(ix);
        self.record(Record::HandOver(record));
    }

    /// The task as it is now.
    pub(super) fn picture(&self, ix: TaskIx) -> Arc<TaskRecord> {
        let task = &self.tasks[ix];
        Arc::new(self.describe(task, task.phase.state(), task.version))
    }

    fn describe(&self, task: &Task, state: TaskState, version: u64) -> TaskRecord {
        let hint = task.phase.live().and_then(|live| {
            let attempt = task.attempts.last()?;
            Some(Hint {
                worker: attempt.worker.clone(),
                instance: attempt.instance.clone(),
                epoch: live.epoch,
                started: live.started.is_some(),
            })
        });
        let waiting = match &task.phase {
            Phase::Waiting(waiting) if !waiting.delayed => self.now.mono.since(waiting.since),
            Phase::Waiting(_)
            | Phase::Held
            | Phase::Recovering(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => Duration::ZERO,
        };
        let hint = match &task.phase {
            Phase::Recovering(recovering) => recovering.hint.clone(),
            Phase::Held
            | Phase::Waiting(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => hint,
        };
        TaskRecord {
            id: task.id,
            tenant: task.tenant.clone(),
            version,
            term: self.term,
            keep: task.keep,
            source: task.source,
            spec: Arc::clone(&task.spec),
            state,
            attempts: task.attempts.clone(),
            charged: task.charged,
            deaths: task.deaths,
            output: task.output.clone(),
            error: task.error.clone(),
            usage: task.usage,
            artifacts: task.artifacts.clone(),
            dead_letter: false,
            hint,
            pending_reason: None,
            retry_of: task.retry_of,
            waited: task.waited + waiting,
            submitted_at: task.submitted_at,
            assigned_at: task.assigned_at,
            started_at: task.started_at,
            finished_at: None,
        }
    }
}
