//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::limits::{Limits, Size};
use crate::probe::Level;

/// Runs Python and commands for agents, each in a fresh sandbox: no network, a read-only system, an
/// empty environment, limits on time, memory, processes and output.
///
/// Offers `python.execute` and `command.execute` to a Rollcall server, which dials the worker
/// (--listen) or is dialled by it (--connect). On a machine that cannot hold a sandbox it offers
/// nothing, says why, and ends with exit code 78.
#[derive(Debug, Parser)]
#[command(name = "rollcall-python-sandbox", version)]
pub struct Arguments {
    /// Serve this address, which the server dials; also /healthz and /metrics. Port 0 takes a free one
    #[arg(long, value_name = "ADDR", required_unless_present_any = ["connect", "check"])]
    pub listen: Option<SocketAddr>,

    /// Dial in to a server, such as ws://127.0.0.1:7600
    #[arg(long, value_name = "URL", conflicts_with = "listen")]
    pub connect: Option<String>,

    /// The file with the token to demand or to show; else ROLLCALL_TOKEN. Needed off loopback
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The name to register under, as in the server's config.yaml; else ROLLCALL_WORKER_NAME
    #[arg(long)]
    pub name: Option<String>,

    /// Sandboxes at once, at most; else as many as the server sends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,

    /// The interpreter, below /usr; else /usr/bin/python3
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,

    /// Memory of one sandbox, its files included: 32MiB to 2GiB
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = memory)]
    pub memory: Size,

    /// Processes and threads of one sandbox
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=256))]
    pub pids: u64,

    /// CPU cores of one sandbox: 0.05 to 64
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = cpus)]
    pub cpus: f64,

    /// What is kept of each output stream, its head and its tail: 1KiB to 16MiB
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = output)]
    pub output: Size,

    /// The least isolation with which to run: full, or no-cgroup (memory is then bounded for each
    /// process only, and CPU time not at all)
    #[arg(long, value_name = "LEVEL", default_value_t = Level::Full)]
    pub isolation_minimum: Level,

    /// The form of the log, on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,

    /// Probe the machine, print what was found, and end: 0 when it is good enough, else 78
    #[arg(long, conflicts_with_all = ["listen", "connect"])]
    pub check: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Arguments {
    /// What each sandbox may use.
    pub fn limits(&self) -> Limits {
        Limits {
            memory: self.memory.0,
            pids: self.pids,
            cpus: self.cpus,
            output: usize::try_from(self.output.0).unwrap_or(usize::MAX),
            workspace: self.memory.0 / 2,
        }
    }
}

fn memory(text: &str) -> Result<Size, String> {
    between(text, 32 << 20, 2 << 30)
}

fn output(text: &str) -> Result<Size, String> {
    between(text, 1 << 10, 16 << 20)
}

fn between(text: &str, least: u64, most: u64) -> Result<Size, String> {
    let size: Size = text.parse()?;
    let fits = (least..=most).contains(&size.0);
    fits.then_some(size).ok_or_else(|| format!("not between {} and {}", Size(least), Size(most)))
}

fn cpus(text: &str) -> Result<f64, String> {
    let cores: f64 = text.parse().map_err(|_| String::from("not a number"))?;
    (0.05..=64.0).contains(&cores).then_some(cores).ok_or_else(|| "not between 0.05 and 64".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once(&"worker").chain(words))
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let arguments = parse(&["--listen", "127.0.0.1:0"]).expect("enough");
        assert_eq!(arguments.limits(), Limits::default());
        assert_eq!(arguments.isolation_minimum, Level::Full);
    }

    #[test]
    fn one_way_to_meet_a_server_is_needed_and_only_one() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--check"]).is_ok());
        assert!(parse(&["--connect", "ws://127.0.0.1:1"]).is_ok());
        assert!(parse(&["--listen", "127.0.0.1:0", "--connect", "ws://127.0.0.1:1"]).is_err());
    }

    #[test]
    fn limits_have_bounds() {
        for wrong in
            [["--memory", "4GiB"], ["--pids", "1"], ["--cpus", "NaN"], ["--output", "1B"], ["--slots", "0"]]
        {
            assert!(parse(&[&["--check"][..], &wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
