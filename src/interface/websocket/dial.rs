//! Dialling a worker, and telling the ways in which that fails apart.

use std::io;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use rollcall_protocol::SUBPROTOCOL;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, handshake::client::Request};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::address::{Addresses, Nowhere};
use super::link::{self, Peer};
use super::socket::{self, Counted, Opening};
use crate::fleet::{ConnectOutcome, Why};
use crate::interface::{BoxFuture, Ended, LinkCommand, LinkIo, LinkLimits, Target};
use crate::trust::TlsSocket;

/// A failure and its details.
type Failed = (ConnectOutcome, String);

/// How much of an HTTP answer's body is worth showing.
const SHOWN_BODY: usize = 200;

/// See [`WorkerInterface::run`](crate::interface::WorkerInterface::run).
pub(super) async fn run(
    target: Target,
    io: LinkIo,
    handshakes: Arc<Semaphore>,
    addresses: Arc<Addresses>,
) -> Ended {
    // Dialling needs much more room than the connection that comes of it: each has its own box, and
    // the first is free before the second is filled.
    match Box::pin(dialled(target, io, handshakes, addresses)).await {
        Ok(connection) => connection.await,
        Err(ended) => ended,
    }
}

/// Dials; the connection is to be carried by the future that comes of it.
async fn dialled(
    target: Target,
    mut io: LinkIo,
    handshakes: Arc<Semaphore>,
    addresses: Arc<Addresses>,
) -> Result<BoxFuture<Ended>, Ended> {
    let (patience, limits) = (io.limits.connect_timeout, io.limits);
    let opened = tokio::select! {
        opened = tokio::time::timeout(patience, open(&target, &limits, &handshakes, &addresses)) => opened,
        why = closed(&mut io) => return Err(Ended::Down(why)),
    };
    match opened {
        Ok(Ok(Opened::Plain(ws))) => Ok(Box::pin(link::carry(ws, Peer::Dialled(target.worker), io))),
        Ok(Ok(Opened::Secure(ws))) => Ok(Box::pin(link::carry(ws, Peer::Dialled(target.worker), io))),
        Ok(Err((outcome, detail))) => Err(Ended::NotConnected(outcome, detail)),
        Err(_) => Err(Ended::NotConnected(ConnectOutcome::Timeout, format!("no answer within {patience:?}"))),
    }
}

/// Waits for the word to give up. Nothing else can be said before the worker has registered; a
/// probe's dropped sender is its answer.
async fn closed(io: &mut LinkIo) -> Why {
    loop {
        match io.commands.recv().await {
            Some(LinkCommand::Close(why)) => return why,
            None => return Why::ServerShutdown,
            Some(LinkCommand::Probe(_) | LinkCommand::Order(..)) => {}
        }
    }
}

/// A connection of either kind; each is carried by code of its own, so that a plain one pays nothing
/// for the other.
enum Opened {
    Plain(WebSocketStream<Counted<TcpStream>>),
    Secure(WebSocketStream<Counted<TlsSocket>>),
}

async fn open(
    target: &Target,
    limits: &LinkLimits,
    handshakes: &Semaphore,
    addresses: &Addresses,
) -> Result<Opened, Failed> {
    let request = request(target)?;
    let secure = request.uri().scheme_str() == Some("wss");
    let host = request.uri().host().unwrap_or_default();
    // Literal IPv6 addresses stand in brackets in a URL, and without them everywhere else.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = request.uri().port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = addresses.connect(&host, port).await.map_err(|nowhere| match nowhere {
        Nowhere::Unresolved(problem) => (ConnectOutcome::Dns, problem),
        Nowhere::Unreachable(problem) => (connecting(&problem), problem.to_string()),
    })?;
    socket::tune(&stream).map_err(|problem| (ConnectOutcome::Handshake, problem.to_string()))?;
    if secure {
        let stream = target.tls.connect(stream, &host, &target.files).await;
        let stream = stream.map_err(|problem| (ConnectOutcome::Tls, problem.to_string()))?;
        return upgraded(request, stream, limits, handshakes).await.map(Opened::Secure);
    }
    upgraded(request, stream, limits, handshakes).await.map(Opened::Plain)
}

/// The opening handshake over a connection of either kind.
async fn upgraded<S>(
    request: Request,
    stream: S,
    limits: &LinkLimits,
    handshakes: &Semaphore,
) -> Result<WebSocketStream<Counted<S>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // The semaphore is never closed.
    let _turn = handshakes.acquire().await;
    let opening = Opening::new(Counted::new(stream));
    let limits = Some(socket::limits(limits));
    let (ws, _) = client_async_with_config(request, opening, limits).await.map_err(shaking_hands)?;
    let stream = ws.into_inner().into_inner();
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, limits).await)
}

fn request(target: &Target) -> Result<Request, Failed> {
    let unusable = |problem: String| (ConnectOutcome::Handshake, problem);
    let endpoint = target.spec.endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| unusable("the worker has no endpoint: it dials in".into()))?;
    let uri: Uri = endpoint.parse().map_err(|problem| unusable(format!("{endpoint}: {problem}")))?;
    let mut request =
        uri.into_client_request().map_err(|problem| unusable(format!("{endpoint}: {problem}")))?;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Some(token) = &target.token {
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
        let mut bearer =
            bearer.map_err(|_| unusable("the token has characters that no header carries".into()))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(request)
}

fn connecting(problem: &io::Error) -> ConnectOutcome {
    match problem.kind() {
        io::ErrorKind::TimedOut => ConnectOutcome::Timeout,
        // Unreachable networks and hosts too: there is nobody at that address.
        _ => ConnectOutcome::Refused,
    }
}

fn shaking_hands(problem: tungstenite::Error) -> Failed {
    let outcome = match &problem {
        tungstenite::Error::Http(answer) => match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ConnectOutcome::Auth,
            StatusCode::CONFLICT => ConnectOutcome::Duplicate,
            StatusCode::UPGRADE_REQUIRED => ConnectOutcome::Version,
            _ => ConnectOutcome::Handshake,
        },
        tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            ConnectOutcome::Version
        }
        _ => ConnectOutcome::Handshake,
    };
    let detail = match problem {
        tungstenite::Error::Http(answer) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BODY)]);
            // It goes to logs and terminals, and a stranger wrote it.
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("answered {}: {}", answer.status(), text.trim())
        }
        other => other.to_string(),
    };
    (outcome, detail)
}
