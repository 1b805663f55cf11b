//! What the HTTP face counts: requests, those in flight, those refused at the door, and streams.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::build::{ByWord, counter, counters, gauge, histograms};
use super::catalogue as c;
use super::metrics::Metrics;
use super::names::OTHER;

/// The methods that are told apart; the last stands for all others.
pub(super) const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", OTHER];

/// Routes with series of their own. The program has far fewer; this holds if a caller hands in a
/// path by mistake.
const MAX_ROUTES: usize = 200;

/// Why a request was refused before a handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Too many from there.
    RateLimit,
    /// Its head or body is over the limit.
    TooLarge,
    /// It came too slowly.
    Timeout,
    /// As many as the server answers at once.
    Overload,
    /// A `Host` that is not ours.
    Host,
    /// An `Origin` that is not allowed.
    Origin,
}

impl Rejected {
    /// Every reason, in label order.
    pub const ALL: [Self; 6] =
        [Self::RateLimit, Self::TooLarge, Self::Timeout, Self::Overload, Self::Host, Self::Origin];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Overload => "overload",
            Self::Host => "host",
            Self::Origin => "origin",
        }
    }
}

/// Why the server closed a stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Its reader fell too far behind.
    Slow,
    /// As many streams as may be open.
    Limit,
}

impl Eviction {
    /// Every reason, in label order.
    pub const ALL: [Self; 2] = [Self::Slow, Self::Limit];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Limit => "limit",
        }
    }
}

pub(super) struct HttpSeries {
    routes: Mutex<BTreeSet<Box<str>>>,
    overflow: IntCounterVec,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: Gauge,
    rejected: ByWord<IntCounter>,
    streams: Gauge,
    events: IntCounter,
    evictions: ByWord<IntCounter>,
}

impl HttpSeries {
    pub(super) fn new(registry: &Registry, overflow: IntCounterVec) -> Self {
        let by_word = |family: &c::Family| {
            let vec = counters(registry, family);
            ByWord::of(family, |word| vec.with_label_values(&[word]))
        };
        Self {
            routes: Mutex::default(),
            overflow,
            requests: counters(registry, &c::HTTP_REQUESTS),
            duration: histograms(registry, &c::HTTP_DURATION),
            in_flight: gauge(registry, &c::HTTP_IN_FLIGHT),
            rejected: by_word(&c::HTTP_REJECTED),
            streams: gauge(registry, &c::SSE_STREAMS),
            events: counter(registry, &c::SSE_EVENTS),
            evictions: by_word(&c::SSE_EVICTIONS),
        }
    }

    /// The route itself, or `other` once there are too many.
    fn route<'a>(&self, route: &'a str, family: &c::Family) -> &'a str {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.contains(route) {
            return route;
        }
        if routes.len() >= MAX_ROUTES {
            self.overflow.with_label_values(&[family.name]).inc();
            return OTHER;
        }
        routes.insert(route.into());
        route
    }
}

fn method_word(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

impl Metrics {
    /// Announces a route, so that its series are there at 0 before the first request: `route` is
    /// its template, `codes` are those that it usually answers with. What it returns counts those
    /// without looking anything up; [`Metrics::http_request`] counts all others.
    pub fn http_route(&self, method: &str, route: &str, codes: &[u16]) -> RouteSeries {
        let method = method_word(method);
        let route = self.http.route(route, &c::HTTP_REQUESTS);
        let requests = |code: &u16| {
            let labels = [method, route, &code.to_string()];
            (*code, self.http.requests.with_label_values(&labels))
        };
        RouteSeries {
            requests: codes.iter().map(requests).collect(),
            duration: self.http.duration.with_label_values(&[method, route]),
        }
    }

    /// A request was answered. `route` is the template that it matched (`/v1/tasks/{id}`), or a
    /// fixed word where it matched none; never its path. `took` is `None` for a stream of events.
    pub fn http_request(&self, method: &str, route: &str, code: u16, took: Option<Duration>) {
        let method = method_word(method);
        let route = self.http.route(route, &c::HTTP_REQUESTS);
        // Three digits, without an allocation for each request.
        let digits = [code / 100, code / 10, code].map(|n| b'0' + (n % 10).to_le_bytes()[0]);
        let code = std::str::from_utf8(&digits).unwrap_or("000");
        self.http.requests.with_label_values(&[method, route, code]).inc();
        if let Some(took) = took {
            self.http.duration.with_label_values(&[method, route]).observe(took.as_secs_f64());
        }
    }

    /// A request is being answered until the guard is dropped.
    pub fn http_in_flight(&self) -> InFlight {
        self.http.in_flight.inc();
        InFlight(self.http.in_flight.clone())
    }

    /// A request was refused before a handler saw it.
    pub fn http_rejected(&self, reason: Rejected) {
        self.http.rejected.count(reason.as_str());
    }

    /// A stream of events is open until the guard is dropped.
    pub fn sse_stream(&self) -> SseStream {
        self.http.streams.inc();
        SseStream { streams: self.http.streams.clone(), events: self.http.events.clone() }
    }

    /// The server closed a stream, or did not open it.
    pub fn sse_evicted(&self, reason: Eviction) {
        self.http.evictions.count(reason.as_str());
    }
}

/// The series of one route.
pub struct RouteSeries {
    requests: Vec<(u16, IntCounter)>,
    duration: Histogram,
}

impl RouteSeries {
    /// A request was answered; as [`Metrics::http_request`]. False, and not counted, for a code that
    /// the route was not announced with.
    pub fn request(&self, code: u16, took: Option<Duration>) -> bool {
        let Some((_, requests)) = self.requests.iter().find(|(known, _)| *known == code) else {
            return false;
        };
        requests.inc();
        if let Some(took) = took {
            self.duration.observe(took.as_secs_f64());
        }
        true
    }
}

/// A request in flight.
#[must_use = "the request counts as in flight until this is dropped"]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An open stream of events.
#[must_use = "the stream counts as open until this is dropped"]
pub struct SseStream {
    streams: Gauge,
    events: IntCounter,
}

impl SseStream {
    /// An event was sent on it.
    pub fn sent(&self) {
        self.events.inc();
    }
}

impl Drop for SseStream {
    fn drop(&mut self) {
        self.streams.dec();
    }
}
