//! `rollcall plan FILE`: what a running server would change if this were its file, and how far that
//! reaches.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use super::failure::{Failure, Outcome, one_problem};
use super::server::Server;
use super::show::{Output, cell};
use crate::client::{ClientError, Request};
use crate::supervise::printable;

/// What the server calls a text that was sent to it.
const SENT: &str = "request";

/// Shows what a reload with this file would change, and how far that reaches; changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// The file.
    #[arg(default_value = "config.yaml")]
    file: PathBuf,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    output: Output,
}

impl Plan {
    pub(super) async fn run(&self) -> Outcome {
        let text = fs::read_to_string(&self.file)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", self.file.display())))?;
        let request = Request::new(Method::POST, "/v1/topology/plan")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/yaml"))
            .body(text);
        let answer = self.server.client()?.send(request).await?;
        let plan: Value = answer.json().map_err(|error| self.named(error))?;
        self.output.print(&plan, |out| show(out, &plan))?;
        let refusals = plan["refusals"].as_array().map_or(0, Vec::len);
        if refusals > 0 { Err(Failure::new("a reload would not take this file")) } else { Ok(()) }
    }
}

impl Plan {
    /// Problems of the text that was sent are problems of this file.
    fn named(&self, mut error: ClientError) -> ClientError {
        if let ClientError::Problem(problem) = &mut error
            && let Some(Value::Array(list)) = problem.more.get_mut("problems")
        {
            for item in list.iter_mut().filter(|item| item["file"] == SENT) {
                item["file"] = self.file.display().to_string().into();
            }
        }
        error
    }
}

fn show(out: &mut dyn Write, plan: &Value) -> io::Result<()> {
    writeln!(out, "{}", cell(plan, "summary"))?;
    let reach = &plan["reach"];
    for (what, path) in
        [("sockets closed", "sockets_closed"), ("capabilities without a worker", "capabilities_lost")]
    {
        if cell(reach, path) != "-" {
            writeln!(out, "{what}: {}", cell(reach, path))?;
        }
    }
    if reach["tasks_touched"].as_u64().is_some_and(|tasks| tasks > 0) {
        writeln!(out, "tasks on workers that drain: {}", reach["tasks_touched"])?;
    }
    problems(out, plan, "warnings", "warning")?;
    problems(out, plan, "refusals", "refused")
}

/// Writes a list of problems of an answer.
pub(super) fn problems(out: &mut dyn Write, answer: &Value, list: &str, kind: &str) -> io::Result<()> {
    for item in answer[list].as_array().into_iter().flatten() {
        let text = one_problem(item);
        let lines: Vec<_> = text.lines().map(printable).collect();
        writeln!(out, "{kind}: {}", lines.join("\n"))?;
    }
    Ok(())
}
