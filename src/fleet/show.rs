//! What the core shows of itself on request: tasks, workers and counts. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Fleet;
use super::health::{HeldBack, Standing};
use super::ids::*;
use super::lifecycle::Phase;
use super::probe::{POOL_LABEL, PROBE};
use super::registry::{Link, Worker};
use super::slab::{TaskIx, WorkerIx};
use super::task::*;
use super::time::{Mono, Now};
use super::topology::InterfaceKind;
use super::view::*;
use super::words::Why;

/// Capabilities counted by name; beyond it, under [`OTHER`].
const MAX_COUNTED: usize = 1_000;

/// The name under which the rest is counted.
const OTHER: &str = "other";

/// Where a live task is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bucket {
    Queued,
    Delayed,
    Assigned,
    Running,
    Cancelling,
}

/// A capability's place in the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CountIx(usize);

/// Counts per capability. Names are looked up once per task, for each move of it only its place.
#[derive(Debug, Default)]
pub(super) struct Tally {
    names: BTreeMap<Capability, CountIx>,
    counts: Vec<CapabilityStats>,
}

impl Tally {
    /// Where tasks of this capability are counted.
    pub(super) fn place(&mut self, capability: &Capability) -> CountIx {
        if let Some(at) = self.names.get(capability) {
            return *at;
        }
        let full = self.names.len() >= MAX_COUNTED;
        let name = if full { Capability::from(OTHER) } else { capability.clone() };
        let counts = &mut self.counts;
        *self.names.entry(name).or_insert_with(|| {
            counts.push(CapabilityStats::default());
            CountIx(counts.len() - 1)
        })
    }

    /// By name.
    fn by_name(&self) -> BTreeMap<Capability, CapabilityStats> {
        self.names.iter().map(|(name, at)| (name.clone(), self.counts[at.0].clone())).collect()
    }

    pub(super) fn accepted(&mut self, at: CountIx, source: Source) {
        let door = Source::ALL.iter().position(|one| *one == source).unwrap_or(0);
        self.counts[at.0].accepted[door] += 1;
    }

    pub(super) fn completed(&mut self, at: CountIx, state: TaskState, fault: Fault) {
        *self.counts[at.0].completed.entry((state, fault)).or_default() += 1;
    }

    pub(super) fn moved(&mut self, at: CountIx, before: Option<Bucket>, after: Option<Bucket>) {
        let stats = &mut self.counts[at.0];
        if let Some(before) = before {
            let count = stats.bucket(before);
            *count = count.saturating_sub(1);
        }
        if let Some(after) = after {
            *stats.bucket(after) += 1;
        }
    }
}

impl CapabilityStats {
    /// Its tasks that are accepted and not final.
    pub(super) fn live(&self) -> u64 {
        self.queued + self.delayed + self.assigned + self.running + self.cancelling
    }

    fn bucket(&mut self, bucket: Bucket) -> &mut u64 {
        match bucket {
            Bucket::Queued => &mut self.queued,
            Bucket::Delayed => &mut self.delayed,
            Bucket::Assigned => &mut self.assigned,
            Bucket::Running => &mut self.running,
            Bucket::Cancelling => &mut self.cancelling,
        }
    }
}

impl Fleet {
    /// One task, live or ended a short while ago.
    pub fn task(&self, id: TaskId) -> Option<Arc<TaskRecord>> {
        if let Some(ix) = self.by_id.get(&id).copied() {
            let record = self.picture(ix);
            if record.state != TaskState::Queued {
                return Some(record);
            }
            let mut record = Arc::unwrap_or_clone(record);
            record.pending_reason = self.pending_reason(ix).map(Into::into);
            return Some(Arc::new(record));
        }
        self.finished.tasks.get(&id).map(|ended| Arc::clone(&ended.record))
    }

    /// Whether a task may be shown as it is: one that ended is shown so only once that is durable.
    pub fn is_shown(&self, id: TaskId) -> bool {
        self.finished
            .tasks
            .get(&id)
            .is_none_or(|ended| ended.record.keep == Keep::Passing || self.gates.is_durable(ended.seq))
    }

    /// Whether tasks from before the start still wait for their workers.
    pub fn is_recovering(&self) -> bool {
        self.recovering > 0
    }

    /// Counts, exact at this moment.
    pub fn stats(&self, now: Now) -> FleetStats {
        let mut capabilities = self.tally.by_name();
        for demand in &self.balancer.waiting {
            let entry = &self.balancer.demands[*demand];
            let probes = entry.labels.contains_key(POOL_LABEL).then(|| Capability::from(PROBE));
            let stats = match capabilities.get_mut(probes.as_ref().unwrap_or(&entry.capability)) {
                Some(stats) => stats,
                None => capabilities.entry(OTHER.into()).or_default(),
            };
            let oldest = entry.queue.heads().filter_map(|task| self.eligible_since(task)).min();
            if let Some(oldest) = oldest {
                stats.oldest_age = stats.oldest_age.max(now.mono.since(oldest));
            }
            if self.connected(*demand).is_empty() {
                // One that will take any worker after a while is not without one.
                let stays = |task: &TaskIx| !self.falls_back(*task);
                stats.unroutable += entry.queue.iter().filter(stays).count() as u64;
            }
        }
        let depth = capabilities.values().map(CapabilityStats::live).sum();
        FleetStats {
            capabilities,
            depth,
            bytes: self.bytes,
            max_depth: self.settings.max_depth,
            max_bytes: self.settings.max_bytes,
            generation: self.topology.generation,
        }
    }

    fn falls_back(&self, task: TaskIx) -> bool {
        matches!(&self.tasks[task].phase, Phase::Waiting(waiting) if waiting.fallback.is_some())
    }

    fn eligible_since(&self, task: TaskIx) -> Option<Mono> {
        match &self.tasks[task].phase {
            Phase::Waiting(waiting) => Some(waiting.since),
            Phase::Held
            | Phase::Recovering(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => None,
        }
    }

    /// The entry that a worker's connection and program are made by.
    pub fn entry(&self, worker: &WorkerName) -> Option<Arc<super::WorkerSpec>> {
        let found = self.dialling(worker).or_else(|| self.registry.named(worker));
        found.map(|ix| Arc::clone(&self.registry.workers[ix].spec))
    }

    /// Every worker of the topology, and those that still wind down outside of it, by name.
    pub fn workers(&self) -> Vec<WorkerView> {
        let winding_down = self.registry.workers.iter().filter(|(_, worker)| worker.retiring.is_some());
        let mut views: BTreeMap<WorkerName, WorkerView> =
            winding_down.map(|(_, worker)| (worker.name.clone(), self.view(worker))).collect();
        // A worker that was moved goes by its new self.
        views.extend(
            self.registry
                .by_name
                .iter()
                .map(|(name, ix)| (name.clone(), self.view(&self.registry.workers[*ix]))),
        );
        views.into_values().collect()
    }

    /// The workers that may have changed since this was last asked: with what they are now, or
    /// `None` for one that is gone.
    pub fn take_changes(&mut self) -> Vec<(WorkerName, Option<WorkerView>)> {
        let mut changes: BTreeMap<WorkerName, Option<WorkerView>> =
            std::mem::take(&mut self.registry.gone).into_iter().map(|name| (name, None)).collect();
        let changed: BTreeSet<WorkerIx> = std::mem::take(&mut self.registry.changed);
        for ix in changed {
            let Some(worker) = self.registry.workers.get(ix) else { continue };
            match self.registry.by_name.get(&worker.name) {
                Some(current) => {
                    changes.insert(
                        worker.name.clone(),
                        self.registry.workers.get(*current).map(|now| self.view(now)),
                    );
                }
                None => {
                    changes.insert(worker.name.clone(), Some(self.view(worker)));
                }
            }
        }
        changes.into_iter().collect()
    }

    /// Whether [`Fleet::take_changes`] has anything to tell.
    pub fn has_changes(&self) -> bool {
        !self.registry.changed.is_empty() || !self.registry.gone.is_empty()
    }

    /// The offered capability that is nearest to what was asked, for "did you mean".
    pub(super) fn nearest(&self, asked: &Capability) -> Option<Capability> {
        let mut offers = self.registry.all_offers();
        offers.extend(self.pools.stated());
        let near = |offer: &&Capability| common_prefix(offer.as_str(), asked.as_str());
        offers.into_iter().max_by_key(near).filter(|offer| near(offer) > 0).cloned()
    }
}

fn common_prefix(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
}

impl Fleet {
    fn view(&self, worker: &Worker) -> WorkerView {
        let up = worker.up();
        let reason = if let Some(why) = worker.retiring {
            Some(why.as_str().into())
        } else if worker.next_spec.is_some() {
            Some("moved".into())
        } else if worker.restart {
            Some("restart".into())
        } else if worker.resting.is_some() {
            Some(Why::ScaledIn.as_str().into())
        } else if worker.overlay.draining || worker.overlay.cordoned {
            Some("operator".into())
        } else if up.is_some_and(|up| up.leaving.is_some()) {
            Some("goodbye".into())
        } else {
            up.and_then(|_| self.of_health(worker))
        };
        let health = HealthView {
            failures_in_a_row: worker.health.in_a_row,
            ejections: worker.health.ejections,
            ejected_until: worker.health.until().map(|until| self.now.wall + until.since(self.now.mono)),
            held_back: worker.health.held_back.map(HeldBack::word),
            slots_open: worker.open_slots(),
            last_failure: worker.last_failure.clone(),
        };
        let registered = worker.registered.as_deref();
        WorkerView {
            name: worker.name.clone(),
            pool: worker.spec.pool.clone(),
            origin: worker.spec.origin,
            state: worker.state(),
            reason,
            endpoint: worker.spec.endpoint.clone(),
            launched: worker.spec.launch.is_some(),
            mock: worker.spec.interface == InterfaceKind::Mock,
            instance: registered.map(|registered| registered.instance.clone()),
            connection: match &worker.link {
                Link::Up(up) => Some(up.conn),
                Link::Down | Link::Dialling { .. } => None,
            },
            kind: registered.map(|registered| registered.kind.clone()),
            version: registered.map(|registered| registered.version.clone()),
            isolation: registered.and_then(|registered| registered.isolation.clone()),
            metrics: registered.and_then(|registered| registered.metrics.clone()),
            capabilities: Arc::clone(&worker.offers),
            has_registered: worker.said.is_some(),
            slots_total: worker.slots,
            slots_used: worker.used(),
            slots_unavailable: worker.unavailable(),
            labels: worker.labels.clone(),
            last_heartbeat: worker.last_seen,
            connected_at: up.map(|up| up.at),
            reconnects: worker.reconnects,
            next_attempt_at: worker.next_dial,
            last_error: worker.last_error.clone(),
            health,
            attempts_ok: worker.attempts_ok,
            attempts_error: worker.attempts_error,
        }
    }

    /// What there is to say of a connected worker's health, in one phrase.
    fn of_health(&self, worker: &Worker) -> Option<Arc<str>> {
        let failed = worker.last_failure.as_deref().unwrap_or("it fails");
        match (worker.health.standing, worker.health.held_back) {
            (Standing::New, _) => Some("must pass its canary before it gets tasks".into()),
            // Until when is told apart, and as a time: this is read later than it is made.
            (Standing::Ejected(_) | Standing::HalfOpen, _) => worker.last_failure.clone(),
            (Standing::Returning(open), _) => {
                Some(format!("back from an ejection: {open} of {} slots for now", worker.slots).into())
            }
            (Standing::Good, Some(held)) => Some(format!("sick: {failed}; {}", held.as_str()).into()),
            (Standing::Good, None) => None,
        }
    }
}
