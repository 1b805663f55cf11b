//! Server-sent events (WHATWG HTML, section 9.2): a source of events as the body of an answer. The
//! source is asked only when the client has room, comments keep quiet streams alive, and the stream
//! ends when the server closes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body as HttpBody, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::body::{Answer, Body};
use super::pulse::Streaming;
use crate::telemetry::SseStream;

/// After so long a silence a comment is sent, so that nobody on the way takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that are ready go out together, up to about so many bytes.
const MAX_BATCH: usize = 32 << 10;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where to go on from; opaque.
    pub(crate) id: String,
    /// Its kind.
    pub(crate) event: &'static str,
    /// JSON.
    pub(crate) data: Vec<u8>,
}

impl Event {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(b"\nevent: ");
        out.extend_from_slice(self.event.as_bytes());
        // What a worker returned may have line ends between its JSON tokens.
        let mut rest = self.data.as_slice();
        loop {
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
            out.extend_from_slice(b"\ndata: ");
            out.extend_from_slice(&rest[..end]);
            let Some(next) = rest.get(end + 1..) else { break };
            rest = next;
        }
        out.extend_from_slice(b"\n\n");
    }
}

/// What a stream holds while it is open.
pub(crate) struct Guards {
    /// Ends the stream.
    pub(crate) closing: CancellationToken,
    /// Counts it and its events.
    pub(crate) meter: SseStream,
    /// Keeps its connection from being taken for idle.
    pub(crate) streaming: Streaming,
    /// Frees its place among the streams that may be open.
    pub(crate) place: tokio::sync::OwnedSemaphorePermit,
}

/// Answers with the events of `source`, until it ends.
pub(crate) fn stream(source: impl Stream<Item = Event> + Send + 'static, guards: Guards) -> Answer {
    let Guards { closing, meter, streaming, place } = guards;
    let body = Events {
        source: Box::pin(source),
        silence: Box::pin(sleep(KEEP_ALIVE)),
        closing: Box::pin(closing.cancelled_owned()),
        meter,
        ended: false,
        _held: (streaming, place),
    };
    let mut answer = Response::new(Body::Stream(Box::pin(body)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The answer that tells a client not to come back: there is nothing more to tell.
pub(crate) fn nothing_more() -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

struct Events<S> {
    source: Pin<Box<S>>,
    silence: Pin<Box<Sleep>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    meter: SseStream,
    ended: bool,
    _held: (Streaming, tokio::sync::OwnedSemaphorePermit),
}

impl<S: Stream<Item = Event>> HttpBody for Events<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let mut out = Vec::new();
        while !this.ended && out.len() < MAX_BATCH {
            match this.source.as_mut().poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    event.write(&mut out);
                    this.meter.sent();
                }
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => break,
            }
        }
        if out.is_empty() {
            if this.ended || this.closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if this.silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            out.extend_from_slice(b":\n\n");
        }
        this.silence.as_mut().reset(Instant::now() + KEEP_ALIVE);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_in_the_data_stay_within_the_event() {
        let event = Event { id: "1-7".into(), event: "state", data: b"{\n\"a\":\r\n1}".to_vec() };
        let mut out = Vec::new();
        event.write(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "id: 1-7\nevent: state\ndata: {\ndata: \"a\":\ndata: \ndata: 1}\n\n"
        );
    }

    #[test]
    fn an_event_without_data_still_has_a_data_line() {
        let mut out = Vec::new();
        Event { id: "1-7".into(), event: "reset", data: Vec::new() }.write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "id: 1-7\nevent: reset\ndata: \n\n");
    }
}
