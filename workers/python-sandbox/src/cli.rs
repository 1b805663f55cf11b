//! The command line, and the file that says the same and more.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use rollcall_worker_sdk::{ClientFiles, Identity, ServerFiles};
use serde::Deserialize;

use crate::limits::{
    LEAST_CPUS, LEAST_FILES, LEAST_MEMORY, LEAST_OUTPUT, LEAST_PROCESSES, LEAST_WORKSPACE, Limits, Size,
};
use crate::packages::PackagesSection;
use crate::probe::Level;

/// Sandboxes kept ready where nothing else is said.
const WARM: usize = 2;

/// Modules that they have loaded: what code of agents asks for most, and what the runner itself needs for a
/// command.
const IMPORTS: [&str; 10] =
    ["collections", "datetime", "io", "itertools", "json", "math", "random", "re", "subprocess", "traceback"];

/// Runs Python and commands for agents, in sandboxes: no network, a read-only system, an empty environment,
/// limits on time, memory, processes and output.
///
/// Offers `python.*`, `command.execute`, `files.*`, `package.*` and `code.analyze` to a Rollcall server,
/// which dials the worker (--listen) or is dialled by it (--connect). On a machine that cannot hold a
/// sandbox it offers nothing, says why, and ends with exit code 78.
#[derive(Debug, Parser)]
#[command(name = "rollcall-python-sandbox", version)]
pub struct Arguments {
    /// Serve this address, which the server dials; also /healthz and /metrics. Port 0 takes a free one
    #[arg(long, value_name = "ADDR", required_unless_present_any = ["connect", "check"])]
    pub listen: Option<SocketAddr>,

    /// Dial in to a server, such as ws://127.0.0.1:7600 or wss://rollcall.example:7610
    #[arg(long, value_name = "URL", conflicts_with = "listen")]
    pub connect: Option<String>,

    /// The file with the token to demand or to show; else ROLLCALL_TOKEN. Needed off loopback
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The authorities, in PEM, by which the other side's certificate is judged. With --connect: instead of
    /// the system's. With --listen: the server must then show a certificate
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// The certificate to show, in PEM, with those between it and its authority. With --listen: serve TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Its private key, in PEM, which nobody else may read
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The name to register under, as in the server's config.yaml; else ROLLCALL_WORKER_NAME
    #[arg(long)]
    pub name: Option<String>,

    /// Sandboxes at once, at most; else as many as the server sends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub slots: Option<u32>,

    /// A YAML file with all that the flags below say, and the maxima of the limits; see docs/sandbox.md
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The interpreter, below /usr; else /usr/bin/python3
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,

    /// Memory of one sandbox, its files included [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,

    /// Processes and threads of one sandbox [default: 64]
    #[arg(long, value_name = "N")]
    pub processes: Option<u64>,

    /// CPU cores of one sandbox [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,

    /// What is kept of each output stream, its head and its tail [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub output: Option<Size>,

    /// Sandboxes to keep ready, so that a task need not wait for one [default: 2]
    #[arg(long, value_name = "N")]
    pub warm: Option<usize>,

    /// A folder of wheels from which `package.install` installs; without it, and without `packages.mode` in
    /// the file, that is not offered
    #[arg(long, value_name = "DIR")]
    pub wheels: Option<PathBuf>,

    /// The least isolation with which to run: full, or no-cgroup (memory is then bounded for each process
    /// only, and CPU time not at all) [default: full]
    #[arg(long, value_name = "LEVEL")]
    pub isolation_minimum: Option<Level>,

    /// Run code with no isolation at all: what it does, it does to this machine. Every result is labelled,
    /// and the log complains each minute. Not for code that you have not read
    #[arg(long, conflicts_with = "isolation_minimum")]
    pub unsafe_no_isolation: bool,

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

/// What file and flags come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The interpreter, where it is not the usual one.
    pub python: Option<PathBuf>,
    /// What a sandbox may use of which nothing else is said.
    pub limits: Limits,
    /// The most that a task may ask for.
    pub most: Limits,
    /// The level below which nothing is offered.
    pub minimum: Level,
    /// Sandboxes to keep ready.
    pub warm: usize,
    /// Modules that they have loaded.
    pub imports: Vec<String>,
    /// Sessions at once.
    pub sessions: usize,
    /// Which packages can be installed, and from where.
    pub packages: PackagesSection,
    /// Where installed packages are kept.
    pub packages_home: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    python: Option<PathBuf>,
    limits: LimitsSection,
    isolation: IsolationSection,
    warm: WarmSection,
    sessions: SessionsSection,
    packages: PackagesSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsSection {
    memory: Bound<Size>,
    processes: Bound<u64>,
    cpus: Bound<f64>,
    output: Bound<Size>,
    workspace: Bound<Size>,
    open_files: Bound<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound<T> {
    default: Option<T>,
    max: Option<T>,
}

impl<T> Default for Bound<T> {
    fn default() -> Self {
        Self { default: None, max: None }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IsolationSection {
    minimum: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WarmSection {
    size: Option<usize>,
    imports: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SessionsSection {
    max: Option<usize>,
}

impl Arguments {
    /// The certificate to show.
    fn identity(&self) -> Option<Identity> {
        Some(Identity { cert: self.tls_cert.clone()?, key: self.tls_key.clone()? })
    }

    /// Whom to believe, and what to show, when dialling in.
    pub fn as_client(&self) -> ClientFiles {
        ClientFiles { ca: self.tls_ca.clone(), identity: self.identity() }
    }

    /// The same when listening; none without a certificate.
    ///
    /// # Errors
    /// A sentence, when there is an authority but no certificate.
    pub fn as_server(&self) -> Result<Option<ServerFiles>, String> {
        match self.identity() {
            Some(identity) => Ok(Some(ServerFiles { identity, client_ca: self.tls_ca.clone() })),
            None if self.tls_ca.is_some() => {
                Err("--tls-ca has no use with --listen but with --tls-cert and --tls-key".to_owned())
            }
            None => Ok(None),
        }
    }

    /// What the file says, and the flags before it.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn settings(&self) -> Result<Settings, String> {
        let file = match &self.config {
            None => File::default(),
            Some(path) => read(path)?,
        };
        let (limits, most) = self.limits(&file.limits)?;
        let minimum = match (self.isolation_minimum, &file.isolation.minimum) {
            (Some(level), _) => level,
            (None, Some(text)) => text.parse().map_err(|problem| format!("isolation.minimum: {problem}"))?,
            (None, None) => Level::default(),
        };
        let most_warm = 64;
        let warm = self.warm.or(file.warm.size).unwrap_or(WARM);
        let sessions = file.sessions.max.unwrap_or(16);
        if warm > most_warm || !(1..=256).contains(&sessions) {
            return Err(format!("warm.size may be 0 to {most_warm}, and sessions.max 1 to 256"));
        }
        let mut packages = file.packages;
        packages.wheels = self.wheels.clone().or(packages.wheels);
        packages.check()?;
        Ok(Settings {
            python: self.python.clone().or(file.python),
            limits,
            most,
            minimum,
            warm,
            imports: file.warm.imports.unwrap_or_else(|| IMPORTS.map(str::to_owned).to_vec()),
            sessions,
            packages_home: packages.home.clone().unwrap_or_else(usual_home),
            packages,
        })
    }

    /// The defaults and the maxima. A default above its maximum raises that: who says `--memory 1GiB` has
    /// said that a sandbox may have it.
    fn limits(&self, file: &LimitsSection) -> Result<(Limits, Limits), String> {
        let (usual, most) = (Limits::default(), Limits::MOST);
        let bytes = |size: Option<Size>| size.map(|Size(bytes)| bytes);
        let short = |size: Option<Size>| size.map(|Size(bytes)| usize::try_from(bytes).unwrap_or(usize::MAX));
        let memory = between(
            "memory",
            (bytes(self.memory.or(file.memory.default)), bytes(file.memory.max)),
            (usual.memory, most.memory),
            (LEAST_MEMORY, 64 << 30),
        )?;
        let processes = between(
            "processes",
            (self.processes.or(file.processes.default), file.processes.max),
            (usual.processes, most.processes),
            (LEAST_PROCESSES, 4096),
        )?;
        let cpus = between(
            "cpus",
            (self.cpus.or(file.cpus.default), file.cpus.max),
            (usual.cpus, most.cpus),
            (LEAST_CPUS, 64.0),
        )?;
        let output = between(
            "output",
            (short(self.output.or(file.output.default)), short(file.output.max)),
            (usual.output, most.output),
            (LEAST_OUTPUT, 16 << 20),
        )?;
        // What a workspace holds is memory: it cannot be larger than that.
        let workspace_usual = usual.workspace.min(memory.0 / 2);
        let workspace = between(
            "workspace",
            (bytes(file.workspace.default), bytes(file.workspace.max)),
            (workspace_usual, most.workspace),
            (LEAST_WORKSPACE, memory.1),
        )?;
        let open_files = between(
            "open_files",
            (file.open_files.default, file.open_files.max),
            (usual.open_files, most.open_files),
            (LEAST_FILES, 65_536),
        )?;
        let all = |memory, processes, cpus, output, workspace, open_files| Limits {
            memory,
            processes,
            cpus,
            output,
            workspace,
            open_files,
        };
        Ok((
            all(memory.0, processes.0, cpus.0, output.0, workspace.0, open_files.0),
            all(memory.1, processes.1, cpus.1, output.1, workspace.1, open_files.1),
        ))
    }
}

fn read(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|problem| format!("{shown}: {problem}"))?;
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    serde_yaml::from_str(&text).map_err(|problem| format!("{shown}: {problem}"))
}

/// The default and the maximum of one limit.
fn between<T: PartialOrd + Copy + std::fmt::Display>(
    name: &str,
    (default, max): (Option<T>, Option<T>),
    (usual, usual_max): (T, T),
    (least, most): (T, T),
) -> Result<(T, T), String> {
    let larger = |a: T, b: T| if a > b { a } else { b };
    let chosen = default.unwrap_or(usual);
    let chosen_max = max.unwrap_or_else(|| larger(usual_max, chosen));
    // Written so that a number that is none (NaN) is refused, too.
    if chosen >= least && chosen <= chosen_max && chosen_max <= most {
        return Ok((chosen, chosen_max));
    }
    if default.is_none() && chosen_max >= least && chosen_max <= most {
        // Only a maximum was given, below the usual default: it is the default as well.
        return Ok((chosen_max, chosen_max));
    }
    Err(format!(
        "limits.{name}: default {chosen} and max {chosen_max}: the default may not be above the maximum, and \
         both must be {least} to {most}"
    ))
}

fn usual_home() -> PathBuf {
    std::env::temp_dir().join(format!("rollcall-packages-{}", nix::unistd::Uid::effective()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once(&"worker").chain(words))
    }

    fn settings(words: &[&str]) -> Result<Settings, String> {
        parse(&[&["--check"][..], words].concat()).expect("known flags").settings()
    }

    fn with_file(text: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sandbox.yaml");
        std::fs::write(&file, text).expect("a file");
        settings(&["--config", file.to_str().expect("UTF-8")])
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let settings = settings(&[]).expect("nothing is wrong");
        assert_eq!((settings.limits, settings.most), (Limits::default(), Limits::MOST));
        assert_eq!((settings.minimum, settings.warm, settings.sessions), (Level::Full, 2, 16));
        assert_eq!(with_file("").expect("an empty file"), settings);
    }

    #[test]
    fn one_way_to_meet_a_server_is_needed_and_only_one() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--check"]).is_ok());
        assert!(parse(&["--connect", "ws://127.0.0.1:1"]).is_ok());
        assert!(parse(&["--listen", "127.0.0.1:0", "--connect", "ws://127.0.0.1:1"]).is_err());
    }

    #[test]
    fn a_certificate_comes_with_its_key() {
        let parsed = |words: &[&str]| parse(&[&["--listen", "127.0.0.1:0"][..], words].concat());
        assert!(parsed(&["--tls-cert", "a"]).is_err() && parsed(&["--tls-key", "a"]).is_err());
        let whole = parsed(&["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"]).expect("known flags");
        let files = whole.as_server().expect("whole").expect("a certificate");
        assert_eq!((files.identity.key, files.client_ca), ("b".into(), Some("c".into())));
        let half = parsed(&["--tls-ca", "c"]).expect("known flags");
        assert!(half.as_server().is_err());
        assert_eq!(half.as_client().ca, Some("c".into()));
    }

    #[test]
    fn limits_have_bounds() {
        for wrong in [
            ["--memory", "1MiB"],
            ["--processes", "1"],
            ["--cpus", "NaN"],
            ["--output", "1B"],
            ["--warm", "65"],
        ] {
            assert!(settings(&wrong).is_err(), "{wrong:?}");
        }
        let raised = settings(&["--memory", "4GiB"]).expect("what the operator wants");
        assert_eq!((raised.limits.memory, raised.most.memory), (4 << 30, 4 << 30));
    }

    #[test]
    fn a_file_says_defaults_and_maxima_and_flags_go_before_it() {
        let text = "limits:\n  memory: { default: 128MiB, max: 1GiB }\n  cpus: { max: 2 }\n\
                    isolation: { minimum: no-cgroup }\nwarm: { size: 0, imports: [numpy] }\n";
        let settings = with_file(text).expect("a good file");
        assert_eq!((settings.limits.memory, settings.most.memory), (128 << 20, 1 << 30));
        assert_eq!((settings.limits.workspace, settings.most.cpus), (64 << 20, 2.0));
        assert_eq!((settings.minimum, settings.warm), (Level::NoCgroup, 0));
        assert_eq!(settings.imports, ["numpy"]);
        for wrong in
            ["limit: {}", "limits: { memory: { default: 2GiB, max: 1GiB } }", "isolation: { minimum: x }"]
        {
            assert!(with_file(wrong).is_err(), "{wrong}");
        }
    }
}
