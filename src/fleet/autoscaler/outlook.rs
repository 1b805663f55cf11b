//! What a task that waits for a pool is told.

use super::Pool;
use crate::fleet::Fleet;
use crate::fleet::balancer::Demand;

impl Fleet {
    /// What there is to say of the pools that could take a demand, and the shortest fix: of the one
    /// that is nearest to having an instance for it.
    pub(in crate::fleet) fn outlook(&self, entry: &Demand) -> Option<(String, Option<String>)> {
        let able = self.pools.by_name.values();
        let able = able.filter(|pool| !pool.removed && pool.suits(&entry.capability, &entry.labels));
        let pool = able.min_by_key(|pool| (pool.desired == 0, pool.failures))?;
        let name = &pool.spec.name;
        let at_work = match (&pool.error, pool.desired, pool.members.len()) {
            (Some(error), ..) => format!("its provider fails: {error}"),
            (None, 0, 0) if is_paused(pool) => "it is paused at no instances".to_owned(),
            (None, 0, 0) => "it starts an instance within a second".to_owned(),
            (None, desired, _) => format!("{desired} wanted, and none of them is ready yet"),
        };
        let fix = if pool.error.is_some() || (pool.desired == 0 && is_paused(pool)) {
            format!("rollcall pools explain {name}")
        } else {
            "wait until the instance is ready".to_owned()
        };
        Some((format!("pool {name} is to take it: {at_work}"), Some(fix)))
    }
}

fn is_paused(pool: &Pool) -> bool {
    pool.paused || pool.spec.scaling.paused
}
