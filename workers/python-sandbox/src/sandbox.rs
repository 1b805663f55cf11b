//! Runs tasks, each in a sandbox of its own or in a session's, and clears away all that is left of it.
//! The answer does not wait for that: when it comes, no process of the task is left, but the kernel may
//! still be busy with what the sandbox was made of.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::bare::Bare;
use crate::cgroup::{Cgroup, Cgroups};
use crate::launch::launch;
use crate::limits::{Limits, MAX_WALL};
use crate::live::{Called, Live, Stops};
use crate::outcome::{Outcome, Output, Report, Request, Usage};
use crate::pool::Pool;
use crate::probe::Level;
use crate::profile::Shown;
use crate::seats::{Seat, Seats};
use crate::sessions::{NoSession, Opening, Session, Sessions};
use crate::spawn::Spawner;
use crate::verdict::{self, Seen};

/// How long one for the pool may take to be ready. It has next to no share of a busy machine, so this is
/// long; but one that will never be must not keep the pool empty.
const MAKING: Duration = Duration::from_secs(300);

/// What sandboxes are made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) bwrap: PathBuf,
    pub(crate) python: PathBuf,
    /// Modules that the runner loads before it waits.
    pub(crate) imports: Vec<String>,
    /// What a sandbox may use of which nothing else is said.
    pub(crate) limits: Limits,
    pub(crate) filters: [Vec<u8>; 2],
    /// What every sandbox shows beside the system.
    pub(crate) shown: Vec<Shown>,
    /// Absent at the level `no-cgroup`.
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) spawner: Spawner,
    /// Present where the operator wants no isolation at all.
    pub(crate) bare: Option<Bare>,
}

/// Makes sandboxes. Cheap to clone; the clones share everything.
#[derive(Clone)]
pub struct Sandbox(Arc<Shared>);

struct Shared {
    parts: Parts,
    seats: Seats,
    pool: Pool,
    sessions: Sessions,
    runs: TaskTracker,
    closing: CancellationToken,
    /// Groups that would not go, and the seats that are out of service until they do.
    stuck: Mutex<Vec<(Cgroup, Seat)>>,
}

impl Sandbox {
    pub(crate) fn new(parts: Parts, warm: usize, sessions: usize) -> Self {
        Self(Arc::new(Shared {
            parts,
            seats: Seats::default(),
            pool: Pool::new(warm),
            sessions: Sessions::new(sessions),
            runs: TaskTracker::new(),
            closing: CancellationToken::new(),
            stuck: Mutex::default(),
        }))
    }

    /// Begins to keep sandboxes ready.
    pub(crate) fn warm_up(&self) {
        let shared = Arc::clone(&self.0);
        drop(self.0.runs.spawn(async move {
            let make = || shared.make_ready();
            shared.pool.fill(make, |live| shared.bury(live), &shared.closing).await;
        }));
    }

    /// Waits until as many sandboxes are ready as are to be.
    pub async fn is_warm(&self) {
        self.0.pool.filled().await;
    }

    /// What a sandbox may use of which nothing else is said.
    pub fn limits(&self) -> &Limits {
        &self.0.parts.limits
    }

    /// Groups that could not be removed; anything but 0 deserves a look at the machine.
    pub fn stuck(&self) -> usize {
        self.0.stuck.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sandboxes that wait for a task.
    pub fn warm(&self) -> usize {
        self.0.pool.len()
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.0.sessions.len()
    }

    /// Runs a program to its end, or to its forced end, in a sandbox of its own. Output is handed on as it
    /// comes. None of its processes is left when this returns; if it is dropped before, they are killed all
    /// the same.
    pub async fn run(&self, request: Request, output: Output, cancel: &CancellationToken) -> Report {
        self.run_showing(request, output, cancel, &[]).await
    }

    /// The same with more of the host to be seen.
    pub(crate) async fn run_showing(
        &self,
        request: Request,
        output: Output,
        cancel: &CancellationToken,
        more: &[Shown],
    ) -> Report {
        let stop = cancel.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let (shared, more) = (Arc::clone(&self.0), more.to_vec());
        let run = self.0.runs.spawn(async move { shared.run(request, output, stop, more).await });
        run.await.unwrap_or_else(|problem| Report::failed(format!("a bug in the worker: {problem}")))
    }

    /// The same in a session. Calls of one session run one after another.
    ///
    /// # Errors
    /// When there is no such session, or no room for one more.
    pub async fn call(
        &self,
        session: &str,
        opening: Opening,
        ttl: Duration,
        request: Request,
        output: Output,
        cancel: &CancellationToken,
    ) -> Result<Report, NoSession> {
        let found = self.0.session(session, opening, ttl)?;
        let stop = cancel.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let (shared, name) = (Arc::clone(&self.0), session.to_owned());
        let run = self.0.runs.spawn(async move {
            let report = shared.run_in(&found, opening, request, output, stop).await;
            found.renew(ttl);
            if report.as_ref().map_or(true, |report| report.session_lost) {
                shared.sessions.forget(&name, &found);
            }
            report
        });
        run.await.unwrap_or_else(|problem| Ok(Report::failed(format!("a bug in the worker: {problem}"))))
    }

    /// The names of the sessions that are open.
    pub fn session_names(&self) -> Vec<String> {
        self.0.sessions.names()
    }

    /// What the packages of a session take, in bytes, after `more` were added.
    pub(crate) fn packages_of(&self, session: &str, more: u64) -> u64 {
        self.0.sessions.packages(session, more)
    }

    /// Whether there is a session of this name.
    pub fn has_session(&self, session: &str) -> bool {
        self.0.sessions.find(session).is_some()
    }

    /// Ends a session and all that runs in it. False when there is none of this name.
    pub fn end_session(&self, session: &str) -> bool {
        self.0.sessions.end(session)
    }

    /// Kills all that runs and waits until it is gone. The last clone that is dropped then removes
    /// what was made on the machine.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.runs.close();
        self.0.runs.wait().await;
        self.0.retry_stuck();
    }
}

impl Shared {
    async fn run(
        self: Arc<Self>,
        request: Request,
        output: Output,
        stop: CancellationToken,
        more: Vec<Shown>,
    ) -> Report {
        let begun = Instant::now();
        let stops =
            || Stops { cancel: &stop, closing: &self.closing, deadline: begun + request.wall.min(MAX_WALL) };
        let mut live = match self.obtain(request.limits, &more, stops()).await {
            Ok(live) => live,
            Err(report) => return self.labelled(*report, begun),
        };
        let called = live.call(&request.asked(), &output, stops()).await;
        self.bury(live);
        self.labelled(report(called), begun)
    }

    async fn run_in(
        self: &Arc<Self>,
        session: &Arc<Session>,
        opening: Opening,
        request: Request,
        output: Output,
        stop: CancellationToken,
    ) -> Result<Report, NoSession> {
        let begun = Instant::now();
        let stops =
            || Stops { cancel: &stop, closing: &self.closing, deadline: begun + request.wall.min(MAX_WALL) };
        let mut place = session.live.lock().await;
        if place.is_none() {
            if opening == Opening::Known {
                return Err(NoSession::Lost);
            }
            match self.obtain(request.limits, &[], stops()).await {
                Ok(mut live) => {
                    live.keep();
                    *place = Some(live);
                }
                Err(mut report) => {
                    report.session_lost = true;
                    return Ok(self.labelled(*report, begun));
                }
            }
        }
        let Some(live) = place.as_mut() else { return Err(NoSession::Lost) };
        let called = live.call(&request.asked(), &output, stops()).await;
        let usable = called.usable;
        if !usable && let Some(live) = place.take() {
            self.bury(live);
        }
        let mut report = report(called);
        report.session_lost = !usable;
        Ok(self.labelled(report, begun))
    }

    /// The session of a name, begun if it may be.
    fn session(
        self: &Arc<Self>,
        name: &str,
        opening: Opening,
        ttl: Duration,
    ) -> Result<Arc<Session>, NoSession> {
        match (self.sessions.find(name), opening) {
            (Some(session), Opening::Known | Opening::Either) => return Ok(session),
            (None, Opening::Known) => return Err(NoSession::Lost),
            (Some(_), Opening::New) => {
                self.sessions.end(name);
            }
            (None, Opening::New | Opening::Either) => {}
        }
        let session = self.sessions.add(name, ttl)?;
        let (shared, name, watched) = (Arc::clone(self), name.to_owned(), Arc::clone(&session));
        drop(self.runs.spawn(async move {
            if let Some(live) = watched.idle_out(&shared.closing).await {
                shared.bury(live);
            }
            shared.sessions.forget(&name, &watched);
        }));
        Ok(session)
    }

    /// A sandbox that is ready: a warm one, or else a new one.
    async fn obtain(
        self: &Arc<Self>,
        limits: Limits,
        more: &[Shown],
        stops: Stops<'_>,
    ) -> Result<Live, Box<Report>> {
        self.retry_stuck();
        if more.is_empty()
            && let Some(mut live) = self.pool.take(&limits, |live| self.bury(live))
        {
            match live.engage(limits) {
                Ok(()) => return Ok(live),
                // Its memory may be above the new limit already; a fresh one begins below it.
                Err(_) => self.bury(live),
            }
        }
        let failed = |problem| Box::new(Report::failed(problem));
        let mut live = self.start(limits, more).await.map_err(failed)?;
        let stopped = tokio::select! {
            biased;
            () = stops.cancel.cancelled() => Report::unstarted(Outcome::Cancelled, "stopped before it began"),
            () = stops.closing.cancelled() => Report::unstarted(Outcome::Cancelled, "the worker stops"),
            () = sleep_until(stops.deadline) => {
                Report::unstarted(Outcome::Timeout, "its time limit was over before its sandbox was ready")
            }
            ready = live.ready() => match ready {
                Ok(()) => return Ok(live),
                Err(problem) => Report::failed(format!("the sandbox did not start: {problem}")),
            },
        };
        self.bury(live);
        Err(Box::new(stopped))
    }

    /// One for the pool.
    async fn make_ready(self: &Arc<Self>) -> Result<Live, String> {
        let mut live = self.start(self.parts.limits, &[]).await?;
        live.give_way();
        let problem = tokio::select! {
            ready = live.ready() => match ready {
                Ok(()) => return Ok(live),
                Err(problem) => problem,
            },
            () = self.closing.cancelled() => "the worker stops".into(),
            () = sleep(MAKING) => format!("it was not ready after {} s", MAKING.as_secs()),
        };
        self.bury(live);
        Err(problem)
    }

    async fn start(&self, limits: Limits, more: &[Shown]) -> Result<Live, String> {
        let seat = self
            .seats
            .take()
            .ok_or_else(|| String::from("all sandboxes of this worker are in use or out of service"))?;
        let group = self.parts.cgroups.as_ref().map(|all| all.create(&limits)).transpose();
        let group = group.map_err(|problem| format!("no control group: {problem}"))?;
        let shown = [&self.parts.shown[..], more].concat();
        if Uid::effective().is_root() {
            let (uid, gid) = (Uid::from_raw(seat.uid()), Gid::from_raw(seat.uid()));
            for Shown { host, .. } in shown.iter().filter(|shown| shown.writable) {
                nix::unistd::chown(host, Some(uid), Some(gid)).map_err(|problem| problem.to_string())?;
            }
        }
        let live = launch(&self.parts, limits, &shown, seat, group).await;
        live.map_err(|problem| format!("cannot start the sandbox: {problem}"))
    }

    /// How long it took, and that nothing held it where that is so.
    fn labelled(&self, mut report: Report, begun: Instant) -> Report {
        report.usage.wall = begun.elapsed();
        report.isolation = self.parts.bare.is_some().then(|| Level::None.as_str());
        report
    }

    /// Ends a sandbox while nobody waits for it.
    fn bury(self: &Arc<Self>, live: Live) {
        let shared = Arc::clone(self);
        drop(self.runs.spawn(async move {
            if let Err(stuck) = live.close().await {
                error!(problem = stuck.problem, uid = stuck.seat.uid(), "a sandbox slot is out of service");
                shared.lock_stuck().push((stuck.group, stuck.seat));
            }
        }));
    }

    /// Looks again at the groups that would not go.
    fn retry_stuck(&self) {
        let mut stuck = self.lock_stuck();
        for (group, seat) in std::mem::take(&mut *stuck) {
            if let Err(group) = group.remove_now() {
                stuck.push((*group, seat));
            }
        }
    }

    fn lock_stuck(&self) -> std::sync::MutexGuard<'_, Vec<(Cgroup, Seat)>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told of a call.
fn report(called: Called) -> Report {
    if called.survived {
        return Report::failed("some of its processes cannot be killed");
    }
    let complaint = called.stderr.shown(1024).text;

    let verdict = verdict::judge(Seen {
        end: called.end,
        oom_kills: called.oom_kills,
        exit_code: called.exit_code,
        done: called.done,
        complaint: &complaint,
    });
    Report {
        outcome: verdict.outcome,
        message: verdict.message,
        stdout: called.stdout,
        stderr: called.stderr,
        exit_code: verdict.exit_code,
        signal: verdict.signal,
        error: verdict.error,
        results: verdict.results,
        output: verdict.output,
        files: called.files,
        killed: called.killed,
        session_lost: false,
        isolation: None,
        usage: Usage {
            cpu: called.usage.cpu,
            peak_memory: called.usage.peak_memory,
            processes: called.usage.processes,
            wall: Duration::ZERO,
        },
    }
}
