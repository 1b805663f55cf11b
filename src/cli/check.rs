//! `rollcall check FILE`: says everything that is wrong with a topology, or that nothing is.

use std::io::Write;
use std::path::PathBuf;

use super::failure::{Failure, Outcome};
use crate::config::{Env, Problem, Source};
use crate::supervise::printable;

/// Says everything that is wrong with a topology; nothing is started.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The file.
    #[arg(default_value = "config.yaml")]
    file: PathBuf,
}

impl Check {
    pub(super) fn run(&self) -> Outcome {
        match Source::new(&self.file, Env::of_process()).load() {
            Ok(loaded) => {
                let config = loaded.config;
                print_problems("warning", &config.warnings)?;
                let workers = config.topology.workers.len();
                let mut out = anstream::stdout().lock();
                let pools = match config.topology.pools.len() {
                    0 => String::new(),
                    pools => format!(", {}", counted(pools, "pool")),
                };
                writeln!(out, "{} is valid: {}{pools}", self.file.display(), counted(workers, "worker"))?;
                Ok(())
            }
            Err(failed) => {
                print_problems("error", &failed.problems)?;
                let problems = counted(failed.problems.len(), "problem");
                Err(Failure::new(format!("{} has {problems}", self.file.display())))
            }
        }
    }
}

/// Writes problems with the lines that they are about, on standard error.
pub(super) fn print_problems(kind: &str, problems: &[Problem]) -> Outcome {
    let mut err = anstream::stderr().lock();
    for problem in problems {
        let text = problem.to_string();
        let lines: Vec<_> = text.lines().map(printable).collect();
        writeln!(err, "{kind}: {}", lines.join("\n"))?;
    }
    Ok(())
}

/// `1 worker`, `2 workers`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
