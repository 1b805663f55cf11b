//! `rollcall status`: one look at a running server.

use std::io::{self, Write};

use serde_json::Value;

use super::check::counted;
use super::failure::{Outcome, one_problem};
use super::server::Server;
use super::show::{Output, Table, cell, fact, seconds, when};
use crate::supervise::printable;

/// One look at the server: its life, its workers, its queues.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    output: Output,
}

impl Status {
    pub(super) async fn run(&self) -> Outcome {
        let status: Value = self.server.client()?.get("/v1/status").await?;
        self.output.print(&status, |out| show(out, &status))
    }
}

fn show(out: &mut dyn Write, status: &Value) -> io::Result<()> {
    fact(out, "server", &cell(status, "lifecycle"))?;
    fact(out, "version", &cell(status, "version"))?;
    fact(out, "generation", &cell(status, "generation"))?;
    reload(out, &status["last_reload"])?;
    fact(out, "workers", &workers(status))?;
    let slots = &status["capacity"]["slots"];
    fact(
        out,
        "slots",
        &format!("{} of {} used, {} free", cell(slots, "used"), cell(slots, "total"), cell(slots, "free")),
    )?;
    let pressure = &status["pressure"];
    let full = pressure["ratio"].as_f64().unwrap_or(0.0) * 100.0;
    let tasks = format!("{} of {} ({full:.1} % full)", cell(pressure, "tasks"), cell(pressure, "max_tasks"));
    fact(out, "unfinished tasks", &tasks)?;
    queues(out, &status["queues"])
}

fn reload(out: &mut dyn Write, last: &Value) -> io::Result<()> {
    let at = when(last, "last_success");
    if last["successful"] != false {
        return fact(out, "last reload", &at);
    }
    fact(out, "last reload", "failed")?;
    for problem in last["problems"].as_array().into_iter().flatten() {
        let text = problem.as_str().map_or_else(|| one_problem(problem), str::to_owned);
        for line in text.lines() {
            writeln!(out, "  {}", printable(line))?;
        }
    }
    writeln!(out, "  the topology of {at} stays in force")
}

/// `3 (2 ready, 1 disconnected)`.
fn workers(status: &Value) -> String {
    let states = status["workers"].as_object().into_iter().flatten();
    let states: Vec<_> = states.map(|(state, count)| format!("{count} {}", printable(state))).collect();
    let total = cell(&status["capacity"], "workers");
    if states.is_empty() { total } else { format!("{total} ({})", states.join(", ")) }
}

fn queues(out: &mut dyn Write, queues: &Value) -> io::Result<()> {
    let Some(queues) = queues.as_object().filter(|queues| !queues.is_empty()) else { return Ok(()) };
    writeln!(out)?;
    let mut table = Table::new(["CAPABILITY", "QUEUED", "DELAYED", "RUNNING", "OLDEST", "COMPLETED"]);
    let mut stranded = Vec::new();
    for (capability, queue) in queues {
        let capability = printable(capability).into_owned();
        let oldest = queue["oldest_wait_seconds"].as_f64().filter(|age| *age > 0.0);
        if let Some(count @ 1..) = queue["unroutable"].as_u64() {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            stranded.push(format!("{} of {capability}", counted(count, "task")));
        }
        table.row([
            capability,
            cell(queue, "queued"),
            cell(queue, "delayed"),
            cell(queue, "running"),
            oldest.map_or_else(|| "-".to_owned(), seconds),
            cell(queue, "completed"),
        ]);
    }
    table.write(out)?;
    if !stranded.is_empty() {
        writeln!(out, "\nno connected worker could take {}: see `rollcall workers ls`", stranded.join(", "))?;
    }
    Ok(())
}
