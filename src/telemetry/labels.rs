//! Series by capability and by pool: which names have their own, which are folded into `other`, and
//! that they vanish with the topology that named them. Handles are cached, so that counting needs
//! one look into a map and no label is put together on the way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{HistogramVec, IntCounterVec, Registry};

use super::build::{ByWord, counters, detached_counters, histograms};
use super::catalogue::{self, Family};
use super::names::{CapabilitySeries, MAX_NAMES, Names, OTHER, PoolSeries, STATIC, Scope};
use crate::fleet::{AttemptOutcome, Capability, ConnectOutcome, PROBE, PoolName, Source, Topology};

/// The families with a capability or a pool among their labels, and who has series in them.
pub(super) struct Labels {
    names: ArcSwap<Names>,
    /// Held by whoever replaces `names`, or makes a series that `names` does not hold.
    writer: Mutex<()>,
    overflow: IntCounterVec,
    submissions: IntCounterVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    retries_held: IntCounterVec,
    dead_letters: IntCounterVec,
    /// With the label `capability` only.
    capability_histograms: [HistogramVec; 4],
    connects: IntCounterVec,
    connect_seconds: HistogramVec,
    disconnects: IntCounterVec,
    heartbeats: IntCounterVec,
    canaries: IntCounterVec,
    ejections: IntCounterVec,
    reconnects: IntCounterVec,
    send_queue_full: IntCounterVec,
    /// With the label `pool` only, and there for every pool.
    pool_histograms: [HistogramVec; 4],
}

impl Labels {
    pub(super) fn new(registry: &Registry, overflow: IntCounterVec) -> Self {
        use catalogue as c;
        let capability_histograms = [c::QUEUE_WAIT, c::EXECUTION, c::LATENCY, c::ATTEMPTS_PER_TASK];
        let pool_histograms = [c::DOWNTIME, c::HEARTBEAT_RTT, c::HEARTBEAT_LAG, c::START_ACK];
        let labels = Self {
            names: ArcSwap::default(),
            writer: Mutex::new(()),
            overflow,
            submissions: detached_counters(&c::TASK_SUBMISSIONS),
            attempts: counters(registry, &c::TASK_ATTEMPTS),
            retries: counters(registry, &c::TASK_RETRIES),
            retries_held: counters(registry, &c::TASK_RETRIES_HELD),
            dead_letters: counters(registry, &c::TASK_DEAD_LETTERS),
            capability_histograms: capability_histograms.map(|family| histograms(registry, &family)),
            connects: counters(registry, &c::CONNECTS),
            connect_seconds: histograms(registry, &c::CONNECT_SECONDS),
            disconnects: counters(registry, &c::DISCONNECTS),
            heartbeats: counters(registry, &c::HEARTBEATS),
            canaries: counters(registry, &c::CANARIES),
            ejections: counters(registry, &c::EJECTIONS),
            reconnects: counters(registry, &c::POOL_RECONNECTS),
            send_queue_full: counters(registry, &c::WS_SEND_QUEUE_FULL),
            pool_histograms: pool_histograms.map(|family| histograms(registry, &family)),
        };
        labels.apply(&Topology::default());
        labels
    }

    pub(super) fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    /// Takes up a topology: what it names is there at 0, and pools and workers that it lacks are
    /// gone. Capabilities that it lacks go with the next scrape (see [`Labels::settle`]).
    pub(super) fn apply(&self, topology: &Topology) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.names.load_full();
        let scope = Scope::of(topology);
        let mut names = Names::default();
        let wanted: BTreeSet<Arc<str>> = topology
            .workers
            .values()
            .filter_map(|spec| spec.pool.as_ref())
            .map(|pool| pool.0.clone())
            .chain(topology.pools.keys().map(|pool| pool.0.clone()))
            .collect();
        let (own, folded): (Vec<_>, Vec<_>) =
            wanted.into_iter().enumerate().partition(|(at, _)| *at < MAX_NAMES);
        let other = (!folded.is_empty()).then(|| Arc::from(OTHER));
        let lone = topology.workers.values().any(|spec| spec.pool.is_none()).then(|| Arc::from(STATIC));
        for label in own.into_iter().map(|(_, label)| label).chain(lone).chain(other) {
            let dialled = scope.dialled.contains(&label);
            names.pools.entry(label.clone()).or_insert_with(|| Arc::new(self.pool_series(label, dialled)));
        }
        names.folded_pools = Arc::new(folded.into_iter().map(|(_, label)| label).collect());
        let workers = topology.workers.iter();
        names.workers = Arc::new(
            workers
                .filter_map(|(name, spec)| Some((name.clone(), names.pool(spec.pool.as_ref())?.clone())))
                .collect(),
        );
        let probe = Capability::from(PROBE);
        let kept: BTreeSet<&Capability> =
            old.capabilities.keys().chain(scope.exact()).chain([&probe]).collect();
        for capability in kept {
            if !names.are_full() || old.capabilities.contains_key(capability) {
                let series = self.capability_series(capability, &scope);
                names.capabilities.insert(capability.clone(), Arc::new(series));
            }
        }
        names.scope = Arc::new(scope);
        for gone in old.pools.keys().filter(|label| !names.pools.contains_key(*label)) {
            self.remove_pool(gone, &old);
        }
        self.names.store(Arc::new(names));
    }

    /// The series of a capability that something happened to: its own, or those of `other`. The
    /// family is the one that is about to be written, for the count of what was folded.
    pub(super) fn capability(&self, capability: &Capability, family: &Family) -> Arc<CapabilitySeries> {
        let names = self.names.load();
        if let Some(series) = names.capabilities.get(capability) {
            return series.clone();
        }
        if names.covers(capability) && !names.are_full() {
            return self.admit(capability);
        }
        self.folded(family)
    }

    /// The series of a capability that a client named and the core refused: no new name.
    pub(super) fn refused(&self, capability: &Capability, family: &Family) -> Arc<CapabilitySeries> {
        let names = self.names.load();
        names.capabilities.get(capability).cloned().unwrap_or_else(|| self.folded(family))
    }

    fn folded(&self, family: &Family) -> Arc<CapabilitySeries> {
        self.overflow.with_label_values(&[family.name]).inc();
        let other = Capability::from(OTHER);
        let series = self.names.load().capabilities.get(&other).cloned();
        series.unwrap_or_else(|| self.admit(&other))
    }

    /// Gives a capability its own series.
    fn admit(&self, capability: &Capability) -> Arc<CapabilitySeries> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = Names::clone(&self.names.load());
        let scope = names.scope.clone();
        let series = names
            .capabilities
            .entry(capability.clone())
            .or_insert_with(|| Arc::new(self.capability_series(capability, &scope)))
            .clone();
        self.names.store(Arc::new(names));
        series
    }

    /// Counts an attempt that ended on a worker of that pool.
    pub(super) fn attempt_ended(
        &self,
        capability: &Capability,
        pool: Option<&PoolName>,
        outcome: &'static str,
    ) {
        let series = self.capability(capability, &catalogue::TASK_ATTEMPTS);
        let names = self.names.load();
        let Some(pool) = names.pool(pool) else { return };
        if let Some(attempts) = series.attempts.get(&pool.name) {
            return attempts.count(outcome);
        }
        // A worker that states no capabilities, or one whose words have just changed.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.names.load();
        if !names.pools.contains_key(&pool.name) {
            return;
        }
        let known = names.capabilities.contains_key(capability);
        let label = if known { capability.as_str() } else { OTHER };
        self.attempts.with_label_values(&[label, &pool.name, outcome]).inc();
    }

    /// Probes are sent to that pool, or none are any more: only where they are, silence tells something.
    pub(super) fn probed(&self, pool: Option<&PoolName>, is_probed: bool) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.names.load();
        let Some(pool) = names.pool(pool) else { return };
        if is_probed {
            let outcome = AttemptOutcome::Succeeded.as_str();
            self.attempts.with_label_values(&[PROBE, &*pool.name, outcome]);
        } else {
            remove_words(&self.attempts, &catalogue::TASK_ATTEMPTS, &[PROBE, &*pool.name]);
        }
    }

    /// Counts a try to connect, and how long it took where the server dialled. Rare, so no handle is
    /// kept for it.
    pub(super) fn connected(&self, pool: &PoolSeries, outcome: ConnectOutcome, took: Option<Duration>) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.names.load().pools.contains_key(&pool.name) {
            return;
        }
        self.connects.with_label_values(&[&*pool.name, outcome.as_str()]).inc();
        if let Some(took) = took {
            self.connect_seconds.with_label_values(&[&*pool.name]).observe(took.as_secs_f64());
        }
    }

    /// Gives every live capability a name (or folds it) and lets those go that are neither in the
    /// topology nor alive; then tells the names.
    pub(super) fn settle(&self, is_live: impl Fn(&Capability) -> bool) -> Arc<Names> {
        let names = self.names.load_full();
        let stays = |name: &Capability| is_reserved(name) || names.covers(name) || is_live(name);
        if names.capabilities.keys().all(stays) {
            return names;
        }
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = Names::clone(&self.names.load());
        let pools: Vec<_> = names.pools.keys().cloned().collect();
        let scope = names.scope.clone();
        names.capabilities.retain(|name, _| {
            let stays = is_reserved(name) || scope.covers(name) || is_live(name);
            if !stays {
                self.remove_capability(name, &pools);
            }
            stays
        });
        let names = Arc::new(names);
        self.names.store(names.clone());
        names
    }

    /// A name for a capability that has live tasks although nothing happened to it since the start.
    pub(super) fn name_live(&self, capability: &Capability) -> bool {
        if self.names.load().are_full() {
            return false;
        }
        self.admit(capability);
        true
    }

    fn capability_series(&self, capability: &Capability, scope: &Scope) -> CapabilitySeries {
        let name = capability.as_str();
        let [wait, execution, latency, attempts_per_task] =
            [0, 1, 2, 3].map(|at: usize| self.capability_histograms[at].with_label_values(&[name]));
        let series = CapabilitySeries {
            submissions: Source::ALL.map(|source| {
                ByWord::of(&catalogue::TASK_SUBMISSIONS, |outcome| {
                    self.submissions.with_label_values(&[name, source.as_str(), outcome])
                })
            }),
            retries: ByWord::of(&catalogue::TASK_RETRIES, |reason| {
                self.retries.with_label_values(&[name, reason])
            }),
            retries_held: self.retries_held.with_label_values(&[name]),
            dead_letters: ByWord::of(&catalogue::TASK_DEAD_LETTERS, |cause| {
                self.dead_letters.with_label_values(&[name, cause])
            }),
            wait,
            execution,
            latency,
            attempts_per_task,
            attempts: scope
                .pools_for(capability)
                .into_iter()
                // Probes go to those pools that have something to ask; see `probed`.
                .filter(|_| name != PROBE)
                .map(|pool| {
                    let attempts = ByWord::of(&catalogue::TASK_ATTEMPTS, |outcome| {
                        self.attempts.with_label_values(&[name, &*pool, outcome])
                    });
                    (pool, attempts)
                })
                .collect(),
        };
        if name == PROBE {
            // A probe is tried once, is no dead letter, and asks for next to nothing: nobody misses these.
            let [wait, execution, _, attempts_per_task] = &self.capability_histograms;
            for vec in [wait, execution, attempts_per_task] {
                drop(vec.remove_label_values(&[name]));
            }
            remove_words(&self.retries, &catalogue::TASK_RETRIES, &[name]);
            drop(self.retries_held.remove_label_values(&[name]));
            remove_words(&self.dead_letters, &catalogue::TASK_DEAD_LETTERS, &[name]);
        }
        series
    }

    fn pool_series(&self, name: Arc<str>, dialled: bool) -> PoolSeries {
        let [downtime, rtt, lag, start_ack] =
            [0, 1, 2, 3].map(|at: usize| self.pool_histograms[at].with_label_values(&[&*name]));
        for outcome in ConnectOutcome::ALL.iter().filter(|outcome| dialled || !is_of_dialling(**outcome)) {
            self.connects.with_label_values(&[&*name, outcome.as_str()]);
        }
        if dialled {
            self.connect_seconds.with_label_values(&[&*name]);
        }
        let words = |family: &Family, vec: &IntCounterVec| {
            ByWord::of(family, |word| vec.with_label_values(&[&*name, word]))
        };
        PoolSeries {
            disconnects: words(&catalogue::DISCONNECTS, &self.disconnects),
            heartbeats: words(&catalogue::HEARTBEATS, &self.heartbeats),
            canaries: words(&catalogue::CANARIES, &self.canaries),
            ejections: words(&catalogue::EJECTIONS, &self.ejections),
            reconnects: self.reconnects.with_label_values(&[&*name]),
            send_queue_full: self.send_queue_full.with_label_values(&[&*name]),
            downtime,
            rtt,
            lag,
            start_ack,
            name,
        }
    }

    // A series that was never made cannot be removed, which is no failure: so the results below
    // are dropped.

    fn remove_capability(&self, capability: &Capability, pools: &[Arc<str>]) {
        let name = capability.as_str();
        for vec in &self.capability_histograms {
            drop(vec.remove_label_values(&[name]));
        }
        for source in Source::ALL {
            remove_words(&self.submissions, &catalogue::TASK_SUBMISSIONS, &[name, source.as_str()]);
        }
        remove_words(&self.retries, &catalogue::TASK_RETRIES, &[name]);
        drop(self.retries_held.remove_label_values(&[name]));
        remove_words(&self.dead_letters, &catalogue::TASK_DEAD_LETTERS, &[name]);
        for pool in pools {
            remove_words(&self.attempts, &catalogue::TASK_ATTEMPTS, &[name, pool]);
        }
    }

    fn remove_pool(&self, pool: &str, names: &Names) {
        for vec in self.pool_histograms.iter().chain([&self.connect_seconds]) {
            drop(vec.remove_label_values(&[pool]));
        }
        for vec in [&self.reconnects, &self.send_queue_full] {
            drop(vec.remove_label_values(&[pool]));
        }
        remove_words(&self.connects, &catalogue::CONNECTS, &[pool]);
        remove_words(&self.disconnects, &catalogue::DISCONNECTS, &[pool]);
        remove_words(&self.heartbeats, &catalogue::HEARTBEATS, &[pool]);
        remove_words(&self.canaries, &catalogue::CANARIES, &[pool]);
        remove_words(&self.ejections, &catalogue::EJECTIONS, &[pool]);
        for capability in names.capabilities.keys() {
            remove_words(&self.attempts, &catalogue::TASK_ATTEMPTS, &[capability.as_str(), pool]);
        }
    }
}

/// Whether it is a name of our own and no capability's, which stays.
fn is_reserved(name: &Capability) -> bool {
    matches!(name.as_str(), OTHER | PROBE)
}

/// Whether only a dialling server can see it.
fn is_of_dialling(outcome: ConnectOutcome) -> bool {
    match outcome {
        ConnectOutcome::Refused | ConnectOutcome::Timeout | ConnectOutcome::Dns | ConnectOutcome::Tls => true,
        ConnectOutcome::Ok
        | ConnectOutcome::Auth
        | ConnectOutcome::Handshake
        | ConnectOutcome::Version
        | ConnectOutcome::Duplicate => false,
    }
}

/// Removes a series for each word of the family's last label.
fn remove_words(vec: &IntCounterVec, family: &Family, head: &[&str]) {
    ByWord::of(family, |word| {
        let labels: Vec<&str> = head.iter().copied().chain([word]).collect();
        drop(vec.remove_label_values(&labels));
    });
}
