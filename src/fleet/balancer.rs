//! LoadBalancer: which worker gets a task. A task's demand (capability and labels) is interned, and
//! per demand there is a set of workers that could take it and a list of those that can right now;
//! so a decision costs the same with ten workers and with ten thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::free::FreeWorkers;
use super::ids::{Capability, Instance};
use super::pace::{ONE, Usual};
use super::queue::TaskQueue;
use super::slab::{DemandIx, Slab, WorkerIx};

/// Labels by name.
pub(super) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// One process of one worker.
pub(super) type Process = (WorkerIx, Instance);

/// Different demands with tasks at once.
pub(super) const MAX_DEMANDS: usize = 1_000;

/// Up to so many candidates are all compared; beyond that two are drawn and the better one taken
/// (Mitzenmacher 2001, "The power of two choices").
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
    /// How long they usually take.
    pub(super) usual: Usual,
    /// The furthest pass of those that were chosen.
    pass: u64,
}

/// How good a choice a worker is: the smaller, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// What is to be expected of it: its pace, and twice that when all its slots are in use (peak EWMA,
    /// as Finagle and linkerd have it, with the share of slots for the requests).
    cost: u64,
    /// Among equals the one goes first that was given least for each of its slots (stride scheduling,
    /// Waldspurger 1995), so that even an idle fleet gets its shares.
    pass: u64,
}

/// What a task adds to the pass of a worker with one slot.
const STRIDE: u64 = 1 << 20;

/// How far behind the others a worker's pass counts: so many tasks for each slot does it catch up at
/// most, after it was away.
const MOST_BEHIND: u64 = 16 * STRIDE;

impl Rank {
    /// Of a worker with so many slots `used`, whose load counts by that `weight`.
    pub(super) fn of(used: u32, slots: u32, weight: u32, pass: u64) -> Self {
        let load = 1_000 + u64::from(used) * 1_000 / u64::from(slots.max(1));
        Self { cost: load * u64::from(weight) / u64::from(ONE), pass }
    }

    fn not_before(self, least: u64) -> Self {
        Self { pass: self.pass.max(least), ..self }
    }

    /// The pass of the worker once it has one more task.
    pub(super) fn next_pass(self, slots: u32) -> u64 {
        self.pass + STRIDE / u64::from(slots.max(1))
    }
}

#[derive(Debug, Default)]
pub(super) struct LoadBalancer {
    pub(super) demands: Slab<DemandIx, Demand>,
    by_capability: BTreeMap<Capability, Vec<DemandIx>>,
    /// Those that one process alone can meet.
    by_process: BTreeMap<(Process, Capability), Vec<DemandIx>>,
    /// Demands with tasks in their queues.
    pub(super) waiting: BTreeSet<DemandIx>,
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
            usual: Usual::default(),
            pass: 0,
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

    /// The free worker to take, the best of all or of two that are drawn, and its rank at that moment.
    /// `draw(n)` is a number below `n`.
    pub(super) fn pick(
        &mut self,
        demand: DemandIx,
        rank: impl Fn(WorkerIx) -> Rank,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<(WorkerIx, Rank)> {
        let Demand { free, pass, .. } = &mut self.demands[demand];
        let least = pass.saturating_sub(MOST_BEHIND);
        let ranked = |worker: WorkerIx| (worker, rank(worker).not_before(least));
        let count = free.len();
        let best = if count <= COMPARE_ALL {
            free.iter().map(ranked).min_by_key(|(_, rank)| *rank)?
        } else {
            // Two that differ: one and the same twice is no choice.
            let first = draw(count) % count;
            let second = (first + 1 + draw(count - 1) % (count - 1)) % count;
            let (one, other) = (ranked(free.nth(first)?), ranked(free.nth(second)?));
            if other.1 < one.1 { other } else { one }
        };
        *pass = (*pass).max(best.1.pass);
        Some(best)
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
mod measured;

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

    /// How often each worker is chosen, all idle, with those slots.
    fn shares(slots: &[u32], tasks: usize) -> Vec<usize> {
        let (mut balancer, demand) = balancer(u32::try_from(slots.len()).expect("few"));
        let (mut picks, mut passes) = (vec![0; slots.len()], vec![0; slots.len()]);
        for _ in 0..tasks {
            let rank = |worker: WorkerIx| Rank::of(0, 1, ONE, passes[worker.0 as usize]);
            let (worker, rank) = balancer.pick(demand, rank, |_| 0).expect("some are free");
            let ix = worker.0 as usize;
            picks[ix] += 1;
            passes[ix] = rank.next_pass(slots[ix]);
        }
        picks
    }

    #[test]
    fn equals_take_turns_and_the_least_loaded_wins() {
        assert_eq!(shares(&[1, 1, 1], 300), [100; 3]);
        let (mut balancer, demand) = balancer(3);
        let third = |worker: WorkerIx| Rank::of(10 - worker.0, 10, ONE, 0);
        assert_eq!(balancer.pick(demand, third, |_| 0).map(|(worker, _)| worker), Some(WorkerIx(2)));
    }

    #[test]
    fn one_with_twice_the_slots_gets_twice_the_tasks() {
        assert_eq!(shares(&[2, 4], 300), [100, 200]);
    }

    #[test]
    fn a_newcomer_catches_up_only_a_little() {
        let (mut balancer, demand) = balancer(2);
        let mut passes = [1_000 * STRIDE, 0];
        let mut to_newcomer = 0;
        for _ in 0..1_000 {
            let rank = |worker: WorkerIx| Rank::of(0, 1, ONE, passes[worker.0 as usize]);
            if balancer.demands[demand].pass == 0 {
                balancer.demands[demand].pass = passes[0];
            }
            let (worker, rank) = balancer.pick(demand, rank, |_| 0).expect("both are free");
            passes[worker.0 as usize] = rank.next_pass(1);
            to_newcomer += worker.0;
        }
        assert!((500..=510).contains(&to_newcomer), "{to_newcomer}");
    }

    #[test]
    fn of_many_workers_the_less_loaded_of_two_is_taken() {
        let (mut balancer, demand) = balancer(100);
        let mut drawn = [7, 34].into_iter();
        let rank = |worker: WorkerIx| Rank::of(100 - worker.0, 100, ONE, 0);
        let pick = balancer.pick(demand, rank, |_| drawn.next().expect("two draws"));
        assert_eq!(pick.map(|(worker, _)| worker), Some(WorkerIx(42)), "the second is never the first");
    }

    #[test]
    fn a_slow_worker_is_taken_when_the_fast_ones_have_more_to_do_than_it_is_slower() {
        let (slow, fast) = (Rank::of(0, 4, ONE * 3 / 2, 0), |used| Rank::of(used, 4, ONE, 0));
        assert!(fast(1) < slow && slow < fast(3));
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
