//! One connection to a server, from `register` to its end. Reads and writes on one task: a wake-up
//! of another one would cost more than the work that it brings.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, Stream};
use rollcall_protocol::{DecodeError, ErrorFrame, FromServer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{debug, info, warn};

use crate::hub::{Hub, LinkGuard, encode};

/// How long the server may take to answer `register`.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the last frames may take.
const CLOSING: Duration = Duration::from_secs(2);

/// Frames sent, or messages read, before the other direction has its turn.
const BATCH: usize = 64;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum LinkEnd {
    /// This worker stops.
    Stopped,
    /// The server closed it, and may have said when to come back.
    Closed(Option<Duration>),
    /// Nothing was heard for 2.5 heartbeat intervals, or `register` was not answered.
    Silent,
    /// The server does not speak `rollcall.v1`.
    Protocol,
    /// The socket broke.
    Broken(tungstenite::Error),
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the worker stops"),
            Self::Closed(_) => f.write_str("the server closed the connection"),
            Self::Silent => f.write_str("the server is silent"),
            Self::Protocol => f.write_str("the server broke the protocol"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

/// What the link has to do next.
enum Step {
    Read(Message),
    Tick,
    End(LinkEnd),
}

struct Link<S> {
    ws: WebSocketStream<S>,
    hub: Arc<Hub>,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
    timer: Pin<Box<Sleep>>,
    /// Known from `registered` on.
    interval: Option<Duration>,
    heartbeat_due: Instant,
    silent_at: Instant,
    retry_after: Option<Duration>,
    /// Something was written and not flushed.
    unflushed: bool,
    /// A task was started: its handler has one turn before the flush, so that a quick result goes
    /// out in one write with `accepted`.
    started: bool,
}

/// Carries one connection. Returns how it ended, and whether it held for a heartbeat interval.
pub(crate) async fn carry<S>(
    hub: Arc<Hub>,
    ws: WebSocketStream<S>,
    close: CancellationToken,
) -> (LinkEnd, bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let guard = LinkGuard(hub);
    let hub = Arc::clone(&guard.0);
    let silent_at = Instant::now() + ANSWER;
    let mut link = Link {
        ws,
        close: Box::pin(close.cancelled_owned()),
        timer: Box::pin(tokio::time::sleep_until(silent_at)),
        interval: None,
        heartbeat_due: silent_at,
        silent_at,
        retry_after: None,
        unflushed: false,
        started: false,
        hub,
    };
    let mut registered_at = None;
    let end = match link.send(Message::Text(link.hub.register())) {
        Err(error) => LinkEnd::Broken(error),
        Ok(()) => loop {
            match std::future::poll_fn(|cx| link.poll_step(cx)).await {
                Step::Read(message) => {
                    if let Some(end) = link.read(message) {
                        break end;
                    }
                    if link.interval.is_some() {
                        registered_at.get_or_insert_with(Instant::now);
                    }
                }
                Step::Tick => {
                    if let Some(end) = link.tick() {
                        break end;
                    }
                }
                Step::End(end) => break end,
            }
        },
    };
    link.finish(&end).await;
    drop(guard);
    let held =
        link.interval.zip(registered_at).is_some_and(|(interval, at): (_, Instant)| at.elapsed() >= interval);
    (end, held)
}

impl<S> Link<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Sends what waits, reads what came, flushes when there is neither, else waits.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.hub.waker().register(cx.waker());
        if let Err(error) = self.poll_send(cx) {
            return Poll::Ready(Step::End(LinkEnd::Broken(error)));
        }
        match Pin::new(&mut self.ws).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => return Poll::Ready(Step::Read(message)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Step::End(self.ended(error))),
            Poll::Ready(None) => return Poll::Ready(Step::End(LinkEnd::Closed(self.retry_after))),
            Poll::Pending => {}
        }
        if std::mem::take(&mut self.started) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.ws).poll_flush(cx)
        {
            self.unflushed = false;
            if let Err(error) = flushed {
                return Poll::Ready(Step::End(LinkEnd::Broken(error)));
            }
        }
        if self.close.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Step::End(LinkEnd::Stopped));
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Step::Tick)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), tungstenite::Error> {
        for _ in 0..BATCH {
            match Pin::new(&mut self.ws).poll_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready?,
            }
            let Some(frame) = self.hub.next_frame() else { return Ok(()) };
            self.send(frame)?;
        }
        // There may be more: come back after the other direction has had its turn.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn send(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        self.unflushed = true;
        Pin::new(&mut self.ws).start_send(message)
    }

    fn ended(&self, error: tungstenite::Error) -> LinkEnd {
        use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        match error {
            tungstenite::Error::Protocol(ResetWithoutClosingHandshake) => LinkEnd::Closed(self.retry_after),
            tungstenite::Error::Capacity(_)
            | tungstenite::Error::Protocol(_)
            | tungstenite::Error::Utf8(_) => {
                warn!(worker = self.hub.name(), %error, "the server broke the protocol");
                LinkEnd::Protocol
            }
            error => LinkEnd::Broken(error),
        }
    }

    /// Acts on a message. Returns an end when the connection cannot go on.
    fn read(&mut self, message: Message) -> Option<LinkEnd> {
        match message {
            Message::Text(text) => {
                self.heard();
                match FromServer::decode(&text) {
                    Ok(frame) => return self.act(frame),
                    Err(problem) => return self.complain(&problem),
                }
            }
            // A ping counts as life: the server's process sent it. A pong is made by libraries.
            Message::Ping(_) => {
                self.heard();
                self.unflushed = true;
            }
            Message::Pong(_) | Message::Frame(_) => {}
            Message::Binary(_) => {
                self.heard();
                debug!(worker = self.hub.name(), "ignored a binary frame");
            }
            Message::Close(_) => return Some(LinkEnd::Closed(self.retry_after)),
        }
        None
    }

    fn act(&mut self, frame: FromServer<'_>) -> Option<LinkEnd> {
        match frame {
            FromServer::Registered(answer) => {
                let interval = Duration::from_millis(answer.heartbeat_interval_ms.max(10));
                info!(
                    worker = answer.name,
                    connection = answer.connection,
                    slots = answer.slots,
                    kept = answer.keep.len(),
                    dropped = answer.drop.len(),
                    "registered"
                );
                self.interval = Some(interval);
                // A phase of its own, or a thousand workers that come back together would send
                // their heartbeats together for ever.
                self.heartbeat_due = Instant::now() + interval.mul_f64(rand::random());
                self.heard();
                self.arm();
                self.hub.registered(&answer);
            }
            FromServer::Execute(frame) => self.started |= self.hub.execute(frame),
            FromServer::Cancel(frame) => self.hub.cancel(frame),
            FromServer::ResultAck(frame) => self.hub.acknowledged(frame),
            FromServer::Credit(frame) => self.hub.credit(frame),
            FromServer::EndSession(frame) => self.hub.end_session(&frame.session),
            FromServer::Heartbeat(_) => {}
            // The server alone decides what it sends; one that sends work again has ended the drain.
            FromServer::Drain(frame) => {
                info!(worker = self.hub.name(), reason = frame.reason, "the server drains this worker");
            }
            FromServer::Goodbye(frame) => {
                self.retry_after = frame.retry_after_ms.map(Duration::from_millis);
                info!(worker = self.hub.name(), reason = frame.reason, "the server says goodbye");
            }
            FromServer::Error(frame) => {
                warn!(
                    worker = self.hub.name(),
                    code = frame.code,
                    message = frame.message,
                    "the server complains"
                );
            }
        }
        None
    }

    /// Answers what cannot be read with `error`; garbage also ends the connection.
    fn complain(&mut self, problem: &DecodeError) -> Option<LinkEnd> {
        warn!(worker = self.hub.name(), %problem, "cannot read a frame of the server");
        let (code, end) = match problem {
            DecodeError::UnknownType(_) => ("unknown_type", None),
            DecodeError::Malformed(_) => ("bad_frame", Some(LinkEnd::Protocol)),
        };
        let frame = encode(ErrorFrame { code: code.to_owned(), message: problem.to_string() });
        match self.send(Message::Text(frame)) {
            // The peer babbles and does not read: not worth a buffer.
            Err(tungstenite::Error::WriteBufferFull(_)) => Some(LinkEnd::Protocol),
            Err(error) => Some(LinkEnd::Broken(error)),
            Ok(()) => end,
        }
    }

    fn heard(&mut self) {
        if let Some(interval) = self.interval {
            self.silent_at = Instant::now() + interval.mul_f64(2.5);
        }
    }

    /// The timer rang. It is set lazily, so the times may have moved on since.
    fn tick(&mut self) -> Option<LinkEnd> {
        let now = Instant::now();
        if now >= self.silent_at {
            return Some(LinkEnd::Silent);
        }
        if let Some(interval) = self.interval
            && now >= self.heartbeat_due
        {
            self.heartbeat_due = now + interval;
            // With a full write buffer the server has more urgent things to read.
            match self.send(Message::Text(self.hub.heartbeat())) {
                Ok(()) | Err(tungstenite::Error::WriteBufferFull(_)) => {}
                Err(error) => return Some(LinkEnd::Broken(error)),
            }
        }
        self.arm();
        None
    }

    fn arm(&mut self) {
        let due = self.heartbeat_due.min(self.silent_at);
        self.timer.as_mut().reset(due);
    }

    /// Sends what waits, the close frame, and waits shortly until the server has read it: an early
    /// end of the socket would throw away what the server has not read yet.
    async fn finish(&mut self, end: &LinkEnd) {
        use futures_util::{SinkExt, StreamExt};
        let code = match end {
            LinkEnd::Stopped => CloseCode::Away,
            LinkEnd::Closed(_) => CloseCode::Normal,
            LinkEnd::Silent => CloseCode::Policy,
            LinkEnd::Protocol => CloseCode::Protocol,
            LinkEnd::Broken(_) => return,
        };
        let last = async {
            while let Some(frame) = self.hub.next_frame() {
                self.ws.feed(frame).await?;
            }
            self.ws.close(Some(CloseFrame { code, reason: "".into() })).await?;
            while self.ws.next().await.is_some_and(|read| read.is_ok()) {}
            Ok::<_, tungstenite::Error>(())
        };
        // The other side may be gone already; then there is nobody to tell.
        drop(tokio::time::timeout(CLOSING, last).await);
    }
}
