//! A worker that listens: a server dials it. One port for the link, `/healthz` and `/metrics`; one
//! controller at a time, with the token, and never a web page.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rollcall_protocol::SUBPROTOCOL;
use rollcall_tls::{Kept, Renewal, ServerConfig, ServerFiles};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hub::{Hub, until_shutdown};
use crate::{ServeOptions, link, process, socket};

/// Connections at once, the server's among them; more wait in the kernel.
const MAX_CONNECTIONS: usize = 64;

/// How long a request's head may take. Off unless a timer is set, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection without the link may stay.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(60);

/// How old the last look at the certificates may be when somebody dials.
const LOOK: Duration = Duration::from_secs(2);

/// A pause after a failed accept, such as one without a free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is shown, following its files.
struct Tls {
    kept: Kept<ServerFiles>,
    looked: Mutex<Instant>,
}

impl Tls {
    /// What holds now; the files are looked at when somebody comes.
    fn config(&self, worker: &str) -> Arc<ServerConfig> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() >= LOOK {
            *looked = Instant::now();
            match self.kept.renew() {
                Renewal::Unchanged => {}
                Renewal::Applied => info!(worker, "new certificates are in force"),
                Renewal::Invalid(faults) => {
                    for fault in faults {
                        warn!(
                            worker,
                            "certificates were changed and not taken, the old ones stay: tls {fault}"
                        );
                    }
                }
            }
        }
        self.kept.config()
    }
}

struct Server {
    hub: Arc<Hub>,
    options: ServeOptions,
    tls: Option<Tls>,
    close: CancellationToken,
    /// Whether a server holds the link.
    taken: AtomicBool,
}

/// An accepted upgrade, between the handshake and the link.
struct Upgrade {
    ready: OnUpgrade,
    seat: Seat,
}

/// The one controller's place; free again when dropped.
struct Seat(Arc<Server>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

type Page = Response<Full<Bytes>>;

/// See [`Worker::serve`](crate::Worker::serve).
pub(crate) async fn serve(
    hub: Arc<Hub>,
    listener: TcpListener,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() && options.token.is_none() {
        let problem = format!("a worker that listens on {address}, off loopback, needs a token");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let tls = match options.tls.clone().map(Kept::load).transpose() {
        Ok(tls) => tls,
        Err(faults) => {
            let told: Vec<_> = faults.iter().map(|fault| format!("tls {fault}")).collect();
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told.join("; ")));
        }
    };
    if options.metrics.is_some() {
        hub.serves_metrics(address.port());
    }
    info!(worker = hub.name(), %address, "listening");
    until_shutdown(Arc::clone(&hub), shutdown, |close| {
        let tls = tls.map(|kept| Tls { kept, looked: Mutex::new(Instant::now()) });
        let server = Server { hub, options, tls, close, taken: AtomicBool::new(false) };
        Arc::new(server).accept(listener)
    })
    .await
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.close.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, peer)) => drop(connections.spawn(Arc::clone(&self).connection(stream, peer))),
                    Err(error) => {
                        warn!(worker = self.hub.name(), %error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // Links end by the same token; connections that only ask for pages end with the set.
        drop(listener);
        drop(
            tokio::time::timeout(Duration::from_secs(3), async {
                while connections.join_next().await.is_some() {}
            })
            .await,
        );
        Ok(())
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = socket::tune(&stream) {
            warn!(worker = self.hub.name(), %peer, %error, "cannot tune a socket");
        }
        let Some(tls) = &self.tls else { return self.requests(stream, peer).await };
        let config = tls.config(self.hub.name());
        let shaken = tokio::time::timeout(HEAD_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
        match shaken {
            Ok(Ok(stream)) => self.requests(Box::new(stream), peer).await,
            Ok(Err(error)) => {
                warn!(worker = self.hub.name(), %peer, %error, "no TLS with somebody who dialled")
            }
            // Who opens a connection and says nothing is no event.
            Err(_) => {}
        }
    }

    async fn requests<S>(self: Arc<Self>, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let upgrade = Mutex::new(None);
        let service = service_fn(|request| {
            let (page, accepted) = self.answer(request);
            if accepted.is_some() {
                *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = accepted;
            }
            std::future::ready(Ok::<_, Infallible>(page))
        });
        let requests = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            // A client that sends nonsense or leaves early is no event.
            done = tokio::time::timeout(REQUESTS_TIMEOUT, requests) => drop(done),
            () = self.close.cancelled() => return,
        }
        let accepted = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upgrade) = accepted {
            self.link::<S>(upgrade, peer).await;
        }
    }

    /// Answers a request; an accepted upgrade comes with it.
    fn answer(self: &Arc<Self>, mut request: Request<Incoming>) -> (Page, Option<Upgrade>) {
        let headers = request.headers();
        // Browsers send it, servers do not: a page must not drive a worker on the reader's machine.
        if headers.contains_key(ORIGIN) {
            return (page(StatusCode::FORBIDDEN, "requests with an Origin are refused\n"), None);
        }
        if headers.contains_key(UPGRADE) {
            return match self.admit(&request) {
                Ok((response, seat)) => {
                    let ready = hyper::upgrade::on(&mut request);
                    (response, Some(Upgrade { ready, seat }))
                }
                Err(refusal) => (*refusal, None),
            };
        }
        let answer = match (request.method(), request.uri().path(), &self.options.metrics) {
            (&Method::GET, "/healthz", _) => {
                let (running, connected) = (self.hub.running(), self.hub.is_up());
                let body = format!("{{\"status\":\"ok\",\"connected\":{connected},\"running\":{running}}}\n");
                typed("application/json", body)
            }
            (&Method::GET, "/metrics", Some(metrics)) => {
                typed("text/plain; version=0.0.4", metrics() + &process::page())
            }
            (_, "/healthz" | "/metrics", _) => {
                page(StatusCode::METHOD_NOT_ALLOWED, "only GET, and only what is served\n")
            }
            _ => page(StatusCode::NOT_FOUND, "a Rollcall worker: a WebSocket, /healthz and /metrics\n"),
        };
        (answer, None)
    }

    /// Takes the one controller, or says why not.
    fn admit(self: &Arc<Self>, request: &Request<Incoming>) -> Result<(Page, Seat), Box<Page>> {
        let headers = request.headers();
        let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if self.options.token.as_ref().is_some_and(|token| !token.is_shown_by(shown)) {
            return Err(refusal(StatusCode::UNAUTHORIZED, "the token is missing or wrong\n"));
        }
        if !speaks_ours(headers) {
            return Err(refusal(StatusCode::UPGRADE_REQUIRED, "the subprotocol here is rollcall.v1\n"));
        }
        let mut response = create_response_with_body(request, Full::default)
            .map_err(|problem| refusal(StatusCode::BAD_REQUEST, format!("{problem}\n")))?;
        // A link ends itself after 2.5 silent heartbeat intervals, so a dead server's seat gets free.
        if self.taken.swap(true, Ordering::AcqRel) {
            return Err(refusal(StatusCode::CONFLICT, "another server is connected\n"));
        }
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok((response, Seat(Arc::clone(self))))
    }

    async fn link<S>(&self, upgrade: Upgrade, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let upgraded = match upgrade.ready.await {
            Ok(upgraded) => upgraded,
            Err(error) => return warn!(worker = self.hub.name(), %peer, %error, "the upgrade failed"),
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<S>>() else {
            return warn!(worker = self.hub.name(), %peer, "the upgraded stream is not the one accepted");
        };
        let (stream, limits) = (parts.io.into_inner(), socket::limits(self.hub.max_message()));
        let read = parts.read_buf.to_vec();
        let ws = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(limits)).await;
        info!(worker = self.hub.name(), %peer, "a server connected");
        let (end, _) = link::carry(Arc::clone(&self.hub), ws, self.close.clone()).await;
        info!(worker = self.hub.name(), %peer, %end, "disconnected");
        drop(upgrade.seat);
    }
}

fn speaks_ours(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Page {
    let mut page = typed("text/plain; charset=utf-8", text);
    *page.status_mut() = status;
    page
}

fn refusal(status: StatusCode, text: impl Into<Bytes>) -> Box<Page> {
    Box::new(page(status, text))
}

fn typed(kind: &'static str, text: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(text.into()));
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
