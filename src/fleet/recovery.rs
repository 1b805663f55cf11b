//! What a restarted server knows: the journal's last records. A task that may be running somewhere
//! waits for that worker; one that certainly is not is queued at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ids::*;
use super::lifecycle::{DeadlineAt, Phase, Recovering, Task};
use super::planted::{Planted, planted};
use super::registry::Worker;
use super::slab::{TaskIx, WorkerIx};
use super::task::*;
use super::time::{Mono, Now};
use super::timers::Timer;
use super::words::{Record, RosterEntry};
use super::{Fleet, SessionRecord, lifecycle};

/// How long a task without a hint waits for the workers that might have it all the same: a
/// hand-over shortly before the crash may have left no trace.
const UNTRACED_WAIT: Duration = Duration::from_secs(2);

impl Fleet {
    /// A fleet from the last records of a journal. The topology follows as an event.
    pub fn recover(
        term: Term,
        seed: u64,
        store: StoreId,
        now: Now,
        records: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut fleet = Self::new(term, seed, store);
        fleet.now = now;
        fleet.seen = now.mono;
        let mut tasks: BTreeMap<TaskId, Arc<TaskRecord>> = BTreeMap::new();
        let mut roster: BTreeMap<WorkerName, RosterEntry> = BTreeMap::new();
        let mut sessions: BTreeMap<(Tenant, SessionName), SessionRecord> = BTreeMap::new();
        for record in records {
            match record {
                Record::Task(task) | Record::HandOver(task) => {
                    let newer = tasks.get(&task.id).is_none_or(|known| known.version < task.version);
                    if newer != (planted(Planted::OlderVersionRecovered) && tasks.contains_key(&task.id)) {
                        tasks.insert(task.id, task);
                    }
                }
                Record::Roster(entry) => {
                    roster.insert(entry.worker.clone(), entry);
                }
                Record::Overlay(worker, overlay) => {
                    fleet.registry.overlays.insert(worker, overlay);
                }
                Record::Pool(pool, record) => {
                    fleet.pools.kept.insert(pool, record);
                }
                Record::Session(tenant, name, record) => {
                    sessions.insert((tenant, name), record);
                }
            }
        }
        fleet.registry.overlays.retain(|_, overlay| *overlay != super::Overlay::default());
        fleet.pools.kept.retain(|_, record| *record != super::PoolRecord::default());
        let remembered = |entry: &RosterEntry| (entry.worker.clone(), entry.capabilities.as_slice().into());
        fleet.registry.remembered = roster.values().map(remembered).collect();
        let is_dead = |name: &WorkerName, instance: &Instance| {
            roster.get(name).is_some_and(|entry| entry.launched || entry.instance != *instance)
        };
        for ((tenant, name), record) in sessions {
            fleet.restore_session(tenant, name, record, is_dead);
        }
        for task in tasks.into_values().filter(|task| !task.state.is_final()) {
            fleet.restore(&task, &roster);
        }
        fleet.registry.roster = roster;
        fleet
    }

    fn restore(&mut self, record: &TaskRecord, roster: &BTreeMap<WorkerName, RosterEntry>) {
        // The demands of accepted tasks are never too many: they were counted when they came in.
        let Ok(demand) = self.demand(&record.spec.capability, &record.spec.labels) else { return };
        self.balancer.demands[demand].tasks += 1;
        self.bytes += record.spec.input_bytes();
        let counted = self.tally.place(&record.counted_as());
        self.tally.accepted(counted, record.source);
        let now = self.now;
        let left = |span: Duration| span.saturating_sub(now.wall.since(record.submitted_at));
        let deadline_at = record.spec.deadline.map(|deadline| match deadline {
            Deadline::After(span) => DeadlineAt::Mono(now.mono + left(span)),
            Deadline::At(wall) => DeadlineAt::Wall(wall),
        });
        let ix = self.tasks.insert(Task {
            id: record.id,
            tenant: record.tenant.clone(),
            keep: record.keep,
            source: record.source,
            spec: Arc::clone(&record.spec),
            retry_of: record.retry_of,
            demand,
            session: None,
            counted,
            phase: Phase::Between,
            version: record.version,
            seq: Seq(0),
            accepted: Mono(now.mono.0.saturating_sub(u64::try_from(record.waited.as_nanos()).unwrap_or(0))),
            submitted_at: record.submitted_at,
            waited: record.waited,
            attempts: record.attempts.clone(),
            charged: record.charged,
            deaths: record.deaths,
            returns: 0,
            unread: 0,
            retry: None,
            cancel_asked: None,
            assigned_at: record.assigned_at,
            started_at: record.started_at,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            deadline: None,
            deadline_at,
        });
        self.by_id.insert(record.id, ix);
        self.arm_deadline(ix);
        self.join_session(ix);
        if let Keep::ByKey(hash) = record.keep {
            self.remember_key(hash, ix);
        }
        self.stow(record.id);
        // A launched worker ended with the server: what it had is queued again, uncharged.
        let dead = |hint: &Hint| {
            roster.get(&hint.worker).is_some_and(|entry| entry.launched || entry.instance != hint.instance)
        };
        let hint = record.hint.clone().filter(|hint| !dead(hint) && !planted(Planted::HintLost));
        if record.hint.is_some() && hint.is_none() {
            self.close_attempt(ix, AttemptOutcome::Superseded, Some("server_restarted"));
        }
        let wait = if hint.is_some() { self.settings.lease } else { UNTRACED_WAIT };
        let timer = Some(self.timers.set(now.mono + wait, Timer::Recovery(ix)));
        self.set_phase(ix, Phase::Recovering(Recovering { hint, timer }));
    }

    /// The topology is known, and with it the lease: hinted tasks wait for that long, not for what
    /// the default was. A longer lease must not be cut short, or a task runs twice.
    pub(super) fn recovery_takes(&mut self, lease: Duration) {
        self.sessions_wait_for(lease);
        let until = self.now.mono + lease;
        let hinted = |task: &Task| matches!(&task.phase, Phase::Recovering(found) if found.hint.is_some());
        let waiting: Vec<TaskIx> =
            self.tasks.iter().filter(|(_, task)| hinted(task)).map(|(ix, _)| ix).collect();
        for ix in waiting {
            if let Phase::Recovering(recovering) = &mut self.tasks[ix].phase {
                self.timers.clear(&mut recovering.timer);
                recovering.timer = Some(self.timers.set(until, Timer::Recovery(ix)));
            }
        }
    }

    /// Its worker has not come back in time: what it had is lost.
    pub(super) fn recovery_over(&mut self, ix: TaskIx) {
        let Phase::Recovering(recovering) = &mut self.tasks[ix].phase else { return };
        recovering.timer = None;
        let leaver = recovering.hint.as_ref().map(|hint| hint.worker.clone());
        let leaver = leaver.and_then(|name| self.leaver(&name));
        self.not_recovered(ix, false);
        if let Some(worker) = leaver {
            self.steer(worker);
        }
    }

    /// A worker that was on the roster is back, or another process in its place: tasks that waited
    /// for it and that it did not report are not running there.
    pub(super) fn roster_seen(&mut self, worker: WorkerIx, instance: &Instance) {
        let name = self.registry.workers[worker].name.clone();
        let settled: Vec<(TaskIx, bool)> = self
            .tasks
            .iter()
            .filter_map(|(ix, task)| match &task.phase {
                Phase::Recovering(lifecycle::Recovering { hint: Some(hint), .. }) if hint.worker == name => {
                    Some((ix, hint.instance != *instance))
                }
                Phase::Recovering(_)
                | Phase::Held
                | Phase::Waiting(_)
                | Phase::Assigned(_)
                | Phase::Running(_)
                | Phase::Cancelling(_)
                | Phase::Between => None,
            })
            .collect();
        for (ix, death) in settled {
            self.not_recovered(ix, death);
        }
    }

    fn not_recovered(&mut self, ix: TaskIx, death: bool) {
        let Phase::Recovering(recovering) = &mut self.tasks[ix].phase else { return };
        self.timers.clear(&mut recovering.timer);
        let Some(hint) = recovering.hint.take() else {
            self.become_eligible(ix);
            return;
        };
        let capability = self.tasks[ix].spec.capability.clone();
        let offers_it = |worker: &Worker| worker.offer(&capability).is_some_and(|offer| offer.idempotent);
        let known: BTreeSet<WorkerIx> = self.registry.by_name.values().copied().collect();
        let alone = self.tasks[ix].spec.session.is_none();
        let idempotent = alone && known.iter().any(|worker| offers_it(&self.registry.workers[*worker]));
        self.recovered_as_lost(ix, death, hint.started, idempotent);
    }
}
