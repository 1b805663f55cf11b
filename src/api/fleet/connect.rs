//! `GET /v1/workers/connect`: a worker dials in. After the handshake its connection is served like
//! one that the server dialled.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::entry;
use crate::api::AppState;
use crate::api::http::body::{Answer, Body, Reply};
use crate::api::http::problem::{self, Refused};
use crate::api::http::pulse::{Noted, Pulse};
use crate::api::http::server::Face;
use crate::fleet::{ConnectOutcome, Why};
use crate::interface::{Ended, websocket};
use crate::telemetry::Auth;
use crate::trust::{Pass, TlsSocket};

/// Connections that workers may have made at once, those that have not registered yet included.
const MAX_LINKS: usize = 16_384;
/// How long the answer to a handshake may take to be written.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may take to say goodbye once the server closes.
const FAREWELL: Duration = Duration::from_secs(3);

/// Answers the handshake, and serves the connection apart.
pub(crate) fn connect(state: &AppState, face: Face, pulse: &Pulse, mut request: Request<Incoming>) -> Reply {
    let caller = pulse.caller();
    let pass = entry::pass(state, face, caller, request.headers())?;
    let accepted = websocket::accept_response(&request).map_err(|refused| {
        let kind = match refused.status {
            StatusCode::FORBIDDEN => problem::ORIGIN_NOT_ALLOWED,
            StatusCode::UPGRADE_REQUIRED => problem::UPGRADE_REQUIRED,
            _ => problem::BAD_REQUEST,
        };
        Refused::new(kind.with(refused.reason).hint("docs/protocol.md says how a worker connects"))
    })?;
    if state.0.links.len() >= MAX_LINKS {
        return Err(problem::TOO_MANY_WORKERS.with(format!("{MAX_LINKS} workers have dialled in")).into());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    state.0.links.spawn(serve(state.clone(), upgrade, pass, caller.address));
    let (head, ()) = accepted.into_parts();
    Ok(Answer::from_parts(head, Body::empty()))
}

async fn serve(state: AppState, upgrade: OnUpgrade, pass: Pass, from: IpAddr) {
    let upgraded = match timeout(HANDSHAKE, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!(%error, "a worker was gone before its handshake was answered"),
        Err(_) => return debug!("a worker did not take the answer to its handshake"),
    };
    // Every connection is made in `server` or `workers_door`, of one of these types.
    match upgraded.downcast::<TokioIo<Noted<TcpStream>>>() {
        Ok(Parts { io, read_buf, .. }) => {
            let socket = io.into_inner().into_inner();
            let tuned = websocket::tune(&socket);
            serve_on(state, socket, tuned, read_buf.to_vec(), pass, from).await;
        }
        Err(upgraded) => {
            let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<Noted<TlsSocket>>>() else {
                return debug!("a worker's connection is not one of ours");
            };
            let socket = io.into_inner().into_inner();
            let tuned = socket.tcp().and_then(websocket::tune);
            // In a box, for the many without TLS must not pay for its room.
            Box::pin(serve_on(state, socket, tuned, read_buf.to_vec(), pass, from)).await;
        }
    }
}

async fn serve_on<S>(
    state: AppState,
    socket: S,
    tuned: io::Result<()>,
    read: Vec<u8>,
    pass: Pass,
    from: IpAddr,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Ok(link) = state.manager().link().await else { return };
    let conn = link.conn;
    let served = async {
        match tuned {
            Ok(()) => websocket::serve_upgraded(socket, read, pass, link).await,
            Err(_) => Ended::Down(Why::Io),
        }
    };
    let why = tokio::select! {
        down = served => match down {
            Ended::Down(why) => why,
            Ended::NotConnected(outcome, reason) => {
                if outcome == ConnectOutcome::Auth {
                    state.metrics().worker_auth(Auth::Forbidden);
                    state.metrics().stranger_refused(outcome);
                    state.strikes().wrong(from, Instant::now());
                    warn!(address = %from, reason, "a worker that dialled in was refused");
                } else {
                    debug!(reason, "a worker that dialled in was not registered");
                }
                Why::Protocol
            }
        },
        () = async { state.closing().cancelled().await; sleep(FAREWELL).await } => Why::ServerShutdown,
    };
    state.manager().link_ended(conn, why).await;
}
