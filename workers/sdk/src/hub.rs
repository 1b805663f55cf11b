//! The middle of a worker: running handlers on one side, the link to the server on the other, the
//! ledger between them. It outlives every connection.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rollcall_protocol::{
    Accepted, Artifact, AttemptRef, Cancel, Credit, Execute, Fault, FromWorker, Goodbye, INLINE_BYTES,
    MetricsPage, Output, Progress, Register, Registered, Rejected, ResultAck, Status, Stream, TaskError,
    TaskResult, WorkerHeartbeat,
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::fetch::Api;
use crate::ledger::{Ledger, UploadStep, Verdict};
use crate::run::supervise;
use crate::shorten::shorten;
use crate::task::{TaskContext, TaskEnd, error};
use crate::worker::WorkerBuilder;
use crate::{CancelReason, Capability, Handler, RawValue, Task, Token};

/// The longest piece of output in one frame: a result or a heartbeat must not stand behind megabytes.
const OUTPUT_PIECE: usize = 32 * 1024;

/// How long a worker that stops waits for its last results to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What this crate does for every worker: answers each cancel, keeps attempts and results over
/// broken connections, sends live output and files.
const FEATURES: [&str; 5] = ["cancel", "resume", "output", "artifacts", "sessions"];

/// See the module.
pub(crate) struct Hub {
    about: WorkerBuilder,
    ledger: Mutex<Ledger>,
    /// Wakes the link when the ledger has a frame for it.
    wake: AtomicWaker,
    /// Told when an attempt has ended or was acknowledged while the worker is leaving.
    settled: Notify,
    /// Told when an upload may be able to go on.
    uploads: Notify,
    tasks: TaskTracker,
    /// The port where this worker serves its own metrics, once it does.
    metrics: OnceLock<u16>,
    /// Where the server's API is, once that is known.
    api: OnceLock<Api>,
}

impl Hub {
    pub(crate) fn new(about: WorkerBuilder) -> Arc<Self> {
        let (ledger, wake) = (Mutex::default(), AtomicWaker::new());
        Arc::new(Self {
            about,
            ledger,
            wake,
            settled: Notify::new(),
            uploads: Notify::new(),
            tasks: TaskTracker::new(),
            metrics: OnceLock::new(),
            api: OnceLock::new(),
        })
    }

    /// A server is dialled there: its API is at the same address, unless somebody has named another.
    pub(crate) fn dials(&self, url: &str, token: Option<Token>) {
        if let Some(api) = Api::read(url, token).filter(|_| self.about.server.is_none()) {
            self.api.get_or_init(|| api);
        }
    }

    /// Where files of inputs are fetched from.
    pub(crate) fn api(&self) -> Option<Api> {
        self.about.server.clone().or_else(|| self.api.get().cloned())
    }

    /// The largest message, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        self.about.max_message
    }

    /// The name that it goes by, for logs.
    pub(crate) fn name(&self) -> &str {
        if self.about.name.is_empty() { &self.about.kind } else { &self.about.name }
    }

    /// How many handlers run.
    pub(crate) fn running(&self) -> usize {
        self.ledger().running()
    }

    /// Whether a server has registered this worker.
    pub(crate) fn is_up(&self) -> bool {
        self.ledger().is_up()
    }

    /// Waker of the link that sends what [`Hub::next_frame`] returns.
    pub(crate) fn waker(&self) -> &AtomicWaker {
        &self.wake
    }

    /// From now on servers are told that this port has a page of metrics.
    pub(crate) fn serves_metrics(&self, port: u16) {
        self.metrics.get_or_init(|| port);
    }

    /// The first frame of a new connection.
    pub(crate) fn register(&self) -> Utf8Bytes {
        let (attempts, store_id) = self.ledger().begin_link();
        let about = &self.about;
        let offers = about.offers.iter().map(|(Capability(offer), _)| offer.clone());
        encode(Box::new(Register {
            name: about.name.clone(),
            instance: about.instance.clone(),
            pool: about.pool.clone(),
            kind: about.kind.clone(),
            version: about.version.clone(),
            slots: about.slots,
            labels: about.labels.clone(),
            isolation: about.isolation.clone(),
            metrics: self.metrics.get().map(|port| MetricsPage { port: *port, path: "/metrics".into() }),
            capabilities: offers.collect(),
            attempts,
            sessions: about.sessions.as_ref().map(|held| held()),
            features: FEATURES.map(str::to_owned).to_vec(),
            store_id,
        }))
    }

    /// The server's answer to it.
    pub(crate) fn registered(&self, answer: &Registered) {
        let dropped = self.ledger().registered(answer);
        for context in dropped {
            context.cancel(CancelReason::Dropped);
        }
        if self.ledger().is_leaving() {
            self.say_goodbye();
        }
        self.uploads.notify_waiters();
    }

    /// The connection is gone; tasks go on.
    pub(crate) fn link_ended(&self) {
        self.ledger().end_link();
        self.settled.notify_waiters();
        self.uploads.notify_waiters();
    }

    /// The next frame for the link.
    pub(crate) fn next_frame(&self) -> Option<Message> {
        let frame = self.ledger().pop();
        if matches!(frame, Some(Message::Binary(_))) {
            self.uploads.notify_waiters();
        }
        frame
    }

    /// The worker's own heartbeat.
    pub(crate) fn heartbeat(&self) -> Utf8Bytes {
        encode(WorkerHeartbeat { load: None, running: self.ledger().listed() })
    }

    /// Starts a task, or says why not. True when one was started.
    pub(crate) fn execute(self: &Arc<Self>, frame: Execute<'_>) -> bool {
        let key = AttemptRef { task: frame.task, epoch: frame.epoch };
        let offer = self.about.offers.iter().find(|(offer, _)| offer.covers(&frame.capability));
        let mut ledger = self.ledger();
        let verdict = ledger.judge(&key, frame.connection, self.about.slots);
        let (offer, handler) = match (verdict, offer) {
            (Verdict::Ignore, _) => {
                warn!(
                    task = key.task,
                    epoch = key.epoch,
                    "ignored an execute that is not meant for this link"
                );
                return false;
            }
            (Verdict::Reject(reason), _) => {
                ledger.say(rejected(key, reason));
                return false;
            }
            (Verdict::Start, None) => {
                ledger.say(rejected(key, "the worker does not offer this capability"));
                return false;
            }
            (Verdict::Start, Some((offer, handler))) => (offer, handler),
        };
        let context = TaskContext::new(key.clone(), Arc::clone(self));
        let accepted = encode(Accepted { task: key.task.clone(), epoch: key.epoch });
        ledger.start(context.clone(), accepted);
        drop(ledger);
        let task = Task {
            id: key.task,
            epoch: key.epoch,
            attempt: frame.attempt,
            capability: frame.capability.into_owned(),
            input: frame.input.to_owned(),
            deadline: Duration::from_millis(frame.deadline_ms),
            session: frame.session,
            session_new: frame.session_new,
            session_ttl: frame.session_ttl_ms.map(Duration::from_millis),
            idempotency_key: frame.idempotency_key,
            traceparent: frame.traceparent,
        };
        let run = Arc::clone(self).run(Arc::clone(handler), task, context, offer.0.idempotent);
        // Tracked: `leave` waits for it.
        drop(self.tasks.spawn(run));
        true
    }

    /// A session is over.
    pub(crate) fn end_session(&self, session: &str) {
        if let Some(ended) = &self.about.session_ended {
            ended(session);
        }
    }

    /// Tells a task to stop.
    pub(crate) fn cancel(&self, frame: Cancel) {
        let key = AttemptRef { task: frame.task, epoch: frame.epoch };
        let never_here = self.result(&key, &TaskEnd::cancelled());
        let context = self.ledger().cancel(&key, never_here);
        if let Some(context) = context {
            context.cancel(CancelReason::from_word(&frame.reason));
        }
    }

    /// Forgets a result that has arrived.
    pub(crate) fn acknowledged(&self, frame: ResultAck) {
        if let Some(reason) = frame.reason.filter(|_| !frame.accepted) {
            info!(task = frame.task, epoch = frame.epoch, reason, "the server did not record a result");
        }
        let mut ledger = self.ledger();
        ledger.acknowledged(&AttemptRef { task: frame.task, epoch: frame.epoch });
        if ledger.is_leaving() {
            self.settled.notify_waiters();
        }
    }

    /// The server's word about an upload.
    pub(crate) fn credit(&self, frame: Credit) {
        self.ledger().credit(frame);
        self.uploads.notify_waiters();
    }

    /// Whether the server that is connected takes files.
    pub(crate) fn takes_artifacts(&self) -> bool {
        let ledger = self.ledger();
        ledger.is_up() && ledger.takes_artifacts()
    }

    /// Announces a file as soon as there is a server, and returns the upload's number. Cancel-safe.
    pub(crate) async fn announce(&self, file: &Artifact) -> Result<u32, TaskError> {
        let key = AttemptRef { task: file.task.clone(), epoch: file.epoch };
        self.when_uploads(|ledger| {
            if !ledger.is_wanted(&key) {
                let message = "the server does not want this attempt any more";
                return Some(Err(error("artifact_not_open", message, Fault::Worker)));
            }
            if !ledger.is_up() {
                return None;
            }
            if !ledger.takes_artifacts() {
                let message = "this server takes no artifacts";
                return Some(Err(error("artifact_not_supported", message, Fault::Rollcall)));
            }
            let number = ledger.announce(|number| encode(Artifact { number, ..file.clone() }));
            self.wake.wake();
            Some(Ok(number))
        })
        .await
    }

    /// Waits until an upload can do something. Cancel-safe.
    pub(crate) async fn upload_step(&self, number: u32, left: u64) -> UploadStep {
        self.when_uploads(|ledger| ledger.upload_step(number, left)).await
    }

    /// Queues a piece of a file.
    pub(crate) fn send_chunk(&self, number: u32, bytes: &[u8]) {
        self.ledger().send_chunk(number, bytes);
        self.wake.wake();
    }

    /// An upload is over for whoever made it.
    pub(crate) fn end_upload(&self, number: u32) {
        self.ledger().end_upload(number);
        self.wake.wake();
    }

    async fn when_uploads<T>(&self, mut look: impl FnMut(&mut Ledger) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.uploads.notified());
            // Enabled before the look, or a change between the two would be missed.
            changed.as_mut().enable();
            let found = look(&mut self.ledger());
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }

    /// Queues live output.
    pub(crate) fn output(&self, key: &AttemptRef, stream: Stream, mut offset: u64, mut text: &str) {
        while !text.is_empty() {
            let (data, rest) = text.split_at(piece(text));
            let (task, epoch) = (key.task.clone(), key.epoch);
            let frame = encode(Output { task, epoch, stream, offset, data: data.into() });
            self.ledger().output(key, frame);
            offset += data.len() as u64;
            text = rest;
            self.wake.wake();
        }
    }

    /// Queues progress.
    pub(crate) fn progress(&self, key: &AttemptRef, fraction: Option<f64>, message: Option<&str>) {
        let (task, epoch, message) = (key.task.clone(), key.epoch, message.map(str::to_owned));
        self.ledger().output(key, encode(Progress { task, epoch, fraction, message }));
        self.wake.wake();
    }

    /// Takes nothing new, tells the server so, and lets what runs finish: first of its own accord,
    /// then by being told; then waits a moment for the last results to be acknowledged.
    async fn leave(&self) {
        self.ledger().leave();
        self.say_goodbye();
        self.tasks.close();
        let finished = tokio::select! {
            finished = tokio::time::timeout(self.about.shutdown_grace, self.tasks.wait()) => finished.is_ok(),
            () = self.about.lifeline.cancelled() => false,
        };
        if !finished && self.running() > 0 {
            warn!(worker = self.name(), running = self.running(), "stopping what still runs");
            self.ledger().stop_all(CancelReason::Shutdown);
            // Each ends within the grace, unless it blocks its thread.
            if tokio::time::timeout(self.about.stop_grace + LAST_WORDS, self.tasks.wait()).await.is_err() {
                warn!(worker = self.name(), running = self.running(), "left behind what does not stop");
            }
        }
        if !self.about.lifeline.is_cancelled() {
            // Past it, the server has what it has: an unacknowledged attempt is its to decide.
            drop(tokio::time::timeout(LAST_WORDS, self.settle()).await);
        }
    }

    /// Waits until all results are acknowledged, or nobody is there to do so.
    async fn settle(&self) {
        loop {
            let mut changed = std::pin::pin!(self.settled.notified());
            // Enabled before the look, or a change between the two would be missed.
            changed.as_mut().enable();
            if self.ledger().is_settled() {
                return;
            }
            changed.await;
        }
    }

    fn say_goodbye(&self) {
        self.ledger().say(encode(Goodbye { reason: "the worker is stopping".into(), retry_after_ms: None }));
        self.wake.wake();
    }

    async fn run(self: Arc<Self>, handler: Arc<dyn Handler>, task: Task, context: TaskContext, again: bool) {
        let end = supervise(handler, task, &context, self.about.stop_grace, again).await;
        context.finish_output();
        let end = self.shortened(&context, end).await;
        let key = &context.0.key;
        let frame = self.result(key, &end);
        let mut ledger = self.ledger();
        for lost in ledger.finish(key, frame) {
            warn!(task = lost.task, epoch = lost.epoch, "gave up a result that nobody acknowledged");
        }
        if ledger.is_leaving() {
            self.settled.notify_waiters();
        }
        drop(ledger);
        self.wake.wake();
    }

    /// Sends the long parts of an output as files, where the server takes them. One that cannot be
    /// sent stays as it is: the server judges it.
    async fn shortened(&self, context: &TaskContext, end: TaskEnd) -> TaskEnd {
        let is_long = |output: &&RawValue| output.get().len() > INLINE_BYTES;
        let Some(output) = end.output.as_deref().filter(is_long) else { return end };
        if !self.takes_artifacts() {
            return end;
        }
        let shorter = tokio::select! {
            shorter = shorten(context, output) => shorter,
            _ = context.cancelled() => return end,
        };
        match shorter {
            Ok(output) => TaskEnd { output: Some(output), ..end },
            Err(problem) => {
                warn!(task = context.0.key.task, code = problem.code, "a long output stays in its result");
                end
            }
        }
    }

    /// The frame of an end. One that is too large for the server fails instead, and says so.
    fn result(&self, key: &AttemptRef, end: &TaskEnd) -> Utf8Bytes {
        let of = |end: &TaskEnd| {
            encode(TaskResult {
                task: key.task.clone(),
                epoch: key.epoch,
                status: end.status,
                output: end.output.as_deref(),
                error: end.error.clone(),
                usage: end.usage,
                session_open: end.session_open,
            })
        };
        let frame = of(end);
        if frame.len() <= self.about.max_message {
            return frame;
        }
        let message = format!("the result is {} bytes, more than {}", frame.len(), self.about.max_message);
        let error = error("output_too_large", &message, Fault::Caller);
        let usage = end.usage;
        let session_open = end.session_open;
        of(&TaskEnd { status: Status::Failed, output: None, error: Some(error), usage, session_open })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// Ends the link's time in the ledger, whichever way the link ends.
pub(crate) struct LinkGuard(pub(crate) Arc<Hub>);

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.0.link_ended();
    }
}

/// Runs `meet` (the listening or the dialling) until `shutdown`, then leaves, then ends the links.
pub(crate) async fn until_shutdown<F>(
    hub: Arc<Hub>,
    shutdown: CancellationToken,
    meet: impl FnOnce(CancellationToken) -> F,
) -> std::io::Result<()>
where
    F: Future<Output = std::io::Result<()>>,
{
    let close = CancellationToken::new();
    let leave = async {
        tokio::select! {
            () = shutdown.cancelled() => info!(worker = hub.name(), "stopping"),
            () = hub.about.lifeline.cancelled() => warn!(worker = hub.name(), "the server is gone; stopping"),
        }
        hub.leave().await;
    };
    // The link must go on while the worker leaves; `meet` ends after `close`.
    let mut meet = std::pin::pin!(meet(close.clone()));
    tokio::select! {
        met = &mut meet => return met,
        () = leave => close.cancel(),
    }
    meet.await
}

/// Where to cut text into pieces: between characters.
fn piece(text: &str) -> usize {
    if text.len() <= OUTPUT_PIECE {
        return text.len();
    }
    (0..=OUTPUT_PIECE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

fn rejected(AttemptRef { task, epoch }: AttemptRef, reason: &str) -> Utf8Bytes {
    encode(Rejected { task, epoch, reason: reason.to_owned(), retryable: true })
}

/// A frame as text.
pub(crate) fn encode<'a>(frame: impl Into<FromWorker<'a>>) -> Utf8Bytes {
    frame
        .into()
        .encode()
        .expect("frames are plain data: text, whole numbers, JSON and checked fractions")
        .into()
}
