//! The fleet's recent events, kept in memory for `/v1/events`: bounded, numbered without gaps, and
//! a reader who has fallen too far behind is told so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::fleet::{Note, Wall};

/// Events kept.
const CAPACITY: usize = 4_096;

/// One event.
#[derive(Debug, Clone)]
pub struct RingEvent {
    /// Rises by one.
    pub number: u64,
    /// When.
    pub at: Wall,
    /// What.
    pub note: Note,
}

/// The ring.
#[derive(Debug, Default)]
pub struct EventRing {
    inner: Mutex<Inner>,
    more: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<RingEvent>,
    next: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub enum RingRead {
    /// The events from the asked number on; may be none.
    Events(Vec<RingEvent>),
    /// Some of them are gone; reading goes on from this number.
    Reset(u64),
}

impl EventRing {
    /// Appends an event and wakes the readers.
    pub fn push(&self, at: Wall, note: Note) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let number = inner.next;
        inner.next += 1;
        if inner.events.len() == CAPACITY {
            inner.events.pop_front();
        }
        inner.events.push_back(RingEvent { number, at, note });
        drop(inner);
        self.more.notify_waiters();
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    /// The number of the oldest event that is kept; [`EventRing::next`] when there is none.
    pub fn first(&self) -> u64 {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.next - inner.events.len() as u64
    }

    /// Up to `limit` events from `number` on.
    pub fn read(&self, number: u64, limit: usize) -> RingRead {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = inner.next - inner.events.len() as u64;
        if number < first || number > inner.next {
            return RingRead::Reset(inner.next);
        }
        let skip = usize::try_from(number - first).unwrap_or(usize::MAX);
        RingRead::Events(inner.events.iter().skip(skip).take(limit).cloned().collect())
    }

    /// A signal that there is more; take it before [`EventRing::read`] and wait on it after.
    pub fn more(&self) -> Arc<Notify> {
        Arc::clone(&self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_fell_behind_is_told_to_start_anew() {
        let ring = EventRing::default();
        for _ in 0..CAPACITY + 10 {
            ring.push(Wall(0), Note::Blocked("no_slot"));
        }
        assert!(matches!(ring.read(3, 10), RingRead::Reset(next) if next == CAPACITY as u64 + 10));
        let RingRead::Events(events) = ring.read(12, 5) else { panic!("those are kept") };
        assert_eq!(events.iter().map(|e| e.number).collect::<Vec<_>>(), [12, 13, 14, 15, 16]);
    }
}
