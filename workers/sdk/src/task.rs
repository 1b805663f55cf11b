//! A task as its handler sees it: what is asked, the way to speak of it while it runs, and its end.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rollcall_protocol::{AttemptRef, Fault, Status, Stream, TaskError, Usage};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::artifact::{ArtifactBody, StoredArtifact, send_artifact};
use crate::fetch::ArtifactReference;
use crate::hub::Hub;
use crate::text::Utf8Stream;

/// One attempt of a task.
#[derive(Debug)]
pub struct Task {
    /// The task's id, a UUID in text.
    pub id: String,
    /// The attempt's fencing number; larger ones are newer. Worth passing on to systems that the
    /// task writes to.
    pub epoch: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What is asked, such as `python.execute`.
    pub capability: String,
    /// The input, any JSON.
    pub input: Box<RawValue>,
    /// How long it may run from the moment that the handler is called.
    pub deadline: Duration,
    /// The session that it runs in.
    pub session: Option<String>,
    /// Whether it begins that session (what is left under its name is to be forgotten) or counts on what
    /// earlier tasks left there. `None` from a server that does not tell.
    pub session_new: Option<bool>,
    /// How long the session lives on unused afterwards.
    pub session_ttl: Option<Duration>,
    /// The same for every attempt of a task: lets a worker find its own repeats.
    pub idempotency_key: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// Why a task should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its time is over.
    Timeout,
    /// A newer attempt took its place.
    Superseded,
    /// The server does not know it, or does not want it any more; its result will be forgotten.
    Dropped,
    /// The worker leaves the fleet.
    Removed,
    /// This worker stops.
    Shutdown,
}

impl CancelReason {
    /// Reads the word of a `cancel` frame; one that is not known means `Cancelled`.
    pub(crate) fn from_word(word: &str) -> Self {
        match word {
            "timeout" => Self::Timeout,
            "superseded" => Self::Superseded,
            "unknown" => Self::Dropped,
            "removed_from_config" => Self::Removed,
            _ => Self::Cancelled,
        }
    }
}

/// The way to speak of a task while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskContext(pub(crate) Arc<Attempt>);

/// A running attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) key: AttemptRef,
    pub(crate) hub: Arc<Hub>,
    stop: CancellationToken,
    reason: OnceLock<CancelReason>,
    streams: Mutex<[Utf8Stream; 2]>,
}

impl TaskContext {
    pub(crate) fn new(key: AttemptRef, hub: Arc<Hub>) -> Self {
        let (stop, reason, streams) = (CancellationToken::new(), OnceLock::new(), Mutex::default());
        Self(Arc::new(Attempt { key, hub, stop, reason, streams }))
    }

    /// Sends live output, text or bytes (those that are not UTF-8 become U+FFFD). Never waits: where
    /// the link is down or slower than the output, pieces are left out, and watchers see the gap.
    pub fn output(&self, stream: Stream, data: impl AsRef<[u8]>) {
        self.emit(stream, |state| state.push(data.as_ref()));
    }

    /// Tells how far the task has come: a fraction from 0 to 1, and a short sentence. Left out
    /// under the same conditions as output.
    pub fn progress(&self, fraction: Option<f64>, message: Option<&str>) {
        self.0.hub.progress(&self.0.key, fraction.filter(|part| part.is_finite()), message);
    }

    /// Sends a file, which becomes part of the task: what it is called (no path: any text without
    /// control characters, up to 255 bytes; a later one of the same name takes the place of the former),
    /// what it is, such as `image/png`, and its bytes or an open file. Returns once the server has it
    /// on disk; waits while there is no server, and begins again on the next connection.
    ///
    /// Cancel-safe: a file whose future is dropped is given up.
    ///
    /// # Errors
    /// Why it is not kept: it cannot be read, is too large, or the server cannot take it. The task may
    /// go on without it, or end with this error.
    pub async fn artifact(
        &self,
        name: &str,
        media_type: &str,
        body: impl Into<ArtifactBody>,
    ) -> Result<StoredArtifact, TaskError> {
        send_artifact(self, name, media_type, body.into()).await
    }

    /// Fetches a file that the input refers to, of at most `most` bytes, and checks it. Cancel-safe.
    ///
    /// # Errors
    /// Why it cannot be had; the task may end with this error.
    pub async fn fetch(&self, reference: &ArtifactReference, most: usize) -> Result<Bytes, TaskError> {
        match self.0.hub.api() {
            Some(api) => api.fetch(reference, most).await,
            None => {
                let message = "this worker does not know where its server's API is: set ROLLCALL_SERVER";
                Err(error("artifact_unreachable", message, Fault::Worker))
            }
        }
    }

    /// Waits until the task should stop, and says why. Cancel-safe.
    pub async fn cancelled(&self) -> CancelReason {
        self.0.stop.cancelled().await;
        self.cancel_reason().unwrap_or(CancelReason::Cancelled)
    }

    /// Why the task should stop; `None` while it may go on.
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.0.reason.get().copied()
    }

    /// The same as a token, for code that takes one.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Tells the handler to stop. The first reason stays.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        self.0.reason.get_or_init(|| reason);
        self.0.stop.cancel();
    }

    /// Sends what the streams held back of a character that was cut in two.
    pub(crate) fn finish_output(&self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.emit(stream, Utf8Stream::finish);
        }
    }

    fn emit(&self, stream: Stream, take: impl FnOnce(&mut Utf8Stream) -> (u64, String)) {
        let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match stream {
            Stream::Stdout => &mut streams[0],
            Stream::Stderr => &mut streams[1],
        };
        let (offset, text) = take(state);
        // Under the lock, or two threads' pieces could be queued in the wrong order.
        self.0.hub.output(&self.0.key, stream, offset, &text);
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub struct TaskEnd {
    /// How it ended.
    pub status: Status,
    /// What it returned, of a failed attempt too.
    pub output: Option<Box<RawValue>>,
    /// Why it failed.
    pub error: Option<TaskError>,
    /// What it used.
    pub usage: Option<Usage>,
    /// Of an attempt in a session: whether that is there after it. `None`: it is.
    pub session_open: Option<bool>,
}

impl TaskEnd {
    /// It did what was asked. An output that cannot be written as JSON makes it a failure, the worker's.
    pub fn succeeded(output: &(impl Serialize + ?Sized)) -> Self {
        Self::of(Status::Succeeded, None).with_output(output)
    }

    /// It did not.
    pub fn failed(error: TaskError) -> Self {
        Self::of(Status::Failed, Some(error))
    }

    /// It ran out of its time: the task's own fault, not worth another try.
    pub fn timed_out() -> Self {
        Self::of(Status::TimedOut, Some(error("timeout", "ran longer than its time limit", Fault::Caller)))
    }

    /// It was stopped by [`TaskContext::cancelled`].
    pub fn cancelled() -> Self {
        Self::of(Status::Cancelled, None)
    }

    /// The same, but it did not stop by itself and was ended by force.
    pub fn killed() -> Self {
        Self::of(
            Status::Cancelled,
            Some(error("killed", "did not stop in time and was killed", Fault::Caller)),
        )
    }

    /// Adds what it returned.
    pub fn with_output(mut self, output: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::value::to_raw_value(output) {
            Ok(raw) => self.output = Some(raw),
            Err(problem) => {
                let message = format!("the output is not JSON: {problem}");
                self = Self::failed(error("bad_output", &message, Fault::Worker));
            }
        }
        self
    }

    /// Adds what it used.
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Tells whether the task's session is there after it: the server hands out nothing more to one
    /// that is not.
    pub fn with_session_open(mut self, open: bool) -> Self {
        self.session_open = Some(open);
        self
    }

    fn of(status: Status, error: Option<TaskError>) -> Self {
        Self { status, output: None, error, usage: None, session_open: None }
    }
}

/// An error that another attempt will not mend.
pub(crate) fn error(code: &str, message: &str, fault: Fault) -> TaskError {
    TaskError { code: code.to_owned(), message: message.to_owned(), retryable: false, fault, details: None }
}
