//! Sends probes: for each pool whose workers have a canary, one task now and then by the way that
//! callers' tasks go, and a word in the log when it does not come back well. So the server finds what
//! no gauge of its parts would tell before a caller does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::handle::{Ask, CallError, Manager, Submitted};
use crate::config::Config;
use crate::fleet::{
    Canary, PoolName, Refusal, Source, TaskRecord, TaskSpec, TaskState, Tenant, WorkerState, WorkerView,
};

/// Pools that are probed in one round; the series of more would be folded anyway.
const MOST: usize = 200;

/// A probe is waited for so long. It has ended by its own deadline before.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pool, or the workers that have none.
type Group = Option<PoolName>;

/// Sends probes: [`Prober::run`] it.
pub struct Prober {
    manager: Manager,
    configs: watch::Receiver<Arc<Config>>,
    rounds: usize,
    /// The groups whose series are there.
    probed: BTreeSet<Group>,
    under_way: BTreeSet<Group>,
    probes: JoinSet<Group>,
}

enum Event {
    Due,
    Changed,
    Ended(Option<Group>),
    Stop,
}

impl Prober {
    /// A prober that follows what the configuration says about it.
    pub fn new(manager: Manager, configs: watch::Receiver<Arc<Config>>) -> Self {
        let (probed, under_way) = (BTreeSet::new(), BTreeSet::new());
        Self { manager, configs, rounds: 0, probed, under_way, probes: JoinSet::new() }
    }

    /// Runs until the server begins to stop.
    pub async fn run(mut self) {
        let mut stopping = self.manager.stopping();
        let mut last = Instant::now();
        loop {
            let every = self.configs.borrow_and_update().telemetry.probe;
            match self.next_event(&mut stopping, last, every).await {
                Event::Stop => return,
                Event::Ended(group) => drop(group.map(|group| self.under_way.remove(&group))),
                Event::Changed => {
                    if self.configs.borrow().telemetry.probe.is_zero() {
                        self.forget();
                    }
                }
                Event::Due => {
                    last = Instant::now();
                    self.round();
                }
            }
        }
    }

    /// Waits and does nothing else. Cancel-safe.
    async fn next_event(
        &mut self,
        stopping: &mut watch::Receiver<bool>,
        last: Instant,
        every: Duration,
    ) -> Event {
        tokio::select! {
            biased; // Probes that end must not hold back the end of all.
            _ = stopping.wait_for(|stopping| *stopping) => Event::Stop,
            changed = self.configs.changed() => if changed.is_ok() { Event::Changed } else { Event::Stop },
            Some(ended) = self.probes.join_next() => Event::Ended(ended.ok()),
            () = sleep_until(last + every), if !every.is_zero() => Event::Due,
        }
    }

    /// A probe for each group that has someone to take it.
    fn round(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        let snapshot = self.manager.workers();
        let mut ready: BTreeMap<Group, Vec<&WorkerView>> = BTreeMap::new();
        for worker in snapshot.workers.iter().filter(|worker| worker.state == WorkerState::Ready) {
            ready.entry(worker.pool.clone()).or_default().push(worker);
        }
        for (group, workers) in ready.into_iter().take(MOST) {
            let Some(canary) = canary_of(&workers, self.rounds) else {
                self.unprobed(&group);
                continue;
            };
            if self.probed.insert(group.clone()) {
                self.manager.metrics().probed(group.as_ref(), true);
            }
            if self.under_way.insert(group.clone()) {
                let spec = TaskSpec::probe(canary, group.as_ref());
                self.probes.spawn(probe(self.manager.clone(), spec, group));
            }
        }
    }

    fn unprobed(&mut self, group: &Group) {
        if self.probed.remove(group) {
            self.manager.metrics().probed(group.as_ref(), false);
        }
    }

    /// No probes any more.
    fn forget(&mut self) {
        for group in std::mem::take(&mut self.probed) {
            self.manager.metrics().probed(group.as_ref(), false);
        }
    }
}

/// What to ask workers of one group. Those of a pool are alike; where they differ, as those of no pool
/// do, their canaries take turns.
fn canary_of(workers: &[&WorkerView], round: usize) -> Option<Canary> {
    let mut canaries: Vec<Canary> = Vec::new();
    for worker in workers {
        let canary = worker.kind.as_ref().and_then(|kind| Canary::of(kind, &worker.capabilities));
        canaries.extend(canary.filter(|canary| !canaries.contains(canary)));
        if canaries.len() >= MOST {
            break;
        }
    }
    let turn = round.checked_rem(canaries.len())?;
    canaries.into_iter().nth(turn)
}

/// Sends one and waits for its end.
async fn probe(manager: Manager, spec: TaskSpec, group: Group) -> Group {
    let pool = group.as_ref().map_or("static", PoolName::as_str);
    let ask = Ask {
        tenant: Tenant::of_probes(),
        source: Source::Library,
        key: None,
        spec: Arc::new(spec),
        retry_of: None,
    };
    match sent(&manager, ask).await {
        Ok(Some(record)) if record.state == TaskState::Succeeded => {
            debug!(pool, task_id = %record.id, "a probe came back");
        }
        Ok(Some(record)) => {
            let (worker, error) = (last_worker(&record), record.error.as_ref());
            let why = error.map_or_else(String::new, |error| format!(": {}", error.message));
            let state = record.state.as_str();
            warn!(
                pool,
                task_id = %record.id,
                worker,
                alert = "RollcallProbeFailing",
                "a probe of the way that tasks go ended {state}{why}"
            );
        }
        // The server stops, which is no fault of the way.
        Err(CallError::Stopped | CallError::Refused(Refusal::Draining)) => {}
        Ok(None) => {
            warn!(pool, alert = "RollcallProbeFailing", "a probe of the way that tasks go did not end");
        }
        Err(error) => {
            warn!(pool, ?error, alert = "RollcallProbeFailing", "a probe was not taken");
        }
    }
    group
}

async fn sent(manager: &Manager, ask: Ask) -> Result<Option<Arc<TaskRecord>>, CallError> {
    let (Submitted::Accepted(record) | Submitted::Finished(record) | Submitted::Replayed(record)) =
        manager.submit(ask).await?;
    if record.state.is_final() {
        return Ok(Some(record));
    }
    manager.finished(record.id, PATIENCE).await
}

/// Who had it.
fn last_worker(record: &TaskRecord) -> &str {
    record.attempts.last().map_or("", |attempt| attempt.worker.as_str())
}
