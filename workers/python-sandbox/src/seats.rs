//! Numbers for sandboxes that run at once. Each number is a uid of its own on the host, so that one
//! sandbox's processes are nobody to another's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The first number's uid.
const FIRST_UID: u32 = 61_001;

/// The most sandboxes at once, as many as a worker may have slots.
pub(crate) const MOST: u32 = 1024;

/// The numbers in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<BTreeSet<u32>>>);

/// A number in use; free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    number: u32,
    seats: Seats,
}

impl Seats {
    /// The lowest free number, if there is one.
    pub(crate) fn take(&self) -> Option<Seat> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (0..MOST).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(Seat { number, seats: self.clone() })
    }
}

impl Seat {
    /// The uid, and gid, on the host.
    pub(crate) fn uid(&self) -> u32 {
        FIRST_UID + self.number
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sandboxes_share_a_uid_and_a_freed_one_is_used_again() {
        let seats = Seats::default();
        let all: Vec<Seat> = std::iter::from_fn(|| seats.take()).collect();
        let uids: BTreeSet<u32> = all.iter().map(Seat::uid).collect();
        assert_eq!(uids.len(), MOST as usize);
        drop(all);
        assert_eq!(seats.take().expect("all are free").uid(), FIRST_UID);
    }
}
