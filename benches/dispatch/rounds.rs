//! The plan: what is measured in which order. The sides take turns, and which one begins changes
//! with each round, so that a machine that grows slower or faster favours neither.

use std::time::Duration;

use crate::report::{Report, Sample};
use crate::sides::{Answer, Cell, Side};
use crate::{Effort, Failure};

/// How many callers at once.
pub(crate) const CONCURRENCY: [usize; 3] = [1, 16, 64];

/// Times the starts of both servers, and weighs them idle.
pub(crate) fn starts(effort: Effort, with_rollcall: bool, report: &mut Report) -> Result<(), Failure> {
    for start in 0..effort.starts {
        let proxy = Side::proxy()?;
        report.proxy.starts.push(proxy.ready.as_secs_f64() * 1e3);
        if start == 0 {
            report.proxy.idle_memory = settled_memory(&proxy)?;
        }
        drop(proxy);
        if with_rollcall {
            let rollcall = Side::rollcall(1)?;
            report.rollcall.starts.push(rollcall.ready.as_secs_f64() * 1e3);
            if start == 0 {
                report.rollcall.idle_memory = settled_memory(&rollcall)?;
            }
        }
    }
    Ok(())
}

/// Memory a second after everything is up, when start-up's own has been given back.
pub(crate) fn settled_memory(side: &Side) -> Result<u64, Failure> {
    std::thread::sleep(Duration::from_secs(1));
    side.server.memory()
}

/// The closed loops, interleaved.
pub(crate) fn closed_loop(effort: Effort, with_rollcall: bool, report: &mut Report) -> Result<(), Failure> {
    let proxy = Side::proxy()?;
    let rollcall = with_rollcall.then(|| Side::rollcall(1)).transpose()?;
    for round in 0..effort.rounds {
        eprintln!("bench: round {} of {}", round + 1, effort.rounds);
        for concurrency in CONCURRENCY {
            let cell = Cell { answer: Answer::Finished, concurrency, measured: effort.cell };
            if round % 2 == 0 {
                report.proxy.samples.push(sample(&proxy, cell)?);
            }
            if let Some(rollcall) = &rollcall {
                report.rollcall.samples.push(sample(rollcall, cell)?);
            }
            if round % 2 == 1 {
                report.proxy.samples.push(sample(&proxy, cell)?);
            }
        }
    }
    Ok(())
}

/// One cell of one round.
pub(crate) fn sample(side: &Side, cell: Cell) -> Result<Sample, Failure> {
    let (seen, cpu_us) = side.load(&cell)?;
    Ok(Sample {
        concurrency: cell.concurrency,
        per_second: seen.answers as f64 / seen.seconds,
        p50_us: seen.p50_us,
        p99_us: seen.p99_us,
        cpu_us,
    })
}
