//! WorkerRegistry: every worker as it actually is, beside what the topology wants of it. What a
//! worker shows (its state, its offers) is derived here, in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::balancer::{Demand, Labels, Process, Rank};
use super::canary::Canaries;
use super::ejection::{Census, Counted};
use super::health::{Health, Standing};
use super::ids::*;
use super::pace::Pace;
use super::planted::{Planted, planted};
use super::probe::{POOL_LABEL, pool_label};
use super::slab::{DemandIx, Slab, TaskIx, WorkerIx};
use super::time::{Mono, Wall};
use super::timers::TimerKey;
use super::topology::{InterfaceKind, Settings, WorkerSpec};
use super::view::WorkerState;
use super::words::{Offer, Overlay, Registration, RosterEntry, Why};

/// Attempts that a worker will not let go of, remembered at most; beyond it the oldest is forgotten.
pub(super) const MAX_STUCK: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct WorkerRegistry {
    pub(super) workers: Slab<WorkerIx, Worker>,
    /// The workers of the topology. One that was removed or moved winds down without its name.
    pub(super) by_name: BTreeMap<WorkerName, WorkerIx>,
    pub(super) by_conn: BTreeMap<ConnId, WorkerIx>,
    /// What workers of the roster offered when the server last ran; only until the topology is known.
    pub(super) remembered: BTreeMap<WorkerName, Arc<[Offer]>>,
    /// The roster as the server found it; only until the topology is known.
    pub(super) roster: BTreeMap<WorkerName, RosterEntry>,
    /// What people said, by name: outlives the worker.
    pub(super) overlays: BTreeMap<WorkerName, Overlay>,
    /// Workers whose view may have changed since it was last taken.
    pub(super) changed: BTreeSet<WorkerIx>,
    /// Names that have left since the views were last taken.
    pub(super) gone: BTreeSet<WorkerName>,
    pub(super) census: Census,
}

/// The connection of a worker.
#[derive(Debug)]
pub(super) enum Link {
    Down,
    Dialling { since: Mono },
    Up(Up),
}

/// A connection that has registered.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) conn: ConnId,
    pub(super) at: Wall,
    pub(super) last_heartbeat: Mono,
    /// The settings of the moment of registration: the worker was told its interval then.
    pub(super) settings: Arc<Settings>,
    pub(super) suspect: bool,
    /// It said goodbye: it takes nothing new.
    pub(super) leaving: Option<Option<Duration>>,
}

#[derive(Debug, Default)]
pub(super) struct WorkerTimers {
    pub(super) dial: Option<TimerKey>,
    pub(super) liveness: Option<TimerKey>,
    pub(super) lease: Option<TimerKey>,
    pub(super) settled: Option<TimerKey>,
    pub(super) ejected: Option<TimerKey>,
    pub(super) grace: Option<TimerKey>,
    pub(super) canary: Option<TimerKey>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: WorkerName,
    /// The entry that its connection and process were made by.
    pub(super) spec: Arc<WorkerSpec>,
    /// The entry that it is to be made anew by, once it is idle.
    pub(super) next_spec: Option<Arc<WorkerSpec>>,
    /// It has left the topology (or its place there), and winds down.
    pub(super) retiring: Option<Why>,
    /// A person wants it made anew once it is idle.
    pub(super) restart: bool,
    /// Its pool has too many instances: since then it takes nothing new.
    pub(super) resting: Option<Mono>,
    pub(super) link: Link,
    /// The server has its program running (or starting).
    pub(super) process: bool,
    /// The program was told to stop.
    pub(super) halting: bool,
    pub(super) overlay: Overlay,
    /// What it last registered.
    pub(super) registered: Option<Arc<Registration>>,
    /// What it last said that it offers; by the roster, if not since the server started.
    pub(super) said: Option<Arc<[Offer]>>,
    /// What it may be asked for.
    pub(super) offers: Arc<[Offer]>,
    pub(super) labels: Labels,
    pub(super) slots: u32,
    /// Attempts that are its own.
    pub(super) holds: BTreeSet<TaskIx>,
    /// Tasks whose input is being read for it: their slots are kept free. Only while it is connected.
    pub(super) reading: BTreeSet<TaskIx>,
    /// Attempts that were fenced and that it has not let go of: their slots are not free.
    pub(super) stuck: BTreeSet<(TaskId, Epoch)>,
    /// Its process is on the roster once this record is durable.
    pub(super) roster: Option<Seq>,
    /// The process that is on the roster, or on its way there.
    pub(super) rostered: Option<Instance>,
    pub(super) demands: BTreeSet<DemandIx>,
    /// Listed as free in its demands.
    pub(super) listed: bool,
    /// Listed as free for what goes on in sessions that it has.
    pub(super) listed_own: bool,
    pub(super) health: Health,
    pub(super) canary: Canaries,
    /// How fast it is beside others.
    pub(super) pace: Pace,
    /// What it was given for each of its slots, as the balancer counts it.
    pub(super) pass: u64,
    /// As what it stands in the census.
    pub(super) counted: Option<Counted>,
    /// Why it was ejected last.
    pub(super) last_failure: Option<Arc<str>>,
    /// Failed dials, or short connections, in a row.
    pub(super) tries: u32,
    pub(super) timers: WorkerTimers,
    pub(super) last_alive: Mono,
    pub(super) last_seen: Option<Wall>,
    pub(super) down_since: Option<Mono>,
    pub(super) ever_connected: bool,
    pub(super) reconnects: u64,
    pub(super) last_error: Option<Arc<str>>,
    pub(super) next_dial: Option<Wall>,
    pub(super) attempts_ok: u64,
    pub(super) attempts_error: u64,
    /// The state that was last told.
    pub(super) shown: WorkerState,
}

impl Worker {
    pub(super) fn new(spec: Arc<WorkerSpec>, overlay: Overlay) -> Self {
        let mut worker = Self {
            name: spec.name.clone(),
            spec,
            next_spec: None,
            retiring: None,
            restart: false,
            resting: None,
            link: Link::Down,
            process: false,
            halting: false,
            overlay,
            registered: None,
            said: None,
            offers: Arc::from([]),
            labels: Labels::new(),
            slots: 0,
            holds: BTreeSet::new(),
            reading: BTreeSet::new(),
            stuck: BTreeSet::new(),
            roster: None,
            rostered: None,
            demands: BTreeSet::new(),
            listed: false,
            listed_own: false,
            health: Health::default(),
            canary: Canaries::default(),
            pace: Pace::default(),
            pass: 0,
            counted: None,
            last_failure: None,
            tries: 0,
            timers: WorkerTimers::default(),
            last_alive: Mono(0),
            last_seen: None,
            down_since: None,
            ever_connected: false,
            reconnects: 0,
            last_error: None,
            next_dial: None,
            attempts_ok: 0,
            attempts_error: 0,
            shown: WorkerState::Disconnected,
        };
        worker.derive();
        worker
    }

    /// Works out offers, labels and slots from the entry and the registration.
    pub(super) fn derive(&mut self) {
        let spec = &self.spec;
        let allowed = spec.capabilities.as_deref();
        self.offers = match (&self.said, allowed) {
            (Some(said), None) => Arc::clone(said),
            (Some(said), Some(allowed)) => allowed_offers(said, allowed).into(),
            (None, Some(allowed)) => allowed.iter().map(plain_offer).collect(),
            (None, None) => Arc::from([]),
        };
        let mut labels =
            self.registered.as_ref().map(|registered| registered.labels.clone()).unwrap_or_default();
        labels.extend(spec.labels.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.labels = labels;
        let registered = self.registered.as_ref().and_then(|registered| registered.slots);
        self.slots = match (spec.slots, registered) {
            (Some(ours), Some(theirs)) => ours.min(theirs),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => WorkerSpec::DEFAULT_SLOTS,
        };
    }

    /// The server makes the connection (a mock is always "dialled").
    pub(super) fn is_dialled(&self) -> bool {
        self.spec.interface == InterfaceKind::Mock || self.spec.endpoint.is_some()
    }

    /// It takes no new work because it is about to be unmade.
    pub(super) fn winds_down(&self) -> bool {
        self.is_unmade() || self.restart
    }

    /// The topology has no place for it any more, or another one.
    pub(super) fn is_unmade(&self) -> bool {
        self.retiring.is_some() || self.next_spec.is_some()
    }

    pub(super) fn up(&self) -> Option<&Up> {
        match &self.link {
            Link::Up(up) => Some(up),
            Link::Down | Link::Dialling { .. } => None,
        }
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        self.up().map(|up| up.conn)
    }

    /// Tasks that it has, and those whose inputs are being read for it.
    pub(super) fn tasks(&self) -> u32 {
        u32::try_from(self.holds.len() + self.reading.len()).unwrap_or(u32::MAX)
    }

    /// Slots in use; a canary takes one like any task.
    pub(super) fn used(&self) -> u32 {
        self.tasks().saturating_add(u32::from(self.canary.runs()))
    }

    /// Slots that may be in use now: fewer than it has while it comes back from an ejection.
    pub(super) fn open_slots(&self) -> u32 {
        match self.health.standing {
            Standing::Returning(open) => self.slots.min(open),
            Standing::New | Standing::Good | Standing::Ejected(_) | Standing::HalfOpen => self.slots,
        }
    }

    /// Whether one of its slots is free, for whatever.
    pub(super) fn has_room(&self) -> bool {
        self.used().saturating_add(self.unavailable()) < self.slots
    }

    /// Whether it listens, and nobody wants it to take nothing new but for a cordon.
    pub(super) fn is_open_to_work(&self) -> bool {
        let here = self.up().is_some_and(|up| !up.suspect && up.leaving.is_none());
        let rostered = self.roster.is_none() || planted(Planted::RosterNotAwaited);
        here && rostered && !self.takes_its_leave()
    }

    fn takes_its_leave(&self) -> bool {
        self.winds_down() || self.overlay.draining || self.resting.is_some()
    }

    /// Whether it must pass a canary before it gets tasks, and nothing but room for that is missing.
    pub(super) fn waits_for_canary(&self) -> bool {
        let must = match self.health.standing {
            Standing::New | Standing::HalfOpen => true,
            Standing::Good | Standing::Ejected(_) | Standing::Returning(_) => false,
        };
        must && self.timers.canary.is_none() && !self.canary.runs() && self.is_open_to_work()
    }

    pub(super) fn unavailable(&self) -> u32 {
        u32::try_from(self.stuck.len()).unwrap_or(u32::MAX)
    }

    /// How good a choice it is for one more task.
    pub(super) fn rank(&self, now: Mono) -> Rank {
        Rank::of(self.used(), self.open_slots(), self.pace.weight(now), self.pass)
    }

    pub(super) fn offer(&self, capability: &Capability) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.name.covers(capability))
    }

    /// Whether it has what a demand takes, whatever its state; one process alone may have to meet it.
    /// `own` is its own place.
    pub(super) fn meets(&self, own: WorkerIx, demand: &Demand) -> bool {
        let its = |(worker, instance): &Process| {
            *worker == own && self.registered.as_ref().is_some_and(|known| known.instance == *instance)
        };
        self.offer(&demand.capability).is_some()
            && self.has_labels(&demand.labels)
            && demand.only.as_ref().map_or(self.retiring.is_none(), its)
    }

    /// Whether it has all of these labels; its pool stands among them under a name of its own.
    fn has_labels(&self, wanted: &Labels) -> bool {
        let has = |(name, value): (&Arc<str>, &Arc<str>)| match &**name {
            POOL_LABEL => pool_label(self.spec.pool.as_ref()) == &**value,
            name => self.labels.get(name) == Some(value),
        };
        wanted.iter().all(has)
    }

    /// Whether the topology says that it could ever offer a capability.
    pub(super) fn could_offer(&self, capability: &Capability) -> bool {
        let spec = self.next_spec.as_ref().unwrap_or(&self.spec);
        match (&spec.capabilities, &self.said) {
            (Some(allowed), _) => allowed.iter().any(|allowed| allowed.covers(capability)),
            (None, Some(said)) => said.iter().any(|offer| offer.name.covers(capability)),
            (None, None) => true,
        }
    }

    /// Its state: the first that holds, in the order of [`WorkerState`].
    pub(super) fn state(&self) -> WorkerState {
        let up = match &self.link {
            Link::Down => return WorkerState::Disconnected,
            Link::Dialling { .. } => return WorkerState::Connecting,
            Link::Up(up) => up,
        };
        // A worker that drains is asked for no canary, so that it waits for none.
        if self.takes_its_leave() || up.leaving.is_some() {
            WorkerState::Draining
        } else if self.health.standing == Standing::New && !planted(Planted::CanaryIgnored) {
            WorkerState::Connecting
        } else if self.overlay.cordoned {
            WorkerState::Cordoned
        } else if self.health.is_out() && !planted(Planted::CanaryIgnored) {
            WorkerState::Ejected
        } else if up.suspect {
            WorkerState::Suspect
        } else {
            WorkerState::Ready
        }
    }

    /// Its state as its own sessions see it: while it drains it waits for them, and so runs their tasks.
    /// A person who wants it made anew wants that now.
    pub(super) fn state_for(&self, own: bool) -> WorkerState {
        let serves = self.up().is_some_and(|up| up.leaving.is_none() && !up.suspect)
            && !(self.restart
                || self.halting
                || self.overlay.cordoned
                || self.health.is_out()
                || self.health.standing == Standing::New);
        let state = self.state();
        if own && serves && state == WorkerState::Draining { WorkerState::Ready } else { state }
    }

    /// Whether it can take one more task, or one of its `own` sessions, given that its process is on the
    /// roster.
    pub(super) fn can_take(&self, own: bool) -> bool {
        (self.roster.is_none() || planted(Planted::RosterNotAwaited))
            && self.used().saturating_add(self.unavailable()) < self.open_slots()
            && self.state_for(own) == WorkerState::Ready
    }

    /// Whether it is listed as free for a demand that it meets.
    pub(super) fn is_listed_for(&self, demand: &Demand) -> bool {
        if demand.only.is_some() { self.listed_own } else { self.listed }
    }
}

impl WorkerRegistry {
    pub(super) fn named(&self, name: &WorkerName) -> Option<WorkerIx> {
        self.by_name.get(name).copied()
    }

    /// Whether the topology says that some worker could ever offer a capability.
    pub(super) fn could_offer(&self, capability: &Capability) -> bool {
        self.by_name.values().any(|ix| self.workers[*ix].could_offer(capability))
    }

    /// Everything that is offered or allowed, for suggestions.
    pub(super) fn all_offers(&self) -> BTreeSet<&Capability> {
        self.by_name
            .values()
            .flat_map(|ix| self.workers[*ix].offers.iter().map(|offer| &offer.name))
            .collect()
    }
}

fn plain_offer(name: &Capability) -> Offer {
    Offer { name: name.clone(), description: None, input_schema: None, idempotent: false }
}

/// What is both registered and allowed. Where a pattern meets a name the narrower one stands, so a
/// worker never gets more than the topology grants nor more than it said it can do.
fn allowed_offers(registered: &[Offer], allowed: &[Capability]) -> Vec<Offer> {
    let mut offers = Vec::new();
    for offer in registered {
        for pattern in allowed {
            if pattern.covers(&offer.name) {
                offers.push(offer.clone());
                break;
            }
            if offer.name.covers(pattern) {
                offers.push(Offer { name: pattern.clone(), ..offer.clone() });
            }
        }
    }
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(offers: &[Offer]) -> Vec<&str> {
        offers.iter().map(|offer| offer.name.as_str()).collect()
    }

    #[test]
    fn a_worker_gets_what_it_registered_within_what_the_topology_grants() {
        let registered: Vec<Offer> = ["python.execute", "files.*", "secret.read"]
            .into_iter()
            .map(|name| plain_offer(&name.into()))
            .collect();
        let offers = allowed_offers(&registered, &["python.*".into(), "files.read".into()]);
        assert_eq!(names(&offers), ["python.execute", "files.read"]);
    }
}
