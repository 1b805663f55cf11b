//! Canaries: the cheapest task of a worker's kind, by which it shows that it works. A new process gets
//! one before any task, one that was ejected before it comes back, and one that has done nothing for
//! long now and then. A canary is no task: nobody asked for it, no queue or journal knows it, and it is
//! not counted with them; only the slot that it takes is as real as any.

use std::sync::Arc;
use std::time::Duration;

use super::attempts::LIMIT_SLACK;
use super::health::Standing;
use super::ids::*;
use super::slab::WorkerIx;
use super::task::{AttemptOutcome, TaskSpec};
use super::time::Mono;
use super::timers::{Timer, WorkerTimer};
use super::words::*;
use super::{Fleet, Note};
use rand::RngExt;

/// How long a canary may run. Far longer than one takes: a loaded machine is not a sick worker.
const LIMIT: Duration = Duration::from_secs(30);

/// A worker that has done nothing for so long is asked whether it still can.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// The wait before a canary that was turned away is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// A worker that turns its canary away so often fails it.
const MAX_REFUSALS: u32 = 5;

/// The cheapest task that shows that a worker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// What is asked; the worker offers it.
    pub capability: Capability,
    /// The input.
    pub input: Payload,
}

impl Canary {
    /// The canary of a kind of worker, among what it offers; `None` where the kind has none, or may not
    /// be asked for it.
    pub fn of(kind: &str, offers: &[Offer]) -> Option<Self> {
        let offered = |name: &str| {
            let name = Capability::from(name);
            offers.iter().any(|offer| offer.name.covers(&name)).then_some(name)
        };
        match kind {
            "python-sandbox" => {
                let python = offered("python.execute").map(|name| (name, r#"{"code":"6*7"}"#));
                let command = || offered("command.execute").map(|name| (name, r#"{"argv":["true"]}"#));
                python.or_else(command)
            }
            // It answers everything that it offers with its input.
            "mock" => {
                let first = offers.first().map(|offer| Capability::from(echo_of(offer.name.as_str())));
                offered("echo").or(first).map(|name| (name, r#"{"canary":true}"#))
            }
            _ => None,
        }
        .map(|(capability, input)| Self { capability, input: Payload::from(input) })
    }
}

/// A name that a pattern covers; a plain name is its own.
fn echo_of(pattern: &str) -> String {
    pattern.strip_suffix('*').map_or_else(|| pattern.to_owned(), |family| format!("{family}echo"))
}

/// A worker's canaries.
#[derive(Debug, Default)]
pub(super) struct Canaries {
    /// The one that it has.
    asked: Option<(TaskId, Epoch)>,
    /// Since when.
    since: Mono,
    /// The one before, which it may still tell of.
    former: Option<(TaskId, Epoch)>,
    /// How often in a row it has turned one away.
    refusals: u32,
}

impl Canaries {
    /// Whether it has one now.
    pub(super) fn runs(&self) -> bool {
        self.asked.is_some()
    }

    /// The one that it has.
    pub(super) fn asked(&self) -> Option<(TaskId, Epoch)> {
        self.asked
    }

    /// Whether an attempt is one of its canaries.
    pub(super) fn knows(&self, task: TaskId, epoch: Epoch) -> bool {
        let key = Some((task, epoch));
        self.asked == key || self.former == key
    }

    /// Its connection is gone: whatever becomes of the canary, it counts for nothing.
    pub(super) fn let_go(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.former = Some(asked);
        }
    }
}

impl Fleet {
    /// Sends a worker its canary, if it must pass one before it gets tasks and can have it now.
    pub(super) fn tend(&mut self, worker: WorkerIx) {
        let subject = &self.registry.workers[worker];
        if !subject.waits_for_canary() || self.quiescing {
            return;
        }
        match self.canary_of(worker) {
            None => self.proved(worker),
            Some(canary) if subject.has_room() => self.send_canary(worker, canary),
            Some(_) => {}
        }
    }

    /// The canary of a worker that has registered.
    fn canary_of(&self, worker: WorkerIx) -> Option<Canary> {
        let subject = &self.registry.workers[worker];
        let registered = subject.registered.as_ref()?;
        Canary::of(&registered.kind, &subject.offers)
    }

    fn send_canary(&mut self, worker: WorkerIx, canary: Canary) {
        let (task, epoch) = (self.canary_id(), self.next_epoch());
        let now = self.now.mono;
        let subject = &mut self.registry.workers[worker];
        let Some(conn) = subject.conn() else { return };
        let limit = LIMIT.min(subject.spec.timeout);
        let Canaries { asked, since, .. } = &mut subject.canary;
        (*asked, *since) = (Some((task, epoch)), now);
        self.timers.clear(&mut subject.timers.canary);
        let over = now + limit + LIMIT_SLACK;
        subject.timers.canary = Some(self.timers.set(over, Timer::Worker(worker, WorkerTimer::Canary)));
        let Canary { capability, input } = canary;
        let spec = TaskSpec { execution_timeout: Some(limit), ..TaskSpec::new(capability, input) };
        let spec = Arc::new(spec);
        let assignment = Assignment { task, epoch, number: 1, spec, limit, session: None, canary: true };
        self.effect(Effect::Order(conn, Order::Execute(Box::new(assignment))));
    }

    /// An id like those that the shell makes: a UUIDv7 (RFC 9562, section 5.7).
    fn canary_id(&mut self) -> TaskId {
        let millis = u128::from(self.now.wall.0.max(0).unsigned_abs()) & ((1 << 48) - 1);
        let random: u128 =
            (u128::from(self.rng.random::<u64>()) << 64) | u128::from(self.rng.random::<u64>());
        let (version, variant) = (7u128 << 76, 2u128 << 62);
        let random = random & (((1 << 12) - 1) << 64 | ((1 << 62) - 1));
        TaskId(millis << 80 | version | variant | random)
    }

    /// A worker has told how its canary ended, or one that it was to forget.
    pub(super) fn canary_ended(&mut self, worker: WorkerIx, conn: ConnId, report: &ResultReport) {
        let key = (report.task, report.epoch);
        let (task, epoch) = key;
        self.effect(Effect::Order(conn, Order::Ack { task, epoch, discarded: None }));
        let subject = &mut self.registry.workers[worker];
        subject.stuck.remove(&key);
        if subject.canary.asked == Some(key) {
            match report.status {
                AttemptOutcome::Succeeded => self.canary_passed(worker),
                // Whoever stops what it was told to do is about to leave, or was about to arrive.
                AttemptOutcome::Cancelled | AttemptOutcome::Rejected | AttemptOutcome::Superseded => {
                    self.canary_refused(worker, "it was stopped");
                }
                // Its input is known to be good: here no failure is the caller's.
                AttemptOutcome::Failed | AttemptOutcome::TimedOut | AttemptOutcome::WorkerLost => {
                    let error = report.error.as_ref();
                    let why = error.map_or("no reason given".into(), |error| {
                        format!("{}: {}", error.code, error.message)
                    });
                    self.canary_failed(worker, &why);
                }
            }
        }
        self.steer(worker);
    }

    /// A worker did not begin its canary.
    pub(super) fn canary_rejected(
        &mut self,
        worker: WorkerIx,
        key: (TaskId, Epoch),
        reason: &str,
        retryable: bool,
    ) {
        let subject = &mut self.registry.workers[worker];
        subject.stuck.remove(&key);
        if subject.canary.asked == Some(key) {
            if retryable {
                self.canary_refused(worker, reason);
            } else {
                self.canary_failed(worker, &format!("the worker refused it: {reason}"));
            }
        }
        self.steer(worker);
    }

    fn canary_refused(&mut self, worker: WorkerIx, reason: &str) {
        let subject = &mut self.registry.workers[worker];
        subject.canary.refusals += 1;
        if subject.canary.refusals >= MAX_REFUSALS {
            let why = format!("turned away {MAX_REFUSALS} times: {reason}");
            return self.canary_failed(worker, &why);
        }
        subject.canary.let_go();
        self.look_again(worker, AGAIN);
    }

    fn canary_passed(&mut self, worker: WorkerIx) {
        self.canary_over(worker, "passed");
        self.proved(worker);
    }

    fn canary_failed(&mut self, worker: WorkerIx, why: &str) {
        self.canary_over(worker, "failed");
        let subject = &mut self.registry.workers[worker];
        let detail = format!("its canary failed: {why}");
        match subject.health.standing {
            Standing::New | Standing::HalfOpen | Standing::Ejected(_) => self.eject(worker, &detail),
            Standing::Good | Standing::Returning(_) => {
                let base = self.settings.base_ejection;
                if self.eject_if_possible(worker, &detail) {
                    return;
                }
                self.look_again(worker, base);
            }
        }
    }

    fn canary_over(&mut self, worker: WorkerIx, outcome: &'static str) {
        let subject = &mut self.registry.workers[worker];
        self.timers.clear(&mut subject.timers.canary);
        subject.canary.let_go();
        subject.canary.refusals = 0;
        let took = self.now.mono.since(subject.canary.since);
        let (worker, pool) = (subject.name.clone(), subject.spec.pool.clone());
        self.note(Note::Canary { worker, pool, outcome, took });
    }

    /// A worker has shown that it works, or its kind has nothing to show it by.
    pub(super) fn proved(&mut self, worker: WorkerIx) {
        let now = self.now.mono;
        let base = self.settings.base_ejection;
        let subject = &mut self.registry.workers[worker];
        let was_out = subject.health.is_out();
        subject.health.proved(now);
        if let Standing::Returning(_) = subject.health.standing {
            self.timers.clear(&mut subject.timers.ejected);
            let lifted = self.timers.set(now + base, Timer::Worker(worker, WorkerTimer::Ejected));
            subject.timers.ejected = Some(lifted);
        }
        self.look_when_idle(worker);
        if was_out {
            self.health_note(worker, "returned", "it takes tasks again, few at first");
        }
    }

    /// Whether an attempt is a canary of that worker.
    pub(super) fn is_canary(&self, worker: WorkerIx, task: TaskId, epoch: Epoch) -> bool {
        self.registry.workers[worker].canary.knows(task, epoch)
    }

    /// A process has work that it was given when it had passed its canary, by the server before this one.
    pub(super) fn vouched_for(&mut self, worker: WorkerIx) {
        if self.registry.workers[worker].health.standing == Standing::New {
            self.proved(worker);
        }
    }

    /// Plans the look at a worker in good standing that does nothing.
    pub(super) fn look_when_idle(&mut self, worker: WorkerIx) {
        let good = match self.registry.workers[worker].health.standing {
            Standing::Good | Standing::Returning(_) => true,
            Standing::New | Standing::Ejected(_) | Standing::HalfOpen => false,
        };
        if good && self.canary_of(worker).is_some() {
            let idle = self.now.mono.since(self.registry.workers[worker].health.proven);
            self.look_again(worker, IDLE.saturating_sub(idle));
        }
    }

    fn look_again(&mut self, worker: WorkerIx, wait: Duration) {
        let at = self.now.mono + wait.max(Duration::from_millis(1));
        let subject = &mut self.registry.workers[worker];
        self.timers.clear(&mut subject.timers.canary);
        subject.timers.canary = Some(self.timers.set(at, Timer::Worker(worker, WorkerTimer::Canary)));
    }

    /// A canary has used up its time; or one is to be sent again, or to a worker that does nothing.
    pub(super) fn canary_due(&mut self, worker: WorkerIx) {
        let now = self.now.mono;
        let subject = &mut self.registry.workers[worker];
        subject.timers.canary = None;
        if let Some((task, epoch)) = subject.canary.asked {
            if let Some(conn) = subject.conn() {
                self.effect(Effect::Order(conn, Order::Cancel { task, epoch, reason: "timeout" }));
            }
            self.canary_failed(worker, "it did not end in time");
            self.fence(worker, task, epoch);
            if self.registry.workers[worker].has_room() {
                self.refresh(worker);
                self.steer(worker);
            } else {
                self.stalled(worker);
            }
            return;
        }
        match subject.health.standing {
            Standing::New | Standing::HalfOpen | Standing::Ejected(_) => {}
            Standing::Good | Standing::Returning(_) => {
                // One that fails on although it is kept is asked as well: that may be what mends it.
                let quiet = now.since(subject.health.proven) >= IDLE || subject.health.held_back.is_some();
                let quiet = quiet && subject.holds.is_empty() && subject.is_open_to_work() && !self.quiescing;
                match self.canary_of(worker).filter(|_| quiet) {
                    Some(canary) => self.send_canary(worker, canary),
                    None => self.look_again(worker, IDLE),
                }
            }
        }
        self.refresh(worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(kind: &str, offers: &[&str]) -> Option<String> {
        let offer = |name: &&str| Offer {
            name: (*name).into(),
            description: None,
            input_schema: None,
            idempotent: true,
        };
        let offers: Vec<Offer> = offers.iter().map(offer).collect();
        Canary::of(kind, &offers).map(|canary| format!("{} {}", canary.capability, canary.input.as_str()))
    }

    #[test]
    fn a_canary_is_something_that_the_worker_may_be_asked_for() {
        let python = canary("python-sandbox", &["files.*", "python.execute", "command.execute"]);
        assert_eq!(python.as_deref(), Some(r#"python.execute {"code":"6*7"}"#));
        let command = canary("python-sandbox", &["command.execute"]);
        assert_eq!(command.as_deref(), Some(r#"command.execute {"argv":["true"]}"#));
        assert_eq!(canary("python-sandbox", &["files.read"]), None);
        assert_eq!(canary("mock", &["*"]).as_deref(), Some(r#"echo {"canary":true}"#));
        assert_eq!(canary("mock", &["browser.*"]).as_deref(), Some(r#"browser.echo {"canary":true}"#));
        assert_eq!(canary("mock", &["figma.get_file"]).as_deref(), Some(r#"figma.get_file {"canary":true}"#));
        assert_eq!(canary("mock", &[]), None);
        assert_eq!(canary("somebody-else's", &["*"]), None);
    }
}
