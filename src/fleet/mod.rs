//! The core: one state machine that makes every decision and does nothing itself. It is told what
//! happened and when, and answers with effects for the shell to carry out. No I/O, no clock, no
//! thread, no randomness but from its seed, no iteration in random order: so the same inputs
//! always make the same outputs, and whole fleets can be simulated.
#![deny(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::iter_over_hash_type,
    clippy::wildcard_enum_match_arm
)]

mod attempts;
pub mod autoscaler;
mod balancer;
pub mod bounds;
mod budget;
mod canary;
mod check;
mod ejection;
mod explain;
mod finished;
mod free;
mod gates;
mod health;
mod ids;
mod inputs;
mod intake;
mod leavers;
mod lifecycle;
mod limits;
mod links;
mod notes;
mod pace;
mod placement;
mod planted;
mod preference;
mod probe;
mod queue;
mod reconcile;
mod recovery;
mod registry;
pub mod replay;
mod sessions;
mod show;
mod slab;
mod steer;
mod stopping;
mod task;
#[cfg(test)]
mod tests;
mod time;
mod timers;
mod topology;
mod trace;
mod view;
mod watch;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub use autoscaler::{
    Decision, Direction, HookSpec, PoolChange, PoolRecord, PoolSpec, PoolView, PoolWord, ProviderKind,
    ProviderReport, Scaling, ScheduledMin, Wanted,
};
pub use canary::Canary;
pub use check::Violation;
pub use ids::*;
pub use intake::{KEY_LIFE, MAX_KEYS};
pub use notes::*;
#[cfg(all(feature = "planted-bugs", debug_assertions))]
pub use planted::{Planted, plant};
pub use probe::PROBE;
pub use task::*;
pub use time::*;
pub use topology::*;
pub use trace::{SpanOf, TraceContext, is_traceparent};
pub use view::*;
pub use words::*;

use autoscaler::Pools;
use balancer::LoadBalancer;
use budget::RetryBudgets;
use finished::Finished;
use gates::Gates;
use lifecycle::Task;
#[cfg(not(all(feature = "planted-bugs", debug_assertions)))]
use planted::Planted;
use planted::planted;
use registry::WorkerRegistry;
use sessions::Sessions;
pub use sessions::{SessionLease, SessionRecord};
use show::Tally;
use slab::{Slab, TaskIx};
use timers::{Timer, TimerKey, Timers};

/// Longer than this away from its inputs, and the core forgives every worker the gap: it was the
/// server that was silent.
const AWAY: Duration = Duration::from_secs(2);

/// The fleet: all that the server knows of tasks and workers. See the module.
#[derive(Debug)]
pub struct Fleet {
    now: Now,
    /// When it was last told anything.
    seen: Mono,
    term: Term,
    /// The last epoch issued.
    epoch: Epoch,
    rng: SmallRng,
    store: StoreId,
    topology: Arc<Topology>,
    settings: Arc<Settings>,
    tasks: Slab<TaskIx, Task>,
    by_id: BTreeMap<TaskId, TaskIx>,
    finished: Finished,
    keys: BTreeMap<(Tenant, u128), KeyRow>,
    keys_in_order: VecDeque<(Wall, Tenant, u128)>,
    registry: WorkerRegistry,
    balancer: LoadBalancer,
    pools: Pools,
    sessions: Sessions,
    /// Fairness keys that wait somewhere.
    waiting_keys: usize,
    /// The next ticket of the queue.
    ticket: u64,
    budgets: RetryBudgets,
    /// When the next task that waits for a retry budget is due.
    budgets_due: Option<TimerKey>,
    timers: Timers,
    gates: Gates,
    tally: Tally,
    /// Bytes of the inputs of tasks that are not final.
    bytes: u64,
    /// Tasks from before the start that still wait for their workers.
    recovering: usize,
    store_failed: bool,
    quiescing: bool,
    out: Vec<Effect>,
}

/// What an idempotency key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRow {
    /// The task that it was first sent with.
    pub task: TaskId,
    /// The body that was sent; see [`KeyHash`].
    pub body: u128,
}

impl Fleet {
    /// An empty fleet in the first term of an empty store. Its topology comes as [`Event::Desired`].
    pub fn new(term: Term, seed: u64, store: StoreId) -> Self {
        let settings = Arc::new(Settings::default());
        Self {
            now: Now::default(),
            seen: Mono(0),
            term,
            epoch: Epoch::first_of(if planted(Planted::EpochsReused) { Term(1) } else { term }),
            rng: SmallRng::seed_from_u64(seed),
            store,
            topology: Arc::new(Topology::default()),
            settings,
            tasks: Slab::default(),
            by_id: BTreeMap::new(),
            finished: Finished::default(),
            keys: BTreeMap::new(),
            keys_in_order: VecDeque::new(),
            registry: WorkerRegistry::default(),
            balancer: LoadBalancer::default(),
            pools: Pools::default(),
            sessions: Sessions::default(),
            waiting_keys: 0,
            ticket: 0,
            budgets: RetryBudgets::default(),
            budgets_due: None,
            timers: Timers::default(),
            gates: Gates::default(),
            tally: Tally::default(),
            bytes: 0,
            recovering: 0,
            store_failed: false,
            quiescing: false,
            out: Vec::new(),
        }
    }

    /// Takes one event and appends what is to be done to `effects`. Never fails, never waits.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        self.advance(now);
        std::mem::swap(&mut self.out, effects);
        match event {
            Event::Submit(submission) => self.submit(*submission),
            Event::Promote(task, request) => self.promote(task, request),
            Event::Abandoned(task) => self.abandoned(task),
            Event::Cancel(task, request) => self.cancel(task, request),
            Event::Operator(word, by, request) => self.operator(word, by, request),
            Event::Pool(word, by, request) => self.pool_word(&word, by, request),
            Event::Provided(pool, call, report) => self.provided(&pool, call, report),
            Event::Desired(topology) => self.desired(topology),
            Event::LinkUp(conn, registration) => self.link_up(conn, *registration),
            Event::DialFailed(worker, outcome, detail) => self.dial_failed(&worker, outcome, detail),
            Event::Report(conn, report) => self.report(conn, report),
            Event::LinkDown(conn, why) => self.link_down(conn, why),
            Event::ProcessGone(worker) => self.process_gone(&worker),
            Event::Durable { up_to, taken } => self.durable(up_to, &taken),
            Event::StoreFailed(failed) => self.store_failed = failed,
            Event::Quiesce => self.quiesce(),
            Event::Farewell => self.farewell(),
            Event::EndSession(tenant, session, request) => self.end_session(&tenant, &session, request),
            Event::Fetched(task, input) => self.fetched(task, input),
            Event::Wake => self.wake(),
        }
        self.settle_sessions();
        self.mind_pools();
        std::mem::swap(&mut self.out, effects);
    }

    /// When [`Event::Wake`] is due next.
    pub fn next_wake(&self) -> Option<Mono> {
        self.timers.first()
    }

    /// Time never runs backwards here, and a gap in which the core was told nothing although a timer
    /// was due is the server's own silence: it counts against nobody's liveness or lease.
    fn advance(&mut self, now: Now) {
        let mono = now.mono.max(self.now.mono);
        self.now = Now { mono, wall: now.wall };
        if let Some(due) = self.timers.first() {
            let away = mono.since(self.seen.max(due));
            if away > AWAY && !planted(Planted::PauseNotForgiven) {
                self.forgive(away);
            }
        }
        self.seen = mono;
    }

    /// Carries out every timer that is due.
    fn wake(&mut self) {
        while let Some((_, timer)) = self.timers.pop(self.now.mono) {
            match timer {
                Timer::QueueTimeout(task) => self.queue_timeout(task),
                Timer::NotBefore(task) => self.not_before(task),
                Timer::Fallback(task) => self.fall_back(task),
                Timer::Deadline(task) => self.deadline(task),
                Timer::Limit(task) => self.limit(task),
                Timer::Recovery(task) => self.recovery_over(task),
                Timer::RetryBudget => self.feed_retries(),
                Timer::Pools => self.look_at_pools(),
                Timer::Session(session) => self.session_timer(session),
                Timer::Worker(worker, what) => self.worker_timer(worker, what),
            }
        }
    }

    fn effect(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    fn note(&mut self, note: Note) {
        self.pools.heard(&note);
        self.out.push(Effect::Note(note));
    }

    /// A draw from 0 to 999.
    fn draw(&mut self) -> u32 {
        self.rng.random_range(0..1000)
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epoch.0 += 1;
        self.epoch
    }
}
