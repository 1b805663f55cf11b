//! Sessions over a restart: what the journal has of them, and how a restarted server and the workers that
//! come back agree on which are still there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{LOST_KEPT, Place, Session};
use crate::fleet::Fleet;
use crate::fleet::ids::*;
use crate::fleet::planted::{Planted, planted};
use crate::fleet::slab::{SessionIx, TaskIx, WorkerIx};
use crate::fleet::time::Wall;
use crate::fleet::timers::Timer;
use crate::fleet::words::*;

/// What is kept of a session over a restart. That of one that is over is the default, which is no record.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SessionRecord {
    /// The worker and its process that have it.
    pub on: Option<(WorkerName, Instance)>,
    /// What became of it, if its state is gone.
    pub lost: Option<Arc<str>>,
    /// How long it lives unused.
    pub ttl: Duration,
    /// When its first task came.
    pub began: Wall,
    /// When it was last used, at the time of the record.
    pub used: Wall,
}

impl Fleet {
    /// Has the journal know what a restarted server must.
    pub(super) fn record_session(&mut self, at: SessionIx) -> Seq {
        let session = &self.sessions.all[at];
        let (on, lost) = match &session.place {
            Place::On { name, instance, .. } | Place::Away { name, instance } => {
                (Some((name.clone(), instance.clone())), None)
            }
            Place::Lost(why) => (None, Some(why.clone())),
            Place::Nowhere => (None, None),
        };
        let record = SessionRecord { on, lost, ttl: session.ttl, began: session.began, used: session.used };
        let (tenant, name) = (session.tenant.clone(), session.name.clone());
        let seq = self.record(Record::Session(tenant, name, record));
        self.sessions.all[at].recorded = Some(seq);
        seq
    }

    /// A session of the journal. One whose process ended with the server is lost; for any other one that
    /// process is waited for.
    pub(in crate::fleet) fn restore_session(
        &mut self,
        tenant: Tenant,
        name: SessionName,
        record: SessionRecord,
        is_dead: impl Fn(&WorkerName, &Instance) -> bool,
    ) {
        if planted(Planted::SessionForgottenAtRestart) {
            return;
        }
        let (place, left) = match (record.lost, record.on) {
            (Some(why), _) => (Place::Lost(why), LOST_KEPT),
            (None, None) => return,
            (None, Some((name, instance))) if is_dead(&name, &instance) => (
                Place::Lost(format!("its worker's process ended with the server ({name})").into()),
                LOST_KEPT,
            ),
            (None, Some((name, instance))) => (Place::Away { name, instance }, self.settings.lease),
        };
        let session = self.sessions.all.insert(Session {
            tenant: tenant.clone(),
            name: name.clone(),
            tasks: VecDeque::new(),
            place,
            ttl: record.ttl,
            timer: None,
            began: record.began,
            used: record.used,
            recorded: Some(Seq(0)),
        });
        self.sessions.by_name.insert((tenant, name), session);
        let timer = self.timers.set(self.now.mono + left, Timer::Session(session));
        self.sessions.all[session].timer = Some(timer);
    }

    /// The lease is known now: for that long the workers of sessions are waited for.
    pub(in crate::fleet) fn sessions_wait_for(&mut self, lease: Duration) {
        let until = self.now.mono + lease;
        for at in self.sessions.all.indices() {
            let session = &mut self.sessions.all[at];
            if let Place::Away { .. } = session.place {
                self.timers.clear(&mut session.timer);
                session.timer = Some(self.timers.set(until, Timer::Session(at)));
            }
        }
    }

    /// A registering worker's sessions: what was waited for has come back, what it has no longer is lost,
    /// and what nobody will name again may go.
    pub(in crate::fleet) fn reconcile_sessions(
        &mut self,
        worker: WorkerIx,
        conn: ConnId,
        registration: &Registration,
    ) {
        let (its_name, its_process) = (self.registry.workers[worker].name.clone(), &registration.instance);
        let told: Option<BTreeSet<&SessionName>> =
            registration.sessions.as_ref().map(|all| all.iter().collect());
        let has = |name: &SessionName| told.as_ref().is_none_or(|told| told.contains(name));
        let mut known = BTreeSet::new();
        for at in self.sessions.all.indices() {
            let session = &mut self.sessions.all[at];
            match &session.place {
                Place::Away { instance, .. } if instance == its_process => {
                    self.timers.clear(&mut session.timer);
                    let (name, instance) = (its_name.clone(), its_process.clone());
                    session.place = Place::On { worker, name, instance, begun: true };
                    self.sessions.touched.push(at);
                }
                Place::Away { name, .. } if *name == its_name => {
                    self.lose_session(at, "its worker was started anew");
                    continue;
                }
                // The same process, known under another name or address until now.
                Place::On { worker: before, instance, .. }
                    if instance == its_process && *before != worker =>
                {
                    let before = *before;
                    self.leaves_worker(at);
                    self.left(before);
                    if let Place::On { worker: on, .. } = &mut self.sessions.all[at].place {
                        *on = worker;
                    }
                    self.sessions.touched.push(at);
                }
                Place::On { .. } | Place::Away { .. } | Place::Nowhere | Place::Lost(_) => {}
            }
            let session = &self.sessions.all[at];
            match session.place {
                Place::On { worker: on, begun, .. } if on == worker => {
                    known.insert(session.name.clone());
                    if begun && !has(&session.name) {
                        self.lose_session(at, "the worker has it no longer");
                    }
                }
                Place::On { .. } | Place::Away { .. } | Place::Nowhere | Place::Lost(_) => {}
            }
        }
        if registration.features.iter().any(|feature| &**feature == "sessions") {
            for session in told.into_iter().flatten().filter(|name| !known.contains(*name)) {
                let session = session.clone();
                self.effect(Effect::Order(conn, Order::EndSession { session }));
            }
        }
    }

    /// The worker that a task's session was on when the server last ran, while that is waited for.
    pub(in crate::fleet) fn session_awaits(&self, ix: TaskIx) -> Option<&WorkerName> {
        match &self.sessions.get(self.tasks[ix].session?)?.place {
            Place::Away { name, .. } => Some(name),
            Place::Nowhere | Place::On { .. } | Place::Lost(_) => None,
        }
    }
}
