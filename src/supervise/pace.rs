//! When a program that ended is started again, and when it is not: a plain rule over times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The numbers of the rule.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The first wait before a restart.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// A run that lasted so long was no quick failure: the waits begin anew after it.
    pub steady: Duration,
    /// So many quick failures...
    pub failures: usize,
    /// ...within so long, and the program is given up.
    pub within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            steady: Duration::from_secs(60),
            failures: 10,
            within: Duration::from_secs(600),
        }
    }
}

/// What to do after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start it again after this wait.
    Again(Duration),
    /// Leave it.
    GiveUp,
}

/// The rule's memory: the quick failures of one program.
#[derive(Debug)]
pub(super) struct Failures {
    pace: Pace,
    in_a_row: u32,
    quick: VecDeque<Instant>,
}

impl Failures {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, in_a_row: 0, quick: VecDeque::new() }
    }

    /// Judges a run that lasted `ran` and ended at `now`. `draw`, from 0 to 1, spreads the wait
    /// over its upper half, so that programs that fell together do not rise together.
    pub(super) fn after(&mut self, now: Instant, ran: Duration, draw: f64) -> Verdict {
        if ran >= self.pace.steady {
            self.in_a_row = 0;
            self.quick.clear();
        } else {
            self.quick.push_back(now);
        }
        while self.quick.front().is_some_and(|at| now.duration_since(*at) > self.pace.within) {
            self.quick.pop_front();
        }
        if self.quick.len() >= self.pace.failures {
            return Verdict::GiveUp;
        }
        let wait = self.pace.first.saturating_mul(1 << self.in_a_row.min(20)).min(self.pace.longest);
        self.in_a_row += 1;
        Verdict::Again(wait.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(failures: &mut Failures, count: usize) -> Vec<Verdict> {
        let now = Instant::now();
        (0..count).map(|_| failures.after(now, Duration::ZERO, 1.0)).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let pace = Pace { longest: Duration::from_millis(350), ..Pace::default() };
        let millis = [100, 200, 350, 350].map(|ms| Verdict::Again(Duration::from_millis(ms)));
        assert_eq!(waits(&mut Failures::new(pace), 4), millis);
    }

    #[test]
    fn the_tenth_quick_failure_is_the_last() {
        let verdicts = waits(&mut Failures::new(Pace::default()), 10);
        assert!(verdicts[..9].iter().all(|verdict| matches!(verdict, Verdict::Again(_))));
        assert_eq!(verdicts[9], Verdict::GiveUp);
    }

    #[test]
    fn a_steady_run_is_forgiven() {
        let mut failures = Failures::new(Pace::default());
        waits(&mut failures, 9);
        let after = failures.after(Instant::now(), Duration::from_secs(60), 0.0);
        assert_eq!(after, Verdict::Again(Duration::from_millis(50)));
    }

    #[test]
    fn failures_far_apart_are_not_counted_together() {
        let mut failures = Failures::new(Pace::default());
        let start = Instant::now();
        for n in 0..100 {
            let now = start + Duration::from_secs(120) * n;
            assert_ne!(failures.after(now, Duration::ZERO, 0.5), Verdict::GiveUp);
        }
    }
}
