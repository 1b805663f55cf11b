//! What the connections to workers count.

use std::time::Duration;

use prometheus::{IntCounter, Registry};

use super::build::{ByWord, counters, sparse_counters};
use super::catalogue as c;
use super::metrics::Metrics;
use crate::fleet::WorkerName;
use crate::interface::LinkMeter;

/// The types of frames of `rollcall.v1`, the WebSocket's own, and what stands for all others.
pub(super) const FRAME_TYPES: [&str; 21] = [
    "register",
    "registered",
    "execute",
    "accepted",
    "rejected",
    "output",
    "progress",
    "artifact",
    "credit",
    "result",
    "result_ack",
    "cancel",
    "heartbeat",
    "drain",
    "goodbye",
    "error",
    "ping",
    "pong",
    "close",
    "binary",
    "other",
];

/// What only workers say: there is no series for the server's saying it.
const ONLY_IN: [&str; 7] = ["register", "accepted", "rejected", "output", "progress", "artifact", "result"];
/// What only the server says.
const ONLY_OUT: [&str; 6] = ["registered", "execute", "credit", "result_ack", "cancel", "drain"];

struct Traffic {
    messages: IntCounter,
    bytes: IntCounter,
}

pub(super) struct TrafficSeries {
    received: ByWord<Traffic>,
    sent: ByWord<Traffic>,
    protocol_errors: ByWord<IntCounter>,
}

impl TrafficSeries {
    pub(super) fn new(registry: &Registry) -> Self {
        let messages = sparse_counters(registry, &c::WS_MESSAGES);
        let bytes = sparse_counters(registry, &c::WS_BYTES);
        let errors = counters(registry, &c::WS_PROTOCOL_ERRORS);
        let traffic = |direction: &'static str, never: &[&str]| {
            ByWord::of_all_but(never, &c::WS_MESSAGES, |kind| Traffic {
                messages: messages.with_label_values(&[direction, kind]),
                bytes: bytes.with_label_values(&[direction, kind]),
            })
        };
        Self {
            received: traffic("in", &ONLY_OUT),
            sent: traffic("out", &ONLY_IN),
            protocol_errors: ByWord::of(&c::WS_PROTOCOL_ERRORS, |kind| errors.with_label_values(&[kind])),
        }
    }
}

impl LinkMeter for Metrics {
    fn rtt(&self, worker: &WorkerName, rtt: Duration) {
        if let Some(pool) = self.labels.names().of_worker(worker) {
            pool.rtt.observe(rtt.as_secs_f64());
        }
    }

    fn message(&self, direction: &'static str, kind: &'static str, bytes: usize) {
        let traffic = if direction == "in" { &self.traffic.received } else { &self.traffic.sent };
        if let Some(traffic) = traffic.get(kind).or_else(|| traffic.get("other")) {
            traffic.messages.inc();
            traffic.bytes.inc_by(bytes as u64);
        }
    }

    fn protocol_error(&self, kind: &'static str) {
        self.traffic.protocol_errors.count(kind);
    }

    fn dispatched(&self, took: Duration) {
        self.dispatch.observe(took.as_secs_f64());
    }
}
