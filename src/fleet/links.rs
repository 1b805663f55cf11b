//! Connections: made, heard from, lost, and dialled again. What a reconnecting worker's attempts
//! become is in `reconcile.rs`; what time and failures do to a worker, in `watch.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::health::{backoff, punctuality};
use super::ids::*;
use super::pace::Pace;
use super::planted::{Planted, planted};
use super::registry::{Link, Up};
use super::slab::{TaskIx, WorkerIx};
use super::time::Mono;
use super::timers::{Timer, WorkerTimer};
use super::words::*;
use super::{Fleet, Note};

/// Dials of a large fleet at start are spread so that no more than this many begin in a second.
const DIALS_PER_SECOND: u32 = 500;

/// The features that this core makes use of.
const FEATURES: [&str; 5] = ["cancel", "resume", "output", "artifacts", "sessions"];

impl Fleet {
    /// A worker has registered on a new connection.
    pub(super) fn link_up(&mut self, conn: ConnId, registration: Registration) {
        if self.registry.named(&registration.worker).is_none() {
            self.adopt(&registration);
        }
        let name = &registration.worker;
        let Some(worker) = self.registry.named(name).or_else(|| self.leaver(name)) else {
            let message = format!("no worker named {:?} is configured here", registration.worker.as_str());
            self.refuse(conn, None, "unknown_worker", &message, ConnectOutcome::Auth);
            return;
        };
        let now = self.now;
        if let Some(up) = self.registry.workers[worker].up() {
            let known = self.registry.workers[worker].registered.as_ref().map(|known| known.instance.clone());
            let silent =
                now.mono.since(self.registry.workers[worker].last_alive) >= up.settings.suspect_after;
            if known.as_ref() != Some(&registration.instance) && !silent {
                let message = "a worker of this name is connected and alive; names must differ";
                self.refuse(conn, Some(worker), "duplicate", message, ConnectOutcome::Duplicate);
                return;
            }
            self.drop_link(worker, Why::Superseded, true);
        }
        let subject = &mut self.registry.workers[worker];
        self.timers.clear(&mut subject.timers.dial);
        self.timers.clear(&mut subject.timers.lease);
        subject.next_dial = None;
        let took = match subject.link {
            Link::Dialling { since } => Some(now.mono.since(since)),
            Link::Down | Link::Up(_) => None,
        };
        let hang_up = took.is_some() && !registration.dialled;
        let again = subject.ever_connected;
        let down = subject.down_since.take().map(|since| now.mono.since(since));
        let same_process =
            subject.registered.as_ref().is_some_and(|known| known.instance == registration.instance);
        subject.canary.let_go();
        self.timers.clear(&mut subject.timers.canary);
        if !same_process {
            subject.stuck.clear();
            subject.health.new_process();
            subject.pace = Pace::default();
            self.timers.clear(&mut subject.timers.ejected);
            self.lose_sessions(worker, "its worker was started anew");
        }
        let subject = &mut self.registry.workers[worker];
        subject.ever_connected = true;
        subject.reconnects += u64::from(again);
        subject.last_alive = now.mono;
        subject.last_seen = Some(now.wall);
        subject.last_error = None;
        let settings = Arc::clone(&self.settings);
        subject.link = Link::Up(Up {
            conn,
            at: now.wall,
            last_heartbeat: now.mono,
            settings: Arc::clone(&settings),
            suspect: false,
            leaving: None,
        });
        let timers = &mut subject.timers;
        timers.liveness = Some(
            self.timers.set(now.mono + settings.suspect_after, Timer::Worker(worker, WorkerTimer::Liveness)),
        );
        timers.settled = Some(
            self.timers
                .set(now.mono + settings.heartbeat_interval, Timer::Worker(worker, WorkerTimer::Settled)),
        );
        let registration = Arc::new(registration);
        if subject.said.as_deref() != Some(registration.capabilities.as_slice()) {
            subject.said = Some(registration.capabilities.as_slice().into());
            subject.rostered = None;
        }
        subject.registered = Some(Arc::clone(&registration));
        subject.derive();
        let (name, pool, slots) = (subject.name.clone(), subject.spec.pool.clone(), subject.slots);
        self.registry.by_conn.insert(conn, worker);
        if hang_up {
            self.effect(Effect::HangUp(name.clone()));
        }
        self.enrol(worker, &registration);
        self.reindex(worker);
        let verdict = self.reconcile(worker, &registration, same_process);
        // Work is only handed to a process that has passed its canary: one that has some has shown enough.
        if !verdict.keep.is_empty() || !verdict.resend.is_empty() {
            self.vouched_for(worker);
        }
        let features =
            registration.features.iter().filter(|name| FEATURES.contains(&&***name)).cloned().collect();
        let welcome = Welcome {
            worker: name.clone(),
            slots,
            heartbeat_interval: settings.heartbeat_interval,
            lease: settings.lease,
            store: self.store.clone(),
            features,
            keep: verdict.keep.clone(),
            resend: verdict.resend,
            drop: verdict.drop,
        };
        self.effect(Effect::Order(conn, Order::Registered(Box::new(welcome))));
        self.reconcile_sessions(worker, conn, &registration);
        self.repeat_stops(worker, conn, &verdict.keep);
        let drains =
            self.registry.workers[worker].overlay.draining || self.registry.workers[worker].winds_down();
        if drains {
            self.effect(Effect::Order(conn, Order::Drain { reason: "drained" }));
            self.arm_grace(worker);
        }
        let outcome = ConnectOutcome::Ok;
        self.note(Note::Connected { worker: name, pool, outcome, again, took, down, detail: None });
        self.roster_seen(worker, &registration.instance);
        self.look_when_idle(worker);
        self.steer(worker);
    }

    /// Puts a new process on the roster: durable before the first hand-over to it. What it offers is
    /// kept there, so that a restarted server knows it before the worker is back.
    pub(super) fn enrol(&mut self, worker: WorkerIx, registration: &Registration) {
        let subject = &self.registry.workers[worker];
        if subject.rostered.as_ref() == Some(&registration.instance) {
            return;
        }
        let entry = RosterEntry {
            worker: subject.name.clone(),
            instance: registration.instance.clone(),
            endpoint: subject.spec.endpoint.clone(),
            launched: subject.spec.launch.is_some(),
            capabilities: registration.capabilities.clone(),
            timeout: Some(subject.spec.timeout),
        };
        let seq = self.record(Record::Roster(entry));
        let subject = &mut self.registry.workers[worker];
        subject.rostered = Some(registration.instance.clone());
        subject.roster = Some(seq);
        self.rostered_after(seq, worker);
    }

    fn refuse(
        &mut self,
        conn: ConnId,
        worker: Option<WorkerIx>,
        code: &str,
        message: &str,
        outcome: ConnectOutcome,
    ) {
        let refused = Order::Refused { code: code.into(), message: message.into() };
        self.effect(Effect::Order(conn, refused));
        let why = match outcome {
            ConnectOutcome::Duplicate => Why::Superseded,
            ConnectOutcome::Ok
            | ConnectOutcome::Refused
            | ConnectOutcome::Timeout
            | ConnectOutcome::Dns
            | ConnectOutcome::Tls
            | ConnectOutcome::Auth
            | ConnectOutcome::Handshake
            | ConnectOutcome::Version => Why::Protocol,
        };
        self.effect(Effect::Close(conn, why));
        if let Some(worker) = worker {
            let subject = &self.registry.workers[worker];
            let (worker, pool) = (subject.name.clone(), subject.spec.pool.clone());
            let detail = Some(message.into());
            self.note(Note::Connected { worker, pool, outcome, again: true, took: None, down: None, detail });
        }
    }

    /// A worker said something.
    pub(super) fn report(&mut self, conn: ConnId, report: Report) {
        let Some(worker) = self.registry.by_conn.get(&conn).copied() else { return };
        self.heard(worker);
        match report {
            Report::Accepted { task, epoch } => self.accepted(worker, task, epoch),
            Report::Rejected { task, epoch, reason, retryable } if self.is_canary(worker, task, epoch) => {
                self.canary_rejected(worker, (task, epoch), &reason, retryable);
            }
            Report::Result(result) if self.is_canary(worker, result.task, result.epoch) => {
                self.canary_ended(worker, conn, &result);
            }
            Report::Rejected { task, epoch, reason, retryable } => {
                self.rejected(worker, task, epoch, &reason, retryable);
            }
            Report::Result(result) => self.result(worker, conn, *result),
            Report::Alive => {}
            Report::Heartbeat { running } => self.heartbeat(worker, conn, &running),
            Report::Goodbye { retry_after, .. } => {
                if let Link::Up(up) = &mut self.registry.workers[worker].link {
                    up.leaving = Some(retry_after);
                }
                self.relist(worker);
            }
        }
    }

    fn heard(&mut self, worker: WorkerIx) {
        let now = self.now;
        let subject = &mut self.registry.workers[worker];
        subject.last_alive = now.mono;
        subject.last_seen = Some(now.wall);
        if let Link::Up(up) = &mut subject.link
            && up.suspect
        {
            up.suspect = false;
            self.refresh(worker);
        }
    }

    /// The worker's own list of what it runs, against ours: what it lacks twice is lost, what we do
    /// not know is stopped, what it has let go of frees its slot.
    fn heartbeat(&mut self, worker: WorkerIx, conn: ConnId, running: &[(TaskId, Epoch)]) {
        let now = self.now.mono;
        let subject = &mut self.registry.workers[worker];
        let Link::Up(up) = &mut subject.link else { return };
        let (gap, interval) = (now.since(up.last_heartbeat), up.settings.heartbeat_interval);
        up.last_heartbeat = now;
        let (name, pool) = (subject.name.clone(), subject.spec.pool.clone());
        let lag = gap.saturating_sub(interval);
        self.note(Note::Heartbeat { worker: name, pool, outcome: punctuality(gap, interval), lag });
        self.registry.changed.insert(worker);
        let listed: BTreeSet<(TaskId, Epoch)> = running.iter().copied().collect();
        let mut ours: BTreeSet<_> = self.registry.workers[worker].canary.asked().into_iter().collect();
        let mut missing = Vec::new();
        for ix in self.registry.workers[worker].holds.clone() {
            let id = self.tasks[ix].id;
            let Some(live) = self.tasks[ix].phase.live_mut() else { continue };
            let attempt = (id, live.epoch);
            ours.insert(attempt);
            if listed.contains(&attempt) {
                self.accepted(worker, attempt.0, attempt.1);
                continue;
            }
            // Two of them that were held up on the way and arrive at once are older than the
            // hand-over that they lack; they count as one.
            let since = *live.missing.get_or_insert(now);
            if now.since(since) >= interval / 2 {
                missing.push(ix);
            }
        }
        let stuck = self.registry.workers[worker].stuck.clone();
        for attempt in listed.difference(&ours).filter(|attempt| !stuck.contains(attempt)) {
            let (task, epoch) = *attempt;
            self.effect(Effect::Order(conn, Order::Cancel { task, epoch, reason: "unknown" }));
            self.fence(worker, task, epoch);
        }
        self.registry.workers[worker].stuck.retain(|attempt| listed.contains(attempt));
        for ix in missing {
            // An order that is still under way arrives before this one and is stopped by it.
            if let Some(epoch) = self.tasks[ix].phase.live().map(|live| live.epoch) {
                let task = self.tasks[ix].id;
                self.effect(Effect::Order(conn, Order::Cancel { task, epoch, reason: "superseded" }));
            }
            self.lost(ix, false, "the worker no longer has it");
        }
        self.steer(worker);
    }

    /// A dial ended without a registration.
    pub(super) fn dial_failed(&mut self, name: &WorkerName, outcome: ConnectOutcome, detail: Arc<str>) {
        let Some(worker) = self.dialling(name) else { return };
        let subject = &mut self.registry.workers[worker];
        let Link::Dialling { since } = subject.link else { return };
        subject.link = Link::Down;
        subject.last_error = Some(detail.clone());
        let took = Some(self.now.mono.since(since));
        let again = subject.ever_connected;
        let (worker_name, pool) = (subject.name.clone(), subject.spec.pool.clone());
        let down = None;
        self.note(Note::Connected {
            worker: worker_name,
            pool,
            outcome,
            again,
            took,
            down,
            detail: Some(detail),
        });
        self.dial_later(worker);
        self.steer(worker);
    }

    /// A connection ended. One that the core closed itself is no longer known here.
    pub(super) fn link_down(&mut self, conn: ConnId, why: Why) {
        if let Some(worker) = self.registry.by_conn.get(&conn).copied() {
            // After a goodbye an ending is what was announced.
            let leaving = self.registry.workers[worker].up().is_some_and(|up| up.leaving.is_some());
            self.drop_link(worker, if leaving && !why.is_planned() { Why::Drained } else { why }, false);
        }
    }

    /// Ends a worker's connection on our side. Its attempts stay its own until the lease is over.
    pub(super) fn drop_link(&mut self, worker: WorkerIx, why: Why, close: bool) {
        let now = self.now.mono;
        let subject = &mut self.registry.workers[worker];
        let Link::Up(up) = std::mem::replace(&mut subject.link, Link::Down) else { return };
        self.timers.clear(&mut subject.timers.liveness);
        self.timers.clear(&mut subject.timers.settled);
        self.timers.clear(&mut subject.timers.canary);
        subject.canary.let_go();
        subject.down_since = Some(now);
        if !why.is_planned() {
            subject.last_error = Some(why.as_str().into());
        }
        let mut lease_end = (subject.last_alive + up.settings.lease).max(now);
        if planted(Planted::LeaseEndsWithSocket) {
            lease_end = now;
        }
        if planted(Planted::LeaseByWallClock) {
            let silent = subject.last_seen.map_or(Duration::ZERO, |seen| self.now.wall.since(seen));
            lease_end = now + up.settings.lease.saturating_sub(silent);
        }
        if !subject.holds.is_empty() || self.sessions.any_on(worker) {
            self.timers.clear(&mut subject.timers.lease);
            subject.timers.lease =
                Some(self.timers.set(lease_end, Timer::Worker(worker, WorkerTimer::Lease)));
        }
        let (name, pool) = (subject.name.clone(), subject.spec.pool.clone());
        let holds: Vec<TaskIx> = subject.holds.iter().copied().collect();
        self.registry.by_conn.remove(&up.conn);
        for ix in holds {
            let id = self.tasks[ix].id;
            if let Some(epoch) = self.tasks[ix].phase.live().map(|live| live.epoch) {
                self.effect(Effect::Gate(id, epoch, Door::Shut));
            }
        }
        if close {
            self.effect(Effect::Close(up.conn, why));
        }
        self.note(Note::Disconnected { worker: name, pool, why });
        self.relist(worker);
        self.reading_for_nobody(worker);
        if why == Why::Superseded {
            return;
        }
        match up.leaving.flatten() {
            Some(wait) => self.dial_at(worker, now + wait),
            None if why.is_planned() => self.dial_at(worker, now),
            None => self.dial_later(worker),
        }
        self.steer(worker);
    }

    /// Plans the next dial after a failure.
    pub(super) fn dial_later(&mut self, worker: WorkerIx) {
        let fraction = self.draw();
        let settings = &self.settings;
        let subject = &mut self.registry.workers[worker];
        let wait = backoff(
            settings.initial_backoff,
            settings.max_backoff,
            settings.backoff_multiplier_percent,
            subject.tries,
            settings.backoff_jitter_percent,
            fraction,
        );
        subject.tries = subject.tries.saturating_add(1);
        self.dial_at(worker, self.now.mono + wait.max(Duration::from_millis(1)));
    }

    /// Plans the first dial; a large fleet's are spread.
    pub(super) fn dial_first(&mut self, worker: WorkerIx) {
        let fleet = u32::try_from(self.registry.by_name.len()).unwrap_or(u32::MAX);
        let spread = if fleet > DIALS_PER_SECOND {
            Duration::from_millis(u64::from(fleet)) * 1000 / DIALS_PER_SECOND / 1000 * self.draw()
        } else {
            Duration::ZERO
        };
        self.dial_at(worker, self.now.mono + spread);
    }

    fn dial_at(&mut self, worker: WorkerIx, at: Mono) {
        let now = self.now;
        let gone = self.registry.workers[worker].retiring.is_some() && !self.may_return(worker);
        let subject = &mut self.registry.workers[worker];
        if !subject.is_dialled() || gone || self.quiescing {
            return;
        }
        self.timers.clear(&mut subject.timers.dial);
        subject.timers.dial = Some(self.timers.set(at, Timer::Worker(worker, WorkerTimer::Dial)));
        subject.next_dial = Some(now.wall + at.since(now.mono));
        self.registry.changed.insert(worker);
    }
}
