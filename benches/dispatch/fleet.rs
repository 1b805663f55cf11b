//! What many workers cost: memory per idle connection, one change in a long file, and the page of
//! per-worker series beside writing the same lines straight from numbers.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::process::{self, Process};
use crate::report::{Report, median};
use crate::rounds::settled_memory;
use crate::sides::{Side, write_config};
use crate::{Effort, Failure};

/// What is weighed and timed here needs no disk.
const MEMORY: &str = "store: { kind: memory }";

/// Tasks whose p99 is told, alone and beside scrapes.
const BESIDE: usize = 400;

/// Series per worker on `/metrics/workers`.
const SERIES: usize = 8;

/// Weighs idle worker connections: what a server with many has more than a server with one.
pub(crate) fn idle_connections(effort: Effort, report: &mut Report) -> Result<(), Failure> {
    eprintln!("bench: {} idle workers", effort.idle_workers);
    let one = settled_memory(&Side::rollcall(1)?)?;
    let many = settled_memory(&Side::rollcall(effort.idle_workers)?)?;
    report.idle_connection = Some(many.saturating_sub(one) / (effort.idle_workers as u64 - 1));
    report.idle_workers = effort.idle_workers;
    Ok(())
}

/// Times a reload with one change, and the per-worker page, with many mock workers.
pub(crate) fn many_workers(effort: Effort, report: &mut Report) -> Result<(), Failure> {
    eprintln!("bench: {} mock workers", effort.fleet);
    let address = process::free_address()?;
    let config = write_config(&address, MEMORY, &entries(effort.fleet, 4))?;
    let mut server = Process::rollcall(&config)?;
    server.ready(&address, Instant::now())?;

    let mut reloads = Vec::new();
    for change in 1..=3 {
        write_config(&address, MEMORY, &entries(effort.fleet, 4 + change))?;
        let began = Instant::now();
        let (status, body) = process::request(&address, "POST", "/-/reload", "")?;
        reloads.push(began.elapsed().as_secs_f64() * 1e3);
        if status != 200 {
            return Err(format!("reload: {status} {}", String::from_utf8_lossy(&body)).into());
        }
    }
    report.reload_ms = Some(median(&reloads));

    let mut pages = Vec::new();
    let mut bytes = 0;
    for _ in 0..5 {
        let began = Instant::now();
        let (status, page) = process::get(&address, "/metrics/workers")?;
        pages.push(began.elapsed().as_secs_f64() * 1e3);
        bytes = page.len();
        if status != 200 {
            return Err(format!("/metrics/workers: status {status}").into());
        }
    }
    report.page_ms = Some(median(&pages));
    let fleets = (0..5).map(|_| timed(|| process::get(&address, "/metrics")));
    report.fleet_page_ms = Some(median(&fleets.collect::<Result<Vec<_>, Failure>>()?));
    report.beside_scrapes = Some(beside_scrapes(&address)?);
    report.page_bytes = bytes;
    report.direct_ms = Some(direct_writing(effort.fleet));
    report.fleet = effort.fleet;
    Ok(())
}

/// How long a request takes, in milliseconds; it must be answered with 200.
fn timed(request: impl FnOnce() -> std::io::Result<(u16, Vec<u8>)>) -> Result<f64, Failure> {
    let began = Instant::now();
    let (status, answer) = request()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    if status != 200 {
        return Err(format!("status {status}: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(took)
}

/// The p99 of tasks while the page of all workers is scraped without a pause, over that of tasks alone.
fn beside_scrapes(address: &str) -> Result<f64, Failure> {
    let p99 = || -> Result<f64, Failure> {
        let task = r#"{"capability":"bench.one"}"#;
        let one = |_| timed(|| process::request(address, "POST", "/v1/tasks?wait=10s", task));
        let mut times = (0..BESIDE).map(one).collect::<Result<Vec<f64>, Failure>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times[BESIDE * 99 / 100])
    };
    let alone = p99()?;
    let over = AtomicU64::new(0);
    let (beside, scrapes) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while over.load(Ordering::Relaxed) == 0 {
                scrapes += u32::from(process::get(address, "/metrics/workers").is_ok());
            }
            scrapes
        });
        let beside = p99();
        over.store(1, Ordering::Relaxed);
        (beside, scraper.join().unwrap_or(0))
    });
    if scrapes == 0 {
        return Err("nothing was scraped beside the tasks".into());
    }
    Ok(beside? / alone)
}

/// A file of mock workers in which only the first one's slots vary.
fn entries(workers: usize, slots: u32) -> String {
    let mut text = String::new();
    for n in 1..=workers {
        let slots = if n == 1 { slots } else { 4 };
        // One of them has work.
        let more = if n == 1 { ", bench.one" } else { "" };
        let mock = if n == 1 { ", mock: { latency: 1ms }" } else { "" };
        writeln!(
            text,
            "  - {{ name: mock-{n}, interface: mock, capabilities: [bench.mock{more}], slots: {slots}{mock} }}"
        )
        .expect("a String takes everything");
    }
    text
}

/// The time to write as many series straight from atomics into one text, in milliseconds.
fn direct_writing(workers: usize) -> f64 {
    let numbers: Vec<[AtomicU64; SERIES]> =
        (0..workers).map(|n| std::array::from_fn(|series| AtomicU64::new((n * series) as u64))).collect();
    let times: Vec<f64> = (0..5)
        .map(|_| {
            let began = Instant::now();
            let mut page = String::with_capacity(workers * SERIES * 100);
            for series in 0..SERIES {
                for (n, values) in numbers.iter().enumerate() {
                    let value = values[series].load(Ordering::Relaxed);
                    writeln!(
                        page,
                        "rollcall_worker_series_of_some_length_{series}_total{{pool=\"static\",worker=\"mock-{n}\"}} {value}"
                    )
                    .expect("a String takes everything");
                }
            }
            std::hint::black_box(&page);
            Duration::as_secs_f64(&began.elapsed()) * 1e3
        })
        .collect();
    median(&times)
}
