//! A small HTTP/1.1 client for our own API, used by the command line, the bench and the stories:
//! JSON in and out, problems decoded, connections reused, everything bounded in size and time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

mod error;
mod events;
mod pool;

pub use error::{ClientError, Problem};
pub use events::{Events, ServerEvent};

use pool::Pool;

/// Where a server listens unless it is told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7600";
/// The largest answer that is read into memory.
const MAX_ANSWER: usize = 64 << 20;
/// How long an answer may take unless the request says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one server. Clone it freely: clones share the connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    base: Arc<str>,
    host: HeaderValue,
    prefix: String,
    key: Option<HeaderValue>,
    pool: Pool,
}

/// A request; [`Client::get`] and its like make the usual ones.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
}

impl Request {
    /// A request without a body. `path` begins with `/` and may have a query.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        Self { method, path: path.into(), headers, body: Bytes::new(), timeout: DEFAULT_TIMEOUT }
    }

    /// Sends this value as JSON.
    ///
    /// # Errors
    /// [`ClientError::Request`] when the value has no JSON form.
    pub fn json(self, body: &impl Serialize) -> Result<Self, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Request(error.to_string()))?;
        Ok(self.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body))
    }

    /// Sends these bytes.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// How long the whole exchange may take; 30 s unless said here.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }
}

/// A whole answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as a value; anything but a status of success is an error.
    ///
    /// # Errors
    /// [`ClientError::Problem`] for a refusal, [`ClientError::Answer`] for a body of another shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if !self.status.is_success() {
            return Err(ClientError::Problem(Box::new(Problem::read(
                self.status,
                &self.headers,
                &self.body,
            ))));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            ClientError::Answer(format!(
                "the server's answer is not what this version of rollcall expects: {error}"
            ))
        })
    }
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:7600`.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `base` is no `http://` URL.
    pub fn new(base: &str) -> Result<Self, ClientError> {
        Self::with_key(base, None)
    }

    /// A client that shows an access key.
    ///
    /// # Errors
    /// As [`Client::new`], and [`ClientError::Request`] for a key that no header can carry.
    pub fn with_key(base: &str, key: Option<&str>) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Address { base: base.into(), why: why.into() };
        let uri: Uri = base.parse().map_err(|_| bad("it is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("https is not spoken yet; use http on this machine")),
            Some(_) | None => return Err(bad("it does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad("only a host, a port and a path may be in it"));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("its host is odd"))?;
        let key = key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
                ClientError::Request("the access key has characters that no header can carry".to_owned())
            })?;
            value.set_sensitive(true);
            Ok::<_, ClientError>(value)
        });
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self(Arc::new(Inner {
            base: base.trim_end_matches('/').into(),
            host,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            key: key.transpose()?,
            pool: Pool::new(name, authority.port_u16().unwrap_or(80)),
        })))
    }

    /// The server's address, as it was given.
    pub fn base(&self) -> &str {
        &self.0.base
    }

    /// `GET path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Request::new(Method::GET, path)).await?.json()
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Request::new(Method::POST, path).json(body)?).await?.json()
    }

    /// `POST path` without a body, for words like `cancel`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn act<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Request::new(Method::POST, path)).await?.json()
    }

    /// `DELETE path`; the answer's body, if any, is not read as anything.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        let answer = self.send(Request::new(Method::DELETE, path)).await?;
        if answer.status.is_success() { Ok(()) } else { answer.json::<serde::de::IgnoredAny>().map(drop) }
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// See [`ClientError`]; never [`ClientError::Problem`].
    pub async fn send(&self, request: Request) -> Result<Answer, ClientError> {
        let limit = request.timeout;
        let exchange = async {
            let (parts, body, connection) = self.begin(request).await?;
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return ClientError::Answer(format!("the answer is larger than {MAX_ANSWER} bytes"));
                }
                match error.downcast::<hyper::Error>() {
                    Ok(error) => self.broken(&error),
                    Err(other) => ClientError::Answer(other.to_string()),
                }
            })?;
            self.0.pool.give_back(connection);
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        timeout(limit, exchange).await.unwrap_or_else(|_| Err(self.silent(limit)))
    }

    /// Follows a stream of events. `last_id` goes on behind that event.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, path: &str, last_id: Option<&str>) -> Result<Events, ClientError> {
        let mut request =
            Request::new(Method::GET, path).header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id {
            let id = HeaderValue::from_str(id).map_err(|error| ClientError::Request(error.to_string()))?;
            request = request.header(HeaderName::from_static("last-event-id"), id);
        }
        let limit = request.timeout;
        let begun = timeout(limit, self.begin(request)).await.map_err(|_| self.silent(limit))?;
        let (parts, body, connection) = begun?;
        if parts.status.is_success() {
            return Ok(Events::new(self.clone(), body, connection));
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(ClientError::Problem(Box::new(Problem::read(parts.status, &parts.headers, &body))))
    }

    /// Sends the request and reads the head of the answer.
    async fn begin(
        &self,
        request: Request,
    ) -> Result<(hyper::http::response::Parts, Incoming, pool::Connection), ClientError> {
        let inner = &*self.0;
        let path = format!("{}{}", inner.prefix, request.path);
        let mut message = hyper::Request::builder()
            .method(request.method)
            .uri(path)
            .body(Full::new(request.body))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        *message.headers_mut() = request.headers;
        message.headers_mut().insert(HOST, inner.host.clone());
        if let Some(key) = &inner.key {
            message.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        let (response, connection) = inner.pool.exchange(message).await.map_err(|error| match error {
            pool::Failure::Unreachable(source) => {
                ClientError::Unreachable { base: inner.base.clone(), source }
            }
            pool::Failure::Broken(error) => self.broken(&error),
        })?;
        let (parts, body) = response.into_parts();
        Ok((parts, body, connection))
    }

    fn silent(&self, after: Duration) -> ClientError {
        ClientError::Timeout { base: self.0.base.clone(), after }
    }

    fn broken(&self, error: &hyper::Error) -> ClientError {
        ClientError::Broken { base: self.0.base.clone(), why: error.to_string() }
    }
}

/// A value as it may stand in a path or a query.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
