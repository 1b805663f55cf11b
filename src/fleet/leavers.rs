//! Workers that have left the topology and have something to finish: they are dialled, and let in, as
//! long as that is so. Also those that left it while the server was down, which only the roster knows.

use std::sync::Arc;

use super::Fleet;
use super::ids::WorkerName;
use super::lifecycle::Phase;
use super::registry::{Link, Worker};
use super::slab::WorkerIx;
use super::timers::{Timer, WorkerTimer};
use super::topology::{InterfaceKind, MockSpec, Origin, WorkerSpec};
use super::words::{Effect, Overlay, RosterEntry, Why};

impl Fleet {
    /// The first topology is known: who is not in it, and may still run a task, is asked for that.
    pub(super) fn bring_back_leavers(&mut self) {
        for (name, entry) in std::mem::take(&mut self.registry.roster) {
            if entry.launched || self.registry.by_name.contains_key(&name) || !self.is_waited_for(&name) {
                continue;
            }
            let worker =
                self.registry.workers.insert(Worker::new(Arc::new(as_it_was(&entry)), Overlay::default()));
            let lease = self.now.mono + self.settings.lease;
            let timer = self.timers.set(lease, Timer::Worker(worker, WorkerTimer::Lease));
            let subject = &mut self.registry.workers[worker];
            subject.retiring = Some(Why::RemovedFromConfig);
            subject.timers.lease = Some(timer);
            self.reindex(worker);
            self.relist(worker);
            self.dial_first(worker);
        }
    }

    /// The worker of that name that has left the topology and has something to finish.
    pub(super) fn leaver(&self, name: &WorkerName) -> Option<WorkerIx> {
        let mut workers = self.registry.workers.iter();
        workers.find(|(ix, worker)| worker.name == *name && self.may_return(*ix)).map(|(ix, _)| ix)
    }

    /// Whether a worker that has left the topology may come back: to finish something, and while its
    /// name is nobody else's.
    pub(super) fn may_return(&self, worker: WorkerIx) -> bool {
        let subject = &self.registry.workers[worker];
        subject.retiring.is_some()
            && !subject.halting
            && !self.registry.by_name.contains_key(&subject.name)
            && self.has_business(worker)
    }

    /// Whether a worker that has left has attempts, or may have some from before a restart.
    pub(super) fn has_business(&self, worker: WorkerIx) -> bool {
        let subject = &self.registry.workers[worker];
        !subject.holds.is_empty() || (subject.retiring.is_some() && self.is_waited_for(&subject.name))
    }

    /// Whether a task from before the start waits for a worker of that name.
    fn is_waited_for(&self, name: &WorkerName) -> bool {
        let waits = |phase: &Phase| match phase {
            Phase::Recovering(recovering) => {
                recovering.hint.as_ref().is_some_and(|hint| hint.worker == *name)
            }
            Phase::Held
            | Phase::Waiting(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => false,
        };
        self.recovering > 0 && self.tasks.iter().any(|(_, task)| waits(&task.phase))
    }

    /// Whose dial under way goes by that name.
    pub(super) fn dialling(&self, name: &WorkerName) -> Option<WorkerIx> {
        let dials = |worker: &Worker| matches!(worker.link, Link::Dialling { .. });
        let named = self.registry.named(name).filter(|ix| dials(&self.registry.workers[*ix]));
        named.or_else(|| {
            let mut workers = self.registry.workers.iter();
            workers.find(|(_, worker)| worker.name == *name && dials(worker)).map(|(ix, _)| ix)
        })
    }

    /// The name is about to be another's: nobody else is dialled by it.
    pub(super) fn give_way(&mut self, name: &WorkerName) {
        let retiring = self.registry.workers.iter().filter(|(_, worker)| worker.retiring.is_some());
        let found: Vec<WorkerIx> =
            retiring.filter(|(_, worker)| worker.name == *name).map(|(ix, _)| ix).collect();
        for worker in found {
            let subject = &mut self.registry.workers[worker];
            self.timers.clear(&mut subject.timers.dial);
            subject.next_dial = None;
            if let Link::Dialling { .. } = subject.link {
                subject.link = Link::Down;
                self.effect(Effect::HangUp(name.clone()));
            }
        }
    }
}

/// The entry of a worker that only the roster knows.
fn as_it_was(entry: &RosterEntry) -> WorkerSpec {
    WorkerSpec {
        name: entry.worker.clone(),
        formerly: None,
        origin: Origin::File,
        pool: None,
        interface: InterfaceKind::Websocket,
        endpoint: entry.endpoint.clone(),
        capabilities: None,
        slots: None,
        timeout: entry.timeout.unwrap_or(WorkerSpec::DEFAULT_TIMEOUT),
        labels: std::collections::BTreeMap::new(),
        launch: None,
        mock: MockSpec::default(),
    }
}
