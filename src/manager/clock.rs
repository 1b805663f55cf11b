//! The shell's clocks: the one place where the server asks what time it is and makes task ids.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fleet::{Mono, Now, TaskId, Wall};

/// Both clocks, from the process's beginning.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    last_id: Mutex<u128>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now(), last_id: Mutex::new(0) }
    }
}

impl Clock {
    /// The time.
    pub fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// The time at this moment, which is now.
    pub(super) fn at(&self, moment: Instant) -> Now {
        let since = moment.saturating_duration_since(self.origin);
        let mono = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), wall: wall_of(SystemTime::now()) }
    }

    /// When a time of the core will be, for a timer.
    pub fn instant(&self, at: Mono) -> Instant {
        self.origin + Duration::from_nanos(at.0)
    }

    /// A new task id: a UUIDv7 that rises within this process. Two of one millisecond, or after the
    /// clock went back, differ by a random step (RFC 9562, section 6.2, method 2). The crate's own
    /// maker asks the kernel for randomness each time, which costs as much as the core's decision.
    pub fn task_id(&self) -> TaskId {
        let millis = u64::try_from(wall_of(SystemTime::now()).0).unwrap_or(0);
        let drawn: [u8; 10] = rand::random();
        let fresh = uuid::Builder::from_unix_timestamp_millis(millis, &drawn).into_uuid().as_u128();
        // Room for the steps of this millisecond: they must not carry into the variant's bits.
        let fresh = fresh & !(1 << 61);
        let mut last = self.last_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let id =
            if fresh >> 80 > *last >> 80 { fresh } else { *last + 1 + u128::from(rand::random::<u32>()) };
        *last = id;
        TaskId(id)
    }
}

/// A system time in the core's form.
pub fn wall_of(time: SystemTime) -> Wall {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Wall(i64::try_from(millis).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_rise() {
        let clock = Clock::default();
        let ids: Vec<_> = (0..1_000).map(|_| clock.task_id()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        for id in ids {
            let uuid = uuid::Uuid::from_u128(id.0);
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        }
    }
}
