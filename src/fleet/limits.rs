//! Which limit ended a task, and its value: each is named when it fires, so that nobody has to guess
//! which one to raise.

use std::time::Duration;

use super::Fleet;
use super::slab::{TaskIx, WorkerIx};
use super::task::{Deadline, Keep};

/// How long an attempt may run, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) span: Duration,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The task's `execution_timeout`.
    Execution,
    /// The worker's `timeout`.
    Worker,
    /// What was left until the task's deadline.
    Deadline,
}

impl Limit {
    /// The code of an attempt that it ended. A worker's own word for it is `timeout`, too.
    pub(super) fn code(self) -> &'static str {
        match self.kind {
            Kind::Execution | Kind::Worker => "timeout",
            Kind::Deadline => "deadline",
        }
    }
}

impl Fleet {
    /// The tightest limit of an attempt that begins now.
    pub(super) fn limit_of(&self, ix: TaskIx, worker: WorkerIx) -> Limit {
        let mut limit = Limit { span: self.registry.workers[worker].spec.timeout, kind: Kind::Worker };
        if let Some(span) = self.tasks[ix].spec.execution_timeout.filter(|span| *span <= limit.span) {
            limit = Limit { span, kind: Kind::Execution };
        }
        if let Some(left) = self.until_deadline(ix).filter(|left| *left < limit.span) {
            limit = Limit { span: left.max(Duration::from_millis(1)), kind: Kind::Deadline };
        }
        limit
    }

    /// What is said of an attempt that ran into its limit.
    pub(super) fn overran(&self, ix: TaskIx, limit: Limit) -> String {
        match limit.kind {
            Kind::Execution => format!("it ran longer than its execution_timeout of {:?}", limit.span),
            Kind::Worker => format!("it ran longer than the timeout of its worker, {:?}", limit.span),
            Kind::Deadline => format!("{} passed while it ran", self.deadline_text(ix)),
        }
    }

    /// A task's deadline, as a phrase.
    pub(super) fn deadline_text(&self, ix: TaskIx) -> String {
        let task = &self.tasks[ix];
        let span = match task.spec.deadline {
            Some(Deadline::After(span)) => span,
            Some(Deadline::At(at)) => at.since(task.submitted_at),
            None => Duration::ZERO,
        };
        format!("its deadline, {span:?} after it was accepted,")
    }

    /// Why a task's wait was in vain, in few steps: many may end at once.
    pub(super) fn nobody_took(&self, ix: TaskIx) -> String {
        let demand = &self.balancer.demands[self.tasks[ix].demand];
        match demand.eligible.len() {
            0 => format!("no worker offers {}", demand.capability),
            1 => "the one worker that offers it had no free slot, or was away".to_owned(),
            many => format!("none of the {many} workers that offer it had a free slot"),
        }
    }

    /// How long a task is willing to wait for a worker.
    pub(super) fn queue_timeout_of(&self, ix: TaskIx) -> Option<Duration> {
        match (self.tasks[ix].spec.queue_timeout, self.tasks[ix].keep) {
            (Some(timeout), _) => Some(timeout),
            (None, Keep::Passing) => Some(self.settings.queue_timeout),
            (None, Keep::Kept | Keep::ByKey(_)) => None,
        }
    }
}
