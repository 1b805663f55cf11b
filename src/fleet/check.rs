//! The core's own invariants, over its whole state: for the simulator after every step, and for
//! debug builds now and then. And its digest, by which two runs are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher};

use super::Fleet;
use super::health::Standing;
use super::lifecycle::Phase;
use super::slab::TaskIx;
use super::task::{Keep, TaskSpec};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(Violation(format!($($message)+)));
        }
    };
}

impl Fleet {
    /// Looks at everything.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_tasks()?;
        self.check_workers()?;
        self.check_queues()?;
        if let Some(wrong) = self.sessions_are_wrong() {
            return Err(Violation(wrong));
        }
        self.check_counts()
    }

    fn check_tasks(&self) -> Result<(), Violation> {
        ensure!(
            self.by_id.len() == self.tasks.len(),
            "{} ids for {} tasks",
            self.by_id.len(),
            self.tasks.len()
        );
        let held = self.gates.ineligible();
        let leaving = self.gates.stowing();
        for (id, ix) in &self.by_id {
            let task = &self.tasks[*ix];
            ensure!(task.id == *id, "task {id} is stored as {}", task.id);
            let small = task.spec.input.as_str().len() <= TaskSpec::LARGE_INPUT;
            ensure!(
                small || task.keep == Keep::Passing || held.contains(ix) || leaving.contains(id),
                "the input of task {id} stays in memory"
            );
            ensure!(task.attempts.is_sorted_by(|a, b| a.epoch < b.epoch), "epochs of task {id} do not rise");
            match &task.phase {
                Phase::Between => return Err(Violation(format!("task {id} was left between phases"))),
                Phase::Held => ensure!(held.contains(ix), "task {id} waits for a record that nobody awaits"),
                Phase::Waiting(waiting) => {
                    let places = [waiting.delayed, waiting.ticket.is_some(), waiting.reading_for.is_some()];
                    ensure!(
                        places.iter().filter(|is_there| **is_there).count() == 1,
                        "task {id} is not in exactly one of queue, delay and reading"
                    );
                    ensure!(
                        waiting.fallback.is_none()
                            || waiting.ticket.is_some()
                            || waiting.reading_for.is_some(),
                        "task {id} waits for better workers in no queue"
                    );
                    let entry = &self.balancer.demands[task.demand];
                    ensure!(
                        waiting.ticket.is_none()
                            || waiting.fallback.is_some()
                            || entry.labels == task.spec.labels,
                        "task {id} waits for the workers that it prefers for ever"
                    );
                    if let Some(worker) = waiting.reading_for {
                        let worker = self.registry.workers.get(worker);
                        ensure!(
                            worker.is_some_and(|worker| worker.reading.contains(ix)),
                            "the input of task {id} is read for a worker that keeps no slot for it"
                        );
                    }
                    match waiting.starved {
                        None => {
                            let ends = !waiting.delayed || waiting.timer.is_some() || waiting.turn;
                            ensure!(ends, "task {id} is delayed for ever");
                        }
                        Some(place) => {
                            let known = self.budgets.has(place, *ix) && self.budgets_due.is_some();
                            ensure!(known, "task {id} waits for a budget that does not know it");
                        }
                    }
                }
                Phase::Recovering(recovering) => {
                    ensure!(recovering.timer.is_some(), "task {id} waits for its worker for ever");
                }
                Phase::Assigned(live) | Phase::Running(live) | Phase::Cancelling(live) => {
                    let worker = self.registry.workers.get(live.worker);
                    ensure!(
                        worker.is_some_and(|worker| worker.holds.contains(ix)),
                        "the worker of task {id} does not hold it"
                    );
                    ensure!(task.newest() == Some(live.epoch), "task {id} lives under an old epoch");
                    ensure!(live.timer.is_some(), "the attempt of task {id} has no end");
                }
            }
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), Violation> {
        for (name, ix) in &self.registry.by_name {
            let worker = self.registry.workers.get(*ix);
            ensure!(
                worker.is_some_and(|worker| worker.retiring.is_none()),
                "{name} is named and retiring, or gone"
            );
        }
        for (ix, worker) in self.registry.workers.iter() {
            let name = &worker.name;
            for task in &worker.holds {
                let live = self.tasks.get(*task).and_then(|task| task.phase.live());
                ensure!(live.is_some_and(|live| live.worker == ix), "{name} holds a task that is not there");
            }
            for task in &worker.reading {
                let reads = self.tasks.get(*task).is_some_and(
                    |task| matches!(&task.phase, Phase::Waiting(waiting) if waiting.reading_for == Some(ix)),
                );
                ensure!(reads, "{name} keeps a slot for a task that does not need it");
            }
            if let Some(conn) = worker.conn() {
                ensure!(self.registry.by_conn.get(&conn) == Some(&ix), "{name}'s connection is not known");
                ensure!(worker.timers.liveness.is_some(), "nobody watches whether {name} lives");
            } else {
                let listed = worker.listed || worker.listed_own;
                ensure!(!listed, "{name} is listed as free without a connection");
                ensure!(worker.reading.is_empty(), "{name} keeps slots without a connection");
                ensure!(
                    worker.holds.is_empty() || worker.timers.lease.is_some(),
                    "{name} keeps its attempts for ever"
                );
            }
            if let Standing::Ejected(_) = worker.health.standing {
                ensure!(worker.timers.ejected.is_some(), "{name} is ejected for ever");
            }
            let forgotten = worker.waits_for_canary() && worker.has_room() && !self.quiescing;
            ensure!(!forgotten, "{name} waits for a canary that nobody sends");
            ensure!(
                !worker.canary.runs() || (worker.up().is_some() && worker.timers.canary.is_some()),
                "{name} has a canary that never ends"
            );
            for (listed, own) in [(worker.listed, false), (worker.listed_own, true)] {
                ensure!(listed == (worker.can_take(own) && !self.quiescing), "{name} is listed wrongly");
            }
            for (demand, entry) in self.balancer.demands.iter() {
                let suits = worker.meets(ix, entry);
                ensure!(
                    suits == entry.eligible.contains(&ix),
                    "{name} is indexed wrongly for {}",
                    entry.capability
                );
                ensure!(suits == worker.demands.contains(&demand), "{name} forgets {}", entry.capability);
                let free = suits && worker.is_listed_for(entry);
                ensure!(
                    free == self.balancer.is_free(demand, ix),
                    "{name} is free wrongly for {}",
                    entry.capability
                );
            }
        }
        if let Some(wrong) = self.census_is_wrong() {
            return Err(Violation(wrong));
        }
        ensure!(
            self.registry.by_conn.len()
                == self.registry.workers.iter().filter(|(_, w)| w.up().is_some()).count(),
            "connections without a worker"
        );
        Ok(())
    }

    fn check_queues(&self) -> Result<(), Violation> {
        let mut queued: BTreeSet<TaskIx> = BTreeSet::new();
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for (_, task) in self.tasks.iter() {
            *counts.entry(task.demand).or_default() += 1;
        }
        for (demand, entry) in self.balancer.demands.iter() {
            let name = &entry.capability;
            ensure!(entry.tasks == counts.get(&demand).copied().unwrap_or(0), "{name} miscounts its tasks");
            ensure!(entry.queue.is_empty() != self.balancer.waiting.contains(&demand), "{name} waits unseen");
            ensure!(entry.queue.len() == entry.queue.iter().count(), "{name} miscounts its queue");
            ensure!(
                entry.queue.is_empty() || !self.balancer.has_free(demand),
                "{name} waits although a worker is free"
            );
            ensure!(
                self.tells_of_a_free_worker(demand) == (self.balancer.has_free(demand) && !self.quiescing),
                "the explanation for {name} differs from what the balancer sees"
            );
            queued.extend(entry.queue.iter());
        }
        for (ix, task) in self.tasks.iter() {
            let waits = matches!(&task.phase, Phase::Waiting(waiting) if waiting.ticket.is_some());
            ensure!(waits == queued.contains(&ix), "task {} is queued wrongly", task.id);
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Violation> {
        let recovering = self.tasks.iter().filter(|(_, task)| matches!(task.phase, Phase::Recovering(_)));
        let recovering = recovering.count();
        ensure!(recovering == self.recovering, "{recovering} tasks recover, {} are counted", self.recovering);
        let bytes: u64 = self.tasks.iter().map(|(_, task)| task.spec.input_bytes()).sum();
        ensure!(bytes == self.bytes, "{bytes} bytes of inputs are counted as {}", self.bytes);
        let stats = self.stats(self.now);
        let accepted: u64 = stats.capabilities.values().map(|c| c.accepted.iter().sum::<u64>()).sum();
        let completed: u64 = stats.capabilities.values().map(|c| c.completed.values().sum::<u64>()).sum();
        let depth = stats.depth;
        let held = self.tasks.iter().filter(|(_, task)| matches!(task.phase, Phase::Held)).count();
        let counted = (self.tasks.len() - held) as u64;
        ensure!(depth == counted, "{depth} tasks by state, {counted} in all that are accepted");
        ensure!(accepted - completed == depth, "accepted {accepted} - completed {completed} is not {depth}");
        // Each live task has at most four timers, each worker at most seven, each session one; the
        // budgets and the pools have one each.
        let most = self.tasks.len() * 4 + self.registry.workers.len() * 7 + self.sessions.len() + 2;
        ensure!(self.timers.len() <= most, "{} timers for at most {most} reasons", self.timers.len());
        Ok(())
    }

    /// A number that two runs share exactly if their whole states are the same.
    pub fn digest(&self) -> u64 {
        struct Digest(DefaultHasher);
        impl fmt::Write for Digest {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut digest = Digest(DefaultHasher::new());
        // Hashing cannot fail; the writer's result is only there by the trait.
        let _infallible = write!(digest, "{self:?}");
        digest.0.finish()
    }
}
