//! The cheap, cloneable way to the fleet: each method is one message to the loop and one answer, or
//! a look at a snapshot that the loop publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::admission::Admission;
use super::clock::Clock;
use super::pools::PoolBoard;
use super::ring::EventRing;
use crate::data::TaskLogs;
use crate::data::artifacts::Artifacts;
use crate::fleet::*;
use crate::interface::LinkIo;
use crate::schemas::{InvalidInput, Schemas};
use crate::store::{Limits, ReadFault, Reads, Retention};
use crate::supervise::{ProcessStatus, Supervisor};
use crate::telemetry::Metrics;
use crate::trust::{Digest, Trust};

/// A message to the loop. Reads come this way only where they need the core itself.
pub(crate) enum Call {
    /// `Submit` whose caller waits for the end until then; refusals arrive on the same channel.
    SubmitAndWait(Box<Submission>, Instant, oneshot::Sender<Waited>),
    /// Submissions that are to be one commit.
    SubmitAll(Vec<(Box<Submission>, oneshot::Sender<Answer>)>),
    /// An event whose request is answered.
    Ask(RequestId, Event, oneshot::Sender<Answer>),
    /// An event that nobody waits for.
    Tell(Event),
    /// Be told when a task ends.
    Watch(TaskId, oneshot::Sender<Waited>),
    /// One task, as the core has it.
    Task(TaskId, oneshot::Sender<Option<Arc<TaskRecord>>>),
    /// Why a task waits.
    Explain(TaskId, oneshot::Sender<Option<Explanation>>),
    /// What a scrape needs.
    Stats(oneshot::Sender<FleetStats>),
    /// A new topology; answered with the generation and the diff once it is in force.
    Apply(Box<Topology>, oneshot::Sender<Applied>),
    /// A worker dialled in: a number and the ways for its connection.
    Link(oneshot::Sender<LinkIo>),
    /// A connection from `Link` ended.
    LinkEnded(ConnId, Why),
    /// The sessions of a tenant.
    Sessions(Tenant, oneshot::Sender<Vec<SessionView>>),
    /// Measure a round trip to a worker.
    Probe(WorkerName, oneshot::Sender<Duration>),
    /// Stop: drain launched workers so long at most, say goodbye, end.
    Shutdown(Duration, oneshot::Sender<()>),
}

/// What a waiting caller hears.
#[derive(Debug)]
pub(crate) enum Waited {
    /// The task is final.
    Finished(Arc<TaskRecord>),
    /// The caller has waited as long as it wanted to; the task is kept and goes on.
    GoesOn(Arc<TaskRecord>),
    /// It was not taken.
    Refused(Refusal),
}

/// How a submission was answered.
#[derive(Debug, Clone)]
pub enum Submitted {
    /// The caller waited and the task is final.
    Finished(Arc<TaskRecord>),
    /// The task is kept; it goes on.
    Accepted(Arc<TaskRecord>),
    /// The key names this task already.
    Replayed(Arc<TaskRecord>),
}

/// Why a call to the fleet has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The core said no.
    Refused(Refusal),
    /// The workers of the capability take other inputs.
    Invalid(Box<InvalidInput>),
    /// The input refers to a file that is not here.
    UnknownArtifact(ContentHash),
    /// The disk that holds the artifacts failed.
    Disk(Arc<str>),
    /// The server has stopped, or stops before the task could end.
    Stopped,
    /// The store could not be read.
    Unread(ReadFault),
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A generation that came into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its number; the old one when nothing changed.
    pub generation: Generation,
    /// What it changed.
    pub diff: Arc<Diff>,
}

/// Where the server is in its life; the words of `rollcall_lifecycle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// Reading its configuration and store.
    Starting,
    /// Waiting for workers that hold work from before.
    Recovering,
    /// Serving.
    Ready,
    /// Stopping.
    Draining,
}

impl Lifecycle {
    /// Every stage, in order.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Recovering, Self::Ready, Self::Draining];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The workers at one moment, by name; under load at most 50 ms old.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Sorted by name.
    pub workers: Vec<Arc<WorkerView>>,
    /// The core's time of the snapshot.
    pub at: Now,
}

impl Snapshot {
    /// The worker of that name.
    pub fn worker(&self, name: &str) -> Option<&Arc<WorkerView>> {
        let at = self.workers.binary_search_by(|view| view.name.as_str().cmp(name)).ok()?;
        self.workers.get(at)
    }
}

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whose task it is.
    pub tenant: Tenant,
    /// Which door it came in by.
    pub source: Source,
    /// The key that makes it one task, and the body sent with it.
    pub key: Option<KeyHash>,
    /// The task.
    pub spec: Arc<TaskSpec>,
    /// The task that this one repeats, as it ended.
    pub retry_of: Option<Arc<TaskRecord>>,
}

pub(crate) struct Shared {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) snapshot_changed: Notify,
    pub(crate) topology: ArcSwap<Topology>,
    pub(crate) lifecycle: AtomicU8,
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) next_request: AtomicU64,
    pub(crate) clock: Clock,
    pub(crate) logs: Arc<TaskLogs>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reads: Reads,
    pub(crate) limits: Arc<Limits>,
    /// Why the store takes no new tasks at the moment.
    pub(crate) store_trouble: ArcSwapOption<String>,
    pub(crate) ring: EventRing,
    pub(crate) supervisor: Supervisor,
    pub(crate) schemas: Schemas,
    pub(crate) pools: PoolBoard,
    pub(crate) trust: Trust,
}

/// A handle to the WorkerManager. Clone it freely.
#[derive(Clone)]
pub struct Manager(pub(crate) Arc<Shared>);

impl Manager {
    /// Waits up to `patience` for a task's end; `None` when it has not come by then.
    ///
    /// # Errors
    /// [`CallError::Refused`] for an unknown task, [`CallError::Stopped`].
    pub async fn finished(
        &self,
        task: TaskId,
        patience: Duration,
    ) -> Result<Option<Arc<TaskRecord>>, CallError> {
        let (reply, waited) = oneshot::channel();
        self.call(Call::Watch(task, reply)).await?;
        match tokio::time::timeout(patience, waited).await {
            Err(_) => Ok(None),
            Ok(Err(_)) => Err(CallError::Stopped),
            Ok(Ok(Waited::Finished(record))) => Ok(Some(record)),
            Ok(Ok(Waited::GoesOn(_))) => Ok(None),
            Ok(Ok(Waited::Refused(refusal))) => Err(refusal.into()),
        }
    }

    /// One task, live or finished.
    ///
    /// # Errors
    /// [`Refusal::NoSuchTask`], or [`CallError::Stopped`].
    pub async fn task(&self, tenant: &Tenant, task: TaskId) -> Result<Arc<TaskRecord>, CallError> {
        let (reply, found) = oneshot::channel();
        self.call(Call::Task(task, reply)).await?;
        let live = found.await.map_err(|_| CallError::Stopped)?;
        let known = match live.filter(|record| record.tenant == *tenant) {
            Some(record) => Some(record),
            None => self.0.reads.task(tenant, task).await.map_err(CallError::Unread)?,
        };
        known.ok_or(CallError::Refused(Refusal::NoSuchTask))
    }

    /// What a task asked for, with its input, wherever that is.
    ///
    /// # Errors
    /// [`CallError::Unread`].
    pub async fn spec(&self, task: &TaskRecord) -> Result<TaskSpec, CallError> {
        if !task.spec.is_stowed() {
            return Ok(TaskSpec::clone(&task.spec));
        }
        let input = self.0.reads.input(&task.tenant, task.id).await.map_err(CallError::Unread)?;
        let gone =
            || CallError::Unread(ReadFault::Damaged(format!("the input of task {} is not there", task.id)));
        Ok(task.spec.with_input(input.ok_or_else(gone)?))
    }

    /// Finished and live tasks, as the store has them (at most 50 ms behind, and without what the
    /// journal is not told; see [`Manager::tasks`]).
    pub fn archive(&self) -> &Reads {
        &self.0.reads
    }

    /// Why the store takes no new tasks at the moment; `None` when it does.
    pub fn store_trouble(&self) -> Option<Arc<String>> {
        self.0.store_trouble.load_full()
    }

    /// From now on, so much is kept of finished tasks.
    pub fn retain(&self, retention: Retention) {
        self.0.limits.set(retention);
    }

    /// Asks a task to stop. The answer is the task, `cancelling` or final.
    ///
    /// # Errors
    /// [`Refusal::NoSuchTask`], or [`CallError::Stopped`].
    pub async fn cancel(&self, tenant: &Tenant, task: TaskId) -> Result<Arc<TaskRecord>, CallError> {
        let before = self.task(tenant, task).await?;
        if before.state.is_final() {
            return Ok(before);
        }
        let request = self.request();
        match self.ask(request, Event::Cancel(task, request)).await? {
            Answer::Cancel(record) | Answer::Accepted(record) | Answer::Replayed(record) => Ok(record),
            // It became final in between, and only the archive has it now.
            Answer::Refused(_) => self.task(tenant, task).await,
            Answer::Done | Answer::ReplayedFromArchive(_) => Err(CallError::Stopped),
        }
    }

    /// Why a task waits; `None` when it does not.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn explain(&self, task: TaskId) -> Result<Option<Explanation>, CallError> {
        let (reply, answer) = oneshot::channel();
        self.call(Call::Explain(task, reply)).await?;
        answer.await.map_err(|_| CallError::Stopped)
    }

    /// Takes a person's word about a worker, with that person's name where it is known. When it
    /// returns, the snapshot shows it.
    ///
    /// # Errors
    /// [`Refusal::NoSuchWorker`], or [`CallError::Stopped`].
    pub async fn operator(&self, word: OperatorWord, by: Option<Arc<str>>) -> Result<(), CallError> {
        self.word(|request| Event::Operator(word, by, request)).await
    }

    /// Takes a person's word about a pool. When it returns, the pools show it.
    ///
    /// # Errors
    /// [`Refusal::NoSuchPool`], [`Refusal::SizeOutOfBounds`], or [`CallError::Stopped`].
    pub async fn pool_word(&self, word: PoolWord, by: Option<Arc<str>>) -> Result<(), CallError> {
        self.word(|request| Event::Pool(word, by, request)).await
    }

    /// The pools, and what was decided about them.
    pub fn pools(&self) -> &PoolBoard {
        &self.0.pools
    }

    /// Measures one round trip to a worker; `None` when it is not connected or does not answer
    /// within five seconds.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn probe(&self, worker: WorkerName) -> Result<Option<Duration>, CallError> {
        let (reply, rtt) = oneshot::channel();
        self.call(Call::Probe(worker, reply)).await?;
        Ok(tokio::time::timeout(Duration::from_secs(5), rtt).await.ok().and_then(Result::ok))
    }

    /// Puts a topology in force. Its own generation number is ignored: the loop counts.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn apply(&self, topology: Topology) -> Result<Applied, CallError> {
        let (reply, applied) = oneshot::channel();
        self.call(Call::Apply(Box::new(topology), reply)).await?;
        applied.await.map_err(|_| CallError::Stopped)
    }

    /// The sessions of a tenant.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn sessions(&self, tenant: Tenant) -> Result<Vec<SessionView>, CallError> {
        let (reply, sessions) = oneshot::channel();
        self.call(Call::Sessions(tenant, reply)).await?;
        sessions.await.map_err(|_| CallError::Stopped)
    }

    /// Deletes a session; its tasks are asked to stop.
    ///
    /// # Errors
    /// [`Refusal::NoSuchSession`], or [`CallError::Stopped`].
    pub async fn end_session(&self, tenant: Tenant, session: SessionName) -> Result<(), CallError> {
        self.word(|request| Event::EndSession(tenant, session, request)).await
    }

    /// What a scrape needs of the core, exact at one moment.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn stats(&self) -> Result<FleetStats, CallError> {
        let (reply, stats) = oneshot::channel();
        self.call(Call::Stats(reply)).await?;
        stats.await.map_err(|_| CallError::Stopped)
    }

    /// The number of a new connection that a worker dialled, and its ways into the server.
    ///
    /// # Errors
    /// [`CallError::Stopped`].
    pub async fn link(&self) -> Result<LinkIo, CallError> {
        let (reply, link) = oneshot::channel();
        self.call(Call::Link(reply)).await?;
        link.await.map_err(|_| CallError::Stopped)
    }

    /// Tells that a connection from [`Manager::link`] has ended. Must be called exactly once each.
    pub async fn link_ended(&self, conn: ConnId, why: Why) {
        // A loop that is gone has no connections left to forget.
        drop(self.call(Call::LinkEnded(conn, why)).await);
    }

    /// The workers, as last published.
    pub fn workers(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }

    /// The program that the server runs for a worker, if it runs one.
    pub fn program(&self, worker: &WorkerName) -> Option<ProcessStatus> {
        self.0.supervisor.status(worker)
    }

    /// Waits until the workers have changed since the call began (then look at [`Manager::workers`]).
    pub async fn workers_changed(&self) {
        self.0.snapshot_changed.notified().await;
    }

    /// The topology in force.
    pub fn topology(&self) -> Arc<Topology> {
        self.0.topology.load_full()
    }

    /// Where the server is in its life.
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle::ALL[usize::from(self.0.lifecycle.load(Ordering::Relaxed)).min(Lifecycle::ALL.len() - 1)]
    }

    /// True from the moment that the server begins to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.0.stopping.subscribe()
    }

    /// The fleet's recent events, for `/v1/events`.
    pub fn ring(&self) -> &EventRing {
        &self.0.ring
    }

    /// The tasks' logs, for `/v1/tasks/{id}/events`.
    pub fn logs(&self) -> &Arc<TaskLogs> {
        &self.0.logs
    }

    /// The files that tasks make and read.
    pub fn artifacts(&self) -> &Arc<Artifacts> {
        &self.0.artifacts
    }

    /// Whether a program that was started here was given this secret.
    pub fn launched_with(&self, shown: &Digest) -> bool {
        self.0.supervisor.gave(shown)
    }

    /// Tokens, certificates, and the thread that shakes hands.
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The clock that the core is told.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Stops: refuses new work, lets launched workers finish for up to `drain_timeout`, says
    /// goodbye to all, and ends the loop.
    pub async fn shutdown(&self, drain_timeout: Duration) {
        let (reply, done) = oneshot::channel();
        if self.call(Call::Shutdown(drain_timeout, reply)).await.is_ok() {
            // An error means that the loop is gone, which is what was asked for.
            drop(done.await);
        }
    }

    /// Tells the core what somebody wants; it is done, or refused.
    async fn word(&self, event: impl FnOnce(RequestId) -> Event) -> Result<(), CallError> {
        let request = self.request();
        match self.ask(request, event(request)).await? {
            Answer::Refused(refusal) => Err(refusal.into()),
            Answer::Done
            | Answer::Accepted(_)
            | Answer::Replayed(_)
            | Answer::ReplayedFromArchive(_)
            | Answer::Cancel(_) => Ok(()),
        }
    }

    pub(super) fn request(&self) -> RequestId {
        RequestId(self.0.next_request.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) async fn call(&self, call: Call) -> Result<(), CallError> {
        self.0.calls.send(call).await.map_err(|_| CallError::Stopped)
    }

    pub(super) async fn ask(&self, request: RequestId, event: Event) -> Result<Answer, CallError> {
        let (reply, answer) = oneshot::channel();
        self.call(Call::Ask(request, event, reply)).await?;
        answer.await.map_err(|_| CallError::Stopped)
    }
}
