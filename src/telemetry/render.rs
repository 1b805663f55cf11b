//! Writes the two pages that Prometheus scrapes. What means "now" (depths, ages, states) is taken
//! from the core's own values at this moment, so that it cannot drift from what it describes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::catalogue as c;
use super::metrics::{Metrics, unix_now};
use super::names::{Names, OTHER};
use super::page::{Page, float};
use super::process;
use crate::fleet::{
    Capability, CapabilityStats, Fault, FleetStats, PROBE, Source, TaskState, Wall, WorkerState, WorkerView,
};

/// What a scrape shows beside the counters: the state of things at this moment.
#[derive(Clone, Copy)]
pub struct Scrape<'a> {
    /// The core's tasks.
    pub stats: &'a FleetStats,
    /// How many dead letters the store keeps, by capability; none where it could not be asked.
    pub dead_letters: Option<&'a BTreeMap<Capability, u64>>,
    /// The workers, as last published.
    pub workers: &'a [Arc<WorkerView>],
    /// The stage of its life that the server is in: a word of `rollcall_lifecycle`.
    pub lifecycle: &'a str,
    /// The configuration.
    pub config: &'a ConfigFacts,
}

/// What a scrape shows of the configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConfigFacts {
    /// Whether the last try was applied, or found nothing new.
    pub last_reload_successful: bool,
    /// When a try last ended so.
    pub last_success: Option<SystemTime>,
    /// When the file was last changed; read at the scrape.
    pub file_modified: Option<SystemTime>,
    /// The first 12 hexadecimal digits of the SHA-256 of its canonical form.
    pub hash: Arc<str>,
    /// Whether the store may lose what was accepted: it is in memory.
    pub relaxed: bool,
    /// Tries so far, by the words of `rollcall_config_reloads_total`: trigger and outcome.
    pub reloads: BTreeMap<(&'static str, &'static str), u64>,
    /// Applied changes by how long they took: at most each bound of [`c::FAST`] (not cumulative),
    /// then those that took longer.
    pub apply_counts: [u64; c::FAST.len() + 1],
    /// How long they took together, in seconds.
    pub apply_sum: f64,
}

/// The endings that a task can have, with whose fault each may be. Others would be shown too, but
/// not before they happen.
const ENDINGS: [(TaskState, Fault); 9] = [
    (TaskState::Succeeded, Fault::None),
    (TaskState::Failed, Fault::Caller),
    (TaskState::Failed, Fault::Worker),
    (TaskState::TimedOut, Fault::Caller),
    (TaskState::TimedOut, Fault::Worker),
    (TaskState::Cancelled, Fault::None),
    (TaskState::Expired, Fault::Rollcall),
    (TaskState::Expired, Fault::Caller),
    (TaskState::Lost, Fault::Worker),
];

impl Metrics {
    /// The page for `/metrics`.
    pub fn render(&self, scrape: &Scrape<'_>) -> String {
        let began = Instant::now();
        let tasks = self.tasks_by_label(scrape.stats);
        let names = self.labels.names();
        let mut page = Page::with_capacity(512 << 10);
        write_identity(&mut page, scrape.lifecycle);
        process::write(&mut page);
        self.write_runtime(&mut page);
        write_submissions(&mut page, &tasks, &names);
        write_tasks(&mut page, &tasks);
        write_queue(&mut page, scrape.stats);
        if let Some(counts) = scrape.dead_letters {
            write_dead_letters(&mut page, counts, &tasks);
        }
        write_pools(&mut page, &names, scrape.workers);
        write_config(&mut page, scrape.config);
        let gathered: HashMap<_, _> =
            self.registry.gather().into_iter().map(|family| (family.name().to_owned(), family)).collect();
        for family in c::FAMILIES {
            if let Some(gathered) = gathered.get(family.name) {
                page.gathered(family, gathered);
            }
        }
        self.finish(page, "metrics", began)
    }

    /// The page for `/metrics/workers`: eight samples a worker, written straight from the snapshot.
    pub fn render_workers(&self, workers: &[Arc<WorkerView>]) -> String {
        let began = Instant::now();
        let names = self.labels.names();
        let mut page = Page::with_capacity(4_096 + workers.len() * 1_024);
        // A worker that has left the topology is gone from the page although it may still drain.
        let shown: Vec<(String, &WorkerView)> = workers
            .iter()
            .filter_map(|view| Some((Page::head(&view.name.0, &names.of_view(view)?.name), &**view)))
            .collect();
        page.per_worker(&c::WORKER_UP, &shown, |view| u8::from(is_up(view)));
        page.per_worker(&c::WORKER_LAST_HEARTBEAT, &shown, |view| view.last_heartbeat.map_or(0.0, seconds));
        page.per_worker(&c::WORKER_RUNNING, &shown, |view| view.slots_used);
        page.per_worker(&c::WORKER_CAPACITY, &shown, |view| view.slots_total);
        page.per_worker(&c::WORKER_RECONNECTS, &shown, |view| view.reconnects);
        page.family(&c::WORKER_ATTEMPTS);
        for (head, view) in &shown {
            page.with_head(&c::WORKER_ATTEMPTS, head, &["ok"], view.attempts_ok);
            page.with_head(&c::WORKER_ATTEMPTS, head, &["error"], view.attempts_error);
        }
        page.family(&c::WORKER_INFO);
        for (head, view) in &shown {
            let version = short(view.version.as_deref().unwrap_or_default());
            let protocol = if view.mock { "mock" } else { rollcall_protocol::SUBPROTOCOL };
            let zone = short(view.labels.get("zone").map_or("", |zone| &**zone));
            page.with_head(&c::WORKER_INFO, head, &[version, protocol, zone], 1);
        }
        self.finish(page, "workers", began)
    }

    /// Ends a page. What it cost is shown by the next one.
    fn finish(&self, page: Page, name: &str, began: Instant) -> String {
        self.collect_series.with_label_values(&[name]).set(float(page.samples()));
        let text = page.finish(name == "workers");
        self.collect_seconds.with_label_values(&[name]).set(began.elapsed().as_secs_f64());
        text
    }

    /// The core's numbers by label: capabilities with a name of their own (at 0 where the core has
    /// seen none), and `other`.
    fn tasks_by_label(&self, stats: &FleetStats) -> BTreeMap<Capability, CapabilityStats> {
        let live = |name: &Capability| stats.capabilities.get(name).is_some_and(|task| backlog(task) > 0);
        let names = self.labels.settle(live);
        let mut folded = self.folded.lock().unwrap_or_else(PoisonError::into_inner);
        folded.retain(|name| stats.capabilities.contains_key(name));
        let mut tasks: BTreeMap<Capability, CapabilityStats> =
            names.capabilities.keys().map(|name| (name.clone(), CapabilityStats::default())).collect();
        for (name, numbers) in &stats.capabilities {
            let alive = backlog(numbers) > 0 || names.covers(name);
            let own = !folded.contains(name)
                && (names.capabilities.contains_key(name) || (alive && self.labels.name_live(name)));
            if own {
                add(tasks.entry(name.clone()).or_default(), numbers);
            } else if alive || folded.contains(name) {
                folded.insert(name.clone());
                add(tasks.entry(Capability::from(OTHER)).or_default(), numbers);
            }
            // Else it has left the topology with nothing alive, and its series with it: accepted
            // and completed are equal, so the sums stay true without it.
        }
        tasks
    }

    fn write_runtime(&self, page: &mut Page) {
        let Some(runtime) = self.runtime.get() else { return };
        let metrics = runtime.metrics();
        let threads = metrics.num_workers();
        let busy: f64 = (0..threads).map(|at| metrics.worker_total_busy_duration(at).as_secs_f64()).sum();
        page.single(&c::RUNTIME_BUSY, busy);
        page.single(&c::RUNTIME_WORKERS, threads);
        page.single(&c::RUNTIME_ALIVE_TASKS, metrics.num_alive_tasks());
        page.single(&c::RUNTIME_QUEUE_DEPTH, metrics.global_queue_depth());
    }
}

fn backlog(task: &CapabilityStats) -> u64 {
    task.queued + task.delayed + task.assigned + task.running + task.cancelling
}

fn add(sum: &mut CapabilityStats, more: &CapabilityStats) {
    for (sum, more) in sum.accepted.iter_mut().zip(more.accepted) {
        *sum += more;
    }
    for (ending, more) in &more.completed {
        *sum.completed.entry(*ending).or_default() += more;
    }
    sum.queued += more.queued;
    sum.delayed += more.delayed;
    sum.assigned += more.assigned;
    sum.running += more.running;
    sum.cancelling += more.cancelling;
    sum.oldest_age = sum.oldest_age.max(more.oldest_age);
    sum.unroutable += more.unroutable;
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53")]
fn seconds(at: Wall) -> f64 {
    at.0 as f64 / 1_000.0
}

fn unix(at: Option<SystemTime>) -> f64 {
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |since| since.as_secs_f64())
}

/// What a worker says of itself may be long; a label must not.
fn short(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(at, _)| text.get(..at).unwrap_or(text))
}

fn is_up(view: &WorkerView) -> bool {
    match view.state {
        WorkerState::Ready => true,
        WorkerState::Draining | WorkerState::Cordoned => view.connection.is_some(),
        WorkerState::Removed
        | WorkerState::Disconnected
        | WorkerState::Connecting
        | WorkerState::Ejected
        | WorkerState::Suspect => false,
    }
}

fn write_identity(page: &mut Page, lifecycle: &str) {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let build = [env!("CARGO_PKG_VERSION"), env!("ROLLCALL_REVISION"), env!("ROLLCALL_RUSTC"), profile];
    page.family(&c::BUILD_INFO);
    page.sample(&c::BUILD_INFO, &build, 1);
    page.family(&c::LIFECYCLE);
    for stage in c::LIFECYCLE.combinations().into_iter().flatten() {
        page.sample(&c::LIFECYCLE, &[stage], u8::from(stage == lifecycle));
    }
}

fn write_submissions(page: &mut Page, tasks: &BTreeMap<Capability, CapabilityStats>, names: &Names) {
    page.family(&c::TASK_SUBMISSIONS);
    // A way in that nobody has ever used would be a tenth of the page, all of it zeros.
    let used = |at: usize| {
        let callers = |name: &Capability| name.as_str() != PROBE;
        let mut accepted =
            tasks.iter().filter(|(name, _)| callers(name)).map(|(_, numbers)| numbers.accepted);
        let counted = names.capabilities.iter().filter(|(name, _)| callers(name));
        accepted.any(|accepted| accepted.get(at).is_some_and(|n| *n > 0))
            || counted
                .filter_map(|(_, series)| series.submissions.get(at))
                .any(|all| all.iter().any(|(_, counter)| counter.get() > 0))
    };
    let shown = Source::ALL.map(|source| source == Source::Rest || used(position(source)));
    for (name, numbers) in tasks {
        let counted = names.capabilities.get(name);
        let probes = name.as_str() == PROBE;
        for (at, source) in Source::ALL.into_iter().enumerate() {
            // Probes come in by one way.
            let is_shown = if probes { source == Source::Library } else { shown.get(at) == Some(&true) };
            if !is_shown {
                continue;
            }
            let accepted = numbers.accepted.get(at).copied().unwrap_or_default();
            page.sample(&c::TASK_SUBMISSIONS, &[name.as_str(), source.as_str(), "accepted"], accepted);
            let others = counted.and_then(|all| all.submissions.get(at));
            for (outcome, counter) in others.into_iter().flat_map(|all| all.iter()) {
                if outcome != "accepted" && !(probes && counter.get() == 0) {
                    page.sample(
                        &c::TASK_SUBMISSIONS,
                        &[name.as_str(), source.as_str(), outcome],
                        counter.get(),
                    );
                }
            }
        }
    }
}

/// A source's place in the counts.
fn position(source: Source) -> usize {
    Source::ALL.iter().position(|one| *one == source).unwrap_or(0)
}

fn write_tasks(page: &mut Page, tasks: &BTreeMap<Capability, CapabilityStats>) {
    page.family(&c::TASKS_COMPLETED);
    for (name, numbers) in tasks {
        let usual = if name.as_str() == PROBE { &ENDINGS[..1] } else { &ENDINGS[..] };
        let mut endings: BTreeMap<_, u64> = usual.iter().map(|ending| (*ending, 0)).collect();
        endings.extend(numbers.completed.iter().map(|(ending, number)| (*ending, *number)));
        for ((state, fault), number) in endings {
            page.sample(&c::TASKS_COMPLETED, &[name.as_str(), state.as_str(), fault.as_str()], number);
        }
    }
    page.family(&c::QUEUE_TASKS);
    for (name, numbers) in tasks {
        let states = [
            ("queued", numbers.queued),
            ("delayed", numbers.delayed),
            ("assigned", numbers.assigned),
            ("running", numbers.running),
            ("cancelling", numbers.cancelling),
        ];
        for (state, number) in states {
            page.sample(&c::QUEUE_TASKS, &[name.as_str(), state], number);
        }
    }
    page.family(&c::QUEUE_OLDEST_AGE);
    for (name, numbers) in tasks {
        page.sample(&c::QUEUE_OLDEST_AGE, &[name.as_str()], numbers.oldest_age.as_secs_f64());
    }
    page.family(&c::UNROUTABLE);
    for (name, numbers) in tasks {
        page.sample(&c::UNROUTABLE, &[name.as_str()], numbers.unroutable);
    }
}

/// Dead letters of a capability without series of its own are those of `other`.
fn write_dead_letters(
    page: &mut Page,
    counts: &BTreeMap<Capability, u64>,
    tasks: &BTreeMap<Capability, CapabilityStats>,
) {
    let mut shown: BTreeMap<&str, u64> =
        tasks.keys().map(|name| (name.as_str(), 0)).filter(|(name, _)| *name != PROBE).collect();
    for (name, number) in counts {
        let label = if tasks.contains_key(name) { name.as_str() } else { OTHER };
        *shown.entry(label).or_default() += number;
    }
    page.family(&c::DEAD_LETTERS);
    for (name, number) in shown {
        page.sample(&c::DEAD_LETTERS, &[name], number);
    }
}

fn write_queue(page: &mut Page, stats: &FleetStats) {
    page.single(&c::QUEUE_BYTES, stats.bytes);
    page.single(&c::QUEUE_CAPACITY_BYTES, stats.max_bytes);
    page.single(&c::QUEUE_CAPACITY_TASKS, stats.max_depth);
    page.single(&c::CONFIG_GENERATION, stats.generation);
}

/// What the snapshot says of one pool.
#[derive(Default)]
struct PoolNow {
    states: [usize; WorkerState::SHOWN.len()],
    used: u64,
    free: u64,
    unavailable: u64,
    oldest_age: f64,
}

impl PoolNow {
    fn add(&mut self, view: &WorkerView, now: f64) {
        if let Some(at) = WorkerState::SHOWN.iter().position(|state| *state == view.state) {
            self.states[at] += 1;
        }
        let used = u64::from(view.slots_used);
        let rest = u64::from(view.slots_total.saturating_sub(view.slots_used));
        let lost = u64::from(view.slots_unavailable).min(rest);
        self.used += used;
        // Slots of a worker that takes no tasks are not free, whatever it holds.
        let free = if view.state == WorkerState::Ready { rest - lost } else { 0 };
        self.free += free;
        self.unavailable += rest - free;
        if view.connection.is_some() {
            let age = view.last_heartbeat.or(view.connected_at).map_or(0.0, |at| now - seconds(at));
            self.oldest_age = self.oldest_age.max(age);
        }
    }
}

fn write_pools(page: &mut Page, names: &Names, workers: &[Arc<WorkerView>]) {
    let mut pools: BTreeMap<&str, PoolNow> =
        names.pools.keys().map(|pool| (&**pool, PoolNow::default())).collect();
    let now = unix_now();
    for view in workers {
        let Some(pool) = names.of_view(view) else { continue };
        pools.entry(&pool.name).or_default().add(view, now);
    }
    page.family(&c::WORKERS);
    for (pool, now) in &pools {
        for (state, number) in WorkerState::SHOWN.into_iter().zip(now.states) {
            page.sample(&c::WORKERS, &[pool, state.as_str()], number);
        }
    }
    page.family(&c::WORKER_SLOTS);
    for (pool, now) in &pools {
        for (state, number) in [("used", now.used), ("free", now.free), ("unavailable", now.unavailable)] {
            page.sample(&c::WORKER_SLOTS, &[pool, state], number);
        }
    }
    page.family(&c::HEARTBEAT_OLDEST);
    for (pool, now) in &pools {
        page.sample(&c::HEARTBEAT_OLDEST, &[pool], now.oldest_age);
    }
}

fn write_config(page: &mut Page, config: &ConfigFacts) {
    page.single(&c::CONFIG_SUCCESSFUL, u8::from(config.last_reload_successful));
    page.single(&c::CONFIG_SUCCESS_TIME, unix(config.last_success));
    page.single(&c::CONFIG_MODIFIED, unix(config.file_modified));
    page.family(&c::CONFIG_INFO);
    let durability = if config.relaxed { "relaxed" } else { "full" };
    page.sample(&c::CONFIG_INFO, &[&config.hash, durability], 1);
    page.family(&c::CONFIG_RELOADS);
    for labels in c::CONFIG_RELOADS.combinations() {
        let [trigger, outcome] = labels[..] else { continue };
        let tries = config.reloads.get(&(trigger, outcome)).copied().unwrap_or_default();
        page.sample(&c::CONFIG_RELOADS, &[trigger, outcome], tries);
    }
    page.histogram(&c::CONFIG_APPLY, &config.apply_counts, config.apply_sum);
}
