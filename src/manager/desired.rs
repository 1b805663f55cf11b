//! The desired fleet: the one place that builds generations. It joins the file's workers with those
//! that the API added, guards against files that would do harm, and hands the result to the fleet,
//! which cannot refuse it. Start-up is a reload from an empty topology.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

mod guard;
mod keeper;
mod status;
#[cfg(test)]
mod tests;

pub use keeper::Keeper;
pub use status::{APPLY_BUCKETS, ApplyTimes, Outcome, ReloadStatus, Told};

use super::handle::{Applied, CallError, Manager, Snapshot};
use crate::config::{
    self, Apart, Changes, Config, LoadError, LoadErrorKind, Loaded, Plan, Problem, Source, Trigger,
};
use crate::fleet::{Diff, Generation, Topology, WorkerName, WorkerSpec};
use crate::interface::BoxFuture;
use crate::store::Retention;
use crate::trust::{Credential, Credentials};

/// Requests that wait for the keeper; more make their callers wait.
const WAITING_REQUESTS: usize = 64;

/// How long the file system may take to tell of the file: a scrape waits for it.
const LOOKING: Duration = Duration::from_secs(1);

/// What a generation is handed to: the manager, or a stand-in in tests.
pub trait Reconciler: Send + Sync + 'static {
    /// Puts a topology in force.
    fn apply(&self, topology: Topology) -> BoxFuture<Result<Applied, CallError>>;

    /// What workers show and are shown from now on.
    fn believe(&self, credentials: Arc<Credentials>);

    /// Keeps so much of finished tasks from now on.
    fn retain(&self, retention: Retention);

    /// The topology in force.
    fn topology(&self) -> Arc<Topology>;

    /// The workers, as last published.
    fn workers(&self) -> Arc<Snapshot>;
}

impl Reconciler for Manager {
    fn apply(&self, topology: Topology) -> BoxFuture<Result<Applied, CallError>> {
        let manager = self.clone();
        Box::pin(async move { Manager::apply(&manager, topology).await })
    }

    fn believe(&self, credentials: Arc<Credentials>) {
        self.trust().believe(credentials);
    }

    fn retain(&self, retention: Retention) {
        Manager::retain(self, retention);
    }

    fn topology(&self) -> Arc<Topology> {
        Manager::topology(self)
    }

    fn workers(&self) -> Arc<Snapshot> {
        Manager::workers(self)
    }
}

/// A file that was taken.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// The generation in force.
    pub generation: Generation,
    /// What changed.
    pub diff: Arc<Diff>,
    /// The same, in the words of the API and with the tasks that ran at that moment.
    pub changes: Arc<Changes>,
    /// What is odd in the file, but works.
    pub warnings: Vec<Problem>,
    /// Whether the file said what was in force already.
    pub unchanged: bool,
}

/// A file that was not taken. What was in force stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadRejected {
    /// It could not be read.
    Unreadable(Vec<Problem>),
    /// It is wrong.
    Invalid(Vec<Problem>),
    /// It changes what takes a restart to change.
    NeedsRestart(Vec<Problem>),
    /// It removes more than half of the fleet, and nobody said that this is meant.
    MassRemoval(Vec<Problem>),
    /// The server is stopping.
    Stopped,
}

impl ReloadRejected {
    /// What is wrong; empty only when the server is stopping.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable(problems)
            | Self::Invalid(problems)
            | Self::NeedsRestart(problems)
            | Self::MassRemoval(problems) => problems,
            Self::Stopped => &[],
        }
    }

    /// A short, stable word for the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "topology_unreadable",
            Self::Invalid(_) => "topology_invalid",
            Self::NeedsRestart(_) => "topology_needs_restart",
            Self::MassRemoval(_) => "topology_mass_removal",
            Self::Stopped => "stopping",
        }
    }

    /// The word that it is counted under; `None` when nothing was attempted.
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Unreadable(_) => Some(Outcome::Unreadable),
            Self::Invalid(_) | Self::NeedsRestart(_) | Self::MassRemoval(_) => Some(Outcome::Invalid),
            Self::Stopped => None,
        }
    }
}

impl fmt::Display for ReloadRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the server is stopping"),
            rejected => f.write_str(&config::listed(rejected.problems())),
        }
    }
}

impl std::error::Error for ReloadRejected {}

impl From<LoadError> for ReloadRejected {
    fn from(error: LoadError) -> Self {
        match error.kind {
            LoadErrorKind::Unreadable => Self::Unreadable(error.problems),
            LoadErrorKind::Invalid => Self::Invalid(error.problems),
        }
    }
}

/// Why a worker was not added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddRefused {
    /// The file, or an earlier call, has a worker of that name.
    NameTaken {
        /// The file's path and line, if it is the file's.
        by: Option<(String, u32)>,
    },
    /// Another worker has that endpoint.
    EndpointTaken {
        /// Which.
        by: WorkerName,
    },
    /// As many workers as one server takes.
    TooMany,
    /// The server is stopping.
    Stopped,
}

/// Why a worker was not removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveRefused {
    /// It is an entry of the file; it must be removed there.
    InFile {
        /// The file.
        file: String,
        /// The entry's line.
        line: u32,
    },
    /// No worker of that name.
    NoSuchWorker,
    /// The server is stopping.
    Stopped,
}

/// What is asked for: the file's last good word, and the workers that live beside it.
#[derive(Debug, Clone)]
struct Wanted {
    config: Arc<Config>,
    added: BTreeMap<WorkerName, Arc<WorkerSpec>>,
    /// What the API's workers show and are shown.
    shown: BTreeMap<WorkerName, Credential>,
}

impl Wanted {
    /// The whole fleet; the file wins a name.
    fn topology(&self) -> Topology {
        let mut topology = self.config.topology.clone();
        for (name, spec) in &self.added {
            topology.workers.entry(name.clone()).or_insert_with(|| spec.clone());
        }
        topology
    }

    /// What all of them show and are shown.
    fn credentials(&self) -> Arc<Credentials> {
        if self.shown.is_empty() {
            return Arc::clone(&self.config.credentials);
        }
        let mut credentials = Credentials::clone(&self.config.credentials);
        for (name, credential) in &self.shown {
            credentials.worker(name.clone(), credential.clone());
        }
        Arc::new(credentials)
    }

    /// The same with another file. Names that the file takes up are the file's from then on; an
    /// endpoint that one of its workers shares with a worker of the API is a problem.
    fn with(&self, mut config: Config) -> (Self, Vec<Problem>) {
        // Entries that did not change stay one and the same value, which is quick to compare.
        for (name, spec) in &mut config.topology.workers {
            if let Some(was) = self.config.topology.workers.get(name).filter(|was| *was == spec) {
                *spec = was.clone();
            }
        }
        for (name, spec) in &mut config.topology.pools {
            if let Some(was) = self.config.topology.pools.get(name).filter(|was| *was == spec) {
                *spec = was.clone();
            }
        }
        let mut added = self.added.clone();
        added.retain(|name, _| !config.topology.workers.contains_key(name));
        let mut shown = self.shown.clone();
        shown.retain(|name, _| added.contains_key(name));
        let mut problems = Vec::new();
        if !added.is_empty() {
            let endpoints: BTreeMap<_, _> = added
                .values()
                .filter_map(|spec| Some((config::endpoint_key(spec.endpoint.as_deref()?), &spec.name)))
                .collect();
            for spec in config.topology.workers.values() {
                let key = spec.endpoint.as_deref().map(config::endpoint_key);
                if let Some(by) = key.and_then(|key| endpoints.get(&key)) {
                    problems.push(config.worker_problem(
                        &spec.name,
                        format!("its endpoint is that of worker \"{by}\", which was added by the API; endpoints must differ"),
                    ));
                }
            }
        }
        (Self { config: Arc::new(config), added, shown }, problems)
    }
}

struct Shared {
    source: Source,
    fleet: Box<dyn Reconciler>,
    wanted: ArcSwap<Wanted>,
    config: watch::Sender<Arc<Config>>,
    status: ArcSwap<ReloadStatus>,
    /// Where the file system is asked about the file.
    looks: Apart,
}

impl Shared {
    /// A file's word joined with the API's workers, if a reload may do that.
    fn checked(&self, config: Config, allow_mass_removal: bool) -> Result<Wanted, ReloadRejected> {
        let (wanted, problems) = self.wanted.load().with(config);
        if !problems.is_empty() {
            return Err(ReloadRejected::Invalid(problems));
        }
        let fixed = guard::restart(&self.config.borrow(), &wanted.config);
        if !fixed.is_empty() {
            return Err(ReloadRejected::NeedsRestart(fixed));
        }
        match guard::mass_removal(&self.fleet.topology(), &wanted, &self.fleet.workers(), allow_mass_removal)
        {
            Some(problem) => Err(ReloadRejected::MassRemoval(vec![problem])),
            None => Ok(wanted),
        }
    }
}

enum Request {
    Reload(Trigger, bool, oneshot::Sender<Result<Reloaded, ReloadRejected>>),
    Add(Box<(WorkerSpec, Credential)>, oneshot::Sender<Result<Reloaded, AddRefused>>),
    Remove(WorkerName, oneshot::Sender<Result<Reloaded, RemoveRefused>>),
}

/// A handle to the desired fleet. Clone it freely; requests are carried out one after another.
#[derive(Clone)]
pub struct Desired {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

impl Desired {
    /// Puts the first configuration in force and hands out the handle, with the task that must run
    /// for it to work.
    ///
    /// # Errors
    /// [`CallError::Stopped`] when the fleet is gone.
    pub async fn start(
        fleet: impl Reconciler,
        source: Source,
        loaded: Loaded,
    ) -> Result<(Self, Keeper), CallError> {
        let Loaded { config, fingerprint } = loaded;
        let config = Arc::new(config);
        let shared = Arc::new(Shared {
            source,
            fleet: Box::new(fleet),
            status: ArcSwap::from_pointee(ReloadStatus::new(config.hash.clone())),
            looks: Apart::default(),
            config: watch::Sender::new(config.clone()),
            wanted: ArcSwap::from_pointee(Wanted { config, added: BTreeMap::new(), shown: BTreeMap::new() }),
        });
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let keeper = Keeper::start(shared.clone(), waiting, fingerprint).await?;
        Ok((Self { shared, requests }, keeper))
    }

    /// Reads the file and puts it in force. Requests that wait together are answered by one
    /// reading. Goes on when the caller is gone.
    ///
    /// # Errors
    /// See [`ReloadRejected`]; nothing has changed then.
    pub async fn reload(
        &self,
        trigger: Trigger,
        allow_mass_removal: bool,
    ) -> Result<Reloaded, ReloadRejected> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Reload(trigger, allow_mass_removal, reply);
        self.requests.send(request).await.map_err(|_| ReloadRejected::Stopped)?;
        answer.await.map_err(|_| ReloadRejected::Stopped)?
    }

    /// What a reload with this text as the file would do; problems call it `name`.
    ///
    /// # Errors
    /// Everything that is wrong with the text.
    pub async fn plan(&self, name: &str, text: String) -> Result<Plan, Vec<Problem>> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        let planned = tokio::task::spawn_blocking(move || {
            let config = shared.source.parse(&name, &text)?;
            let (wanted, mut refusals) = shared.wanted.load().with(config);
            let snapshot = shared.fleet.workers();
            let before = shared.fleet.topology();
            let mut plan = config::plan(&before, &wanted.topology(), Some(&snapshot.workers));
            refusals.extend(guard::restart(&shared.config.borrow(), &wanted.config));
            refusals.extend(guard::mass_removal(&before, &wanted, &snapshot, false));
            plan.refusals = refusals;
            plan.warnings.clone_from(&wanted.config.warnings);
            Ok(plan)
        });
        planned.await.unwrap_or_else(|error| {
            Err(vec![Problem::of(
                self.path().display().to_string(),
                "",
                format!("could not be read: {error}"),
            )])
        })
    }

    /// Reads this text as if it were the file, and changes nothing; problems call it `name`.
    ///
    /// # Errors
    /// Everything that is wrong with the text.
    pub async fn read(&self, name: &str, text: String) -> Result<Config, Vec<Problem>> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        let read = tokio::task::spawn_blocking(move || shared.source.parse(&name, &text));
        read.await.unwrap_or_else(|error| {
            Err(vec![Problem::of(
                self.path().display().to_string(),
                "",
                format!("could not be read: {error}"),
            )])
        })
    }

    /// Reads a worker's entry, given as JSON, by the rules of the file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn worker_from_json(
        &self,
        entry: &serde_json::Value,
    ) -> Result<(WorkerSpec, Credential), Vec<Problem>> {
        config::worker_from_json(entry, self.shared.source.env())
    }

    /// Adds a worker that lives beside the file's, until it is removed, the file names it, or the
    /// server stops.
    ///
    /// # Errors
    /// See [`AddRefused`].
    pub async fn add_worker(&self, entry: (WorkerSpec, Credential)) -> Result<Reloaded, AddRefused> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Add(Box::new(entry), reply)).await.map_err(|_| AddRefused::Stopped)?;
        answer.await.map_err(|_| AddRefused::Stopped)?
    }

    /// Removes a worker that [`Desired::add_worker`] added: it drains first.
    ///
    /// # Errors
    /// See [`RemoveRefused`].
    pub async fn remove_worker(&self, name: &WorkerName) -> Result<Reloaded, RemoveRefused> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Remove(name.clone(), reply)).await.map_err(|_| RemoveRefused::Stopped)?;
        answer.await.map_err(|_| RemoveRefused::Stopped)?
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.shared.source.path()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.borrow().clone()
    }

    /// Tells of each configuration that comes into force.
    pub fn configs(&self) -> watch::Receiver<Arc<Config>> {
        self.shared.config.subscribe()
    }

    /// What the metrics show of reloading.
    pub fn status(&self) -> Arc<ReloadStatus> {
        self.shared.status.load_full()
    }

    /// When the file was last written, as the file system says now; `None` also where it does not say.
    pub async fn file_modified(&self) -> Option<SystemTime> {
        let path = self.path().to_owned();
        let look = move || std::fs::metadata(path).and_then(|file| file.modified());
        self.shared.looks.run(LOOKING, look).await.ok()?.ok()
    }
}
