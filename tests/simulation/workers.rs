//! The simulated worker programs: they run attempts, keep results until these are acknowledged,
//! reconnect, and misbehave in the ways that their site's plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::links::Frame;
use super::plan::SitePlan;
use super::world::{Happening, Key, Process, World};

/// A place where a worker program runs, or not.
pub(crate) struct Site {
    pub(crate) plan: SitePlan,
    /// A process runs here.
    pub(crate) up: bool,
    pub(super) incarnation: u32,
    /// The process does nothing until then.
    pub(crate) frozen_until: u64,
    /// Whatever it does fails until then.
    pub(crate) sick_until: u64,
    /// Its connection.
    pub(crate) link: Option<ConnId>,
    /// Attempts that it runs, or whose results are not acknowledged.
    pub(crate) held: BTreeMap<Key, Held>,
    /// The store that it last served.
    pub(super) store: Option<StoreId>,
    /// The slots that it was told of.
    slots: u32,
    /// It takes nothing new.
    pub(super) leaving: bool,
    /// The worker that the server launched it for.
    pub(crate) wanted: Option<WorkerName>,
    /// The server wants it stopped.
    pub(super) halting: bool,
    /// It has claimed another's name.
    pub(crate) impostor: bool,
    /// The sessions that it has.
    pub(crate) sessions: BTreeSet<SessionName>,
    /// When it may dial in again, as it was told.
    pub(super) retry_after: Option<Duration>,
}

/// An attempt at a worker.
pub(crate) struct Held {
    spec: Arc<TaskSpec>,
    limit: Duration,
    canary: bool,
    cancelled: bool,
    done: Option<Box<ResultReport>>,
}

impl Site {
    pub(crate) fn new(plan: SitePlan) -> Self {
        Self {
            plan,
            up: false,
            incarnation: 0,
            frozen_until: 0,
            sick_until: 0,
            link: None,
            held: BTreeMap::new(),
            store: None,
            slots: 0,
            leaving: false,
            impostor: false,
            wanted: None,
            halting: false,
            sessions: BTreeSet::new(),
            retry_after: None,
        }
    }

    /// The random name of the process that runs here.
    fn instance(&self) -> Instance {
        format!("{}#{}", self.plan.name, self.incarnation).into()
    }

    /// The process that runs here, as others name it.
    pub(crate) fn process(&self, site: usize) -> Process {
        Process { site, incarnation: self.incarnation }
    }

    /// Whether that process still runs.
    pub(crate) fn runs(&self, process: Process) -> bool {
        self.up && self.incarnation == process.incarnation
    }
}

impl World {
    /// What a process says of itself.
    pub(crate) fn registration(&mut self, site: usize, claims: WorkerName, dialled: bool) -> Registration {
        let this = &self.sites[site];
        let attempts = this.held.iter().map(|(key, held)| HeldAttempt {
            task: key.0,
            epoch: key.1,
            done: held.done.is_some(),
        });
        Registration {
            worker: claims,
            dialled,
            instance: this.instance(),
            kind: if this.plan.has_canary { "mock" } else { "simulated" }.into(),
            version: "1".into(),
            slots: this.plan.slots,
            labels: this.plan.labels.clone(),
            isolation: None,
            metrics: None,
            capabilities: this.plan.offers.clone(),
            attempts: attempts.collect(),
            sessions: this.plan.tells_sessions.then(|| this.sessions.iter().cloned().collect()),
            features: vec!["sessions".into()],
            store: this.store.clone(),
        }
    }

    /// A process does what the server says.
    pub(crate) fn obey(&mut self, process: Process, conn: ConnId, order: Order) {
        match order {
            Order::Registered(welcome) => self.welcomed(process, conn, *welcome),
            Order::Refused { .. } => {}
            Order::Execute(assignment) => self.execute(process, conn, *assignment),
            Order::Cancel { task, epoch, .. } => self.cancel_attempt(process, (task, epoch)),
            Order::Ack { task, epoch, .. } => {
                let done = |held: &Held| held.done.is_some();
                let site = &mut self.sites[process.site];
                if site.held.get(&(task, epoch)).is_some_and(done) {
                    site.held.remove(&(task, epoch));
                }
            }
            Order::Drain { .. } => {}
            Order::EndSession { session } => {
                self.sites[process.site].sessions.remove(&session);
            }
            Order::Goodbye { retry_after, .. } => self.sites[process.site].retry_after = retry_after,
        }
    }

    /// The answer to a registration: what goes on, what is sent again, what is dropped.
    fn welcomed(&mut self, process: Process, conn: ConnId, welcome: Welcome) {
        let interval = welcome.heartbeat_interval;
        if let Some(link) = self.links.get_mut(&conn) {
            link.welcomed = true;
        }
        let site = &mut self.sites[process.site];
        site.store = Some(welcome.store);
        site.slots = welcome.slots;
        for key in &welcome.drop {
            // What ignores cancels goes on in secret; it still must never count.
            let stubborn =
                site.plan.ignores_cancels && site.held.get(key).is_some_and(|held| held.done.is_none());
            if !stubborn {
                site.held.remove(key);
            }
        }
        let done: Vec<Key> =
            site.held.iter().filter(|(_, held)| held.done.is_some()).map(|(key, _)| *key).collect();
        for key in done {
            self.send_result(process, conn, key);
        }
        self.soon(Happening::Pulse(process, conn, 1), interval / 4);
    }

    /// Every quarter interval a worker sends something; every fourth time its heartbeat.
    pub(crate) fn pulse(&mut self, process: Process, conn: ConnId, beat: u32) {
        let site = &self.sites[process.site];
        if !site.runs(process) || site.link != Some(conn) {
            return;
        }
        if site.frozen_until > self.time {
            let at = site.frozen_until;
            self.at(at, Happening::Pulse(process, conn, beat));
            return;
        }
        let settings = &self.topology.settings;
        let (interval, timeout) = (settings.heartbeat_interval, settings.heartbeat_timeout);
        let Some(link) = self.links.get_mut(&conn) else { return };
        // The server's own heartbeats are not orders; here they are what a silent direction lacks.
        let silent = link.down.dead || !link.server_open || link.down.held_until > self.time;
        link.silent_since = if silent { link.silent_since.or(Some(self.time)) } else { None };
        if link.silent_since.is_some_and(|since| self.time - since > super::world::nanos(timeout)) {
            self.drop_worker_side(conn);
            return;
        }
        let report = if beat.is_multiple_of(4) {
            let running = site.held.iter().filter(|(_, held)| held.done.is_none()).map(|(key, _)| *key);
            Report::Heartbeat { running: running.collect() }
        } else {
            Report::Alive
        };
        self.send_up(conn, Frame::Report(report));
        self.soon(Happening::Pulse(process, conn, beat.wrapping_add(1)), interval / 4);
    }

    fn execute(&mut self, process: Process, conn: ConnId, assignment: Assignment) {
        let Assignment { task, epoch, spec, limit, canary, .. } = assignment.clone();
        let key = (task, epoch);
        // A canary is short; a few are not.
        let short = canary && !self.dice.chance(30);
        let longest =
            self.plan.longest_task.min(if short { Duration::from_millis(50) } else { Duration::MAX });
        let refuses = self.sites[process.site].leaving || self.dice.chance(15);
        let site = &mut self.sites[process.site];
        if site.held.contains_key(&key) {
            return;
        }
        if refuses {
            let retryable = site.leaving || self.dice.chance(700);
            let reason = Arc::from("simulated");
            self.send_up(conn, Frame::Report(Report::Rejected { task, epoch, reason, retryable }));
            return;
        }
        let missing = match (&spec.session, assignment.session) {
            (Some(name), Some(lease)) if lease.new => {
                site.sessions.insert(name.clone());
                false
            }
            (Some(name), Some(_)) => !site.sessions.contains(name),
            (Some(_), None) | (None, _) => false,
        };
        let held = Held { spec, limit, canary, cancelled: false, done: None };
        site.held.insert(key, held);
        if missing {
            // Its state is gone: that is all there is to say.
            self.soon(Happening::End(process, key), Duration::from_micros(10));
            return;
        }
        let (poison, slots) = (self.poison.contains(&task), site.slots);
        let running = site.held.iter().filter(|(_, held)| held.done.is_none()).map(|(key, _)| *key);
        self.observer.worker_runs(&site.plan, &site.instance(), &running.collect::<Vec<_>>(), slots);
        if poison {
            let wait = self.dice.span(Duration::from_micros(10), Duration::from_secs(1));
            self.soon(Happening::Die(process), wait);
        }
        let begins = self.dice.span(Duration::from_micros(10), Duration::from_millis(20));
        self.soon(Happening::Begin(process, key), begins);
        let wait = begins + self.dice.span(Duration::from_micros(10), longest);
        let site = &self.sites[process.site];
        let ends = if site.plan.ignores_limits { wait } else { wait.min(limit) };
        // One in a hundred never ends by itself.
        if !self.dice.chance(10) {
            self.soon(Happening::End(process, key), ends);
        } else if !site.plan.ignores_limits {
            self.soon(Happening::End(process, key), limit);
        }
    }

    /// A worker begins an attempt, and says so.
    pub(crate) fn begin(&mut self, process: Process, key: Key) {
        if self.later_if_frozen(process, Happening::Begin(process, key)) {
            return;
        }
        let site = &self.sites[process.site];
        if site.held.get(&key).is_none_or(|held| held.done.is_some()) {
            return;
        }
        if let Some(conn) = self.open_link(process.site) {
            self.send_up(conn, Frame::Report(Report::Accepted { task: key.0, epoch: key.1 }));
        }
    }

    /// A worker ends an attempt.
    pub(crate) fn end(&mut self, process: Process, key: Key) {
        if self.later_if_frozen(process, Happening::End(process, key)) {
            return;
        }
        let late = self.dice.chance(100);
        let Some(held) = self.sites[process.site].held.get(&key) else { return };
        let held_canary = held.canary;
        let over = held.limit < self.plan.longest_task && late;
        let storm = self.plan.failing > 0 && self.dice.chance(self.plan.failing);
        let sick = self.sites[process.site].sick_until > self.time;
        let well = held_canary && !sick && (self.calm || self.dice.chance(900));
        let status = match self.dice.below(100) {
            _ if sick => AttemptOutcome::Failed,
            _ if well => AttemptOutcome::Succeeded,
            _ if storm => AttemptOutcome::Failed,
            _ if over => AttemptOutcome::TimedOut,
            0..=79 => AttemptOutcome::Succeeded,
            80..=96 => AttemptOutcome::Failed,
            _ => AttemptOutcome::TimedOut,
        };
        self.done(process, key, status);
    }

    /// A worker has been told to stop an attempt.
    fn cancel_attempt(&mut self, process: Process, key: Key) {
        let site = &mut self.sites[process.site];
        let stubborn = site.plan.ignores_cancels;
        let Some(held) = site.held.get_mut(&key) else {
            if !stubborn {
                self.answers_unknown_cancel(process, key);
            }
            return;
        };
        if stubborn || held.cancelled || held.done.is_some() {
            return;
        }
        held.cancelled = true;
        let wait = self.dice.span(Duration::from_micros(50), Duration::from_secs(5));
        self.soon(Happening::Stopped(process, key), wait);
    }

    /// A cancel for an attempt that the worker does not know is answered all the same.
    fn answers_unknown_cancel(&mut self, process: Process, key: Key) {
        if let Some(conn) = self.open_link(process.site) {
            let result = ResultReport {
                task: key.0,
                epoch: key.1,
                status: AttemptOutcome::Cancelled,
                output: None,
                error: None,
                usage: None,
                artifacts: Vec::new(),
                session_open: None,
            };
            self.send_up(conn, Frame::Report(Report::Result(Box::new(result))));
        }
    }

    /// A cancelled attempt has stopped.
    pub(crate) fn stopped(&mut self, process: Process, key: Key) {
        if !self.later_if_frozen(process, Happening::Stopped(process, key)) {
            self.done(process, key, AttemptOutcome::Cancelled);
        }
    }

    fn done(&mut self, process: Process, key: Key, status: AttemptOutcome) {
        let retryable = self.dice.chance(500) || self.plan.failing > 0;
        let sick = self.sites[process.site].sick_until > self.time;
        let fault = *self.dice.pick(&[Fault::Caller, Fault::Worker]);
        let fault = if sick { Fault::Worker } else { fault };
        let forgets = self.dice.chance(30);
        let site = &mut self.sites[process.site];
        let Some(held) = site.held.get_mut(&key) else { return };
        if held.done.is_some() {
            return;
        }
        let session_open = held.spec.session.as_ref().map(|name| {
            if forgets {
                site.sessions.remove(name);
            }
            site.sessions.contains(name)
        });
        let error = matches!(status, AttemptOutcome::Failed | AttemptOutcome::TimedOut).then(|| TaskError {
            code: "simulated".into(),
            message: "drawn from the seed".into(),
            retryable,
            fault,
            side_effects: SideEffects::Unknown,
            details: None,
        });
        held.done = Some(Box::new(ResultReport {
            task: key.0,
            epoch: key.1,
            status,
            output: Some(held.spec.input.clone()),
            error,
            usage: None,
            artifacts: Vec::new(),
            session_open,
        }));
        if let Some(conn) = self.open_link(process.site) {
            self.send_result(process, conn, key);
            if self.dice.chance(20) {
                // A worker that is not sure whether it sent a result sends it again.
                self.send_result(process, conn, key);
            }
        }
    }

    fn send_result(&mut self, process: Process, conn: ConnId, key: Key) {
        let held = self.sites[process.site].held.get(&key);
        if let Some(result) = held.and_then(|held| held.done.clone()) {
            self.send_up(conn, Frame::Report(Report::Result(result)));
        }
    }

    /// The connection on which a site's process is welcome, if there is one.
    pub(crate) fn open_link(&self, site: usize) -> Option<ConnId> {
        let conn = self.sites[site].link?;
        self.links.get(&conn).filter(|link| link.welcomed && link.worker_open).map(|_| conn)
    }

    /// Puts off what a frozen process would do; true also when the process is gone.
    fn later_if_frozen(&mut self, process: Process, happening: Happening) -> bool {
        let site = &self.sites[process.site];
        if !site.runs(process) {
            return true;
        }
        let until = site.frozen_until;
        if until > self.time {
            self.at(until, happening);
            return true;
        }
        false
    }
}
