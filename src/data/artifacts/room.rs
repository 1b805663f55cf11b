//! The thread that writes artifacts. A worker sends only what it has credit for, and gets more as
//! its bytes reach the disk: so a slow disk slows uploads, and results and heartbeats never stand
//! behind megabytes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tracing::{debug, error, warn};

use super::files::Writing;
use super::sweep::Sweep;
use super::{RESERVE, Shared, refused};
use crate::data::TaskLogs;
use crate::fleet::{Artifact, Fault, TaskError, TaskId, Tenant};
use crate::interface::{UploadNews, UploadTo};
use crate::store::Archive;

/// What a worker may have sent that is not written yet, for each upload.
const CREDIT: u64 = 256 << 10;
/// Uploads with credit at once: the memory that they take is this times the credit. Others wait.
const MAX_WRITING: usize = 64;
/// Uploads that wait for credit.
const MAX_WAITING: usize = 1_024;
/// A worker that has credit and sends nothing for so long has forgotten its upload.
const STALLED: Duration = Duration::from_secs(60);
/// How often stalled uploads are looked for.
const TICK: Duration = Duration::from_secs(5);
/// How often room is made.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// The rest between two steps of making room, so that the disk is there for others.
const SWEEP_REST: Duration = Duration::from_millis(20);

/// What there is to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Take in a file.
    Open { id: u64, to: UploadTo, artifact: Artifact },
    /// The next bytes of it.
    Bytes { id: u64, bytes: Bytes },
    /// No more will come.
    GiveUp(u64),
    /// Take in a file that is here.
    Keep { to: UploadTo, name: Arc<str>, media_type: Arc<str>, bytes: Bytes },
    /// A task has ended.
    Finished { task: TaskId, artifacts: Vec<Artifact> },
    /// A task has ended before this server began, perhaps.
    Settle(TaskId),
    /// Make room: as if it were this late, else now and only if the last time was long ago.
    Sweep(Option<SystemTime>),
    /// End.
    Stop,
}

/// See the module.
pub(super) struct Room {
    shared: Arc<Shared>,
    archive: Arc<dyn Archive>,
    logs: Arc<TaskLogs>,
    uploads: HashMap<u64, Taking>,
    waiting: VecDeque<(u64, UploadTo, Artifact)>,
    sweep: Option<Sweep>,
    stepped: Instant,
    swept: Option<Instant>,
    ticked: Instant,
}

/// An upload that has credit.
struct Taking {
    to: UploadTo,
    artifact: Artifact,
    writing: Writing,
    granted: u64,
    heard: Instant,
}

impl Room {
    pub(super) fn new(shared: Arc<Shared>, archive: Arc<dyn Archive>, logs: Arc<TaskLogs>) -> Self {
        Self {
            shared,
            archive,
            logs,
            uploads: HashMap::new(),
            waiting: VecDeque::new(),
            sweep: None,
            stepped: Instant::now(),
            swept: None,
            ticked: Instant::now(),
        }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match self.patience() {
                Some(rest) => jobs.recv_timeout(rest),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(job) => self.act(job),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.stepped.elapsed() >= SWEEP_REST {
                self.step();
                self.stepped = Instant::now();
            }
            if self.ticked.elapsed() >= TICK {
                self.ticked = Instant::now();
                self.give_up_stalled();
            }
        }
    }

    fn patience(&self) -> Option<Duration> {
        if self.sweep.is_some() {
            Some(SWEEP_REST)
        } else if self.uploads.is_empty() {
            None
        } else {
            Some(TICK)
        }
    }

    fn act(&mut self, job: Job) {
        match job {
            Job::Open { id, to, artifact } => self.open(id, to, artifact),
            Job::Bytes { id, bytes } => self.bytes(id, &bytes),
            Job::GiveUp(id) => self.give_up(id),
            Job::Keep { to, name, media_type, bytes } => self.keep(to, name, media_type, &bytes),
            Job::Finished { task, artifacts } => self.settle(task, &artifacts),
            Job::Settle(task) => {
                match self.archive.task(&Tenant::default_tenant(), task) {
                    Ok(Some(ended)) => self.settle(task, &ended.artifacts),
                    Ok(None) => self.settle(task, &[]),
                    // Its note stays open, which keeps what it refers to until the next start.
                    Err(fault) => warn!(%task, %fault, "what a task has made cannot be looked up"),
                }
            }
            Job::Sweep(time) => self.begin_sweep(time),
            Job::Stop => {}
        }
    }

    fn open(&mut self, id: u64, to: UploadTo, artifact: Artifact) {
        if self.uploads.len() < MAX_WRITING {
            self.begin(id, to, artifact);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((id, to, artifact));
        } else {
            let message = "too many artifacts are on their way to this server".to_owned();
            let error = refused("artifact_store_busy", message, Fault::Rollcall);
            self.refuse(&to, artifact.size, error);
        }
    }

    fn begin(&mut self, id: u64, to: UploadTo, artifact: Artifact) {
        let writing = match self.room_for(artifact.size).and_then(|()| self.begin_file()) {
            Ok(writing) => writing,
            Err(error) => return self.refuse(&to, artifact.size, error),
        };
        let granted = artifact.size.min(CREDIT);
        if granted > 0 {
            tell(&to, UploadNews::Credit { number: to.number, bytes: granted });
        }
        self.uploads.insert(id, Taking { to, artifact, writing, granted, heard: Instant::now() });
        if granted == 0 {
            self.finish(id);
        }
    }

    fn bytes(&mut self, id: u64, bytes: &Bytes) {
        // One that was refused meanwhile: the rest of what it had credit for.
        let Some(taking) = self.uploads.get_mut(&id) else { return };
        taking.heard = Instant::now();
        if let Err(error) = taking.writing.write(bytes) {
            return self.fail(id, disk(&error));
        }
        let written = taking.writing.written();
        if written >= taking.artifact.size {
            return self.finish(id);
        }
        let open = taking.granted.saturating_sub(written);
        let more = (taking.artifact.size - taking.granted).min(CREDIT.saturating_sub(open));
        if more > 0 && open <= CREDIT / 2 {
            taking.granted += more;
            tell(&taking.to, UploadNews::Credit { number: taking.to.number, bytes: more });
        }
    }

    /// The last byte is there: the file is kept if it is what was announced.
    fn finish(&mut self, id: u64) {
        let Some(Taking { to, artifact, writing, .. }) = self.uploads.remove(&id) else { return };
        let hash = writing.hash();
        if hash != artifact.sha256 || writing.written() != artifact.size {
            let message = format!(
                "artifact {:?} was announced with {} bytes of SHA-256 {}; what came has {} bytes of {hash}",
                artifact.name,
                artifact.size,
                artifact.sha256,
                writing.written()
            );
            // Before it is told: what is refused has left nothing.
            drop(writing);
            self.refuse(&to, artifact.size, refused("artifact_corrupt", message, Fault::Worker));
        } else {
            self.put(&to, artifact, writing);
        }
        self.next_waiting();
    }

    fn keep(&mut self, to: UploadTo, name: Arc<str>, media_type: Arc<str>, bytes: &Bytes) {
        let size = bytes.len() as u64;
        let written = self.room_for(size).and_then(|()| self.begin_file()).and_then(|mut writing| {
            writing.write(bytes).map_err(|error| disk(&error))?;
            Ok(writing)
        });
        match written {
            Ok(writing) => {
                let artifact = Artifact { name, media_type, size, sha256: writing.hash() };
                self.put(&to, artifact, writing);
            }
            Err(error) => self.refuse(&to, size, error),
        }
    }

    /// Keeps a whole file, and says so: to the task's watchers before the worker, whose result
    /// may follow at once.
    fn put(&self, to: &UploadTo, artifact: Artifact, writing: Writing) {
        let (files, size) = (&self.shared.files, artifact.size);
        if !self.shared.is_current(to.task, to.epoch) {
            let message = "the attempt has ended".to_owned();
            return self.refuse(to, size, refused("artifact_not_open", message, Fault::Worker));
        }
        let kept =
            files.put(writing, &artifact.sha256).and_then(|()| files.note(to.task, to.epoch, &artifact));
        if let Err(error) = kept {
            return self.refuse(to, size, disk(&error));
        }
        self.shared.settle(to.task, to.epoch, size, Some(artifact.clone()));
        self.logs.artifact(to.conn, to.task, to.epoch, &artifact);
        tell(to, UploadNews::Stored { number: to.number, artifact });
    }

    fn fail(&mut self, id: u64, error: TaskError) {
        if let Some(Taking { to, artifact, writing, .. }) = self.uploads.remove(&id) {
            drop(writing);
            self.refuse(&to, artifact.size, error);
        }
        self.next_waiting();
    }

    fn refuse(&self, to: &UploadTo, size: u64, error: TaskError) {
        debug!(task = %to.task, code = %error.code, message = %error.message, "an artifact is not kept");
        self.shared.settle(to.task, to.epoch, size, None);
        tell(to, UploadNews::Refused { number: to.number, error });
    }

    fn give_up(&mut self, id: u64) {
        if let Some(taking) = self.uploads.remove(&id) {
            self.shared.settle(taking.to.task, taking.to.epoch, taking.artifact.size, None);
            self.next_waiting();
        } else if let Some(at) = self.waiting.iter().position(|(other, ..)| *other == id)
            && let Some((_, to, artifact)) = self.waiting.remove(at)
        {
            self.shared.settle(to.task, to.epoch, artifact.size, None);
        }
    }

    fn next_waiting(&mut self) {
        while self.uploads.len() < MAX_WRITING
            && let Some((id, to, artifact)) = self.waiting.pop_front()
        {
            self.begin(id, to, artifact);
        }
    }

    fn give_up_stalled(&mut self) {
        let stalled = |taking: &Taking| taking.heard.elapsed() >= STALLED;
        let ids: Vec<u64> =
            self.uploads.iter().filter(|(_, taking)| stalled(taking)).map(|(id, _)| *id).collect();
        for id in ids {
            let message = format!("no bytes came for {} s", STALLED.as_secs());
            self.fail(id, refused("artifact_stalled", message, Fault::Worker));
        }
    }

    fn room_for(&self, size: u64) -> Result<(), TaskError> {
        match self.shared.files.room() {
            Some(room) if room < size.saturating_add(RESERVE) => {
                let message = format!(
                    "the disk under server.data_dir has {room} bytes left; {size} and a reserve do not fit"
                );
                Err(refused("artifact_store_full", message, Fault::Rollcall))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn begin_file(&self) -> Result<Writing, TaskError> {
        self.shared.files.begin().map_err(|error| disk(&error))
    }

    fn settle(&self, task: TaskId, artifacts: &[Artifact]) {
        if let Err(error) = self.shared.files.settle(task, artifacts) {
            // Its note stays open, which keeps what it refers to until the next start.
            error!(%task, %error, "what a finished task has made cannot be noted");
        }
    }

    fn begin_sweep(&mut self, time: Option<SystemTime>) {
        let due = self.sweep.is_none() && self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY);
        if due || time.is_some() {
            self.swept = Some(Instant::now());
            let keep_for = self.shared.limits.get().artifacts;
            self.sweep = Some(Sweep::new(time.unwrap_or_else(SystemTime::now), keep_for));
        }
    }

    /// One step of what can wait.
    fn step(&mut self) {
        let Some(sweep) = &mut self.sweep else { return };
        match sweep.step(&self.shared, self.archive.as_ref()) {
            Ok(false) => {}
            Ok(true) => self.sweep = None,
            Err(error) => {
                // Nothing is removed by a sweep that has not seen every note.
                warn!(%error, "old artifacts cannot be removed; it is tried again later");
                self.sweep = None;
            }
        }
    }
}

fn tell(to: &UploadTo, news: UploadNews) {
    // The connection may be gone; what was stored counts nevertheless.
    drop(to.tell.send(news));
}

/// The disk's own words, as the error of this artifact.
fn disk(error: &io::Error) -> TaskError {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "artifact_store_full",
        _ => "artifact_store_failed",
    };
    refused(code, format!("the artifact cannot be written: {error}"), Fault::Rollcall)
}
