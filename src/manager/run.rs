//! The loop: inputs in batches, the core's decisions, each effect to its room. Worker events go
//! before calls, and timers are judged only after the sockets were read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Sleep, sleep_until};

use super::admission::Admission;
use super::callers::{Callers, Waiter};
use super::clock::Clock;
use super::handle::{Applied, Call, Lifecycle, Manager, Shared, Snapshot, Waited};
use super::links::Links;
use super::narrate::{is_of_the_fleet, narrate};
use super::pools::PoolBoard;
use super::recorder::Recorder;
use super::recovering::recover;
use super::ring::EventRing;
use super::views::Views;
use crate::data::artifacts::Artifacts;
use crate::data::{DataDoors, TaskLogs};
use crate::fleet::*;
use crate::interface::factory::WorkerInterfaceFactory;
use crate::interface::{DataDoor, LinkLimits, LinkMeter};
use crate::provider::Providers;
use crate::schemas::Schemas;
use crate::store::{Inputs, LINGER, Opened, Reads, StoreFault, TaskLog, Told, Writer};
use crate::supervise::{Options, Supervisor};
use crate::telemetry::{Loop, Metrics, Traces};
use crate::trust::Trust;

/// Worker events that may wait; a full lane makes the sockets' readers wait.
const EVENT_LANE: usize = 4_096;

/// Calls that may wait; a full lane makes the callers wait.
const CALL_LANE: usize = 1_024;

/// Inputs taken in one pass.
const BATCH: usize = 256;

/// Effects whose room is kept between steps.
const EFFECTS_KEPT: usize = 256;

/// Housekeeping, and a sign of life, at least so often.
const TICK: Duration = Duration::from_secs(10);

/// What the manager is made of.
pub struct Parts {
    /// The store.
    pub opened: Opened,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How to speak to workers.
    pub factory: WorkerInterfaceFactory,
    /// How programs are started and stopped.
    pub programs: Options,
    /// The bounds of connections.
    pub limits: LinkLimits,
    /// The seed of the core's draws.
    pub seed: u64,
    /// Where every input of the core is written, for `rollcall replay`.
    pub record: Option<std::path::PathBuf>,
    /// Where artifacts are kept (`server.data_dir`); made when there is the first one.
    pub data_dir: std::path::PathBuf,
    /// Where finished tasks are told as spans.
    pub traces: Option<Traces>,
}

/// The loop, to be run on one task for as long as the server lives.
pub struct FleetLoop {
    fleet: Fleet,
    effects: Vec<Effect>,
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<Call>,
    callers: Callers,
    links: Links,
    writer: Writer,
    inputs: Inputs,
    views: Views,
    supervisor: Supervisor,
    providers: Providers,
    recorder: Recorder,
    traces: Option<Traces>,
    /// Submissions that are not answered yet, by request.
    entering: FxHashMap<RequestId, Entering>,
    linger_until: Option<Instant>,
    publish_at: Option<Instant>,
    stopping: Option<Stopping>,
    /// When this pass began, by both kinds of clock: what arrived together happened together.
    pass: (Instant, Now),
}

/// What was let in for a submission.
struct Entering {
    /// Bytes of its input.
    bytes: u64,
    /// The task whose input refers to artifacts.
    pinned: Option<TaskId>,
}

/// A stop that has been asked for.
struct Stopping {
    until: Instant,
    reply: oneshot::Sender<()>,
}

/// Makes a manager and its loop.
///
/// # Errors
/// When a thread or the recording's file cannot be had.
pub fn start(parts: Parts) -> std::io::Result<(Manager, FleetLoop)> {
    let Parts { opened, metrics, factory, programs, limits, seed, record, data_dir, traces } = parts;
    let Opened { mut journal, archive, term, id, records, failed_recoveries, limits: retention } = opened;
    let (event_sender, events) = mpsc::channel(EVENT_LANE);
    let (call_sender, calls) = mpsc::channel(CALL_LANE);
    let clock = Clock::default();
    let logs = Arc::new(TaskLogs::new(term));
    let artifacts = Artifacts::start(
        &data_dir,
        Arc::clone(&retention),
        &records,
        Arc::clone(&archive),
        Arc::clone(&logs),
    )?;
    let artifacts = Arc::new(artifacts);
    let settings = Settings::default();
    let admission = Arc::new(Admission::new(settings.max_depth, settings.max_bytes));
    let recorder = Recorder::open(record.as_deref(), term, seed, &id, clock.now(), &records)?;
    for record in &records {
        if let Record::Task(task) = record
            && !task.state.is_final()
        {
            admission.admit(task.spec.input_bytes());
        }
    }
    let begin = |records| Fleet::recover(term, seed, id.clone(), clock.now(), records);
    let fleet = recover(journal.as_mut(), failed_recoveries, records, begin)?;
    let supervisor = Supervisor::new(event_sender.clone(), programs);
    let trust = Trust::new(metrics.clone());
    let providers = Providers::new(event_sender.clone(), trust.clone());
    let shared = Arc::new(Shared {
        events: event_sender.clone(),
        calls: call_sender,
        admission,
        snapshot: ArcSwap::from_pointee(Snapshot::default()),
        snapshot_changed: Notify::new(),
        topology: ArcSwap::from_pointee(Topology::default()),
        lifecycle: AtomicU8::new(0),
        stopping: watch::Sender::new(false),
        next_request: AtomicU64::new(1),
        clock,
        logs: Arc::clone(&logs),
        artifacts: Arc::clone(&artifacts),
        metrics: Arc::clone(&metrics),
        reads: Reads::new(Arc::clone(&archive), Arc::clone(&metrics)),
        limits: retention,
        store_trouble: ArcSwapOption::empty(),
        ring: EventRing::default(),
        supervisor: supervisor.clone(),
        schemas: Schemas::default(),
        pools: PoolBoard::default(),
        trust: trust.clone(),
    });
    let door: Arc<dyn DataDoor> = Arc::new(DataDoors { logs, artifacts });
    let meter: Arc<dyn LinkMeter> = metrics.clone();
    let writer = Writer::start(journal, Arc::clone(&metrics))?;
    let inputs = Inputs::start(archive, metrics, event_sender.clone())?;
    let links = Links::new(event_sender, factory, door, meter, limits, trust);
    let manager = Manager(Arc::clone(&shared));
    let run = FleetLoop {
        fleet,
        effects: Vec::new(),
        shared,
        events,
        calls,
        callers: Callers::default(),
        links,
        writer,
        inputs,
        views: Views::new(),
        supervisor,
        providers,
        recorder,
        traces,
        entering: FxHashMap::default(),
        linger_until: None,
        publish_at: None,
        stopping: None,
        pass: (Instant::now(), Now::default()),
    };
    Ok((manager, run))
}

/// What woke the loop.
enum Woken {
    Events,
    Calls,
    Reaped(Option<Event>),
    Journal(Option<Told>),
    Timer,
}

impl FleetLoop {
    /// Runs until [`Manager::shutdown`].
    pub async fn run(mut self) {
        let mut event_batch = Vec::with_capacity(BATCH);
        let mut call_batch = Vec::with_capacity(BATCH);
        let mut tick_at = Instant::now() + TICK;
        let mut timer: Pin<Box<Sleep>> = Box::pin(sleep_until(tick_at.into()));
        loop {
            let wake = self.next_wake(tick_at);
            // It rings too early rather than being set anew for every task that has ended in time.
            if wake < timer.deadline().into_std() {
                timer.as_mut().reset(wake.into());
            }
            let woken = tokio::select! {
                biased; // Worker events first, so that results are never starved by submissions.
                _ = self.events.recv_many(&mut event_batch, BATCH) => Woken::Events,
                _ = self.calls.recv_many(&mut call_batch, BATCH) => Woken::Calls,
                reaped = self.links.reaped() => Woken::Reaped(reaped),
                told = self.writer.told() => Woken::Journal(told),
                () = timer.as_mut() => Woken::Timer,
            };
            self.begin_pass();
            match woken {
                Woken::Events => self.take_events(&mut event_batch),
                Woken::Calls => {
                    for call in call_batch.drain(..) {
                        self.call(call);
                    }
                }
                Woken::Reaped(event) => {
                    if let Some(event) = event {
                        self.tell(event);
                    }
                }
                Woken::Journal(told) => self.heard(told),
                Woken::Timer if self.pass.0 < wake => timer.as_mut().reset(wake.into()),
                Woken::Timer => {
                    timer.as_mut().reset((self.pass.0 + TICK).into());
                    // What has arrived meanwhile is read before anybody is judged silent.
                    tokio::task::yield_now().await;
                    self.begin_pass();
                    while let Ok(event) = self.events.try_recv() {
                        self.take_event(event);
                    }
                    let now = self.pass.0;
                    self.shared.metrics.loop_tick(Loop::Dispatch, now.saturating_duration_since(wake));
                    if tick_at <= now {
                        tick_at = now + TICK;
                        self.housekeeping();
                    }
                    self.promote_for_the_impatient();
                    self.tell(Event::Wake);
                }
            }
            self.settle();
            if self.stop_is_due() {
                break;
            }
        }
        self.stop().await;
    }

    fn begin_pass(&mut self) {
        let moment = Instant::now();
        self.pass = (moment, self.shared.clock.at(moment));
    }

    fn next_wake(&self, tick_at: Instant) -> Instant {
        let core = self.fleet.next_wake().map(|at| self.shared.clock.instant(at));
        let stop = self.stopping.as_ref().map(|stopping| stopping.until);
        [core, self.linger_until, self.publish_at, self.callers.wake(), stop]
            .into_iter()
            .flatten()
            .fold(tick_at, Instant::min)
    }

    fn take_events(&mut self, batch: &mut Vec<Event>) {
        for event in batch.drain(..) {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: Event) {
        match &event {
            Event::LinkDown(conn, _) => self.links.ended(*conn),
            Event::Fetched(..) => self.inputs.taken(),
            _ => {}
        }
        self.tell(event);
    }

    /// Tells the core something and carries out what it says.
    fn tell(&mut self, event: Event) {
        let (decided, now) = self.pass;
        self.recorder.input(now, &event);
        let mut effects = std::mem::take(&mut self.effects);
        self.fleet.handle(now, event, &mut effects);
        self.carry_out(decided, now, &mut effects);
        // A reload may have thousands of effects; few steps have more than ten.
        self.effects = if effects.capacity() > EFFECTS_KEPT { Vec::new() } else { effects };
    }

    fn carry_out(&mut self, decided: Instant, now: Now, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Order(conn, order) => {
                    if let Some(event) = self.links.order(conn, order, decided) {
                        self.tell_later(event);
                    }
                }
                Effect::Close(conn, why) => {
                    if let Some(event) = self.links.close(conn, why) {
                        self.tell_later(event);
                    }
                }
                Effect::Dial(worker) => self.dial(&worker),
                Effect::HangUp(worker) => self.links.hang_up(&worker),
                Effect::Launch(worker) => self.launch(&worker),
                Effect::Halt(worker) => self.supervisor.halt(worker),
                Effect::Provision(pool, wanted) => self.providers.provide(pool, wanted),
                Effect::Record(seq, record) => self.record(seq, record),
                Effect::Fetch(tenant, task) => {
                    if let Some(event) = self.inputs.fetch(tenant, task) {
                        self.tell_later(event);
                    }
                }
                Effect::Answer(request, answer) => self.answer(request, answer),
                Effect::Finish(task, record) => {
                    self.shared.admission.leave(record.spec.input_bytes());
                    self.shared.logs.finish(task, &record);
                    self.shared.artifacts.finish(task, &record);
                    self.callers.finish(task, &record);
                    if let Some(traces) = &self.traces {
                        traces.ended(&record, now.wall);
                    }
                }
                Effect::Publish(task, happening) => self.shared.logs.publish(task, happening, now.wall),
                Effect::Gate(task, epoch, door) => self.shared.logs.gate(task, epoch, door),
                Effect::Note(note) => {
                    self.shared.metrics.note(&note);
                    narrate(&note);
                    self.shared.pools.note(&note);
                    if is_of_the_fleet(&note) {
                        self.shared.ring.push(now.wall, note);
                    }
                }
            }
        }
    }

    /// Hands a record to the journal, and with a task's last one its log: both in one commit.
    fn record(&mut self, seq: Seq, record: Record) {
        let log = match &record {
            Record::Task(task) if task.state.is_final() => self
                .shared
                .logs
                .conclude(task)
                .map(|log| TaskLog { tenant: task.tenant.clone(), task: task.id, log }),
            Record::Task(_)
            | Record::HandOver(_)
            | Record::Roster(_)
            | Record::Overlay(..)
            | Record::Pool(..)
            | Record::Session(..) => None,
        };
        self.writer.push(seq, record);
        if let Some(log) = log {
            self.writer.push_log(log);
        }
    }

    /// An event that an effect led to: behind what is waiting already, never in the middle of a step.
    fn tell_later(&mut self, event: Event) {
        if let Err(error) = self.shared.events.try_send(event) {
            // The lane is full of events: the connection's own end is among them or will be.
            tracing::error!(%error, "an event of the loop's own found no room");
        }
    }

    fn dial(&mut self, worker: &WorkerName) {
        if let Some(spec) = self.fleet.entry(worker) {
            self.links.dial(&spec, self.supervisor.token(worker));
        }
    }

    fn launch(&mut self, worker: &WorkerName) {
        if let Some(program) = self.fleet.entry(worker).and_then(|spec| spec.launch.clone()) {
            self.supervisor.launch(worker.clone(), Arc::new(program));
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        let entered = self.entering.remove(&request);
        match (&answer, entered) {
            // These made no task: what was let in for them leaves again.
            (Answer::Refused(_) | Answer::Replayed(_) | Answer::ReplayedFromArchive(_), Some(entered)) => {
                self.shared.admission.leave(entered.bytes);
                if let Some(task) = entered.pinned {
                    self.shared.artifacts.unpin(task);
                }
            }
            // A person's word: whoever asked must see its effect in the next picture.
            (Answer::Done, _) => self.views.publish(&mut self.fleet, self.pass, &self.shared),
            (
                Answer::Accepted(_)
                | Answer::Cancel(_)
                | Answer::Refused(_)
                | Answer::Replayed(_)
                | Answer::ReplayedFromArchive(_),
                _,
            ) => {}
        }
        self.callers.answer(request, answer);
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::SubmitAndWait(submission, until, reply) => {
                self.enters(&submission);
                self.callers.submits(submission.request, submission.id, until, reply);
                let request = submission.request;
                self.tell(Event::Submit(submission));
                self.callers.submitted();
                self.entering.remove(&request);
            }
            Call::SubmitAll(submissions) => {
                // All in one pass, whose records are handed to the journal together.
                for (submission, reply) in submissions {
                    self.enters(&submission);
                    self.callers.asks(submission.request, reply);
                    self.tell(Event::Submit(submission));
                }
            }
            Call::Ask(request, event, reply) => {
                if let Event::Submit(submission) = &event {
                    self.enters(submission);
                }
                self.callers.asks(request, reply);
                self.tell(event);
            }
            Call::Tell(event) => self.tell(event),
            Call::Watch(task, reply) => self.watch(task, reply),
            Call::Task(task, reply) => match self.fleet.task(task) {
                Some(_) if !self.fleet.is_shown(task) => self.callers.waits(task, Waiter::Reader(reply)),
                found => drop(reply.send(found)),
            },
            Call::Explain(task, reply) => drop(reply.send(self.fleet.explain(task))),
            Call::Sessions(tenant, reply) => drop(reply.send(self.fleet.sessions(&tenant))),
            Call::Stats(reply) => drop(reply.send(self.fleet.stats(self.shared.clock.now()))),
            Call::Apply(topology, reply) => {
                let applied = self.apply(*topology);
                drop(reply.send(applied));
            }
            Call::Link(reply) => {
                let io = self.links.open();
                let conn = io.conn;
                if reply.send(io).is_err() {
                    self.links.ended(conn);
                }
            }
            Call::LinkEnded(conn, why) => self.take_event(Event::LinkDown(conn, why)),
            Call::Probe(worker, reply) => {
                let snapshot = self.shared.snapshot.load();
                let conn = snapshot.worker(worker.as_str()).and_then(|view| view.connection);
                self.links.probe(conn, reply);
            }
            Call::Shutdown(drain, reply) => self.begin_stop(drain, reply),
        }
    }

    /// Tasks whose submitters have waited as long as they wanted to are kept from now on.
    fn promote_for_the_impatient(&mut self) {
        for task in self.callers.impatient(self.pass.0) {
            let request = RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
            if self.callers.promotes(task, request) {
                self.tell(Event::Promote(task, request));
            }
        }
    }

    fn enters(&mut self, submission: &Submission) {
        let mut pinned = None;
        if !submission.spec.artifacts.is_empty() {
            self.shared.artifacts.pin(submission.id, &submission.spec.artifacts);
            pinned = Some(submission.id);
        }
        let bytes = submission.spec.input.as_str().len() as u64;
        self.entering.insert(submission.request, Entering { bytes, pinned });
    }

    fn watch(&mut self, task: TaskId, reply: oneshot::Sender<Waited>) {
        match self.fleet.task(task) {
            Some(record) if record.state.is_final() && self.fleet.is_shown(task) => {
                drop(reply.send(Waited::Finished(record)));
            }
            Some(_) => self.callers.waits(task, Waiter::Caller(reply)),
            None => drop(reply.send(Waited::Refused(Refusal::NoSuchTask))),
        }
    }

    fn apply(&mut self, mut topology: Topology) -> Applied {
        let before = self.shared.topology.load_full();
        let diff = Arc::new(Diff::between(&before, &topology));
        let first = self.shared.lifecycle.load(Ordering::Relaxed) == 0;
        if diff.is_empty() && !first {
            return Applied { generation: before.generation, diff };
        }
        topology.generation = Generation(before.generation.0 + 1);
        let generation = topology.generation;
        self.shared.admission.limit(topology.settings.max_depth, topology.settings.max_bytes);
        self.shared.metrics.topology_applied(&topology);
        let topology = Arc::new(topology);
        self.shared.topology.store(Arc::clone(&topology));
        self.tell(Event::Desired(topology));
        if first {
            self.lifecycle(if self.fleet.is_recovering() { Lifecycle::Recovering } else { Lifecycle::Ready });
        }
        self.views.publish(&mut self.fleet, self.pass, &self.shared);
        Applied { generation, diff }
    }

    fn lifecycle(&self, stage: Lifecycle) {
        let number = Lifecycle::ALL.iter().position(|one| *one == stage).unwrap_or(0);
        self.shared.lifecycle.store(u8::try_from(number).unwrap_or(0), Ordering::Relaxed);
    }

    /// What the journal tells.
    fn heard(&mut self, told: Option<Told>) {
        match told {
            Some(Told::Committed { up_to: Some(up_to), taken }) => self.tell(Event::Durable { up_to, taken }),
            Some(Told::Committed { up_to: None, .. }) => {}
            Some(Told::Trouble(fault)) => self.trouble(&fault),
            Some(Told::Well) => {
                tracing::info!("the store takes writes again");
                self.shared.store_trouble.store(None);
                self.shared.metrics.store_writable(true);
                self.tell(Event::StoreFailed(false));
            }
            None => {
                tracing::error!("the journal's thread is gone; this is a bug in Rollcall");
                std::process::exit(4);
            }
        }
    }

    fn trouble(&mut self, fault: &StoreFault) {
        match fault {
            // Serving on would show facts that the disk, or another server, denies.
            StoreFault::Fenced { .. } | StoreFault::Lost(_) => {
                tracing::error!(
                    %fault,
                    alert = "RollcallStoreErrors",
                    "the store must not be served any more: stopping at once"
                );
                std::process::exit(4);
            }
            StoreFault::Full(_) | StoreFault::Io(_) => {
                tracing::error!(
                    %fault,
                    alert = "RollcallStoreNotWritable",
                    "the store refuses writes; tasks that must be kept are refused until it takes them"
                );
                self.shared.store_trouble.store(Some(Arc::new(fault.to_string())));
                self.shared.metrics.store_writable(false);
                self.tell(Event::StoreFailed(true));
            }
        }
    }

    /// After each batch: the journal and the picture are brought up to date, now or soon.
    fn settle(&mut self) {
        self.writer.settle(self.fleet.awaited());
        let (now, _) = self.pass;
        self.linger_until = match self.linger_until {
            _ if !self.writer.lingers() => None,
            Some(until) if until <= now => {
                self.writer.flush();
                None
            }
            Some(until) => Some(until),
            None => Some(now + LINGER),
        };
        self.publish_at = self.views.settle(&mut self.fleet, self.pass, &self.shared);
    }

    fn housekeeping(&mut self) {
        self.shared.logs.sweep();
        self.shared.artifacts.sweep();
        self.callers.sweep();
        self.recorder.flush();
        if self.shared.lifecycle.load(Ordering::Relaxed) == 1 && !self.fleet.is_recovering() {
            self.lifecycle(Lifecycle::Ready);
        }
        #[cfg(debug_assertions)]
        if let Err(violation) = self.fleet.check() {
            tracing::error!(%violation, "an invariant of the core does not hold; this is a bug in Rollcall");
        }
    }

    fn begin_stop(&mut self, drain: Duration, reply: oneshot::Sender<()>) {
        if self.stopping.is_some() {
            return;
        }
        self.lifecycle(Lifecycle::Draining);
        self.shared.stopping.send_replace(true);
        self.stopping = Some(Stopping { until: Instant::now() + drain, reply });
        self.tell(Event::Quiesce);
    }

    fn stop_is_due(&self) -> bool {
        self.stopping
            .as_ref()
            .is_some_and(|stopping| self.fleet.unfinished_business() == 0 || stopping.until <= Instant::now())
    }

    async fn stop(mut self) {
        self.begin_pass();
        self.tell(Event::Farewell);
        self.links.shutdown().await;
        self.supervisor.shutdown(Duration::from_secs(10)).await;
        self.providers.shutdown().await;
        self.writer.close().await;
        self.events.close();
        self.inputs.close();
        self.shared.artifacts.close().await;
        self.recorder.flush();
        if let Some(stopping) = self.stopping {
            // Whoever asked may have gone.
            let _gone = stopping.reply.send(());
        }
    }
}
