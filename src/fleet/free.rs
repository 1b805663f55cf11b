//! The workers that are free for a demand, a bit for each: to put one in or to take one out costs the
//! same with ten workers and with ten thousand, and so, but for a look at one word in 64 workers, does
//! to draw one.

use super::slab::WorkerIx;

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// Workers, in the order of their places.
#[derive(Debug, Default)]
pub(super) struct FreeWorkers {
    words: Vec<u64>,
    count: usize,
}

impl FreeWorkers {
    /// Puts a worker in or takes it out.
    pub(super) fn set(&mut self, worker: WorkerIx, free: bool) {
        let (word, bit) = place(worker);
        if free && self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(word) = self.words.get_mut(word) else { return };
        match (*word & bit != 0, free) {
            (false, true) => {
                *word |= bit;
                self.count += 1;
            }
            (true, false) => {
                *word &= !bit;
                self.count -= 1;
            }
            (true, true) | (false, false) => {}
        }
    }

    pub(super) fn contains(&self, worker: WorkerIx) -> bool {
        let (word, bit) = place(worker);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The worker before which `before` others stand.
    pub(super) fn nth(&self, before: usize) -> Option<WorkerIx> {
        let mut left = before;
        for (at, word) in self.words.iter().enumerate() {
            let here = word.count_ones() as usize;
            if left < here {
                let rest = (0..left).fold(*word, |rest, _| rest & (rest - 1));
                return worker(at, rest);
            }
            left -= here;
        }
        None
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = WorkerIx> {
        let bits = |(at, word): (usize, &u64)| {
            let rests = std::iter::successors(Some(*word), |rest| Some(rest & rest.wrapping_sub(1)));
            rests.take_while(|rest| *rest != 0).filter_map(move |rest| worker(at, rest))
        };
        self.words.iter().enumerate().flat_map(bits)
    }
}

/// The word of a worker's bit, and the bit.
fn place(worker: WorkerIx) -> (usize, u64) {
    let at = worker.0 as usize;
    (at / BITS, 1 << (at % BITS))
}

/// The worker of a word's lowest bit.
fn worker(word: usize, bits: u64) -> Option<WorkerIx> {
    u32::try_from(word * BITS + bits.trailing_zeros() as usize).ok().map(WorkerIx)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn it_is_a_sorted_set() {
        let mut rng = StdRng::seed_from_u64(3);
        let (mut bits, mut set) = (FreeWorkers::default(), BTreeSet::new());
        for _ in 0..5_000 {
            let (worker, free) = (WorkerIx(rng.random_range(0..300)), rng.random_range(0..2) == 1);
            bits.set(worker, free);
            if free {
                set.insert(worker);
            } else {
                set.remove(&worker);
            }
            let asked = WorkerIx(rng.random_range(0..400));
            assert_eq!((bits.len(), bits.contains(asked)), (set.len(), set.contains(&asked)));
            let n = rng.random_range(0..300);
            assert_eq!(bits.nth(n), set.iter().nth(n).copied());
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), set.into_iter().collect::<Vec<_>>());
    }
}
