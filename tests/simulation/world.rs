//! The simulated world: a queue of happenings in virtual time, and everything that they happen to.
//! One seed decides all of it. What the parts do is told in their own files.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::callers::Callers;
use super::dice::Dice;
use super::disk::Disk;
use super::links::{Frame, Link};
use super::observer::Observer;
use super::plan::Plan;
use super::pools::Pools;
use super::promises::Promises;
use super::recorder::Recorder;
use super::runs::SEEDS;
use super::server::Server;
use super::workers::Site;

/// Every so many seeds one in which most attempts fail.
const STORMS: u64 = 17;

/// Every so many seeds one with inputs that are too large to stay in memory.
const LARGE: u64 = 4;

/// The last seeds of a normal test run are for what comes up too seldom in the others: from here on one
/// worker alone ...
const LONELY: u64 = 140;

/// ... and from here on some among impostors.
const IMPOSTORS: u64 = 145;

/// One attempt, as both sides name it.
pub(crate) type Key = (TaskId, Epoch);

/// Which process at which site: what was meant for an earlier one does not reach a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    /// The site's index.
    pub(crate) site: usize,
    /// The process there.
    pub(crate) incarnation: u32,
}

/// What can happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The server's timer, unless another was set since.
    Wake(u64),
    /// The server's loop is back.
    Resume(u32),
    /// Something reaches the server of one life by another way than a connection.
    Hear(u32, Event),
    /// A frame arrives at the server.
    Up(ConnId, Frame),
    /// An order arrives at the worker.
    Down(ConnId, Box<Order>),
    /// The server's side of a connection ends.
    ServerEnds(ConnId, Why),
    /// The worker's side of a connection ends.
    WorkerEnds(ConnId),
    /// A dial has come to its end; the number says which.
    Dialled(WorkerName, u64),
    /// A dial has failed.
    DialFails(WorkerName, u64, ConnectOutcome),
    /// The time for a registration is over.
    HandshakeOver(ConnId),
    /// A worker tries to dial in.
    DialIn(Process),
    /// A worker shows that it lives.
    Pulse(Process, ConnId, u32),
    /// A worker begins an attempt.
    Begin(Process, Key),
    /// A worker ends an attempt.
    End(Process, Key),
    /// A cancelled attempt has stopped.
    Stopped(Process, Key),
    /// A worker's process dies.
    Die(Process),
    /// A site's next process starts.
    Start(usize, u32),
    /// A worker that said goodbye leaves.
    Leave(Process),
    /// The disk has what it was writing.
    Commit(u32),
    /// The next submission.
    Load,
    /// The next fault.
    Fault,
    /// A waiting caller's patience ends.
    Patience(u32, TaskId),
    /// The journal takes writes again.
    StoreMends(u32),
    /// The drain time of a stopping server is over.
    Farewell(u32),
    /// A stopping server ends.
    Stop(u32),
    /// The server starts.
    Boot,
}

struct Entry {
    at: u64,
    order: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    /// Nanoseconds since the world began.
    pub(crate) time: u64,
    /// How far the wall clock is from the world's time, in milliseconds.
    pub(crate) wall_offset: i64,
    order: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    pub(crate) server: Server,
    pub(crate) disk: Disk,
    pub(crate) sites: Vec<Site>,
    pub(crate) links: BTreeMap<ConnId, Link>,
    pub(crate) next_conn: u64,
    pub(crate) callers: Callers,
    pub(crate) pools: Pools,
    /// The topology that is wanted now.
    pub(crate) topology: Arc<Topology>,
    /// Addresses that answer nobody, and until when.
    pub(crate) unreachable: BTreeMap<Arc<str>, u64>,
    /// Tasks that kill whoever runs them.
    pub(crate) poison: BTreeSet<TaskId>,
    pub(crate) observer: Observer,
    pub(crate) promises: Promises,
    pub(crate) recorder: Recorder,
    /// Events that the core has handled.
    pub(crate) steps: u64,
    /// Words of steps that are to be printed.
    pub(crate) trace: Vec<String>,
    /// Whether faults and load are over.
    pub(crate) calm: bool,
    /// What has happened how often, of what must happen for a run to prove anything.
    pub(crate) met: BTreeMap<&'static str, u64>,
}

impl World {
    /// A world from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut plan = Plan::of(&mut dice);
        if seed.is_multiple_of(STORMS) {
            plan.make_it_a_storm();
        }
        if seed % LARGE == 2 {
            plan.large = if seed % (LARGE * 2) == 2 { 600 } else { 100 };
        }
        let mut pools = Pools::new(seed);
        plan.topology.pools = pools.of(seed);
        match seed % SEEDS {
            ..LONELY => {}
            LONELY..IMPOSTORS => plan.make_it_lonely(),
            IMPOSTORS.. => plan.let_impostors_in(),
        }
        let sites = plan.sites.iter().map(|site| Site::new(site.clone())).collect();
        let mut world = Self {
            topology: Arc::new(plan.topology.clone()),
            server: Server::new(dice.word()),
            plan,
            dice,
            time: 0,
            wall_offset: 1_700_000_000_000,
            order: 0,
            queue: BinaryHeap::new(),
            disk: Disk::default(),
            sites,
            links: BTreeMap::new(),
            next_conn: 1,
            callers: Callers::default(),
            pools,
            unreachable: BTreeMap::new(),
            poison: BTreeSet::new(),
            observer: Observer::default(),
            promises: Promises::default(),
            recorder: Recorder::default(),
            steps: 0,
            trace: Vec::new(),
            calm: false,
            met: BTreeMap::new(),
        };
        world.soon(Happening::Boot, Duration::ZERO);
        world.soon(Happening::Load, Duration::from_millis(1));
        if let Some(every) = world.plan.fault_every {
            world.soon(Happening::Fault, every);
        }
        for site in 0..world.sites.len() {
            if !world.sites[site].plan.launched {
                let wait = world.dice.span(Duration::from_millis(1), Duration::from_secs(2));
                world.soon(Happening::Start(site, 0), wait);
            }
        }
        world
    }

    /// Runs until the core has handled so many events, then heals the world and sees everything end.
    pub(crate) fn run(&mut self, steps: u64) {
        while self.steps < steps {
            self.advance();
        }
        self.heal();
        let patience = self.patience();
        let end = self.time + nanos(patience);
        let mut looks = 0u64;
        while self.time < end {
            self.advance();
            looks += 1;
            if looks.is_multiple_of(64) && self.observer.is_settled() && self.disk.is_idle() {
                break;
            }
        }
        self.check_whole();
        let verdict =
            self.observer.settled(self.server.fleet.as_ref()).and_then(|()| self.promises.settled());
        if let Err(problem) = verdict {
            panic!("{problem} (after {patience:?} without faults)");
        }
    }

    /// How long everything may take to end once nothing goes wrong any more: every wait that the
    /// settings allow, one after another, for every attempt.
    fn patience(&self) -> Duration {
        let settings = &self.topology.settings;
        let attempt = Duration::from_secs(91) + self.plan.longest_task + settings.cancel_grace;
        let waits = settings.lease * 3 + settings.max_ejection + settings.retry_max + settings.max_backoff;
        (attempt + waits) * 12 + self.plan.longest_task * self.callers.depth()
    }

    /// The next happening.
    pub(crate) fn advance(&mut self) {
        let Some(Reverse(entry)) = self.queue.pop() else {
            panic!("the world stands still: nothing will ever happen again");
        };
        self.time = entry.at;
        self.happen(entry.happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(token) => self.wake(token),
            Happening::Resume(life) => self.resume(life),
            Happening::Hear(life, event) => self.hear(life, event),
            Happening::Up(conn, frame) => self.arrives_up(conn, frame),
            Happening::Down(conn, order) => self.arrives_down(conn, order),
            Happening::ServerEnds(conn, why) => self.server_ends(conn, why),
            Happening::WorkerEnds(conn) => self.worker_ends(conn),
            Happening::Dialled(worker, number) => self.dialled(&worker, number),
            Happening::DialFails(worker, number, outcome) => self.dial_failed(worker, number, outcome),
            Happening::HandshakeOver(conn) => self.handshake_over(conn),
            Happening::DialIn(process) => self.dial_in(process),
            Happening::Pulse(process, conn, beat) => self.pulse(process, conn, beat),
            Happening::Begin(process, key) => self.begin(process, key),
            Happening::End(process, key) => self.end(process, key),
            Happening::Stopped(process, key) => self.stopped(process, key),
            Happening::Die(process) => self.die(process),
            Happening::Start(site, after) => self.start(site, after),
            Happening::Leave(process) => self.leave(process),
            Happening::Commit(life) => self.commit(life),
            Happening::Load => self.load(),
            Happening::Fault => self.fault(),
            Happening::Patience(life, task) => self.patience_ends(life, task),
            Happening::StoreMends(life) => self.store_mends(life),
            Happening::Farewell(life) => self.farewell(life),
            Happening::Stop(life) => self.stop(life),
            Happening::Boot => self.boot(),
        }
    }

    /// Something happened that must happen now and then.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// How old the world is.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_nanos(self.time)
    }

    /// Lets something happen after a while.
    pub(crate) fn soon(&mut self, happening: Happening, wait: Duration) {
        self.at(self.time.saturating_add(nanos(wait)), happening);
    }

    /// Lets something happen at a time.
    pub(crate) fn at(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.time), order: self.order, happening }));
    }
}

/// A span as the world counts.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
