//! The command line: one file per verb. A verb asks the server or reads a file, prints what it
//! found on standard output, and says on standard error what a person has to know.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::supervise::lifeline;

mod backup;
mod check;
mod doctor;
mod events;
mod failure;
mod live;
mod monitoring;
mod plan;
mod pools;
mod reload;
mod repair;
mod replay;
mod run;
mod schema;
mod serve;
mod server;
mod show;
mod status;
mod store_place;
mod tasks;
mod workers;
mod yaml;

use failure::{Failure, Outcome};

/// The operations server for fleets of agent tool workers.
#[derive(Debug, Parser)]
#[command(
    name = "rollcall",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed (an invalid file, a task that did not succeed), 2 wrong usage, 4 a store that must not be served.\n\
        ROLLCALL_SERVER and ROLLCALL_KEY say which server to speak to, and as whom."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Check(check::Check),
    Doctor(doctor::Doctor),
    Plan(plan::Plan),
    Schema(schema::Schema),
    Reload(reload::Reload),
    Run(Box<run::Run>),
    Status(status::Status),
    Workers(workers::Workers),
    Pools(pools::Pools),
    Tasks(tasks::Tasks),
    Events(events::Events),
    Replay(replay::Replay),
    Backup(backup::Backup),
    Repair(repair::Repair),
    Monitoring(monitoring::Monitoring),
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
    let outcome = match Arguments::parse().verb {
        Verb::Lifeline { grace_ms, command } => {
            return lifeline::run(&command, Duration::from_millis(grace_ms));
        }
        Verb::Serve(verb) => wait(verb.run()),
        Verb::Check(verb) => verb.run(),
        Verb::Doctor(verb) => verb.run(),
        Verb::Schema(verb) => verb.run(),
        Verb::Replay(verb) => verb.run(),
        Verb::Backup(verb) => verb.run(),
        Verb::Repair(verb) => verb.run(),
        Verb::Monitoring(verb) => verb.run(),
        Verb::Plan(verb) => wait(verb.run()),
        Verb::Reload(verb) => wait(verb.run()),
        Verb::Run(verb) => wait(verb.run()),
        Verb::Status(verb) => wait(verb.run()),
        Verb::Workers(verb) => wait(verb.run()),
        Verb::Pools(verb) => wait(verb.run()),
        Verb::Tasks(verb) => wait(verb.run()),
        Verb::Events(verb) => wait(verb.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Runs a verb that speaks to a server.
fn wait(verb: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?.block_on(verb)
}
