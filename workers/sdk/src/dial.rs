//! A worker that dials in, again and again: exponential backoff with full jitter, starting afresh
//! only after a connection that held for a heartbeat interval.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::{Request, Uri};
use rollcall_protocol::{CONNECT_PATH, SUBPROTOCOL};
use rollcall_tls::{ClientFiles, Fault, Files as _, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, error::UrlError};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hub::{Hub, until_shutdown};
use crate::link::LinkEnd;
use crate::{ConnectOptions, link, socket};

/// See [`Worker::connect`](crate::Worker::connect).
pub(crate) async fn dial(
    hub: Arc<Hub>,
    url: &str,
    options: ConnectOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let token = options.token.clone();
    let server = Server::new(url, options)?;
    hub.dials(url, token);
    until_shutdown(Arc::clone(&hub), shutdown, |close| server.keep(hub, close)).await
}

/// An open connection, of either kind.
enum Opened {
    Plain(WebSocketStream<TcpStream>),
    Secure(WebSocketStream<Box<TlsStream<TcpStream>>>),
}

fn told(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("tls {fault}")).collect::<Vec<_>>().join("; ")
}

struct Server {
    address: String,
    /// Whom the certificate must be for; absent: no TLS.
    name: Option<ServerName<'static>>,
    request: Request<()>,
    options: ConnectOptions,
}

impl Server {
    fn new(url: &str, options: ConnectOptions) -> io::Result<Self> {
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidInput, problem);
        let uri: Uri = url.parse().map_err(|problem| invalid(format!("{url:?} is not a URL: {problem}")))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => {
                return Err(invalid(format!(
                    "{url:?} is not a URL of the form wss://host:port or ws://host:port"
                )));
            }
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| invalid(format!("{url:?} names no host")))?;
        if options.token.is_none() && !is_loopback(host) {
            return Err(invalid(format!("a worker that dials {host}, off loopback, needs a token")));
        }
        if secure {
            // A file that is missing at the start is a mistake; one that is missing later may come back.
            options.tls.load().map_err(|faults| invalid(told(&faults)))?;
        } else if options.tls != ClientFiles::default() {
            return Err(invalid(format!("{url}: certificates have no use without TLS; write wss://")));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| invalid(format!("{host:?} is no name that a certificate can be for")))?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(if secure { 443 } else { 80 }));
        let path = if uri.path() == "/" { CONNECT_PATH } else { uri.path() };
        let target = format!("{}://{address}{path}", if secure { "wss" } else { "ws" });
        let mut request = target.into_client_request().map_err(|problem| invalid(problem.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        if let Some(token) = &options.token {
            let mut value =
                HeaderValue::try_from(token.bearer()).map_err(|problem| invalid(problem.to_string()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { address, name: secure.then_some(name), request, options })
    }

    /// Dials until `close`.
    async fn keep(self, hub: Arc<Hub>, close: CancellationToken) -> io::Result<()> {
        let mut failures = 0;
        while !close.is_cancelled() {
            let wait = match self.open(hub.max_message()).await {
                Err(error) => {
                    warn!(worker = hub.name(), server = self.address, %error, "cannot connect");
                    None
                }
                Ok(opened) => {
                    let (end, held) = match opened {
                        Opened::Plain(ws) => link::carry(Arc::clone(&hub), ws, close.clone()).await,
                        Opened::Secure(ws) => link::carry(Arc::clone(&hub), ws, close.clone()).await,
                    };
                    info!(worker = hub.name(), server = self.address, %end, "disconnected");
                    if held {
                        failures = 0;
                    }
                    match end {
                        LinkEnd::Stopped => break,
                        LinkEnd::Closed(after) => after,
                        LinkEnd::Silent | LinkEnd::Protocol | LinkEnd::Broken(_) => None,
                    }
                }
            };
            let wait = wait.unwrap_or_else(|| self.backoff(failures).mul_f64(rand::random()));
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = close.cancelled() => {}
            }
        }
        Ok(())
    }

    /// The upper bound of the wait after so many failures in a row.
    fn backoff(&self, failures: u32) -> Duration {
        let factor = 2u32.saturating_pow(failures);
        self.options.initial_backoff.saturating_mul(factor).min(self.options.max_backoff)
    }

    async fn open(&self, max_message: usize) -> Result<Opened, tungstenite::Error> {
        let limits = Some(socket::limits(max_message));
        let open = async {
            let stream = TcpStream::connect(&self.address).await?;
            socket::tune(&stream)?;
            let request = self.request.clone();
            let Some(name) = &self.name else {
                return client_async_with_config(request, stream, limits)
                    .await
                    .map(|(ws, _)| Opened::Plain(ws));
            };
            let config = self.options.tls.load().map_err(|faults| io::Error::other(told(&faults)))?;
            let stream = TlsConnector::from(config).connect(name.clone(), stream).await?;
            let stream = Box::new(stream);
            let opened = client_async_with_config(request, stream, limits).await;
            opened.map(|(ws, _)| Opened::Secure(ws))
        };
        match tokio::time::timeout(self.options.connect_timeout, open).await {
            Ok(opened) => opened,
            Err(_) => Err(tungstenite::Error::Url(UrlError::UnableToConnect(self.address.clone()))),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    #[test]
    fn a_url_is_completed_or_refused_with_the_reason() {
        let server = |url: &str| Server::new(url, ConnectOptions::default());
        let uri = |url: &str| server(url).expect("a good one").request.uri().to_string();
        assert_eq!(uri("ws://127.0.0.1:7600"), "ws://127.0.0.1:7600/v1/workers/connect");
        assert_eq!(uri("ws://localhost:1/there"), "ws://localhost:1/there");
        for bad in ["http://127.0.0.1:1", "wss://10.0.0.1:1", "127.0.0.1:1", "", "ws://", "ws://10.0.0.1:1"] {
            assert!(server(bad).is_err(), "{bad}");
        }
        let token = Some(Token::new("s3cret").expect("a token"));
        let options = ConnectOptions { token, ..ConnectOptions::default() };
        assert!(Server::new("ws://10.0.0.1:1", options.clone()).is_ok());
        let ca = Some("/no/such/file".into());
        let options = ConnectOptions { tls: ClientFiles { ca, identity: None }, ..options };
        let wrong = Server::new("wss://10.0.0.1:1", options.clone());
        let problem = wrong.err().map(|problem| problem.to_string()).unwrap_or_default();
        assert!(problem.starts_with("tls ca cannot be read: No such file"), "{problem}");
        assert!(Server::new("ws://10.0.0.1:1", options).is_err(), "certificates without TLS");
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound() {
        let server = Server::new("ws://[::1]:1", ConnectOptions::default()).expect("a good one");
        let waits: Vec<_> = [0, 1, 2, 8, 9, 4_000_000_000].map(|n| server.backoff(n).as_millis()).to_vec();
        assert_eq!(waits, [100, 200, 400, 25_600, 30_000, 30_000]);
    }
}
