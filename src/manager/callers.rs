//! Who waits for what: callers by request, and by task. The core knows neither.

use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::handle::Waited;
use super::patience::Patience;
use crate::fleet::{Answer, Refusal, RequestId, TaskId, TaskRecord};

/// Somebody who wants to hear of a task's end.
pub(super) enum Waiter {
    /// Who submitted it, and waits until then.
    Submitter(oneshot::Sender<Waited>, Instant),
    /// A caller who waits for it, and knows for how long.
    Caller(oneshot::Sender<Waited>),
    /// A reader who came between the end and its being durable.
    Reader(oneshot::Sender<Option<Arc<TaskRecord>>>),
}

impl Waiter {
    fn still_waits(&self) -> bool {
        match self {
            Self::Submitter(reply, _) | Self::Caller(reply) => !reply.is_closed(),
            Self::Reader(reply) => !reply.is_closed(),
        }
    }
}

/// Nearly always there is one, who needs no list.
type Waiters = SmallVec<[Waiter; 1]>;

#[derive(Default)]
pub(super) struct Callers {
    requests: FxHashMap<RequestId, oneshot::Sender<Answer>>,
    waiters: FxHashMap<TaskId, Waiters>,
    /// The submission that the core is taking in: it may refuse a caller who waits by task.
    submitting: Option<(RequestId, TaskId)>,
    patience: Patience,
    /// Those who wait no longer, while their tasks are becoming ones that are kept.
    promoting: FxHashMap<RequestId, oneshot::Sender<Waited>>,
}

impl Callers {
    pub(super) fn asks(&mut self, request: RequestId, reply: oneshot::Sender<Answer>) {
        self.requests.insert(request, reply);
    }

    pub(super) fn waits(&mut self, task: TaskId, waiter: Waiter) {
        self.waiters.entry(task).or_default().push(waiter);
    }

    pub(super) fn submits(
        &mut self,
        request: RequestId,
        task: TaskId,
        until: Instant,
        reply: oneshot::Sender<Waited>,
    ) {
        self.patience.begin(until, task);
        self.waits(task, Waiter::Submitter(reply, until));
        self.submitting = Some((request, task));
    }

    /// When somebody's patience may end.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.patience.wake()
    }

    /// The tasks whose submitters wait no longer.
    pub(super) fn impatient(&mut self, now: Instant) -> Vec<TaskId> {
        self.patience.over(now)
    }

    /// The submitter of this task hears by this request what becomes of it. False when nobody is
    /// there to hear it.
    pub(super) fn promotes(&mut self, task: TaskId, request: RequestId) -> bool {
        let Some(waiters) = self.waiters.get_mut(&task) else { return false };
        let Some(at) = waiters.iter().position(|waiter| matches!(waiter, Waiter::Submitter(..))) else {
            return false;
        };
        let submitter = waiters.remove(at);
        if waiters.is_empty() {
            self.waiters.remove(&task);
        }
        let Waiter::Submitter(reply, _) = submitter else { return false };
        let is_there = !reply.is_closed();
        if is_there {
            self.promoting.insert(request, reply);
        }
        is_there
    }

    pub(super) fn submitted(&mut self) {
        self.submitting = None;
    }

    /// Passes an answer on. A caller who hung up is nobody's loss.
    pub(super) fn answer(&mut self, request: RequestId, answer: Answer) {
        if let Some(reply) = self.requests.remove(&request) {
            drop(reply.send(answer));
        } else if let (Some((submitted, task)), Answer::Refused(refusal)) = (self.submitting, &answer)
            && submitted == request
        {
            self.refuse(task, refusal);
        } else if let Some(reply) = self.promoting.remove(&request)
            && let Some(waited) = promoted(answer)
        {
            drop(reply.send(waited));
        }
    }

    pub(super) fn refuse(&mut self, task: TaskId, refusal: &Refusal) {
        for waiter in self.of(task) {
            match waiter {
                Waiter::Submitter(reply, until) => {
                    self.patience.end(until, task);
                    drop(reply.send(Waited::Refused(refusal.clone())));
                }
                Waiter::Caller(reply) => drop(reply.send(Waited::Refused(refusal.clone()))),
                Waiter::Reader(reply) => drop(reply.send(None)),
            }
        }
    }

    pub(super) fn finish(&mut self, task: TaskId, record: &Arc<TaskRecord>) {
        for waiter in self.of(task) {
            match waiter {
                Waiter::Submitter(reply, until) => {
                    self.patience.end(until, task);
                    drop(reply.send(Waited::Finished(Arc::clone(record))));
                }
                Waiter::Caller(reply) => drop(reply.send(Waited::Finished(Arc::clone(record)))),
                Waiter::Reader(reply) => drop(reply.send(Some(Arc::clone(record)))),
            }
        }
    }

    /// Takes out all who wait for a task.
    fn of(&mut self, task: TaskId) -> impl Iterator<Item = Waiter> + use<> {
        self.waiters.remove(&task).into_iter().flatten()
    }

    /// Forgets those who have hung up while their task waits on; called now and then.
    pub(super) fn sweep(&mut self) {
        let patience = &mut self.patience;
        self.waiters.retain(|task, waiters| {
            waiters.retain(|waiter| {
                let waits = waiter.still_waits();
                if let Waiter::Submitter(_, until) = waiter
                    && !waits
                {
                    patience.end(*until, *task);
                }
                waits
            });
            !waiters.is_empty()
        });
        self.promoting.retain(|_, reply| !reply.is_closed());
        self.requests.retain(|_, reply| !reply.is_closed());
    }
}

/// What the submitter of a task hears that goes on without it; `None` for answers to other questions.
fn promoted(answer: Answer) -> Option<Waited> {
    match answer {
        Answer::Accepted(record) | Answer::Replayed(record) | Answer::Cancel(record) => {
            Some(if record.state.is_final() { Waited::Finished(record) } else { Waited::GoesOn(record) })
        }
        Answer::Refused(refusal) => Some(Waited::Refused(refusal)),
        Answer::Done | Answer::ReplayedFromArchive(_) => None,
    }
}
