//! What counting takes of a task: all that the server tells its metrics while a no-op task passes
//! through, told to real metrics and nothing else. The server has no switch that turns counting off,
//! so that this is what can be held against its CPU time for a task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall::fleet::*;
use rollcall::interface::LinkMeter;
use rollcall::telemetry::Metrics;

use crate::Failure;
use crate::queue::{notes_of, spec};
use crate::report::{Report, median};

/// Tasks of one round.
const TASKS: usize = 20_000;

/// The frames of a task, with their sizes about as they are.
const FRAMES: [(&str, &str, usize); 4] =
    [("out", "execute", 180), ("in", "accepted", 90), ("in", "result", 130), ("out", "result_ack", 90)];

/// Measures it, in nanoseconds per task.
pub(crate) fn cost(report: &mut Report) -> Result<(), Failure> {
    eprintln!("bench: what counting takes of a task");
    let notes = notes_of(TASKS)?;
    let metrics = Metrics::default();
    metrics.topology_applied(&topology());
    let route = metrics.http_route("POST", "/v1/tasks", &[200, 202]);
    let round = || {
        let began = Instant::now();
        for notes in notes.chunks(notes.len() / TASKS) {
            let in_flight = metrics.http_in_flight();
            for note in notes {
                metrics.note(note);
            }
            for (direction, kind, bytes) in FRAMES {
                metrics.message(direction, kind, bytes);
            }
            metrics.dispatched(Duration::from_micros(9));
            metrics.store_commit(Duration::from_micros(2), 1);
            drop(in_flight);
            std::hint::black_box(route.request(200, Some(Duration::from_micros(120))));
        }
        began.elapsed().as_nanos() as f64 / TASKS as f64
    };
    let rounds: Vec<f64> = (0..7).map(|_| round()).collect();
    report.counting_nanos = Some(median(&rounds));
    Ok(())
}

/// One worker that offers what the tasks ask for, so that they have series of their own.
fn topology() -> Topology {
    let name = WorkerName::from("worker-1");
    let worker = (name.clone(), Arc::new(spec(&name)));
    Topology { workers: [worker].into_iter().collect(), ..Topology::default() }
}
