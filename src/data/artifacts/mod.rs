//! Files that tasks make and read: taken in past the core, kept by content, found by hash. This is
//! the door to them and what is known of attempts that still run; `room.rs` writes, on a thread of
//! its own, `files.rs` knows the disk, `sweep.rs` makes room.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{error, warn};

use super::TaskLogs;
use crate::fleet::{Artifact, ContentHash, Epoch, Fault, Record, TaskError, TaskId, TaskRecord, Tenant};
use crate::interface::{Upload, UploadTo};
use crate::store::{Archive, Limits};

mod files;
mod refs;
mod room;
mod sweep;

use files::{Files, Writing};
pub use refs::{BadReference, references};
use room::{Job, Room};

/// Bytes of one artifact at most, from a worker or from a caller.
pub const MAX_BYTES: u64 = 256 << 20;
/// Bytes of all artifacts of an attempt at most.
const MAX_ATTEMPT_BYTES: u64 = 1 << 30;
/// Artifacts of an attempt at most: its record, and every answer that shows the task, names each.
const MAX_NUMBER: usize = 256;
/// Bytes of a name, and of a media type, at most.
const MAX_NAME: usize = 255;
const MAX_MEDIA_TYPE: usize = 127;
/// Callers that upload at once; more wait.
const MAX_GIVERS: usize = 16;
/// Left free for the store, so that results can be recorded when nothing else can.
const RESERVE: u64 = 128 << 20;

/// See the module.
#[derive(Debug)]
pub struct Artifacts {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    next: AtomicU64,
    givers: Semaphore,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the door and the writing thread both know.
#[derive(Debug)]
struct Shared {
    files: Files,
    /// The newest attempt that has artifacts, of each unfinished task that has any.
    attempts: Mutex<HashMap<TaskId, Attempt>>,
    /// How many there are: a result of a fleet that makes no artifacts does not take the lock.
    any: AtomicUsize,
    /// What the inputs of unfinished tasks refer to.
    pins: Mutex<HashMap<TaskId, Vec<ContentHash>>>,
    /// Among them `retention.artifacts`.
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Attempt {
    epoch: Epoch,
    stored: Vec<Artifact>,
    under_way: usize,
    under_way_bytes: u64,
}

impl Artifacts {
    /// Opens the folder `dir/artifacts` and starts the thread; what unfinished tasks among `records`
    /// have made or refer to is known when this returns. Nothing is written before there is something
    /// to keep.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        dir: &Path,
        limits: Arc<Limits>,
        records: &[Record],
        archive: Arc<dyn Archive>,
        logs: Arc<TaskLogs>,
    ) -> io::Result<Self> {
        let root = dir.join("artifacts").join(Tenant::default_tenant().as_str());
        let shared = Arc::new(Shared {
            files: Files::new(root),
            attempts: Mutex::default(),
            any: AtomicUsize::new(0),
            pins: Mutex::default(),
            limits,
        });
        if let Err(error) = shared.files.clean() {
            warn!(%error, "what an earlier server left half written cannot be removed");
        }
        let unfinished = records.iter().filter_map(|record| match record {
            Record::Task(task) | Record::HandOver(task) if !task.state.is_final() => Some(&**task),
            Record::Task(_)
            | Record::HandOver(_)
            | Record::Roster(_)
            | Record::Overlay(..)
            | Record::Pool(..)
            | Record::Session(..) => None,
        });
        let ended = shared.recover(unfinished);
        let (jobs, incoming) = mpsc::channel();
        for task in ended {
            drop(jobs.send(Job::Settle(task)));
        }
        let room = Room::new(Arc::clone(&shared), archive, logs);
        let thread =
            std::thread::Builder::new().name("artifacts".into()).spawn(move || room.run(&incoming))?;
        let (next, givers) = (AtomicU64::new(0), Semaphore::new(MAX_GIVERS));
        Ok(Self { shared, jobs, next, givers, thread: Mutex::new(Some(thread)) })
    }

    /// Begins to take in a file of an attempt whose door is open.
    pub(super) fn upload(&self, to: UploadTo, artifact: Artifact) -> Result<Box<dyn Upload>, TaskError> {
        check(&artifact.name, &artifact.media_type)?;
        self.shared.reserve(&to, artifact.size)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let upload = Handle { id, left: artifact.size, jobs: self.jobs.clone() };
        self.send(Job::Open { id, to, artifact });
        Ok(Box::new(upload))
    }

    /// Takes in a file that is here, whole.
    pub(super) fn keep(
        &self,
        to: UploadTo,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), TaskError> {
        check(name, media_type)?;
        self.shared.reserve(&to, bytes.len() as u64)?;
        self.send(Job::Keep { to, name: name.into(), media_type: media_type.into(), bytes });
        Ok(())
    }

    /// The stored files of an attempt.
    pub(super) fn of(&self, task: TaskId, epoch: Epoch) -> Vec<Artifact> {
        if self.shared.any.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let attempts = self.shared.attempts();
        attempts
            .get(&task)
            .filter(|attempt| attempt.epoch == epoch)
            .map_or_else(Vec::new, |attempt| attempt.stored.clone())
    }

    /// A task is on its way in: what its input refers to stays until [`Artifacts::unpin`].
    pub fn pin(&self, task: TaskId, hashes: &[ContentHash]) {
        self.shared.pins().insert(task, hashes.to_vec());
    }

    /// The task was not taken, or has ended.
    pub fn unpin(&self, task: TaskId) {
        self.shared.pins().remove(&task);
    }

    /// A task has ended, and this is its record: what else its attempts made goes away.
    pub fn finish(&self, task: TaskId, record: &TaskRecord) {
        if !record.spec.artifacts.is_empty() {
            self.unpin(task);
        }
        if self.shared.any.load(Ordering::Acquire) > 0 && self.shared.forget(task) {
            self.send(Job::Finished { task, artifacts: record.artifacts.clone() });
        }
    }

    /// Makes room, in small steps and only if the last time was long ago. Call it now and then.
    pub fn sweep(&self) {
        self.send(Job::Sweep(None));
    }

    /// Makes room, and begins at once, as if it were this late.
    pub fn sweep_as_of(&self, time: SystemTime) {
        self.send(Job::Sweep(Some(time)));
    }

    /// A content and its size; `None` when it is not there. Looks at the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(&self, hash: &ContentHash) -> io::Result<Option<(File, u64)>> {
        self.shared.files.open(hash)
    }

    /// The first of these that is not there; the others stay for the time that it takes to submit a
    /// task. Looks at the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn missing(&self, hashes: &[ContentHash]) -> io::Result<Option<ContentHash>> {
        for hash in hashes {
            if !self.shared.files.is_used(hash)? {
                return Ok(Some(*hash));
            }
        }
        Ok(None)
    }

    /// A place among the callers that upload. Cancel-safe.
    pub async fn giver(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.givers.acquire().await.ok()
    }

    /// Begins to take in a file of a caller. Looks at the disk.
    ///
    /// # Errors
    /// When the disk fails or is nearly full.
    pub fn receive(&self) -> io::Result<Gift> {
        let writing = self.shared.files.begin()?;
        if self.shared.files.room().is_some_and(|room| room < RESERVE) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Gift { shared: Arc::clone(&self.shared), writing })
    }

    /// Ends the thread, once it has written what it has.
    pub async fn close(&self) {
        self.send(Job::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if !matches!(tokio::task::spawn_blocking(|| thread.join()).await, Ok(Ok(()))) {
            error!("the thread that writes artifacts has failed");
        }
    }

    fn send(&self, job: Job) {
        // A thread that is gone was closed: the server ends.
        drop(self.jobs.send(job));
    }
}

/// A file that a caller uploads. Dropping it gives it up.
#[derive(Debug)]
pub struct Gift {
    shared: Arc<Shared>,
    writing: Writing,
}

impl Gift {
    /// Appends. Looks at the disk.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writing.write(bytes)
    }

    /// Keeps it; durable when this returns its hash and size. Looks at the disk.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn keep(self) -> io::Result<(ContentHash, u64)> {
        let (hash, size) = (self.writing.hash(), self.writing.written());
        self.shared.files.put(self.writing, &hash)?;
        self.shared.files.give(&hash)?;
        Ok((hash, size))
    }
}

impl Shared {
    /// What unfinished tasks have made and refer to. Returns the tasks of notes that were left open
    /// although they have ended.
    fn recover<'a>(&self, unfinished: impl Iterator<Item = &'a TaskRecord>) -> Vec<TaskId> {
        let mut ended: std::collections::HashSet<TaskId> = match self.files.open_notes() {
            Ok(notes) => notes.into_iter().collect(),
            Err(error) => {
                error!(%error, "what unfinished tasks have made cannot be listed");
                return Vec::new();
            }
        };
        for task in unfinished {
            if !task.spec.artifacts.is_empty() {
                self.pins().insert(task.id, task.spec.artifacts.clone());
            }
            if ended.remove(&task.id) {
                match self.files.newest_of(task.id) {
                    Ok(Some((epoch, stored))) => {
                        let attempt = Attempt { epoch, stored, under_way: 0, under_way_bytes: 0 };
                        self.attempts().insert(task.id, attempt);
                    }
                    Ok(None) => {}
                    Err(error) => warn!(task = %task.id, %error, "what a task has made cannot be read"),
                }
            }
        }
        self.any.store(self.attempts().len(), Ordering::Release);
        ended.into_iter().collect()
    }

    /// Room for one more file of this attempt.
    fn reserve(&self, to: &UploadTo, size: u64) -> Result<(), TaskError> {
        if size > MAX_BYTES {
            let message = format!("an artifact has {MAX_BYTES} bytes at most, this one has {size}");
            return Err(refused("artifact_too_large", message, Fault::Caller));
        }
        let mut attempts = self.attempts();
        let fresh = || Attempt { epoch: to.epoch, stored: Vec::new(), under_way: 0, under_way_bytes: 0 };
        let attempt = attempts.entry(to.task).or_insert_with(fresh);
        if attempt.epoch < to.epoch {
            // The one before it is fenced: whatever it made will not be shown.
            *attempt = fresh();
        }
        if attempt.epoch > to.epoch {
            return Err(refused("artifact_not_open", "a newer attempt has begun".into(), Fault::Worker));
        }
        let bytes =
            attempt.stored.iter().map(|artifact| artifact.size).sum::<u64>() + attempt.under_way_bytes;
        if attempt.stored.len() + attempt.under_way >= MAX_NUMBER {
            let message = format!("an attempt makes {MAX_NUMBER} artifacts at most");
            return Err(refused("too_many_artifacts", message, Fault::Caller));
        }
        if bytes + size > MAX_ATTEMPT_BYTES {
            let message = format!("the artifacts of an attempt have {MAX_ATTEMPT_BYTES} bytes at most");
            return Err(refused("too_many_artifacts", message, Fault::Caller));
        }
        attempt.under_way += 1;
        attempt.under_way_bytes += size;
        self.any.store(attempts.len(), Ordering::Release);
        Ok(())
    }

    /// A file that was reserved for is stored, or is not.
    fn settle(&self, task: TaskId, epoch: Epoch, size: u64, stored: Option<Artifact>) {
        let mut attempts = self.attempts();
        let Some(attempt) = attempts.get_mut(&task).filter(|attempt| attempt.epoch == epoch) else { return };
        attempt.under_way -= 1;
        attempt.under_way_bytes -= size;
        if let Some(artifact) = stored {
            attempt.stored.retain(|other| other.name != artifact.name);
            attempt.stored.push(artifact);
        }
    }

    /// True when it was known.
    fn forget(&self, task: TaskId) -> bool {
        let mut attempts = self.attempts();
        let known = attempts.remove(&task).is_some();
        self.any.store(attempts.len(), Ordering::Release);
        known
    }

    /// Whether this attempt still counts.
    fn is_current(&self, task: TaskId, epoch: Epoch) -> bool {
        self.attempts().get(&task).is_some_and(|attempt| attempt.epoch == epoch)
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<TaskId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<TaskId, Vec<ContentHash>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's hold on an upload.
#[derive(Debug)]
struct Handle {
    id: u64,
    left: u64,
    jobs: mpsc::Sender<Job>,
}

impl Upload for Handle {
    fn write(&mut self, bytes: Bytes) {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        drop(self.jobs.send(Job::Bytes { id: self.id, bytes }));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.left > 0 {
            drop(self.jobs.send(Job::GiveUp(self.id)));
        }
    }
}

/// What is said of a file must fit into a record and into a header.
fn check(name: &str, media_type: &str) -> Result<(), TaskError> {
    let plain =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
    let token = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if !plain(name, MAX_NAME) {
        let message = format!("an artifact's name has 1 to {MAX_NAME} bytes and no control characters");
        return Err(refused("artifact_bad_name", message, Fault::Worker));
    }
    if !plain(media_type, MAX_MEDIA_TYPE) || !media_type.bytes().all(token) || !media_type.contains('/') {
        let message = "an artifact's media type is one such as text/plain".to_owned();
        return Err(refused("artifact_bad_type", message, Fault::Worker));
    }
    Ok(())
}

fn refused(code: &str, message: String, fault: Fault) -> TaskError {
    TaskError { retryable: fault == Fault::Rollcall, ..TaskError::new(code, message, fault) }
}

#[cfg(test)]
mod tests;
