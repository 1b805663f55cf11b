//! The published picture of the workers: rebuilt only where something changed, and under load at
//! most every 50 ms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{Shared, Snapshot};
use crate::fleet::{Fleet, Now, Offer, WorkerView};

/// The picture is so old at most.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Views {
    workers: Vec<Arc<WorkerView>>,
    published: Option<Instant>,
}

impl Views {
    pub(super) fn new() -> Self {
        Self { workers: Vec::new(), published: None }
    }

    /// Publishes what has changed, unless that was done a moment ago; then says when it is due.
    pub(super) fn settle(
        &mut self,
        fleet: &mut Fleet,
        pass: (Instant, Now),
        shared: &Shared,
    ) -> Option<Instant> {
        if fleet.take_pools_changed() {
            shared.pools.publish(fleet.pools());
        }
        if !fleet.has_changes() {
            return None;
        }
        let due = self.published.map(|at| at + PUBLISH_EVERY).filter(|due| *due > pass.0);
        if due.is_none() {
            self.publish(fleet, pass, shared);
        }
        due
    }

    /// Publishes what has changed, now.
    pub(super) fn publish(&mut self, fleet: &mut Fleet, (moment, now): (Instant, Now), shared: &Shared) {
        for (name, view) in fleet.take_changes() {
            let at = self.workers.binary_search_by(|known| known.name.cmp(&name));
            let before = at.ok().map(|at| offered(&self.workers[at])).unwrap_or_default();
            let after = view.as_ref().map(offered).unwrap_or_default();
            if !Arc::ptr_eq(&before, &after) {
                shared.schemas.changed(&before, &after);
            }
            match (at, view) {
                (Ok(at), Some(view)) => self.workers[at] = Arc::new(view),
                (Err(at), Some(view)) => self.workers.insert(at, Arc::new(view)),
                (Ok(at), None) => {
                    self.workers.remove(at);
                }
                (Err(_), None) => {}
            }
        }
        if fleet.take_pools_changed() {
            shared.pools.publish(fleet.pools());
        }
        self.published = Some(moment);
        shared.snapshot.store(Arc::new(Snapshot { workers: self.workers.clone(), at: now }));
        shared.snapshot_changed.notify_waiters();
    }
}

/// What a worker has said that it offers. What only the topology says has no schemas, and must not
/// be taken for a worker that wants none.
fn offered(view: &WorkerView) -> Arc<[Offer]> {
    if view.has_registered { Arc::clone(&view.capabilities) } else { Arc::default() }
}
