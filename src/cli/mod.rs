//! The command line: one file per verb.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::supervise::lifeline;

/// The operations server for fleets of agent tool workers.
#[derive(Debug, Parser)]
#[command(name = "rollcall", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The parent of a launched program.
    #[command(name = lifeline::VERB, hide = true)]
    Lifeline {
        #[arg(long)]
        grace_ms: u64,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Lifeline { grace_ms, command } => lifeline::run(&command, Duration::from_millis(grace_ms)),
    }
}
