//! The figures, what they are held against, and how they are shown: a table for people and
//! `target/bench.json` for programs.

use std::fmt;

use serde::Serialize;

use crate::Failure;
use crate::rounds::CONCURRENCY;

/// One cell of one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// How many callers at once.
    pub(crate) concurrency: usize,
    /// Tasks per second.
    pub(crate) per_second: f64,
    /// Median latency, in microseconds.
    pub(crate) p50_us: f64,
    /// The latency that one in a hundred exceeds, in microseconds.
    pub(crate) p99_us: f64,
    /// CPU time of the server process per task, in microseconds.
    pub(crate) cpu_us: f64,
}

/// What was measured of one server.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Start to ready, in milliseconds.
    pub(crate) starts: Vec<f64>,
    /// Resident memory with one idle worker, in bytes.
    pub(crate) idle_memory: u64,
    /// The closed loops, round by round.
    pub(crate) samples: Vec<Sample>,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The bare proxy.
    pub(crate) proxy: Figures,
    /// Rollcall.
    pub(crate) rollcall: Figures,
    /// Rollcall with tasks that are acknowledged and not waited for, 16 at once.
    pub(crate) acknowledged: Vec<Sample>,
    /// Memory of one idle worker connection, in bytes.
    pub(crate) idle_connection: Option<u64>,
    /// Among how many that was measured.
    pub(crate) idle_workers: usize,
    /// How long a reload with one change took, in milliseconds.
    pub(crate) reload_ms: Option<f64>,
    /// How long the page of per-worker series took, in milliseconds.
    pub(crate) page_ms: Option<f64>,
    /// How long that page is.
    pub(crate) page_bytes: usize,
    /// How long writing as many series directly took, in milliseconds.
    pub(crate) direct_ms: Option<f64>,
    /// With how many workers the last three were measured.
    pub(crate) fleet: usize,
    /// How long the bench took.
    pub(crate) seconds: f64,
}

/// One line of "Targets": a figure and the two values it is held against.
#[derive(Debug, Serialize)]
struct Target {
    property: String,
    must: f64,
    aim: f64,
    measured: f64,
    unit: &'static str,
    /// Whether more is better.
    at_least: bool,
}

impl Target {
    fn verdict(&self) -> &'static str {
        let holds = |limit: f64| if self.at_least { self.measured >= limit } else { self.measured <= limit };
        match (holds(self.must), holds(self.aim)) {
            (_, true) => "PASS (aim)",
            (true, false) => "PASS",
            (false, false) => "below must",
        }
    }
}

/// The middle value; zero when there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

impl Figures {
    fn at(&self, concurrency: usize) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.concurrency == concurrency)
    }

    fn median(&self, concurrency: usize, of: fn(&Sample) -> f64) -> f64 {
        median(&self.at(concurrency).map(of).collect::<Vec<_>>())
    }
}

impl Report {
    /// The median of the rounds' ratios: both halves of each were measured within seconds.
    fn ratio(&self, concurrency: usize, of: fn(&Sample) -> f64) -> f64 {
        let pairs = self.rollcall.at(concurrency).zip(self.proxy.at(concurrency));
        median(&pairs.map(|(ours, limit)| of(ours) / of(limit)).collect::<Vec<_>>())
    }

    fn targets(&self) -> Vec<Target> {
        let line = |property: &str, must, aim, measured, unit, at_least| Target {
            property: property.to_owned(),
            must,
            aim,
            measured,
            unit,
            at_least,
        };
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut targets = vec![
            line("dispatch p50 at 1", 1.5, 1.2, self.ratio(1, |s| s.p50_us), "x (d)", false),
            line("throughput at 16", 0.7, 0.85, self.ratio(16, |s| s.per_second), "x (d)", true),
            line("throughput at 64", 0.7, 0.85, self.ratio(64, |s| s.per_second), "x (d)", true),
            line("server CPU per task at 16", 1.6, 1.25, self.ratio(16, |s| s.cpu_us), "x (d)", false),
        ];
        let spread: Vec<f64> = self.rollcall.at(16).map(|s| s.p99_us / s.p50_us).collect();
        targets.push(line("p99 / p50 at 16", 3.0, 2.0, median(&spread), "", false));
        let start = median(&self.rollcall.starts) / median(&self.proxy.starts);
        targets.push(line("start to ready", 5.0, 2.0, start, "x (d)", false));
        targets.push(line("idle memory", 20.0, 12.0, mebibytes(self.rollcall.idle_memory), "MiB", false));
        if let Some(bytes) = self.idle_connection {
            let property = format!("idle worker connection (of {})", self.idle_workers);
            targets.push(line(&property, 12.0, 8.0, bytes as f64 / 1024.0, "KiB", false));
        }
        if let Some(took) = self.reload_ms {
            let property = format!("reload, {} workers, one change", self.fleet);
            targets.push(line(&property, 300.0, 100.0, took, "ms", false));
        }
        if let (Some(page), Some(direct)) = (self.page_ms, self.direct_ms) {
            let property = format!("/metrics/workers, {} workers", self.fleet);
            targets.push(line(&property, 2.0, 1.2, page / direct, "x direct", false));
        }
        targets
    }

    /// The report for programs.
    ///
    /// # Errors
    /// Only when a figure is not a number.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        let targets: Vec<serde_json::Value> = self
            .targets()
            .iter()
            .map(|target| {
                let mut value = serde_json::to_value(target)?;
                value["verdict"] = target.verdict().into();
                Ok(value)
            })
            .collect::<Result<_, serde_json::Error>>()?;
        Ok(serde_json::to_string_pretty(&serde_json::json!({ "figures": self, "targets": targets }))?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nNo-op tasks, closed loop, medians of the rounds; (d) is the bare proxy.\n")?;
        writeln!(
            f,
            "{:<14} {:>3} {:>10} {:>9} {:>9} {:>12}",
            "", "at", "tasks/s", "p50 us", "p99 us", "CPU us/task"
        )?;
        for concurrency in CONCURRENCY {
            for (name, figures) in [("(d)", &self.proxy), ("Rollcall", &self.rollcall)] {
                if figures.at(concurrency).next().is_none() {
                    continue;
                }
                writeln!(
                    f,
                    "{name:<14} {concurrency:>3} {:>10.0} {:>9.0} {:>9.0} {:>12.1}",
                    figures.median(concurrency, |s| s.per_second),
                    figures.median(concurrency, |s| s.p50_us),
                    figures.median(concurrency, |s| s.p99_us),
                    figures.median(concurrency, |s| s.cpu_us),
                )?;
            }
        }
        if !self.acknowledged.is_empty() {
            let of =
                |field: fn(&Sample) -> f64| median(&self.acknowledged.iter().map(field).collect::<Vec<_>>());
            writeln!(
                f,
                "{:<14} {:>3} {:>10.0} {:>9.0} {:>9.0} {:>12.1}",
                "acknowledged",
                16,
                of(|s| s.per_second),
                of(|s| s.p50_us),
                of(|s| s.p99_us),
                of(|s| s.cpu_us)
            )?;
        }
        writeln!(
            f,
            "\nready after start: (d) {:.1} ms, Rollcall {:.1} ms; idle memory: (d) {:.1} MiB, Rollcall {:.1} MiB",
            median(&self.proxy.starts),
            median(&self.rollcall.starts),
            self.proxy.idle_memory as f64 / f64::from(1 << 20),
            self.rollcall.idle_memory as f64 / f64::from(1 << 20),
        )?;
        if self.rollcall.samples.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{:<40} {:>8} {:>8} {:>10}", "Targets", "must", "aim", "measured")?;
        for target in self.targets() {
            let sign = if target.at_least { ">=" } else { "<=" };
            writeln!(
                f,
                "{:<40} {sign}{:>6} {sign}{:>6} {:>10.2} {:<8} {}",
                target.property,
                target.must,
                target.aim,
                target.measured,
                target.unit,
                target.verdict()
            )?;
        }
        write!(f, "\nmeasured in {:.0} s", self.seconds)
    }
}
