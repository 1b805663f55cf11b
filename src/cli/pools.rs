//! `rollcall pools …`: the pools of a running server, why they have the size that they have, and an
//! operator's words about them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::server::Server;
use super::show::{Output, Table, cell, fact, seconds, when};
use super::workers::{OPERATOR, operator};
use crate::client::{Client, Request, encoded};

/// Decisions that are shown unless all are asked for.
const SHOWN: usize = 20;

/// Lists pools, explains their size, and changes it by hand.
#[derive(Debug, clap::Args)]
pub(super) struct Pools {
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
    /// Lists all pools.
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Shows everything about one pool.
    Describe {
        /// The pool.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Says why a pool has its size: each decision with its numbers, newest first.
    Explain {
        /// The pool.
        name: String,
        /// All decisions that are kept, not only the last ones.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Runs the recorded demand through the `scaling` of another file: what it would have cost and how long
    /// work would have waited, old beside new.
    Simulate {
        /// The file; its pools are matched by name.
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Gives a pool a size now, within its bounds; the autoscaler goes on from there.
    Scale {
        /// The pool.
        name: String,
        /// Workers that it is to have.
        to: u32,
    },
    /// Keeps a pool's size as it is, until `resume`.
    Pause {
        /// The pool.
        name: String,
    },
    /// Lets the autoscaler have a pool again.
    Resume {
        /// The pool.
        name: String,
    },
}

impl Pools {
    pub(super) async fn run(&self) -> Outcome {
        let client = self.server.client()?;
        match &self.verb {
            Verb::Ls { output } => list(&client, *output).await,
            Verb::Describe { name, output } => describe(&client, name, *output).await,
            Verb::Explain { name, all, output } => explain(&client, name, *all, *output).await,
            Verb::Simulate { policy, output } => simulate(&client, policy, *output).await,
            Verb::Scale { name, to } => {
                let effect = format!("is to have {to} workers");
                self.say(&client, name, "scale", Some(&json!({ "to": to })), &effect).await
            }
            Verb::Pause { name } => self.say(&client, name, "pause", None, "keeps its size").await,
            Verb::Resume { name } => self.say(&client, name, "resume", None, "is scaled again").await,
        }
    }

    async fn say(
        &self,
        client: &Client,
        name: &str,
        word: &str,
        body: Option<&Value>,
        effect: &str,
    ) -> Outcome {
        let mut request = Request::new(Method::POST, format!("/v1/pools/{}/{word}", encoded(name)));
        if let Some(body) = body {
            request = request.json(body)?;
        }
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

async fn list(client: &Client, output: Output) -> Outcome {
    let pools: Value = client.get("/v1/pools").await?;
    output.print(&pools, |out| {
        let items = pools["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return writeln!(out, "there are no pools; add one to config.yaml under `pools:`");
        }
        let head = ["NAME", "PROVIDER", "READY", "DESIRED", "MIN", "MAX", "WAITING", "RUNNING", "WHY"];
        let mut table = Table::new(head);
        for item in items {
            table.row([
                cell(item, "name"),
                cell(item, "provider"),
                cell(item, "ready"),
                cell(item, "desired"),
                cell(item, "min"),
                cell(item, "max"),
                cell(item, "last_decision.inputs.waiting"),
                cell(item, "last_decision.inputs.running"),
                why(item),
            ]);
        }
        table.write(out)
    })
}

/// What there is to say in a few words.
fn why(pool: &Value) -> String {
    match cell(pool, "hook.error") {
        none if none == "-" => cell(pool, "last_decision.why"),
        error => format!("provider fails: {error}"),
    }
}

async fn describe(client: &Client, name: &str, output: Output) -> Outcome {
    let pool: Value = client.get(&format!("/v1/pools/{}", encoded(name))).await?;
    output.print(&pool, |out| facts(out, &pool))
}

fn facts(out: &mut dyn Write, pool: &Value) -> io::Result<()> {
    for name in ["name", "provider", "desired", "instances", "ready", "draining", "min", "max", "paused"] {
        fact(out, name, &cell(pool, name))?;
    }
    for name in ["paused_by", "outdated", "missing", "unwanted"] {
        fact(out, &name.replace('_', " "), &cell(pool, name))?;
    }
    for name in ["failures", "error"] {
        fact(out, &format!("provider {name}"), &cell(pool, &format!("hook.{name}")))?;
    }
    fact(out, "provider retried", &when(pool, "hook.retry_at"))?;
    fact(out, "last decision", &cell(pool, "last_decision.why"))?;
    fact(out, "formula", &cell(pool, "last_decision.formula"))
}

async fn explain(client: &Client, name: &str, all: bool, output: Output) -> Outcome {
    let path = format!("/v1/pools/{}", encoded(name));
    let pool: Value = client.get(&path).await?;
    let decisions: Value = client.get(&format!("{path}/decisions")).await?;
    output.print(&decisions, |out| {
        writeln!(
            out,
            "{}: {} wanted, {} ready",
            cell(&pool, "name"),
            cell(&pool, "desired"),
            cell(&pool, "ready")
        )?;
        if cell(&pool, "hook.error") != "-" {
            let again = when(&pool, "hook.retry_at");
            writeln!(out, "its provider fails: {} (called again {again})", cell(&pool, "hook.error"))?;
        }
        let items = decisions["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shown = if all { items.len() } else { SHOWN };
        for item in items.iter().take(shown) {
            writeln!(out)?;
            let looks = item["looks"].as_u64().filter(|looks| *looks > 1);
            let looks = looks.map_or_else(String::new, |looks| format!(" ({looks} looks)"));
            writeln!(out, "{}{looks}: {}", when(item, "at"), cell(item, "why"))?;
            writeln!(out, "  {}", cell(item, "formula"))?;
            follow(out, item)?;
        }
        if items.len() > shown {
            writeln!(out, "\n{} older ones; --all shows them", items.len() - shown)?;
        }
        Ok(())
    })
}

/// What came of a decision.
fn follow(out: &mut dyn Write, decision: &Value) -> io::Result<()> {
    let hook = &decision["hook"];
    if !hook.is_null() {
        let took = seconds(hook["seconds"].as_f64().unwrap_or(0.0));
        let detail = match cell(hook, "detail") {
            none if none == "-" => String::new(),
            detail => format!(": {detail}"),
        };
        writeln!(out, "  provider: {} after {took}{detail}", cell(hook, "outcome"))?;
    }
    if let Some(took) = decision["time_to_capacity_seconds"].as_f64() {
        writeln!(out, "  capacity: {} ready, the last after {}", cell(decision, "arrived"), seconds(took))?;
    }
    Ok(())
}

async fn simulate(client: &Client, policy: &Path, output: Output) -> Outcome {
    let text = std::fs::read_to_string(policy)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", policy.display())))?;
    let request = Request::new(Method::POST, "/v1/pools/simulate")
        .header(CONTENT_TYPE, HeaderValue::from_static("application/yaml"))
        .body(text);
    let told: Value = client.send(request).await?.json()?;
    output.print(&told, |out| {
        let items = told["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return writeln!(out, "no pool of {} is a pool of the server", policy.display());
        }
        for item in items {
            let recorded = seconds(item["recorded_seconds"].as_f64().unwrap_or(0.0));
            writeln!(out, "{}: {} tasks in {recorded}", cell(item, "pool"), cell(item, "old.tasks"))?;
            let head =
                ["POLICY", "WORKER-HOURS", "WAIT MEAN", "WAIT P95", "WAIT MOST", "CHANGES", "FLAPS", "MOST"];
            let mut table = Table::new(head);
            for which in ["old", "new"] {
                let told = &item[which];
                let wait = |name: &str| seconds(told[name].as_f64().unwrap_or(0.0));
                table.row([
                    which.to_owned(),
                    format!("{:.2}", told["worker_hours"].as_f64().unwrap_or(0.0)),
                    wait("wait_mean_seconds"),
                    wait("wait_p95_seconds"),
                    wait("wait_most_seconds"),
                    cell(told, "changes"),
                    cell(told, "flaps"),
                    cell(told, "most_workers"),
                ]);
            }
            table.write(out)?;
        }
        Ok(())
    })
}
