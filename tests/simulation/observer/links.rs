//! The checker's picture of connections and of the processes behind them: who may be spoken to, who
//! may be given what, and what each process holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::super::world::Key;
use super::{Moment, Verdict};

/// Why heartbeats take an attempt away.
const LACKED: &str = "heartbeats lacked it";

/// Why a process has nothing any more, whatever it says, unless the core says otherwise.
const REPLACED: &str = "another process took its place";

/// What is known of connections and processes.
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<ConnId, Seen>,
    holds: BTreeMap<Instance, Holder>,
    /// The process that registered last.
    coming: Option<Instance>,
    /// Names under which a process has come or gone since the core began.
    heard_of: BTreeSet<WorkerName>,
    /// The most slots that any worker ever had.
    pub(super) most_slots: u32,
}

/// A connection, as the core was told.
struct Seen {
    worker: WorkerName,
    registration: Registration,
    spec: Option<Arc<WorkerSpec>>,
    /// The entry of the time when it was made.
    entry: Option<Arc<WorkerSpec>>,
    welcomed: bool,
    closing: bool,
    down: bool,
    leaving: bool,
    heard: Moment,
}

/// A process and what it holds.
#[derive(Default)]
struct Holder {
    worker: Option<WorkerName>,
    /// What it has; since when heartbeats have lacked it.
    held: BTreeMap<Key, Option<Mono>>,
    /// Attempts that it is known to have let go of.
    freed: BTreeMap<Key, &'static str>,
    heard: Moment,
    /// Since when its entry is gone or speaks of another place, and the grace of that moment.
    retired: Option<(Mono, Option<Duration>)>,
    launched: bool,
}

/// Who got an attempt.
pub(super) struct Given {
    pub(super) worker: WorkerName,
    pub(super) instance: Instance,
    /// It said that this may be repeated without harm.
    pub(super) idempotent: bool,
    /// It has the labels that the task prefers.
    pub(super) preferred: bool,
}

impl Links {
    /// The core's process is gone, and with it everything but what workers may still be given.
    pub(super) fn forget(&mut self) {
        *self = Self { most_slots: self.most_slots, ..Self::default() };
    }

    /// `known`: there is a worker of that name. One that is turned away at the door was not heard.
    pub(super) fn up(
        &mut self,
        moment: Moment,
        conn: ConnId,
        registration: &Registration,
        known: bool,
        topology: &Topology,
    ) -> Verdict {
        let name = &registration.worker;
        let listed: BTreeSet<Key> =
            registration.attempts.iter().map(|held| (held.task, held.epoch)).collect();
        let open: BTreeSet<Instance> = self
            .links
            .values()
            .filter(|link| !link.down && !link.closing)
            .map(|link| link.registration.instance.clone())
            .collect();
        for (instance, holder) in &mut self.holds {
            if *instance == registration.instance {
                if known {
                    holder.heard = moment;
                }
                holder.let_go("not listed on reconnect", |key| !listed.contains(key));
            } else if holder.worker.as_ref() == Some(name) && !open.contains(instance) {
                holder.let_go("its worker has a new process", |_| true);
            }
        }
        let holder = self.holds.entry(registration.instance.clone()).or_default();
        if known {
            holder.worker = Some(name.clone());
            holder.heard = moment;
        } else {
            // It may have left before the core began.
            holder.retired.get_or_insert((Mono(0), topology.settings.removal_grace));
        }
        self.heard_of.insert(name.clone());
        self.coming = Some(registration.instance.clone());
        for attempt in registration.attempts.iter().filter(|attempt| !attempt.done) {
            let key = (attempt.task, attempt.epoch);
            if holder.freed.get(&key) != Some(&REPLACED) {
                holder.held.entry(key).or_default();
            }
        }
        let seen = Seen {
            worker: name.clone(),
            registration: registration.clone(),
            spec: None,
            entry: topology.workers.get(name).cloned(),
            welcomed: false,
            closing: false,
            down: false,
            leaving: false,
            heard: moment,
        };
        match self.links.insert(conn, seen) {
            Some(_) => Err(format!("the simulator used connection {conn} twice")),
            None => Ok(()),
        }
    }

    pub(super) fn down(&mut self, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.down = true;
        }
    }

    pub(super) fn closing(&mut self, moment: Moment, conn: ConnId, why: Why, settings: &Settings) -> Verdict {
        match self.links.get_mut(&conn) {
            Some(link) if !link.down && !link.closing => {
                link.closing = true;
                if why == Why::Superseded && link.welcomed {
                    let silent = since(moment, link.heard);
                    let (name, instance) = (link.worker.clone(), link.registration.instance.clone());
                    return self.superseded(&name, &instance, silent, settings);
                }
                Ok(())
            }
            Some(link) if link.down => Err(format!("connection {conn} is closed although it is down")),
            Some(_) => Err(format!("connection {conn} is closed twice")),
            None => Err(format!("connection {conn}, which never was, is closed")),
        }
    }

    /// Another process takes a worker's place only once the one before is suspect; it is dead then.
    fn superseded(
        &mut self,
        name: &WorkerName,
        instance: &Instance,
        silent: Duration,
        settings: &Settings,
    ) -> Verdict {
        if self.coming.as_ref() == Some(instance) {
            return Ok(());
        }
        if silent < settings.suspect_after {
            return Err(format!("I4: {name} ({instance}) is superseded, silent for only {silent:?}"));
        }
        if let Some(holder) = self.holds.get_mut(instance) {
            holder.let_go(REPLACED, |_| true);
        }
        Ok(())
    }

    pub(super) fn process_gone(&mut self, worker: &WorkerName) {
        self.heard_of.insert(worker.clone());
        for holder in self.holds.values_mut() {
            if holder.worker.as_ref() == Some(worker) {
                holder.let_go("its process is gone", |_| true);
            }
        }
    }

    pub(super) fn farewell(&mut self) {
        for holder in self.holds.values_mut().filter(|holder| holder.launched) {
            holder.let_go("the server stops", |_| true);
        }
    }

    pub(super) fn reported(&mut self, moment: Moment, conn: ConnId, report: &Report, interval: Duration) {
        // What still arrives on a connection that the core has closed is not heard any more.
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.closing) else { return };
        link.heard = moment;
        if let Report::Goodbye { .. } = report {
            link.leaving = true;
        }
        let Some(holder) = self.holds.get_mut(&link.registration.instance) else { return };
        holder.heard = moment;
        match report {
            Report::Rejected { task, epoch, .. } => {
                holder.let_go("it was rejected", |key| *key == (*task, *epoch));
            }
            Report::Result(result) => {
                holder.let_go("it has ended", |key| *key == (result.task, result.epoch));
            }
            Report::Heartbeat { running } => {
                for (key, missing) in &mut holder.held {
                    *missing = if running.contains(key) { None } else { missing.or(Some(moment.mono)) };
                }
                // Heartbeats that arrive at once, held up on the way, may be older than a hand-over.
                let apart = |since: &Mono| moment.mono.since(*since) >= interval / 2;
                let lacked = holder.held.iter().filter(|(_, missing)| missing.as_ref().is_some_and(apart));
                let gone: Vec<Key> = lacked.map(|(key, _)| *key).collect();
                holder.let_go(LACKED, |key| gone.contains(key));
            }
            Report::Accepted { .. } | Report::Alive | Report::Goodbye { .. } => {}
        }
    }

    /// Whether heartbeats took this attempt away: an order that was under way for longer still runs
    /// until the order to stop it, right behind, arrives.
    pub(super) fn is_taken_away(&self, instance: &Instance, key: &Key) -> bool {
        let freed = self.holds.get(instance).and_then(|holder| holder.freed.get(key));
        freed.is_some_and(|reason| *reason == LACKED)
    }

    /// Why the core may think that a process no longer has these attempts, for messages.
    pub(super) fn fates(&self, instance: &Instance, keys: &[Key]) -> String {
        let freed = self.holds.get(instance).map(|holder| &holder.freed);
        let fate = |key: &Key| freed.and_then(|freed| freed.get(key)).copied().unwrap_or("held");
        keys.iter().map(|key| format!("{} as {}: {}", key.0, key.1, fate(key))).collect::<Vec<_>>().join(", ")
    }

    /// Whether anything was heard of a process since the core began.
    pub(super) fn knows(&self, worker: &WorkerName, instance: &Instance) -> bool {
        self.heard_of.contains(worker) || self.holds.contains_key(instance)
    }

    /// Renames carry a connection over; entries that are gone or moved retire their processes.
    pub(super) fn desired(&mut self, now: Mono, old: &Topology, new: &Topology) {
        let diff = Diff::between(old, new);
        let mut renamed = BTreeMap::new();
        for (name, change) in &diff.workers {
            if let Change::Renamed { from } = change {
                renamed.insert(from.clone(), name.clone());
            }
        }
        for link in self.links.values_mut().filter(|link| !link.down) {
            if let Some(name) = renamed.get(&link.worker) {
                link.worker = name.clone();
            }
        }
        for holder in self.holds.values_mut() {
            let Some(name) = &holder.worker else { continue };
            let name = renamed.get(name).unwrap_or(name).clone();
            let unmade = match diff.workers.get(&name) {
                Some(Change::Removed | Change::Moved { .. } | Change::Renamed { .. }) => true,
                Some(Change::Added | Change::Updated { .. }) | None => false,
            };
            if unmade {
                holder.retired.get_or_insert((now, new.settings.removal_grace));
            }
            holder.worker = Some(name);
        }
        for link in self.links.values_mut() {
            // What the connection was made by; a later entry for another place is not for it.
            if link.spec.is_none() {
                link.spec = new.workers.get(&link.worker).cloned();
            }
        }
    }

    /// Only a registered, open connection is spoken to.
    pub(super) fn may_speak(&self, conn: ConnId, order: &Order) -> Verdict {
        let Some(link) = self.links.get(&conn) else {
            return Err(format!("I8: an order to connection {conn}, which never was: {order:?}"));
        };
        let first = matches!(order, Order::Registered(_) | Order::Refused { .. });
        if link.down || link.closing {
            return Err(format!("I8: an order to connection {conn}, which is over: {order:?}"));
        }
        if first == link.welcomed {
            return Err(format!("I8: connection {conn} is not ready for {order:?}"));
        }
        Ok(())
    }

    /// The worker behind a connection that is heard.
    pub(super) fn worker(&self, conn: ConnId) -> Option<&WorkerName> {
        let heard = self.links.get(&conn).filter(|link| link.welcomed && !link.closing && !link.down);
        heard.map(|link| &link.worker)
    }

    /// What was said on a connection at first.
    pub(super) fn registration(&self, conn: ConnId) -> Option<&Registration> {
        self.links.get(&conn).map(|link| &link.registration)
    }

    /// The process behind a connection.
    pub(super) fn instance(&self, conn: ConnId) -> Option<&Instance> {
        self.links.get(&conn).map(|link| &link.registration.instance)
    }

    /// The same while it is heard.
    pub(super) fn speaker(&self, conn: ConnId) -> Option<&Instance> {
        let heard = self.links.get(&conn).filter(|link| link.welcomed && !link.closing && !link.down);
        heard.map(|link| &link.registration.instance)
    }

    /// Whether a registering worker said that this attempt has ended.
    pub(super) fn reported_done(&self, conn: ConnId, key: &Key) -> bool {
        let same = |held: &&HeldAttempt| (held.task, held.epoch) == *key;
        self.links
            .get(&conn)
            .and_then(|link| link.registration.attempts.iter().find(same))
            .is_some_and(|held| held.done)
    }

    /// A welcome decides on each attempt that was reported, once.
    pub(super) fn welcomed(&mut self, conn: ConnId, welcome: &Welcome) -> Verdict {
        let Some(link) = self.links.get_mut(&conn) else { return Ok(()) };
        link.welcomed = true;
        link.worker = welcome.worker.clone();
        self.most_slots = self.most_slots.max(welcome.slots);
        let foreign = link.registration.store.as_ref().is_some_and(|store| *store != welcome.store);
        for held in &link.registration.attempts {
            let key = (held.task, held.epoch);
            let decisions = [&welcome.keep, &welcome.resend, &welcome.drop]
                .map(|list| list.iter().filter(|listed| **listed == key).count());
            let fits = match decisions {
                [1, 0, 0] => !held.done && !foreign,
                [0, 1, 0] => held.done && !foreign,
                [0, 0, 1] => true,
                _ => false,
            };
            if !fits {
                return Err(format!("a welcome decides {decisions:?} (keep, resend, drop) on {held:?}"));
            }
        }
        let instance = link.registration.instance.clone();
        let has_left = link.entry.is_none();
        if let Some(holder) = self.holds.get_mut(&instance) {
            holder.worker = Some(welcome.worker.clone());
            holder.retired = holder.retired.filter(|_| has_left);
            holder.let_go("it was dropped on reconnect", |key| welcome.drop.contains(key));
            for key in &welcome.keep {
                holder.held.entry(*key).or_default();
            }
        }
        Ok(())
    }

    /// Whether this worker may get this attempt now; it holds it from here on.
    pub(super) fn execute(
        &mut self,
        moment: Moment,
        conn: ConnId,
        assignment: &Assignment,
        topology: &Topology,
    ) -> Result<Given, String> {
        let Some(link) = self.links.get_mut(&conn) else { return Err("no such connection".to_owned()) };
        let name = link.worker.clone();
        // What goes on in a session goes on where that is, also while its worker is on its way out.
        let own = assignment.session.is_some_and(|lease| !lease.new);
        let moved = |entry: &&Arc<WorkerSpec>, now: &Arc<WorkerSpec>| {
            matches!(WorkerSpec::change(entry, now), Some(Change::Moved { .. }))
        };
        let made_by = link.spec.clone().or_else(|| link.entry.clone());
        let by_the_roster = by_the_roster(&name);
        let spec = match (topology.workers.get(&name), made_by.as_ref().filter(|_| own)) {
            (Some(now), Some(entry)) if moved(&entry, now) => entry,
            (Some(now), _) => now,
            (None, Some(entry)) => entry,
            // It had left before the core began, which knows it by its roster.
            (None, None) if own => &by_the_roster,
            (None, None) => {
                return Err(format!("I8: {name} got work although it is not in the topology"));
            }
        };
        if link.leaving {
            return Err(format!("I8: {name} got work after its goodbye"));
        }
        let made_by = link.spec.get_or_insert_with(|| Arc::clone(spec));
        if let Some(Change::Moved { fields }) = WorkerSpec::change(made_by, spec) {
            return Err(format!("I8: {name} got work on a connection to where it was before: {fields:?}"));
        }
        let silent = since(moment, link.heard).saturating_sub(moment.late.saturating_sub(link.heard.late));
        if silent > topology.settings.suspect_after {
            return Err(format!("I8: {name} got work after {silent:?} of silence"));
        }
        let asked = &assignment.spec.capability;
        let offer = link.registration.capabilities.iter().find(|offer| offer.name.covers(asked));
        let (offered, idempotent) = (offer.is_some(), offer.is_some_and(|offer| offer.idempotent));
        let allowed = spec
            .capabilities
            .as_ref()
            .is_none_or(|allowed| allowed.iter().any(|allowed| allowed.covers(asked)));
        if !offered || !allowed {
            return Err(format!("I8: {name} got {asked}: offered {offered}, allowed {allowed}"));
        }
        let label = |name: &Arc<str>| spec.labels.get(name).or_else(|| link.registration.labels.get(name));
        if let Some((name_of, value)) =
            assignment.spec.labels.iter().find(|(name, value)| label(name) != Some(*value))
        {
            return Err(format!("I8: {name} got a task that wants {name_of}={value}"));
        }
        let wishes = assignment.spec.placement.iter().flat_map(|placement| &placement.preferred);
        let preferred = wishes.into_iter().all(|(name, value)| label(name) == Some(value));
        let slots = match (spec.slots, link.registration.slots) {
            (Some(ours), Some(theirs)) => ours.min(theirs),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => WorkerSpec::DEFAULT_SLOTS,
        };
        self.most_slots = self.most_slots.max(slots);
        let instance = link.registration.instance.clone();
        let holder = self.holds.entry(instance.clone()).or_default();
        holder.launched = spec.launch.is_some();
        holder.held.insert((assignment.task, assignment.epoch), None);
        if holder.held.len() > slots as usize {
            return Err(format!("I7: {name} has {slots} slots and holds {:?}", holder.held.keys()));
        }
        Ok(Given { worker: name, instance, idempotent, preferred })
    }

    /// Why a process no longer has an attempt, if there is a reason.
    pub(super) fn given_up(
        &self,
        moment: Moment,
        instance: &Instance,
        key: &Key,
        settings: &Settings,
    ) -> Option<String> {
        let Some(holder) = self.holds.get(instance) else { return Some("its process is unknown".to_owned()) };
        if !holder.held.contains_key(key) {
            let reason = holder.freed.get(key).copied();
            return Some(reason.unwrap_or("it did not say that it has it").to_owned());
        }
        let silent = since(moment, holder.heard);
        if silent >= settings.lease {
            return Some(format!("silent for {silent:?}"));
        }
        let (since, grace) = holder.retired?;
        let retired = moment.mono.since(since);
        let grace = grace.into_iter().chain(settings.removal_grace).min()?;
        (retired >= grace).then(|| format!("retired for {retired:?}"))
    }
}

impl Holder {
    fn let_go(&mut self, reason: &'static str, which: impl Fn(&Key) -> bool) {
        let freed: Vec<Key> = self.held.keys().filter(|key| which(key)).copied().collect();
        for key in freed {
            self.held.remove(&key);
            self.freed.insert(key, reason);
        }
    }
}

/// How long ago, without what the loop was away.
fn since(now: Moment, then: Moment) -> Duration {
    now.mono.since(then.mono).saturating_sub(now.away.saturating_sub(then.away))
}

/// The entry of a worker that had left the configuration before the core began: nothing is granted to it,
/// and nothing withheld.
fn by_the_roster(name: &WorkerName) -> Arc<WorkerSpec> {
    Arc::new(WorkerSpec {
        name: name.clone(),
        formerly: None,
        origin: Origin::File,
        pool: None,
        interface: InterfaceKind::Websocket,
        endpoint: None,
        capabilities: None,
        slots: None,
        timeout: WorkerSpec::DEFAULT_TIMEOUT,
        labels: BTreeMap::new(),
        launch: None,
        mock: MockSpec::default(),
    })
}
