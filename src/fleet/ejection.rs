//! Outlier ejection: workers that fail by their own fault are taken out for a while, but never so many
//! that the cure is worse than the illness; what holds an ejection back is told. One that the server
//! launched and that stays sick is made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::health::{HeldBack, Standing};
use super::ids::*;
use super::planted::{Planted, planted};
use super::registry::Worker;
use super::slab::WorkerIx;
use super::timers::{Timer, WorkerTimer};
use super::topology::WorkerSpec;
use super::view::WorkerState;
use super::words::Offer;
use super::{Fleet, Note};

/// How many workers there are of each pool, how many of them are out, and who is ready for what: kept
/// beside the workers, so that no decision about one looks at all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// By pool: its workers, and those that are out.
    pools: BTreeMap<Option<PoolName>, (usize, usize)>,
    /// Ready workers by what they offer, as they word it.
    ready: BTreeMap<Capability, usize>,
}

/// As what a worker is counted.
#[derive(Debug)]
pub(super) struct Counted {
    spec: Arc<WorkerSpec>,
    offers: Arc<[Offer]>,
    out: bool,
    ready: bool,
}

impl Census {
    /// Counts a worker as what it is now.
    pub(super) fn recount(&mut self, subject: &mut Worker, ready: bool) {
        let out = subject.health.is_out();
        let same = |counted: &Counted| {
            counted.out == out
                && counted.ready == ready
                && Arc::ptr_eq(&counted.spec, &subject.spec)
                && Arc::ptr_eq(&counted.offers, &subject.offers)
        };
        let here = subject.retiring.is_none();
        if subject.counted.as_ref().map_or(!here, |counted| here && same(counted)) {
            return;
        }
        if let Some(counted) = subject.counted.take() {
            self.add(&counted, false);
        }
        if here {
            let (spec, offers) = (Arc::clone(&subject.spec), Arc::clone(&subject.offers));
            let counted = Counted { spec, offers, out, ready };
            self.add(&counted, true);
            subject.counted = Some(counted);
        }
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, subject: &mut Worker) {
        if let Some(counted) = subject.counted.take() {
            self.add(&counted, false);
        }
    }

    fn add(&mut self, counted: &Counted, here: bool) {
        let step = |count: &mut usize| *count = if here { *count + 1 } else { count.saturating_sub(1) };
        let pool = self.pools.entry(counted.spec.pool.clone()).or_default();
        step(&mut pool.0);
        if counted.out {
            step(&mut pool.1);
        }
        if *pool == (0, 0) {
            self.pools.remove(&counted.spec.pool);
        }
        for offer in counted.offers.iter().filter(|_| counted.ready) {
            let count = self.ready.entry(offer.name.clone()).or_default();
            step(count);
            if *count == 0 {
                self.ready.remove(&offer.name);
            }
        }
    }

    /// Whether there is a ready worker for this beside the one that offers `own`.
    fn has_another(&self, wanted: &Capability, own: &[Offer], ready: bool) -> bool {
        let of_all = self.ready.iter().filter(|(name, _)| name.covers(wanted)).map(|(_, count)| *count);
        let its = own.iter().filter(|offer| ready && offer.name.covers(wanted)).count();
        of_all.sum::<usize>() > its
    }
}

impl Fleet {
    /// An attempt showed that the worker works, whatever became of the task.
    pub(super) fn worker_succeeded(&mut self, worker: WorkerIx) {
        let subject = &mut self.registry.workers[worker];
        subject.health.success(self.now.mono, subject.slots, &self.settings);
    }

    /// An attempt failed by the worker's fault: enough of them in a row take it out for a while.
    pub(super) fn worker_failed(&mut self, worker: WorkerIx) {
        let settings = Arc::clone(&self.settings);
        let subject = &mut self.registry.workers[worker];
        if !subject.health.failure(&settings) {
            return;
        }
        let in_a_row = subject.health.in_a_row;
        let detail = match subject.health.standing {
            Standing::Returning(_) => "it failed again right after its return".to_owned(),
            Standing::New | Standing::Good | Standing::Ejected(_) | Standing::HalfOpen => {
                format!("{in_a_row} failures of its own in a row")
            }
        };
        self.eject_if_possible(worker, &detail);
    }

    /// Ejects a worker unless something holds that back; whether it did.
    pub(super) fn eject_if_possible(&mut self, worker: WorkerIx, detail: &str) -> bool {
        let Some(held_back) = self.holds_back(worker) else {
            self.eject(worker, detail);
            return true;
        };
        let subject = &mut self.registry.workers[worker];
        subject.last_failure = Some(detail.into());
        let before = subject.health.held_back.replace(held_back);
        if before != Some(held_back) {
            let what = held_back.word();
            self.health_note(worker, what, &format!("{detail}; {}", held_back.as_str()));
        }
        self.cure(worker);
        false
    }

    /// Takes a worker out for a while.
    pub(super) fn eject(&mut self, worker: WorkerIx, detail: &str) {
        let settings = Arc::clone(&self.settings);
        let subject = &mut self.registry.workers[worker];
        let until = subject.health.eject(self.now.mono, &settings);
        subject.last_failure = Some(detail.into());
        self.timers.clear(&mut subject.timers.ejected);
        if !subject.canary.runs() {
            self.timers.clear(&mut subject.timers.canary);
        }
        subject.timers.ejected = Some(self.timers.set(until, Timer::Worker(worker, WorkerTimer::Ejected)));
        self.health_note(worker, "ejected", detail);
        self.cure(worker);
        self.relist(worker);
    }

    /// What keeps a worker in although it ought to go.
    fn holds_back(&self, worker: WorkerIx) -> Option<HeldBack> {
        let subject = &self.registry.workers[worker];
        let census = &self.registry.census;
        let ready = subject.counted.as_ref().is_some_and(|counted| counted.ready);
        let another = |offer: &Offer| census.has_another(&offer.name, &subject.offers, ready);
        if !subject.offers.iter().all(another) {
            return Some(HeldBack::LastReady);
        }
        let (size, out) = census.pools.get(&subject.spec.pool).copied().unwrap_or_default();
        let most = size * self.settings.max_ejection_percent as usize / 100;
        let within = (out < most && out + 1 < size) || planted(Planted::EjectsWholePools);
        (!within).then_some(HeldBack::PoolLimit)
    }

    /// An ejection, or the slow start after one, is over.
    pub(super) fn ejection_over(&mut self, worker: WorkerIx) {
        let subject = &mut self.registry.workers[worker];
        subject.timers.ejected = None;
        match subject.health.standing {
            Standing::Ejected(_) if planted(Planted::EjectedForEver) => {}
            Standing::Ejected(_) => subject.health.standing = Standing::HalfOpen,
            Standing::Returning(_) => subject.health.recovered(),
            Standing::New | Standing::Good | Standing::HalfOpen => {}
        }
        self.refresh(worker);
    }

    /// A program of the server's own that stays sick is drained and made anew.
    fn cure(&mut self, worker: WorkerIx) {
        let subject = &mut self.registry.workers[worker];
        if subject.process && !subject.restart && subject.health.stays_sick(&self.settings) {
            subject.restart = true;
            self.health_note(worker, "restarted", "it stays sick: its program is made anew once it is idle");
            self.tell_to_drain(worker, "restart");
            // What leads here has more to do with the worker; it is steered when that is done.
            self.relist(worker);
        }
    }

    pub(super) fn health_note(&mut self, worker: WorkerIx, what: &'static str, detail: &str) {
        let subject = &self.registry.workers[worker];
        let (worker, pool) = (subject.name.clone(), subject.spec.pool.clone());
        self.note(Note::Health { worker, pool, what, detail: detail.into() });
    }

    /// What is counted wrongly, if something is.
    pub(super) fn census_is_wrong(&self) -> Option<String> {
        let mut census = Census::default();
        for (_, worker) in self.registry.workers.iter().filter(|(_, worker)| worker.retiring.is_none()) {
            census.add(
                &Counted {
                    spec: Arc::clone(&worker.spec),
                    offers: Arc::clone(&worker.offers),
                    out: worker.health.is_out(),
                    ready: worker.state() == WorkerState::Ready,
                },
                true,
            );
        }
        (census != self.registry.census)
            .then(|| format!("the census is {:?} instead of {census:?}", self.registry.census))
    }
}
