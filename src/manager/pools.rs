//! What the fleet tells of its pools: how they are, what was decided and why, and what they were
//! asked for, so that another policy can be judged by it. Bounded, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::fleet::autoscaler::{Demand, DemandSample, Instance};
use crate::fleet::{Decision, Direction, Note, PoolName, PoolView, Wall};

/// Decisions of one pool that are kept.
const DECISIONS: usize = 200;
/// The span of one point of the recorded demand.
const POINT: Duration = Duration::from_secs(10);
/// Points of one pool that are kept: a day.
const POINTS: usize = 24 * 360;

/// What a task takes, and a worker until it is ready, where nothing is known of it yet.
const UNKNOWN_TASK: Duration = Duration::from_secs(1);
/// See [`UNKNOWN_TASK`].
const UNKNOWN_START: Duration = Duration::from_secs(10);
/// A gap in the recording counts as no longer than this.
const MOST_SECONDS: u32 = 3_600;

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

    /// The same as another rule may be judged by, and what its instances are like.
    pub fn recorded(&self, view: &PoolView) -> (Vec<Demand>, Instance) {
        let points = self.demand(&view.spec.name);
        let (tasks, work) = points
            .iter()
            .fold((0, Duration::ZERO), |(tasks, work), point| (tasks + point.arrived, work + point.work));
        let usual = mean(work, tasks).unwrap_or(UNKNOWN_TASK);
        let ends = points.iter().skip(1).map(|next| next.at).chain(points.last().map(|last| last.at + POINT));
        let demand = points.iter().zip(ends).map(|(point, end)| {
            let seconds = u32::try_from(end.since(point.at).as_secs()).unwrap_or(u32::MAX);
            let each = mean(point.work, point.arrived).unwrap_or(usual);
            Demand { at: point.at, seconds: seconds.clamp(1, MOST_SECONDS), arrived: point.arrived, each }
        });
        let took: Vec<Duration> =
            self.decisions(&view.spec.name).iter().filter_map(|decided| decided.time_to_capacity).collect();
        let starts = mean(took.iter().sum(), took.len() as u64).unwrap_or(UNKNOWN_START);
        let slots = view.last.as_ref().map_or(1, |last| last.inputs.slots);
        (demand.collect(), Instance { slots, starts })
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

fn mean(sum: Duration, of: u64) -> Option<Duration> {
    sum.checked_div(u32::try_from(of).unwrap_or(u32::MAX)).filter(|mean| !mean.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::autoscaler::{Inputs, Limits, Reason};

    fn decision(second: i64, direction: Direction, waiting: u64) -> Arc<Decision> {
        Arc::new(Decision {
            at: Wall(second * 1_000),
            from: 1,
            to: if direction == Direction::Up { 2 } else { 1 },
            direction,
            reason: Reason::Backlog,
            limits: Limits::default(),
            inputs: Inputs { waiting, ..Inputs::default() },
            wish: 1,
            min: 0,
            max: 9,
            wait: None,
        })
    }

    fn noted(board: &PoolBoard, decision: Arc<Decision>, arrived: u64) {
        let work = Duration::from_secs(2 * arrived);
        let sample = DemandSample { arrived, work };
        board.note(&Note::PoolDecided { pool: "p".into(), decision, sample });
    }

    #[test]
    fn looks_that_say_the_same_are_one_line_and_what_follows_is_told_with_the_change() {
        let board = PoolBoard::default();
        for second in 0..5 {
            noted(&board, decision(second, Direction::Hold, 0), 0);
        }
        noted(&board, decision(5, Direction::Up, 7), 7);
        let took = Duration::from_secs(3);
        board.note(&Note::PoolCalled { pool: "p".into(), outcome: "ok", took, detail: None });
        noted(&board, decision(6, Direction::Hold, 7), 0);
        board.note(&Note::PoolCapacity { pool: "p".into(), worker: "p-2".into(), took });
        let told = board.decisions(&"p".into());
        let looks: Vec<_> = told.iter().map(|it| (it.decision.direction, it.looks)).collect();
        assert_eq!(looks, [(Direction::Hold, 1), (Direction::Up, 1), (Direction::Hold, 5)]);
        assert_eq!((told[1].arrived, told[1].time_to_capacity), (1, Some(took)));
        assert_eq!(told[1].hook, Some(("ok", took, None)));
        assert_eq!(told[2].since, Wall(0));
    }

    #[test]
    fn demand_is_kept_in_points_of_ten_seconds() {
        let board = PoolBoard::default();
        for second in 0..25 {
            noted(&board, decision(second, Direction::Hold, u64::try_from(second).expect("small")), 2);
        }
        let points = board.demand(&"p".into());
        let shown: Vec<_> = points.iter().map(|point| (point.at, point.arrived, point.waiting)).collect();
        assert_eq!(shown, [(Wall(0), 20, 9), (Wall(10_000), 20, 19), (Wall(20_000), 10, 24)]);
    }
}
