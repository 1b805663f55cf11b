//! What the fleet tells of its pools: how they are, what was decided and why, and what they were
//! asked for, so that another policy can be judged by it. Bounded, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::fleet::autoscaler::DemandSample;
use crate::fleet::{Decision, Direction, Note, PoolName, PoolView, Wall};

/// Decisions of one pool that are kept.
const DECISIONS: usize = 200;
/// The span of one point of the recorded demand.
const POINT: Duration = Duration::from_secs(10);
/// Points of one pool that are kept: a day.
const POINTS: usize = 24 * 360;

/// A decision, and what followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The newest of them, where several in a row say the same.
    pub decision: Arc<Decision>,
    /// When the first of them was made.
    pub since: Wall,
    /// How many they are.
    pub looks: u64,
    /// How the provider's call ended that followed: outcome, time, and what was wrong.
    pub hook: Option<(&'static str, Duration, Option<Arc<str>>)>,
    /// Instances that were ready after it, and how long the last of them took.
    pub arrived: u32,
    /// See `arrived`.
    pub time_to_capacity: Option<Duration>,
}

/// What a pool was asked for in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemandPoint {
    /// When it began.
    pub at: Wall,
    /// Tasks that came in.
    pub arrived: u64,
    /// Their execution time together.
    pub work: Duration,
    /// The most that waited.
    pub waiting: u64,
    /// The most that ran.
    pub running: u64,
    /// Instances that were wanted at its end.
    pub desired: u32,
}

#[derive(Debug, Default)]
struct Told {
    decisions: VecDeque<Decided>,
    demand: VecDeque<DemandPoint>,
}

/// The pools, as they are shown.
#[derive(Debug, Default)]
pub struct PoolBoard {
    views: ArcSwap<Vec<PoolView>>,
    told: Mutex<BTreeMap<PoolName, Told>>,
}

impl PoolBoard {
    /// All pools, by name; at most 50 ms old.
    pub fn all(&self) -> Arc<Vec<PoolView>> {
        self.views.load_full()
    }

    /// The pool of that name.
    pub fn get(&self, name: &str) -> Option<PoolView> {
        self.views.load().iter().find(|view| view.spec.name.as_str() == name).cloned()
    }

    /// What was decided about a pool, newest first.
    pub fn decisions(&self, name: &PoolName) -> Vec<Decided> {
        let told = self.told();
        told.get(name).map(|told| told.decisions.iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// What a pool was asked for, oldest first.
    pub fn demand(&self, name: &PoolName) -> Vec<DemandPoint> {
        self.told().get(name).map(|told| told.demand.iter().copied().collect()).unwrap_or_default()
    }

    /// A new picture; what was told of pools that it lacks is forgotten.
    pub(super) fn publish(&self, views: Vec<PoolView>) {
        let known = |name: &PoolName| views.iter().any(|view| view.spec.name == *name);
        self.told().retain(|name, _| known(name));
        self.views.store(Arc::new(views));
    }

    /// Takes down what is about pools.
    pub(super) fn note(&self, note: &Note) {
        match note {
            Note::PoolDecided { pool, decision, sample } => {
                let mut told = self.told();
                let told = told.entry(pool.clone()).or_default();
                told.decided(decision);
                told.asked(decision, sample);
            }
            Note::PoolCalled { pool, outcome, took, detail } => {
                if let Some(last) = self.told().get_mut(pool).and_then(Told::last_change) {
                    last.hook = Some((outcome, *took, detail.clone()));
                }
            }
            Note::PoolCapacity { pool, took, .. } => {
                if let Some(last) = self.told().get_mut(pool).and_then(Told::last_change) {
                    last.arrived += 1;
                    last.time_to_capacity = last.time_to_capacity.max(Some(*took));
                }
            }
            _ => {}
        }
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<PoolName, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn decided(&mut self, decision: &Arc<Decision>) {
        if let Some(last) = self.decisions.back_mut()
            && last.decision.direction == Direction::Hold
            && decision.direction == Direction::Hold
            && last.decision.reason == decision.reason
            && last.decision.limits == decision.limits
        {
            last.decision = Arc::clone(decision);
            last.looks += 1;
            return;
        }
        if self.decisions.len() == DECISIONS {
            self.decisions.pop_front();
        }
        self.decisions.push_back(Decided {
            decision: Arc::clone(decision),
            since: decision.at,
            looks: 1,
            hook: None,
            arrived: 0,
            time_to_capacity: None,
        });
    }

    fn asked(&mut self, decision: &Decision, sample: &DemandSample) {
        let within = |point: &DemandPoint| decision.at.since(point.at) < POINT && decision.at >= point.at;
        if !self.demand.back().is_some_and(within) {
            if self.demand.len() == POINTS {
                self.demand.pop_front();
            }
            self.demand.push_back(DemandPoint {
                at: decision.at,
                arrived: 0,
                work: Duration::ZERO,
                waiting: 0,
                running: 0,
                desired: decision.to,
            });
        }
        let Some(point) = self.demand.back_mut() else { return };
        point.arrived += sample.arrived;
        point.work += sample.work;
        point.waiting = point.waiting.max(decision.inputs.waiting);
        point.running = point.running.max(decision.inputs.running);
        point.desired = decision.to;
    }

    /// The newest decision that changed something.
    fn last_change(&mut self) -> Option<&mut Decided> {
        self.decisions.iter_mut().rev().find(|decided| decided.decision.direction != Direction::Hold)
    }
}
