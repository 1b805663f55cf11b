//! The simulated shell around the core: tells it what happens and when, carries out what it asks
//! for, sleeps until its next wake, and dies and recovers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::replay::{Recovered, Start};
use rollcall::fleet::*;

use super::world::{Happening, World, nanos};

/// Wakes at one instant after which the core counts as turning in circles.
const WAKES_AT_ONCE: u32 = 200;

/// What [`World::count`] counts here.
pub(crate) const CRASHED: &str = "the server dies";
/// See [`CRASHED`].
pub(crate) const CRASHED_WITHIN: &str = "the server dies between two effects of a step";
/// See [`CRASHED`].
pub(crate) const RETRY_HELD: &str = "a retry waits for its budget";
/// See [`CRASHED`].
pub(crate) const PAUSED: &str = "the server's loop is away for longer than two seconds";

/// The server's process.
pub(crate) struct Server {
    pub(crate) fleet: Option<Fleet>,
    /// Which of its processes this is; also numbers the openings of the store.
    pub(crate) life: u32,
    seed: u64,
    /// When this process began, in the world's time.
    born: u64,
    /// The loop is away until then.
    away_until: u64,
    inbox: VecDeque<Event>,
    /// The topology that the core was last told.
    pub(crate) told: Arc<Topology>,
    /// The newest timer.
    timer: u64,
    timer_at: Option<u64>,
    /// When the core was woken last, and how often at that instant.
    woken: (u64, u32),
    /// When the newest `Durable` will have been told.
    durable_told: u64,
    pub(crate) stopping: bool,
    /// It dies in the next step that has more than one effect, between two of them.
    pub(crate) dies_within: bool,
    /// Faults ended while it was down.
    pub(crate) heal_on_boot: bool,
    /// Dials under way, with their numbers.
    pub(crate) dialling: BTreeMap<WorkerName, u64>,
    pub(crate) next_dial: u64,
    effects: Vec<Effect>,
}

impl Server {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            fleet: None,
            life: 0,
            seed,
            born: 0,
            away_until: 0,
            inbox: VecDeque::new(),
            told: Arc::default(),
            timer: 0,
            timer_at: None,
            woken: (0, 0),
            durable_told: 0,
            stopping: false,
            dies_within: false,
            heal_on_boot: false,
            dialling: BTreeMap::new(),
            next_dial: 1,
            effects: Vec::new(),
        }
    }

    /// Until when the loop is away.
    pub(crate) fn away_until(&self) -> u64 {
        self.away_until
    }

    /// The loop is back early.
    pub(crate) fn comes_back(&mut self) {
        self.away_until = 0;
    }

    /// The time as this process sees it.
    pub(crate) fn now(&self, time: u64, wall_offset: i64) -> Now {
        let wall = wall_offset.saturating_add(i64::try_from(time / 1_000_000).unwrap_or(i64::MAX));
        Now { mono: Mono(time - self.born), wall: Wall(wall) }
    }
}

impl World {
    /// The server starts: from nothing the first time, from what is on disk later.
    pub(crate) fn boot(&mut self) {
        if self.server.fleet.is_some() {
            return;
        }
        self.server.life += 1;
        self.server.born = self.time;
        self.server.stopping = false;
        self.server.dies_within = false;
        self.server.away_until = 0;
        self.server.timer_at = None;
        self.server.woken = (u64::MAX, 0);
        self.pools.entries.clear();
        let now = self.server.now(self.time, self.wall_offset);
        let records = self.disk.open(&mut self.dice);
        let first = self.server.life == 1;
        let start = Start {
            term: Term(self.server.life),
            seed: self.server.seed.wrapping_add(u64::from(self.server.life)),
            store: "store-1".into(),
            recovered: (!first).then_some(Recovered { now, records }),
        };
        self.observer.boots(now, &start);
        self.promises.boots(&start);
        self.server.fleet = Some(start.begin());
        self.recorder.begins(start);
        if self.server.life.is_multiple_of(3) && !self.calm {
            self.forget_a_worker();
        }
        self.tell(Event::Desired(Arc::clone(&self.topology)));
        if std::mem::take(&mut self.server.heal_on_boot) {
            self.uncordon_all();
        }
        if first {
            return;
        }
        // What the dead server had launched is gone with it; the shell says so once it has looked.
        for worker in self.disk.launched() {
            let wait = self.dice.span(Duration::from_millis(1), Duration::from_secs(3));
            self.soon(Happening::Hear(self.server.life, Event::ProcessGone(worker)), wait);
        }
    }

    /// The server's process ends at once; connections break, launched workers end.
    pub(crate) fn server_dies(&mut self) {
        if self.server.fleet.take().is_none() {
            return;
        }
        self.observer.dies(&self.disk.tasks);
        self.promises.dies(&self.disk.tasks);
        self.server.inbox.clear();
        self.server.dialling.clear();
        self.links_lose_server();
        self.callers.server_gone();
        for site in 0..self.sites.len() {
            if self.sites[site].plan.launched {
                self.sites[site].wanted = None;
                self.kill(site);
            }
        }
    }

    /// SIGKILL, or power loss.
    pub(crate) fn server_crashes(&mut self) {
        if self.server.fleet.is_none() {
            return;
        }
        let reached = self.dice.below(self.disk.backlog() + 1);
        if self.disk.backlog() > reached {
            self.count(super::disk::LOST);
        }
        self.disk.crash(reached);
        self.disk.failed = false;
        self.server_dies();
        self.count(CRASHED);
        let wait = self.dice.span(Duration::from_millis(50), Duration::from_secs(60));
        self.soon(Happening::Boot, wait);
    }

    /// SIGTERM: no new work, launched workers drain, then all are sent away.
    pub(crate) fn server_stops(&mut self) {
        if self.server.fleet.is_none() || self.server.stopping {
            return;
        }
        self.server.stopping = true;
        self.tell(Event::Quiesce);
        let wait = self.dice.span(Duration::from_millis(10), Duration::from_secs(30));
        self.soon(Happening::Farewell(self.server.life), wait);
    }

    /// The drain time of a stopping server is over.
    pub(crate) fn farewell(&mut self, life: u32) {
        if life == self.server.life && self.server.fleet.is_some() {
            self.tell(Event::Farewell);
            self.soon(Happening::Stop(life), Duration::from_millis(200));
        }
    }

    /// A stopping server ends, with everything written.
    pub(crate) fn stop(&mut self, life: u32) {
        if life != self.server.life || self.server.fleet.is_none() {
            return;
        }
        if self.disk.failed {
            self.server_crashes();
            return;
        }
        self.disk.flush();
        self.server_dies();
        let wait = self.dice.span(Duration::from_millis(50), Duration::from_secs(5));
        self.soon(Happening::Boot, wait);
    }

    /// The loop is away for a while; what arrives meanwhile waits for it.
    pub(crate) fn server_stalls(&mut self, long: bool) {
        let lease = self.topology.settings.lease;
        let wait = self.dice.span(if long { lease } else { Duration::from_millis(100) }, lease * 2);
        self.server.away_until = self.time + nanos(wait);
        if wait > Duration::from_secs(2) {
            self.count(PAUSED);
        }
        self.at(self.server.away_until, Happening::Resume(self.server.life));
    }

    /// The loop is back: first what arrived, then the timers.
    pub(crate) fn resume(&mut self, life: u32) {
        if life != self.server.life || self.time < self.server.away_until {
            return;
        }
        let inbox = std::mem::take(&mut self.server.inbox);
        for event in inbox {
            self.tell(event);
        }
    }

    /// Something reaches the server by another way than a connection.
    pub(crate) fn hear(&mut self, life: u32, event: Event) {
        if life == self.server.life {
            self.tell(event);
        }
    }

    /// Something reaches the server after a while, never before what was sent like this earlier.
    pub(crate) fn hear_in_order(&mut self, event: Event, wait: Duration) {
        self.server.durable_told = self.server.durable_told.max(self.time + nanos(wait));
        let life = self.server.life;
        self.at(self.server.durable_told, Happening::Hear(life, event));
    }

    /// The server's timer rings, unless another was set since.
    pub(crate) fn wake(&mut self, token: u64) {
        if token != self.server.timer || self.server.fleet.is_none() {
            return;
        }
        self.server.timer_at = None;
        if self.server.away_until > self.time {
            // The loop is away; it looks at its timers when it is back.
            let back = self.server.away_until;
            self.set_timer(back);
            return;
        }
        let (at, count) = self.server.woken;
        self.server.woken = if at == self.time { (at, count + 1) } else { (self.time, 1) };
        assert!(
            self.server.woken.1 <= WAKES_AT_ONCE,
            "the core turns in circles: woken {WAKES_AT_ONCE} times at one instant"
        );
        self.tell(Event::Wake);
    }

    fn set_timer(&mut self, at: u64) {
        if self.server.timer_at == Some(at) {
            return;
        }
        self.server.timer += 1;
        self.server.timer_at = Some(at);
        let token = self.server.timer;
        self.at(at, Happening::Wake(token));
    }

    /// Tells the core something and does what it asks for.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.server.fleet.is_none() {
            return;
        }
        if self.server.away_until > self.time {
            self.server.inbox.push_back(event);
            return;
        }
        let now = self.server.now(self.time, self.wall_offset);
        let reported = self.before_reconnect(&event);
        let process_gone = matches!(event, Event::ProcessGone(_));
        let mut effects = std::mem::take(&mut self.server.effects);
        self.recorder.told(now, &event);
        // The checkers know no pools: to them an instance is a worker like any other, from the step on
        // in which the core has it.
        if let Event::Desired(topology) = &event {
            self.server.told = Arc::clone(topology);
            let whole = Event::Desired(self.with_instances(topology));
            must(self.observer.told(now, &whole));
            self.promises.told(&whole);
        } else {
            must(self.observer.told(now, &event));
            self.promises.told(&event);
        }
        self.tell_of(now, "->", &event);
        let Some(fleet) = self.server.fleet.as_mut() else { return };
        fleet.handle(now, event, &mut effects);
        let next = fleet.next_wake();
        self.steps += 1;
        if self.instances_changed() {
            let whole = Event::Desired(self.with_instances(&self.server.told));
            must(self.observer.told(now, &whole));
            self.promises.told(&whole);
        }
        if let Some(reported) = reported {
            must(self.after_reconnect(&reported, &effects));
        } else if process_gone {
            self.after_process_gone(&effects);
        }
        let dies = self.server.dies_within && effects.len() > 1;
        if dies {
            // The rest of the step is never done, so nobody ever sees it.
            let done = self.dice.below(effects.len());
            effects.truncate(done);
        }
        for effect in &effects {
            if let Effect::Note(Note::RetryHeld { .. }) = effect {
                self.count(RETRY_HELD);
            }
            self.tell_of(now, "  <-", effect);
            self.saw_pools(effect);
            must(self.observer.saw(now, effect));
            must(self.promises.saw(effect));
        }
        self.observer.step_over(next);
        if !dies && self.steps.is_multiple_of(if self.steps < 512 { 1 } else { 97 }) {
            self.check_whole();
        }
        if let Some(next) = next {
            // The real loop is woken by a timer of milliseconds, so it is mostly a little late.
            let late = if self.dice.chance(500) { self.dice.between(0, 1_100_000) } else { 0 };
            let at = self.server.born.saturating_add(next.0).max(self.time).saturating_add(late);
            if next.0 != u64::MAX && self.server.timer_at.is_none_or(|set| set > at || set <= self.time) {
                self.set_timer(at);
            }
        }
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.server.effects = effects;
        if dies {
            self.count(CRASHED_WITHIN);
            self.server_crashes();
        }
    }

    /// Prints what the core hears and says, where that has one of the words that are looked for.
    fn tell_of(&self, now: Now, arrow: &str, what: &dyn std::fmt::Debug) {
        if self.trace.is_empty() {
            return;
        }
        let line = format!("{:?} {arrow} {what:?}", Duration::from_nanos(now.mono.0));
        if self.trace.iter().any(|word| line.contains(word.as_str())) {
            eprintln!("{line}");
        }
    }

    /// The checks that look at everything.
    pub(crate) fn check_whole(&mut self) {
        let now = self.server.now(self.time, self.wall_offset);
        if let Some(fleet) = &self.server.fleet {
            must(fleet.check().map_err(|violation| format!("{violation:?}")));
            must(self.observer.conserved(&fleet.stats(now)));
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Order(conn, order) => self.send_down(conn, order),
            Effect::Close(conn, why) => self.close(conn, why),
            Effect::Dial(worker) => self.dial(worker),
            Effect::HangUp(worker) => self.hang_up(&worker),
            Effect::Launch(worker) => self.launch(&worker),
            Effect::Halt(worker) => self.halt(&worker),
            Effect::Provision(pool, wanted) => self.provision(&pool, &wanted),
            Effect::Record(seq, record) => self.write(seq, record),
            Effect::Fetch(_, task) => self.read_input(task),
            Effect::Answer(request, answer) => self.answered(request, &answer),
            Effect::Finish(task, record) => self.finished(task, &record),
            Effect::Publish(..) | Effect::Gate(..) | Effect::Note(_) => {}
        }
    }
}

/// A broken promise ends the run; the seed tells how to see it again.
fn must(verdict: Result<(), String>) {
    if let Err(problem) = verdict {
        panic!("{problem}");
    }
}
