//! `rollcall status`: one look at a running server.

use std::io::{self, Write};

use serde_json::Value;

use super::failure::Outcome;
use super::server::Server;
use super::show::{Output, fact, shown};

/// One look at the server: its life, its workers, its queue.
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
        self.output.print(&status, |out| show(out, &status, ""))
    }
}

/// Every field by its path; lists and empty objects as one line.
fn show(out: &mut dyn Write, value: &Value, prefix: &str) -> io::Result<()> {
    for (name, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{prefix}{}", name.replace('_', " "));
        match inner {
            Value::Object(fields) if !fields.is_empty() => show(out, inner, &format!("{path} "))?,
            _ => fact(out, &path, &shown(Some(inner)))?,
        }
    }
    Ok(())
}
