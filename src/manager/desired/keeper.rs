//! The task that carries out what [`Desired`](super::Desired) is asked and the watcher tells, one
//! after another: so no two generations are ever built at once, and a caller who hangs up midway
//! changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::status::Outcome;
use super::{AddRefused, ReloadRejected, Reloaded, RemoveRefused, Request, Shared, Wanted};
use crate::config::{
    Apart, Changes, Fingerprint, MAX_WORKERS, NoAnswer, Problem, Trigger, Watcher, endpoint_key, pool_of,
};
use crate::fleet::{Generation, Origin, WorkerName, WorkerSpec};
use crate::manager::handle::CallError;
use crate::telemetry::{Loop, Metrics};
use crate::trust::Credential;

/// Problems of one rejected file that are logged; the API's answer has them all.
const LOGGED_PROBLEMS: usize = 20;

/// How long the file may take to be read. It is a good second for the largest fleet on a busy disk.
const READING: Duration = Duration::from_secs(10);

type ReloadReply = oneshot::Sender<Result<Reloaded, ReloadRejected>>;

/// The task behind [`Desired`](super::Desired): [`Keeper::run`] it.
pub struct Keeper {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// What was read last, taken or not.
    seen: Fingerprint,
    /// Where the file is read.
    apart: Apart,
    /// Whether it has been told that the file gives no answer.
    hangs: bool,
    stopping: Option<watch::Receiver<bool>>,
}

enum Event {
    Asked(Request),
    Watched(Trigger),
    Stop,
}

impl Keeper {
    pub(super) async fn start(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        seen: Fingerprint,
    ) -> Result<Self, CallError> {
        let keeper = Self { shared, requests, seen, apart: Apart::default(), hangs: false, stopping: None };
        let wanted = Wanted::clone(&keeper.shared.wanted.load());
        let warnings = wanted.config.warnings.clone();
        keeper.apply(Trigger::Start, wanted, Instant::now()).await.ok_or(CallError::Stopped)?;
        for warning in &warnings {
            warn!("{}", warning.headline());
        }
        Ok(keeper)
    }

    /// Runs until the server begins to stop, or every handle is gone.
    pub async fn run(
        mut self,
        mut watcher: Watcher,
        mut stopping: watch::Receiver<bool>,
        metrics: Arc<Metrics>,
    ) {
        self.stopping = Some(stopping.clone());
        loop {
            match self.next_event(&mut watcher, &mut stopping).await {
                Event::Stop => return,
                Event::Watched(trigger) => self.watched(trigger).await,
                Event::Asked(request) => self.asked(request).await,
            }
            metrics.loop_passed(Loop::Config);
        }
    }

    /// Waits and does nothing else. Cancel-safe.
    async fn next_event(&mut self, watcher: &mut Watcher, stopping: &mut watch::Receiver<bool>) -> Event {
        tokio::select! {
            biased; // A burst of file events must not hold back the end.
            _ = stopping.wait_for(|stopping| *stopping) => Event::Stop,
            request = self.requests.recv() => request.map_or(Event::Stop, Event::Asked),
            trigger = watcher.changed() => Event::Watched(trigger),
        }
    }

    /// A timer that finds what was read before makes no attempt.
    async fn watched(&mut self, trigger: Trigger) {
        if trigger == Trigger::Timer {
            let shared = self.shared.clone();
            match self.reads(move || shared.source.fingerprint()).await {
                Some(Ok(now)) if now == self.seen => return,
                // Once is enough.
                Some(Err(NoAnswer::Late(_))) if self.hangs => return,
                Some(_) => {}
                None => return,
            }
        }
        // Whoever wants to know reads the status; a rejection has been logged.
        drop(self.reload(trigger, false).await);
    }

    /// Takes all that waits at once, so that reloads asked for together are one.
    async fn asked(&mut self, first: Request) {
        let mut waiting = vec![first];
        while let Ok(next) = self.requests.try_recv() {
            waiting.push(next);
        }
        let (mut plain, mut allowed): (Vec<ReloadReply>, Vec<ReloadReply>) = (Vec::new(), Vec::new());
        let mut trigger = None;
        for request in waiting {
            match request {
                Request::Reload(by, allow, reply) => {
                    trigger.get_or_insert(by);
                    if allow { allowed.push(reply) } else { plain.push(reply) }
                }
                // A caller who has hung up does not need the answer.
                Request::Add(spec, reply) => drop(reply.send(self.add(*spec).await)),
                Request::Remove(name, reply) => drop(reply.send(self.remove(&name).await)),
            }
        }
        let Some(trigger) = trigger else { return };
        if !plain.is_empty() {
            let result = self.reload(trigger, false).await;
            if !matches!(result, Err(ReloadRejected::MassRemoval(_))) {
                plain.append(&mut allowed);
            }
            plain.into_iter().for_each(|reply| drop(reply.send(result.clone())));
        }
        if !allowed.is_empty() {
            let result = self.reload(trigger, true).await;
            allowed.into_iter().for_each(|reply| drop(reply.send(result.clone())));
        }
    }

    /// Reads and checks the file, and puts it in force.
    async fn reload(
        &mut self,
        trigger: Trigger,
        allow_mass_removal: bool,
    ) -> Result<Reloaded, ReloadRejected> {
        let began = Instant::now();
        let wanted = match self.read(allow_mass_removal).await {
            Ok(wanted) => wanted,
            Err(rejected) => return Err(self.rejected(trigger, rejected)),
        };
        let warnings = wanted.config.warnings.clone();
        let same = self.shared.config.borrow().hash == wanted.config.hash;
        let reloaded = self.apply(trigger, wanted, began).await.ok_or(ReloadRejected::Stopped)?;
        if !same {
            for warning in &warnings {
                warn!("{}", warning.headline());
            }
        }
        Ok(Reloaded { warnings, ..reloaded })
    }

    /// What is read, on a thread of its own; `None` when the server stops meanwhile.
    async fn reads<T: Send + 'static>(
        &mut self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, NoAnswer>> {
        let stops = async {
            match &mut self.stopping {
                Some(stopping) => drop(stopping.wait_for(|stopping| *stopping).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // A file that hangs must not hold back the end.
            () = stops => None,
            read = self.apart.run(READING, read) => Some(read),
        }
    }

    /// What the file asks for, through every check. Reading and checking a large fleet takes a
    /// while, so it has a thread of its own.
    async fn read(&mut self, allow_mass_removal: bool) -> Result<Wanted, ReloadRejected> {
        let shared = self.shared.clone();
        let read = self.reads(move || match shared.source.load() {
            Ok(loaded) => (Some(loaded.fingerprint), shared.checked(loaded.config, allow_mass_removal)),
            Err(failed) => (Some(failed.fingerprint.clone()), Err(failed.into())),
        });
        let read = read.await.ok_or(ReloadRejected::Stopped)?;
        self.hangs = matches!(read, Err(NoAnswer::Late(_)));
        let (fingerprint, checked) = read.unwrap_or_else(|why| {
            (None, Err(ReloadRejected::Unreadable(vec![self.shared.source.unreadable(&why)])))
        });
        self.seen = fingerprint.unwrap_or_else(|| self.seen.clone());
        checked
    }

    /// Puts it in force, and tells of it. `None` when the fleet is gone.
    async fn apply(&self, trigger: Trigger, wanted: Wanted, began: Instant) -> Option<Reloaded> {
        let busy = self.shared.fleet.workers();
        // First: whoever is dialled because of the new topology is shown the new token.
        self.shared.fleet.believe(wanted.credentials());
        let applied = self.shared.fleet.apply(wanted.topology()).await.ok()?;
        let changes = Changes::of(&applied.diff, Some(&busy.workers));
        let config = wanted.config.clone();
        self.shared.fleet.retain((&config.retention).into());
        self.shared.wanted.store(Arc::new(wanted));
        let unchanged = applied.diff.is_empty();
        let mut status = (*self.shared.status.load_full()).clone();
        status.hash = config.hash.clone();
        status.attempted(trigger, if unchanged { Outcome::Unchanged } else { Outcome::Applied }, &[]);
        status.generation = applied.generation;
        if !unchanged {
            status.changed(&applied.diff, began.elapsed());
            let line = changes.line(applied.generation);
            info!(trigger = trigger.as_str(), "{line}");
            status.tell(trigger, Outcome::Applied, line);
        }
        self.shared.status.store(Arc::new(status));
        self.shared.config.send_if_modified(|now| {
            let differs = now.hash != config.hash;
            *now = config.clone();
            differs
        });
        Some(Reloaded {
            generation: applied.generation,
            diff: applied.diff,
            changes: Arc::new(changes),
            warnings: Vec::new(),
            unchanged,
        })
    }

    /// Counts and logs a file that was not taken.
    fn rejected(&self, trigger: Trigger, rejected: ReloadRejected) -> ReloadRejected {
        let Some(outcome) = rejected.outcome() else { return rejected };
        let problems = rejected.problems();
        let mut status = (*self.shared.status.load_full()).clone();
        status.attempted(trigger, outcome, problems);
        let generation = status.generation;
        status.tell(trigger, outcome, refusal(generation, problems));
        self.shared.status.store(Arc::new(status));
        error!(
            trigger = trigger.as_str(),
            outcome = outcome.as_str(),
            problems = problems.len(),
            alert = "RollcallConfigReloadFailed",
            "the topology was not taken; generation {generation} stays in force"
        );
        for problem in problems.iter().take(LOGGED_PROBLEMS) {
            error!("{}", problem.headline());
        }
        rejected
    }

    async fn add(&self, (spec, shown): (WorkerSpec, Credential)) -> Result<Reloaded, AddRefused> {
        let mut wanted = Wanted::clone(&self.shared.wanted.load());
        let config = &wanted.config;
        if config.topology.workers.contains_key(&spec.name) {
            let line = config.lines.get(&spec.name).copied().unwrap_or(0);
            return Err(AddRefused::NameTaken { by: Some((config.file.to_string(), line)) });
        }
        let pools = &config.topology.pools;
        if let Some(line) = pool_of(spec.name.as_str())
            .filter(|pool| pools.contains_key(pool))
            .map(|pool| config.pool_lines.get(&pool).copied().unwrap_or(0))
        {
            return Err(AddRefused::NameTaken { by: Some((config.file.to_string(), line)) });
        }
        if wanted.added.contains_key(&spec.name) {
            return Err(AddRefused::NameTaken { by: None });
        }
        let everyone = || config.topology.workers.values().chain(wanted.added.values());
        if everyone().count() >= MAX_WORKERS {
            return Err(AddRefused::TooMany);
        }
        if let Some(key) = spec.endpoint.as_deref().map(endpoint_key) {
            let taken =
                |other: &&Arc<WorkerSpec>| other.endpoint.as_deref().map(endpoint_key).as_ref() == Some(&key);
            if let Some(other) = everyone().find(taken) {
                return Err(AddRefused::EndpointTaken { by: other.name.clone() });
            }
        }
        let spec = WorkerSpec { origin: Origin::Api, ..spec };
        wanted.shown.insert(spec.name.clone(), shown);
        wanted.added.insert(spec.name.clone(), Arc::new(spec));
        self.apply(Trigger::Api, wanted, Instant::now()).await.ok_or(AddRefused::Stopped)
    }

    async fn remove(&self, name: &WorkerName) -> Result<Reloaded, RemoveRefused> {
        let mut wanted = Wanted::clone(&self.shared.wanted.load());
        let config = &wanted.config;
        if config.topology.workers.contains_key(name) {
            let line = config.lines.get(name).copied().unwrap_or(0);
            return Err(RemoveRefused::InFile { file: config.file.to_string(), line });
        }
        if wanted.added.remove(name).is_none() {
            return Err(RemoveRefused::NoSuchWorker);
        }
        wanted.shown.remove(name);
        self.apply(Trigger::Api, wanted, Instant::now()).await.ok_or(RemoveRefused::Stopped)
    }
}

/// Why a file was not taken, in a line.
fn refusal(generation: Generation, problems: &[Problem]) -> String {
    let first = problems.first().map_or_else(String::new, |problem| format!(": {}", problem.headline()));
    let more = match problems.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    format!("generation {generation} stays in force{first}{more}")
}
