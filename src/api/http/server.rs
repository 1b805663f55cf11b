//! Accepts connections and serves them with hyper, within limits of number, size and time. Nothing
//! is detached: when the server closes, every connection ends or is named and cut.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, warn};

use super::body::Answer;
use super::pulse::{Caller, Noted, Pulse, TICK, Verdict};
use super::workers_door::{self, WorkersListener};
use crate::api::{AppState, dispatch};
use crate::telemetry::{Eviction, Rejected};

/// Connections at once; beyond them, new ones wait in the system's backlog.
const MAX_CONNECTIONS: usize = 4_096;
/// Bytes of one request's head; far beyond them 431 (hyper looks after each read of up to as many).
const MAX_HEAD: usize = 32 << 10;
/// How long a closing server waits for answers that are on their way.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How long accepting pauses when the system has no more files.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the logs of finished tasks are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For the API.
    pub api: TcpListener,
    /// For the metrics alone, which then have left the API.
    pub metrics: Option<TcpListener>,
    /// For workers that dial in, who may use the API's as well.
    pub workers: Option<WorkersListener>,
}

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    /// Everything.
    All,
    /// Everything but the metrics.
    AllButMetrics,
    /// The metrics alone.
    MetricsOnly,
    /// The way in for workers alone, which wants a token.
    Workers,
}

/// Serves until `shutdown` turns true (or its sender is gone), then lets answers that are on their
/// way end for a few seconds. Stop the manager before: until then waiting callers would be cut off.
pub async fn serve(mut listeners: Listeners, state: AppState, shutdown: watch::Receiver<bool>) {
    let mut connections = Connections::default();
    let workers = workers_door::accept(listeners.workers.take(), &state, shutdown.clone());
    tokio::join!(accept(&listeners, &state, shutdown, &mut connections), workers);
    drop(listeners);
    state.close();
    connections.close();
    let all_ended = async {
        while connections.ended().await {}
        state.workers_ended().await;
    };
    if timeout(CLOSE_GRACE, all_ended).await.is_err() {
        warn!(connections = connections.tasks.len(), "connections that did not end in time are cut");
        connections.tasks.shutdown().await;
    }
}

/// The connections that are served: each a task, and what it is at. They are looked at together,
/// because a timer and a signal for each would have to be asked whenever one of them moves.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    pulses: HashMap<Id, (Arc<Pulse>, AbortHandle)>,
}

impl Connections {
    fn serve(&mut self, socket: TcpStream, face: Face, caller: Caller, state: AppState) {
        if let Err(error) = socket.set_nodelay(true) {
            return debug!(%error, "a connection broke before it was served");
        }
        let pulse = Arc::new(Pulse::new(caller));
        let task = self.tasks.spawn(connection(socket, face, state, Arc::clone(&pulse)));
        self.pulses.insert(task.id(), (pulse, task));
    }

    /// Waits until one has ended; false when there is none. Cancel-safe.
    async fn ended(&mut self) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else { return false };
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    error!(%error, "a connection's task panicked");
                }
                error.id()
            }
        };
        self.pulses.remove(&id);
        true
    }

    /// Cuts those that hang.
    fn look(&self, state: &AppState) {
        for (pulse, task) in self.pulses.values() {
            if !goes_on(pulse.verdict(), state) {
                task.abort();
            }
        }
    }

    /// Lets each end after the answer that it is at.
    fn close(&self) {
        self.pulses.values().for_each(|(pulse, _)| pulse.close());
    }
}

async fn accept(
    listeners: &Listeners,
    state: &AppState,
    mut shutdown: watch::Receiver<bool>,
    connections: &mut Connections,
) {
    let face = if listeners.metrics.is_some() { Face::AllButMetrics } else { Face::All };
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(TICK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let room = connections.tasks.len() < MAX_CONNECTIONS;
        let (socket, face) = tokio::select! {
            biased; // A burst of connections must not hold back the end.
            _ = shutdown.wait_for(|stop| *stop) => return,
            true = connections.ended() => continue,
            _ = look.tick() => { connections.look(state); continue }
            _ = sweep.tick() => { state.manager().logs().sweep(); continue }
            accepted = listeners.api.accept(), if room => (accepted, face),
            accepted = accept_maybe(listeners.metrics.as_ref()), if room => (accepted, Face::MetricsOnly),
        };
        match socket {
            Ok((socket, from)) => {
                let caller = Caller { address: from.ip(), names: None };
                connections.serve(socket, face, caller, state.clone());
            }
            Err(error) if is_of_the_client(&error) => {
                debug!(%error, "a connection was gone before it was accepted")
            }
            Err(error) => {
                error!(%error, "connections cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_maybe(listener: Option<&TcpListener>) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

pub(super) fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection to its end.
pub(super) async fn connection<S>(socket: S, face: Face, state: AppState, pulse: Arc<Pulse>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(Noted::new(socket, Arc::clone(&pulse)));
    let service = {
        let pulse = Arc::clone(&pulse);
        service_fn(move |request: Request<Incoming>| answer(state.clone(), face, Arc::clone(&pulse), request))
    };
    let served = http1::Builder::new()
        // Ours watches more (see `pulse`), at no cost per request.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        // Answers are small: to copy one behind its head costs less than a vectored write.
        .writev(false)
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    poll_fn(|cx| {
        // It is the same task each time.
        pulse.served_by(cx.waker());
        Poll::Ready(())
    })
    .await;
    let mut is_closing = false;
    let ended = poll_fn(|cx| {
        if !is_closing && pulse.is_closing() {
            is_closing = true;
            served.as_mut().graceful_shutdown();
        }
        served.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        debug!(%error, "a connection ended in an error");
    }
}

/// Whether a connection may go on; counts why not.
pub(super) fn goes_on(verdict: Verdict, state: &AppState) -> bool {
    match verdict {
        Verdict::Fine => return true,
        Verdict::Idle => {}
        Verdict::HeadLate | Verdict::WriteStuck => state.metrics().http_rejected(Rejected::Timeout),
        Verdict::StreamStuck => state.metrics().sse_evicted(Eviction::Slow),
    }
    false
}

/// hyper wants a `Result`; an answer is always there.
async fn answer(
    state: AppState,
    face: Face,
    pulse: Arc<Pulse>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    Ok(dispatch::answer(&state, face, &pulse, request).await)
}
