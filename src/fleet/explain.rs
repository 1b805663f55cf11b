//! Why a task waits: what kind of wait it is, a line for each group of like workers, and the shortest
//! fix. It reads the index that the balancer reads, so that the two cannot disagree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::Fleet;
use super::balancer::Demand;
use super::health::Standing;
use super::ids::{TaskId, WorkerName};
use super::lifecycle::{Phase, Waiting};
use super::registry::Worker;
use super::slab::{DemandIx, TaskIx, WorkerIx};
use super::time::{Mono, Wall};
use super::view::{Explanation, Wait, WorkerGroup, WorkerState};

/// Lines of an explanation at most; the rest is one more.
const MAX_LINES: usize = 20;

const DAY_MILLIS: i64 = 24 * 3_600 * 1_000;

/// Why a worker does not take a task now. Like workers have equal ones; their order is that of the
/// lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// It could: then the task does not wait.
    Free,
    Busy {
        used: u32,
        stuck: u32,
        slots: u32,
    },
    /// It is back from an ejection, and may use only some of its slots yet.
    Returning {
        open: u32,
        slots: u32,
    },
    /// Its process is being written to the roster.
    Enrolling,
    /// It has what the task takes, in a state in which it takes nothing; with what there is to say.
    Away(WorkerState, Option<Arc<str>>),
    /// It may offer anything: it has never registered, and the topology does not say.
    Unheard,
    Lacks(Vec<(Arc<str>, Arc<str>)>),
    OffersElse,
}

/// Workers with the same reason.
#[derive(Debug)]
struct Group<'a> {
    first: &'a Worker,
    last: &'a WorkerName,
    count: usize,
}

impl Fleet {
    /// Why a task waits; `None` for one that does not.
    pub fn explain(&self, id: TaskId) -> Option<Explanation> {
        let ix = *self.by_id.get(&id)?;
        self.early(ix).or_else(|| self.in_queue(ix).then(|| self.survey_for(ix, true)))
    }

    /// The same in one sentence.
    pub(super) fn pending_reason(&self, ix: TaskIx) -> Option<String> {
        let explained = self.early(ix).or_else(|| self.in_queue(ix).then(|| self.survey_for(ix, false)));
        explained.map(|explained| explained.summary)
    }

    fn in_queue(&self, ix: TaskIx) -> bool {
        matches!(self.tasks[ix].phase, Phase::Waiting(_))
    }

    /// Why a task is not in a queue yet, if it is on its way there.
    fn early(&self, ix: TaskIx) -> Option<Explanation> {
        let task = &self.tasks[ix];
        let sentence =
            |wait, summary: String| Some(Explanation { wait, summary, workers: Vec::new(), fix: None });
        match &task.phase {
            Phase::Held => sentence(
                Wait::Recording,
                "its record is being written: a task with an Idempotency-Key starts after that".to_owned(),
            ),
            Phase::Recovering(recovering) => sentence(
                Wait::Recovering,
                match &recovering.hint {
                    Some(hint) => {
                        format!("it was on {} when the server stopped: waiting for that worker", hint.worker)
                    }
                    None => "the server has just started: waiting to hear whether a worker has it already"
                        .to_owned(),
                },
            ),
            Phase::Waiting(waiting) if waiting.starved.is_some() => sentence(
                Wait::RetryBudget,
                format!(
                    "retries of {} are beyond their budget (a fifth of the first attempts and ten a second): \
                     it is tried again when the budget allows it",
                    task.spec.capability
                ),
            ),
            Phase::Waiting(waiting) if waiting.turn => match self.session_awaits(ix) {
                Some(worker) => sentence(
                    Wait::Recovering,
                    format!("its session was on {worker} when the server stopped: waiting for that worker"),
                ),
                None => sentence(
                    Wait::Session,
                    "another task of its session goes first: they run one after another".to_owned(),
                ),
            },
            Phase::Waiting(waiting) if waiting.delayed => sentence(
                Wait::Backoff,
                format!(
                    "its next attempt is planned in {:.1} s",
                    waiting.since.since(self.now.mono).as_secs_f64()
                ),
            ),
            Phase::Waiting(Waiting { reading_for: Some(worker), .. }) => {
                let worker =
                    self.registry.workers.get(*worker).map_or("a worker", |worker| worker.name.as_str());
                sentence(Wait::Reading, format!("its input is being read from the store, for {worker}"))
            }
            Phase::Waiting(_)
            | Phase::Assigned(_)
            | Phase::Running(_)
            | Phase::Cancelling(_)
            | Phase::Between => None,
        }
    }

    /// Looks at the workers for one task; and until when it waits for those that it prefers.
    fn survey_for(&self, ix: TaskIx, everybody: bool) -> Explanation {
        let task = &self.tasks[ix];
        let found = self.survey(task.demand, everybody);
        let (Phase::Waiting(waiting), Some(placement)) = (&task.phase, &task.spec.placement) else {
            return found;
        };
        let Some((until, _)) = waiting.fallback else { return found };
        let preferred: Vec<_> =
            placement.preferred.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let (preferred, until) = (preferred.join(", "), self.time_of_day(until));
        let summary = format!(
            "until {until} it waits for a worker with {preferred}, which it prefers; after that any that \
             offers {} will do ({})",
            task.spec.capability, found.summary
        );
        Explanation { wait: Wait::Preferred, summary, ..found }
    }

    /// Looks at the workers for one demand: at all of them, or only at those that matter for the
    /// summary.
    fn survey(&self, demand: DemandIx, everybody: bool) -> Explanation {
        let entry = &self.balancer.demands[demand];
        let mut groups: BTreeMap<Reason, Group<'_>> = BTreeMap::new();
        let everybody = everybody || entry.eligible.is_empty();
        for ix in self.of_interest(entry, everybody) {
            let worker = &self.registry.workers[ix];
            groups
                .entry(self.reason(worker, entry, entry.eligible.contains(&ix)))
                .and_modify(|group| {
                    group.last = &worker.name;
                    group.count += 1;
                })
                .or_insert(Group { first: worker, last: &worker.name, count: 1 });
        }
        let wait = self.kind(&groups);
        let missing = matches!(wait, Wait::Impossible | Wait::NotReady);
        if let Some((summary, fix)) = missing.then(|| self.outlook(entry)).flatten() {
            return Explanation { wait: Wait::NotReady, summary, fix, workers: lines(entry, &groups) };
        }
        Explanation {
            wait,
            summary: summary(entry, wait, &groups),
            fix: fix(entry, wait, &groups),
            workers: lines(entry, &groups),
        }
    }

    /// The workers that matter to a demand: of a session's tasks only the one that has it, although that may
    /// be on its way out of the topology.
    fn of_interest(&self, entry: &Demand, everybody: bool) -> Vec<WorkerIx> {
        if let Some((only, _)) = &entry.only {
            return self.registry.workers.get(*only).map(|_| *only).into_iter().collect();
        }
        let named = self.registry.by_name.values().copied();
        named.filter(|ix| everybody || entry.eligible.contains(ix)).collect()
    }

    fn kind(&self, groups: &BTreeMap<Reason, Group<'_>>) -> Wait {
        if self.quiescing {
            return Wait::Stopping;
        }
        // The first reason is the nearest to taking the task.
        match groups.keys().next() {
            Some(Reason::Free) => Wait::Free,
            Some(Reason::Busy { .. } | Reason::Returning { .. } | Reason::Enrolling) => Wait::Busy,
            Some(Reason::Away(..) | Reason::Unheard) => Wait::NotReady,
            Some(Reason::Lacks(_) | Reason::OffersElse) | None => Wait::Impossible,
        }
    }

    fn reason(&self, worker: &Worker, entry: &Demand, eligible: bool) -> Reason {
        if !eligible {
            if worker.offer(&entry.capability).is_some() {
                let lacks =
                    |(label, value): &(&Arc<str>, &Arc<str>)| worker.labels.get(*label) != Some(*value);
                let missing = entry.labels.iter().filter(lacks);
                return Reason::Lacks(missing.map(|(label, value)| (label.clone(), value.clone())).collect());
            }
            let unheard = worker.said.is_none() && worker.spec.capabilities.is_none();
            return if unheard { Reason::Unheard } else { Reason::OffersElse };
        }
        let (used, stuck, slots) = (worker.used(), worker.unavailable(), worker.slots);
        match worker.state_for(entry.only.is_some()) {
            WorkerState::Ready if worker.roster.is_some() => Reason::Enrolling,
            WorkerState::Ready if used.saturating_add(stuck) >= slots => Reason::Busy { used, stuck, slots },
            WorkerState::Ready if used.saturating_add(stuck) >= worker.open_slots() => {
                Reason::Returning { open: worker.open_slots(), slots }
            }
            WorkerState::Ready => Reason::Free,
            state @ (WorkerState::Draining | WorkerState::Cordoned) => {
                Reason::Away(state, self.by_whom(worker))
            }
            state @ WorkerState::Connecting if worker.up().is_some() => {
                Reason::Away(state, Some("(it must pass its canary first)".into()))
            }
            state @ (WorkerState::Disconnected | WorkerState::Connecting) => {
                let error = worker.last_error.as_ref().map(|error| format!("({error})").into());
                Reason::Away(state, error)
            }
            state @ WorkerState::Ejected => Reason::Away(state, self.why_out(worker)),
            state @ (WorkerState::Removed | WorkerState::Suspect) => Reason::Away(state, None),
        }
    }

    /// Why a worker is ejected, and until when.
    fn why_out(&self, worker: &Worker) -> Option<Arc<str>> {
        let then = match worker.health.standing {
            Standing::Ejected(until) => {
                format!("is given another chance at {}", self.time_of_day(until))
            }
            Standing::HalfOpen => "gets another chance now".to_owned(),
            Standing::New | Standing::Good | Standing::Returning(_) => return None,
        };
        let why = worker.last_failure.as_deref().unwrap_or("it failed");
        Some(format!("({why}; {then})").into())
    }

    /// A time to come, as people say it: what is left until then would be wrong a moment later.
    fn time_of_day(&self, at: Mono) -> String {
        let seconds =
            (self.now.wall + at.since(self.now.mono)).0.div_euclid(1_000).rem_euclid(DAY_MILLIS / 1_000);
        format!("{:02}:{:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60, seconds % 60)
    }

    /// Who said that a worker takes no tasks, and when.
    fn by_whom(&self, worker: &Worker) -> Option<Arc<str>> {
        let said = &worker.overlay;
        if !said.cordoned && !said.draining {
            return None;
        }
        let by = said.by.as_ref().map_or_else(String::new, |by| format!("by {by} "));
        Some(format!("{by}{}", clock(said.at, self.now.wall)).into())
    }

    /// Whether this explanation would have a worker free for a demand; then no task waits for it.
    pub(super) fn tells_of_a_free_worker(&self, demand: DemandIx) -> bool {
        let entry = &self.balancer.demands[demand];
        let mut able = self.of_interest(entry, false).into_iter().filter(|ix| entry.eligible.contains(ix));
        !self.quiescing && able.any(|ix| self.reason(&self.registry.workers[ix], entry, true) == Reason::Free)
    }
}

/// A time of day in the last day, else how many days ago.
fn clock(at: Wall, now: Wall) -> String {
    let ago = now.since(at).as_millis();
    let days = ago / u128::from(DAY_MILLIS.unsigned_abs());
    if days > 0 {
        return format!("{days} d ago");
    }
    let minutes = at.0.rem_euclid(DAY_MILLIS) / 60_000;
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// What is asked for, with the labels.
fn wanted(entry: &Demand) -> String {
    let labels: Vec<_> = entry.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    match labels.as_slice() {
        [] => entry.capability.to_string(),
        labels => format!("{} with {}", entry.capability, labels.join(", ")),
    }
}

impl Reason {
    fn text(&self, entry: &Demand) -> String {
        match self {
            Self::Free => "free".to_owned(),
            Self::Busy { used, stuck: 0, slots } => format!("slots {used}/{slots} in use"),
            Self::Busy { used, stuck, slots } => {
                format!("slots {used}/{slots} in use, {stuck} held by attempts that do not stop")
            }
            Self::Returning { open, slots } => {
                format!("back from an ejection: {open} of its {slots} slots for now, in use")
            }
            Self::Enrolling => "its process is being written to the roster".to_owned(),
            Self::Away(state, detail) => {
                let mut text = state.as_str().to_owned();
                if let Some(detail) = detail {
                    let _infallible = write!(text, " {detail}");
                }
                text
            }
            Self::Unheard => "has never registered: what it offers is not known".to_owned(),
            Self::Lacks(labels) => {
                let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
                let word = if labels.len() == 1 { "label" } else { "labels" };
                format!("{word} {} missing", labels.join(", "))
            }
            Self::OffersElse => format!("does not offer {}", entry.capability),
        }
    }
}

impl Group<'_> {
    fn names(&self) -> String {
        match self.count {
            1 => self.first.name.to_string(),
            2 => format!("{}, {}", self.first.name, self.last),
            _ => format!("{} … {}", self.first.name, self.last),
        }
    }
}

fn lines(entry: &Demand, groups: &BTreeMap<Reason, Group<'_>>) -> Vec<WorkerGroup> {
    let line = |(reason, group): (&Reason, &Group<'_>)| WorkerGroup {
        workers: group.names(),
        count: group.count,
        reason: reason.text(entry),
    };
    let mut lines: Vec<_> = groups.iter().take(MAX_LINES).map(line).collect();
    let rest: usize = groups.values().skip(MAX_LINES).map(|group| group.count).sum();
    if rest > 0 {
        let reason = format!("{} other reasons", groups.len() - MAX_LINES);
        lines.push(WorkerGroup { workers: "others".to_owned(), count: rest, reason });
    }
    lines
}

fn summary(entry: &Demand, wait: Wait, groups: &BTreeMap<Reason, Group<'_>>) -> String {
    let nearest =
        groups.iter().next().map(|(reason, group)| format!("{}: {}", group.names(), reason.text(entry)));
    let nearest = nearest.unwrap_or_default();
    match wait {
        Wait::Stopping => "the server is stopping: nothing is handed out".to_owned(),
        Wait::Busy => {
            let waiting = entry.queue.len();
            format!("every worker that could take it is busy ({nearest}); {waiting} wait for the same")
        }
        Wait::NotReady => format!("no worker that offers {} is ready ({nearest})", wanted(entry)),
        Wait::Impossible => format!("no worker offers {}", wanted(entry)),
        Wait::Free
        | Wait::Recording
        | Wait::Recovering
        | Wait::Backoff
        | Wait::RetryBudget
        | Wait::Preferred
        | Wait::Session
        | Wait::Reading => "its turn comes now".to_owned(),
    }
}

/// The least that a person can do.
fn fix(entry: &Demand, wait: Wait, groups: &BTreeMap<Reason, Group<'_>>) -> Option<String> {
    match wait {
        Wait::Busy => {
            let stuck = groups.iter().find(|(reason, _)| matches!(reason, Reason::Busy { stuck: 1.., .. }));
            Some(match stuck {
                Some((_, group)) => format!("rollcall workers restart {}", group.first.name),
                None => "wait, or add workers or slots".to_owned(),
            })
        }
        Wait::NotReady => {
            let cheapest = groups.iter().filter_map(|(reason, group)| remedy(reason, group.first)).min();
            cheapest.map(|(_, remedy)| remedy)
        }
        Wait::Impossible => {
            let nearest = groups.iter().filter_map(|(reason, group)| match reason {
                Reason::Lacks(labels) => Some((labels, group.first)),
                Reason::Free
                | Reason::Busy { .. }
                | Reason::Returning { .. }
                | Reason::Enrolling
                | Reason::Away(..)
                | Reason::Unheard
                | Reason::OffersElse => None,
            });
            Some(match nearest.min_by_key(|(labels, _)| labels.len()) {
                Some((labels, worker)) => {
                    let labels: Vec<_> =
                        labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
                    format!(
                        "give {} the labels {}, or add a worker that has them",
                        worker.name,
                        labels.join(", ")
                    )
                }
                None => format!("add a worker that offers {}", wanted(entry)),
            })
        }
        Wait::Stopping
        | Wait::Free
        | Wait::Recording
        | Wait::Recovering
        | Wait::Backoff
        | Wait::RetryBudget
        | Wait::Preferred
        | Wait::Session
        | Wait::Reading => None,
    }
}

/// What brings a worker back, with how much that takes.
fn remedy(reason: &Reason, worker: &Worker) -> Option<(u8, String)> {
    let name = &worker.name;
    let said = worker.overlay.cordoned || worker.overlay.draining;
    match reason {
        Reason::Away(WorkerState::Cordoned | WorkerState::Draining, _) if said => {
            Some((0, format!("rollcall workers uncordon {name}")))
        }
        Reason::Away(WorkerState::Disconnected | WorkerState::Connecting, _) => {
            Some((1, format!("see why {name} is not connected: rollcall workers describe {name}")))
        }
        Reason::Unheard => Some((2, format!("start {name}, or say in config.yaml what it offers"))),
        Reason::Away(WorkerState::Ejected, _) => {
            Some((3, format!("wait until {name} gets another chance, or see why it fails")))
        }
        Reason::Away(..) => Some((4, format!("wait for {name}"))),
        Reason::Free
        | Reason::Busy { .. }
        | Reason::Returning { .. }
        | Reason::Enrolling
        | Reason::Lacks(_)
        | Reason::OffersElse => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_today_is_a_clock_and_an_older_one_a_number_of_days() {
        let ten_past_ten = Wall(1_700_000_000_000 / DAY_MILLIS * DAY_MILLIS + (10 * 60 + 2) * 60_000);
        let later = |days: i64| Wall(ten_past_ten.0 + days * DAY_MILLIS);
        assert_eq!(clock(ten_past_ten, ten_past_ten), "10:02 UTC");
        assert_eq!(clock(ten_past_ten, Wall(0)), "10:02 UTC", "the clock was set back");
        assert_eq!(clock(ten_past_ten, later(3)), "3 d ago");
    }
}
