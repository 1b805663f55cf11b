//! config.yaml: the model, reading it with exact errors, and watching it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::check::{Making, Programs};
use self::model::{Document, Worker};
use self::node::{At, Node, Value};
use self::reader::{Reader, Value as _};
use crate::fleet::{Origin, PoolName, Topology, WorkerName, WorkerSpec};
use crate::trust::{Credential, Credentials, ServerFiles};

mod apart;
mod check;
mod model;
mod node;
mod parts;
mod plan;
mod pool_check;
mod pool_model;
mod problem;
mod reader;
mod substitute;
mod tls_model;
mod values;
mod watch;
mod worker_values;
mod yaml;

#[cfg(test)]
mod tests;

pub(crate) use crate::trust::pool_of;
pub use apart::{Apart, NoAnswer};
pub use plan::{Altered, Changes, Leaving, Plan, Reach, Renamed, describe, plan};
pub use problem::{Problem, listed};
pub use values::{duration, spelled};
pub use watch::{Timing, Trigger, Watcher};
pub(crate) use worker_values::endpoint_key;

/// Workers that one server takes.
pub const MAX_WORKERS: usize = 20_000;

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
    /// What workers show and are shown.
    pub credentials: Arc<Credentials>,
    /// The line of each worker's entry, from 1.
    pub lines: BTreeMap<WorkerName, u32>,
    /// The line of each pool's entry, from 1.
    pub pool_lines: BTreeMap<PoolName, u32>,
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
    /// Where workers dial in, and nobody else.
    pub workers_listen: Option<WorkersListen>,
}

/// `server.workers_listen`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkersListen {
    /// The address; off loopback only with `tls`.
    pub listen: SocketAddr,
    /// Its certificate.
    pub tls: Option<ServerFiles>,
}

/// `store:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Which store; `None` where nothing is written: on disk for a server, in memory for an agent
    /// inside another program.
    pub kind: Option<StoreKind>,
}

/// Where tasks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// In `server.data_dir`: what was accepted survives a crash and a power cut.
    Sqlite,
    /// In memory: gone when the server stops.
    Memory,
}

impl StoreKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Memory];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Memory => "memory",
        }
    }
}

/// `telemetry:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
    /// The base URL of the collector that gets spans by OTLP.
    pub otlp: Option<Arc<str>>,
    /// How often a probe goes the whole way of a task, for each pool; zero: never.
    pub probe: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
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
    /// How long a file that a task made, or a caller uploaded, is kept.
    pub artifacts: Duration,
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

    /// All of it, by name.
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
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

/// SHA-256 of a file's bytes, of when they were written, and of the files that it names by
/// `${file:…}`; of the failure where it could not be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

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

    /// The folder of the file, where relative paths start.
    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Reads and checks the file. Blocks; a large fleet takes a tenth of a second.
    ///
    /// # Errors
    /// See [`LoadError`]; all problems at once.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let name = self.path.display().to_string();
        let (text, fingerprint) = self.read();
        let failed = |kind, problems| LoadError { kind, problems, fingerprint: fingerprint.clone() };
        let text = text.map_err(|error| failed(LoadErrorKind::Unreadable, vec![self.unreadable(&error)]))?;
        let config = self.parse(&name, &text).map_err(|problems| failed(LoadErrorKind::Invalid, problems))?;
        Ok(Loaded { config, fingerprint })
    }

    /// That the file cannot be read, and why.
    pub fn unreadable(&self, why: &dyn fmt::Display) -> Problem {
        Problem::of(self.path.display().to_string(), "", format!("cannot be read: {why}"))
    }

    /// The fingerprint that [`Source::load`] would give now. Blocks, but far shorter.
    pub fn fingerprint(&self) -> Fingerprint {
        self.read().1
    }

    /// The text, and the fingerprint of it and of the files that it names.
    fn read(&self) -> (io::Result<String>, Fingerprint) {
        // Before the text: a file that changes in between is then read again.
        let written = std::fs::metadata(&self.path).and_then(|file| file.modified()).ok();
        let text = read_bounded(&self.path);
        let mut hash = Sha256::new();
        let mut part = |read: &io::Result<String>| {
            let bytes = read.as_ref().map_or_else(|error| error.to_string(), String::clone);
            hash.update(bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        part(&Ok(format!("{written:?}")));
        part(&text);
        for named in text.iter().flat_map(|text| substitute::files_named(text, self.folder())) {
            part(&read_bounded(&named));
        }
        (text, Fingerprint(hash.finalize().into()))
    }

    /// Checks a text as if it stood in the file; problems call it `name`. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(&self, name: &str, text: &str) -> Result<Config, Vec<Problem>> {
        let file: Arc<str> = name.into();
        let mut reader = Reader::of_file(file.clone(), text);
        let (tree, faults) = yaml::parse(text);
        reader.faults(faults);
        let mut config = None;
        if let Some(mut tree) = tree {
            substitute::replace(&mut tree, &self.env, self.folder(), &mut reader);
            substitute::override_fixed(&mut tree, &self.env, &mut reader);
            let making = Making::new(&self.env, self.folder(), &mut reader);
            if tree.is_null() {
                reader.problem(
                    tree.place,
                    &At::ROOT,
                    "is empty; it must have `workers:`, at least `workers: []`",
                );
            } else if let Some(document) = Document::read(&tree, &At::ROOT, &mut reader) {
                let made = making.config(file, document, &mut reader);
                config = Some(Config { hash: canonical_hash(&tree, making.all_mock), ..made });
            }
        }
        let warnings = reader.finish()?;
        // No tree and no document leave a problem behind, always.
        let config = config.ok_or_else(|| vec![Problem::of(name, "", "could not be read")])?;
        Ok(Config { warnings, ..config })
    }
}

/// Reads a file that is not far larger than any topology may be.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(yaml::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a worker's entry given as JSON, by the rules of the file's `workers:` (but nothing is
/// replaced in it, and it cannot name a program to launch).
///
/// # Errors
/// Everything that is wrong with it.
pub fn worker_from_json(
    entry: &serde_json::Value,
    env: &Env,
) -> Result<(WorkerSpec, Credential), Vec<Problem>> {
    let mut reader = Reader::of_request();
    let making = Making::new(env, Path::new(""), &mut reader);
    let node = Node::of_json(entry);
    let worker = Worker::read(&node, &At::ROOT, &mut reader);
    let spec = worker.map(|worker| {
        making.worker(worker, Origin::Api, &mut Programs::new(&making), &At::ROOT, &mut reader)
    });
    reader.finish()?;
    spec.ok_or_else(|| vec![Problem::of("request", "", "could not be read")])
}

/// The JSON Schema of config.yaml, for editors.
pub fn schema() -> serde_json::Value {
    let mut schema = Document::schema();
    if let Some(fields) = schema.as_object_mut() {
        fields.shift_insert(0, "$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        fields.shift_insert(1, "title".to_owned(), "Rollcall topology".into());
    }
    schema
}

/// The first 12 hex digits of the SHA-256 of a tree: comments, spaces, quotes and the order of
/// fields do not count.
fn canonical_hash(tree: &Node<'_>, all_mock: bool) -> Arc<str> {
    // Two bytes that are in no text end a text and a collection.
    const TEXT_END: &[u8] = b"\xff";
    const ALL_END: &[u8] = b"\xfe";
    fn feed(node: &Node<'_>, hash: &mut Sha256) {
        match &node.value {
            // A wrong value makes no configuration, so its hash is never seen.
            Value::Wrong => {}
            Value::Scalar(_) if node.is_null() => hash.update("0"),
            Value::Scalar(scalar) => {
                hash.update("s");
                hash.update(&*scalar.text);
                hash.update(TEXT_END);
            }
            Value::List(items) => {
                hash.update("l");
                items.iter().for_each(|item| feed(item, hash));
                hash.update(ALL_END);
            }
            Value::Map(entries) => {
                hash.update("m");
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|(one, _), (other, _)| one.text.cmp(&other.text));
                for (key, value) in sorted {
                    hash.update(&*key.text);
                    hash.update(TEXT_END);
                    feed(value, hash);
                }
                hash.update(ALL_END);
            }
        }
    }
    let mut hash = Sha256::new();
    hash.update([u8::from(all_mock)]);
    feed(tree, &mut hash);
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
