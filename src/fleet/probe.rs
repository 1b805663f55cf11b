//! Probes: tasks that the server sends to itself, one for each pool now and then, by the whole way that
//! a caller's task goes. What is asked is the pool's canary, but unlike a canary a probe is a real task:
//! admitted, recorded, queued, handed over, and its result kept. It has a tenant and a name in the
//! metrics of its own, so that nobody finds it among callers' tasks, and nothing is done for its sake:
//! no pool grows for it, it is no dead letter, and that it went well mends no worker's standing.

use std::sync::Arc;
use std::time::Duration;

use super::canary::Canary;
use super::ids::{Capability, PoolName, Tenant};
use super::lifecycle::Task;
use super::task::{Deadline, TaskRecord, TaskSpec};

/// What probes are counted under in the place of their capability, and their tenant's name. No worker
/// can be asked for it.
pub const PROBE: &str = "_probe";

/// The label that stands for the pool of a worker in what a task asks for; no worker can state it.
pub(super) const POOL_LABEL: &str = "_pool";

/// What workers of no pool have in that label's place.
const NO_POOL: &str = "static";

/// How long a probe may take in all; the next one comes about then.
const LIMIT: Duration = Duration::from_secs(60);

/// The value of [`POOL_LABEL`] that a worker has.
pub(super) fn pool_label(pool: Option<&PoolName>) -> &str {
    pool.map_or(NO_POOL, PoolName::as_str)
}

impl Tenant {
    /// Whose probes are.
    pub fn of_probes() -> Self {
        Self::from(PROBE)
    }

    fn is_of_probes(&self) -> bool {
        self.as_str() == PROBE
    }
}

impl TaskSpec {
    /// The probe of a pool, or of the workers that have none.
    pub fn probe(canary: Canary, pool: Option<&PoolName>) -> Self {
        let Canary { capability, input } = canary;
        Self {
            labels: [(Arc::from(POOL_LABEL), Arc::from(pool_label(pool)))].into(),
            deadline: Some(Deadline::After(LIMIT)),
            // What is lost on the way is what it is to find out.
            max_attempts: Some(1),
            ..Self::new(capability, input)
        }
    }
}

impl TaskRecord {
    /// Whether the server sent it to itself.
    pub fn is_probe(&self) -> bool {
        self.tenant.is_of_probes()
    }

    /// What it is counted under.
    pub fn counted_as(&self) -> Capability {
        name_of(&self.tenant, &self.spec)
    }
}

impl Task {
    /// Whether the server sent it to itself.
    pub(super) fn is_probe(&self) -> bool {
        self.tenant.is_of_probes()
    }

    /// What it is counted under.
    pub(super) fn counted_as(&self) -> Capability {
        name_of(&self.tenant, &self.spec)
    }
}

/// What a task of that tenant is counted under.
pub(super) fn name_of(tenant: &Tenant, spec: &TaskSpec) -> Capability {
    if tenant.is_of_probes() { Capability::from(PROBE) } else { spec.capability.clone() }
}
