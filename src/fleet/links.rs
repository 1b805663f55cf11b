//! Connections: made, agreed upon attempt by attempt, watched, lost. The table of what a
//! reconnecting worker's attempts become is in `reconcile`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::health::{Liveness, backoff, liveness, punctuality};
use super::ids::*;
use super::lifecycle::{Live, Phase};
use super::registry::{Link, Up};
use super::slab::{TaskIx, WorkerIx};
use super::task::{AttemptOutcome, AttemptRecord, Keep, TaskState};
use super::time::Mono;
use super::timers::{Timer, WorkerTimer};
use super::view::WorkerState;
use super::words::*;
use super::{Fleet, Note};

/// Dials of a large fleet at start are spread so that no more than this many begin in a second.
const DIALS_PER_SECOND: u32 = 500;

/// Another server of the same store may have been started so often since this one opened it.
const MAX_TERMS_AHEAD: u32 = 1_000;

/// The features that this core makes use of.
const FEATURES: [&str; 3] = ["cancel", "resume", "output"];

/// What a registering worker's attempts become.
#[derive(Debug, Default)]
struct Verdict {
    keep: Vec<(TaskId, Epoch)>,
    resend: Vec<(TaskId, Epoch)>,
    drop: Vec<(TaskId, Epoch)>,
}

impl Fleet {
    /// A worker has registered on a new connection.
    pub(super) fn link_up(&mut self, conn: ConnId, registration: Registration) {
        let Some(worker) = self.registry.named(&registration.worker) else {
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
        if !same_process {
            subject.stuck.clear();
        }
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
        self.repeat_stops(worker, conn, &verdict.keep);
        let drains =
            self.registry.workers[worker].overlay.draining || self.registry.workers[worker].winds_down();
        if drains {
            self.effect(Effect::Order(conn, Order::Drain { reason: "drained" }));
        }
        let outcome = ConnectOutcome::Ok;
        self.note(Note::Connected { worker: name, pool, outcome, again, took, down, detail: None });
        self.roster_seen(worker, &registration.instance);
        self.steer(worker);
    }

    /// Puts a new process on the roster: durable before the first hand-over to it.
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
            capabilities: subject.offers.iter().map(|offer| offer.name.clone()).collect(),
        };
        let seq = self.record(Record::Roster(entry));
        let subject = &mut self.registry.workers[worker];
        subject.rostered = Some(registration.instance.clone());
        subject.roster = Some(seq);
        self.rostered_after(seq, worker);
    }

    /// Agrees with a registering worker on every attempt that either side knows of.
    fn reconcile(&mut self, worker: WorkerIx, registration: &Registration, same_process: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let stranger = registration.store.as_ref().is_some_and(|store| *store != self.store);
        let mut reported = BTreeSet::new();
        for held in &registration.attempts {
            let attempt = (held.task, held.epoch);
            if stranger {
                verdict.drop.push(attempt);
                continue;
            }
            self.never_reuse(held.epoch);
            match self.claim(worker, held) {
                Some((ix, decision)) => {
                    reported.insert(ix);
                    self.note(Note::Reconciled { task: held.task, decision });
                    if held.done { verdict.resend.push(attempt) } else { verdict.keep.push(attempt) }
                }
                None if held.done && self.is_being_recorded(held.task, held.epoch) => {
                    self.note(Note::Reconciled { task: held.task, decision: "result_accepted" });
                    verdict.resend.push(attempt);
                }
                None => {
                    let decision = if held.done { "result_discarded" } else { "aborted" };
                    self.note(Note::Reconciled { task: held.task, decision });
                    verdict.drop.push(attempt);
                    if !held.done {
                        self.fence(worker, held.task, held.epoch);
                    }
                }
            }
        }
        let unreported: Vec<TaskIx> =
            self.registry.workers[worker].holds.iter().copied().filter(|ix| !reported.contains(ix)).collect();
        for ix in unreported {
            let task = self.tasks[ix].id;
            self.note(Note::Reconciled { task, decision: "rerun" });
            let reason =
                if same_process { "the worker does not have it" } else { "the worker's process died" };
            self.lost(ix, !same_process, reason);
        }
        verdict
    }

    /// Whether this attempt's result was taken and is not durable yet: then the worker must keep it,
    /// and hears so when it sends it again.
    fn is_being_recorded(&self, task: TaskId, epoch: Epoch) -> bool {
        let (attempts, keep, seq) = match (self.by_id.get(&task), self.finished.tasks.get(&task)) {
            (Some(ix), _) => {
                let task = &self.tasks[*ix];
                (&task.attempts, task.keep, task.seq)
            }
            (None, Some(ended)) => (&ended.record.attempts, ended.record.keep, ended.seq),
            (None, None) => return false,
        };
        let recorded = attempts.iter().any(|attempt| attempt.epoch == epoch && attempt.has_reported());
        recorded && keep != Keep::Passing && !self.gates.is_durable(seq)
    }

    /// Makes a reported attempt the worker's own, if it is the newest of a live task.
    fn claim(&mut self, worker: WorkerIx, held: &HeldAttempt) -> Option<(TaskIx, &'static str)> {
        let ix = *self.by_id.get(&held.task)?;
        let newest = self.tasks[ix].newest();
        // A hand-over just before a crash may have left no trace in the journal: then the worker
        // knows an attempt that the record does not.
        let untraced = matches!(self.tasks[ix].phase, Phase::Recovering(_))
            && held.epoch.term() < self.term
            && newest.is_none_or(|newest| newest < held.epoch);
        if newest != Some(held.epoch) && !untraced {
            return None;
        }
        // Its result has been taken: what the worker still holds is a copy.
        if self.tasks[ix].attempts.last().is_some_and(AttemptRecord::has_reported) && !untraced {
            return None;
        }
        let now = self.now;
        let subject = &self.registry.workers[worker];
        let (name, offer) = (subject.name.clone(), subject.offer(&self.tasks[ix].spec.capability));
        let idempotent = offer.is_some_and(|offer| offer.idempotent);
        let instance = subject.registered.as_ref().map(|registered| registered.instance.clone())?;
        // Only the process that was given it can have it; by whatever name or address it comes.
        if !untraced && self.tasks[ix].attempts.last().is_none_or(|attempt| attempt.instance != instance) {
            return None;
        }
        if let Some(live) = self.tasks[ix].phase.live_mut() {
            let before = std::mem::replace(&mut live.worker, worker);
            live.missing = None;
            self.registry.workers[before].holds.remove(&ix);
            self.registry.workers[worker].holds.insert(ix);
            if before != worker {
                self.left(before);
            }
            self.reopen(ix, worker);
            if !held.done {
                self.accepted(worker, held.task, held.epoch);
            }
            return Some((ix, if held.done { "result_accepted" } else { "resumed" }));
        }
        match &mut self.tasks[ix].phase {
            Phase::Waiting(_) => {
                self.leave_wait(ix);
            }
            Phase::Recovering(recovering) => self.timers.clear(&mut recovering.timer),
            Phase::Held | Phase::Assigned(_) | Phase::Running(_) | Phase::Cancelling(_) | Phase::Between => {
                return None;
            }
        }
        let task = &mut self.tasks[ix];
        if untraced {
            let number = u32::try_from(task.attempts.len() + 1).unwrap_or(u32::MAX);
            task.attempts.push(AttemptRecord {
                number,
                epoch: held.epoch,
                worker: name,
                instance,
                outcome: None,
                error: None,
                assigned_at: now.wall,
                started_at: Some(now.wall),
                finished_at: None,
            });
            task.assigned_at.get_or_insert(now.wall);
        } else if let Some(attempt) = task.attempts.last_mut() {
            // It was written off too early: it goes on, and what it was charged is given back.
            if attempt.outcome.take().is_some() && attempt.started_at.is_some() {
                task.charged = task.charged.saturating_sub(1);
            }
            attempt.error = None;
            attempt.finished_at = None;
            attempt.started_at.get_or_insert(now.wall);
        }
        task.started_at.get_or_insert(now.wall);
        task.error = None;
        let limit = self.registry.workers[worker].spec.timeout;
        let limit = limit.min(self.tasks[ix].spec.execution_timeout.unwrap_or(Duration::MAX));
        let timer = Some(self.timers.set(now.mono + limit + Duration::from_secs(1), Timer::Limit(ix)));
        let live = Live {
            worker,
            epoch: held.epoch,
            assigned: now.mono,
            started: Some(now.mono),
            timer,
            missing: None,
            idempotent,
            overdue: false,
        };
        self.registry.workers[worker].holds.insert(ix);
        self.set_phase(ix, Phase::Running(live));
        self.reopen(ix, worker);
        self.publish(ix, TaskState::Running, Some("adopted"));
        if self.tasks[ix].keep != Keep::Passing {
            self.write(ix);
        }
        Some((ix, if held.done { "result_accepted" } else { "adopted" }))
    }

    /// The process known as this worker speaks under another name or address now: nothing may be said
    /// on its older connection any more, for it would run beside what is said on the new one.
    fn left(&mut self, before: WorkerIx) {
        if self.registry.workers[before].up().is_some() {
            self.drop_link(before, Why::PeerClosed, true);
        } else {
            self.steer(before);
        }
    }

    /// The attempt's output comes from the worker's new connection now.
    fn reopen(&mut self, ix: TaskIx, worker: WorkerIx) {
        let id = self.tasks[ix].id;
        if let (Some(live), Some(conn)) = (self.tasks[ix].phase.live(), self.registry.workers[worker].conn())
        {
            let epoch = live.epoch;
            self.effect(Effect::Gate(id, epoch, Door::Open(conn)));
        }
    }

    /// Says again what was said to a connection that is gone: stop these.
    fn repeat_stops(&mut self, worker: WorkerIx, conn: ConnId, kept: &[(TaskId, Epoch)]) {
        for (task, epoch) in kept {
            let Some(ix) = self.held_by(worker, *task, *epoch) else { continue };
            let overdue = self.tasks[ix].phase.live().is_some_and(|live| live.overdue);
            let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
            if cancelling || overdue {
                let reason = if cancelling { "cancelled" } else { "timeout" };
                self.effect(Effect::Order(conn, Order::Cancel { task: *task, epoch: *epoch, reason }));
            }
        }
    }

    /// An epoch above our own means that another server issued it: go past it, so that none repeats.
    fn never_reuse(&mut self, epoch: Epoch) {
        // One of a term far ahead is a lie, and to believe it would use the epochs up.
        if epoch > self.epoch && epoch.term().0 <= self.term.0.saturating_add(MAX_TERMS_AHEAD) {
            self.epoch = epoch;
        }
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
        let mut ours = BTreeSet::new();
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
        let Some(worker) = self.registry.named(name) else { return };
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
        subject.down_since = Some(now);
        if !why.is_planned() {
            subject.last_error = Some(why.as_str().into());
        }
        let lease_end = (subject.last_alive + up.settings.lease).max(now);
        if !subject.holds.is_empty() {
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
        let subject = &mut self.registry.workers[worker];
        if !subject.is_dialled() || subject.retiring.is_some() || self.quiescing {
            return;
        }
        self.timers.clear(&mut subject.timers.dial);
        subject.timers.dial = Some(self.timers.set(at, Timer::Worker(worker, WorkerTimer::Dial)));
        subject.next_dial = Some(now.wall + at.since(now.mono));
        self.registry.changed.insert(worker);
    }

    pub(super) fn worker_timer(&mut self, worker: WorkerIx, timer: WorkerTimer) {
        let now = self.now.mono;
        let subject = &mut self.registry.workers[worker];
        match timer {
            WorkerTimer::Dial => {
                subject.timers.dial = None;
                subject.next_dial = None;
                if matches!(subject.link, Link::Down) && !self.quiescing {
                    subject.link = Link::Dialling { since: now };
                    let name = subject.name.clone();
                    self.effect(Effect::Dial(name));
                    self.relist(worker);
                }
            }
            WorkerTimer::Liveness => {
                subject.timers.liveness = None;
                let last_alive = subject.last_alive;
                let Link::Up(up) = &mut subject.link else { return };
                match liveness(now, last_alive, &up.settings) {
                    Liveness::Alive { look_again } => {
                        let key = self.timers.set(look_again, Timer::Worker(worker, WorkerTimer::Liveness));
                        subject.timers.liveness = Some(key);
                    }
                    Liveness::Suspect { look_again } => {
                        up.suspect = true;
                        let key = self.timers.set(look_again, Timer::Worker(worker, WorkerTimer::Liveness));
                        subject.timers.liveness = Some(key);
                        self.relist(worker);
                    }
                    Liveness::Dead => {
                        let gap = now.since(up.last_heartbeat);
                        let lag = gap.saturating_sub(up.settings.heartbeat_interval);
                        let (name, pool) = (subject.name.clone(), subject.spec.pool.clone());
                        self.note(Note::Heartbeat { worker: name, pool, outcome: "missed", lag });
                        self.drop_link(worker, Why::HeartbeatTimeout, true);
                    }
                }
            }
            WorkerTimer::Lease => {
                subject.timers.lease = None;
                for ix in subject.holds.clone() {
                    self.lost(ix, false, "the worker was silent for longer than its lease");
                }
                self.steer(worker);
            }
            WorkerTimer::Settled => {
                subject.timers.settled = None;
                subject.tries = 0;
            }
            WorkerTimer::Ejected => {
                subject.timers.ejected = None;
                subject.failures.give_back(now);
                self.refresh(worker);
            }
            WorkerTimer::Grace => {
                subject.timers.grace = None;
                self.grace_over(worker);
            }
        }
    }

    /// A launched process, with its whole group, is gone: what it had died with it.
    pub(super) fn process_gone(&mut self, name: &WorkerName) {
        let gone = self.registry.workers.iter().find(|(_, worker)| worker.process && worker.name == *name);
        let Some(worker) = gone.map(|(ix, _)| ix) else { return };
        let halting = self.registry.workers[worker].halting;
        // Its connection leads nowhere, even if the socket's end has not been noticed: nothing more
        // is handed over on it, least of all what is put back here.
        self.drop_link(worker, Why::PeerClosed, true);
        for ix in self.registry.workers[worker].holds.clone() {
            self.lost(ix, !halting, "the worker's process ended");
        }
        let subject = &mut self.registry.workers[worker];
        subject.stuck.clear();
        if halting {
            subject.halting = false;
            subject.process = false;
        }
        self.refresh(worker);
        self.steer(worker);
    }

    /// The server itself was away: every worker's silence, and every lease, is shorter by the gap.
    pub(super) fn forgive(&mut self, gap: Duration) {
        let now = self.now.mono;
        for worker in self.registry.workers.indices() {
            let subject = &mut self.registry.workers[worker];
            subject.last_alive = (subject.last_alive + gap).min(now);
            if let Some((at, _)) = subject.timers.lease {
                self.timers.clear(&mut subject.timers.lease);
                subject.timers.lease =
                    Some(self.timers.set(at + gap, Timer::Worker(worker, WorkerTimer::Lease)));
            }
        }
    }

    /// An attempt failed by the worker's fault: enough of them in a row take it out for a while,
    /// but never more of a pool than allowed, and never the last one ready for a capability.
    pub(super) fn worker_failed(&mut self, worker: WorkerIx) {
        let settings = Arc::clone(&self.settings);
        if !self.registry.workers[worker].failures.failure(&settings) || !self.may_eject(worker) {
            return;
        }
        let subject = &mut self.registry.workers[worker];
        let until = subject.failures.eject(self.now.mono, &settings);
        subject.timers.ejected = Some(self.timers.set(until, Timer::Worker(worker, WorkerTimer::Ejected)));
        self.relist(worker);
    }

    fn may_eject(&self, worker: WorkerIx) -> bool {
        let subject = &self.registry.workers[worker];
        let pool: Vec<_> = self
            .registry
            .by_name
            .values()
            .map(|ix| (*ix, &self.registry.workers[*ix]))
            .filter(|(_, other)| other.spec.pool == subject.spec.pool)
            .collect();
        let ejected = pool.iter().filter(|(_, other)| other.failures.until.is_some()).count();
        let within = (ejected + 1) * 100 <= pool.len() * self.settings.max_ejection_percent as usize;
        let covered = subject.offers.iter().all(|offer| {
            self.registry.by_name.values().any(|ix| {
                let other = &self.registry.workers[*ix];
                *ix != worker && other.state() == WorkerState::Ready && other.offer(&offer.name).is_some()
            })
        });
        within && covered
    }

    /// A worker did not let go of an attempt in time: its connection is closed, so that it comes
    /// back and reconciles; one that the server launched and that has half of its slots like that
    /// is made anew.
    pub(super) fn stalled(&mut self, worker: WorkerIx) {
        let subject = &mut self.registry.workers[worker];
        if subject.process && subject.unavailable().saturating_mul(2) >= subject.slots {
            subject.restart = true;
        }
        if subject.up().is_some() {
            self.drop_link(worker, Why::CancelTimeout, true);
        } else {
            self.refresh(worker);
            self.steer(worker);
        }
    }

    /// Everything a restart or farewell takes from a worker goes back to the queue, uncharged.
    pub(super) fn take_back(&mut self, worker: WorkerIx, reason: &str) {
        for ix in self.registry.workers[worker].holds.clone() {
            let (id, epoch) = match self.tasks[ix].phase.live() {
                Some(live) => (self.tasks[ix].id, live.epoch),
                None => continue,
            };
            let cancelling = matches!(self.tasks[ix].phase, Phase::Cancelling(_));
            self.close_attempt(ix, AttemptOutcome::Superseded, Some("superseded"));
            self.fence(worker, id, epoch);
            if let Some(conn) = self.registry.workers[worker].conn() {
                self.effect(Effect::Order(conn, Order::Cancel { task: id, epoch, reason: "superseded" }));
            }
            if cancelling {
                self.cancelled(ix);
            } else {
                self.requeue(ix, Duration::ZERO, reason);
            }
        }
    }
}
