//! The core's one heap of deadlines. A timer is removed when its reason goes away, so nothing stale
//! ever fires and the heap is never longer than what there is to wait for.

use std::collections::BTreeMap;

use super::slab::{SessionIx, TaskIx, WorkerIx};
use super::time::Mono;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A queued task has waited for as long as it was willing to.
    QueueTimeout(TaskIx),
    /// A delayed task may start.
    NotBefore(TaskIx),
    /// A queued task has waited for the workers that it prefers.
    Fallback(TaskIx),
    /// A task's deadline.
    Deadline(TaskIx),
    /// An attempt has used up its time, or its grace after that.
    Limit(TaskIx),
    /// A recovered task has waited for its worker for long enough.
    Recovery(TaskIx),
    /// A retry budget has something to give again.
    RetryBudget,
    /// The pools are to be looked at.
    Pools,
    /// A session has been idle for long enough.
    Session(SessionIx),
    /// Something about a worker.
    Worker(WorkerIx, WorkerTimer),
}

/// What is due about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WorkerTimer {
    /// Dial it.
    Dial,
    /// Look how long it has been silent.
    Liveness,
    /// Its attempts are its own no longer.
    Lease,
    /// It has been connected for an interval: backoff starts afresh.
    Settled,
    /// Its ejection is over, or the slow start after one.
    Ejected,
    /// A canary has used up its time, or is due.
    Canary,
    /// It has had its time to finish what it ran.
    Grace,
}

/// A timer's handle.
pub(super) type TimerKey = (Mono, u64);

#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<TimerKey, Timer>,
    next: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Mono, timer: Timer) -> TimerKey {
        let key = (at, self.next);
        self.next += 1;
        self.due.insert(key, timer);
        key
    }

    pub(super) fn clear(&mut self, key: &mut Option<TimerKey>) {
        if let Some(key) = key.take() {
            self.due.remove(&key);
        }
    }

    pub(super) fn first(&self) -> Option<Mono> {
        self.due.first_key_value().map(|(key, _)| key.0)
    }

    /// The first timer that is due at `now`, taken out.
    pub(super) fn pop(&mut self, now: Mono) -> Option<(TimerKey, Timer)> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove_entry())
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}
