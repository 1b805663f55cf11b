//! Sessions: state on one worker that tasks name. The first task of a name goes wherever there is room and
//! so decides where the session is; the others run there, one after another, for as long as that process
//! has the state. What ends it other than a caller's word is a loss, and is told until somebody has deleted
//! the session: nobody is to find an empty one where there was work.

mod restart;

pub use restart::SessionRecord;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Fleet;
use super::balancer::{Process, matches};
use super::ids::*;
use super::lifecycle::{Live, Phase, Waiting};
use super::planted::{Planted, planted};
use super::registry::Worker;
use super::slab::{SessionIx, Slab, TaskIx, WorkerIx};
use super::task::*;
use super::time::Wall;
use super::timers::{Timer, TimerKey};
use super::view::SessionView;
use super::words::*;

/// Sessions at once, lost ones among them; of those the oldest make room.
const MAX_SESSIONS: usize = 10_000;

/// How long an idle session lives where its tasks say nothing.
const USUAL_TTL: Duration = Duration::from_secs(15 * 60);

/// How long a loss is remembered.
const LOST_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// The sessions by name, and those that something is to be done about at the end of this step.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: Slab<SessionIx, Session>,
    by_name: BTreeMap<(Tenant, SessionName), SessionIx>,
    touched: Vec<SessionIx>,
    /// Workers that had a session until now: one that winds down may have waited for that.
    left: Vec<WorkerIx>,
}

/// One session.
#[derive(Debug)]
struct Session {
    tenant: Tenant,
    name: SessionName,
    /// Its tasks in the order in which they came; the first has its turn.
    tasks: VecDeque<TaskIx>,
    place: Place,
    ttl: Duration,
    /// When it ends unless it is used; or, of a lost one, is forgotten.
    timer: Option<TimerKey>,
    began: Wall,
    used: Wall,
    /// The newest record that the journal was given of it.
    recorded: Option<Seq>,
}

/// Where a session is.
#[derive(Debug)]
enum Place {
    /// No worker has it.
    Nowhere,
    /// On a worker. `begun`: that has told so; before, another worker may still have it.
    On { worker: WorkerIx, name: WorkerName, instance: Instance, begun: bool },
    /// It was on a worker when the server last ran, and that process may still come back with it.
    Away { name: WorkerName, instance: Instance },
    /// Its state is gone.
    Lost(Arc<str>),
}

/// What a hand-over says of the task's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct SessionLease {
    /// This attempt begins it.
    pub new: bool,
    /// How long it lives unused.
    pub ttl: Duration,
}

impl Session {
    /// The process that has it.
    fn process(&self) -> Option<Process> {
        match &self.place {
            Place::On { worker, instance, begun: true, .. } => Some((*worker, instance.clone())),
            Place::On { begun: false, .. } | Place::Nowhere | Place::Away { .. } | Place::Lost(_) => None,
        }
    }
}

impl Sessions {
    fn get(&self, ix: SessionIx) -> Option<&Session> {
        self.all.get(ix)
    }

    fn find(&self, tenant: &Tenant, name: &SessionName) -> Option<SessionIx> {
        self.by_name.get(&(tenant.clone(), name.clone())).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether some session is on that worker.
    pub(super) fn any_on(&self, wanted: WorkerIx) -> bool {
        self.all
            .iter()
            .any(|(_, session)| matches!(&session.place, Place::On { worker, .. } if *worker == wanted))
    }
}

impl Fleet {
    /// Whether a task may come into its session.
    pub(super) fn check_session(&self, tenant: &Tenant, spec: &TaskSpec) -> Result<(), Refusal> {
        let Some(name) = &spec.session else { return Ok(()) };
        let found = self.sessions.find(tenant, name).and_then(|ix| self.sessions.get(ix));
        match found {
            Some(Session { place: Place::Lost(why), .. }) => {
                Err(Refusal::SessionLost { session: name.clone(), why: why.clone() })
            }
            Some(_) => Ok(()),
            None if self.sessions.len() < MAX_SESSIONS || self.oldest_loss().is_some() => Ok(()),
            None => Err(Refusal::TooManyKinds { what: "sessions" }),
        }
    }

    /// Puts a new task at the end of its session, which begins with it if need be.
    pub(super) fn join_session(&mut self, ix: TaskIx) {
        let task = &self.tasks[ix];
        let Some(name) = task.spec.session.clone() else { return };
        let (tenant, ttl, now) = (task.tenant.clone(), task.spec.session_ttl, self.now.wall);
        let found = self.sessions.find(&tenant, &name).unwrap_or_else(|| {
            if self.sessions.len() >= MAX_SESSIONS
                && let Some(oldest) = self.oldest_loss()
            {
                self.forget_session(oldest);
            }
            let session = self.sessions.all.insert(Session {
                tenant: tenant.clone(),
                name: name.clone(),
                tasks: VecDeque::new(),
                place: Place::Nowhere,
                ttl: ttl.unwrap_or(USUAL_TTL),
                timer: None,
                began: now,
                used: now,
                recorded: None,
            });
            self.sessions.by_name.insert((tenant.clone(), name.clone()), session);
            session
        });
        let session = &mut self.sessions.all[found];
        session.tasks.push_back(ix);
        session.ttl = ttl.unwrap_or(session.ttl);
        session.used = now;
        if matches!(session.place, Place::Nowhere | Place::On { .. }) {
            self.timers.clear(&mut session.timer);
        }
        self.tasks[ix].session = Some(found);
    }

    /// Whether a task that may start has its turn, and can use it; else it waits for that, or for its end
    /// when this step is over. A task of no session always can.
    pub(super) fn takes_turn(&mut self, ix: TaskIx) -> bool {
        let Some(at) = self.tasks[ix].session else { return true };
        let Some(session) = self.sessions.get(at) else { return true };
        let first = session.tasks.front() == Some(&ix) || planted(Planted::SessionTurnIgnored);
        let away = matches!(session.place, Place::Away { .. });
        if !first || away || self.obstacle(at, ix).is_some() {
            let mut waiting = Waiting { turn: true, delayed: true, ..Waiting::since(self.now.mono) };
            if let Some(timeout) = self.queue_timeout_of(ix) {
                waiting.timer = Some(self.timers.set(self.now.mono + timeout, Timer::QueueTimeout(ix)));
            }
            self.set_phase(ix, Phase::Waiting(waiting));
            self.publish(ix, TaskState::Queued, Some("session_busy"));
            self.sessions.touched.push(at);
            return false;
        }
        let only = session.process();
        if only.is_none() {
            self.sessions.all[at].place = Place::Nowhere;
        }
        self.rebind(ix, only);
        true
    }

    /// Why a task can never run in its session, as an error's code and sentence.
    fn obstacle(&self, at: SessionIx, ix: TaskIx) -> Option<(&'static str, String)> {
        match &self.sessions.get(at)?.place {
            Place::Nowhere | Place::Away { .. } | Place::On { begun: false, .. } => None,
            Place::Lost(why) => Some(("session_lost", format!("its session is lost: {why}"))),
            Place::On { worker, .. } => {
                let (spec, subject) = (&self.tasks[ix].spec, &self.registry.workers[*worker]);
                let able =
                    subject.offer(&spec.capability).is_some() && matches(&subject.labels, &spec.labels);
                (subject.up().is_some() && !able).then(|| {
                    let (worker, capability) = (&subject.name, &spec.capability);
                    let message = format!(
                        "its session is on {worker}, which does not offer {capability} with its labels"
                    );
                    ("session_elsewhere", message)
                })
            }
        }
    }

    /// A task is handed over, or was found, on a worker: there its session is.
    pub(super) fn session_at(&mut self, ix: TaskIx, at: WorkerIx, known: bool) -> Option<SessionLease> {
        let number = self.tasks[ix].session?;
        let session = &mut self.sessions.all[number];
        let ttl = session.ttl;
        if let Place::On { worker, begun, .. } = &mut session.place {
            // A process that has come back under another name has what it had.
            *worker = at;
            return Some(SessionLease { new: !*begun, ttl });
        }
        if let Place::Nowhere | Place::Away { .. } = session.place {
            let subject = &self.registry.workers[at];
            let instance = subject.registered.as_ref().map(|registered| registered.instance.clone())?;
            self.timers.clear(&mut session.timer);
            session.place = Place::On { worker: at, name: subject.name.clone(), instance, begun: known };
            if known {
                self.record_session(number);
            }
        }
        Some(SessionLease { new: !known, ttl })
    }

    /// A result tells whether the session is there; a worker that does not tell has it.
    pub(super) fn session_told(&mut self, ix: TaskIx, by: WorkerIx, open: Option<bool>) {
        let Some(at) = self.tasks[ix].session else { return };
        let open = open.unwrap_or(true);
        let known = match &self.sessions.all[at].place {
            Place::On { begun, .. } => *begun,
            // A result that comes late, for a task that was put back: what it began is there all the same.
            Place::Nowhere | Place::Away { .. } if open => false,
            Place::Nowhere | Place::Away { .. } | Place::Lost(_) => return,
        };
        match (open, known) {
            (true, _) => {
                if !known {
                    self.session_begins(at, by);
                }
                // Whoever hears that there is a session must not find another one after a restart: tasks
                // are kept until the disk knows of it, so that these answers wait for that.
                let unknown = |seq| !self.gates.is_durable(seq);
                if self.sessions.all[at].recorded.is_none_or(unknown) && self.tasks[ix].keep == Keep::Passing
                {
                    self.tasks[ix].keep = Keep::Kept;
                }
            }
            (false, true) => self.lose_session(
                at,
                "the worker has it no longer: its time was over, or a call had to be killed",
            ),
            (false, false) => {
                self.leaves_worker(at);
                self.sessions.all[at].place = Place::Nowhere;
            }
        }
    }

    fn session_begins(&mut self, at: SessionIx, worker: WorkerIx) {
        let subject = &self.registry.workers[worker];
        let Some(registered) = &subject.registered else { return };
        let (name, instance) = (subject.name.clone(), registered.instance.clone());
        let session = &mut self.sessions.all[at];
        self.timers.clear(&mut session.timer);
        session.place = Place::On { worker, name, instance, begun: true };
        self.record_session(at);
    }

    /// A task is final or was withdrawn: the next one's turn has come.
    pub(super) fn leave_session(&mut self, ix: TaskIx, session: Option<SessionIx>) {
        if let Some(at) = session {
            self.sessions.all[at].tasks.retain(|task| *task != ix);
            self.sessions.all[at].used = self.now.wall;
            self.sessions.touched.push(at);
        }
    }

    /// A worker is gone, or is another process now: with it all sessions that were there.
    pub(super) fn lose_sessions(&mut self, gone: WorkerIx, why: &str) {
        if planted(Planted::SessionOutlivesProcess) {
            return;
        }
        let on_it = |session: &Session| matches!(&session.place, Place::On { worker, .. } if *worker == gone);
        let lost: Vec<SessionIx> =
            self.sessions.all.iter().filter(|(_, session)| on_it(session)).map(|(at, _)| at).collect();
        for at in lost {
            if let Place::On { begun: false, .. } = self.sessions.all[at].place {
                self.leaves_worker(at);
                self.sessions.all[at].place = Place::Nowhere;
                self.sessions.touched.push(at);
            } else {
                self.lose_session(at, why);
            }
        }
    }

    fn lose_session(&mut self, at: SessionIx, why: &str) {
        self.leaves_worker(at);
        let kept = self.timers.set(self.now.mono + LOST_KEPT, Timer::Session(at));
        let session = &mut self.sessions.all[at];
        self.timers.clear(&mut session.timer);
        session.timer = Some(kept);
        let told = match &session.place {
            Place::On { name, .. } | Place::Away { name, .. } => format!("{why} ({name})").into(),
            Place::Nowhere | Place::Lost(_) => why.into(),
        };
        session.place = Place::Lost(told);
        self.record_session(at);
        self.sessions.touched.push(at);
    }

    fn leaves_worker(&mut self, at: SessionIx) {
        if let Place::On { worker, .. } = self.sessions.all[at].place {
            self.sessions.left.push(worker);
        }
    }

    /// An idle session's time is over, or that of the memory of a lost one.
    pub(super) fn session_timer(&mut self, at: SessionIx) {
        let session = &mut self.sessions.all[at];
        session.timer = None;
        match session.place {
            Place::Lost(_) if session.tasks.is_empty() => {
                self.forget_session(at);
            }
            Place::Lost(_) => {
                session.timer = Some(self.timers.set(self.now.mono + LOST_KEPT, Timer::Session(at)));
            }
            Place::Away { .. } => {
                self.lose_session(at, "the server was started anew, and its worker did not come back");
            }
            Place::On { .. } | Place::Nowhere => {
                self.tell_end(at);
                self.lose_session(at, "nobody used it for its ttl");
            }
        }
    }

    /// Deletes a session: its tasks are cancelled, and its worker hears that it is over.
    pub(super) fn end_session(&mut self, tenant: &Tenant, name: &SessionName, request: RequestId) {
        let Some(at) = self.sessions.find(tenant, name) else {
            self.effect(Effect::Answer(request, Answer::Refused(Refusal::NoSuchSession)));
            return;
        };
        self.tell_end(at);
        for ix in std::mem::take(&mut self.sessions.all[at].tasks) {
            self.tasks[ix].session = None;
            self.stop(ix);
        }
        match self.forget_session(at) {
            Some(seq) => self.show_after(seq, Effect::Answer(request, Answer::Done)),
            None => self.effect(Effect::Answer(request, Answer::Done)),
        }
    }

    /// The sessions of a tenant.
    pub fn sessions(&self, tenant: &Tenant) -> Vec<SessionView> {
        let mine = self.sessions.by_name.iter().filter(|((whose, _), _)| whose == tenant);
        mine.map(|((_, name), at)| {
            let session = &self.sessions.all[*at];
            let (worker, lost) = match &session.place {
                Place::Nowhere => (None, None),
                Place::On { name, .. } | Place::Away { name, .. } => (Some(name.clone()), None),
                Place::Lost(why) => (None, Some(why.clone())),
            };
            let left = session.timer.map(|(due, _)| due.since(self.now.mono));
            SessionView {
                name: name.clone(),
                worker,
                away: matches!(session.place, Place::Away { .. }),
                lost,
                tasks: session.tasks.len(),
                ttl: session.ttl,
                began: session.began,
                used: session.used,
                expires: left.map(|left| self.now.wall + left),
            }
        })
        .collect()
    }

    /// Does what this step made due: next tasks get their turn, tasks of lost sessions end, idle ones are
    /// given their time. At the end of the step, so that nothing happens in the midst of something else.
    pub(super) fn settle_sessions(&mut self) {
        while let Some(at) = self.sessions.touched.pop() {
            let Some(session) = self.sessions.get(at) else { continue };
            if let Place::Away { .. } = session.place {
                continue;
            }
            // In a lost session, whoever waits in a worker's queue has waited in vain as well.
            let lost = matches!(session.place, Place::Lost(_));
            let most = if lost { session.tasks.len() } else { 1 };
            let its = session.process();
            for ix in session.tasks.iter().take(most).copied().collect::<Vec<_>>() {
                let Phase::Waiting(waiting) = &self.tasks[ix].phase else { continue };
                let bound = &self.balancer.demands[self.tasks[ix].demand].only;
                let misplaced = waiting.ticket.is_some() && its.is_some() && *bound != its;
                if waiting.turn || lost || misplaced {
                    self.leave_wait(ix);
                    match self.obstacle(at, ix) {
                        Some((code, message)) => self.fail_in_session(ix, code, &message),
                        None => self.become_eligible(ix),
                    }
                }
            }
            self.lay_down(at);
        }
        for worker in std::mem::take(&mut self.sessions.left) {
            if self.registry.workers.get(worker).is_some_and(Worker::winds_down) {
                self.steer(worker);
            }
        }
    }

    /// How long a worker that goes waits for its sessions: for the grace of a removal, or else for as long as
    /// the longest of them may be idle.
    pub(super) fn session_grace(&self, wanted: WorkerIx) -> Option<Duration> {
        let its = |(_, session): (SessionIx, &Session)| match session.place {
            Place::On { worker, .. } if worker == wanted => Some(session.ttl),
            Place::On { .. } | Place::Away { .. } | Place::Nowhere | Place::Lost(_) => None,
        };
        let longest = self.sessions.all.iter().filter_map(its).max();
        longest.map(|longest| self.settings.removal_grace.unwrap_or(longest))
    }

    /// A session without tasks waits for its end, and one that never began is none.
    fn lay_down(&mut self, at: SessionIx) {
        let Some(session) = self.sessions.all.get(at) else { return };
        if !session.tasks.is_empty() {
            return;
        }
        match session.place {
            Place::Nowhere | Place::On { begun: false, .. } => {
                self.forget_session(at);
            }
            Place::On { begun: true, .. } if session.timer.is_none() => {
                let due = self.now.mono + session.ttl;
                self.sessions.all[at].timer = Some(self.timers.set(due, Timer::Session(at)));
            }
            Place::On { .. } | Place::Away { .. } | Place::Lost(_) => {}
        }
    }

    fn tell_end(&mut self, at: SessionIx) {
        let session = &self.sessions.all[at];
        if let Place::On { worker, .. } = session.place
            && let Some(subject) = self.registry.workers.get(worker)
            && let (Some(conn), Some(registered)) = (subject.conn(), &subject.registered)
            && registered.features.iter().any(|feature| &**feature == "sessions")
        {
            let order = Order::EndSession { session: session.name.clone() };
            self.effect(Effect::Order(conn, order));
        }
    }

    /// Forgets a session. The answer is the record that says so, if the journal knew of it.
    fn forget_session(&mut self, at: SessionIx) -> Option<Seq> {
        self.leaves_worker(at);
        let mut session = self.sessions.all.remove(at)?;
        self.timers.clear(&mut session.timer);
        let key = (session.tenant, session.name);
        self.sessions.by_name.remove(&key);
        let (tenant, name) = key;
        session.recorded.map(|_| self.record(Record::Session(tenant, name, SessionRecord::default())))
    }

    fn oldest_loss(&self) -> Option<SessionIx> {
        let lost = |session: &(SessionIx, &Session)| {
            matches!(session.1.place, Place::Lost(_)) && session.1.tasks.is_empty()
        };
        self.sessions.all.iter().filter(lost).min_by_key(|(_, session)| session.used).map(|(at, _)| at)
    }

    fn fail_in_session(&mut self, ix: TaskIx, code: &str, message: &str) {
        let started = self.tasks[ix].started_at.is_some();
        self.tasks[ix].error = Some(TaskError {
            side_effects: if started { SideEffects::Possible } else { SideEffects::None },
            ..TaskError::new(code, message, Fault::Caller)
        });
        self.finish(ix, TaskState::Failed, Fault::Caller, false, None);
    }

    /// Has a task wait for the worker of its session alone, or for any.
    fn rebind(&mut self, ix: TaskIx, only: Option<Process>) {
        let (before, spec) = (self.tasks[ix].demand, Arc::clone(&self.tasks[ix].spec));
        if self.balancer.demands[before].only == only {
            return;
        }
        let demand = self.demand_in_any_case(&spec.capability, &spec.labels, only.as_ref());
        self.count_under(ix, demand);
    }

    /// What must hold of sessions; the first thing that does not.
    pub(super) fn sessions_are_wrong(&self) -> Option<String> {
        if let Some(at) = self.sessions.touched.first() {
            return Some(format!("session {at:?} was left touched"));
        }
        let mut listed = 0;
        for (key, at) in &self.sessions.by_name {
            let name = key.1.as_str();
            let Some(session) = self.sessions.get(*at) else { return Some(format!("{name} is no session")) };
            listed += session.tasks.len();
            if session.timer.is_none() && session.tasks.is_empty() {
                return Some(format!("session {name} is idle for ever"));
            }
            if let Place::On { worker, .. } = session.place
                && self.registry.workers.get(worker).is_none()
            {
                return Some(format!("session {name} is on a worker that is gone"));
            }
            for (place, ix) in session.tasks.iter().enumerate() {
                let task = &self.tasks[*ix];
                let turn = matches!(&task.phase, Phase::Waiting(waiting) if waiting.turn);
                // Until its worker is back, not even the first one has its turn.
                let late = place > 0 || matches!(session.place, Place::Away { .. });
                // What a worker has from before a restart had its turn then. Those before it may have
                // ended by what no record tells any more.
                let ours = |live: &Live| live.epoch.term() == self.term;
                let early = late && task.phase.live().is_some_and(ours);
                if task.session != Some(*at) || turn && !late || early {
                    return Some(format!("task {} is wrong in session {name} at {place}", task.id));
                }
            }
        }
        let members = self.tasks.iter().filter(|(_, task)| task.session.is_some()).count();
        (members != listed || self.sessions.by_name.len() != self.sessions.len())
            .then(|| format!("{members} tasks in sessions that list {listed}"))
    }
}
