//! What the doors count: who showed what, and how long certificates hold.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Registry};

use super::build::{ByWord, counters, sparse_counters, sparse_gauges};
use super::catalogue as c;
use super::metrics::Metrics;
use crate::fleet::ConnectOutcome;
use crate::trust::{Certificate, TlsMeter};

/// Which door somebody came to.
pub(super) const PLANES: [&str; 3] = ["api", "worker", "mcp"];

/// What came of what somebody showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// It was right.
    Ok,
    /// There was nothing.
    Missing,
    /// It was no bearer token.
    Malformed,
    /// Nobody has it.
    Unknown,
    /// It was right once.
    Expired,
    /// It was taken back.
    Revoked,
    /// It is right, for something else.
    Forbidden,
    /// Too many wrong ones came from there.
    Throttled,
}

impl Auth {
    /// Every outcome, in label order.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Revoked,
        Self::Forbidden,
        Self::Throttled,
    ];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
        }
    }
}

pub(super) struct AccessSeries {
    attempts: IntCounterVec,
    expiry: GaugeVec,
    reloads: ByWord<IntCounter>,
}

impl AccessSeries {
    pub(super) fn new(registry: &Registry) -> Self {
        let attempts = sparse_counters(registry, &c::AUTH_ATTEMPTS);
        for outcome in Auth::ALL {
            attempts.with_label_values(&["worker", outcome.as_str()]);
        }
        let reloads = counters(registry, &c::TLS_RELOADS);
        Self {
            attempts,
            expiry: sparse_gauges(registry, &c::TLS_EXPIRY),
            reloads: ByWord::of(&c::TLS_RELOADS, |word| reloads.with_label_values(&[word])),
        }
    }
}

impl Metrics {
    /// A worker that dials in showed a token, or none.
    pub fn worker_auth(&self, outcome: Auth) {
        self.access.attempts.with_label_values(&["worker", outcome.as_str()]).inc();
    }

    /// Somebody dialled in and did not come as far as a name.
    pub fn stranger_refused(&self, outcome: ConnectOutcome) {
        if let Some(pool) = self.labels.names().pool(None) {
            self.labels.connected(pool, outcome, None);
        }
    }
}

impl TlsMeter for Metrics {
    fn certificates_reloaded(&self, outcome: &'static str) {
        self.access.reloads.count(outcome);
    }

    fn certificate_expires(&self, which: Certificate, at: i64) {
        // Exact below 2^53 seconds; "never" is rounded.
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.access.expiry.with_label_values(&[which.as_str()]).set(at as f64);
    }
}
