//! The worker's own series, for `/metrics` on its port.

use std::time::Duration;

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::outcome::{Outcome, Usage};
use crate::sandbox::Sandbox;

/// Run times from a bare start to the longest that is allowed, in seconds.
const BUCKETS: [f64; 12] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];

/// What this process has run. Cheap to clone; the clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    runs: IntCounterVec,
    seconds: Histogram,
    cpu_seconds: prometheus::Counter,
    running: IntGauge,
    stuck: IntGauge,
    warm: IntGauge,
    sessions: IntGauge,
}

/// A run that is counted as running until this is dropped.
#[derive(Debug)]
pub struct Running(IntGauge);

impl Metrics {
    /// Makes the series, each outcome at zero.
    ///
    /// # Errors
    /// When a name is taken or not valid, which is a bug.
    pub fn new() -> prometheus::Result<Self> {
        let runs = Opts::new("rollcall_sandbox_runs_total", "Runs that have ended, by outcome.");
        let seconds =
            HistogramOpts::new("rollcall_sandbox_run_seconds", "Wall time of a run, set-up included.");
        let metrics = Self {
            registry: Registry::new(),
            runs: IntCounterVec::new(runs, &["outcome"])?,
            seconds: Histogram::with_opts(seconds.buckets(BUCKETS.to_vec()))?,
            cpu_seconds: prometheus::Counter::new(
                "rollcall_sandbox_cpu_seconds_total",
                "CPU time that runs used, as far as control groups tell.",
            )?,
            running: IntGauge::new("rollcall_sandbox_running", "Sandboxes that run now.")?,
            stuck: IntGauge::new(
                "rollcall_sandbox_stuck_groups",
                "Control groups that could not be removed; each keeps a slot out of service.",
            )?,
            warm: IntGauge::new("rollcall_sandbox_warm", "Sandboxes that are ready and wait for a task.")?,
            sessions: IntGauge::new("rollcall_sandbox_sessions", "Sessions that are open.")?,
        };
        for outcome in Outcome::ALL {
            metrics.runs.with_label_values(&[outcome.as_str()]);
        }
        metrics.registry.register(Box::new(metrics.runs.clone()))?;
        metrics.registry.register(Box::new(metrics.seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.cpu_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.running.clone()))?;
        for gauge in [&metrics.stuck, &metrics.warm, &metrics.sessions] {
            metrics.registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    /// A run begins.
    pub fn begin(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// A run has ended.
    pub fn ended(&self, outcome: Outcome, usage: &Usage) {
        self.runs.with_label_values(&[outcome.as_str()]).inc();
        self.seconds.observe(usage.wall.as_secs_f64());
        self.cpu_seconds.inc_by(usage.cpu.unwrap_or(Duration::ZERO).as_secs_f64());
    }

    /// The page, with what the sandboxes are now.
    pub fn page(&self, sandbox: &Sandbox) -> String {
        self.show(sandbox.stuck(), sandbox.warm(), sandbox.sessions())
    }

    fn show(&self, stuck: usize, warm: usize, sessions: usize) -> String {
        for (gauge, count) in [(&self.stuck, stuck), (&self.warm, warm), (&self.sessions, sessions)] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut page = Vec::new();
        if let Err(problem) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%problem, "the metrics page cannot be written");
        }
        String::from_utf8_lossy(&page).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_there_before_the_first_run_and_counts_after_it() {
        let metrics = Metrics::new().expect("valid names");
        let running = metrics.begin();
        let page = metrics.show(0, 2, 1);
        for outcome in Outcome::ALL {
            let line = format!("rollcall_sandbox_runs_total{{outcome=\"{}\"}} 0\n", outcome.as_str());
            assert!(page.contains(&line), "{page}");
        }
        for line in
            ["rollcall_sandbox_running 1\n", "rollcall_sandbox_warm 2\n", "rollcall_sandbox_sessions 1\n"]
        {
            assert!(page.contains(line), "{page}");
        }
        drop(running);
        metrics.ended(Outcome::Timeout, &Usage { wall: Duration::from_secs(3), ..Usage::default() });
        let page = metrics.show(2, 0, 1);
        assert!(page.contains("rollcall_sandbox_running 0\n"));
        assert!(page.contains("rollcall_sandbox_runs_total{outcome=\"timeout\"} 1\n"));
        assert!(page.contains("rollcall_sandbox_run_seconds_bucket{le=\"5\"} 1\n"));
        assert!(page.contains("rollcall_sandbox_stuck_groups 2\n"));
    }
}
