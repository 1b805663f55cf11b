//! How long callers are willing to wait, all in one list with one time to wake: a timer for each
//! would cost more than the rest of a short task's way through the loop.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::fleet::TaskId;

/// Who waits for which task, and until when.
#[derive(Debug, Default)]
pub(super) struct Patience {
    ends: BTreeSet<(Instant, TaskId)>,
    /// Nobody's patience ends before. It is not moved on when the first in the list is answered,
    /// which is nearly always: to be woken once in vain costs less than to set a timer each time.
    wake: Option<Instant>,
}

impl Patience {
    /// A caller waits for a task until then.
    pub(super) fn begin(&mut self, until: Instant, task: TaskId) {
        self.ends.insert((until, task));
        self.wake = Some(self.wake.map_or(until, |wake| wake.min(until)));
    }

    /// It was answered, or has hung up.
    pub(super) fn end(&mut self, until: Instant, task: TaskId) {
        self.ends.remove(&(until, task));
    }

    /// When to look next.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// The tasks whose callers wait no longer; they are forgotten here.
    pub(super) fn over(&mut self, now: Instant) -> Vec<TaskId> {
        let mut over = Vec::new();
        while let Some((until, task)) = self.ends.first().copied()
            && until <= now
        {
            self.ends.pop_first();
            over.push(task);
        }
        self.wake = self.ends.first().map(|(until, _)| *until);
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn patience_ends_in_order_and_not_for_those_who_were_answered() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        for (seconds, task) in [(3, 1), (1, 2), (2, 3), (9, 4)] {
            patience.begin(at(seconds), TaskId(task));
        }
        patience.end(at(1), TaskId(2));
        assert_eq!(patience.wake(), Some(at(1)), "woken once in vain");
        assert_eq!(patience.over(at(1)), []);
        assert_eq!(patience.wake(), Some(at(2)));
        assert_eq!(patience.over(at(5)), [TaskId(3), TaskId(1)]);
        patience.end(at(9), TaskId(4));
        assert_eq!(patience.over(at(9)), []);
        assert_eq!(patience.wake(), None);
    }
}
