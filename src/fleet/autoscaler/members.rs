//! Instances come and go: towards the size that is wanted, and towards the template that is in
//! force. Who goes is idle, or finishes first; nobody is stopped in the middle of something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Member, Pool, PoolChange, PoolSpec, ProviderKind, SHOWN_NAMES};
use crate::fleet::ids::{PoolName, WorkerName};
use crate::fleet::notes::Note;
use crate::fleet::registry::Worker;
use crate::fleet::slab::WorkerIx;
use crate::fleet::topology::{Change, Topology, WorkerSpec};
use crate::fleet::view::WorkerState;
use crate::fleet::words::{Overlay, Record, Why};
use crate::fleet::{Diff, Fleet};

/// How long a program of the server's own machine may take until it has registered.
const PROGRAM_TAKES: Duration = Duration::from_secs(60);

/// How long an instance that a hook makes may take until it has registered.
const MACHINE_TAKES: Duration = Duration::from_secs(300);

impl Fleet {
    /// The pools of a new generation.
    pub(in crate::fleet) fn pools_desired(&mut self, diff: &Diff, topology: &Topology) {
        for (name, change) in &diff.pools {
            if let PoolChange::Renamed { from } = change {
                self.pool_renamed(from, name);
            }
        }
        for (name, change) in &diff.pools {
            let Some(spec) = topology.pools.get(name) else {
                self.pool_removed(name);
                continue;
            };
            match change {
                PoolChange::Added => self.pool_added(spec),
                PoolChange::Renamed { .. } | PoolChange::Updated { .. } | PoolChange::Replaced { .. } => {
                    self.pool_changed(spec);
                }
                PoolChange::Removed => {}
            }
        }
        // What was kept of pools that are not there any more.
        for name in std::mem::take(&mut self.pools.kept).into_keys() {
            self.record(Record::Pool(name, super::PoolRecord::default()));
        }
        self.pools.changed = true;
        self.pools.hurry = true;
        if self.pools.is_empty() {
            self.timers.clear(&mut self.pools.due);
        }
    }

    fn pool_added(&mut self, spec: &Arc<PoolSpec>) {
        if let Some(pool) = self.pools.by_name.get_mut(&spec.name) {
            // It was on its way out.
            pool.removed = false;
            return self.pool_changed(spec);
        }
        let kept = self.pools.kept.remove(&spec.name).unwrap_or_default();
        let mut pool = Pool::new(Arc::clone(spec), &kept, self.now);
        for (name, index) in &kept.members {
            self.join(&mut pool, name.clone(), *index, None);
        }
        self.pools.by_name.insert(spec.name.clone(), pool);
    }

    fn pool_renamed(&mut self, from: &PoolName, to: &PoolName) {
        let Some(mut pool) = self.pools.by_name.remove(from) else { return };
        self.record(Record::Pool(from.clone(), super::PoolRecord::default()));
        pool.recorded = super::PoolRecord::default();
        self.pools.by_name.insert(to.clone(), pool);
    }

    /// Takes up another entry: what can change in place does, the rest is replaced bit by bit.
    fn pool_changed(&mut self, spec: &Arc<PoolSpec>) {
        let Some(pool) = self.pools.by_name.get_mut(&spec.name) else { return };
        pool.spec = Arc::clone(spec);
        let members: Vec<(WorkerName, Member)> =
            pool.members.iter().map(|(name, member)| (name.clone(), *member)).collect();
        for (name, member) in members {
            let Some(worker) = self.registry.named(&name) else { continue };
            let entry = Arc::new(spec.instance(name.clone(), member.index, member.port));
            let outdated = match WorkerSpec::change(&self.registry.workers[worker].spec, &entry) {
                None => false,
                Some(Change::Updated { .. }) => {
                    self.take_up(worker, &entry);
                    self.reindex(worker);
                    self.refresh(worker);
                    false
                }
                Some(Change::Moved { .. } | Change::Added | Change::Renamed { .. } | Change::Removed) => true,
            };
            if let Some(pool) = self.pools.by_name.get_mut(&spec.name)
                && let Some(member) = pool.members.get_mut(&name)
            {
                member.outdated = outdated;
            }
        }
    }

    fn pool_removed(&mut self, name: &PoolName) {
        let Some(mut pool) = self.pools.by_name.remove(name) else { return };
        pool.removed = true;
        pool.desired = 0;
        pool.why = Why::RemovedFromConfig.as_str();
        for member in pool.members.keys().cloned().collect::<Vec<_>>() {
            self.part(&mut pool, &member, Why::RemovedFromConfig);
        }
        self.pools.by_name.insert(name.clone(), pool);
    }

    /// A new instance: it is a worker from now on.
    pub(super) fn join(&mut self, pool: &mut Pool, name: WorkerName, index: u32, port: Option<u16>) {
        if pool.members.contains_key(&name) || self.registry.by_name.contains_key(&name) {
            return;
        }
        let entry = Arc::new(pool.spec.instance(name.clone(), index, port));
        let since = pool.call.as_ref().map_or(self.now.mono, |call| call.since);
        pool.members.insert(name.clone(), Member { index, port, since, arrived: false, outdated: false });
        self.added(&name, &entry);
    }

    /// An instance leaves: it finishes what it runs, if it runs something, and goes.
    pub(super) fn part(&mut self, pool: &mut Pool, name: &WorkerName, why: Why) {
        if pool.members.remove(name).is_none() {
            return;
        }
        if pool.spec.scaling.provider.is_hook() && !pool.spec.is_mock() {
            pool.victims.insert(name.clone());
        }
        // Whoever has that name next is somebody else.
        if self.registry.overlays.remove(name).is_some() {
            self.record(Record::Overlay(name.clone(), Overlay::default()));
        }
        self.leave(name, why);
    }

    /// What has become of the instances since the last look.
    pub(super) fn mind_members(&mut self, pool: &mut Pool) {
        let mut lost = Vec::new();
        for (name, member) in &mut pool.members {
            let Some(worker) = self.registry.named(name) else {
                lost.push((name.clone(), false));
                continue;
            };
            let worker = &self.registry.workers[worker];
            if worker.state() == WorkerState::Ready && !member.arrived {
                member.arrived = true;
                (pool.failures, pool.error, pool.retry_at) = (0, None, None);
                pool.missing.retain(|missing| missing != name);
                pool.said = worker.said.clone();
                pool.labels = Some(worker.labels.clone());
                let took = self.now.mono.since(member.since);
                let (pool, worker) = (pool.spec.name.clone(), name.clone());
                self.out.push(crate::fleet::Effect::Note(Note::PoolCapacity { pool, worker, took }));
            }
            if is_gone(&pool.spec, worker, *member, self.now.mono, self.settings.lease) {
                lost.push((name.clone(), !pool.spec.dials_in() || pool.spec.asks()));
            }
        }
        for (name, is_failure) in lost {
            self.part(pool, &name, Why::ScaledIn);
            if is_failure {
                pool.missing.retain(|missing| *missing != name);
                pool.missing.truncate(SHOWN_NAMES - 1);
                pool.missing.insert(0, name.clone());
                let message = format!("{name} was to be there and has not registered");
                self.provider_failed(pool, &message);
                self.note(Note::PoolOdd { pool: pool.spec.name.clone(), worker: name, what: "missing" });
            }
        }
    }

    /// Moves a pool towards its size and its template.
    pub(super) fn reconcile_pool(&mut self, pool: &mut Pool) {
        let replacing = !pool.removed && pool.members.values().any(|member| member.outdated);
        if replacing {
            self.replace_one(pool);
        }
        let surge = u32::from(pool.members.values().any(|member| member.outdated));
        let wanted = pool.desired.saturating_add(surge);
        let have = u32::try_from(pool.members.len()).unwrap_or(u32::MAX);
        if have > wanted {
            self.shrink(pool, (have - wanted) as usize);
        } else {
            self.rest(pool, &BTreeSet::new());
        }
        let names = if have < wanted { self.free_names(pool, (wanted - have) as usize) } else { Vec::new() };
        if pool.spec.asks() {
            self.ask(pool, names);
        } else if !pool.spec.dials_in() {
            for (name, index) in names {
                self.join(pool, name, index, None);
            }
        }
    }

    /// Lets one instance of the old template go, once there is one of the new for it.
    fn replace_one(&mut self, pool: &mut Pool) {
        let steady = pool.members.iter().all(|(name, member)| member.outdated || self.is_ready(name));
        let surplus = pool.members.len() > pool.desired as usize;
        let leaving = self.registry.workers.iter().any(|(_, worker)| {
            worker.retiring.is_some() && worker.spec.pool.as_ref() == Some(&pool.spec.name)
        });
        if !steady || !surplus || leaving {
            return;
        }
        let held = |name: &WorkerName| self.registry.named(name).map(|ix| self.registry.workers[ix].used());
        let oldest = pool.members.iter().filter(|(_, member)| member.outdated);
        if let Some(name) = oldest.map(|(name, _)| name.clone()).min_by_key(held) {
            self.part(pool, &name, Why::Moved);
        }
    }

    fn is_ready(&self, name: &WorkerName) -> bool {
        let worker = self.registry.named(name).map(|ix| &self.registry.workers[ix]);
        worker.is_some_and(|worker| worker.state() == WorkerState::Ready)
    }

    /// Lets so many go: those that are idle now. If there are not enough of them, the least busy get
    /// no new tasks, until they are idle or wanted again.
    fn shrink(&mut self, pool: &mut Pool, excess: usize) {
        // Whoever runs the instances chooses which of them go; they say goodbye.
        if pool.spec.dials_in() && pool.spec.scaling.provider == ProviderKind::External {
            return;
        }
        let mut ranked: Vec<_> = pool
            .members
            .iter()
            .filter_map(|(name, member)| {
                let worker = &self.registry.workers[self.registry.named(name)?];
                let busy = worker.tasks() + worker.unavailable();
                let waits = self.waits_for_sessions(self.registry.named(name)?);
                let rank = (waits, busy, worker.up().is_some(), !member.outdated);
                Some(((rank, std::cmp::Reverse(member.index)), name.clone()))
            })
            .collect();
        ranked.sort();
        ranked.truncate(excess);
        let mut resting = BTreeSet::new();
        for (((waits, busy, ..), _), name) in ranked {
            if busy == 0 && !waits {
                if let Some(worker) = self.registry.named(&name) {
                    self.lose_sessions(worker, "its worker was scaled in, and its time to finish was over");
                }
                self.part(pool, &name, Why::ScaledIn);
            } else {
                resting.insert(name);
            }
        }
        self.rest(pool, &resting);
    }

    /// Whether an instance has sessions that are to be waited for, if it is to go.
    fn waits_for_sessions(&self, worker: WorkerIx) -> bool {
        let rests = self.registry.workers[worker].resting.map(|since| self.now.mono.since(since));
        self.session_grace(worker).is_some_and(|grace| rests.is_none_or(|rests| rests < grace))
    }

    /// These get no new tasks; the others do.
    fn rest(&mut self, pool: &Pool, resting: &BTreeSet<WorkerName>) {
        let changed: Vec<(WorkerIx, bool)> = pool
            .members
            .keys()
            .filter_map(|name| Some((self.registry.named(name)?, resting.contains(name))))
            .filter(|(worker, rests)| self.registry.workers[*worker].resting.is_some() != *rests)
            .collect();
        for (worker, rests) in changed {
            self.registry.workers[worker].resting = rests.then_some(self.now.mono);
            self.refresh(worker);
        }
    }

    /// The first names that nobody has, or has still.
    fn free_names(&self, pool: &Pool, count: usize) -> Vec<(WorkerName, u32)> {
        let still: BTreeSet<&WorkerName> = self
            .registry
            .workers
            .iter()
            .filter(|(_, worker)| worker.retiring.is_some())
            .map(|(_, worker)| &worker.name)
            .collect();
        (1..)
            .map(|index| (pool.spec.worker_name(index), index))
            .filter(|(name, _)| {
                !self.registry.by_name.contains_key(name)
                    && !still.contains(name)
                    && !pool.victims.contains(name)
            })
            .take(count)
            .collect()
    }
}

/// Whether an instance that ought to be there has been away for so long that another is to take its
/// place.
fn is_gone(
    spec: &PoolSpec,
    worker: &Worker,
    member: Member,
    now: crate::fleet::Mono,
    lease: Duration,
) -> bool {
    let replaceable = spec.asks() || (spec.dials_in() && spec.scaling.provider == ProviderKind::External);
    if !replaceable || worker.up().is_some() || !worker.holds.is_empty() {
        return false;
    }
    let takes = match spec.scaling.provider {
        ProviderKind::Process => PROGRAM_TAKES,
        ProviderKind::Exec | ProviderKind::Webhook => MACHINE_TAKES,
        ProviderKind::External => Duration::ZERO,
    };
    now.since(worker.down_since.unwrap_or(member.since).max(member.since)) >= takes.max(lease)
}

/// The pools of a generation beside those of the one before.
pub(in crate::fleet) fn pool_changes(
    old: &BTreeMap<PoolName, Arc<PoolSpec>>,
    new: &BTreeMap<PoolName, Arc<PoolSpec>>,
) -> BTreeMap<PoolName, PoolChange> {
    let mut changes = BTreeMap::new();
    let mut carried = BTreeSet::new();
    for (name, spec) in new {
        let former = spec.formerly.as_ref();
        let former = former.filter(|from| old.contains_key(*from) && !new.contains_key(*from));
        match (old.get(name), former) {
            (Some(was), _) if Arc::ptr_eq(was, spec) => {}
            (Some(was), _) => {
                changes.extend(PoolSpec::change(was, spec).map(|change| (name.clone(), change)));
            }
            (None, Some(from)) => {
                carried.insert(from.clone());
                changes.insert(name.clone(), PoolChange::Renamed { from: from.clone() });
            }
            (None, None) => {
                changes.insert(name.clone(), PoolChange::Added);
            }
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name) && !carried.contains(*name));
    changes.extend(gone.map(|name| (name.clone(), PoolChange::Removed)));
    changes
}
