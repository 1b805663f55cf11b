//! `rollcall tasks …`: sends many, lists them, shows one and why it waits, follows its output, stops
//! it, or runs it again.

use std::io::{self, Write};

use clap::Subcommand;
use serde_json::Value;

use super::failure::Outcome;
use super::live::{Live, Shown, note};
use super::server::Server;
use super::show::{Output, Table, between, cell, fact, json, when};
use crate::client::{Client, encoded};

mod batch;

/// Lists tasks, shows one, stops it, or runs it again.
#[derive(Debug, clap::Args)]
pub(super) struct Tasks {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists tasks, newest first.
    Ls(List),
    /// Shows everything about one task.
    Get {
        /// The task's id.
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Shows what a task has written.
    Logs {
        /// The task's id.
        id: String,
        /// Go on until the task has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Sends many tasks, one JSON object a line, and prints their ids.
    Batch(batch::Batch),
    /// Stops a task.
    Cancel {
        /// The task's id.
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Runs tasks that have ended once more, as new tasks; they are no dead letters any more.
    Retry {
        /// The tasks' ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Says why a task waits.
    Explain {
        /// The task's id.
        id: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only in this state, such as `queued` or `failed`.
    #[arg(long)]
    state: Option<String>,
    /// Only of this capability.
    #[arg(long)]
    capability: Option<String>,
    /// Only those that this worker had last.
    #[arg(long)]
    worker: Option<String>,
    /// Only dead letters: tasks that used up their attempts, or that took workers down.
    #[arg(long)]
    dead_letter: bool,
    /// How many at most.
    #[arg(long, default_value_t = 50)]
    limit: u16,
    /// Where the list before ended.
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Tasks {
    pub(super) async fn run(&self) -> Outcome {
        let client = self.server.client()?;
        match &self.verb {
            Verb::Ls(list) => list.run(&client).await,
            Verb::Get { id, output } => {
                let task: Value = client.get(&path(id, "")).await?;
                output.print(&task, |out| facts(out, &task))
            }
            Verb::Logs { id, follow } => Live::new(Shown::Everything).task(&client, id, *follow).await,
            Verb::Batch(batch) => batch.run(&client).await,
            Verb::Cancel { id, output } => {
                let task: Value = client.act(&path(id, "/cancel")).await?;
                output.print(&task, |out| writeln!(out, "{} is {}", cell(&task, "id"), cell(&task, "state")))
            }
            Verb::Retry { ids, output } => {
                for id in ids {
                    let task: Value = client.act(&path(id, "/retry")).await?;
                    output.print(&task, |out| {
                        writeln!(out, "{} is {}; it repeats {id}", cell(&task, "id"), cell(&task, "state"))
                    })?;
                }
                Ok(())
            }
            Verb::Explain { id, output } => {
                let answer: Value = client.get(&path(id, "/explain")).await?;
                output.print(&answer, |out| explanation(out, &answer))
            }
        }
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/tasks/{}{rest}", encoded(id))
}

impl List {
    async fn run(&self, client: &Client) -> Outcome {
        let mut query = format!("/v1/tasks?limit={}", self.limit);
        let filters = [
            ("state", &self.state),
            ("capability", &self.capability),
            ("worker", &self.worker),
            ("cursor", &self.cursor),
        ];
        for (name, value) in filters {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        if self.dead_letter {
            query.push_str("&dead_letter=true");
        }
        let tasks: Value = client.get(&query).await?;
        self.output.print(&tasks, |out| {
            let items = tasks["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let mut table = Table::new(["ID", "STATE", "CAPABILITY", "WORKER", "AGE", "TOOK", "ERROR"]);
            for item in items {
                let last = item["attempts"].as_array().and_then(|attempts| attempts.last());
                table.row([
                    cell(item, "id"),
                    cell(item, "state"),
                    cell(item, "capability"),
                    last.map_or_else(|| "-".to_owned(), |attempt| cell(attempt, "worker")),
                    when(item, "submitted_at"),
                    between(item, "started_at", "finished_at"),
                    cell(item, "error.code"),
                ]);
            }
            table.write(out)
        })?;
        if let Some(cursor) = tasks["next_cursor"].as_str().filter(|_| self.output.is_table()) {
            note(&format!("there are more: --cursor {cursor}"))?;
        }
        Ok(())
    }
}

fn facts(out: &mut dyn Write, task: &Value) -> io::Result<()> {
    for name in ["id", "state", "capability", "pending_reason", "priority", "labels", "retry_of"] {
        fact(out, &name.replace('_', " "), &cell(task, name))?;
    }
    for name in ["submitted", "assigned", "started", "finished"] {
        fact(out, name, &when(task, &format!("{name}_at")))?;
    }
    fact(out, "took", &between(task, "started_at", "finished_at"))?;
    if task["dead_letter"] == true {
        fact(out, "dead letter", "true")?;
    }
    if task["error"].is_object() {
        fact(out, "error", &format!("{} ({})", cell(task, "error.message"), cell(task, "error.code")))?;
        fact(out, "fault", &cell(task, "error.fault"))?;
        fact(out, "side effects", &cell(task, "error.side_effects"))?;
    }
    let attempts = task["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !attempts.is_empty() {
        writeln!(out)?;
        let mut table = Table::new(["ATTEMPT", "EPOCH", "WORKER", "OUTCOME", "ASSIGNED", "TOOK", "ERROR"]);
        for attempt in attempts {
            table.row([
                cell(attempt, "number"),
                cell(attempt, "epoch"),
                cell(attempt, "worker"),
                cell(attempt, "outcome"),
                when(attempt, "assigned_at"),
                between(attempt, "started_at", "finished_at"),
                cell(attempt, "error"),
            ]);
        }
        table.write(out)?;
    }
    let artifacts = task["artifacts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !artifacts.is_empty() {
        writeln!(out)?;
        let mut table = Table::new(["ARTIFACT", "TYPE", "BYTES", "SHA-256"]);
        for artifact in artifacts {
            table.row(["name", "media_type", "size", "sha256"].map(|field| cell(artifact, field)));
        }
        table.write(out)?;
    }
    if !task["output"].is_null() {
        writeln!(out, "\n{}", json(&task["output"]))?;
    }
    Ok(())
}

fn explanation(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    writeln!(out, "{}", cell(answer, "summary"))?;
    for worker in answer["workers"].as_array().into_iter().flatten() {
        let count = match cell(worker, "count") {
            few if few == "1" || few == "2" => String::new(),
            many => format!(" ({many})"),
        };
        writeln!(out, "  {}{count}: {}", cell(worker, "worker"), cell(worker, "reason"))?;
    }
    match cell(answer, "fix") {
        none if none == "-" => Ok(()),
        fix => writeln!(out, "to mend it: {fix}"),
    }
}
