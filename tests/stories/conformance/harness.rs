//! The core's side of one connection, played by a test.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollcall::fleet::*;
use rollcall::interface::mailbox::{self, mailbox};
use rollcall::interface::{
    DataDoor, Ended, LinkCommand, LinkIo, LinkLimits, LinkMeter, OutputStream, Upload, UploadTo,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// An attempt.
pub(super) type Key = (TaskId, Epoch);

/// How long anything may take. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The attempt of a task.
pub(super) fn key(task: u64, epoch: u64) -> Key {
    (TaskId(task.into()), Epoch(epoch))
}

/// `registered`, with what a test changes.
pub(super) fn welcome(change: impl FnOnce(&mut Welcome)) -> Order {
    let mut welcome = Welcome {
        worker: "ann".into(),
        slots: 64,
        heartbeat_interval: Duration::from_secs(30),
        lease: Duration::from_secs(120),
        store: "store-a".into(),
        features: vec![],
        keep: vec![],
        resend: vec![],
        drop: vec![],
    };
    change(&mut welcome);
    Order::Registered(Box::new(welcome))
}

/// Things noted in the order that they came.
#[derive(Debug)]
pub(super) struct Log<T>(Mutex<Vec<T>>);

impl<T: Clone> Log<T> {
    fn push(&self, thing: T) {
        self.0.lock().expect("nobody panics while noting").push(thing);
    }

    pub(super) fn all(&self) -> Vec<T> {
        self.0.lock().expect("nobody panics while noting").clone()
    }
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// What came past the core.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Output, by attempt, stream and offset.
    pub(super) output: Log<(Epoch, &'static str, u64, String)>,
    /// Protocol errors.
    pub(super) errors: Log<&'static str>,
    /// Round trips measured.
    pub(super) rtts: Log<Duration>,
    /// Assignments written, and how long that took.
    pub(super) dispatched: Log<Duration>,
}

impl DataDoor for Seen {
    fn output(&self, _: ConnId, _: TaskId, epoch: Epoch, stream: OutputStream, offset: u64, data: &str) {
        self.output.push((epoch, stream.as_str(), offset, data.to_owned()));
    }

    fn progress(&self, _: ConnId, _: TaskId, epoch: Epoch, fraction: Option<f64>, message: Option<&str>) {
        let text = format!("{fraction:?} {message:?}");
        self.output.push((epoch, "progress", 0, text));
    }

    fn upload(&self, _: UploadTo, _: Artifact) -> Result<Box<dyn Upload>, TaskError> {
        Err(no_files())
    }

    fn keep(&self, _: UploadTo, _: &str, _: &str, _: bytes::Bytes) -> Result<(), TaskError> {
        Err(no_files())
    }

    fn artifacts(&self, _: TaskId, _: Epoch) -> Vec<Artifact> {
        Vec::new()
    }
}

fn no_files() -> TaskError {
    TaskError {
        code: "artifact_store_full".into(),
        message: "there is no disk here".into(),
        retryable: true,
        fault: Fault::Rollcall,
        side_effects: SideEffects::Possible,
        details: None,
    }
}

impl LinkMeter for Seen {
    fn rtt(&self, _: &WorkerName, rtt: Duration) {
        self.rtts.push(rtt);
    }

    fn message(&self, _: &'static str, _: &'static str, _: usize) {}

    fn protocol_error(&self, kind: &'static str) {
        self.errors.push(kind);
    }

    fn dispatched(&self, took: Duration) {
        self.dispatched.push(took);
    }
}

/// One connection, seen from the core.
pub(super) struct Core {
    commands: mailbox::Sender,
    events: mpsc::Receiver<Event>,
    pub(super) seen: Arc<Seen>,
    link: JoinHandle<Ended>,
}

/// The two ends of a connection's ways.
pub(super) fn ways(conn: u64, limits: LinkLimits) -> (LinkIo, Ways) {
    let (commands, orders) = mailbox(65_536);
    let (events, told) = mpsc::channel(256);
    let seen = Arc::new(Seen::default());
    let (door, meter) = (Arc::clone(&seen) as Arc<dyn DataDoor>, Arc::clone(&seen) as Arc<dyn LinkMeter>);
    let io = LinkIo { conn: ConnId(conn), commands: orders, events, door, meter, limits };
    (io, Ways { commands, events: told, seen })
}

/// The core's ends.
pub(super) struct Ways {
    commands: mailbox::Sender,
    events: mpsc::Receiver<Event>,
    seen: Arc<Seen>,
}

impl Ways {
    /// Plays the core of a connection that runs.
    pub(super) fn core(self, link: JoinHandle<Ended>) -> Core {
        Core { commands: self.commands, events: self.events, seen: self.seen, link }
    }
}

impl Core {
    /// Waits for the worker's registration, or the end.
    pub(super) async fn up(&mut self) -> Result<Registration, Ended> {
        tokio::select! {
            biased;
            event = within(self.events.recv()) => match event {
                Some(Event::LinkUp(_, registration)) => Ok(*registration),
                None => Err(within(&mut self.link).await.expect("no panic")),
                Some(other) => panic!("before the registration came {other:?}"),
            },
            ended = &mut self.link => Err(ended.expect("no panic")),
        }
    }

    /// What the worker says next, but for signs of life.
    pub(super) async fn report(&mut self) -> Report {
        loop {
            match within(self.events.recv()).await {
                Some(Event::Report(_, Report::Alive | Report::Heartbeat { .. })) => {}
                Some(Event::Report(_, report)) => return report,
                other => panic!("a report was awaited, not {other:?}"),
            }
        }
    }

    /// The next sign of life or report.
    pub(super) async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("the connection goes on")
    }

    /// The next result; an `accepted` before it is skipped.
    pub(super) async fn result(&mut self) -> ResultReport {
        loop {
            match self.report().await {
                Report::Result(end) => return *end,
                Report::Accepted { .. } => {}
                other => panic!("a result was awaited, not {other:?}"),
            }
        }
    }

    /// Waits for a heartbeat that lists so many attempts.
    pub(super) async fn heartbeat_listing(&mut self, count: usize) -> Vec<Key> {
        loop {
            if let Event::Report(_, Report::Heartbeat { mut running }) = self.event().await
                && running.len() == count
            {
                running.sort_unstable();
                return running;
            }
        }
    }

    pub(super) async fn order(&self, order: Order) {
        self.command(LinkCommand::Order(order, Instant::now())).await;
    }

    pub(super) async fn command(&self, command: LinkCommand) {
        self.commands.send(command).expect("the connection goes on");
        // It has its turn, as it would between two steps of the server.
        tokio::task::yield_now().await;
    }

    pub(super) async fn execute(&self, key: Key, input: &str, limit: Duration) {
        self.order(Order::Execute(Box::new(assignment(key, input, limit)))).await;
    }

    /// A task that begins a session.
    pub(super) async fn execute_in(&self, session: &str, key: Key, input: &str, limit: Duration) {
        let mut assignment = assignment(key, input, limit);
        assignment.session = Some(SessionLease { new: true, ttl: limit });
        assignment.spec =
            Arc::new(TaskSpec { session: Some(session.into()), ..TaskSpec::new("echo.say", input) });
        self.order(Order::Execute(Box::new(assignment))).await;
    }

    pub(super) async fn acknowledge(&self, (task, epoch): Key) {
        self.order(Order::Ack { task, epoch, discarded: None }).await;
    }

    pub(super) async fn probe(&self) -> Duration {
        let (answer, rtt) = oneshot::channel();
        self.command(LinkCommand::Probe(answer)).await;
        within(rtt).await.expect("it came back")
    }

    /// Asks for the end, and waits for it.
    pub(super) async fn close(self, why: Why) -> Ended {
        self.command(LinkCommand::Close(why)).await;
        within(self.link).await.expect("no panic")
    }

    /// Waits for the end.
    pub(super) async fn ended(&mut self) -> Ended {
        within(&mut self.link).await.expect("no panic")
    }

    /// The server's loop is gone.
    pub(super) async fn gone(self) -> Ended {
        drop((self.commands, self.events));
        within(self.link).await.expect("no panic")
    }

    /// Cuts the connection without a word.
    pub(super) fn cut(self) {
        self.link.abort();
    }
}

/// Waits, but not for ever.
pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

fn assignment((task, epoch): Key, input: &str, limit: Duration) -> Assignment {
    let spec = TaskSpec::new("echo.say", input);
    Assignment { task, epoch, number: 1, spec: Arc::new(spec), limit, session: None, canary: false }
}
