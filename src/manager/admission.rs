//! Back-pressure before the core: how many tasks, and bytes of their inputs, are not final yet.
//! Beyond the limits a submission is refused at once, without a message to the loop.

use std::sync::atomic::{AtomicU64, Ordering};

/// The gauge. A task enters before it is sent to the core and leaves when it is final or refused.
#[derive(Debug)]
pub(crate) struct Admission {
    tasks: AtomicU64,
    bytes: AtomicU64,
    max_tasks: AtomicU64,
    max_bytes: AtomicU64,
}

impl Admission {
    /// An empty gauge.
    pub(crate) fn new(max_tasks: u64, max_bytes: u64) -> Self {
        Self {
            tasks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max_tasks: AtomicU64::new(max_tasks),
            max_bytes: AtomicU64::new(max_bytes),
        }
    }

    /// Takes up new limits; what has entered stays.
    pub(crate) fn limit(&self, max_tasks: u64, max_bytes: u64) {
        self.max_tasks.store(max_tasks, Ordering::Relaxed);
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Lets a task in.
    ///
    /// # Errors
    /// The number of tasks inside, when one more task, or its bytes, would pass a limit.
    pub(crate) fn enter(&self, bytes: u64) -> Result<(), u64> {
        let depth = self.tasks.fetch_add(1, Ordering::Relaxed);
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if depth >= self.max_tasks.load(Ordering::Relaxed)
            || held.saturating_add(bytes) > self.max_bytes.load(Ordering::Relaxed)
        {
            self.leave(bytes);
            return Err(depth);
        }
        Ok(())
    }

    /// Lets a task in that was accepted before, whatever the limits.
    pub(crate) fn admit(&self, bytes: u64) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Lets a task out.
    pub(crate) fn leave(&self, bytes: u64) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gauge_refuses_and_forgets_the_refused() {
        let gauge = Admission::new(2, 100);
        assert_eq!(gauge.enter(10), Ok(()));
        assert_eq!(gauge.enter(91), Err(1));
        assert_eq!(gauge.enter(90), Ok(()));
        assert_eq!(gauge.enter(0), Err(2));
        gauge.leave(90);
        assert_eq!(gauge.enter(90), Ok(()));
    }
}
