//! `rollcall doctor`: says whether this machine can hold what the configured workers are to run here.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::check::print_problems;
use super::failure::{Failure, Outcome};
use crate::config::{Env, Source};
use crate::supervise::{find_program, printable};

/// The shipped program that probes the machine before it offers anything.
const SANDBOX: &str = "rollcall-python-sandbox";

/// Says whether this machine can hold what its workers are to run: the sandbox's own probes, each with
/// what it found, and the cure where one fails.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// The configuration.
    #[arg(long, default_value = "config.yaml")]
    config: PathBuf,
}

impl Doctor {
    pub(super) fn run(&self) -> Outcome {
        let loaded = Source::new(&self.config, Env::of_process()).load().map_err(|failed| {
            // What cannot be printed has no reader.
            print_problems("error", &failed.problems).unwrap_or_default();
            Failure::new(format!("{} cannot be used", self.config.display()))
        })?;
        let topology = &loaded.config.topology;
        let workers = topology.workers.values().filter_map(|worker| worker.launch.as_ref());
        let pools = topology.pools.values().filter_map(|pool| pool.template.launch.as_ref());
        let commands: BTreeSet<Vec<String>> = workers
            .chain(pools)
            .map(|launch| probing(&launch.command))
            .filter(|words| is_sandbox(words))
            .collect();
        let mut out = anstream::stdout().lock();
        if commands.is_empty() {
            writeln!(out, "no worker of {} is started here with a sandbox", self.config.display())?;
        }
        let mut sick = false;
        for words in commands {
            let Some((program, arguments)) = words.split_first() else { continue };
            writeln!(out, "{}", printable(&words.join(" ")))?;
            let program = find_program(program).map_err(Failure::new)?;
            let found = Command::new(&program).args(arguments).stdin(Stdio::null()).output();
            let found = found.map_err(|error| Failure::new(format!("{}: {error}", program.display())))?;
            for text in [&found.stdout, &found.stderr] {
                for line in String::from_utf8_lossy(text).lines() {
                    writeln!(out, "  {}", printable(line))?;
                }
            }
            sick |= !found.status.success();
        }
        if sick { Err(Failure::Silent) } else { Ok(()) }
    }
}

fn is_sandbox(words: &[String]) -> bool {
    let program = words.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|name| name == SANDBOX)
}

/// The same program with the same limits, to probe and not to serve.
fn probing(command: &[String]) -> Vec<String> {
    const PLACES: [&str; 5] = ["--listen", "--connect", "--token-file", "--name", "--slots"];
    let mut words = Vec::new();
    let mut rest = command.iter();
    while let Some(word) = rest.next() {
        if PLACES.contains(&word.as_str()) {
            rest.next();
        } else if !PLACES.iter().any(|place| word.starts_with(&format!("{place}="))) {
            words.push(word.clone());
        }
    }
    words.push("--check".to_owned());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_probe_has_the_limits_of_the_worker_and_serves_nowhere() {
        let command = words("x/rollcall-python-sandbox --listen 127.0.0.1:1 --memory 1GiB --slots=3");
        assert_eq!(probing(&command), words("x/rollcall-python-sandbox --memory 1GiB --check"));
        assert!(is_sandbox(&probing(&command)) && !is_sandbox(&words("sh -c x")));
    }
}
