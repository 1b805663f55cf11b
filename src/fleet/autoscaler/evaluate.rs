//! The looks: what each pool is asked for, what the rule makes of it, and what is told of that. A
//! look is due every second while there is something to do, and at once when a task finds no worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rule::{Autoscaler, Decision, Hold, Inputs, Reason};
use super::{
    DemandSample, LOOK_APART, LOOK_EVERY, LOOK_IDLE, Pool, PoolRecord, PoolView, ProviderKind, ProviderView,
    SHOWN_NAMES, work_of,
};
use crate::fleet::ids::PoolName;
use crate::fleet::notes::Note;
use crate::fleet::timers::Timer;
use crate::fleet::topology::WorkerSpec;
use crate::fleet::view::WorkerState;
use crate::fleet::words::Record;
use crate::fleet::{Fleet, Seq};

/// What one pool is asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    waiting: u64,
    millislots: u64,
    sample: DemandSample,
}

impl Fleet {
    /// After each step: a look that should not wait for its turn is brought forward.
    pub(in crate::fleet) fn mind_pools(&mut self) {
        if !self.pools.hurry || self.pools.is_empty() || self.quiescing {
            return;
        }
        self.pools.hurry = false;
        let soonest =
            self.pools.looked.map_or(self.now.mono, |looked| looked + LOOK_APART).max(self.now.mono);
        if self.pools.due.is_none_or(|(at, _)| at > soonest) {
            self.timers.clear(&mut self.pools.due);
            self.pools.due = Some(self.timers.set(soonest, Timer::Pools));
        }
    }

    /// Looks at every pool.
    pub(in crate::fleet) fn look_at_pools(&mut self) {
        self.pools.due = None;
        if self.quiescing {
            return;
        }
        let (blind, asked) = (self.is_blind(), self.asked());
        let mut active = false;
        for name in self.pools.by_name.keys().cloned().collect::<Vec<_>>() {
            // Out of the map while it is looked at: what is done to its workers reads the other pools.
            let Some(mut pool) = self.pools.by_name.remove(&name) else { continue };
            let asked = asked.get(&name).copied().unwrap_or_default();
            active |= self.look_at(&mut pool, asked, blind);
            if !pool.is_over() {
                self.pools.by_name.insert(name, pool);
            }
        }
        self.pools.looked = Some(self.now.mono);
        self.pools.changed = true;
        self.pools.hurry = false;
        if !self.pools.is_empty() {
            let wait = if active { LOOK_EVERY } else { LOOK_IDLE };
            self.pools.due = Some(self.timers.set(self.now.mono + wait, Timer::Pools));
        }
    }

    /// Looks at one pool; whether it has something to do.
    fn look_at(&mut self, pool: &mut Pool, asked: Asked, blind: bool) -> bool {
        self.mind_members(pool);
        let mut active = pool.removed;
        if !pool.removed {
            let inputs = self.inputs(pool, asked);
            let hold = if pool.paused || pool.spec.scaling.paused {
                Hold::Paused
            } else if blind || pool.failures > 0 {
                Hold::Blind
            } else {
                Hold::No
            };
            let decision = pool.rule.decide(self.now, &pool.spec.scaling, inputs, pool.desired, hold);
            active |= inputs.demand_millislots() > 0 || decision.wait.is_some();
            // After a change the next step may be due soon.
            active |= decision.to != decision.from;
            self.take(pool, decision, asked.sample);
        }
        self.reconcile_pool(pool);
        self.keep(pool);
        let settled = pool.members.len() == pool.desired as usize
            && pool.call.is_none()
            && pool.victims.is_empty()
            && pool.members.values().all(|member| member.arrived && !member.outdated);
        active || !settled
    }

    /// Takes up a decision and tells of it.
    pub(super) fn take(&mut self, pool: &mut Pool, decision: Decision, sample: DemandSample) {
        if decision.to != decision.from {
            pool.desired = decision.to;
            pool.why = decision.reason.as_str();
        }
        pool.last = Some(decision.clone());
        self.note(Note::PoolDecided { pool: pool.spec.name.clone(), decision: Arc::new(decision), sample });
    }

    /// Writes down what a restarted server must know of it, if that has changed.
    pub(super) fn keep(&mut self, pool: &mut Pool) -> Option<Seq> {
        let outlives = !pool.spec.is_mock() && pool.spec.scaling.provider != ProviderKind::Process;
        let members = pool.members.iter().filter(|_| outlives);
        let record = if pool.is_over() {
            PoolRecord::default()
        } else {
            PoolRecord {
                desired: pool.desired,
                paused: pool.paused,
                by: pool.by.clone(),
                at: pool.at,
                members: members.map(|(name, member)| (name.clone(), member.index)).collect(),
            }
        };
        if record == pool.recorded {
            return None;
        }
        pool.recorded = record.clone();
        Some(self.record(Record::Pool(pool.spec.name.clone(), record)))
    }

    /// Whether the numbers are not to be believed: the tasks of before a restart are not all known
    /// yet, or none can be accepted.
    fn is_blind(&self) -> bool {
        self.store_failed || self.is_recovering()
    }

    /// What waits and what came in, shared out among the pools that could run it. No present worker
    /// can, or it would not wait.
    fn asked(&mut self) -> BTreeMap<PoolName, Asked> {
        let mut asked: BTreeMap<PoolName, Asked> = BTreeMap::new();
        for demand in &self.balancer.waiting {
            let entry = &self.balancer.demands[*demand];
            let able: Vec<&Pool> = self
                .pools
                .by_name
                .values()
                .filter(|pool| !pool.removed && pool.suits(&entry.capability, &entry.labels))
                .collect();
            // A pool that may not grow would only keep work from those that may.
            let may_grow = |pool: &&&Pool| {
                !pool.paused && !pool.spec.scaling.paused && pool.desired < pool.spec.scaling.max
            };
            let open: Vec<&Pool> = able.iter().filter(may_grow).copied().collect();
            let usual = self.pools.demands.usual(&entry.capability);
            for (pool, share) in shared(entry.queue.len() as u64, if open.is_empty() { able } else { open }) {
                let asked = asked.entry(pool.spec.name.clone()).or_default();
                asked.waiting += share;
                asked.millislots += work_of(share, usual);
            }
        }
        for (capability, arrived, usual) in self.pools.demands.take_arrivals() {
            let able = self.pools.by_name.values().filter(|pool| pool.could_offer(&capability)).collect();
            for (pool, share) in shared(arrived, able) {
                let sample = &mut asked.entry(pool.spec.name.clone()).or_default().sample;
                sample.arrived += share;
                let share = u32::try_from(share).unwrap_or(u32::MAX);
                sample.work += usual.unwrap_or_default().saturating_mul(share);
            }
        }
        asked
    }

    fn inputs(&self, pool: &mut Pool, asked: Asked) -> Inputs {
        let mut running = 0;
        let mut slots = None;
        for name in pool.members.keys() {
            let Some(worker) = self.registry.named(name).map(|ix| &self.registry.workers[ix]) else {
                continue;
            };
            let probes = worker.holds.iter().filter(|task| self.tasks[**task].is_probe()).count();
            running += u64::from(worker.tasks()).saturating_sub(probes as u64);
            if worker.registered.is_some() {
                slots = slots.max(Some(worker.slots));
            }
        }
        pool.slots = slots.or(pool.slots);
        let stated = pool.spec.template.slots;
        let slots = match (stated, pool.slots) {
            (Some(ours), Some(theirs)) => ours.min(theirs),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => WorkerSpec::DEFAULT_SLOTS,
        };
        Inputs { waiting: asked.waiting, waiting_millislots: asked.millislots, running, slots: slots.max(1) }
    }

    /// Every pool, by name, as it is shown.
    pub fn pools(&self) -> Vec<PoolView> {
        self.pools.by_name.values().filter(|pool| !pool.removed).map(|pool| self.pool_view(pool)).collect()
    }

    /// Whether [`Fleet::pools`] may tell something new; asking makes it false.
    pub fn take_pools_changed(&mut self) -> bool {
        std::mem::take(&mut self.pools.changed)
    }

    fn pool_view(&self, pool: &Pool) -> PoolView {
        let scaling = &pool.spec.scaling;
        let of_pool = |spec: &WorkerSpec| spec.pool.as_ref() == Some(&pool.spec.name);
        let worker = |name| self.registry.named(name).map(|ix| &self.registry.workers[ix]);
        let state = |name| worker(name).map(|worker| worker.state());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let leaving =
            self.registry.workers.iter().filter(|(_, it)| it.retiring.is_some() && of_pool(&it.spec));
        let paused = if pool.paused { Some("operator") } else { scaling.paused.then_some("config") };
        PoolView {
            spec: Arc::clone(&pool.spec),
            desired: pool.desired,
            min: scaling.min_at(self.now.wall),
            max: scaling.max,
            instances: count(pool.members.len()),
            ready: count(pool.members.keys().filter(|name| state(name) == Some(WorkerState::Ready)).count()),
            draining: count(leaving.count()),
            paused,
            paused_by: pool.by.clone().filter(|_| pool.paused),
            last: pool.last.clone(),
            provider: ProviderView {
                kind: scaling.provider,
                calling: pool.call.is_some(),
                failures: pool.failures,
                error: pool.error.clone(),
                retry_at: pool.retry_at.map(|(_, wall)| wall),
            },
            missing: pool.missing.iter().take(SHOWN_NAMES).cloned().collect(),
            unwanted: pool.unwanted.clone(),
            outdated: count(pool.members.values().filter(|member| member.outdated).count()),
        }
    }
}

impl Pool {
    /// A pool that has this size, of which nothing else is known.
    pub(super) fn new(spec: Arc<super::PoolSpec>, kept: &PoolRecord, now: crate::fleet::Now) -> Self {
        let scaling = &spec.scaling;
        let desired = kept.desired.clamp(scaling.min_at(now.wall), scaling.max);
        Self {
            rule: Autoscaler::new(now.mono, desired),
            desired,
            paused: kept.paused,
            by: kept.by.clone(),
            at: kept.at,
            removed: false,
            members: BTreeMap::new(),
            victims: std::collections::BTreeSet::new(),
            why: Reason::Manual.as_str(),
            call: None,
            calls: 0,
            told: u32::try_from(kept.members.len()).unwrap_or(u32::MAX),
            failures: 0,
            error: None,
            retry_at: None,
            slots: None,
            said: None,
            labels: None,
            last: None,
            missing: Vec::new(),
            unwanted: Vec::new(),
            recorded: kept.clone(),
            spec,
        }
    }

    /// Whether it has left the topology, and nothing of it is left.
    fn is_over(&self) -> bool {
        self.removed && self.members.is_empty() && self.victims.is_empty() && self.call.is_none()
    }
}

/// A number in equal shares; the first ones get the rest.
fn shared(number: u64, among: Vec<&Pool>) -> impl Iterator<Item = (&Pool, u64)> {
    let parts = (among.len() as u64).max(1);
    let (each, rest) = (number / parts, number % parts);
    among.into_iter().zip(0..).map(move |(pool, place)| (pool, each + u64::from(place < rest)))
}
