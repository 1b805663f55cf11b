//! Autoscaler: pools of like workers whose number follows the work. `spec.rs` is what the topology
//! says, `rule.rs` how many there ought to be, `evaluate.rs` looks and decides, `members.rs` lets
//! instances come and go, `provide.rs` speaks to whoever makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

mod demand;
mod evaluate;
mod forecast;
mod members;
mod outlook;
mod provide;
mod rule;
mod spec;
mod words;

pub use demand::{DemandSample, work_of};
pub use forecast::{Demand, Forecast, Instance, forecast, forecast_with};
pub(super) use members::pool_changes;
pub use rule::{Autoscaler, Decision, Direction, Hold, Inputs, Limits, Reason};
pub use spec::*;
pub use words::*;

use super::balancer::Labels;
use super::ids::{Capability, PoolName, WorkerName};
use super::notes::Note;
use super::probe::PROBE;
use super::time::{Mono, Wall};
use super::timers::TimerKey;
use super::words::Offer;
use demand::Demands;

/// What waits ought to be done within this time: a waiting task whose usual execution time is
/// shorter asks for less than a slot of its own, since a slot does several of them meanwhile. It is
/// about what a worker takes to start, so that nothing is started for work that is done before.
pub const WORK_HORIZON: Duration = Duration::from_secs(10);

/// A pool is looked at so often while it has something to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// And so often while it has not.
const LOOK_IDLE: Duration = Duration::from_secs(10);

/// Events do not make it be looked at more often than this.
const LOOK_APART: Duration = Duration::from_millis(100);

/// Names that a view lists at most.
const SHOWN_NAMES: usize = 16;

/// All pools.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pub(super) by_name: BTreeMap<PoolName, Pool>,
    demands: Demands,
    due: Option<TimerKey>,
    looked: Option<Mono>,
    /// What the journal had kept of pools, until the topology is known.
    pub(super) kept: BTreeMap<PoolName, PoolRecord>,
    /// Something that is shown may have changed.
    pub(super) changed: bool,
    /// Something happened for which a look should not wait.
    hurry: bool,
}

/// One pool as it is.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) spec: Arc<PoolSpec>,
    rule: Autoscaler,
    pub(super) desired: u32,
    paused: bool,
    by: Option<Arc<str>>,
    at: Wall,
    /// Its entry is gone: it goes once its instances have.
    removed: bool,
    /// Instances that are there or on their way, without those that leave.
    pub(super) members: BTreeMap<WorkerName, Member>,
    /// Instances that leave, and of which a hook is to be told once they have.
    victims: BTreeSet<WorkerName>,
    /// Why it changed last, for the provider.
    why: &'static str,
    call: Option<Call>,
    calls: u64,
    /// Instances as far as the provider was told.
    told: u32,
    failures: u32,
    error: Option<Arc<str>>,
    retry_at: Option<(Mono, Wall)>,
    /// Slots of an instance, as one last had them.
    slots: Option<u32>,
    /// What an instance last said that it offers, and its labels: for a pool that has none now.
    said: Option<Arc<[Offer]>>,
    labels: Option<Labels>,
    last: Option<Decision>,
    missing: Vec<WorkerName>,
    unwanted: Vec<WorkerName>,
    recorded: PoolRecord,
}

/// An instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) index: u32,
    port: Option<u16>,
    /// When it was decided upon.
    since: Mono,
    /// It was ready once.
    arrived: bool,
    /// It was made by an older template.
    pub(super) outdated: bool,
}

/// A call of the provider that is under way.
#[derive(Debug)]
struct Call {
    number: u64,
    to: u32,
    added: Vec<(WorkerName, u32)>,
    victims: Vec<WorkerName>,
    since: Mono,
}

impl Pool {
    /// Whether its workers could be asked for a capability, as far as its template or they say.
    pub(super) fn could_offer(&self, capability: &Capability) -> bool {
        match (&self.spec.template.capabilities, &self.said) {
            (Some(allowed), _) => allowed.iter().any(|allowed| allowed.covers(capability)),
            (None, Some(said)) => said.iter().any(|offer| offer.name.covers(capability)),
            (None, None) => true,
        }
    }

    /// Whether an instance could take a task that asks for this, as far as is known.
    fn suits(&self, capability: &Capability, labels: &Labels) -> bool {
        let template = &self.spec.template.labels;
        let has = |(label, value): (&Arc<str>, &Arc<str>)| {
            let known = template.get(label).or_else(|| self.labels.as_ref().and_then(|said| said.get(label)));
            // `{index}` and the like fit whatever is asked.
            known.is_some_and(|known| known == value || known.contains('{'))
        };
        let says = self.said.as_ref().is_none_or(|said| {
            said.iter().any(|offer| offer.name.covers(capability) || capability.covers(&offer.name))
        });
        self.could_offer(capability) && says && labels.iter().all(has)
    }
}

impl Pools {
    /// Whether there is nothing to do here, ever: then it costs nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether some pool could ever offer a capability.
    pub(super) fn could_offer(&self, capability: &Capability) -> bool {
        self.by_name.values().any(|pool| !pool.removed && pool.could_offer(capability))
    }

    /// What the templates state, for suggestions.
    pub(super) fn stated(&self) -> impl Iterator<Item = &Capability> {
        self.by_name.values().flat_map(|pool| pool.spec.template.capabilities.iter().flatten())
    }

    /// What happens in the fleet, as far as it matters to pools.
    pub(super) fn heard(&mut self, note: &Note) {
        if self.is_empty() {
            return;
        }
        match note {
            // What the server asks itself is nobody's demand.
            Note::Submitted { capability, .. } | Note::AttemptEnded { capability, .. }
                if capability.as_str() == PROBE => {}
            Note::Blocked(_) | Note::WorkerState { pool: Some(_), .. } => self.hurry = true,
            Note::Submitted { capability, outcome: "accepted", .. } => self.demands.arrived(capability),
            Note::AttemptEnded { capability, execution: Some(took), .. } => {
                self.demands.ended(capability, *took);
            }
            Note::Submitted { .. }
            | Note::AttemptEnded { .. }
            | Note::WorkerState { .. }
            | Note::Assigned { .. }
            | Note::Started { .. }
            | Note::Retried { .. }
            | Note::RetryHeld { .. }
            | Note::Ended { .. }
            | Note::Discarded { .. }
            | Note::Reconciled { .. }
            | Note::Canary { .. }
            | Note::Health { .. }
            | Note::Connected { .. }
            | Note::Disconnected { .. }
            | Note::Heartbeat { .. }
            | Note::PoolDecided { .. }
            | Note::PoolCalled { .. }
            | Note::PoolCapacity { .. }
            | Note::PoolOdd { .. }
            | Note::Applied { .. } => {}
        }
    }
}
