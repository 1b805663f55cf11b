//! The data plane: each task's log of state changes and output, fed past the core and read by
//! watchers. Everything is bounded, a writer never waits for a reader, and a reader who missed
//! something is told so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::fleet::{Artifact, ConnId, Door, Epoch, Happening, TaskId, TaskRecord, Term, Wall};
use crate::interface::OutputStream;

pub mod artifacts;
mod door;
mod kept;
mod log;
mod subscription;

pub use door::DataDoors;
use kept::KeptLog;
use log::{Log, MAX_PIECE};
pub use log::{StateChange, TaskEvent, What};
pub use subscription::{Item, Subscription};

/// Bytes that all logs hold together; beyond them the finished go first, then the oldest output.
const MAX_TOTAL_BYTES: usize = 64 << 20;
/// How long a finished task's log is kept for late watchers.
const KEEP_FINISHED: Duration = Duration::from_secs(60);
/// Logs are numbered from places so far apart that an event id of a log that was forgotten is not
/// taken for one of its successor.
const BASE_STEP: u64 = 1 << 20;
/// The longest progress message that is kept, in bytes.
const MAX_MESSAGE: usize = 1_024;

/// The logs of all tasks that were handed over, or that somebody watches.
#[derive(Debug)]
pub struct TaskLogs {
    term: Term,
    max_bytes: usize,
    shelf: Mutex<Shelf>,
    /// What the logs hold, for whoever only wants to know whether that is anything.
    held: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Shelf {
    logs: FxHashMap<TaskId, Log>,
    /// Finished logs in the order in which they ended.
    finished: VecDeque<(Instant, TaskId)>,
    bytes: usize,
    next_base: u64,
}

impl TaskLogs {
    /// No logs yet. `term` marks the event ids, so that a restarted server knows its own.
    pub fn new(term: Term) -> Self {
        Self::with_limit(term, MAX_TOTAL_BYTES)
    }

    fn with_limit(term: Term, max_bytes: usize) -> Self {
        Self {
            term,
            max_bytes,
            shelf: Mutex::default(),
            held: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Opens or shuts the way in for one attempt's output.
    pub fn gate(&self, task: TaskId, epoch: Epoch, door: Door) {
        let mut shelf = self.shelf();
        match door {
            Door::Open(conn) => shelf.log(task).door = Some((conn, epoch)),
            Door::Shut => {
                if let Some(log) = shelf.logs.get_mut(&task)
                    && log.door.is_some_and(|(_, open)| open == epoch)
                {
                    log.door = None;
                }
            }
        }
    }

    /// Shows a task's watchers what happened. A task without a log (never handed over, not watched)
    /// needs none for this: a watcher who comes later begins with the state of its record.
    pub fn publish(&self, task: TaskId, happening: Happening, at: Wall) {
        let Happening::State { state, attempt, worker, reason } = happening;
        let mut shelf = self.shelf();
        let Some(log) = shelf.logs.get_mut(&task).filter(|log| !log.ended) else { return };
        let (at, change) = match log.concluded.take() {
            // As the store has it.
            Some(end) if state.is_final() => end,
            _ => (at, StateChange { state, attempt, worker, reason }),
        };
        let grown = log.state(at, change);
        self.settle(&mut shelf, task, grown);
    }

    /// The newest state of a task that was handed over, and since when it is in it; `None` for one that
    /// was not, and that nobody watches.
    pub fn newest_state(&self, task: TaskId) -> Option<(StateChange, Wall)> {
        self.shelf().logs.get(&task)?.newest_state()
    }

    /// A task's final record goes to the store: so does this, its log up to there, under the numbers
    /// that its watchers are told. `None` for a task that said nothing and that nobody watched.
    pub fn conclude(&self, record: &TaskRecord) -> Option<Bytes> {
        if self.held.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut shelf = self.shelf();
        let log = shelf.logs.get_mut(&record.id).filter(|log| !log.ended && !log.is_final())?;
        let (change, at) = StateChange::of(record);
        let (trimmed, events) = log.conclude(at, change)?;
        drop(shelf);
        KeptLog { term: self.term, trimmed, events }.encode()
    }

    /// Ends a task's log with its final state. What somebody watches or has read is kept for a minute.
    pub fn finish(&self, task: TaskId, record: &TaskRecord) {
        let mut shelf = self.shelf();
        let Some(log) = shelf.logs.get_mut(&task).filter(|log| !log.ended) else { return };
        if log.buffer.is_none() {
            shelf.logs.remove(&task);
            return;
        }
        let mut grown = 0;
        if !log.is_final() {
            let (change, at) = StateChange::of(record);
            grown = log.state(at, change);
        }
        log.ended = true;
        log.door = None;
        let now = Instant::now();
        shelf.finished.push_back((now, task));
        shelf.forget_before(now.checked_sub(KEEP_FINISHED));
        self.settle(&mut shelf, task, grown);
    }

    /// Begins to watch a task: from its current state, or right after the event `last` that the
    /// watcher has seen. `record` is the task as it is now; fetch it again once this returns and, if
    /// it is final by then, hand it to [`TaskLogs::finish`]: its end may have come in between.
    /// `None` for a task that has ended and whose log is not here any more: see [`TaskLogs::look_back`].
    pub fn subscribe(self: &Arc<Self>, record: &TaskRecord, last: Option<&str>) -> Option<Subscription> {
        let mut shelf = self.shelf();
        if record.state.is_final() && !shelf.logs.contains_key(&record.id) {
            return None;
        }
        let log = shelf.log(record.id);
        let mut grown = 0;
        if !log.has_state() {
            let (change, at) = StateChange::of(record);
            grown += log.state(at, change);
        }
        grown += log.open_buffer();
        log.watchers += 1;
        let subscription = Subscription::live(Arc::clone(self), record.id, log, last);
        self.settle(&mut shelf, record.id, grown);
        Some(subscription)
    }

    /// Tells of a task that has ended what the store has `kept` of its log, from its beginning or right
    /// after the event `last`; where there is nothing, its end alone.
    pub fn look_back(
        self: &Arc<Self>,
        record: &TaskRecord,
        kept: Option<&Bytes>,
        last: Option<&str>,
    ) -> Subscription {
        let log = kept.and_then(|kept| KeptLog::decode(kept));
        Subscription::over(Arc::clone(self), record.id, log.unwrap_or_else(|| KeptLog::of_end(record)), last)
    }

    /// Forgets the logs of tasks that finished over a minute ago. Call it now and then, so that an
    /// idle server gives their memory back.
    pub fn sweep(&self) {
        let mut shelf = self.shelf();
        shelf.forget_before(Instant::now().checked_sub(KEEP_FINISHED));
        self.held.store(shelf.bytes, Ordering::Relaxed);
    }

    /// Bytes that the logs hold.
    pub fn bytes(&self) -> usize {
        self.shelf().bytes
    }

    /// Pieces of output and progress that came for no open attempt.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic elsewhere leaves at worst one log cut short, which its readers are told.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends to the log of an attempt whose door is open to this connection.
    fn append(&self, conn: ConnId, task: TaskId, epoch: Epoch, pieces: impl Iterator<Item = What>) {
        let mut shelf = self.shelf();
        let Some(log) = shelf.logs.get_mut(&task).filter(|log| log.door == Some((conn, epoch))) else {
            drop(shelf);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let at = wall_now();
        let grown = pieces.map(|what| log.append(at, what)).sum();
        self.settle(&mut shelf, task, grown);
    }

    /// Counts what a log has grown by, makes room if it must, and wakes the log's watchers.
    fn settle(&self, shelf: &mut Shelf, task: TaskId, grown: isize) {
        shelf.bytes = shelf.bytes.saturating_add_signed(grown);
        while shelf.bytes > self.max_bytes {
            if let Some((_, oldest)) = shelf.finished.pop_front() {
                shelf.forget(oldest);
            } else if let Some(freed) = shelf.logs.get_mut(&task).and_then(Log::drop_oldest) {
                shelf.bytes -= freed;
            } else {
                break;
            }
        }
        self.held.store(shelf.bytes, Ordering::Relaxed);
        if let Some(buffer) = shelf.logs.get(&task).and_then(|log| log.buffer.as_ref()) {
            buffer.more.notify_waiters();
        }
    }

    /// A watcher has left.
    fn unsubscribe(&self, task: TaskId) {
        let mut shelf = self.shelf();
        let Some(log) = shelf.logs.get_mut(&task) else { return };
        log.watchers = log.watchers.saturating_sub(1);
        // Such a log was made for its watchers alone; the core may never speak of this task again.
        if log.watchers == 0 && log.never_handed_over() {
            shelf.forget(task);
        }
    }
}

impl Shelf {
    /// The log of this task; made if there is none.
    fn log(&mut self, task: TaskId) -> &mut Log {
        let next_base = &mut self.next_base;
        self.logs.entry(task).or_insert_with(|| {
            *next_base += BASE_STEP;
            Log::new(*next_base)
        })
    }

    fn forget(&mut self, task: TaskId) {
        if let Some(buffer) = self.logs.remove(&task).and_then(|log| log.buffer) {
            self.bytes = self.bytes.saturating_sub(buffer.bytes);
            // Whoever still reads it finds out that it is gone.
            buffer.more.notify_waiters();
        }
    }

    fn forget_before(&mut self, time: Option<Instant>) {
        let Some(time) = time else { return };
        while self.finished.front().is_some_and(|(ended, _)| *ended <= time) {
            let Some((_, task)) = self.finished.pop_front() else { return };
            self.forget(task);
        }
    }
}

/// What comes past the core.
impl TaskLogs {
    /// Appends output of an attempt whose door is open; see [`DataDoor`](crate::interface::DataDoor).
    pub fn output(
        &self,
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        stream: OutputStream,
        offset: u64,
        data: &str,
    ) {
        let pieces = Pieces { rest: data, offset };
        let output = |(offset, data): (u64, &str)| What::Output { stream, epoch, offset, data: data.into() };
        self.append(conn, task, epoch, pieces.map(output));
    }

    /// Notes progress of an attempt whose door is open.
    pub fn progress(
        &self,
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        fraction: Option<f64>,
        message: Option<&str>,
    ) {
        let message = message.map(|text| Arc::from(cut(text, MAX_MESSAGE).0));
        let fraction =
            fraction.filter(|fraction| fraction.is_finite()).map(|fraction| fraction.clamp(0.0, 1.0));
        self.append(conn, task, epoch, std::iter::once(What::Progress { fraction, message }));
    }

    /// Tells that an attempt whose door is open has made a file.
    pub fn artifact(&self, conn: ConnId, task: TaskId, epoch: Epoch, artifact: &Artifact) {
        self.append(conn, task, epoch, std::iter::once(What::Artifact(artifact.clone())));
    }

    /// Whether an attempt's door is open to this connection.
    pub(super) fn is_open(&self, conn: ConnId, task: TaskId, epoch: Epoch) -> bool {
        self.shelf().logs.get(&task).is_some_and(|log| log.door == Some((conn, epoch)))
    }
}

/// Cuts a text into pieces of at most [`MAX_PIECE`] bytes, with their offsets.
struct Pieces<'a> {
    rest: &'a str,
    offset: u64,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = (u64, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = cut(self.rest, MAX_PIECE);
        let offset = self.offset;
        self.rest = rest;
        self.offset += piece.len() as u64;
        Some((offset, piece))
    }
}

/// The text's beginning, of at most so many bytes and whole characters, and the rest.
fn cut(text: &str, most: usize) -> (&str, &str) {
    let most = most.min(text.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.split_at(end)
}

fn wall_now() -> Wall {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Wall(i64::try_from(millis).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
