//! The simulated topology file: one or more edits at a time, each valid by the configuration's own
//! rules (names and endpoints differ), at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::plan::{Fault, SitePlan, capabilities, labels, spec_for};
use super::workers::Site;
use super::world::{Happening, World};

impl World {
    /// The file is edited, and the new generation reaches the core.
    pub(crate) fn reload(&mut self) {
        let mut next = Topology::clone(&self.topology);
        next.generation = Generation(next.generation.0 + 1);
        for _ in 0..self.dice.between(1, 3) {
            self.edit(&mut next);
        }
        self.edit_pools(&mut next);
        if self.server.fleet.is_none() {
            return;
        }
        self.topology = Arc::new(next);
        self.tell(Event::Desired(Arc::clone(&self.topology)));
    }

    /// While the server was down, somebody took a worker out of the file that may still run something.
    pub(crate) fn forget_a_worker(&mut self) {
        if !self.plan.faults.contains(&Fault::Reload) {
            return;
        }
        let runs = self.disk.hinted().into_iter().find(|name| self.topology.workers.contains_key(name));
        if let Some(name) = runs {
            let mut next = Topology::clone(&self.topology);
            next.generation = Generation(next.generation.0 + 1);
            next.workers.remove(&name);
            self.topology = Arc::new(next);
        }
    }

    fn edit(&mut self, next: &mut Topology) {
        let names: Vec<WorkerName> = next.workers.keys().cloned().collect();
        let kind = self.dice.below(12);
        if kind < 3 || names.is_empty() {
            return self.add(next);
        }
        let name = self.dice.pick(&names).clone();
        let Some(spec) = next.workers.get(&name) else { return };
        let mut spec = WorkerSpec::clone(spec);
        spec.formerly = None;
        match kind {
            3..=4 => {
                next.workers.remove(&name);
                return;
            }
            5 => {
                spec.slots =
                    self.dice.chance(800).then(|| u32::try_from(self.dice.between(1, 6)).unwrap_or(1))
            }
            6 => spec.capabilities = self.dice.chance(600).then(|| capabilities(&mut self.dice)),
            7 => spec.labels = labels(&mut self.dice),
            8 => spec.timeout = self.dice.span(Duration::from_secs(2), Duration::from_secs(90)),
            9 => self.relocate(next, &mut spec),
            10 => {
                self.rename(next, spec);
                return;
            }
            _ => self.edit_settings(&mut next.settings),
        }
        next.workers.insert(name, Arc::new(spec));
    }

    /// A worker of the plan that is not in the file comes into it (again).
    fn add(&mut self, next: &mut Topology) {
        let used: BTreeSet<&Arc<str>> =
            next.workers.values().filter_map(|spec| spec.endpoint.as_ref()).collect();
        let free: Vec<usize> = (0..self.sites.len())
            .filter(|site| {
                let plan = &self.sites[*site].plan;
                !plan.of_pool
                    && !next.workers.contains_key(&plan.name)
                    && plan.addresses.iter().all(|address| !used.contains(address))
            })
            .collect();
        if free.is_empty() {
            return;
        }
        let site = *self.dice.pick(&free);
        let plan = self.sites[site].plan.clone();
        let before = self.plan.topology.workers.get(&plan.name).filter(|_| self.dice.chance(700)).cloned();
        let spec = before.unwrap_or_else(|| Arc::new(spec_for(&mut self.dice, &plan)));
        next.workers.insert(plan.name, spec);
    }

    /// A worker's endpoint changes: to another address of the same machine, or to another machine.
    fn relocate(&mut self, next: &Topology, spec: &mut WorkerSpec) {
        if spec.endpoint.is_none() || spec.launch.is_some() {
            return;
        }
        let free: Vec<Arc<str>> = self
            .sites
            .iter()
            .filter(|site| !site.plan.launched && !site.plan.of_pool)
            // Two names for one process are nothing that a configuration could be checked for.
            .filter(|site| {
                next.workers.values().all(|other| {
                    let there = |address: &Arc<str>| site.plan.addresses.contains(address);
                    other.name == spec.name || !other.endpoint.as_ref().is_some_and(there)
                })
            })
            .flat_map(|site| site.plan.addresses.iter().cloned())
            .filter(|address| next.workers.values().all(|other| other.endpoint.as_ref() != Some(address)))
            .collect();
        if !free.is_empty() {
            spec.endpoint = Some(self.dice.pick(&free).clone());
        }
    }

    /// A worker gets another name and says which it had.
    fn rename(&mut self, next: &mut Topology, mut spec: WorkerSpec) {
        let old = spec.name.clone();
        let number = next.generation.0;
        let new = WorkerName::from(format!("r{number}-{}", self.dice.below(1000)));
        if next.workers.contains_key(&new) {
            return;
        }
        spec.formerly = Some(old.clone());
        spec.name = new.clone();
        next.workers.remove(&old);
        next.workers.insert(new.clone(), Arc::new(spec));
        // A program that dials in learns its new name with its own configuration.
        for site in &mut self.sites {
            if site.plan.name == old && site.plan.addresses.is_empty() {
                site.plan.name = new.clone();
            }
        }
    }

    fn edit_settings(&mut self, settings: &mut Settings) {
        match self.dice.below(4) {
            0 => settings.max_attempts = u32::try_from(self.dice.between(1, 5)).unwrap_or(3),
            1 => {
                settings.removal_grace =
                    Some(self.dice.span(Duration::from_millis(100), Duration::from_secs(20)))
            }
            2 => settings.consecutive_failures = u32::try_from(self.dice.between(1, 6)).unwrap_or(5),
            _ => settings.cancel_grace = self.dice.span(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }

    /// Two machines that can do everything, one in each zone, so that nothing waits for a worker
    /// that the seed never had.
    fn add_helpers(&mut self, next: &mut Topology) {
        for zone in ["a", "b"] {
            let name = WorkerName::from(format!("helper-{zone}"));
            let address: Arc<str> = Arc::from(format!("ws://helper-{zone}/a"));
            if next.workers.contains_key(&name) {
                continue;
            }
            let offer = Offer { name: "*".into(), description: None, input_schema: None, idempotent: true };
            let labels = BTreeMap::from([("zone".into(), zone.into()), ("gpu".into(), "yes".into())]);
            let site = SitePlan {
                name: name.clone(),
                addresses: vec![address],
                launched: false,
                of_pool: false,
                offers: vec![offer],
                slots: Some(8),
                labels,
                ignores_cancels: false,
                ignores_limits: false,
                has_canary: true,
                tells_sessions: true,
            };
            let mut spec = spec_for(&mut self.dice, &site);
            spec.capabilities = None;
            spec.labels.clear();
            spec.slots = None;
            next.workers.insert(name, Arc::new(spec));
            self.sites.push(Site::new(site));
            let index = self.sites.len() - 1;
            self.soon(Happening::Start(index, 0), Duration::from_millis(1));
        }
    }

    /// The topology with which everything that was accepted can be done: every site has its entry,
    /// with all that it offers and no label in the way, and one of them offers everything.
    pub(crate) fn healed_topology(&mut self) -> Arc<Topology> {
        let mut next = Topology::clone(&self.topology);
        next.generation = Generation(next.generation.0 + 1);
        for spec in next.workers.values_mut() {
            let mut open = WorkerSpec::clone(spec);
            open.capabilities = None;
            open.formerly = None;
            *spec = Arc::new(open);
        }
        for site in 0..self.sites.len() {
            let used = |address: &Arc<str>| {
                next.workers.values().any(|spec| spec.endpoint.as_ref() == Some(address))
            };
            let plan = self.sites[site].plan.clone();
            if plan.of_pool {
                continue;
            }
            if !next.workers.contains_key(&plan.name) && !plan.addresses.iter().any(used) {
                let mut spec = spec_for(&mut self.dice, &plan);
                spec.capabilities = None;
                next.workers.insert(plan.name, Arc::new(spec));
            }
        }
        self.add_helpers(&mut next);
        Arc::new(next)
    }
}
