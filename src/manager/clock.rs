//! The shell's clocks: the one place where the server asks what time it is and makes task ids.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fleet::{Mono, Now, TaskId, Wall};

/// Both clocks, from the process's beginning.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    ids: Mutex<uuid::timestamp::context::ContextV7>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now(), ids: Mutex::new(uuid::timestamp::context::ContextV7::new()) }
    }
}

impl Clock {
    /// The time.
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), wall: wall_of(SystemTime::now()) }
    }

    /// When a time of the core will be, for a timer.
    pub fn instant(&self, at: Mono) -> Instant {
        self.origin + Duration::from_nanos(at.0)
    }

    /// A new task id: a UUIDv7 that rises within this process.
    pub fn task_id(&self) -> TaskId {
        let context = self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        TaskId(uuid::Uuid::new_v7(uuid::Timestamp::now(&*context)).as_u128())
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
    }
}
