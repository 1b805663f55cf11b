//! An HTTP endpoint that is told how many instances there ought to be: the document, signed, with a
//! few tries within the time of one call. Only the address that the file names is spoken to:
//! redirects are failures, and so are addresses that clouds keep their secrets at.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::signature::{SIGNATURE, TIMESTAMP, signature};
use super::{Document, HookFault, Instances, Provider};
use crate::fleet::{HookSpec, PoolSpec, Wanted};
use crate::interface::BoxFuture;
use crate::trust::{ClientFiles, Tls, Trust};

/// Tries of one call, and the wait before the second; it doubles.
const TRIES: u32 = 3;
/// See [`TRIES`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// The provider `webhook`.
#[derive(Clone, Default)]
pub struct Webhook {
    /// For `https://`: whom to believe, what to show, and the thread that shakes hands.
    pub trust: Trust,
}

impl Provider for Webhook {
    fn reconcile(&self, pool: Arc<PoolSpec>, wanted: Arc<Wanted>) -> BoxFuture<Result<Instances, HookFault>> {
        let files = self.trust.credentials().hook(&pool.name);
        let tls = self.trust.tls.clone();
        Box::pin(async move {
            let Some(hook) = pool.scaling.hook.as_ref() else {
                return Err(HookFault::Failed("the pool has no url".to_owned()));
            };
            let body = Bytes::from(Document::of(&pool, &wanted).bytes());
            let call = tokio::time::timeout(hook.timeout, call(hook, body, (&tls, &files)));
            call.await.unwrap_or(Err(HookFault::Timeout(hook.timeout)))
        })
    }
}

/// Whether another try may help.
enum Tried {
    Done,
    Refused(String),
    Again(String),
}

async fn call(hook: &HookSpec, body: Bytes, tls: (&Tls, &ClientFiles)) -> Result<Instances, HookFault> {
    let mut wait = FIRST_WAIT;
    let mut tries = 1;
    loop {
        match post(hook, body.clone(), tls).await {
            Tried::Done => return Ok(Instances::default()),
            Tried::Refused(why) => return Err(HookFault::Failed(why)),
            Tried::Again(why) if tries == TRIES => {
                return Err(HookFault::Failed(format!("{why} ({TRIES} tries)")));
            }
            Tried::Again(_) => {}
        }
        tokio::time::sleep(wait).await;
        (wait, tries) = (wait * 2, tries + 1);
    }
}

async fn post(hook: &HookSpec, body: Bytes, tls: (&Tls, &ClientFiles)) -> Tried {
    let Ok(uri) = hook.url.parse::<Uri>() else { return Tried::Refused("its url is not one".to_owned()) };
    let Some(host) = uri.host() else { return Tried::Refused("its url names no host".to_owned()) };
    let secure = uri.scheme_str() == Some("https");
    let usual = if secure { 443 } else { 80 };
    let address = match resolve(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(usual)).await {
        Ok(address) => address,
        Err(tried) => return tried,
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let timestamp = seconds.to_string();
    let request = Request::post(path)
        .header(HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(USER_AGENT, concat!("rollcall/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(SIGNATURE, signature(&hook.secret, &timestamp, &body))
        .header(TIMESTAMP, timestamp)
        .body(Full::new(body));
    match request {
        Ok(request) => exchange(address, request, secure.then_some((host, tls))).await,
        Err(error) => Tried::Refused(format!("its url cannot be asked for: {error}")),
    }
}

/// The first address of the host that may be spoken to.
async fn resolve(host: &str, port: u16) -> Result<SocketAddr, Tried> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| Tried::Again(format!("{host} has no address: {error}")))?;
    let refused =
        format!("{host} is an address that is never spoken to: link-local, multicast or unspecified");
    found.into_iter().find(|address| is_allowed(address.ip())).ok_or(Tried::Refused(refused))
}

/// Link-local addresses hand out a cloud machine's credentials to whoever asks.
fn is_allowed(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !link_local && !address.is_multicast() && !address.is_unspecified()
}

/// Whom to speak to under TLS, and how.
type Secure<'t> = (&'t str, (&'t Tls, &'t ClientFiles));

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>, secure: Option<Secure<'_>>) -> Tried {
    let failed = |error: &dyn std::fmt::Display| Tried::Again(format!("cannot reach {address}: {error}"));
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return failed(&error),
    };
    let Some((host, (tls, files))) = secure else { return over(address, stream, request).await };
    match tls.connect(stream, host, files).await {
        Ok(stream) => over(address, stream, request).await,
        Err(error) => failed(&error),
    }
}

async fn over<S>(address: SocketAddr, stream: S, request: Request<Full<Bytes>>) -> Tried
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::fmt::Display| Tried::Again(format!("cannot reach {address}: {error}"));
    let (mut sender, connection) = match handshake(TokioIo::new(stream)).await {
        Ok(connected) => connected,
        Err(error) => return failed(&error),
    };
    // The connection ends with the sender, which the exchange takes with it.
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // The answer's text has no meaning; it is read so that the other side can write it.
        drop(Limited::new(response.into_body(), MAX_ANSWER).collect().await);
        Ok::<_, hyper::Error>(status)
    };
    let (answered, _how_it_ended) = tokio::join!(exchange, connection);
    match answered {
        Ok(status) if status.is_success() => Tried::Done,
        Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Tried::Again(format!("{address} answered {status}"))
        }
        Ok(status) => Tried::Refused(format!("{address} answered {status}")),
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_give_secrets_away_are_never_spoken_to() {
        for wrong in
            ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "ff02::1"]
        {
            assert!(!is_allowed(wrong.parse().expect("an address")), "{wrong}");
        }
        for right in ["127.0.0.1", "10.0.0.7", "2001:db8::1"] {
            assert!(is_allowed(right.parse().expect("an address")), "{right}");
        }
    }
}
