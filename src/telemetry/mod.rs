//! Metrics and logs: one catalogue, and the one place where what the core notes is counted.

use std::time::Duration;

/// Every metric of the server.
#[derive(Debug, Default)]
pub struct Metrics {}

/// The loops that tick.
#[derive(Debug, Clone, Copy)]
pub enum Loop {
    /// The core's.
    Dispatch,
}

impl Metrics {
    /// Counts what the core noted.
    pub fn note(&self, _note: &crate::fleet::Note) {}

    /// Takes up a topology.
    pub fn topology_applied(&self, _topology: &crate::fleet::Topology) {}

    /// A loop completed a pass.
    pub fn loop_tick(&self, _which: Loop, _lateness: Duration) {}

    /// A commit.
    pub fn store_commit(&self, _took: Duration, _rows: usize) {}

    /// Whether the store takes writes.
    pub fn store_writable(&self, _writable: bool) {}
}

impl crate::interface::LinkMeter for Metrics {
    fn rtt(&self, _worker: &crate::fleet::WorkerName, _rtt: Duration) {}
    fn message(&self, _direction: &'static str, _kind: &'static str, _bytes: usize) {}
    fn protocol_error(&self, _kind: &'static str) {}
    fn dispatched(&self, _took: Duration) {}
}
