//! The figures, what they are held against, and how they are shown: a table for people and
//! `target/bench.json` for programs.

use std::fmt;

use serde::Serialize;

use crate::Failure;
use crate::durable::CLIENTS;
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

/// What was measured with the store on the disk.
#[derive(Debug, Default, Serialize)]
pub(crate) struct OnDisk {
    /// Rows in each commit, and rows per second, of SQLite alone.
    pub(crate) raw: Vec<(usize, f64)>,
    /// Tasks that are acknowledged and not waited for.
    pub(crate) acknowledged: Vec<Sample>,
    /// The bare proxy that commits before it dispatches.
    pub(crate) proxy: Vec<Sample>,
    /// Tasks that are waited for.
    pub(crate) unkeyed: Vec<Sample>,
    /// The same with an idempotency key.
    pub(crate) keyed: Vec<Sample>,
    /// Tasks that wait in the store, and how long a start with them takes, in milliseconds.
    pub(crate) restarts: Vec<(usize, f64)>,
}

/// What the core takes for a task beside so many workers and waiting tasks.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct CoreCost {
    /// Workers.
    pub(crate) workers: usize,
    /// Tasks that wait.
    pub(crate) waiting: usize,
    /// Nanoseconds per task.
    pub(crate) nanos: f64,
}

impl fmt::Display for CoreCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, waiting, nanos } = self;
        write!(f, "the core, {workers:>6} workers, {waiting:>7} waiting: {nanos:>6.0} ns a task")
    }
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The bare proxy.
    pub(crate) proxy: Figures,
    /// Rollcall.
    pub(crate) rollcall: Figures,
    /// With the store on the disk.
    pub(crate) on_disk: OnDisk,
    /// What the core takes for a task.
    pub(crate) core: Vec<CoreCost>,
    /// What counting takes of a task, in nanoseconds.
    pub(crate) counting_nanos: Option<f64>,
    /// Memory of one idle worker connection, in bytes.
    pub(crate) idle_connection: Option<u64>,
    /// Among how many that was measured.
    pub(crate) idle_workers: usize,
    /// How long a reload with one change took, in milliseconds.
    pub(crate) reload_ms: Option<f64>,
    /// How long the page of per-worker series took, in milliseconds.
    pub(crate) page_ms: Option<f64>,
    /// How long the page of the fleet took beside so many workers, in milliseconds.
    pub(crate) fleet_page_ms: Option<f64>,
    /// The p99 of tasks while that page of workers was scraped, over that of tasks alone.
    pub(crate) beside_scrapes: Option<f64>,
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
        if let Some(nanos) = self.counting_nanos {
            let share = 100.0 * nanos / 1e3 / self.rollcall.median(16, |s| s.cpu_us);
            targets.push(line("cost of metrics, of CPU per task at 16", 5.0, 2.0, share, "%", false));
        }
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
        if let Some(took) = self.fleet_page_ms {
            let property = format!("/metrics, {} workers", self.fleet);
            targets.push(line(&property, 20.0, 10.0, took, "ms", false));
        }
        if let Some(ratio) = self.beside_scrapes {
            targets.push(line("dispatch p99 while workers are scraped", 2.0, 1.2, ratio, "x alone", false));
        }
        let of = |samples: &[Sample], clients| {
            let rates = samples.iter().filter(|sample| sample.concurrency == clients);
            median(&rates.map(|sample| sample.per_second).collect::<Vec<_>>())
        };
        if !self.on_disk.proxy.is_empty() {
            let limit = of(&self.on_disk.proxy, 16);
            let accepted = of(&self.on_disk.acknowledged, 16) / limit;
            targets.push(line("acknowledged tasks at 16", 0.8, 1.0, accepted, "x (d)+disk", true));
            let keyed = of(&self.on_disk.keyed, 16) / limit;
            targets.push(line("keyed dispatch at 16", 0.7, 0.85, keyed, "x (d)+disk", true));
        }
        if let Some(least) = self.core.iter().map(|cost| cost.nanos).min_by(f64::total_cmp) {
            let most = self.core.iter().map(|cost| cost.nanos).fold(0.0, f64::max);
            let property = "core, 1 to 10,000 workers, 0 to 100,000 waiting";
            targets.push(line(property, 1.5, 1.1, most / least, "x", false));
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
        let rows = [
            ("(d) + disk", &self.on_disk.proxy, 16),
            ("on disk", &self.on_disk.unkeyed, 16),
            ("by key", &self.on_disk.keyed, 16),
            ("acknowledged", &self.on_disk.acknowledged, 1),
            ("acknowledged", &self.on_disk.acknowledged, 16),
            ("acknowledged", &self.on_disk.acknowledged, 256),
        ];
        for (name, samples, clients) in rows {
            let of = |field: fn(&Sample) -> f64| {
                let taken = samples.iter().filter(|sample| sample.concurrency == clients);
                median(&taken.map(field).collect::<Vec<_>>())
            };
            if samples.is_empty() {
                continue;
            }
            writeln!(
                f,
                "{name:<14} {clients:>3} {:>10.0} {:>9.0} {:>9.0} {:>12.1}",
                of(|s| s.per_second),
                of(|s| s.p50_us),
                of(|s| s.p99_us),
                of(|s| s.cpu_us)
            )?;
        }
        for clients in CLIENTS {
            let raw = self.on_disk.raw.iter().filter(|(rows, _)| *rows == clients);
            let raw = median(&raw.map(|(_, per_second)| *per_second).collect::<Vec<_>>());
            if raw > 0.0 {
                writeln!(f, "SQLite alone, commits of {clients:>3} rows: {raw:>8.0} rows/s")?;
            }
        }
        for (tasks, took) in &self.on_disk.restarts {
            writeln!(f, "killed and started again with {tasks:>6} tasks waiting: ready after {took:.0} ms")?;
        }
        for cost in &self.core {
            writeln!(f, "{cost}")?;
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
