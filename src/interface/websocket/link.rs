//! One registered connection. Reads, writes and keeps time on one task, because a wake-up of another
//! one would cost more than the work that it brings; writes are gathered and flushed once, when
//! nothing more waits on either side.

mod ending;
mod reading;
mod registering;
mod uploads;

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, Stream};
use rollcall_protocol::{FromServer, ServerHeartbeat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tracing::{error, warn};

use self::ending::{End, code_of};
use self::uploads::Uploads;
use super::socket::Counted;
use super::translate;
use crate::fleet::{Event, Order, Registration, Why, WorkerName};
use crate::interface::{Ended, LinkCommand, LinkIo};
use crate::trust::Pass;

/// A message that was begun and has not grown for so long will not be finished.
const UNFINISHED: Duration = Duration::from_secs(10);

/// Control frames, and frames that are answered with `error`, within one second.
const NUISANCES: u32 = 20;

/// Pings that are on their way; the oldest is given up for a new one.
const PINGS: usize = 16;

/// Commands taken before the other direction has its turn.
const BATCH: u32 = 32;

/// How long an acknowledgement may wait for a frame to leave with.
const ACKS_LINGER: Duration = Duration::from_millis(5);

/// Until `registered` names the interval: its default.
const INTERVAL: Duration = Duration::from_secs(30);

struct Ping {
    nonce: u64,
    sent: Instant,
    answer: Option<oneshot::Sender<Duration>>,
}

/// A direction that stands still: the count of bytes then, and when that becomes too long.
type Stall = Option<(u64, Instant)>;

struct Link<S> {
    ws: WebSocketStream<Counted<S>>,
    io: LinkIo,
    worker: WorkerName,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    interval: Duration,
    /// The time, read once for all that is there to be done at one go.
    now: Option<Instant>,
    heartbeat_due: Option<Instant>,
    alive_at: Instant,
    pings: VecDeque<Ping>,
    next_nonce: u64,
    nuisances: (Instant, u32),
    /// When the decisions were made whose frames are not flushed yet.
    decided: Vec<std::time::Instant>,
    unflushed: bool,
    /// When acknowledgements that are written but not flushed must leave at the latest.
    acks_due: Option<Instant>,
    commands_taken: u32,
    write_stall: Stall,
    read_stall: Stall,
    /// Bytes read when the last message was complete.
    read_whole: u64,
    /// Bytes of a control frame of the peer beside its payload: clients mask.
    control_header: u64,
    said_goodbye: bool,
    /// Made by the first artifact.
    uploads: Option<Box<Uploads>>,
    /// What the worker said and the core had no room for.
    unsent: VecDeque<Event>,
}

/// Who is at the other end.
pub(super) enum Peer {
    /// A worker that was dialled by its name.
    Dialled(WorkerName),
    /// Whoever dialled in with this.
    Came(Pass),
}

/// Registers a worker over an open WebSocket and carries its connection to the end.
pub(super) fn carry<S>(
    ws: WebSocketStream<Counted<S>>,
    peer: Peer,
    io: LinkIo,
) -> impl Future<Output = Ended> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Made before the future: what an async function is given keeps its room in there beside what it
    // was moved into. Beginning and end, in boxes of their own, take none in the 10,000 futures that
    // wait between.
    let mut link = Link::new(ws, io, &peer);
    async move {
        let (end, ended) = match Box::pin(link.first_frame(peer)).await {
            Err((end, ended)) => (end, ended),
            Ok(registration) => {
                let end = link.serve(registration).await;
                let why = end.why;
                (end, Ended::Down(why))
            }
        };
        Box::pin(link.finish(end)).await;
        ended
    }
}

impl<S> Link<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn new(ws: WebSocketStream<Counted<S>>, io: LinkIo, peer: &Peer) -> Self {
        let (control_header, worker) = match peer {
            Peer::Dialled(worker) => (2, worker.clone()),
            Peer::Came(_) => (2 + 4, WorkerName::from("?")),
        };
        let now = Instant::now();
        let timer_at = now + INTERVAL;
        Self {
            ws,
            io,
            control_header,
            worker,
            timer: Box::pin(sleep_until(timer_at)),
            timer_at,
            interval: INTERVAL,
            now: None,
            heartbeat_due: None,
            alive_at: now,
            pings: VecDeque::new(),
            next_nonce: 0,
            nuisances: (now, 0),
            decided: Vec::new(),
            unflushed: false,
            acks_due: None,
            commands_taken: 0,
            write_stall: None,
            read_stall: None,
            read_whole: 0,
            said_goodbye: false,
            uploads: None,
            unsent: VecDeque::new(),
        }
    }

    /// Carries the registered connection to its end.
    async fn serve(&mut self, registration: Registration) -> End {
        self.worker = registration.worker.clone();
        if !Box::pin(self.io.up(registration)).await {
            return End::tell(Why::ServerShutdown, CloseCode::Away);
        }
        loop {
            if let Err(end) = std::future::poll_fn(|cx| self.poll_serve(cx)).await {
                return end;
            }
            while let Some(event) = self.unsent.pop_front() {
                if self.io.events.send(event).await.is_err() {
                    return End::tell(Why::ServerShutdown, CloseCode::Away);
                }
            }
            self.unsent = VecDeque::new();
        }
    }

    /// Obeys, reads, flushes and waits, until the end or until the core has no room for what the
    /// worker said. One function that never hands its work over by an `await`: what would be moved
    /// into and out of a future for each frame is as much work as the frame.
    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while self.unsent.is_empty() {
            if let Err(end) = ready!(self.poll_step(cx)) {
                return Poll::Ready(Err(end));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a command, else reads, else flushes, else waits.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.commands_taken < BATCH {
            match Pin::new(&mut self.ws).poll_ready(cx) {
                // The worker does not read: commands stay in their bounded channel.
                Poll::Pending => self.stall_write(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.ended(&error))),
                Poll::Ready(Ok(())) => {
                    if let Poll::Ready(done) = self.poll_command(cx) {
                        self.commands_taken += 1;
                        return Poll::Ready(done);
                    }
                }
            }
        } else {
            // More may be waiting: come back after the reader has had its turn.
            cx.waker().wake_by_ref();
        }
        self.commands_taken = 0;
        match Pin::new(&mut self.ws).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => {
                self.was_whole(&message);
                return Poll::Ready(self.read(message));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.ended(&error))),
            Poll::Ready(None) => return Poll::Ready(Err(self.closed())),
            Poll::Pending => self.stall_read(),
        }
        if self.unflushed {
            match Pin::new(&mut self.ws).poll_flush(cx) {
                Poll::Pending => self.stall_write(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.ended(&error))),
                Poll::Ready(Ok(())) => self.flushed(),
            }
        }
        self.now = None;
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(self.tick())
    }

    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Does what the server wants said or done next.
    fn poll_command(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        match self.io.commands.poll_recv(cx) {
            Poll::Ready(Some(command)) => return Poll::Ready(self.obey(command)),
            Poll::Ready(None) => {
                return Poll::Ready(Err(End::tell(Why::ServerShutdown, CloseCode::Away)));
            }
            Poll::Pending => {}
        }
        let Some(uploads) = &mut self.uploads else { return Poll::Pending };
        let news = ready!(uploads.poll_news(cx));
        Poll::Ready(self.uploaded(news))
    }

    fn flushed(&mut self) {
        self.unflushed = false;
        self.acks_due = None;
        self.write_stall = None;
        if !self.decided.is_empty() {
            let now = std::time::Instant::now();
            for decided in self.decided.drain(..) {
                self.io.meter.dispatched(now.saturating_duration_since(decided));
            }
        }
    }

    fn stall_write(&mut self) {
        if self.write_stall.is_none() {
            let until = Instant::now() + self.io.limits.write_timeout;
            self.write_stall = Some((self.ws.get_ref().written, until));
            self.arm();
        }
    }

    /// A message is complete. A control frame may stand between the pieces of another message, so
    /// it counts with its own bytes only: it neither finishes that one nor makes it grow.
    fn was_whole(&mut self, message: &Message) {
        if let Message::Ping(payload) | Message::Pong(payload) = message {
            let bytes = self.control_header + payload.len() as u64;
            self.read_whole += bytes;
            if let Some((before, _)) = &mut self.read_stall {
                *before += bytes;
            }
        } else {
            self.read_whole = self.ws.get_ref().read;
            self.read_stall = None;
        }
    }

    fn stall_read(&mut self) {
        let read = self.ws.get_ref().read;
        if read <= self.read_whole {
            self.read_stall = None;
        } else if self.read_stall.is_none_or(|(before, _)| before != read) {
            self.read_stall = Some((read, Instant::now() + UNFINISHED));
            self.arm();
        }
    }

    /// Acts on a command of the manager.
    fn obey(&mut self, command: LinkCommand) -> Result<(), End> {
        match command {
            LinkCommand::Order(order, decided) => self.order(order, decided),
            LinkCommand::Close(why) => Err(End::tell(why, code_of(why))),
            LinkCommand::Probe(answer) => self.ping(Some(answer)),
        }
    }

    fn order(&mut self, order: Order, decided: std::time::Instant) -> Result<(), End> {
        match &order {
            Order::Execute(_) => self.decided.push(decided),
            Order::Registered(welcome) => {
                self.interval = welcome.heartbeat_interval.max(Duration::from_millis(10));
                self.heartbeat_due = Some(Instant::now() + phase(&self.worker, self.interval));
                self.arm();
            }
            Order::Refused { .. }
            | Order::Cancel { .. }
            | Order::Ack { .. }
            | Order::Drain { .. }
            | Order::EndSession { .. }
            | Order::Goodbye { .. } => {}
        }
        match translate::order(order, self.io.conn) {
            Ok(("result_ack", text)) => self.send_ack(text),
            Ok((kind, text)) => self.send_text(kind, text),
            Err(problem) => {
                error!(worker = %self.worker, %problem, "an order cannot be written as a frame; this is a bug in Rollcall");
                Ok(())
            }
        }
    }

    /// The timer rang. It is set lazily, so each time may have moved on since.
    fn tick(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if let Some((written, until)) = self.write_stall
            && now >= until
        {
            if written == self.ws.get_ref().written {
                warn!(worker = %self.worker, "the worker does not read");
                return Err(End::broken(Why::SlowConsumer));
            }
            self.write_stall = Some((self.ws.get_ref().written, now + self.io.limits.write_timeout));
        }
        if self.read_stall.is_some_and(|(_, until)| now >= until) {
            self.io.meter.protocol_error("unexpected");
            return Err(End::deaf(Why::Protocol, CloseCode::Policy));
        }
        if self.acks_due.is_some_and(|due| now >= due) {
            self.unflushed = true;
        }
        if self.heartbeat_due.is_some_and(|due| now >= due) {
            self.heartbeat_due = Some(now + self.interval);
            let frame = FromServer::from(ServerHeartbeat {});
            if let Ok(text) = frame.encode() {
                self.send_text(frame.kind(), text)?;
            }
            self.ping(None)?;
        }
        // Also where nothing was due: a timer that has rung would ring again at once.
        self.timer_at = now + INTERVAL;
        self.timer.as_mut().reset(self.timer_at);
        self.arm();
        Ok(())
    }

    /// Sets the timer to the earliest time that matters.
    fn arm(&mut self) {
        let stalls = [self.write_stall, self.read_stall].into_iter().flatten().map(|(_, until)| until);
        let Some(due) = stalls.chain(self.heartbeat_due).chain(self.acks_due).min() else { return };
        if due < self.timer_at {
            self.timer_at = due;
            self.timer.as_mut().reset(due);
        }
    }

    fn ping(&mut self, answer: Option<oneshot::Sender<Duration>>) -> Result<(), End> {
        let (nonce, sent) = (self.next_nonce, Instant::now());
        self.next_nonce += 1;
        if self.pings.len() == PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back(Ping { nonce, sent, answer });
        self.send(Message::Ping(nonce.to_be_bytes().to_vec().into()))
    }

    fn send_text(&mut self, kind: &'static str, text: String) -> Result<(), End> {
        self.io.meter.message("out", kind, text.len());
        self.send(Message::Text(text.into()))
    }

    /// Nobody waits for an acknowledgement: it leaves with the next frame, or soon. By itself it
    /// would cost a system call here and wake the worker for nothing.
    fn send_ack(&mut self, text: String) -> Result<(), End> {
        self.io.meter.message("out", "result_ack", text.len());
        if self.acks_due.is_none() {
            self.acks_due = Some(self.now() + ACKS_LINGER);
            self.arm();
        }
        Pin::new(&mut self.ws).start_send(Message::Text(text.into())).map_err(|error| self.ended(&error))
    }

    fn send(&mut self, message: Message) -> Result<(), End> {
        self.unflushed = true;
        Pin::new(&mut self.ws).start_send(message).map_err(|error| self.ended(&error))
    }
}

/// When in each interval a worker's heartbeat is sent: by its name, so that 10,000 of them are
/// spread evenly however many connected at once (FNV-1a; any stable hash would do).
fn phase(worker: &WorkerName, interval: Duration) -> Duration {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = worker.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(hash % nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_of_many_workers_are_spread_over_the_interval() {
        let interval = Duration::from_secs(30);
        let mut thirds = [0; 3];
        for number in 0..300 {
            let at = phase(&WorkerName::from(format!("python-{number}")), interval);
            thirds[usize::try_from(at.as_secs() / 10).expect("small")] += 1;
        }
        assert!(thirds.iter().all(|count| *count > 70), "{thirds:?}");
    }
}
