//! The simulated callers: they submit, wait, lose patience, cancel, repeat keys, retry dead letters,
//! and hang up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::plan::CAPABILITIES;
use super::world::{Happening, World};

/// What the callers know.
#[derive(Default)]
pub(crate) struct Callers {
    next_request: u64,
    next_task: u64,
    /// Tasks that somebody may still ask about, newest last.
    known: Vec<TaskId>,
    /// Callers who wait for the end of a task.
    waiting: BTreeSet<TaskId>,
    /// Finished tasks that may be submitted anew.
    dead: Vec<TaskId>,
    /// Submissions that were answered and have not ended, for the length of the last wait.
    open: u32,
}

impl Callers {
    /// About how many tasks may still be open.
    pub(crate) fn depth(&self) -> u32 {
        self.open.min(2_000)
    }

    /// The server is gone, and with it every wait.
    pub(crate) fn server_gone(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }
}

impl World {
    /// The next submission, and sometimes another wish.
    pub(crate) fn load(&mut self) {
        if self.calm {
            return;
        }
        let wait = self.dice.span(self.plan.load_every / 8, self.plan.load_every * 4);
        self.soon(Happening::Load, wait);
        if self.server.fleet.is_none() {
            return;
        }
        self.submit();
        match self.dice.below(100) {
            0..=7 => self.cancel_some(),
            8..=9 => self.retry_some(),
            _ => {}
        }
    }

    /// Many tasks at once.
    pub(crate) fn burst(&mut self) {
        for _ in 0..self.dice.between(5, 60) {
            self.submit();
        }
    }

    fn submit(&mut self) {
        self.callers.next_task += 1;
        let id = TaskId(u128::from(self.callers.next_task) << 64 | u128::from(self.dice.word()));
        let passing = self.dice.chance(self.plan.passing);
        let keep = if passing {
            Keep::Passing
        } else if self.dice.chance(self.plan.keyed) {
            let key = u128::from(self.dice.between(1, 400));
            Keep::ByKey(KeyHash { key, body: key * 2 + u128::from(self.dice.chance(50)) })
        } else {
            Keep::Kept
        };
        self.submit_as(id, keep, None);
    }

    fn submit_as(&mut self, id: TaskId, keep: Keep, retry_of: Option<Arc<TaskRecord>>) {
        let spec = Arc::new(self.spec(keep == Keep::Passing));
        if self.dice.chance(self.plan.poison) {
            self.poison.insert(id);
        }
        let request = self.callers.request();
        self.callers.known.push(id);
        if self.callers.known.len() > 400 {
            self.callers.known.drain(..200);
        }
        if keep == Keep::Passing {
            self.callers.waiting.insert(id);
            let wait = self.dice.span(Duration::from_millis(10), Duration::from_secs(120));
            self.soon(Happening::Patience(self.server.life, id), wait);
        }
        let source = *self.dice.pick(&Source::ALL);
        let tenant = Tenant::default_tenant();
        self.callers.open += 1;
        self.tell(Event::Submit(Box::new(Submission { id, tenant, request, keep, source, spec, retry_of })));
    }

    fn spec(&mut self, waits: bool) -> TaskSpec {
        let dice = &mut self.dice;
        let capability = if dice.chance(10) { "nobody.has.it" } else { *dice.pick(&CAPABILITIES) };
        let labels = if dice.chance(100) { super::plan::labels(dice) } else { BTreeMap::new() };
        let (short, long) = (Duration::from_millis(200), Duration::from_secs(300));
        let placement = dice.chance(150).then(|| Placement {
            preferred: BTreeMap::from([(Arc::from("zone"), Arc::from(*dice.pick(&["a", "b"])))]),
            fallback_after: dice.chance(700).then(|| dice.span(short, Duration::from_secs(60))),
        });
        // What is required anyway is no preference; the edge sees to that.
        let placement = placement.filter(|_| !labels.contains_key("zone"));
        let wall = self.wall_offset + i64::try_from(self.time / 1_000_000).unwrap_or(i64::MAX);
        let deadline = match dice.below(20) {
            0 => Some(Deadline::After(dice.span(short, long))),
            1 => Some(Deadline::At(Wall(wall) + dice.span(short, long))),
            _ => None,
        };
        let more =
            if self.plan.large > 0 && dice.chance(self.plan.large) { TaskSpec::LARGE_INPUT } else { 0 };
        let session = dice.chance(120).then(|| format!("s-{}", dice.below(4)).into());
        let session_ttl = (session.is_some() && dice.chance(500)).then(|| dice.span(short, long));
        TaskSpec {
            capability: capability.into(),
            input: Payload::from(format!(
                "{{\"n\":{},\"more\":\"{}\"}}",
                dice.below(1_000_000),
                "x".repeat(more)
            )),
            stowed: 0,
            labels,
            placement,
            priority: u8::try_from(dice.between(1, 5)).unwrap_or(3),
            queue_timeout: (waits || dice.chance(100)).then(|| dice.span(short, long)),
            execution_timeout: dice.chance(300).then(|| dice.span(short, Duration::from_secs(60))),
            deadline,
            max_attempts: dice.chance(200).then(|| u32::try_from(dice.between(1, 5)).unwrap_or(3)),
            session,
            session_ttl,
            fairness_key: dice.chance(500).then(|| format!("agent-{}", dice.below(5)).into()),
            retry: if dice.chance(300) { RetryWord::Always } else { RetryWord::Safe },
            traceparent: None,
            artifacts: Vec::new(),
        }
    }

    fn cancel_some(&mut self) {
        if self.dice.chance(100) {
            let (session, request) = (format!("s-{}", self.dice.below(5)), self.callers.request());
            self.tell(Event::EndSession(Tenant::default_tenant(), session.as_str().into(), request));
        }
        if self.callers.known.is_empty() {
            return;
        }
        let task = if self.dice.chance(30) { TaskId(7) } else { *self.dice.pick(&self.callers.known) };
        let request = self.callers.request();
        self.tell(Event::Cancel(task, request));
    }

    fn retry_some(&mut self) {
        let Some(old) = self.callers.dead.pop() else { return };
        // As the shell does: the core is asked first, then the store.
        let known = self.server.fleet.as_ref().and_then(|fleet| fleet.task(old));
        let Some(old) = known.or_else(|| self.disk.task(old)) else { return };
        if self.dice.chance(200) {
            self.callers.dead.push(old.id);
        }
        self.callers.next_task += 1;
        let id = TaskId(u128::from(self.callers.next_task) << 64 | 1);
        self.submit_as(id, Keep::Kept, Some(old));
    }

    /// A waiting caller's patience ends: it wants the id, or it hangs up.
    pub(crate) fn patience_ends(&mut self, life: u32, task: TaskId) {
        if life != self.server.life || !self.callers.waiting.remove(&task) {
            return;
        }
        if self.dice.chance(700) {
            let request = self.callers.request();
            self.tell(Event::Promote(task, request));
        } else {
            self.tell(Event::Abandoned(task));
        }
    }

    /// The core answers a request.
    pub(crate) fn answered(&mut self, _: RequestId, answer: &Answer) {
        if let Answer::Refused(_) = answer {
            self.callers.open = self.callers.open.saturating_sub(1);
        }
    }

    /// A task has ended.
    pub(crate) fn finished(&mut self, task: TaskId, record: &TaskRecord) {
        self.callers.waiting.remove(&task);
        self.callers.open = self.callers.open.saturating_sub(1);
        if record.dead_letter {
            self.callers.dead.push(task);
        }
    }

    /// A person says something about a worker, or about none.
    pub(crate) fn operator(&mut self) {
        self.operate_pool();
        let names: Vec<WorkerName> = self.topology.workers.keys().cloned().collect();
        let name = if names.is_empty() || self.dice.chance(50) {
            "nobody".into()
        } else {
            self.dice.pick(&names).clone()
        };
        let word = match self.dice.below(6) {
            0 => OperatorWord::Cordon(name),
            1 => OperatorWord::Drain(name),
            2 => OperatorWord::Restart(name),
            _ => OperatorWord::Uncordon(name),
        };
        let request = self.callers.request();
        self.tell(Event::Operator(word, None, request));
    }

    /// Every worker takes tasks again.
    pub(crate) fn uncordon_all(&mut self) {
        for name in self.topology.workers.keys().cloned().collect::<Vec<_>>() {
            let request = self.callers.request();
            self.tell(Event::Operator(OperatorWord::Uncordon(name), None, request));
        }
    }
}
