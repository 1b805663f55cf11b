//! What a file may not do to a running server, although each line of it is right.

use std::collections::BTreeSet;

use super::Wanted;
use crate::config::{Config, Problem};
use crate::fleet::Topology;

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
pub(super) fn mass_removal(before: &Topology, wanted: &Wanted, allowed: bool) -> Option<Problem> {
    if allowed || wanted.config.reload.allow_mass_removal {
        return None;
    }
    let wants = |name| wanted.config.topology.workers.contains_key(name) || wanted.added.contains_key(name);
    let renamed: BTreeSet<_> =
        wanted.config.topology.workers.values().filter_map(|spec| spec.formerly.as_ref()).collect();
    let removed = before.workers.keys().filter(|name| !wants(*name) && !renamed.contains(name)).count();
    let all = before.workers.len();
    (removed > FEW && removed * 2 > all).then(|| {
        let message = format!(
            "removes {removed} of {all} workers; say reload.allow_mass_removal: true, or ask with \
             allow_mass_removal=true, if that is meant"
        );
        Problem::of(wanted.config.file.clone(), "workers", message)
    })
}
