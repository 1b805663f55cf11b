//! `rollcall run CAPABILITY`: sends a task, shows its output as it comes, and ends as it ended.

use std::io::{self, Read, Write};

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::failure::{Failure, Outcome};
use super::live::{Live, Shown, note};
use super::server::Server;
use super::show::{Output, cell, json as pretty};
use crate::client::{Client, Request, encoded};
use crate::supervise::printable;

/// Sends a task, shows its output as it comes, and exits 0 if it succeeded.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// What to do, such as `python.execute`.
    capability: String,
    /// The input: JSON, `@FILE` with JSON in it, or `-` for standard input.
    #[arg(short, long, value_name = "JSON|@FILE|-", default_value = "{}")]
    input: String,
    /// A label that the worker must have; may be given several times.
    #[arg(short, long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// A label that the worker should have, such as `region=north`; may be given several times.
    #[arg(long = "prefer", value_name = "NAME=VALUE", value_parser = label)]
    preferred: Vec<(String, String)>,
    /// How long to wait for such a worker before any other will do; not at all, if left out.
    #[arg(long, value_name = "DURATION", requires = "preferred")]
    fallback_after: Option<String>,
    /// 1 (first) to 5.
    #[arg(long)]
    priority: Option<u8>,
    /// How long an attempt may run, such as `30s`.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// How long the task may wait for a worker.
    #[arg(long, value_name = "DURATION")]
    queue_timeout: Option<String>,
    /// When all must be over: a duration, or an RFC 3339 time.
    #[arg(long, value_name = "WHEN")]
    deadline: Option<String>,
    /// How many attempts at most.
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Sending it twice with the same key makes one task.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print the task's id and do not wait for its end.
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    output: Output,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Run {
    pub(super) async fn run(&self) -> Outcome {
        let client = self.server.client()?;
        let mut request = Request::new(Method::POST, "/v1/tasks").json(&self.task()?)?;
        if let Some(key) = &self.idempotency_key {
            let key = HeaderValue::from_str(key).map_err(|_| {
                Failure::usage("an idempotency key is of letters, digits and signs, without line breaks")
            })?;
            request = request.header(HeaderName::from_static("idempotency-key"), key);
        }
        let task: Value = client.send(request).await?.json()?;
        let id = task["id"].as_str().ok_or_else(|| Failure::new("the server gave the task no id"))?;
        if self.detach {
            writeln!(anstream::stdout().lock(), "{}", printable(id))?;
            return Ok(());
        }
        tokio::select! {
            done = self.follow(&client, id) => match done {
                Ok(task) => Self::end(&task),
                Err(failure) => {
                    note(&format!("task {id} may go on: rollcall tasks get {id}"))?;
                    Err(failure)
                }
            },
            _ = tokio::signal::ctrl_c() => {
                note(&format!("task {id} goes on; stop it with: rollcall tasks cancel {id}"))?;
                Err(Failure::Silent)
            }
        }
    }

    fn task(&self) -> Result<Value, Failure> {
        let mut task = Map::new();
        task.insert("capability".to_owned(), json!(self.capability));
        task.insert("input".to_owned(), self.read_input()?);
        if !self.labels.is_empty() {
            let labels = self.labels.iter().map(|(name, value)| (name.clone(), json!(value)));
            task.insert("labels".to_owned(), Value::Object(labels.collect()));
        }
        if !self.preferred.is_empty() {
            let preferred = self.preferred.iter().map(|(name, value)| (name.clone(), json!(value)));
            let preferred = Value::Object(preferred.collect());
            task.insert(
                "placement".to_owned(),
                json!({ "preferred": preferred, "fallback_after": self.fallback_after }),
            );
        }
        let fields = [
            ("priority", self.priority.map(|number| json!(number))),
            ("execution_timeout", self.timeout.as_ref().map(|text| json!(text))),
            ("queue_timeout", self.queue_timeout.as_ref().map(|text| json!(text))),
            ("deadline", self.deadline.as_ref().map(|text| json!(text))),
            ("max_attempts", self.max_attempts.map(|number| json!(number))),
        ];
        task.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(Value::Object(task))
    }

    fn read_input(&self) -> Result<Value, Failure> {
        let (text, from) = match self.input.as_str() {
            "-" => {
                let mut text = String::new();
                let read = io::stdin().read_to_string(&mut text);
                read.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
                (text, "standard input")
            }
            input => match input.strip_prefix('@') {
                Some(file) => {
                    let text = std::fs::read_to_string(file)
                        .map_err(|error| Failure::new(format!("cannot read {file}: {error}")))?;
                    (text, file)
                }
                None => (input.to_owned(), "--input"),
            },
        };
        serde_json::from_str(&text).map_err(|error| {
            let example = r#"rollcall run python.execute --input '{"code": "print(6*7)"}'"#;
            Failure::usage(format!("{from} is not JSON: {error}; an example: {example}"))
        })
    }

    /// Shows the output as it comes, and what is left of the task's result when it has ended.
    async fn follow(&self, client: &Client, id: &str) -> Result<Value, Failure> {
        let live = if self.output.is_table() { Shown::Output } else { Shown::Nothing };
        let mut shown = Live::new(live);
        let path = format!("/v1/tasks/{}", encoded(id));
        let task = loop {
            // The stream of its events ends when the task is final.
            shown.task(client, id, true).await?;
            let task: Value = client.get(&path).await?;
            if task["finished_at"].is_string() {
                break task;
            }
        };
        self.output.print(&task, |out| match &task["output"] {
            // What the program wrote has been shown; the rest of its result is for `tasks get`.
            _ if shown.any_output => Ok(()),
            Value::Null => Ok(()),
            Value::String(text) => writeln!(out, "{}", printable(text)),
            output => writeln!(out, "{}", pretty(output)),
        })?;
        Ok(task)
    }

    /// Ends as the task ended.
    fn end(task: &Value) -> Outcome {
        let id = cell(task, "id");
        if task["state"] == "succeeded" {
            return Ok(());
        }
        let why = match cell(task, "error.message") {
            none if none == "-" => String::new(),
            message => format!(": {message} ({})", cell(task, "error.code")),
        };
        Err(Failure::new(format!("task {id} ended {}{why}", cell(task, "state"))))
    }
}
