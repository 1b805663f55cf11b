//! What a file may not do to a running server, although each line of it is right.

use std::collections::{BTreeMap, BTreeSet};

use super::Wanted;
use crate::config::{Config, Problem};
use crate::fleet::{PoolName, Topology};
use crate::manager::Snapshot;

/// A file may remove this many workers without a question, whatever their share.
const FEW: usize = 4;

/// One problem for each field that only a restart can change.
pub(super) fn restart(now: &Config, new: &Config) -> Vec<Problem> {
    let changed = now.fixed.iter().zip(&new.fixed).filter(|(was, is)| was.value != is.value);
    changed
        .map(|(was, is)| {
            let message = format!(
                "changing it from {} to {} takes a restart; the file is not taken before that",
                was.value, is.value
            );
            Problem { message, ..is.place.clone() }
        })
        .collect()
}

/// A problem if more than half of the fleet would go, for a truncated file looks just like that.
pub(super) fn mass_removal(
    before: &Topology,
    wanted: &Wanted,
    workers: &Snapshot,
    allowed: bool,
) -> Option<Problem> {
    if allowed || wanted.config.reload.allow_mass_removal {
        return None;
    }
    let wants = |name| wanted.config.topology.workers.contains_key(name) || wanted.added.contains_key(name);
    let renamed: BTreeSet<_> =
        wanted.config.topology.workers.values().filter_map(|spec| spec.formerly.as_ref()).collect();
    let removed = before.workers.keys().filter(|name| !wants(*name) && !renamed.contains(name)).count();
    let (instances, gone) = instances(before, &wanted.config.topology, workers);
    let (removed, all) = (removed + gone, before.workers.len() + instances);
    (removed > FEW && removed * 2 > all).then(|| {
        let message = format!(
            "removes {removed} of {all} workers; say reload.allow_mass_removal: true, or ask with \
             allow_mass_removal=true, if that is meant"
        );
        Problem::of(wanted.config.file.clone(), "workers", message)
    })
}

/// How many instances the pools have, and how many of them would go: with their pool, or because it
/// may not have so many any more.
fn instances(before: &Topology, new: &Topology, workers: &Snapshot) -> (usize, usize) {
    let mut counts: BTreeMap<&PoolName, usize> = BTreeMap::new();
    let pools = workers.workers.iter().filter_map(|view| view.pool.as_ref());
    for pool in pools.filter(|pool| before.pools.contains_key(*pool)) {
        *counts.entry(pool).or_default() += 1;
    }
    let most = |pool: &PoolName| {
        let stays = new.pools.get(pool);
        let renamed = || new.pools.values().find(|spec| spec.formerly.as_ref() == Some(pool));
        stays.or_else(renamed).map_or(0, |spec| spec.scaling.max as usize)
    };
    let gone = counts.iter().map(|(pool, count)| count.saturating_sub(most(pool))).sum();
    (counts.values().sum(), gone)
}
