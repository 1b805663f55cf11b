//! The core's side of the providers: they are asked, one call at a time, told again when they fail,
//! and not believed before the workers are there. And people's words about pools.

use std::sync::Arc;
use std::time::Duration;

use super::rule::{Decision, Direction, Inputs, Limits, Reason};
use super::{Call, DemandSample, Pool, PoolWord, ProviderKind, ProviderReport, SHOWN_NAMES, Wanted};
use crate::fleet::Fleet;
use crate::fleet::health::backoff;
use crate::fleet::ids::{PoolName, RequestId, WorkerName};
use crate::fleet::notes::Note;
use crate::fleet::words::{Answer, Effect, Refusal, Registration};

/// The first wait after a failure, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// See [`RETRY_FIRST`].
const RETRY_MOST: Duration = Duration::from_secs(300);

/// A pool that has left the topology tells its hook of the end so often at most.
const FAREWELLS: u32 = 10;

impl Fleet {
    /// Asks the provider for these instances and tells it of those that have gone, if there is
    /// something to say and it is not busy, or failing.
    pub(super) fn ask(&mut self, pool: &mut Pool, added: Vec<(WorkerName, u32)>) {
        let retired = |name: &&WorkerName| !self.registry.workers.iter().any(|(_, it)| it.name == **name);
        let victims: Vec<WorkerName> = pool.victims.iter().filter(retired).cloned().collect();
        if added.is_empty() && victims.is_empty() {
            return;
        }
        if pool.call.is_some() || pool.retry_at.is_some_and(|(at, _)| at > self.now.mono) {
            return;
        }
        if pool.removed && pool.failures >= FAREWELLS {
            pool.victims.clear();
            return;
        }
        pool.retry_at = None;
        pool.calls += 1;
        let to = u32::try_from(pool.members.len() + added.len()).unwrap_or(u32::MAX);
        let wanted = Wanted {
            call: pool.calls,
            from: pool.told,
            to,
            reason: pool.why,
            added: added.iter().map(|(name, _)| name.clone()).collect(),
            victims: victims.clone(),
        };
        pool.call = Some(Call { number: pool.calls, to, added, victims, since: self.now.mono });
        self.effect(Effect::Provision(Arc::clone(&pool.spec), Arc::new(wanted)));
    }

    /// A provider's answer.
    pub(in crate::fleet) fn provided(&mut self, name: &PoolName, number: u64, report: ProviderReport) {
        let Some(mut pool) = self.pools.by_name.remove(name) else { return };
        if let Some(call) = pool.call.take_if(|call| call.number == number) {
            self.called(&mut pool, call, report);
            self.keep(&mut pool);
            self.pools.changed = true;
            self.pools.hurry = true;
        }
        self.pools.by_name.insert(name.clone(), pool);
    }

    fn called(&mut self, pool: &mut Pool, call: Call, report: ProviderReport) {
        let name = pool.spec.name.clone();
        match report {
            ProviderReport::Done { ports, took } => {
                pool.told = call.to;
                pool.victims.retain(|victim| !call.victims.contains(victim));
                if call.added.is_empty() {
                    (pool.failures, pool.error) = (0, None);
                }
                let wants_port =
                    pool.spec.wants_port() && pool.spec.scaling.provider == ProviderKind::Process;
                let added = call.added.clone();
                pool.call = Some(call);
                for (at, (worker, index)) in added.into_iter().enumerate() {
                    let port = ports.get(at).copied();
                    if !pool.removed && (port.is_some() || !wants_port) {
                        self.join(pool, worker, index, port);
                    }
                }
                pool.call = None;
                self.note(Note::PoolCalled { pool: name, outcome: "ok", took, detail: None });
            }
            ProviderReport::Failed { timeout, message, took } => {
                let outcome = if timeout { "timeout" } else { "error" };
                self.provider_failed(pool, &message);
                self.note(Note::PoolCalled { pool: name, outcome, took, detail: Some(message) });
            }
        }
    }

    /// The provider did not do what it was asked for: the next call waits, each time longer.
    pub(super) fn provider_failed(&mut self, pool: &mut Pool, message: &str) {
        let fraction = self.draw();
        let wait = backoff(RETRY_FIRST, RETRY_MOST, 200, pool.failures, 50, fraction);
        pool.failures = pool.failures.saturating_add(1);
        pool.error = Some(message.into());
        pool.retry_at = Some((self.now.mono + wait, self.now.wall + wait));
    }

    /// A worker dials in under a name that nobody has: it may be an instance of a pool, if there are
    /// to be more of them.
    pub(in crate::fleet) fn adopt(&mut self, registration: &Registration) {
        let Some((name, index)) = registration.worker.as_str().rsplit_once('-') else { return };
        let Ok(index) = index.parse::<u32>() else { return };
        let name = PoolName::from(name);
        let Some(mut pool) = self.pools.by_name.remove(&name) else { return };
        let worker = &registration.worker;
        if !registration.dialled && pool.spec.dials_in() && pool.spec.worker_name(index) == *worker {
            let have = u32::try_from(pool.members.len()).unwrap_or(u32::MAX);
            let asked = pool.call.as_ref();
            let asked = asked.is_some_and(|call| call.added.iter().any(|(added, _)| added == worker));
            let room = match pool.spec.scaling.provider {
                ProviderKind::External => have < pool.spec.scaling.max,
                ProviderKind::Exec | ProviderKind::Webhook | ProviderKind::Process => have < pool.desired,
            };
            if !pool.removed && (asked || room) {
                pool.victims.remove(worker);
                self.join(&mut pool, worker.clone(), index, None);
                self.keep(&mut pool);
            } else if !pool.unwanted.contains(worker) {
                pool.unwanted.truncate(SHOWN_NAMES - 1);
                pool.unwanted.insert(0, worker.clone());
                self.note(Note::PoolOdd { pool: name.clone(), worker: worker.clone(), what: "unwanted" });
            }
            self.pools.changed = true;
            self.pools.hurry = true;
        }
        self.pools.by_name.insert(name, pool);
    }

    /// A person's word about a pool: durable, and kept over restarts.
    pub(in crate::fleet) fn pool_word(&mut self, word: &PoolWord, by: Option<Arc<str>>, request: RequestId) {
        let name = word.pool().clone();
        let refused = |refusal| Effect::Answer(request, Answer::Refused(refusal));
        let Some(mut pool) = self.pools.by_name.remove(&name) else {
            return self.effect(refused(Refusal::NoSuchPool));
        };
        let (min, max) = (pool.spec.scaling.min_at(self.now.wall), pool.spec.scaling.max);
        if pool.removed {
            self.effect(refused(Refusal::NoSuchPool));
        } else if let PoolWord::Scale(_, to) = word
            && !(min..=max).contains(to)
        {
            self.effect(refused(Refusal::SizeOutOfBounds { min, max }));
        } else {
            match *word {
                PoolWord::Scale(_, to) => self.scale_by_hand(&mut pool, to, (min, max)),
                PoolWord::Pause(_) => pool.paused = true,
                PoolWord::Resume(_) => pool.paused = false,
            }
            (pool.by, pool.at) = (by, self.now.wall);
            self.pools.changed = true;
            self.pools.hurry = true;
            match self.keep(&mut pool) {
                Some(seq) => self.show_after(seq, Effect::Answer(request, Answer::Done)),
                None => self.effect(Effect::Answer(request, Answer::Done)),
            }
        }
        self.pools.by_name.insert(name, pool);
    }

    fn scale_by_hand(&mut self, pool: &mut Pool, to: u32, (min, max): (u32, u32)) {
        let from = pool.desired;
        pool.rule.set(self.now.mono, to);
        let inputs = pool.last.as_ref().map_or_else(Inputs::default, |last| last.inputs);
        let direction = match to.cmp(&from) {
            std::cmp::Ordering::Greater => Direction::Up,
            std::cmp::Ordering::Less => Direction::Down,
            std::cmp::Ordering::Equal => Direction::Hold,
        };
        let decision = Decision {
            at: self.now.wall,
            from,
            to,
            direction,
            reason: Reason::Manual,
            limits: Limits::default(),
            inputs,
            wish: to,
            min,
            max,
            wait: None,
        };
        self.take(pool, decision, DemandSample::default());
        // Whoever asks by hand does not want to wait for a failed call's turn.
        pool.retry_at = None;
    }
}
