//! The reconciler: each worker as it is, moved towards what the topology and people want of it. It
//! looks at the level, not at the change, so that any order of reloads ends in the same place.

use std::sync::Arc;

use super::ids::{RequestId, WorkerName};
use super::planted::{Planted, planted};
use super::registry::{Link, Worker};
use super::slab::{TaskIx, WorkerIx};
use super::task::Keep;
use super::timers::{Timer, WorkerTimer};
use super::topology::{Change, Diff, Topology, WorkerSpec};
use super::words::*;
use super::{Fleet, Note};
use rand::RngExt;
use std::time::Duration;

impl Fleet {
    /// A new generation: applying it cannot fail.
    pub(super) fn desired(&mut self, topology: Arc<Topology>) {
        let diff = Diff::between(&self.topology, &topology);
        if self.settings.lease != topology.settings.lease {
            self.recovery_takes(topology.settings.lease);
        }
        self.settings = Arc::new(topology.settings.clone());
        let before = std::mem::replace(&mut self.topology, Arc::clone(&topology));
        for (name, change) in &diff.workers {
            match change {
                Change::Removed => self.leave(name, Why::RemovedFromConfig),
                Change::Renamed { from } => {
                    self.renamed(from, name);
                    if let (Some(was), Some(is)) = (before.workers.get(from), topology.workers.get(name)) {
                        self.changed(name, WorkerSpec::change(was, is).as_ref(), is);
                    }
                }
                Change::Added | Change::Updated { .. } | Change::Moved { .. } => {}
            }
        }
        self.pools_desired(&diff, &topology);
        for (name, change) in &diff.workers {
            let Some(spec) = topology.workers.get(name) else { continue };
            match change {
                Change::Added => self.added(name, spec),
                Change::Updated { .. } | Change::Moved { .. } => self.changed(name, Some(change), spec),
                Change::Removed | Change::Renamed { .. } => {}
            }
        }
        self.registry.remembered.clear();
        self.bring_back_leavers();
        self.note(Note::Applied { generation: topology.generation, diff: Arc::new(diff) });
    }

    /// A worker that is wanted from now on.
    pub(super) fn added(&mut self, name: &WorkerName, spec: &Arc<WorkerSpec>) {
        // One that is still winding down under that name is taken back: its connection stays if
        // nothing about it has changed, and a launched one must not be started twice.
        let old = self.registry.workers.iter().find(|(_, old)| old.name == *name && old.retiring.is_some());
        if let Some(worker) = old.map(|(ix, _)| ix) {
            let moved = matches!(
                WorkerSpec::change(&self.registry.workers[worker].spec, spec),
                Some(Change::Moved { .. })
            );
            let launched = self.registry.workers[worker].process;
            let subject = &mut self.registry.workers[worker];
            if (subject.up().is_some() && !moved) || launched {
                subject.retiring = None;
                subject.resting = None;
                self.timers.clear(&mut subject.timers.grace);
                self.registry.by_name.insert(name.clone(), worker);
                self.registry.gone.remove(name);
                if moved || self.registry.workers[worker].halting {
                    self.registry.workers[worker].next_spec = Some(Arc::clone(spec));
                } else {
                    self.take_up(worker, spec);
                }
                self.reindex(worker);
                self.refresh(worker);
                self.steer(worker);
                return;
            }
        }
        self.give_way(name);
        let overlay = self.registry.overlays.get(name).cloned().unwrap_or_default();
        let worker = self.registry.workers.insert(Worker::new(Arc::clone(spec), overlay));
        if let Some(said) = self.registry.remembered.remove(name) {
            self.registry.workers[worker].said = Some(said);
            self.registry.workers[worker].derive();
        }
        self.registry.by_name.insert(name.clone(), worker);
        self.registry.gone.remove(name);
        self.reindex(worker);
        self.relist(worker);
        let state = self.registry.workers[worker].state();
        let pool = spec.pool.clone();
        self.note(Note::WorkerState { worker: name.clone(), pool, state });
        self.start(worker);
    }

    /// A worker that is not wanted any more: it finishes what it runs.
    pub(super) fn leave(&mut self, name: &WorkerName, why: Why) {
        if let Some(worker) = self.registry.by_name.remove(name) {
            self.registry.gone.insert(name.clone());
            self.retire(worker, why);
        }
    }

    fn renamed(&mut self, from: &WorkerName, to: &WorkerName) {
        let Some(worker) = self.registry.by_name.remove(from) else { return };
        self.give_way(to);
        self.registry.by_name.insert(to.clone(), worker);
        self.registry.gone.insert(from.clone());
        self.registry.gone.remove(to);
        if let Some(overlay) = self.registry.overlays.remove(from) {
            self.record(Record::Overlay(from.clone(), Overlay::default()));
            self.record(Record::Overlay(to.clone(), overlay.clone()));
            self.registry.overlays.insert(to.clone(), overlay);
        }
        let process = self.registry.workers[worker].process;
        self.registry.workers[worker].name = to.clone();
        self.registry.workers[worker].rostered = None;
        if process {
            // The program runs under its old name in the supervisor; it is made anew under the new one.
            self.registry.workers[worker].name = from.clone();
            self.registry.by_name.remove(to);
            self.retire(worker, Why::Moved);
            if let Some(spec) = self.topology.workers.get(to).cloned() {
                self.added(to, &spec);
            }
        } else if let Some(registered) = self.registry.workers[worker].registered.clone()
            && self.registry.workers[worker].up().is_some()
        {
            // Hints name the worker from now on by its new name; so must the roster, and before.
            self.enrol(worker, &registered);
        }
        self.registry.changed.insert(worker);
    }

    /// An entry changed: in place where that is possible, else the worker is made anew once it has
    /// finished what it runs.
    fn changed(&mut self, name: &WorkerName, change: Option<&Change>, spec: &Arc<WorkerSpec>) {
        let Some(worker) = self.registry.named(name) else { return };
        let subject = &mut self.registry.workers[worker];
        if Arc::ptr_eq(&subject.spec, spec) {
            return;
        }
        let pending = subject.next_spec.is_some();
        let moved = pending || matches!(change, Some(Change::Moved { .. }));
        if !moved {
            self.take_up(worker, spec);
        } else if pending && !subject.halting && !is_move(&subject.spec, spec) {
            // Changed back before anything was unmade.
            subject.next_spec = None;
            self.timers.clear(&mut subject.timers.grace);
            self.take_up(worker, spec);
        } else if subject.process || spec.launch.is_some() {
            // Old and new program may want the same port: one after the other.
            subject.next_spec = Some(Arc::clone(spec));
            self.tell_to_drain(worker, "moved");
            self.arm_grace(worker);
        } else {
            // The new connection is made at once; the old one drains.
            self.registry.by_name.remove(name);
            self.retire(worker, Why::Moved);
            self.added_anew(name, spec);
            return;
        }
        self.reindex(worker);
        self.refresh(worker);
        self.steer(worker);
    }

    fn added_anew(&mut self, name: &WorkerName, spec: &Arc<WorkerSpec>) {
        let overlay = self.registry.overlays.get(name).cloned().unwrap_or_default();
        let worker = self.registry.workers.insert(Worker::new(Arc::clone(spec), overlay));
        self.registry.by_name.insert(name.clone(), worker);
        self.reindex(worker);
        self.relist(worker);
        self.start(worker);
    }

    /// Takes up an entry in place.
    pub(super) fn take_up(&mut self, worker: WorkerIx, spec: &Arc<WorkerSpec>) {
        let subject = &mut self.registry.workers[worker];
        subject.spec = Arc::clone(spec);
        subject.name = spec.name.clone();
        subject.derive();
    }

    /// Takes a worker out of the topology: it finishes what it runs, then goes.
    fn retire(&mut self, worker: WorkerIx, why: Why) {
        self.registry.workers[worker].retiring = Some(why);
        // One that has something to finish is dialled for that, unless its name stays with another.
        if why == Why::Moved || !self.may_return(worker) {
            let subject = &mut self.registry.workers[worker];
            subject.next_dial = None;
            self.timers.clear(&mut subject.timers.dial);
            if let Link::Dialling { .. } = subject.link {
                subject.link = Link::Down;
                let name = subject.name.clone();
                self.effect(Effect::HangUp(name));
            }
        }
        self.reindex(worker);
        self.relist(worker);
        self.tell_to_drain(worker, why.as_str());
        self.arm_grace(worker);
        if planted(Planted::RemovalKillsWork) {
            self.take_back(worker, why.as_str());
        }
        self.steer(worker);
    }

    pub(super) fn tell_to_drain(&mut self, worker: WorkerIx, reason: &'static str) {
        let subject = &self.registry.workers[worker];
        if let Some(conn) = subject.conn()
            && !subject.holds.is_empty()
        {
            self.effect(Effect::Order(conn, Order::Drain { reason }));
        }
    }

    /// Bounds how long a worker that goes may take: for what it runs, where the topology says so, and for
    /// its sessions in any case.
    pub(super) fn arm_grace(&mut self, worker: WorkerIx) {
        let subject = &self.registry.workers[worker];
        // One that is to start anew, to get its slots back, has all the time that its other tasks take.
        let tasks = self.settings.removal_grace.filter(|_| subject.is_unmade() && !subject.holds.is_empty());
        let sessions = if subject.restart { None } else { self.session_grace(worker) };
        let Some(grace) = tasks.or(sessions) else { return };
        let subject = &mut self.registry.workers[worker];
        if subject.timers.grace.is_none() {
            let key = self.timers.set(self.now.mono + grace, Timer::Worker(worker, WorkerTimer::Grace));
            subject.timers.grace = Some(key);
        }
    }

    /// It had its time to finish: what it still runs is queued again, uncharged, and its sessions are lost.
    pub(super) fn grace_over(&mut self, worker: WorkerIx) {
        let subject = &self.registry.workers[worker];
        let (goes, drains) = (subject.winds_down(), subject.overlay.draining);
        if goes || drains {
            self.lose_sessions(worker, "its worker was drained, and its time to finish was over");
        }
        if self.registry.workers[worker].is_unmade() && self.settings.removal_grace.is_some() {
            self.take_back(worker, "its worker was taken out of the configuration");
        }
        if goes {
            self.steer(worker);
        }
    }

    /// Starts a worker's program and connection.
    fn start(&mut self, worker: WorkerIx) {
        let subject = &mut self.registry.workers[worker];
        if subject.spec.launch.is_some() && !subject.process && !self.quiescing {
            subject.process = true;
            let name = subject.name.clone();
            self.effect(Effect::Launch(name));
        }
        self.dial_first(worker);
    }

    /// Moves a worker that winds down one step further, if it can.
    pub(super) fn steer(&mut self, worker: WorkerIx) {
        self.registry.changed.insert(worker);
        let subject = &self.registry.workers[worker];
        let waits = self.has_business(worker) || (!subject.restart && self.sessions.any_on(worker));
        if !subject.winds_down() || waits {
            self.refresh(worker);
            return;
        }
        let why =
            subject.retiring.unwrap_or(if subject.next_spec.is_some() { Why::Moved } else { Why::Drained });
        match subject.link {
            Link::Up(ref up) => {
                let conn = up.conn;
                self.effect(Effect::Order(conn, Order::Goodbye { reason: why, retry_after: None }));
                self.drop_link(worker, why, true);
                // `drop_link` steers again.
                return;
            }
            Link::Dialling { .. } => {
                let name = subject.name.clone();
                self.registry.workers[worker].link = Link::Down;
                self.effect(Effect::HangUp(name));
            }
            Link::Down => {}
        }
        let subject = &mut self.registry.workers[worker];
        self.timers.clear(&mut subject.timers.dial);
        subject.next_dial = None;
        if subject.process {
            if !subject.halting {
                subject.halting = true;
                let name = subject.name.clone();
                self.effect(Effect::Halt(name));
            }
            return;
        }
        if subject.retiring.is_some() {
            self.forget(worker);
            return;
        }
        subject.restart = false;
        self.timers.clear(&mut subject.timers.grace);
        if let Some(spec) = subject.next_spec.take() {
            subject.registered = None;
            subject.said = None;
            self.take_up(worker, &spec);
            self.reindex(worker);
        }
        self.relist(worker);
        self.start(worker);
    }

    fn forget(&mut self, worker: WorkerIx) {
        self.lose_sessions(worker, "its worker left the fleet");
        self.unindex(worker);
        let Some(mut gone) = self.registry.workers.remove(worker) else { return };
        self.registry.census.forget(&mut gone);
        let timers = &mut gone.timers;
        for timer in [
            &mut timers.dial,
            &mut timers.liveness,
            &mut timers.lease,
            &mut timers.settled,
            &mut timers.ejected,
            &mut timers.grace,
            &mut timers.canary,
        ] {
            self.timers.clear(timer);
        }
        self.registry.changed.remove(&worker);
        // What was shown of it while it wound down goes, too; unless its name has a new holder.
        if !self.registry.by_name.contains_key(&gone.name) {
            self.registry.gone.insert(gone.name);
        }
    }

    /// A person's word about a worker: durable, and kept over reconnects and restarts.
    pub(super) fn operator(&mut self, word: OperatorWord, by: Option<Arc<str>>, request: RequestId) {
        let name = word.worker().clone();
        let Some(worker) = self.registry.named(&name) else {
            self.effect(Effect::Answer(request, Answer::Refused(Refusal::NoSuchWorker)));
            return;
        };
        let mut overlay = self.registry.workers[worker].overlay.clone();
        match word {
            OperatorWord::Cordon(_) => overlay.cordoned = true,
            OperatorWord::Uncordon(_) => overlay = Overlay::default(),
            OperatorWord::Drain(_) => {
                overlay.draining = true;
                self.tell_to_drain(worker, "drained");
                self.arm_grace(worker);
            }
            OperatorWord::Restart(_) => {
                self.registry.workers[worker].restart = true;
                self.tell_to_drain(worker, "restart");
                self.steer(worker);
            }
        }
        if overlay == self.registry.workers[worker].overlay {
            self.effect(Effect::Answer(request, Answer::Done));
            return;
        }
        if overlay != Overlay::default() {
            (overlay.by, overlay.at) = (by, self.now.wall);
        }
        let was_draining = self.registry.workers[worker].overlay.draining;
        self.registry.workers[worker].overlay = overlay.clone();
        if overlay == Overlay::default() {
            self.registry.overlays.remove(&name);
        } else {
            self.registry.overlays.insert(name.clone(), overlay.clone());
        }
        let seq = self.record(Record::Overlay(name, overlay.clone()));
        self.show_after(seq, Effect::Answer(request, Answer::Done));
        // A worker that was told to drain takes work again only on a new connection.
        if was_draining && !overlay.draining && !self.registry.workers[worker].winds_down() {
            self.timers.clear(&mut self.registry.workers[worker].timers.grace);
        }
        // Its sessions have gone on meanwhile: for them it has proved that it takes work.
        let alone = !self.sessions.any_on(worker);
        if was_draining && !overlay.draining && alone && self.registry.workers[worker].up().is_some() {
            self.registry.workers[worker].restart =
                self.registry.workers[worker].restart || self.registry.workers[worker].process;
            self.drop_link(worker, Why::Drained, true);
            return;
        }
        self.refresh(worker);
    }

    /// The server begins to stop.
    pub(super) fn quiesce(&mut self) {
        self.quiescing = true;
        for worker in self.registry.workers.indices() {
            self.relist(worker);
            if self.registry.workers[worker].process {
                self.tell_to_drain(worker, Why::ServerShutdown.as_str());
            }
        }
    }

    /// The drain time is over: launched workers are stopped and what they ran is queued again,
    /// uncharged; workers that run on their own keep their tasks and come back later.
    pub(super) fn farewell(&mut self) {
        self.quiescing = true;
        let fleet = u64::try_from(self.registry.by_name.len()).unwrap_or(u64::MAX);
        // Spread over the time that it takes to meet them all again at 500 a second.
        let spread = (fleet * 1000 / 500).max(200);
        for worker in self.registry.workers.indices() {
            if self.registry.workers[worker].process {
                self.take_back(worker, "the server stops");
            }
            if let Some(conn) = self.registry.workers[worker].conn() {
                let retry_after = Some(Duration::from_millis(self.rng.random_range(0..spread)));
                self.effect(Effect::Order(conn, Order::Goodbye { reason: Why::ServerShutdown, retry_after }));
                self.drop_link(worker, Why::ServerShutdown, true);
            }
            let Some(subject) = self.registry.workers.get(worker) else { continue };
            if subject.process && !subject.halting {
                let name = subject.name.clone();
                self.registry.workers[worker].halting = true;
                self.effect(Effect::Halt(name));
            }
        }
    }

    /// What a stopping server waits for: attempts of workers that it launched, and of callers who
    /// wait for an answer. The rest goes on without it.
    pub fn unfinished_business(&self) -> usize {
        let matters = |worker: &&Worker| worker.up().is_some();
        let workers = self.registry.workers.iter().map(|(_, worker)| worker).filter(matters);
        let passing = |ix: &&TaskIx| self.tasks[**ix].keep == Keep::Passing;
        workers
            .map(|worker| {
                if worker.process { worker.holds.len() } else { worker.holds.iter().filter(passing).count() }
            })
            .sum()
    }
}

fn is_move(was: &WorkerSpec, is: &WorkerSpec) -> bool {
    matches!(WorkerSpec::change(was, is), Some(Change::Moved { .. }))
}
