//! The names that label values are made of: those of the topology in force, with the handles of
//! their series, and what they are folded into beyond the limit.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prometheus::{Histogram, IntCounter};
use rustc_hash::FxHashMap;

use super::build::ByWord;
use crate::fleet::{Capability, InterfaceKind, PROBE, PoolName, Source, Topology, WorkerName};

/// Names with series of their own, for capabilities and pools each.
pub(super) const MAX_NAMES: usize = 200;
/// What the rest is counted under.
pub(super) const OTHER: &str = "other";
/// The pool of workers that have none, there while there are such; reserved.
pub(super) const STATIC: &str = "static";

/// The series of one capability.
pub(super) struct CapabilitySeries {
    /// By source, in `Source::ALL` order, then by outcome; `accepted` stays 0 here, because the
    /// core's own count is shown.
    pub(super) submissions: [ByWord<IntCounter>; Source::ALL.len()],
    pub(super) retries: ByWord<IntCounter>,
    pub(super) retries_held: IntCounter,
    pub(super) dead_letters: ByWord<IntCounter>,
    pub(super) wait: Histogram,
    pub(super) execution: Histogram,
    pub(super) latency: Histogram,
    pub(super) attempts_per_task: Histogram,
    /// By the pools whose workers may offer it.
    pub(super) attempts: HashMap<Arc<str>, ByWord<IntCounter>>,
}

/// The series of one pool.
pub(super) struct PoolSeries {
    pub(super) name: Arc<str>,
    pub(super) disconnects: ByWord<IntCounter>,
    pub(super) heartbeats: ByWord<IntCounter>,
    pub(super) canaries: ByWord<IntCounter>,
    pub(super) ejections: ByWord<IntCounter>,
    pub(super) reconnects: IntCounter,
    pub(super) send_queue_full: IntCounter,
    pub(super) downtime: Histogram,
    pub(super) rtt: Histogram,
    pub(super) lag: Histogram,
    pub(super) start_ack: Histogram,
}

/// What the topology in force says about labels.
#[derive(Default)]
pub(super) struct Scope {
    /// What workers may be asked for, with their pool.
    offers: BTreeSet<(Capability, Arc<str>)>,
    /// Whether a worker states nothing and may so offer anything.
    open: bool,
    /// The pools with workers that the server dials.
    pub(super) dialled: BTreeSet<Arc<str>>,
}

impl Scope {
    pub(super) fn of(topology: &Topology) -> Self {
        let mut scope = Self::default();
        let templates = topology.pools.values().map(|pool| (&pool.template, Some(&pool.name)));
        let workers = topology.workers.values().map(|spec| (&**spec, spec.pool.as_ref()));
        for (spec, pool) in workers.chain(templates) {
            let pool = pool_label(pool);
            if spec.interface == InterfaceKind::Mock || spec.endpoint.is_some() || spec.launch.is_some() {
                scope.dialled.insert(pool.clone());
            }
            match &spec.capabilities {
                Some(list) => scope.offers.extend(list.iter().map(|offer| (offer.clone(), pool.clone()))),
                None => scope.open = true,
            }
        }
        scope
    }

    pub(super) fn covers(&self, capability: &Capability) -> bool {
        self.open || self.offers.iter().any(|(offer, _)| offer.covers(capability))
    }

    pub(super) fn pools_for(&self, capability: &Capability) -> BTreeSet<Arc<str>> {
        let offers = self.offers.iter().filter(|(offer, _)| offer.covers(capability));
        offers.map(|(_, pool)| pool.clone()).collect()
    }

    pub(super) fn exact(&self) -> impl Iterator<Item = &Capability> {
        self.offers.iter().map(|(offer, _)| offer).filter(|offer| !offer.as_str().ends_with('*'))
    }
}

fn pool_label(pool: Option<&PoolName>) -> Arc<str> {
    pool.map_or_else(|| STATIC.into(), |pool| pool.0.clone())
}

/// Every name at one moment; replaced whole.
#[derive(Clone, Default)]
pub(super) struct Names {
    pub(super) capabilities: FxHashMap<Capability, Arc<CapabilitySeries>>,
    /// By label; `static` and `other` are among them where they are needed.
    pub(super) pools: FxHashMap<Arc<str>, Arc<PoolSeries>>,
    pub(super) workers: Arc<HashMap<WorkerName, Arc<PoolSeries>>>,
    /// Pools of the topology that are counted under `other`.
    pub(super) folded_pools: Arc<BTreeSet<Arc<str>>>,
    pub(super) scope: Arc<Scope>,
}

impl Names {
    /// The series of a pool of the topology in force; none for one that has left it.
    pub(super) fn pool(&self, pool: Option<&PoolName>) -> Option<&Arc<PoolSeries>> {
        let label = pool.map_or(STATIC, PoolName::as_str);
        let folded = || self.folded_pools.contains(label).then(|| self.pools.get(OTHER)).flatten();
        self.pools.get(label).or_else(folded)
    }

    /// The series of a worker's pool; none for a worker that has left the topology.
    pub(super) fn of_worker(&self, worker: &WorkerName) -> Option<&Arc<PoolSeries>> {
        // Instances of a pool come and go while a generation is in force; their names tell.
        let instance = || self.pool(crate::config::pool_of(worker.as_str()).as_ref());
        self.workers.get(worker).or_else(instance)
    }

    /// The series of a worker as it is shown.
    pub(super) fn of_view(&self, view: &crate::fleet::WorkerView) -> Option<&Arc<PoolSeries>> {
        let instance = || view.pool.as_ref().and_then(|pool| self.pool(Some(pool)));
        self.workers.get(&view.name).or_else(instance)
    }

    /// Whether no further capability can have series of its own; those of probes are no capability's.
    pub(super) fn are_full(&self) -> bool {
        let probes = usize::from(self.capabilities.contains_key(&Capability::from(PROBE)));
        self.capabilities.len() - probes >= MAX_NAMES
    }

    /// Whether the topology in force lets a worker be asked for it.
    pub(super) fn covers(&self, capability: &Capability) -> bool {
        self.scope.covers(capability)
    }
}
