//! What a seed makes before the first step: the fleet, the numbers that rule it, how much work
//! comes, and which faults happen how often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::dice::Dice;

/// Everything that can be asked for.
pub(crate) const CAPABILITIES: [&str; 6] =
    ["python.execute", "command.execute", "files.read", "files.write", "browser.open", "figma.get"];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A worker's process dies and comes back as another.
    WorkerCrash,
    /// A connection breaks; what was under way is lost.
    Cut,
    /// Nothing arrives from a worker any more, although the connection looks open.
    DeafServer,
    /// Nothing arrives at a worker any more.
    DeafWorker,
    /// Frames are held back for a while, in one direction or both.
    Delay,
    /// A worker stops and goes on later.
    Freeze,
    /// A worker's address answers nobody for a while.
    Unreachable,
    /// A worker does not read.
    SlowConsumer,
    /// A worker says goodbye and leaves.
    Goodbye,
    /// A second process claims a worker's name.
    Impostor,
    /// A worker reports what is not so.
    Lie,
    /// The wall clock jumps.
    WallJump,
    /// The server's loop is away for a while.
    Stall,
    /// The server dies; only what is on disk remains.
    ServerCrash,
    /// The server is stopped and started again.
    ServerRestart,
    /// The journal takes no writes for a while.
    StoreFails,
    /// Commits take long for a while.
    SlowDisk,
    /// The topology changes.
    Reload,
    /// A person says something about a worker.
    Operator,
    /// Many tasks at once.
    Burst,
    /// A worker fails whatever it does, and lives.
    Sick,
}

impl Fault {
    /// Each fault, by how often it is drawn: what breaks often in life is drawn often.
    const DRAWN: [Self; 31] = [
        Self::WorkerCrash,
        Self::WorkerCrash,
        Self::WorkerCrash,
        Self::Cut,
        Self::Cut,
        Self::Cut,
        Self::DeafServer,
        Self::DeafWorker,
        Self::Delay,
        Self::Delay,
        Self::Freeze,
        Self::Freeze,
        Self::Unreachable,
        Self::SlowConsumer,
        Self::Goodbye,
        Self::Impostor,
        Self::Lie,
        Self::Lie,
        Self::WallJump,
        Self::Stall,
        Self::ServerCrash,
        Self::ServerRestart,
        Self::StoreFails,
        Self::SlowDisk,
        Self::Reload,
        Self::Reload,
        Self::Reload,
        Self::Operator,
        Self::Burst,
        Self::Sick,
        Self::Sick,
    ];
}

/// One place where a worker program can run.
#[derive(Debug, Clone)]
pub(crate) struct SitePlan {
    /// What the program calls itself.
    pub(crate) name: WorkerName,
    /// Where it listens; empty: it dials in.
    pub(crate) addresses: Vec<Arc<str>>,
    /// Whether it runs only while the server launches it.
    pub(crate) launched: bool,
    /// Whether it is an instance of a pool: it comes and goes with that.
    pub(crate) of_pool: bool,
    /// What it offers.
    pub(crate) offers: Vec<Offer>,
    /// Its own bound.
    pub(crate) slots: Option<u32>,
    /// Its labels.
    pub(crate) labels: BTreeMap<Arc<str>, Arc<str>>,
    /// It does not stop when it is told to.
    pub(crate) ignores_cancels: bool,
    /// It lets tasks run past their time.
    pub(crate) ignores_limits: bool,
    /// Its kind has a canary.
    pub(crate) has_canary: bool,
    /// It says what sessions it has when it registers, as not every SDK does.
    pub(crate) tells_sessions: bool,
}

/// The whole plan.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where workers can run.
    pub(crate) sites: Vec<SitePlan>,
    /// The first generation.
    pub(crate) topology: Topology,
    /// About how long between two submissions.
    pub(crate) load_every: Duration,
    /// The longest that a task takes.
    pub(crate) longest_task: Duration,
    /// How many tasks of a thousand kill their worker.
    pub(crate) poison: u32,
    /// How many tasks of a thousand are passing, and how many of the rest have a key.
    pub(crate) passing: u32,
    /// See `passing`.
    pub(crate) keyed: u32,
    /// How many inputs of a thousand are large.
    pub(crate) large: u32,
    /// The longest that a frame takes.
    pub(crate) latency: Duration,
    /// The longest that a commit takes.
    pub(crate) commit: Duration,
    /// About how long between two faults; `None`: a calm run.
    pub(crate) fault_every: Option<Duration>,
    /// Which faults this seed knows.
    pub(crate) faults: Vec<Fault>,
    /// How many attempts of a thousand fail and may be tried again, whatever else the dice say.
    pub(crate) failing: u32,
}

impl Plan {
    /// What a seed makes.
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let settings = settings(dice);
        let workers = if dice.chance(40) { dice.between(30, 60) } else { dice.between(1, 9) };
        let mut sites = Vec::new();
        let mut topology = Topology { generation: Generation(1), settings, ..Topology::default() };
        for index in 0..workers {
            let site = site(dice, &format!("w{index}"));
            let spec = spec_for(dice, &site);
            topology.workers.insert(spec.name.clone(), Arc::new(spec));
            sites.push(site);
        }
        // Standby machines, to which a reload may move a worker.
        for index in 0..dice.between(1, 3) {
            let mut spare = site(dice, &format!("spare{index}"));
            spare.addresses = vec![Arc::from(format!("ws://spare{index}/a"))];
            spare.launched = false;
            sites.push(spare);
        }
        let interval = topology.settings.heartbeat_interval;
        let faults = draw_faults(dice);
        Self {
            sites,
            topology,
            load_every: dice.span(Duration::from_millis(5), Duration::from_secs(4)),
            longest_task: dice.span(Duration::from_millis(50), Duration::from_secs(60)),
            poison: if dice.chance(300) { 10 } else { 0 },
            passing: *dice.pick(&[0, 300, 600, 1000]),
            keyed: *dice.pick(&[0, 300, 1000]),
            large: 0,
            latency: dice.span(Duration::from_micros(50), Duration::from_millis(400)),
            commit: dice.span(Duration::from_micros(200), Duration::from_secs(1)),
            fault_every: (!dice.chance(120)).then(|| dice.span(interval / 4, interval * 20)),
            faults,
            failing: 0,
        }
    }

    /// One worker with long tasks that may be repeated, and nobody else who could take them: it is away for
    /// longer than its lease, and the server dies behind a hand-over. So it meets again what was written
    /// off, and what no record knows.
    pub(crate) fn make_it_lonely(&mut self) {
        self.narrow(1);
        self.commit = Duration::from_secs(1);
        self.faults = vec![Fault::Freeze, Fault::Freeze, Fault::ServerCrash];
    }

    /// Processes that claim another's name and its attempts, while the true ones come and go.
    pub(crate) fn let_impostors_in(&mut self) {
        self.narrow(4);
        self.faults = vec![Fault::Impostor, Fault::Impostor, Fault::Unreachable, Fault::Cut, Fault::Freeze];
    }

    /// So many workers of the plan, all alike, with short leases and long tasks, and faults in quick
    /// succession.
    fn narrow(&mut self, workers: usize) {
        let spares = self.sites.iter().filter(|site| site.name.as_str().starts_with("spare")).cloned();
        let spares: Vec<SitePlan> = spares.collect();
        self.sites.retain(|site| !site.name.as_str().starts_with("spare"));
        self.sites.truncate(workers);
        let names: Vec<WorkerName> = self.sites.iter().map(|site| site.name.clone()).collect();
        self.topology.workers.retain(|name, _| names.contains(name));
        self.topology.pools.clear();
        for site in &mut self.sites {
            site.addresses = vec![Arc::from(format!("ws://{}/a", site.name))];
            (site.launched, site.slots, site.labels) = (false, Some(5), BTreeMap::new());
            (site.ignores_cancels, site.ignores_limits) = (false, false);
            let any = Offer { name: "*".into(), description: None, input_schema: None, idempotent: true };
            site.offers = vec![any];
            let mut spec = WorkerSpec::clone(&self.topology.workers[&site.name]);
            (spec.endpoint, spec.launch, spec.pool) = (site.addresses.first().cloned(), None, None);
            (spec.capabilities, spec.slots, spec.labels) = (None, None, BTreeMap::new());
            spec.timeout = Duration::from_secs(90);
            self.topology.workers.insert(site.name.clone(), Arc::new(spec));
        }
        self.sites.extend(spares);
        let settings = &mut self.topology.settings;
        settings.heartbeat_interval = Duration::from_secs(1);
        settings.suspect_after = Duration::from_millis(1_500);
        settings.heartbeat_timeout = Duration::from_millis(2_500);
        settings.lease = Duration::from_secs(4);
        settings.max_attempts = 4;
        (settings.max_depth, settings.max_bytes) = (100_000, 1 << 30);
        self.longest_task = Duration::from_secs(60);
        self.load_every = Duration::from_secs(1);
        (self.poison, self.passing, self.keyed) = (0, 0, 0);
        self.latency = Duration::from_millis(20);
        self.fault_every = Some(Duration::from_secs(4));
    }

    /// Most attempts fail, and quickly, so that the retries would be a storm without their budget.
    pub(crate) fn make_it_a_storm(&mut self) {
        self.failing = 900;
        self.longest_task = Duration::from_millis(100);
        self.load_every = Duration::from_millis(8);
        self.latency = Duration::from_millis(1);
        self.topology.settings.max_attempts = 4;
        self.topology.settings.max_depth = 100_000;
    }
}

/// Half of the kinds of faults, at random: a run in which all happen at once hides what two do.
fn draw_faults(dice: &mut Dice) -> Vec<Fault> {
    let all = dice.chance(250);
    let mut faults: Vec<Fault> = Vec::new();
    let mut skipped: Vec<Fault> = Vec::new();
    for fault in Fault::DRAWN {
        let known = faults.contains(&fault);
        if known || (!skipped.contains(&fault) && (all || dice.chance(500))) {
            faults.push(fault);
        } else if !skipped.contains(&fault) {
            skipped.push(fault);
        }
    }
    if faults.is_empty() { vec![Fault::Cut] } else { faults }
}

fn settings(dice: &mut Dice) -> Settings {
    let interval = *dice.pick(&[1, 5, 30, 60].map(Duration::from_secs));
    Settings {
        heartbeat_interval: interval,
        suspect_after: interval * 3 / 2,
        heartbeat_timeout: interval * 5 / 2,
        lease: interval * 4,
        max_backoff: dice.span(Duration::from_secs(1), Duration::from_secs(30)),
        consecutive_failures: if dice.chance(300) { 2 } else { 5 },
        base_ejection: dice.span(Duration::from_secs(1), Duration::from_secs(30)),
        max_depth: if dice.chance(150) { 30 } else { 100_000 },
        max_bytes: if dice.chance(80) { 2_000 } else { 1 << 30 },
        fairness_weights: BTreeMap::from([("agent-1".into(), 3)]),
        max_attempts: u32::try_from(dice.between(1, 4)).unwrap_or(3),
        retry_max: dice.span(Duration::from_secs(1), Duration::from_secs(30)),
        removal_grace: dice
            .chance(400)
            .then(|| dice.span(Duration::from_millis(500), Duration::from_secs(30))),
        cancel_grace: *dice.pick(&[Duration::from_secs(2), Duration::from_secs(30)]),
        ..Settings::default()
    }
}

fn site(dice: &mut Dice, name: &str) -> SitePlan {
    let dials_in = dice.chance(250);
    let mut offers: Vec<Offer> = Vec::new();
    for _ in 0..dice.between(1, 4) {
        let name = *dice.pick(&["python.*", "files.*", "browser.open", "command.execute", "figma.get", "*"]);
        if offers.iter().all(|offer| offer.name.as_str() != name) {
            offers.push(Offer {
                name: name.into(),
                description: None,
                input_schema: None,
                idempotent: dice.chance(500),
            });
        }
    }
    SitePlan {
        name: name.into(),
        addresses: if dials_in {
            Vec::new()
        } else {
            vec![Arc::from(format!("ws://{name}/a")), Arc::from(format!("ws://{name}/b"))]
        },
        launched: !dials_in && dice.chance(250),
        of_pool: false,
        offers,
        slots: dice.chance(600).then(|| u32::try_from(dice.between(1, 5)).unwrap_or(1)),
        labels: labels(dice),
        ignores_cancels: dice.chance(80),
        ignores_limits: dice.chance(80),
        has_canary: dice.chance(600),
        tells_sessions: !name.ends_with(['0', '3', '6']),
    }
}

/// Labels of a worker.
pub(crate) fn labels(dice: &mut Dice) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut labels = BTreeMap::new();
    if dice.chance(400) {
        labels.insert(Arc::from("zone"), Arc::from(*dice.pick(&["a", "b"])));
    }
    if dice.chance(200) {
        labels.insert(Arc::from("gpu"), Arc::from("yes"));
    }
    labels
}

/// The entry of the topology that fits a site.
pub(crate) fn spec_for(dice: &mut Dice, site: &SitePlan) -> WorkerSpec {
    WorkerSpec {
        name: site.name.clone(),
        formerly: None,
        origin: if dice.chance(200) { Origin::Api } else { Origin::File },
        pool: dice.chance(300).then(|| "pool".into()),
        interface: InterfaceKind::Websocket,
        endpoint: site.addresses.first().cloned(),
        capabilities: dice.chance(200).then(|| capabilities(dice)),
        slots: dice.chance(500).then(|| u32::try_from(dice.between(1, 6)).unwrap_or(1)),
        timeout: dice.span(Duration::from_secs(2), Duration::from_secs(90)),
        labels: labels(dice),
        launch: site.launched.then(|| LaunchSpec { command: vec!["worker".into()], env: BTreeMap::new() }),
        mock: MockSpec::default(),
    }
}

/// What an entry may allow.
pub(crate) fn capabilities(dice: &mut Dice) -> Vec<Capability> {
    let mut allowed = vec![Capability::from(*dice.pick(&["python.*", "files.*", "*"]))];
    if dice.chance(500) {
        allowed.push((*dice.pick(&CAPABILITIES)).into());
    }
    allowed
}
