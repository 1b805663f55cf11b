//! `rollcall schema`: the JSON Schema of config.yaml, for editors.

use std::io::Write;

use super::failure::Outcome;
use super::show::json;
use crate::config;

/// Prints the JSON Schema of config.yaml, for editors.
#[derive(Debug, clap::Args)]
pub(super) struct Schema {}

impl Schema {
    #[expect(clippy::unused_self, reason = "every verb runs as a method of its arguments")]
    pub(super) fn run(&self) -> Outcome {
        writeln!(anstream::stdout().lock(), "{}", json(&config::schema()))?;
        Ok(())
    }
}
