//! How tasks and workers find each other: demands are made and indexed, workers listed as free or
//! not, and each change of either side hands over what it made possible.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::balancer::{Labels, Process};
use super::ids::*;
use super::lifecycle::Phase;
use super::queue::Ticket;
use super::registry::WorkerRegistry;
use super::slab::{DemandIx, TaskIx, WorkerIx};
use super::view::WorkerState;
use super::words::Refusal;
use super::{Fleet, Note};
use rand::RngExt;

/// Fairness keys that may wait at once.
const MAX_WAITING_KEYS: usize = 10_000;

impl Fleet {
    /// The demand of a capability with labels, made if need be.
    pub(super) fn demand(&mut self, capability: &Capability, labels: &Labels) -> Result<DemandIx, Refusal> {
        if let Some(ix) = self.balancer.find(capability, labels) {
            return Ok(ix);
        }
        if !self.balancer.has_room() {
            self.forget_idle_demands();
        }
        if !self.balancer.has_room() {
            return Err(Refusal::TooManyKinds { what: "demands" });
        }
        Ok(self.add_demand(capability, labels, None))
    }

    /// The demand of a task that has been accepted: those are never too many, they were counted when
    /// they came in. `only`: nobody but this process can meet it.
    pub(super) fn demand_in_any_case(
        &mut self,
        capability: &Capability,
        labels: &Labels,
        only: Option<&Process>,
    ) -> DemandIx {
        let known = match only {
            None => self.balancer.find(capability, labels),
            Some(only) => self.balancer.find_for(only, capability, labels),
        };
        if let Some(ix) = known {
            return ix;
        }
        if !self.balancer.has_room() {
            self.forget_idle_demands();
        }
        self.add_demand(capability, labels, only)
    }

    fn add_demand(&mut self, capability: &Capability, labels: &Labels, only: Option<&Process>) -> DemandIx {
        let ix = self.balancer.add(capability, labels, only);
        for worker in self.registry.workers.indices() {
            self.index(worker, ix);
        }
        ix
    }

    fn forget_idle_demands(&mut self) {
        for idle in self.balancer.idle() {
            for worker in self.balancer.forget(idle) {
                self.registry.workers[worker].demands.remove(&idle);
            }
        }
    }

    /// Whether one more fairness key may wait.
    pub(super) fn key_has_room(&self) -> bool {
        self.waiting_keys < MAX_WAITING_KEYS
    }

    /// Puts a worker into, or takes it out of, one demand's sets.
    fn index(&mut self, worker: WorkerIx, demand: DemandIx) {
        let entry = &mut self.balancer.demands[demand];
        let subject = &mut self.registry.workers[worker];
        if subject.meets(worker, entry) {
            entry.eligible.insert(worker);
            subject.demands.insert(demand);
            let listed = subject.is_listed_for(entry);
            self.balancer.set_free(demand, worker, listed);
        } else if subject.demands.remove(&demand) {
            entry.eligible.remove(&worker);
            self.balancer.set_free(demand, worker, false);
        }
    }

    /// Indexes a worker anew after its offers, labels or standing changed.
    pub(super) fn reindex(&mut self, worker: WorkerIx) {
        let demands: Vec<DemandIx> = self.balancer.demands.iter().map(|(ix, _)| ix).collect();
        for demand in demands {
            self.index(worker, demand);
        }
    }

    /// Takes a worker out of every demand, before it is forgotten.
    pub(super) fn unindex(&mut self, worker: WorkerIx) {
        for demand in std::mem::take(&mut self.registry.workers[worker].demands) {
            self.balancer.demands[demand].eligible.remove(&worker);
            self.balancer.set_free(demand, worker, false);
        }
    }

    /// Looks at a worker anew and hands it what waits.
    pub(super) fn refresh(&mut self, worker: WorkerIx) {
        if self.relist(worker) && !self.balancer.waiting.is_empty() {
            self.pull(worker);
        }
    }

    /// Lists a worker as free or not, and tells its state if that changed. True when it is free.
    pub(super) fn relist(&mut self, worker: WorkerIx) -> bool {
        self.tend(worker);
        self.registry.changed.insert(worker);
        let WorkerRegistry { workers, census, .. } = &mut self.registry;
        let subject = &mut workers[worker];
        let state = subject.state();
        census.recount(subject, state == WorkerState::Ready);
        let free = subject.can_take(false) && !self.quiescing;
        let own = subject.can_take(true) && !self.quiescing;
        let relisted = (subject.listed, subject.listed_own) != (free, own);
        (subject.listed, subject.listed_own) = (free, own);
        if subject.shown != state {
            subject.shown = state;
            let (name, pool) = (subject.name.clone(), subject.spec.pool.clone());
            self.note(Note::WorkerState { worker: name, pool, state });
        }
        if relisted {
            let demands = std::mem::take(&mut self.registry.workers[worker].demands);
            for demand in &demands {
                let listed = if self.balancer.demands[*demand].only.is_some() { own } else { free };
                self.balancer.set_free(*demand, worker, listed);
            }
            self.registry.workers[worker].demands = demands;
        }
        free || own
    }

    /// Hands a worker what waits for one like it, for as long as it has slots; one that drains only what
    /// waits for its own sessions.
    fn pull(&mut self, worker: WorkerIx) {
        while self.registry.workers[worker].listed_own {
            let subject = &self.registry.workers[worker];
            let next = if subject.listed {
                self.balancer.next_for(&subject.demands)
            } else {
                let own = |demand: &&DemandIx| self.balancer.demands[**demand].only.is_some();
                self.balancer.next_for(&subject.demands.iter().filter(own).copied().collect())
            };
            let Some(demand) = next else { return };
            let Some((task, key_gone)) =
                self.balancer.demands[demand].queue.pop(&self.settings.fairness_weights)
            else {
                return;
            };
            self.left_queue(demand, key_gone);
            self.hand_over(task, worker);
        }
    }

    /// Finds a worker for an eligible task, or queues it.
    pub(super) fn place(&mut self, task: TaskIx) {
        self.place_as(task, None);
    }

    /// The same with the number that it had in another queue.
    pub(super) fn place_as(&mut self, task: TaskIx, number: Option<u64>) {
        let demand = self.tasks[task].demand;
        if self.balancer.has_free(demand) {
            let Self { balancer, registry, rng, now, .. } = self;
            let pick = balancer.pick(
                demand,
                |worker| registry.workers[worker].rank(now.mono),
                |below| rng.random_range(0..below.max(1)),
            );
            if let Some((worker, rank)) = pick {
                let subject = &mut self.registry.workers[worker];
                subject.pass = rank.next_pass(subject.slots);
                self.hand_over(task, worker);
                return;
            }
        }
        let spec = Arc::clone(&self.tasks[task].spec);
        let kept = match &mut self.tasks[task].phase {
            Phase::Waiting(waiting) => waiting.number.take(),
            Phase::Held
            | Phase::Recovering(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => None,
        };
        let ticket = Ticket {
            priority: spec.priority,
            key: spec.fairness_key.clone().unwrap_or_else(|| FairnessKey::from("")),
            number: number.or(kept).unwrap_or_else(|| self.next_ticket()),
        };
        if self.balancer.demands[demand].queue.push(&ticket, task) {
            self.waiting_keys += 1;
        }
        self.balancer.waiting.insert(demand);
        let blocked = if self.balancer.demands[demand].eligible.is_empty() { "no_worker" } else { "no_slot" };
        if let Phase::Waiting(waiting) = &mut self.tasks[task].phase {
            waiting.ticket = Some(ticket);
        }
        self.note(Note::Blocked(blocked));
    }

    /// A task took so long there: how fast the worker is beside others that can do the like.
    pub(super) fn took(&mut self, task: TaskIx, worker: WorkerIx, time: Duration) {
        let demand = &mut self.balancer.demands[self.tasks[task].demand];
        // Nobody else is to be had in a session, so there is nothing to compare with.
        if demand.only.is_none() {
            let factor = demand.usual.compare(time);
            self.registry.workers[worker].pace.took(factor, self.now.mono);
        }
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket - 1
    }

    /// Takes a waiting task out of its queue, if it is in one.
    pub(super) fn unqueue(&mut self, task: TaskIx) {
        let demand = self.tasks[task].demand;
        let Phase::Waiting(waiting) = &mut self.tasks[task].phase else { return };
        let Some(ticket) = waiting.ticket.take() else { return };
        let key_gone = self.balancer.demands[demand].queue.remove(&ticket);
        self.left_queue(demand, key_gone);
    }

    fn left_queue(&mut self, demand: DemandIx, key_gone: bool) {
        if key_gone {
            self.waiting_keys = self.waiting_keys.saturating_sub(1);
        }
        if self.balancer.demands[demand].queue.is_empty() {
            self.balancer.waiting.remove(&demand);
        }
    }

    /// Workers whose connection could carry a task of this demand, busy or not.
    pub(super) fn connected(&self, demand: DemandIx) -> BTreeSet<WorkerIx> {
        let eligible = &self.balancer.demands[demand].eligible;
        eligible.iter().copied().filter(|worker| self.registry.workers[*worker].up().is_some()).collect()
    }
}
