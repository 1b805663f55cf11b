//! The balancer measured: fleets in simulated time, under a load of their own, with every choice its.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::pace::{ONE, Pace, Usual};
use super::super::time::Mono;
use super::*;

const SLOTS: u32 = 4;
const USUAL: u64 = 100_000_000;

/// Workers of four slots, of which the first takes `slow` times as long as the others.
#[derive(Clone, Copy)]
struct Run {
    workers: u32,
    tasks: usize,
    slow: u64,
    /// How much of what equal workers could do is asked of them, in percent.
    load: u64,
    paced: bool,
}

/// What a run has come to.
struct Measured {
    /// Tasks by worker.
    counts: Vec<u64>,
    /// How long each took from its arrival, in nanoseconds.
    latencies: Vec<u64>,
}

impl Measured {
    /// In milliseconds.
    fn mean(&self) -> u64 {
        self.latencies.iter().sum::<u64>() / self.latencies.len() as u64 / 1_000_000
    }

    /// In milliseconds.
    fn p99(&self) -> u64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * 99 / 100] / 1_000_000
    }

    /// What the first worker got, in thousandths of an equal share.
    fn share_of_first(&self) -> u64 {
        let all: u64 = self.counts.iter().sum();
        self.counts[0] * 1_000 * self.counts.len() as u64 / all
    }
}

impl Run {
    /// Tasks of 100 ms, give or take a tenth, that arrive unevenly.
    fn measure(self) -> Measured {
        let mut dice = SmallRng::seed_from_u64(7);
        let mut balancer = LoadBalancer::default();
        let demand = balancer.add(&"a.b".into(), &Labels::new(), None);
        let count = self.workers as usize;
        let (mut used, mut pass) = (vec![0u32; count], vec![0u64; count]);
        let mut pace = vec![Pace::default(); count];
        let mut usual = Usual::default();
        let mut measured = Measured { counts: vec![0; count], latencies: Vec::new() };
        for worker in 0..self.workers {
            balancer.set_free(demand, WorkerIx(worker), true);
        }
        let apart = USUAL * 100 / self.load / u64::from(self.workers * SLOTS);
        let mut ends: BinaryHeap<Reverse<(u64, u32, u64, u64)>> = BinaryHeap::new();
        let mut waiting: VecDeque<u64> = VecDeque::new();
        let mut arrival = 0u64;
        while measured.latencies.len() < self.tasks {
            let now = match ends.peek().map(|Reverse(end)| end.0) {
                Some(end) if end < arrival => {
                    let Some(Reverse((at, worker, arrived, began))) = ends.pop() else { break };
                    let ix = worker as usize;
                    pace[ix].took(usual.compare(Duration::from_nanos(at - began)), Mono(at));
                    used[ix] -= 1;
                    balancer.set_free(demand, WorkerIx(worker), true);
                    measured.latencies.push(at - arrived);
                    at
                }
                Some(_) | None => {
                    let at = arrival;
                    waiting.push_back(at);
                    // From almost at once to twice the mean, as callers are.
                    arrival += dice.random_range(0..2 * apart);
                    at
                }
            };
            while let Some(arrived) = waiting.front().copied() {
                let rank = |worker: WorkerIx| {
                    let ix = worker.0 as usize;
                    let weight = if self.paced { pace[ix].weight(Mono(now)) } else { ONE };
                    Rank::of(used[ix], SLOTS, weight, pass[ix])
                };
                let Some((worker, rank)) = balancer.pick(demand, rank, |below| dice.random_range(0..below))
                else {
                    break;
                };
                waiting.pop_front();
                let ix = worker.0 as usize;
                pass[ix] = rank.next_pass(SLOTS);
                used[ix] += 1;
                measured.counts[ix] += 1;
                balancer.set_free(demand, worker, used[ix] < SLOTS);
                let takes = dice.random_range(USUAL * 9 / 10..USUAL * 11 / 10);
                let takes = if worker.0 == 0 { self.slow * takes } else { takes };
                ends.push(Reverse((now + takes, worker.0, arrived, now)));
            }
        }
        measured
    }
}

#[test]
fn a_hundred_equal_workers_get_equal_shares_within_five_percent() {
    for load in [5, 40, 90] {
        let tasks = 100_000;
        let run = Run { workers: 100, tasks, slow: 1, load, paced: true };
        let counts = run.measure().counts;
        let ideal = counts.iter().sum::<u64>() / 100;
        let most_off = counts.iter().map(|count| count.abs_diff(ideal) * 1_000 / ideal).max();
        eprintln!("100 equal workers, {load} % busy: at most {:?} thousandths off the ideal", most_off);
        assert!(most_off <= Some(50), "{load} % busy: {counts:?}");
    }
}

#[test]
fn a_slow_worker_among_fast_ones_gets_no_more_than_it_can_do() {
    for (workers, load) in [(5, 40), (10, 40), (100, 40), (10, 80)] {
        let run = Run { workers, tasks: 20_000, slow: 10, load, paced: false };
        let (plain, paced) = (run.measure(), Run { paced: true, ..run }.measure());
        for (name, run) in [("least loaded alone", &plain), ("with the pace", &paced)] {
            eprintln!(
                "one of {workers} ten times slower, {load} % busy, {name}: mean {} ms, p99 {} ms, the slow \
                 one gets {} thousandths of an equal share",
                run.mean(),
                run.p99(),
                run.share_of_first(),
            );
        }
        assert!(paced.counts[0] > 0, "it is tried again now and then");
        assert!(paced.share_of_first() <= 100, "a tenth of the speed, at most a tenth of a share");
        assert!(paced.share_of_first() < plain.share_of_first());
        assert!(paced.mean() <= plain.mean() && paced.p99() <= plain.p99());
    }
}
