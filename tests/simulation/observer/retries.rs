//! The checker's view of the retry budget: it counts what it saw in a window that slides, where the
//! core counts by seconds, so that the two do not share their arithmetic.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rollcall::fleet::*;

use super::Verdict;

/// First attempts and retries of each capability, in the order of time.
#[derive(Default)]
pub(super) struct Retries(BTreeMap<Capability, (VecDeque<Mono>, VecDeque<Mono>)>);

impl Retries {
    /// A core begins: it knows nothing of what was.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    pub(super) fn first_attempt(&mut self, now: Mono, capability: &Capability) {
        self.0.entry(capability.clone()).or_default().0.push_back(now);
    }

    /// G10: a fifth of the first attempts and ten a second, in ten seconds.
    pub(super) fn retried(&mut self, now: Mono, capability: &Capability) -> Verdict {
        let (firsts, retries) = self.0.entry(capability.clone()).or_default();
        retries.push_back(now);
        // The core's window is from nine to ten seconds long, as it counts whole ones.
        drop_before(retries, now - Duration::from_secs(9));
        drop_before(firsts, now - Duration::from_secs(10));
        if retries.len() * 5 > 100 * 5 + firsts.len() {
            return Err(format!(
                "G10: {} retries of {capability} in nine seconds, with {} first attempts in ten",
                retries.len(),
                firsts.len()
            ));
        }
        Ok(())
    }
}

fn drop_before(times: &mut VecDeque<Mono>, begin: Mono) {
    while times.front().is_some_and(|at| *at < begin) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_retries_is_noticed() {
        let mut retries = Retries::default();
        let at = |millis: u64| Mono(millis * 1_000_000);
        for _ in 0..5 {
            retries.first_attempt(at(0), &"a".into());
        }
        for number in 0..101 {
            assert_eq!(retries.retried(at(number), &"a".into()), Ok(()));
        }
        assert!(retries.retried(at(8_000), &"a".into()).is_err());
        assert_eq!(retries.retried(at(8_000), &"b".into()), Ok(()));
        retries.forget();
        assert_eq!(retries.retried(at(8_001), &"a".into()), Ok(()));
    }
}
