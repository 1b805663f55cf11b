//! Accepts connections and serves them with hyper, within limits of number, size and time. Nothing
//! is detached: when the server closes, every connection ends or is named and cut.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, warn};

use super::body::Answer;
use super::pulse::{Noted, Pulse, TICK, Verdict};
use crate::api::{AppState, dispatch};
use crate::telemetry::{Eviction, Rejected};

/// Connections at once; beyond them, new ones wait in the system's backlog.
const MAX_CONNECTIONS: usize = 4_096;
/// Headers of one request at most; beyond them 431.
const MAX_HEADERS: usize = 64;
/// Bytes of one request's head; far beyond them 431 (hyper looks after each read of up to as many).
const MAX_HEAD: usize = 32 << 10;
/// How long a closing server waits for answers that are on their way.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How long accepting pauses when the system has no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the logs of finished tasks are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For the API.
    pub api: TcpListener,
    /// For the metrics alone, which then have left the API.
    pub metrics: Option<TcpListener>,
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
}

/// Serves until `shutdown` turns true (or its sender is gone), then lets answers that are on their
/// way end for a few seconds. Stop the manager before: until then waiting callers would be cut off.
pub async fn serve(listeners: Listeners, state: AppState, shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    accept(&listeners, &state, shutdown, &mut connections).await;
    drop(listeners);
    state.close();
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
        state.workers_ended().await;
    };
    if timeout(CLOSE_GRACE, all_ended).await.is_err() {
        warn!(connections = connections.len(), "connections that did not end in time are cut");
        connections.shutdown().await;
    }
}

async fn accept(
    listeners: &Listeners,
    state: &AppState,
    mut shutdown: watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let face = if listeners.metrics.is_some() { Face::AllButMetrics } else { Face::All };
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        let (socket, face) = tokio::select! {
            biased; // A burst of connections must not hold back the end.
            _ = shutdown.wait_for(|stop| *stop) => return,
            Some(ended) = connections.join_next() => { note(ended); continue }
            _ = sweep.tick() => { state.manager().logs().sweep(); continue }
            accepted = listeners.api.accept(), if room => (accepted, face),
            accepted = accept_maybe(listeners.metrics.as_ref()), if room => (accepted, Face::MetricsOnly),
        };
        match socket {
            Ok((socket, _)) => {
                connections.spawn(connection(socket, face, state.clone()));
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

fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection's task panicked");
    }
}

/// Serves one connection to its end.
async fn connection(socket: TcpStream, face: Face, state: AppState) {
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "a connection broke before it was served");
        return;
    }
    let pulse = Arc::new(Pulse::new());
    let io = TokioIo::new(Noted::new(socket, Arc::clone(&pulse)));
    let service = {
        let (state, pulse) = (state.clone(), Arc::clone(&pulse));
        service_fn(move |request: Request<Incoming>| answer(state.clone(), face, Arc::clone(&pulse), request))
    };
    let served = http1::Builder::new()
        // Ours watches more (see `pulse`), at no cost per request.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        // Answers are small: to copy one behind its head costs less than a vectored write.
        .writev(false)
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let mut closing = std::pin::pin!(state.closing().cancelled());
    let mut is_closing = false;
    let mut tick = std::pin::pin!(sleep(TICK));
    loop {
        tokio::select! {
            biased; // Answers first: the other two can wait.
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection ended in an error");
                }
                return;
            }
            () = tick.as_mut() => {
                if !goes_on(pulse.verdict(), &state) {
                    return;
                }
                tick.as_mut().reset(tokio::time::Instant::now() + TICK);
            }
            () = closing.as_mut(), if !is_closing => {
                is_closing = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Whether a connection may go on; counts why not.
fn goes_on(verdict: Verdict, state: &AppState) -> bool {
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
