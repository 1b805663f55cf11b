//! What it costs that accepted means kept: tasks that are acknowledged once they are on the disk,
//! beside raw group commits and beside the bare proxy with the same journal before it.

use std::path::PathBuf;

use crate::report::Report;
use crate::rounds::sample;
use crate::sides::{Answer, Cell, Side, restart_with, scratch};
use crate::{Effort, Failure, journal};

/// How many clients at once.
pub(crate) const CLIENTS: [usize; 3] = [1, 16, 256];

/// Tasks that wait in the store when the server starts.
const STORED: [usize; 2] = [1_000, 100_000];

/// Measures acknowledgements, and dispatch with and without a key, on a store that keeps.
pub(crate) fn durable(effort: Effort, report: &mut Report) -> Result<(), Failure> {
    let folder: PathBuf = scratch("durable")?;
    let proxy = Side::proxy_with_journal(&folder)?;
    let rollcall = Side::rollcall_with_disk(&folder)?;
    for round in 0..effort.rounds {
        eprintln!("bench: on disk, round {} of {}", round + 1, effort.rounds);
        let cell = |answer, concurrency| Cell { answer, concurrency, measured: effort.cell };
        for clients in CLIENTS {
            let raw = journal::raw(&folder, clients, effort.cell / 2)?;
            report.on_disk.raw.push((clients, raw));
            report.on_disk.acknowledged.push(sample(&rollcall, cell(Answer::Accepted, clients))?);
        }
        report.on_disk.proxy.push(sample(&proxy, cell(Answer::Finished, 16))?);
        report.on_disk.unkeyed.push(sample(&rollcall, cell(Answer::Finished, 16))?);
        report.on_disk.keyed.push(sample(&rollcall, cell(Answer::FinishedByKey, 16))?);
    }
    for (place, tasks) in STORED.into_iter().enumerate() {
        eprintln!("bench: a start with {tasks} stored tasks");
        let took = restart_with(&folder.join(place.to_string()), tasks)?;
        report.on_disk.restarts.push((tasks, took.as_secs_f64() * 1e3));
    }
    Ok(())
}
