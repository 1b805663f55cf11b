//! `rollcall reload`: has a running server read its file again, and says what that changed.

use serde_json::Value;

use super::failure::Outcome;
use super::plan::problems;
use super::server::Server;
use super::show::{Output, cell};

/// Has the server read its file again, and says what that changed.
#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    /// Take the file even if it removes more than half of the workers.
    #[arg(long)]
    allow_mass_removal: bool,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    output: Output,
}

impl Reload {
    pub(super) async fn run(&self) -> Outcome {
        let query = if self.allow_mass_removal { "?allow_mass_removal=true" } else { "" };
        let answer: Value = self.server.client()?.act(&format!("/-/reload{query}")).await?;
        self.output.print(&answer, |out| {
            writeln!(out, "{}", cell(&answer, "summary"))?;
            problems(out, &answer, "warnings", "warning")
        })
    }
}
