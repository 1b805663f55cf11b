//! The metrics of one server: what the rest of it calls to have something counted.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::build::{ByWord, counter, counters, gauges, histogram, histograms, sparse_gauges};
use super::catalogue as c;
use super::http::HttpSeries;
use super::labels::Labels;
use super::traffic::TrafficSeries;
use crate::fleet::{PoolName, Topology};

/// A loop whose passes are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// The one that owns the core: dispatch, liveness and deadlines.
    Dispatch,
    /// The one that compares the configuration file.
    Config,
    /// The housekeeping of a store that touches a disk; a store in memory has none, and no series.
    Checkpoint,
}

impl Loop {
    /// Every loop, in label order.
    pub const ALL: [Self; 3] = [Self::Dispatch, Self::Config, Self::Checkpoint];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Config => "config",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Every metric of one server, with a registry of its own. Shared by `Arc`; every method may be
/// called from any thread and none waits for anything but a short lock.
pub struct Metrics {
    pub(super) registry: Registry,
    pub(super) labels: Labels,
    pub(super) http: HttpSeries,
    pub(super) traffic: TrafficSeries,
    pub(super) folded: std::sync::Mutex<std::collections::BTreeSet<crate::fleet::Capability>>,
    pub(super) runtime: OnceLock<tokio::runtime::Handle>,
    pub(super) dispatch: Histogram,
    /// Of requests, and of results.
    pub(super) payload: [Histogram; 2],
    pub(super) discarded: ByWord<IntCounter>,
    pub(super) reconciled: ByWord<IntCounter>,
    pub(super) blocked: ByWord<IntCounter>,
    pub(super) worker_changes: ByWord<IntCounter>,
    pub(super) collect_seconds: GaugeVec,
    pub(super) collect_series: GaugeVec,
    loop_last_tick: GaugeVec,
    loop_lateness: HistogramVec,
    runtime_lag: Histogram,
    panics: IntCounter,
    log_events: ByWord<IntCounter>,
    spans_dropped: IntCounterVec,
    pub(super) store: super::store::StoreSeries,
    pub(super) access: super::access::AccessSeries,
    pub(super) pools: super::pools::PoolSeries,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Registry::new())
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers every family in `registry`, which must be empty.
    pub fn new(registry: Registry) -> Self {
        let by_word = |family: &c::Family| {
            let vec = counters(&registry, family);
            ByWord::of(family, |word| vec.with_label_values(&[word]))
        };
        let overflow = counters(&registry, &c::LABEL_OVERFLOW);
        let payload = histograms(&registry, &c::PAYLOAD);
        let metrics = Self {
            labels: Labels::new(&registry, overflow.clone()),
            http: HttpSeries::new(&registry, overflow),
            traffic: TrafficSeries::new(&registry),
            folded: std::sync::Mutex::default(),
            runtime: OnceLock::new(),
            dispatch: histogram(&registry, &c::DISPATCH),
            payload: ["request", "result"].map(|direction| payload.with_label_values(&[direction])),
            discarded: by_word(&c::RESULTS_DISCARDED),
            reconciled: by_word(&c::RECONCILIATIONS),
            blocked: by_word(&c::DISPATCH_BLOCKED),
            worker_changes: by_word(&c::CONFIG_CHANGES),
            collect_seconds: gauges(&registry, &c::COLLECT_SECONDS),
            collect_series: gauges(&registry, &c::COLLECT_SERIES),
            loop_last_tick: sparse_gauges(&registry, &c::LOOP_LAST_TICK),
            loop_lateness: histograms(&registry, &c::LOOP_LATENESS),
            runtime_lag: histogram(&registry, &c::RUNTIME_LAG),
            panics: counter(&registry, &c::PANICS),
            log_events: by_word(&c::LOG_EVENTS),
            spans_dropped: counters(&registry, &c::TRACE_SPANS_DROPPED),
            store: super::store::StoreSeries::new(&registry),
            access: super::access::AccessSeries::new(&registry),
            pools: super::pools::PoolSeries::new(&registry),
            registry,
        };
        for each in [Loop::Dispatch, Loop::Config] {
            // A loop has the time from the start to its first pass; 0 would look like 1970.
            metrics.loop_passed(each);
        }
        metrics
    }

    /// Takes up a topology that has come into force: its names are there at 0, and the series of
    /// pools and workers that it lacks are gone.
    pub fn topology_applied(&self, topology: &Topology) {
        self.labels.apply(topology);
        self.pools.apply(topology);
    }

    /// Probes are sent to that pool from now on, or none are any more.
    pub fn probed(&self, pool: Option<&PoolName>, is_probed: bool) {
        self.labels.probed(pool, is_probed);
    }

    /// A loop completed a pass that began so much later than planned.
    pub fn loop_tick(&self, which: Loop, lateness: Duration) {
        self.loop_passed(which);
        self.loop_lateness.with_label_values(&[which.as_str()]).observe(lateness.as_secs_f64());
    }

    /// A loop completed a pass that an event woke it for, not a plan.
    pub fn loop_passed(&self, which: Loop) {
        self.loop_last_tick.with_label_values(&[which.as_str()]).set(unix_now());
    }

    /// The probe's sleep took so much longer than asked.
    pub fn runtime_lag(&self, overshoot: Duration) {
        self.runtime_lag.observe(overshoot.as_secs_f64());
    }

    /// Shows this runtime's own numbers; the first call counts.
    pub fn watch_runtime(&self, runtime: tokio::runtime::Handle) {
        self.runtime.get_or_init(|| runtime);
    }

    /// So many spans did not reach the collector; `reason` is one of the catalogue's words.
    pub(super) fn spans_dropped(&self, reason: &'static str, spans: u64) {
        self.spans_dropped.with_label_values(&[reason]).inc_by(spans);
    }

    /// Something panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A line was logged.
    pub fn logged(&self, level: tracing::Level) {
        self.log_events.count(match level {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        });
    }
}

/// The wall clock as Prometheus wants it.
pub(super) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Counts the lines of the log; see [`super::logs`].
pub(super) struct CountLines(pub(super) Arc<Metrics>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for CountLines {
    fn on_event(&self, event: &tracing::Event<'_>, _context: tracing_subscriber::layer::Context<'_, S>) {
        self.0.logged(*event.metadata().level());
    }
}
