//! Wrong tokens are counted by address: who guesses has to wait, longer each time. A token that was
//! right from there before passes nevertheless, for a whole site may share one address, and one
//! worker of it that is set up wrongly must not lock the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::trust::Digest;

/// Wrong tokens from one address within [`WINDOW`] before it has to wait.
const MOST: u32 = 10;
/// See [`MOST`].
const WINDOW: Duration = Duration::from_secs(60);
/// The first wait; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// Addresses that are told apart; beyond them all others count as one.
const MOST_ADDRESSES: usize = 4_096;
/// Right tokens that are remembered for one address.
const MOST_GOOD: usize = 16;

#[derive(Debug)]
struct Record {
    failures: u32,
    since: Instant,
    barred_until: Option<Instant>,
    waits: u32,
    good: Vec<Digest>,
}

impl Record {
    /// Whether it says nothing any more.
    fn is_over(&self, now: Instant) -> bool {
        let barred = self.barred_until.is_some_and(|until| now < until + LONGEST_WAIT);
        !barred && now.duration_since(self.since) > WINDOW
    }
}

/// What every address did lately.
#[derive(Debug, Default)]
pub(crate) struct Strikes(Mutex<HashMap<IpAddr, Record>>);

impl Strikes {
    /// How long somebody with this token has to wait, if at all.
    pub(crate) fn wait(&self, from: IpAddr, shown: Option<&Digest>, now: Instant) -> Option<Duration> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.get(&bucket(from))?;
        if shown.is_some_and(|shown| record.good.contains(shown)) {
            return None;
        }
        record.barred_until?.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// A right token came from there.
    pub(crate) fn right(&self, from: IpAddr, shown: Digest, now: Instant) {
        self.with(from, now, |record| {
            if !record.good.contains(&shown) {
                if record.good.len() == MOST_GOOD {
                    record.good.remove(0);
                }
                record.good.push(shown);
            }
        });
    }

    /// A wrong one, or none, came from there.
    pub(crate) fn wrong(&self, from: IpAddr, now: Instant) {
        self.with(from, now, |record| {
            if now.duration_since(record.since) > WINDOW {
                (record.failures, record.since) = (0, now);
            }
            record.failures += 1;
            if record.failures >= MOST {
                let wait = FIRST_WAIT.saturating_mul(2u32.saturating_pow(record.waits)).min(LONGEST_WAIT);
                (record.failures, record.since) = (0, now);
                record.waits = record.waits.saturating_add(1);
                record.barred_until = Some(now + wait);
            }
        });
    }

    fn with(&self, from: IpAddr, now: Instant, change: impl FnOnce(&mut Record)) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = bucket(from);
        if records.len() >= MOST_ADDRESSES && !records.contains_key(&key) {
            records.retain(|_, record| !record.is_over(now));
            if records.len() >= MOST_ADDRESSES {
                key = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            }
        }
        let fresh = Record { failures: 0, since: now, barred_until: None, waits: 0, good: Vec::new() };
        change(records.entry(key).or_insert(fresh));
    }
}

/// A customer of a network gets 64 bits of IPv6 addresses to choose from.
fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn who_guesses_waits_longer_each_time_and_nobody_else_does() {
        let (strikes, mut now) = (Strikes::default(), Instant::now());
        for minutes in [1, 2, 4, 8, 15, 15] {
            for _ in 0..MOST {
                assert_eq!(strikes.wait(HERE, None, now), None);
                strikes.wrong(HERE, now);
            }
            let wait = Duration::from_secs(60 * minutes);
            assert_eq!(strikes.wait(HERE, None, now), Some(wait));
            assert_eq!(strikes.wait(THERE, None, now), None);
            now += wait;
        }
    }

    #[test]
    fn a_token_that_was_right_before_passes_while_others_wait() {
        let (strikes, now) = (Strikes::default(), Instant::now());
        let (good, guess) = (Digest::of(b"good"), Digest::of(b"guess"));
        strikes.right(HERE, good, now);
        (0..MOST).for_each(|_| strikes.wrong(HERE, now));
        assert_eq!(strikes.wait(HERE, Some(&good), now), None);
        assert!(strikes.wait(HERE, Some(&guess), now).is_some());
    }

    #[test]
    fn slips_now_and_then_are_forgotten() {
        let (strikes, mut now) = (Strikes::default(), Instant::now());
        for _ in 0..100 {
            strikes.wrong(HERE, now);
            now += WINDOW / 5;
        }
        assert_eq!(strikes.wait(HERE, None, now), None);
    }

    #[test]
    fn one_who_has_many_addresses_fills_no_memory() {
        let (strikes, now) = (Strikes::default(), Instant::now());
        for n in 0..10_000 {
            strikes.wrong(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), now);
        }
        assert!(strikes.0.lock().expect("nobody panics").len() <= MOST_ADDRESSES + 1);
        let of = |n: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n));
        assert_eq!(bucket(of(1)), bucket(of(0xffff)));
    }
}
