//! config.yaml: the model, reading it with exact errors, and watching it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::fleet::{Topology, WorkerName, WorkerSpec};

mod plan;
mod problem;
mod watch;

pub use plan::{Altered, Changes, Leaving, Plan, Reach, Renamed, describe, plan};
pub use problem::{Problem, listed};
pub use watch::{Trigger, Watcher};

/// A topology that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file, as problems name it.
    pub file: Arc<str>,
    /// How the server listens and where it keeps things.
    pub server: ServerConfig,
    /// Where tasks are kept.
    pub store: StoreConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
    /// How long finished tasks are kept.
    pub retention: RetentionConfig,
    /// What a reload may do.
    pub reload: ReloadConfig,
    /// The fleet and its numbers; its generation is 0 until it is applied.
    pub topology: Topology,
    /// The line of each worker's entry, from 1.
    pub lines: BTreeMap<WorkerName, u32>,
    /// The first 12 hex digits of the SHA-256 of the file's canonical form.
    pub hash: Arc<str>,
    /// What takes a restart to change.
    pub fixed: Vec<Fixed>,
    /// What is odd, but works.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// A problem with a worker's entry.
    pub(crate) fn worker_problem(&self, name: &WorkerName, message: String) -> Problem {
        let line = self.lines.get(name).copied().unwrap_or(0);
        Problem::at(self.file.clone(), (line, 1), format!("workers.{name}"), message, None)
    }
}

/// A field that only a restart can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Such as `server.listen`.
    pub path: &'static str,
    /// Its value, as it is shown.
    pub value: String,
    /// Where it stands, ready for a message.
    pub place: Problem,
}

/// `server:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where the API listens; always loopback in this version.
    pub listen: SocketAddr,
    /// Where the server keeps what it must find again.
    pub data_dir: PathBuf,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// How long a stopping server waits for launched workers to finish.
    pub drain_timeout: Duration,
    /// Host names that requests may bear beside loopback's.
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may call the API.
    pub allowed_origins: Vec<String>,
    /// Where `/metrics` and `/metrics/workers` move to.
    pub metrics_listen: Option<SocketAddr>,
}

/// `store:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Which store.
    pub kind: StoreKind,
}

/// Where tasks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// In memory: gone when the server stops.
    Memory,
}

/// `telemetry:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe log lines that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Rollcall coped.
    Warn,
    /// The fleet changed.
    Info,
    /// Each step.
    Debug,
    /// Each frame.
    Trace,
}

/// `retention:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionConfig {
    /// How long a finished task is kept.
    pub finished_tasks: Duration,
    /// How many finished tasks are kept at most.
    pub max_tasks: u64,
    /// How many bytes they may take at most.
    pub max_bytes: u64,
}

/// `reload:`, but for `removal_grace`, which is one of the topology's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadConfig {
    /// Whether a reload may remove more than half of the fleet.
    pub allow_mass_removal: bool,
}

/// The environment that a configuration is read with. Values are never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// This process's; names and values that are not Unicode are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where a configuration comes from: a file, and the environment that completes it.
#[derive(Debug, Clone)]
pub struct Source {
    path: Arc<Path>,
    env: Arc<Env>,
}

/// A configuration, and what tells whether its file is still the same.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// Of what was read.
    pub fingerprint: Fingerprint,
}

/// SHA-256 of a file's bytes and of those that it names by `${file:…}`; of the failure where it
/// could not be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a file gave no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Whether it could be read at all.
    pub kind: LoadErrorKind,
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<Problem>,
    /// Of what was read.
    pub fingerprint: Fingerprint,
}

/// How far the reading of a file got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// It could not be read.
    Unreadable,
    /// It was read, and is wrong.
    Invalid,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(&self.problems))
    }
}

impl std::error::Error for LoadError {}

impl Source {
    /// A file, read with this environment.
    pub fn new(path: impl Into<PathBuf>, env: Env) -> Self {
        Self { path: path.into().into(), env: Arc::new(env) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The environment.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Reads and checks the file. Blocks; a large fleet takes a tenth of a second.
    ///
    /// # Errors
    /// See [`LoadError`]; all problems at once.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let name = self.path.display().to_string();
        let text = std::fs::read_to_string(&self.path).map_err(|error| LoadError {
            kind: LoadErrorKind::Unreadable,
            problems: vec![Problem::of(name.as_str(), "", format!("cannot be read: {error}"))],
            fingerprint: Fingerprint::of([error.to_string()]),
        })?;
        let fingerprint = Fingerprint::of([&text]);
        match self.parse(&name, &text) {
            Ok(config) => Ok(Loaded { config, fingerprint }),
            Err(problems) => Err(LoadError { kind: LoadErrorKind::Invalid, problems, fingerprint }),
        }
    }

    /// The fingerprint that [`Source::load`] would give now. Blocks, but far shorter.
    pub fn fingerprint(&self) -> Fingerprint {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Fingerprint::of([text]),
            Err(error) => Fingerprint::of([error.to_string()]),
        }
    }

    /// Checks a text as if it stood in the file; problems call it `name`. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(&self, name: &str, _text: &str) -> Result<Config, Vec<Problem>> {
        Err(vec![Problem::of(name, "", "reading topologies is being built in")])
    }
}

/// Reads a worker's entry given as JSON, by the rules of the file's `workers:` (but nothing is
/// replaced in it, and it cannot name a program to launch).
///
/// # Errors
/// Everything that is wrong with it.
pub fn worker_from_json(entry: &serde_json::Value, _env: &Env) -> Result<WorkerSpec, Vec<Problem>> {
    Err(vec![Problem::of("request", "", format!("reading workers is being built in ({entry})"))])
}

/// The JSON Schema of config.yaml, for editors.
pub fn schema() -> serde_json::Value {
    serde_json::json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object" })
}
