//! Pools in the simulated world: templates that change, people who scale by hand, and providers that
//! are late, fail, hang or say what is not so. Some seeds have them; the others stay what they were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::dice::Dice;
use super::plan::SitePlan;
use super::workers::Site;
use super::world::{Happening, World};

/// Of twelve seeds those that have pools; none of them is a planted bug's own.
const WORLDS: [u64; 3] = [2, 8, 11];

/// What [`World::count`] counts here.
pub(crate) const GREW: &str = "a pool grows";
/// See [`GREW`].
pub(crate) const SHRANK: &str = "a pool shrinks";
/// See [`GREW`].
pub(crate) const FAILED: &str = "a pool's provider fails";
/// See [`GREW`].
pub(crate) const MISSING: &str = "a pool's provider is found out";
/// See [`GREW`].
pub(crate) const REPLACED: &str = "a pool's instance of an old template goes";

/// What the world knows of its pools.
pub(crate) struct Pools {
    /// Chance of their own, so that worlds without pools are what they were before there were any.
    dice: Dice,
    /// The instances of the moment, as the core has them.
    pub(crate) entries: BTreeMap<WorkerName, Arc<WorkerSpec>>,
    next_port: u16,
}

impl Pools {
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed ^ 0x706f_6f6c), entries: BTreeMap::new(), next_port: 20_000 }
    }

    /// The first pools of a seed; most have none.
    pub(crate) fn of(&mut self, seed: u64) -> BTreeMap<PoolName, Arc<PoolSpec>> {
        if !WORLDS.contains(&(seed % 12)) {
            return BTreeMap::new();
        }
        (0..self.dice.between(1, 2))
            .map(|number| {
                let spec = self.spec(&format!("pool{number}"));
                (spec.name.clone(), Arc::new(spec))
            })
            .collect()
    }

    fn spec(&mut self, name: &str) -> PoolSpec {
        let dice = &mut self.dice;
        let process = dice.chance(600);
        let allowed: Vec<Capability> = dice
            .pick(&[vec!["*"], vec!["python.*", "files.*"]])
            .iter()
            .map(|it| Capability::from(*it))
            .collect();
        let launch = process
            .then(|| LaunchSpec { command: vec!["worker".into(), "{port}".into()], env: BTreeMap::new() });
        let template = WorkerSpec {
            name: "template".into(),
            formerly: None,
            origin: Origin::Pool,
            pool: None,
            interface: InterfaceKind::Websocket,
            endpoint: process.then(|| "ws://pool-{port}/a".into()),
            capabilities: Some(allowed),
            slots: Some(u32::try_from(dice.between(1, 3)).unwrap_or(1)),
            timeout: dice.span(Duration::from_secs(2), Duration::from_secs(90)),
            labels: BTreeMap::new(),
            launch,
            mock: MockSpec::default(),
        };
        PoolSpec { name: name.into(), formerly: None, template, scaling: self.scaling(process) }
    }

    fn scaling(&mut self, process: bool) -> Scaling {
        let dice = &mut self.dice;
        let number = |dice: &mut Dice, low, high| u32::try_from(dice.between(low, high)).unwrap_or(1);
        let max = number(dice, 1, 5);
        let delay = |dice: &mut Dice| dice.span(Duration::from_secs(1), Duration::from_secs(60));
        Scaling {
            min: number(dice, 0, 2).min(max),
            max,
            target_load_percent: number(dice, 50, 100),
            spare: number(dice, 0, 1),
            upscale_delay: if dice.chance(700) { Duration::ZERO } else { delay(dice) },
            downscale_delay: delay(dice),
            downscale_to_zero_delay: delay(dice),
            max_step: dice.chance(300).then_some(1),
            schedule: Vec::new(),
            paused: dice.chance(50),
            provider: if process { ProviderKind::Process } else { ProviderKind::Exec },
            hook: None,
        }
    }
}

impl World {
    /// The topology with the instances of the moment among its workers, as the checkers see it.
    pub(crate) fn with_instances(&self, topology: &Topology) -> Arc<Topology> {
        let mut whole = topology.clone();
        whole.workers.extend(self.pools.entries.iter().map(|(name, spec)| (name.clone(), spec.clone())));
        Arc::new(whole)
    }

    /// Whether the core's instances are others than before the step.
    pub(crate) fn instances_changed(&mut self) -> bool {
        let Some(fleet) = &self.server.fleet else { return false };
        if self.topology.pools.is_empty() && self.pools.entries.is_empty() {
            return false;
        }
        let of_pools = fleet.workers().into_iter().filter(|view| view.origin == Origin::Pool);
        let entries: BTreeMap<WorkerName, Arc<WorkerSpec>> =
            of_pools.filter_map(|view| Some((view.name.clone(), fleet.entry(&view.name)?))).collect();
        let changed = entries != self.pools.entries;
        self.pools.entries = entries;
        changed
    }

    /// Sizes stay within their bounds, and what must happen now and then is counted.
    pub(crate) fn saw_pools(&mut self, effect: &Effect) {
        match effect {
            Effect::Note(Note::PoolDecided { pool, decision, .. }) => {
                let (min, max) = (decision.min, decision.max);
                assert!((min..=max).contains(&decision.to), "pool {pool} is to have {}", decision.to);
                match decision.direction {
                    Direction::Up => self.count(GREW),
                    Direction::Down => self.count(SHRANK),
                    Direction::Hold => {}
                }
            }
            Effect::Note(Note::PoolCalled { outcome, .. }) if *outcome != "ok" => self.count(FAILED),
            Effect::Note(Note::PoolOdd { what: "missing", .. }) => self.count(MISSING),
            Effect::Order(_, Order::Drain { reason: "moved" }) => self.count(REPLACED),
            _ => {}
        }
    }

    /// A pool's provider is asked.
    pub(crate) fn provision(&mut self, pool: &PoolSpec, wanted: &Wanted) {
        let dice = &mut self.pools.dice;
        let wait = dice.span(Duration::from_millis(1), Duration::from_secs(5));
        let fails = !self.calm && dice.chance(150);
        let lies = !self.calm && !fails && dice.chance(100);
        let name = pool.name.clone();
        let mut ports = Vec::new();
        for _ in &wanted.added {
            self.pools.next_port = self.pools.next_port.checked_add(1).unwrap_or(20_000);
            ports.push(self.pools.next_port);
        }
        let report = if fails {
            let timeout = self.pools.dice.chance(500);
            ProviderReport::Failed { timeout, message: "simulated".into(), took: wait }
        } else {
            ProviderReport::Done { ports: ports.clone(), took: wait }
        };
        let is_exec = pool.scaling.provider == ProviderKind::Exec;
        if !fails && !lies && is_exec {
            for victim in &wanted.victims {
                self.take_away(victim);
            }
            for added in &wanted.added {
                self.bring(pool, added);
            }
        }
        if lies && !is_exec {
            // The programs start, and nobody can reach them for longer than the core believes it.
            for port in &ports {
                let until = self.time + super::world::nanos(Duration::from_secs(600));
                self.unreachable.insert(Arc::from(format!("ws://pool-{port}/a")), until);
            }
        }
        let event = Event::Provided(name, wanted.call, report);
        self.soon(Happening::Hear(self.server.life, event), wait);
    }

    /// A machine of the hook's comes up and dials in.
    fn bring(&mut self, pool: &PoolSpec, name: &WorkerName) {
        self.take_away(name);
        let site = self.pool_site(name, Vec::new(), pool.template.slots);
        self.sites.push(site);
        let index = self.sites.len() - 1;
        let wait = self.pools.dice.span(Duration::from_millis(100), Duration::from_secs(20));
        self.soon(Happening::Start(index, 0), wait);
    }

    /// The machines of that name go for good.
    fn take_away(&mut self, name: &WorkerName) {
        for site in 0..self.sites.len() {
            if self.sites[site].plan.of_pool && self.sites[site].plan.name == *name {
                self.sites[site].plan.launched = true;
                self.kill(site);
            }
        }
    }

    /// A place for an instance that the server launches; made when it is first wanted there.
    pub(crate) fn place_for(&mut self, worker: &WorkerName, endpoint: &Arc<str>) -> Option<usize> {
        let slots = self.pools.entries.get(worker)?.slots;
        let mut site = self.pool_site(worker, vec![endpoint.clone()], slots);
        site.plan.launched = true;
        self.sites.push(site);
        Some(self.sites.len() - 1)
    }

    fn pool_site(&mut self, name: &WorkerName, addresses: Vec<Arc<str>>, slots: Option<u32>) -> Site {
        let idempotent = self.pools.dice.chance(700);
        let offer = Offer { name: "*".into(), description: None, input_schema: None, idempotent };
        Site::new(SitePlan {
            name: name.clone(),
            addresses,
            launched: false,
            of_pool: true,
            offers: vec![offer],
            slots,
            labels: BTreeMap::new(),
            ignores_cancels: false,
            ignores_limits: false,
            has_canary: true,
            tells_sessions: true,
        })
    }

    /// An entry under `pools` is edited.
    pub(crate) fn edit_pools(&mut self, next: &mut Topology) {
        let names: Vec<PoolName> = next.pools.keys().cloned().collect();
        if self.plan.topology.pools.is_empty() || !self.pools.dice.chance(400) {
            return;
        }
        if names.is_empty() {
            let number = next.generation.0;
            let spec = self.pools.spec(&format!("pool{number}x"));
            next.pools.insert(spec.name.clone(), Arc::new(spec));
            return;
        }
        let name = self.pools.dice.pick(&names).clone();
        let mut spec = PoolSpec::clone(&next.pools[&name]);
        spec.formerly = None;
        let process = spec.scaling.provider == ProviderKind::Process;
        match self.pools.dice.below(8) {
            0 => {
                next.pools.remove(&name);
                return;
            }
            1 => {
                next.pools.remove(&name);
                spec.formerly = Some(name);
                spec.name = format!("pool{}y", next.generation.0).as_str().into();
            }
            2 => spec.template.slots = Some(u32::try_from(self.pools.dice.between(1, 3)).unwrap_or(1)),
            3 | 4 => {
                if let Some(launch) = &mut spec.template.launch {
                    launch.command.push(next.generation.0.to_string());
                }
            }
            _ => spec.scaling = self.pools.scaling(process),
        }
        next.pools.insert(spec.name.clone(), Arc::new(spec));
    }

    /// A person says something about a pool.
    pub(crate) fn operate_pool(&mut self) {
        let names: Vec<PoolName> = self.topology.pools.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = self.pools.dice.pick(&names).clone();
        let word = match self.pools.dice.below(4) {
            0 => PoolWord::Pause(name),
            1 => PoolWord::Resume(name),
            _ => PoolWord::Scale(name, u32::try_from(self.pools.dice.between(0, 6)).unwrap_or(1)),
        };
        let request = self.callers.request();
        self.tell(Event::Pool(word, None, request));
    }
}
