//! Notices connections that hang: a head that does not come whole, a client that says nothing any
//! more, one that does not read. hyper has a timer for the first alone, and sets it anew with each
//! request; here the socket notes what moves, and one slow tick looks at the notes of all connections.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a client may take to send the head of a request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may stay open between requests.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may leave what we write unread.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the notes are looked at: how much later than its time a timeout may come.
pub(super) const TICK: Duration = Duration::from_secs(2);

const HEAD: u8 = 0;
const BUSY: u8 = 1;
const STREAMING: u8 = 2;
const IDLE: u8 = 3;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Where from.
    pub(crate) address: IpAddr,
    /// The names of the certificate, where one was asked for.
    pub(crate) names: Option<Box<[String]>>,
}

/// What one connection is at, and since when.
#[derive(Debug)]
pub(crate) struct Pulse {
    caller: Caller,
    born: Instant,
    phase: AtomicU8,
    /// Milliseconds from birth.
    since: AtomicU64,
    /// Milliseconds from birth, plus one; 0 while what we write goes out.
    stuck: AtomicU64,
    /// The connection is to end after its answer.
    closing: AtomicBool,
    /// Who serves it.
    server: AtomicWaker,
}

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// No request for a long time.
    Idle,
    /// A head that does not come whole.
    HeadLate,
    /// A client that does not read an answer.
    WriteStuck,
    /// A client that does not read a stream of events.
    StreamStuck,
}

impl Pulse {
    /// A connection that was just accepted: its first head is awaited.
    pub(super) fn new(caller: Caller) -> Self {
        Self {
            caller,
            born: Instant::now(),
            phase: AtomicU8::new(HEAD),
            since: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            server: AtomicWaker::new(),
        }
    }

    /// Who is at the other end.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// A request's head is there.
    pub(crate) fn request(&self, now: Instant) {
        self.enter_at(BUSY, now);
    }

    /// Its answer is ready, whole.
    pub(crate) fn answered(&self, now: Instant) {
        self.enter_at(IDLE, now);
    }

    /// Its answer is a stream that lasts until the guard is dropped.
    pub(crate) fn streaming(self: &Arc<Self>) -> Streaming {
        self.enter(STREAMING);
        Streaming(Arc::clone(self))
    }

    /// The connection ends after the answer that it is at, or at once between two.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.server.wake();
    }

    /// Names the task that serves the connection, which [`Pulse::close`] wakes.
    pub(super) fn served_by(&self, server: &Waker) {
        self.server.register(server);
    }

    /// Whether [`Pulse::close`] has been said.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict_at(self.now())
    }

    fn verdict_at(&self, now: u64) -> Verdict {
        let past = |since: u64, limit: Duration| now.saturating_sub(since) > millis(limit);
        let phase = self.phase.load(Ordering::Relaxed);
        let stuck = self.stuck.load(Ordering::Relaxed);
        if stuck > 0 && past(stuck - 1, WRITE_TIMEOUT) {
            return if phase == STREAMING { Verdict::StreamStuck } else { Verdict::WriteStuck };
        }
        let since = self.since.load(Ordering::Relaxed);
        match phase {
            HEAD if past(since, HEAD_TIMEOUT) => Verdict::HeadLate,
            IDLE if past(since, IDLE_TIMEOUT) => Verdict::Idle,
            _ => Verdict::Fine,
        }
    }

    fn enter(&self, phase: u8) {
        self.enter_at(phase, Instant::now());
    }

    fn enter_at(&self, phase: u8, now: Instant) {
        self.since.store(millis(now.saturating_duration_since(self.born)), Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        millis(self.born.elapsed())
    }

    fn came(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.enter(HEAD);
        }
    }

    fn wrote<T>(&self, poll: &Poll<T>) {
        let stuck = self.stuck.load(Ordering::Relaxed);
        if poll.is_ready() {
            if stuck > 0 {
                self.stuck.store(0, Ordering::Relaxed);
            }
        } else if stuck == 0 {
            self.stuck.store(self.now() + 1, Ordering::Relaxed);
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Marks a connection as busy with a stream.
#[derive(Debug)]
pub(crate) struct Streaming(Arc<Pulse>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.enter(IDLE);
    }
}

/// A socket that notes what moves.
#[derive(Debug)]
pub(crate) struct Noted<S> {
    socket: S,
    pulse: Arc<Pulse>,
}

impl<S> Noted<S> {
    pub(super) fn new(socket: S, pulse: Arc<Pulse>) -> Self {
        Self { socket, pulse }
    }

    /// The socket alone, for what comes after an upgrade.
    pub(crate) fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.came();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.pulse.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.pulse.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_own_patience() {
        let caller = Caller { address: [127, 0, 0, 1].into(), names: None };
        let pulse = Arc::new(Pulse::new(caller));
        assert_eq!(pulse.verdict_at(9_000), Verdict::Fine);
        assert_eq!(pulse.verdict_at(12_000), Verdict::HeadLate);
        pulse.request(Instant::now());
        assert_eq!(pulse.verdict_at(1_000_000), Verdict::Fine, "the handler has its own limits");
        pulse.answered(Instant::now());
        assert_eq!(pulse.verdict_at(60_000), Verdict::Fine);
        assert_eq!(pulse.verdict_at(80_000), Verdict::Idle);
        pulse.came();
        assert_eq!(pulse.verdict_at(12_000), Verdict::HeadLate, "a head has begun");
        pulse.request(Instant::now());
        let streaming = pulse.streaming();
        assert_eq!(pulse.verdict_at(1_000_000), Verdict::Fine);
        pulse.wrote(&Poll::<()>::Pending);
        assert_eq!(pulse.verdict_at(40_000), Verdict::StreamStuck);
        drop(streaming);
        assert_eq!(pulse.verdict_at(40_000), Verdict::WriteStuck);
        pulse.wrote(&Poll::Ready(()));
        assert_eq!(pulse.verdict_at(40_000), Verdict::Fine);
    }
}
