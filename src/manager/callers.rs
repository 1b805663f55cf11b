//! Who waits for what: callers by request, and by task. The core knows neither.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::handle::Waited;
use crate::fleet::{Answer, Refusal, RequestId, TaskId, TaskRecord};

/// Somebody who wants to hear of a task's end.
pub(super) enum Waiter {
    /// A caller who waits for it.
    Caller(oneshot::Sender<Waited>),
    /// A reader who came between the end and its being durable.
    Reader(oneshot::Sender<Option<Arc<TaskRecord>>>),
}

impl Waiter {
    fn still_waits(&self) -> bool {
        match self {
            Self::Caller(reply) => !reply.is_closed(),
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
}

impl Callers {
    pub(super) fn asks(&mut self, request: RequestId, reply: oneshot::Sender<Answer>) {
        self.requests.insert(request, reply);
    }

    pub(super) fn waits(&mut self, task: TaskId, waiter: Waiter) {
        self.waiters.entry(task).or_default().push(waiter);
    }

    pub(super) fn submits(&mut self, request: RequestId, task: TaskId, reply: oneshot::Sender<Waited>) {
        self.waits(task, Waiter::Caller(reply));
        self.submitting = Some((request, task));
    }

    pub(super) fn submitted(&mut self) {
        self.submitting = None;
    }

    /// Passes an answer on. A caller who hung up is nobody's loss.
    pub(super) fn answer(&mut self, request: RequestId, answer: Answer) {
        if let Some(reply) = self.requests.remove(&request) {
            drop(reply.send(answer));
        } else if let (Some((submitted, task)), Answer::Refused(refusal)) = (self.submitting, answer)
            && submitted == request
        {
            self.refuse(task, &refusal);
        }
    }

    pub(super) fn refuse(&mut self, task: TaskId, refusal: &Refusal) {
        for waiter in self.of(task) {
            match waiter {
                Waiter::Caller(reply) => drop(reply.send(Waited::Refused(refusal.clone()))),
                Waiter::Reader(reply) => drop(reply.send(None)),
            }
        }
    }

    pub(super) fn finish(&mut self, task: TaskId, record: &Arc<TaskRecord>) {
        for waiter in self.of(task) {
            match waiter {
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
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| waiter.still_waits());
            !waiters.is_empty()
        });
        self.requests.retain(|_, reply| !reply.is_closed());
    }
}
