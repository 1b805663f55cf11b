//! LoadBalancer: which worker gets a task. A task's demand (capability and labels) is interned, and
//! per demand there is a set of workers that could take it and a list of those that can right now;
//! so a decision costs the same with ten workers and with ten thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::free::FreeWorkers;
use super::ids::{Capability, Instance};
use super::queue::TaskQueue;
use super::slab::{DemandIx, Slab, WorkerIx};

/// Labels by name.
pub(super) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// One process of one worker.
pub(super) type Process = (WorkerIx, Instance);

/// Different demands with tasks at once.
pub(super) const MAX_DEMANDS: usize = 1_000;

/// Up to so many candidates are all compared; beyond that two are drawn and the less loaded one
/// taken (Mitzenmacher 2001, "The power of two choices").
const COMPARE_ALL: usize = 8;

#[derive(Debug)]
pub(super) struct Demand {
    pub(super) capability: Capability,
    pub(super) labels: Labels,
    /// Nobody else will do: it has the session that the tasks are in.
    pub(super) only: Option<Process>,
    /// Workers that have what it takes, whatever their state.
    pub(super) eligible: BTreeSet<WorkerIx>,
    /// Those of them that can take a task now.
    free: FreeWorkers,
    pub(super) queue: TaskQueue,
    /// Tasks that are not final.
    pub(super) tasks: usize,
}

#[derive(Debug, Default)]
pub(super) struct LoadBalancer {
    pub(super) demands: Slab<DemandIx, Demand>,
    by_capability: BTreeMap<Capability, Vec<DemandIx>>,
    /// Those that one process alone can meet.
    by_process: BTreeMap<(Process, Capability), Vec<DemandIx>>,
    /// Demands with tasks in their queues.
    pub(super) waiting: BTreeSet<DemandIx>,
    /// Where the comparison begins, so that equals take turns.
    turn: usize,
}

impl LoadBalancer {
    pub(super) fn find(&self, capability: &Capability, labels: &Labels) -> Option<DemandIx> {
        let candidates = self.by_capability.get(capability)?;
        candidates.iter().copied().find(|ix| self.demands[*ix].labels == *labels)
    }

    /// The same for one process alone.
    pub(super) fn find_for(
        &self,
        only: &Process,
        capability: &Capability,
        labels: &Labels,
    ) -> Option<DemandIx> {
        let candidates = self.by_process.get(&(only.clone(), capability.clone()))?;
        candidates.iter().copied().find(|ix| self.demands[*ix].labels == *labels)
    }

    /// Whether there is room for one more demand.
    pub(super) fn has_room(&self) -> bool {
        self.demands.len() < MAX_DEMANDS
    }

    /// Adds a demand that `find` did not find.
    pub(super) fn add(
        &mut self,
        capability: &Capability,
        labels: &Labels,
        only: Option<&Process>,
    ) -> DemandIx {
        let ix = self.demands.insert(Demand {
            capability: capability.clone(),
            labels: labels.clone(),
            only: only.cloned(),
            eligible: BTreeSet::new(),
            free: FreeWorkers::default(),
            queue: TaskQueue::default(),
            tasks: 0,
        });
        let list = match only {
            None => self.by_capability.entry(capability.clone()).or_default(),
            Some(only) => self.by_process.entry((only.clone(), capability.clone())).or_default(),
        };
        list.push(ix);
        ix
    }

    /// The demands without tasks: those that may be forgotten to make room.
    pub(super) fn idle(&self) -> Vec<DemandIx> {
        self.demands.iter().filter(|(_, demand)| demand.tasks == 0).map(|(ix, _)| ix).collect()
    }

    /// Forgets a demand; the workers in the answer must forget it too.
    pub(super) fn forget(&mut self, ix: DemandIx) -> BTreeSet<WorkerIx> {
        let Some(demand) = self.demands.remove(ix) else { return BTreeSet::new() };
        fn unlist<K: Ord>(map: &mut BTreeMap<K, Vec<DemandIx>>, key: &K, ix: DemandIx) {
            if let Some(list) = map.get_mut(key) {
                list.retain(|other| *other != ix);
                if list.is_empty() {
                    map.remove(key);
                }
            }
        }
        match demand.only {
            None => unlist(&mut self.by_capability, &demand.capability, ix),
            Some(only) => unlist(&mut self.by_process, &(only, demand.capability), ix),
        }
        demand.eligible
    }

    /// Lists or unlists a worker as free for a demand.
    pub(super) fn set_free(&mut self, demand: DemandIx, worker: WorkerIx, free: bool) {
        self.demands[demand].free.set(worker, free);
    }

    /// The free worker to take: the least loaded of all, or of two that are drawn.
    /// `load` is slots used in thousandths of slots; `draw(n)` a number below `n`.
    pub(super) fn pick(
        &mut self,
        demand: DemandIx,
        load: impl Fn(WorkerIx) -> u32,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<WorkerIx> {
        let free = &self.demands[demand].free;
        let count = free.len();
        if count <= 1 {
            return free.nth(0);
        }
        self.turn = self.turn.wrapping_add(1);
        if count <= COMPARE_ALL {
            let first = self.turn % count;
            let in_turn = free.iter().skip(first).chain(free.iter().take(first));
            return in_turn.min_by_key(|worker| load(*worker));
        }
        let one = free.nth(draw(count) % count)?;
        let other = free.nth(draw(count) % count)?;
        Some(if load(other) < load(one) { other } else { one })
    }

    pub(super) fn is_free(&self, demand: DemandIx, worker: WorkerIx) -> bool {
        self.demands[demand].free.contains(worker)
    }

    pub(super) fn has_free(&self, demand: DemandIx) -> bool {
        self.demands[demand].free.len() > 0
    }

    /// Of the demands in `mine` with waiting tasks, the one whose head goes first: by priority, then
    /// by who came first.
    pub(super) fn next_for(&self, mine: &BTreeSet<DemandIx>) -> Option<DemandIx> {
        let (few, many) =
            if self.waiting.len() < mine.len() { (&self.waiting, mine) } else { (mine, &self.waiting) };
        few.iter()
            .filter(|demand| many.contains(demand))
            .filter_map(|demand| Some((self.demands[*demand].queue.head()?, *demand)))
            .min()
            .map(|(_, demand)| demand)
    }
}

/// Whether labels `have` all of `want`.
pub(super) fn matches(have: &Labels, want: &Labels) -> bool {
    want.iter().all(|(name, value)| have.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(workers: u32) -> (LoadBalancer, DemandIx) {
        let mut balancer = LoadBalancer::default();
        let demand = balancer.add(&"a.b".into(), &Labels::new(), None);
        for worker in 0..workers {
            balancer.set_free(demand, WorkerIx(worker), true);
        }
        (balancer, demand)
    }

    #[test]
    fn equals_take_turns_and_the_least_loaded_wins() {
        let (mut balancer, demand) = balancer(3);
        let mut picks = [0; 3];
        for _ in 0..300 {
            picks[balancer.pick(demand, |_| 0, |_| 0).expect("some are free").0 as usize] += 1;
        }
        assert_eq!(picks, [100; 3]);
        assert_eq!(balancer.pick(demand, |worker| 10 - worker.0, |_| 0), Some(WorkerIx(2)));
    }

    #[test]
    fn of_many_workers_the_less_loaded_of_two_is_taken() {
        let (mut balancer, demand) = balancer(100);
        let mut drawn = [7, 42].into_iter();
        let pick = balancer.pick(demand, |worker| 100 - worker.0, |_| drawn.next().expect("two draws"));
        assert_eq!(pick, Some(WorkerIx(42)));
    }

    #[test]
    fn demands_without_tasks_make_room_for_others() {
        let mut balancer = LoadBalancer::default();
        for number in 0..MAX_DEMANDS {
            let ix = balancer.add(&format!("c.{number}").into(), &Labels::new(), None);
            balancer.demands[ix].tasks = 1;
        }
        assert!(!balancer.has_room());
        let first = balancer.find(&"c.0".into(), &Labels::new()).expect("known");
        balancer.demands[first].tasks = 0;
        assert_eq!(balancer.idle(), [first]);
        balancer.forget(first);
        assert!(balancer.has_room());
        assert_eq!(balancer.find(&"c.0".into(), &Labels::new()), None);
    }
}
