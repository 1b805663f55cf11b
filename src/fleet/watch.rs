//! What time and failures do to workers: silence, leases, ejection, processes that end, attempts that
//! do not stop.

use std::time::Duration;

use super::health::{Liveness, liveness};
use super::ids::*;
use super::lifecycle::Phase;
use super::registry::Link;
use super::slab::WorkerIx;
use super::stopping::Stopped;
use super::task::AttemptOutcome;
use super::timers::{Timer, WorkerTimer};
use super::words::*;
use super::{Fleet, Note};

impl Fleet {
    pub(super) fn worker_timer(&mut self, worker: WorkerIx, timer: WorkerTimer) {
        let now = self.now.mono;
        let subject = &mut self.registry.workers[worker];
        match timer {
            WorkerTimer::Dial => {
                subject.timers.dial = None;
                subject.next_dial = None;
                let down = matches!(subject.link, Link::Down);
                let gone = subject.retiring.is_some() && !self.may_return(worker);
                if down && !gone && !self.quiescing {
                    let subject = &mut self.registry.workers[worker];
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
                self.lose_sessions(worker, "its worker was silent for longer than its lease");
                if self.has_business(worker) {
                    // Tasks from before the start wait for it still, each by a timer of its own.
                    let again = self.now.mono + self.settings.lease;
                    let timer = self.timers.set(again, Timer::Worker(worker, WorkerTimer::Lease));
                    self.registry.workers[worker].timers.lease = Some(timer);
                }
                self.steer(worker);
            }
            WorkerTimer::Settled => {
                subject.timers.settled = None;
                subject.tries = 0;
            }
            WorkerTimer::Ejected => {
                subject.timers.ejected = None;
                self.ejection_over(worker);
            }
            WorkerTimer::Canary => self.canary_due(worker),
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
        self.lose_sessions(worker, "its worker's process ended");
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
                self.cancelled(ix, Stopped::Unconfirmed);
            } else {
                self.requeue(ix, Duration::ZERO, reason);
            }
        }
    }
}
