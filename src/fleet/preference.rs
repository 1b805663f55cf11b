//! Where a task would rather run: near its caller, in one region, on one cloud. It waits for such a
//! worker for as long as it says, and then takes any other that will do. A preference is a demand of
//! its own, so that queue, index, pools and `explain` treat it like every other.

use std::sync::Arc;

use super::Fleet;
use super::balancer::Labels;
use super::lifecycle::Phase;
use super::planted::{Planted, planted};
use super::slab::{DemandIx, TaskIx};
use super::task::TaskSpec;
use super::timers::Timer;
use super::words::Refusal;

/// What a worker must have to be preferred.
fn preferred_labels(spec: &TaskSpec) -> Option<Labels> {
    let placement = spec.placement.as_ref()?;
    let mut labels = spec.labels.clone();
    labels.extend(placement.preferred.iter().map(|(name, value)| (name.clone(), value.clone())));
    Some(labels)
}

impl Fleet {
    /// Whether there is room for the demand that a task's preference makes.
    pub(super) fn admit_preference(&mut self, spec: &TaskSpec) -> Result<(), Refusal> {
        match preferred_labels(spec) {
            Some(labels) => self.demand(&spec.capability, &labels).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Chooses the demand under which a task that may start looks for a worker: the one that it prefers
    /// while it waits for that, or while one of those is free.
    pub(super) fn aim(&mut self, ix: TaskIx) {
        let spec = Arc::clone(&self.tasks[ix].spec);
        let Some(placement) = &spec.placement else { return };
        // In a session there is no choice: its worker alone has the state.
        if self.balancer.demands[self.tasks[ix].demand].only.is_some() {
            return;
        }
        let Some(labels) = preferred_labels(&spec) else { return };
        let near = self.demand_in_any_case(&spec.capability, &labels, None);
        let waits = placement.fallback_after.is_some() && !planted(Planted::PreferenceIgnored);
        let aims_near = waits || self.balancer.has_free(near);
        let demand =
            if aims_near { near } else { self.demand_in_any_case(&spec.capability, &spec.labels, None) };
        self.count_under(ix, demand);
        if !waits {
            return;
        }
        if let (Some(wait), Phase::Waiting(waiting)) = (placement.fallback_after, &mut self.tasks[ix].phase) {
            waiting.fallback = Some(self.timers.set(self.now.mono + wait, Timer::Fallback(ix)));
        }
    }

    /// The slot that a task was given is gone. Without a wait it is not left among those who wait for the
    /// workers that it prefers.
    pub(super) fn aim_again(&mut self, ix: TaskIx) {
        if self.tasks[ix].spec.placement.as_ref().is_some_and(|placement| placement.fallback_after.is_none())
        {
            self.aim(ix);
        }
    }

    /// A task has waited for the workers that it prefers: from now on any will do.
    pub(super) fn fall_back(&mut self, ix: TaskIx) {
        let Phase::Waiting(waiting) = &mut self.tasks[ix].phase else { return };
        waiting.fallback = None;
        if planted(Planted::NeverFallsBack) {
            return;
        }
        let is_given = waiting.reading_for.is_some();
        // It keeps its place among those who came before and after it.
        let number = waiting.ticket.as_ref().map(|ticket| ticket.number);
        self.unqueue(ix);
        let spec = Arc::clone(&self.tasks[ix].spec);
        let demand = self.demand_in_any_case(&spec.capability, &spec.labels, None);
        self.count_under(ix, demand);
        if is_given {
            // One that it prefers has a slot for it by now: only its input is still on its way.
            return;
        }
        self.place_as(ix, number);
    }

    /// Moves a task that is in no queue to another demand.
    pub(super) fn count_under(&mut self, ix: TaskIx, demand: DemandIx) {
        let before = std::mem::replace(&mut self.tasks[ix].demand, demand);
        self.balancer.demands[before].tasks -= 1;
        self.balancer.demands[demand].tasks += 1;
    }
}
