//! Rollcall's dispatch beside a bare proxy, in one run and on one machine: both serve the same no-op
//! task to the same load, in turns, and the report is the ratio. Server, worker and load client are
//! processes of their own (this program again, under another role). A report, not a test: it
//! succeeds whatever the figures are, and fails only when it could not measure.
#![expect(clippy::print_stdout, reason = "a report is printed")]

mod counting;
mod durable;
mod fleet;
mod journal;
mod load;
mod process;
mod proxy;
mod queue;
mod report;
mod rounds;
mod sides;
mod worker;

use std::time::Instant;

/// Whatever kept the bench from measuring.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How often each cell is measured; the median counts.
    pub(crate) rounds: usize,
    /// How long the load of one cell lasts, after a warm-up of a sixth of it.
    pub(crate) cell: std::time::Duration,
    /// How often each server is started to time its start.
    pub(crate) starts: usize,
    /// How many idle connections are held to weigh one.
    pub(crate) idle_workers: usize,
    /// How many mock workers the reload and the per-worker page are timed with.
    pub(crate) fleet: usize,
}

const FULL: Effort = Effort {
    rounds: 7,
    cell: std::time::Duration::from_millis(1500),
    starts: 7,
    idle_workers: 1000,
    fleet: 10_000,
};

const QUICK: Effort = Effort {
    rounds: 2,
    cell: std::time::Duration::from_millis(800),
    starts: 3,
    idle_workers: 200,
    fleet: 2_000,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("role:proxy") => proxy::serve(&arguments[1..]),
        Some("role:worker") => worker::serve(),
        Some("role:load") => load::run(&arguments[1..]),
        // Cargo adds `--bench`, and words of its own when filtering.
        _ if arguments.iter().any(|word| word == "--proxy-only") => measure(FULL, false),
        _ if arguments.iter().any(|word| word == "--core-only") => core_only(),
        _ if arguments.iter().any(|word| word == "--quick") => measure(QUICK, true),
        _ => measure(FULL, true),
    };
    if let Err(failure) = done {
        eprintln!("bench: could not measure: {failure}");
        std::process::exit(1);
    }
}

/// Times the core alone, which needs no other process.
fn core_only() -> Result<(), Failure> {
    let mut report = report::Report::default();
    queue::core(&mut report)?;
    for cost in &report.core {
        println!("{cost}");
    }
    Ok(())
}

/// Runs the whole plan and prints the report.
fn measure(effort: Effort, with_rollcall: bool) -> Result<(), Failure> {
    let began = Instant::now();
    process::raise_file_limit();
    let mut report = report::Report::default();

    rounds::starts(effort, with_rollcall, &mut report)?;
    rounds::closed_loop(effort, with_rollcall, &mut report)?;
    if with_rollcall {
        fleet::idle_connections(effort, &mut report)?;
        fleet::many_workers(effort, &mut report)?;
        durable::durable(effort, &mut report)?;
        queue::core(&mut report)?;
        counting::cost(&mut report)?;
    }
    report.seconds = began.elapsed().as_secs_f64();

    println!("{report}");
    let path = process::target_dir().join("bench.json");
    std::fs::write(&path, report.json()?)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}
