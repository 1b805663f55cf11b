//! `GET /v1/events`: what happens in the fleet, as server-sent events. It begins with what is kept of
//! the past, or right after the event that the client has seen.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use hyper::Request;
use hyper::body::Incoming;

use super::event_form;
use crate::api::AppState;
use crate::api::http::body::Reply;
use crate::api::http::problem::{self, Refused};
use crate::api::http::pulse::Pulse;
use crate::api::http::sse::{Event, Guards, stream as sse};
use crate::manager::{Manager, RingEvent, RingRead};
use crate::telemetry::Eviction;

/// Events taken from the ring at once.
const BATCH: usize = 64;

/// Follows the fleet.
pub(crate) fn follow(state: &AppState, pulse: &Arc<Pulse>, request: &Request<Incoming>) -> Reply {
    let guards = open(state, pulse)?;
    let ring = state.manager().ring();
    let boot = state.0.boot;
    let last = last_event_id(request);
    let seen = last.and_then(|id| number_of(id, boot)).filter(|seen| *seen < ring.next());
    let (next, reset) = match (last, seen) {
        (_, Some(seen)) => (seen + 1, false),
        (Some(_), None) => (ring.first(), true),
        (None, None) => (ring.first(), false),
    };
    let watch = Watch { manager: state.manager().clone(), boot, next, reset, ready: VecDeque::new() };
    Ok(sse(stream::unfold(watch, Watch::next), guards))
}

/// The event that the client has seen last, by its own account.
pub(crate) fn last_event_id(request: &Request<Incoming>) -> Option<&str> {
    // An id that is no text is one that we never gave.
    request.headers().get("last-event-id").map(|id| id.to_str().unwrap_or_default())
}

/// Takes a place among the streams that may be open.
///
/// # Errors
/// 503 when there is none.
pub(crate) fn open(state: &AppState, pulse: &Arc<Pulse>) -> Result<Guards, Refused> {
    let Ok(place) = Arc::clone(&state.0.streams).try_acquire_owned() else {
        state.metrics().sse_evicted(Eviction::Limit);
        let full = problem::TOO_MANY_STREAMS.with("close some, or poll instead");
        return Err(full.retry_after(10).into());
    };
    Ok(Guards {
        closing: state.closing().clone(),
        meter: state.metrics().sse_stream(),
        streaming: pulse.streaming(),
        place,
    })
}

struct Watch {
    manager: Manager,
    boot: u32,
    /// The number of the next event to read.
    next: u64,
    /// Whether the client must be told first that something is missing.
    reset: bool,
    ready: VecDeque<RingEvent>,
}

impl Watch {
    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if std::mem::take(&mut self.reset) {
                let event = self.event(self.next.wrapping_sub(1), "reset", b"{}".to_vec());
                return Some((event, self));
            }
            if let Some(event) = self.ready.pop_front() {
                let (name, data) = event_form::form(&event);
                return Some((self.event(event.number, name, data), self));
            }
            let more = self.manager.ring().more();
            let mut more = std::pin::pin!(more.notified());
            // Registered before the look, so that no event in between is slept through.
            more.as_mut().enable();
            match self.manager.ring().read(self.next, BATCH) {
                RingRead::Reset(_) => {
                    self.next = self.manager.ring().first();
                    self.reset = true;
                }
                RingRead::Events(events) => match events.last() {
                    Some(last) => {
                        self.next = last.number + 1;
                        self.ready.extend(events);
                    }
                    None => more.await,
                },
            }
        }
    }

    fn event(&self, number: u64, event: &'static str, data: Vec<u8>) -> Event {
        Event { id: id_of(self.boot, number), event, data }
    }
}

fn id_of(boot: u32, number: u64) -> String {
    format!("{boot:x}-{number}")
}

fn number_of(id: &str, boot: u32) -> Option<u64> {
    let (of, number) = id.split_once('-')?;
    (u32::from_str_radix(of, 16) == Ok(boot)).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_this_process_are_continued() {
        assert_eq!(number_of(&id_of(0xabc, 7), 0xabc), Some(7));
        assert_eq!(number_of(&id_of(0xabd, 7), 0xabc), None);
        assert_eq!(number_of(&id_of(0xabc, u64::MAX), 0xabc), Some(u64::MAX), "of a reset before the first");
        for odd in ["", "abc", "abc-", "-7", "abc-x", "abc--1"] {
            assert_eq!(number_of(odd, 0xabc), None, "{odd}");
        }
    }
}
