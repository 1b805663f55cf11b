//! The one source of chance in a simulated run: a generator whose stream is fixed by name, so that
//! a seed means the same run on every machine.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Dice that fall alike for the same seed.
pub(crate) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// Dice for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// True so many times of a thousand.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        self.0.random_range(0..1000) < per_mille
    }

    /// A number below `end`, which must not be zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// Any number.
    pub(crate) fn word(&mut self) -> u64 {
        self.0.random()
    }

    /// One of the items; there must be one.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A span between two, each magnitude as likely as any other: most are short, some are long.
    /// Whole numbers only: floating point powers differ between machines.
    pub(crate) fn span(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        let (low, high) = (nanos(low), nanos(high).max(nanos(low)));
        let top = low << self.0.random_range(0..=(high / low).ilog2());
        Duration::from_nanos(self.0.random_range(low..=top.saturating_mul(2).min(high)))
    }
}
