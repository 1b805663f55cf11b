//! The checker's picture of who may be given tasks by what it has shown: canaries passed, ejections,
//! and the failures that led to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollcall::fleet::*;

use super::Verdict;

/// What is known of workers' health.
#[derive(Default)]
pub(super) struct Health {
    /// Processes that have passed a canary, or have work from before.
    proven: BTreeSet<Instance>,
    /// Canaries under way, and whose they are.
    canaries: BTreeMap<(TaskId, Epoch), Instance>,
    /// The process behind each worker's name, with what it offers.
    processes: BTreeMap<WorkerName, (Instance, Vec<Offer>)>,
    /// Workers that are ejected.
    out: BTreeSet<WorkerName>,
    /// Failures that can only be a worker's own, since its last ejection.
    own_failures: BTreeMap<WorkerName, u32>,
}

impl Health {
    pub(super) fn desired(&mut self, old: &Topology, new: &Topology) {
        for (name, change) in &Diff::between(old, new).workers {
            match change {
                Change::Renamed { from } => {
                    // A program runs under its name: it is made anew under the new one.
                    let launched = new.workers.get(name).is_some_and(|spec| spec.launch.is_some());
                    if self.out.remove(from) && !launched {
                        self.out.insert(name.clone());
                    }
                    if let Some(count) = self.own_failures.remove(from) {
                        self.own_failures.insert(name.clone(), count);
                    }
                    if let Some(process) = self.processes.remove(from) {
                        self.processes.insert(name.clone(), process);
                    }
                }
                Change::Removed | Change::Moved { .. } | Change::Added => {
                    self.out.remove(name);
                    self.processes.remove(name);
                }
                Change::Updated { .. } => {}
            }
        }
        for (name, (instance, offers)) in &self.processes {
            if may_do_nothing(new.workers.get(name), offers) {
                self.proven.insert(instance.clone());
            }
        }
    }

    /// A registration was welcomed.
    pub(super) fn welcomed(&mut self, registration: &Registration, welcome: &Welcome, topology: &Topology) {
        let (name, instance) = (welcome.worker.clone(), registration.instance.clone());
        let process = (instance.clone(), registration.capabilities.clone());
        if self.processes.insert(name.clone(), process).is_none_or(|(before, _)| before != instance) {
            self.out.remove(&name);
        }
        let has_work = !welcome.keep.is_empty() || !welcome.resend.is_empty();
        let exempt = may_do_nothing(topology.workers.get(&name), &registration.capabilities);
        if &*registration.kind != "mock" || has_work || exempt {
            self.proven.insert(instance);
        }
    }

    pub(super) fn canary_sent(&mut self, instance: &Instance, assignment: &Assignment) {
        self.canaries.insert((assignment.task, assignment.epoch), instance.clone());
    }

    pub(super) fn is_canary(&self, task: TaskId, epoch: Epoch) -> bool {
        self.canaries.contains_key(&(task, epoch))
    }

    /// A worker may get a task only if it has shown that it works.
    pub(super) fn may_work(&self, worker: &WorkerName, instance: &Instance) -> Verdict {
        if !self.proven.contains(instance) {
            return Err(format!("I15: {worker} got a task before it passed its canary"));
        }
        if self.out.contains(worker) {
            return Err(format!("I15: {worker} got a task although it is ejected"));
        }
        Ok(())
    }

    pub(super) fn reported(&mut self, worker: &WorkerName, report: &Report) {
        let Report::Result(result) = report else { return };
        if let Some(instance) = self.canaries.get(&(result.task, result.epoch)) {
            if result.status == AttemptOutcome::Succeeded {
                self.proven.insert(instance.clone());
            }
        } else if result.error.as_ref().is_some_and(|error| error.fault == Fault::Worker) {
            *self.own_failures.entry(worker.clone()).or_default() += 1;
        }
    }

    pub(super) fn noted(&mut self, note: &Note, topology: &Topology) -> Verdict {
        match note {
            // One that did not stop an attempt in time has failed, too.
            Note::AttemptEnded { worker, outcome: AttemptOutcome::TimedOut, .. } => {
                *self.own_failures.entry(worker.clone()).or_default() += 1;
            }
            Note::Health { worker, pool, what: "ejected", detail } => {
                let failures = self.own_failures.remove(worker).unwrap_or(0);
                let by_canary = detail.contains("canary");
                let at_once = detail.contains("after its return");
                let needed = if at_once { 1 } else { topology.settings.consecutive_failures };
                if !by_canary && failures < needed {
                    return Err(format!(
                        "I15: {worker} is ejected ({detail}) after {failures} failures of its own"
                    ));
                }
                if !by_canary {
                    self.may_go(worker, pool.as_ref(), topology)?;
                }
                self.out.insert(worker.clone());
            }
            Note::Health { worker, what: "returned", .. } => {
                self.out.remove(worker);
            }
            _ => {}
        }
        Ok(())
    }

    /// Never more of a pool than allowed, and never the last of it.
    fn may_go(&self, worker: &WorkerName, pool: Option<&PoolName>, topology: &Topology) -> Verdict {
        let of_pool = topology.workers.values().filter(|spec| spec.pool.as_ref() == pool);
        let names: BTreeSet<&WorkerName> = of_pool.map(|spec| &spec.name).collect();
        let out = names.iter().filter(|name| self.out.contains(**name)).count() + 1;
        if out * 100 > names.len() * topology.settings.max_ejection_percent as usize {
            return Err(format!("I15: with {worker}, {out} of {} in pool {pool:?} are ejected", names.len()));
        }
        Ok(())
    }
}

/// Whether a worker may be asked for nothing, and so for no canary.
fn may_do_nothing(entry: Option<&Arc<WorkerSpec>>, offers: &[Offer]) -> bool {
    let Some(allowed) = entry.and_then(|entry| entry.capabilities.as_ref()) else { return false };
    let meets =
        |pattern: &Capability, offer: &Offer| pattern.covers(&offer.name) || offer.name.covers(pattern);
    !allowed.iter().any(|pattern| offers.iter().any(|offer| meets(pattern, offer)))
}
