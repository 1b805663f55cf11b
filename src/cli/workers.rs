//! `rollcall workers …`: the workers of a running server, and an operator's words about them.

use std::io::{self, Write};

use clap::Subcommand;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::failure::Outcome;
use super::server::Server;
use super::show::{Output, Table, cell, fact, when};
use crate::client::{Client, Request, encoded};

/// The header that says whose word it is.
pub(super) const OPERATOR: HeaderName = HeaderName::from_static("rollcall-operator");

/// Lists workers, shows one, and tells them what to do.
#[derive(Debug, clap::Args)]
pub(super) struct Workers {
    #[command(subcommand)]
    verb: Verb,
    /// Who says it, for whoever wonders later; else your user name.
    #[arg(long = "as", global = true, value_name = "NAME", value_parser = operator)]
    operator: Option<HeaderValue>,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists all workers.
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Shows everything about one worker.
    Describe {
        /// The worker.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Gives a worker no new tasks, until `uncordon`.
    Cordon {
        /// The worker.
        name: String,
    },
    /// Gives a worker tasks again.
    Uncordon {
        /// The worker.
        name: String,
    },
    /// Gives a worker no new tasks and lets it finish those it has.
    Drain {
        /// The worker.
        name: String,
    },
    /// Drains a worker, then starts its program, or its connection, anew.
    Restart {
        /// The worker.
        name: String,
    },
    /// Measures one round trip to a worker.
    Probe {
        /// The worker.
        name: String,
    },
}

impl Workers {
    pub(super) async fn run(&self) -> Outcome {
        let client = self.server.client()?;
        match &self.verb {
            Verb::Ls { output } => list(&client, *output).await,
            Verb::Describe { name, output } => describe(&client, name, *output).await,
            Verb::Cordon { name } => self.say(&client, name, "cordon", "gets no new tasks").await,
            Verb::Uncordon { name } => self.say(&client, name, "uncordon", "gets tasks again").await,
            Verb::Drain { name } => {
                self.say(&client, name, "drain", "finishes what it runs and gets no new tasks").await
            }
            Verb::Restart { name } => {
                self.say(&client, name, "restart", "finishes what it runs and is then started anew").await
            }
            Verb::Probe { name } => probe(&client, name).await,
        }
    }

    async fn say(&self, client: &Client, name: &str, word: &str, effect: &str) -> Outcome {
        let mut request = Request::new(Method::POST, format!("/v1/workers/{}/{word}", encoded(name)));
        // A user name that no header can carry is left out.
        let user = || operator(&std::env::var("USER").ok()?).ok();
        if let Some(by) = self.operator.clone().or_else(user) {
            request = request.header(OPERATOR, by);
        }
        client.send(request).await?.json::<Value>()?;
        writeln!(anstream::stdout().lock(), "{name} {effect}")?;
        Ok(())
    }
}

/// A name that a header can carry.
pub(super) fn operator(name: &str) -> Result<HeaderValue, &'static str> {
    let fits =
        (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let name = fits.then(|| HeaderValue::from_str(name).ok()).flatten();
    name.ok_or("a name is of 1 to 64 ASCII characters")
}

async fn list(client: &Client, output: Output) -> Outcome {
    let workers: Value = client.get("/v1/workers").await?;
    output.print(&workers, |out| {
        let items = workers["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return writeln!(out, "there are no workers; add one to config.yaml");
        }
        let head = ["NAME", "STATE", "POOL", "SLOTS", "HEARTBEAT", "RECONNECTS", "CAPABILITIES", "REASON"];
        let mut table = Table::new(head);
        for item in items {
            table.row([
                cell(item, "name"),
                cell(item, "state"),
                cell(item, "pool"),
                format!("{}/{}", cell(item, "slots.used"), cell(item, "slots.total")),
                when(item, "last_heartbeat"),
                cell(item, "reconnects"),
                cell(item, "capabilities"),
                reason(item),
            ]);
        }
        table.write(out)
    })
}

/// Why a worker is not ready.
fn reason(worker: &Value) -> String {
    // A program that is not started any more explains a refused connection better than that does.
    if worker["program"]["state"] == "gave_up" {
        return format!("program gave up: {}", cell(worker, "program.reason"));
    }
    match cell(worker, "reason") {
        none if none == "-" && worker["state"] != "ready" => cell(worker, "last_error"),
        reason => reason,
    }
}

async fn describe(client: &Client, name: &str, output: Output) -> Outcome {
    let worker: Value = client.get(&format!("/v1/workers/{}", encoded(name))).await?;
    output.print(&worker, |out| facts(out, &worker))
}

fn facts(out: &mut dyn Write, worker: &Value) -> io::Result<()> {
    let slots = format!("{} of {} used", cell(worker, "slots.used"), cell(worker, "slots.total"));
    for name in ["name", "state", "reason", "pool", "origin", "endpoint", "kind", "version", "isolation"] {
        fact(out, name, &cell(worker, name))?;
    }
    fact(out, "slots", &slots)?;
    for name in ["labels", "capabilities", "instance", "connection", "reconnects"] {
        fact(out, name, &cell(worker, name))?;
    }
    fact(out, "connected", &when(worker, "connected_at"))?;
    fact(out, "last heartbeat", &when(worker, "last_heartbeat"))?;
    fact(out, "next attempt", &when(worker, "next_attempt_at"))?;
    fact(out, "last error", &cell(worker, "last_error"))?;
    if worker["program"].is_null() {
        return Ok(());
    }
    for name in ["state", "reason", "pid", "restarts", "last_exit"] {
        fact(out, &format!("program {}", name.replace('_', " ")), &cell(worker, &format!("program.{name}")))?;
    }
    Ok(())
}

async fn probe(client: &Client, name: &str) -> Outcome {
    let answer: Value = client.act(&format!("/v1/workers/{}/probe", encoded(name))).await?;
    let rtt = cell(&answer, "rtt_ms");
    writeln!(anstream::stdout().lock(), "{name} answered in {rtt} ms")?;
    Ok(())
}
