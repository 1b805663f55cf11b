//! How fast workers are beside each other: how long a kind of task usually takes, and how a worker
//! compares with that. Whole numbers only, so that a replay comes to the same ones.

use std::time::Duration;

use super::time::Mono;

/// A factor of one, in the unit of factors.
pub(super) const ONE: u32 = 1_024;

/// What takes less than this is taken for this long: below it the machine's own noise decides.
const LEAST: Duration = Duration::from_millis(1);

/// One task counts as so many times the usual at most, and as that part of it at least.
const MOST: u32 = 16;

/// Up to this a worker counts as fast as the others: tasks of one kind differ among themselves.
const NOTICED: u32 = ONE + ONE / 2;

/// A pace that is told nothing new halves its distance from the others' in this time: a worker that
/// was slow is tried again.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// How long tasks of one demand usually take, hand-over to result: a moving average (EWMA, 1/16) in
/// microseconds; 0 before the first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usual(u64);

impl Usual {
    /// Takes up how long a task took, and returns how that compares with the usual, as a factor.
    pub(super) fn compare(&mut self, took: Duration) -> u32 {
        let took = u64::try_from(took.max(LEAST).as_micros()).unwrap_or(u64::MAX);
        let usual = if self.0 == 0 { took } else { self.0 };
        // A single task far off must not make all others look fast.
        let counted = took.min(usual.saturating_mul(u64::from(MOST)));
        self.0 = usual.saturating_mul(15).saturating_add(counted) / 16;
        let factor = took.saturating_mul(u64::from(ONE)) / usual;
        u32::try_from(factor).unwrap_or(u32::MAX).clamp(ONE / MOST, ONE * MOST)
    }
}

/// A worker's pace beside the others': a moving average of factors (EWMA, 1/16) that fades.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    factor: u32,
    at: Mono,
}

impl Default for Pace {
    fn default() -> Self {
        Self { factor: ONE, at: Mono(0) }
    }
}

impl Pace {
    /// One of its tasks took this factor of the usual time.
    pub(super) fn took(&mut self, factor: u32, now: Mono) {
        let average = (u64::from(self.faded(now)) * 15 + u64::from(factor)) / 16;
        *self = Self { factor: u32::try_from(average).unwrap_or(u32::MAX), at: now };
    }

    /// By how much its load counts as heavier: `ONE` unless it is clearly slower than the others. A fast
    /// one counts as no lighter, or one that fails fast would draw all tasks.
    pub(super) fn weight(&self, now: Mono) -> u32 {
        let factor = self.faded(now);
        if factor < NOTICED { ONE } else { factor }
    }

    fn faded(&self, now: Mono) -> u32 {
        if self.factor <= NOTICED {
            return self.factor;
        }
        let halvings = now.since(self.at).as_secs() / HALF_LIFE.as_secs();
        let away = (self.factor - ONE) >> u32::try_from(halvings).unwrap_or(u32::MAX).min(31);
        ONE + away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_takes_longer_weighs_more_until_that_is_forgotten() {
        let (mut usual, mut fast, mut slow) = (Usual::default(), Pace::default(), Pace::default());
        let now = Mono(0) + Duration::from_secs(1);
        for _ in 0..40 {
            for _ in 0..9 {
                fast.took(usual.compare(Duration::from_millis(10)), now);
            }
            slow.took(usual.compare(Duration::from_millis(50)), now);
        }
        assert_eq!(fast.weight(now), ONE);
        assert!(slow.weight(now) > 3 * ONE, "{slow:?}");
        assert!(slow.weight(now + HALF_LIFE) < slow.weight(now));
        assert_eq!(slow.weight(now + HALF_LIFE * 10), ONE);
    }

    #[test]
    fn one_long_task_is_not_yet_a_slow_worker_and_noise_is_none() {
        let (mut usual, mut pace) = (Usual::default(), Pace::default());
        for micros in [3, 40, 900, 12] {
            pace.took(usual.compare(Duration::from_micros(micros)), Mono(0));
        }
        assert_eq!(pace.weight(Mono(0)), ONE);
        let factor = usual.compare(Duration::from_secs(3_600));
        assert_eq!(factor, ONE * MOST);
        pace.took(factor, Mono(0));
        assert!(pace.weight(Mono(0)) < 2 * ONE);
    }

    #[test]
    fn fast_failures_draw_no_tasks() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.took(ONE / MOST, Mono(0));
        }
        assert_eq!(pace.weight(Mono(0)), ONE);
    }
}
