//! How the server speaks to a worker: one trait, with a WebSocket and a mock behind it. An
//! interface translates between the core's words and its own; it decides nothing.

pub mod factory;
pub mod mailbox;
pub mod mock;
pub mod websocket;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::mailbox::Mailbox;
use crate::fleet::{
    Artifact, ConnId, ConnectOutcome, Epoch, Event, Order, Registration, Report, TaskError, TaskId, Why,
    WorkerName, WorkerSpec,
};
pub use crate::trust::Token;
use crate::trust::{ClientFiles, Tls};

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an interface cannot do says what the core must not rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// The worker keeps its attempts over a lost connection and reports them on the next one.
    pub resumes: bool,
    /// Every cancel is answered by a result.
    pub confirms_cancel: bool,
}

/// One way to speak to workers.
pub trait WorkerInterface: Send + Sync {
    /// What can be relied on.
    fn abilities(&self) -> Abilities;

    /// Connects to `target`, registers it (`io.up`), carries orders and reports until the
    /// connection ends, and says why it did. Dropping the future closes the connection at once.
    fn run(&self, target: Target, io: LinkIo) -> BoxFuture<Ended>;
}

/// Whom to connect to.
#[derive(Clone)]
pub struct Target {
    /// The worker's name in the topology.
    pub worker: WorkerName,
    /// Its entry.
    pub spec: Arc<WorkerSpec>,
    /// What to show it, if anything.
    pub token: Option<Token>,
    /// The thread that shakes hands, where it is spoken to under TLS.
    pub tls: Tls,
    /// Whom to believe then, and what to show.
    pub files: ClientFiles,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It never got as far as a registration.
    NotConnected(ConnectOutcome, String),
    /// It was registered, and then ended.
    Down(Why),
}

/// What the manager tells a connection. First in, first out: a `Close` flushes what stands before it.
#[derive(Debug)]
pub enum LinkCommand {
    /// Say this to the worker; the time is that of the decision (see [`LinkMeter::dispatched`]).
    Order(Order, Instant),
    /// Flush (for at most two seconds), close, and end with this reason.
    Close(Why),
    /// Measure one round trip and tell it; a dropped sender means that none came back.
    Probe(oneshot::Sender<Duration>),
}

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct LinkLimits {
    /// The largest message and frame, in bytes; checked before anything is allocated for it.
    pub max_message: usize,
    /// How long dialling and the opening handshake may take together.
    pub connect_timeout: Duration,
    /// How long a write may make no progress before the worker counts as a slow consumer.
    pub write_timeout: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            max_message: (1 << 20) + rollcall_protocol::ENVELOPE_BYTES,
            connect_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// A connection's ways to the rest of the server.
pub struct LinkIo {
    /// Its number.
    pub conn: ConnId,
    /// What the manager tells it. Bounded; the manager never waits on it.
    pub commands: Mailbox,
    /// To the core, ahead of submissions. Bounded: a full lane makes the reader wait.
    pub events: mpsc::Sender<Event>,
    /// To the tasks' logs, past the core.
    pub door: Arc<dyn DataDoor>,
    /// To the metrics.
    pub meter: Arc<dyn LinkMeter>,
    /// Its bounds.
    pub limits: LinkLimits,
}

impl LinkIo {
    /// Tells the core that the worker has registered. False when the server is gone.
    pub async fn up(&self, registration: Registration) -> bool {
        self.events.send(Event::LinkUp(self.conn, Box::new(registration))).await.is_ok()
    }

    /// What the worker said, as the core hears it; a result bears its stored files.
    pub fn event(&self, mut report: Report) -> Event {
        if let Report::Result(result) = &mut report {
            result.artifacts = self.door.artifacts(result.task, result.epoch);
        }
        Event::Report(self.conn, report)
    }

    /// Tells the core what the worker said, if there is room for it, as there nearly always is.
    ///
    /// # Errors
    /// [`NotReported`], with the event that has to wait.
    pub fn try_report(&self, report: Report) -> Result<(), NotReported> {
        self.events.try_send(self.event(report)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(event) => NotReported::Full(event),
            mpsc::error::TrySendError::Closed(_) => NotReported::Closed,
        })
    }

    /// Tells the core what the worker said. False when the server is gone.
    pub async fn report(&self, report: Report) -> bool {
        match self.try_report(report) {
            Ok(()) => true,
            Err(NotReported::Full(event)) => self.events.send(event).await.is_ok(),
            Err(NotReported::Closed) => false,
        }
    }
}

/// Why the core has not heard what a worker said.
#[derive(Debug)]
pub enum NotReported {
    /// Too much waits for it.
    Full(Event),
    /// The server is gone.
    Closed,
}

/// The way from a connection's reader into the tasks' logs (the data plane). The core opens it for
/// one attempt at a time; what comes for another is dropped and counted.
pub trait DataDoor: Send + Sync {
    /// Appends output. `offset` counts bytes of that stream from the attempt's beginning. Call it
    /// before the attempt's result is reported, so that the final event comes last.
    fn output(&self, conn: ConnId, task: TaskId, epoch: Epoch, stream: OutputStream, offset: u64, data: &str);

    /// Notes progress: a fraction from 0 to 1, and a short sentence.
    fn progress(
        &self,
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        fraction: Option<f64>,
        message: Option<&str>,
    );

    /// Begins to take in a file. What may be sent, and what becomes of it, is told by `to`. Never
    /// waits for the disk.
    ///
    /// # Errors
    /// Why it is not taken.
    fn upload(&self, to: UploadTo, artifact: Artifact) -> Result<Box<dyn Upload>, TaskError>;

    /// Takes in a file that is here, whole.
    ///
    /// # Errors
    /// Why it is not taken.
    fn keep(&self, to: UploadTo, name: &str, media_type: &str, bytes: Bytes) -> Result<(), TaskError>;

    /// The files of an attempt that are stored by now: what its result bears.
    fn artifacts(&self, task: TaskId, epoch: Epoch) -> Vec<Artifact>;
}

/// Whose file it is, and whom to tell about it.
#[derive(Debug, Clone)]
pub struct UploadTo {
    /// The connection that it comes by.
    pub conn: ConnId,
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub epoch: Epoch,
    /// The upload's number on that connection.
    pub number: u64,
    /// Where news of it go. Bounded by the number of uploads and their credit.
    pub tell: mpsc::UnboundedSender<UploadNews>,
}

/// A file on its way to the disk. Dropping it before its last byte gives it up.
pub trait Upload: Send {
    /// Takes the next bytes, of which there may be as many as [`UploadNews::Credit`] said; the disk
    /// is written elsewhere.
    fn write(&mut self, bytes: Bytes);
}

/// What becomes of a file.
#[derive(Debug)]
pub enum UploadNews {
    /// So many more bytes may come.
    Credit {
        /// The upload.
        number: u64,
        /// How many.
        bytes: u64,
    },
    /// It is on disk, and among the attempt's artifacts.
    Stored {
        /// The upload.
        number: u64,
        /// The file.
        artifact: Artifact,
    },
    /// It is not kept.
    Refused {
        /// The upload.
        number: u64,
        /// Why.
        error: TaskError,
    },
}

/// Which of a program's streams a piece of output belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// The word used on the wire and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What connections count.
pub trait LinkMeter: Send + Sync {
    /// A WebSocket ping came back.
    fn rtt(&self, worker: &WorkerName, rtt: Duration);

    /// A message passed: `direction` is `in` or `out`, `kind` the frame's type.
    fn message(&self, direction: &'static str, kind: &'static str, bytes: usize);

    /// A peer misbehaved: `too_big`, `bad_json`, `bad_type`, `bad_utf8`, `rate` or `unexpected`.
    fn protocol_error(&self, kind: &'static str);

    /// A frame with an assignment was written; `took` counts from the decision.
    fn dispatched(&self, took: Duration);
}
