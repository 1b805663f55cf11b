//! What can go wrong between us and the server, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a request has no answer that can be used.
#[derive(Debug)]
pub enum ClientError {
    /// The server's address is none.
    Address {
        /// What was given.
        base: String,
        /// What is wrong with it.
        why: String,
    },
    /// The request cannot be written.
    Request(String),
    /// No connection could be made.
    Unreachable {
        /// The server.
        base: Arc<str>,
        /// Why.
        source: io::Error,
    },
    /// The connection ended within the exchange: whether the request was carried out is unknown.
    Broken {
        /// The server.
        base: Arc<str>,
        /// Why.
        why: String,
    },
    /// The answer did not come in time.
    Timeout {
        /// The server.
        base: Arc<str>,
        /// The limit.
        after: Duration,
    },
    /// The server refused the request and said why.
    Problem(Box<Problem>),
    /// The answer is not what was expected.
    Answer(String),
}

/// A refusal, as RFC 9457 says it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A short, stable word; empty when the answer did not come from Rollcall.
    pub code: String,
    /// What is wrong, in general.
    pub title: String,
    /// What is wrong here.
    pub detail: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether the same request may do better later.
    pub retryable: bool,
    /// Seconds to wait before.
    #[serde(deserialize_with = "seconds")]
    pub retry_after: Option<u64>,
    /// Everything else that the answer bore.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A number of seconds, whole or not; anything else counts as not said.
fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(from)?;
    let rounded_up = value.as_u64().or_else(|| {
        let seconds = value.as_f64()?.ceil();
        Duration::try_from_secs_f64(seconds).ok().map(|span| span.as_secs())
    });
    Ok(rounded_up)
}

impl Problem {
    /// Reads a refusal. One that is no problem+json (a proxy's page, say) keeps its first line.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().next().unwrap_or_default();
            Self { detail: line.chars().take(200).collect(), ..Self::default() }
        });
        problem.status = status.as_u16();
        if problem.title.is_empty() {
            problem.title = status.canonical_reason().unwrap_or("refused").to_lowercase();
        }
        problem.retry_after = problem
            .retry_after
            .or_else(|| headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()));
        problem
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.detail.is_empty() { &self.title } else { &self.detail };
        f.write_str(what)?;
        match self.code.as_str() {
            "" => write!(f, " (HTTP {})", self.status)?,
            code => write!(f, " ({code})")?,
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        if let Some(seconds) = self.retry_after {
            write!(f, "; try again in {seconds} s")?;
        }
        Ok(())
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { base, why } => {
                write!(f, "{base:?} is no server address: {why}; one looks like {}", super::DEFAULT_SERVER)
            }
            Self::Request(why) => write!(f, "the request cannot be sent: {why}"),
            Self::Unreachable { base, source } => write!(
                f,
                "cannot reach {base}: {}; is `rollcall serve` running? use --server or ROLLCALL_SERVER",
                plain(source)
            ),
            Self::Broken { base, why } => {
                write!(f, "{base} broke off: {why}; whether it did what was asked is not known")
            }
            Self::Timeout { base, after } => write!(f, "{base} did not answer within {after:?}"),
            Self::Problem(problem) => problem.fmt(f),
            Self::Answer(why) => f.write_str(why),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source),
            Self::Address { .. }
            | Self::Request(_)
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::Problem(_)
            | Self::Answer(_) => None,
        }
    }
}

/// An I/O error without the system's number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}
