//! The series about the store.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, Histogram, IntCounterVec, Registry};

use super::build::{counters, gauge, gauges, histogram, histograms};
use super::catalogue as c;
use super::metrics::Metrics;

/// What the store was doing when it failed; a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreStep {
    /// Commits, the housekeeping between them, and beginning anew after a failure.
    Write,
    /// Reads for callers.
    Read,
}

impl StoreStep {
    /// Every step, in label order.
    pub const ALL: [Self; 2] = [Self::Write, Self::Read];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A call of the store beside the commits; a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreCall {
    /// One record, key or log, its wait for a turn included.
    Read,
    /// Lists and counts, the same.
    Scan,
    /// The housekeeping, which deletes what is due and moves the log into the database.
    Delete,
}

impl StoreCall {
    /// Every call, in label order.
    pub const ALL: [Self; 3] = [Self::Read, Self::Scan, Self::Delete];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Scan => "scan",
            Self::Delete => "delete",
        }
    }
}

pub(super) struct StoreSeries {
    /// In `StoreCall::ALL` order.
    calls: [Histogram; StoreCall::ALL.len()],
    commit: Histogram,
    batch: Histogram,
    writable: Gauge,
    errors: IntCounterVec,
    size: GaugeVec,
    free: Gauge,
}

impl StoreSeries {
    pub(super) fn new(registry: &Registry) -> Self {
        let calls = histograms(registry, &c::STORE_OPERATION);
        let series = Self {
            calls: StoreCall::ALL.map(|call| calls.with_label_values(&[call.as_str()])),
            commit: histogram(registry, &c::STORE_COMMIT),
            batch: histogram(registry, &c::STORE_BATCH),
            writable: gauge(registry, &c::STORE_WRITABLE),
            errors: counters(registry, &c::STORE_ERRORS),
            size: gauges(registry, &c::STORE_SIZE),
            free: gauge(registry, &c::STORE_FREE),
        };
        series.writable.set(1.0);
        // A store without a disk never runs out of it: no alert on little space may fire.
        series.free.set(f64::NAN);
        series
    }
}

impl Metrics {
    /// The journal committed that many records.
    pub fn store_commit(&self, took: Duration, rows: usize) {
        self.store.commit.observe(took.as_secs_f64());
        self.store.batch.observe(super::page::float(rows));
    }

    /// A call of the store took so long, well or not.
    pub fn store_call(&self, call: StoreCall, took: Duration) {
        let calls = StoreCall::ALL.iter().zip(&self.store.calls);
        for (_, histogram) in calls.filter(|(known, _)| **known == call) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// The journal takes everything (true), or refuses some or all writes.
    pub fn store_writable(&self, writable: bool) {
        self.store.writable.set(if writable { 1.0 } else { 0.0 });
    }

    /// A step of the store failed; `kind` is one of the catalogue's words.
    pub fn store_failed(&self, step: StoreStep, kind: &'static str) {
        self.store.errors.with_label_values(&[step.as_str(), kind]).inc();
    }

    /// How large the store's files are, and what the disk has left, in bytes.
    pub fn store_size(&self, db: u64, wal: u64, free: u64) {
        let bytes = |number: u64| super::page::float(usize::try_from(number).unwrap_or(usize::MAX));
        self.store.size.with_label_values(&["db"]).set(bytes(db));
        self.store.size.with_label_values(&["wal"]).set(bytes(wal));
        self.store.free.set(bytes(free));
    }
}
