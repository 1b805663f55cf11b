//! The files that come by a connection: what was announced, how much more may be sent, and the results
//! that wait until their files are on disk. A connection that carries none has nothing of this.

use std::collections::HashMap;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use rollcall_protocol::{self as wire, FromServer, INLINE_BYTES, read_chunk};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::ending::End;
use super::{Link, translate};
use crate::fleet::{
    Artifact, AttemptOutcome, Epoch, Fault, Payload, Report, ResultReport, TaskError, TaskId,
};
use crate::interface::{Upload, UploadNews, UploadTo};

/// Files that a connection may have announced and not settled.
const MAX_UPLOADS: usize = 64;
/// The numbers from here on are the server's own: for outputs that it makes files of.
const OWN: u64 = 1 << 32;
/// What such a file is called.
const OUTPUT_NAME: &str = "output.json";
const OUTPUT_TYPE: &str = "application/json";

/// See the module.
pub(super) struct Uploads {
    tell: mpsc::UnboundedSender<UploadNews>,
    news: mpsc::UnboundedReceiver<UploadNews>,
    by_number: HashMap<u64, Coming>,
    /// Results that wait for files of theirs. Bounded by the worker's slots.
    held: Vec<ResultReport>,
    next_own: u64,
}

/// One file.
struct Coming {
    task: TaskId,
    epoch: Epoch,
    name: std::sync::Arc<str>,
    state: State,
}

enum State {
    /// Bytes are missing; so many may come.
    Open { upload: Box<dyn Upload>, credit: u64, missing: u64 },
    /// All of it is here; the disk has the word.
    Whole,
    /// It is not kept. A worker that has not given it up by its result does not succeed.
    Refused(TaskError),
}

impl Uploads {
    fn new() -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        Self { tell, news, by_number: HashMap::new(), held: Vec::new(), next_own: OWN }
    }

    /// What has become of a file. Never ends: the sender is here too.
    pub(super) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<UploadNews> {
        match self.news.poll_recv(cx) {
            Poll::Ready(Some(news)) => Poll::Ready(news),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn of(&self, task: TaskId, epoch: Epoch) -> impl Iterator<Item = &Coming> {
        self.by_number.values().filter(move |coming| (coming.task, coming.epoch) == (task, epoch))
    }

    /// Whether files of this attempt are on their way to the disk.
    fn awaits(&self, task: TaskId, epoch: Epoch) -> bool {
        self.of(task, epoch).any(|coming| matches!(coming.state, State::Whole))
    }

    /// A result has come: what is not whole by now will not be.
    fn cut_off(&mut self, task: TaskId, epoch: Epoch) {
        for coming in self.by_number.values_mut() {
            if (coming.task, coming.epoch) == (task, epoch) && matches!(coming.state, State::Open { .. }) {
                let message = format!("the result came before all of artifact {:?}", coming.name);
                coming.state = State::Refused(refused("artifact_incomplete", message));
            }
        }
    }

    /// Nothing is awaited any more: forgets the attempt's files and says why one is not kept.
    fn close(&mut self, task: TaskId, epoch: Epoch) -> Option<TaskError> {
        let mut errors = self.by_number.extract_if(|_, coming| (coming.task, coming.epoch) == (task, epoch));
        let mut first = None;
        for (_, coming) in &mut errors {
            if let State::Refused(error) = coming.state {
                first.get_or_insert(error);
            }
        }
        first
    }

    fn to(&self, conn: crate::fleet::ConnId, task: TaskId, epoch: Epoch, number: u64) -> UploadTo {
        UploadTo { conn, task, epoch, number, tell: self.tell.clone() }
    }
}

impl<S> Link<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// A file follows.
    pub(super) fn announced(&mut self, frame: wire::Artifact) -> Result<(), End> {
        let number = frame.number;
        let (task, epoch, artifact) = match translate::artifact(frame) {
            Ok(told) => told,
            Err(problem) => return self.refuse(number, &refused("artifact_bad_frame", problem)),
        };
        let conn = self.io.conn;
        let uploads = self.uploads.get_or_insert_with(|| Box::new(Uploads::new()));
        if uploads.by_number.contains_key(&number.into()) {
            self.io.meter.protocol_error("unexpected");
            self.nuisance()?;
            return self.complain("number_in_use", &format!("artifact {number} is not settled yet"));
        }
        if uploads.by_number.len() >= MAX_UPLOADS {
            let message = format!("a connection carries {MAX_UPLOADS} artifacts at once");
            return self.refuse(number, &refused("too_many_artifacts", message));
        }
        let (name, missing) = (artifact.name.clone(), artifact.size);
        let taken = self.io.door.upload(uploads.to(conn, task, epoch, number.into()), artifact);
        let (state, told) = match taken {
            Ok(_) if missing == 0 => (State::Whole, None),
            Ok(upload) => (State::Open { upload, credit: 0, missing }, None),
            Err(error) => (State::Refused(error.clone()), Some(error)),
        };
        uploads.by_number.insert(number.into(), Coming { task, epoch, name, state });
        told.map_or(Ok(()), |error| self.refuse(number, &error))
    }

    /// Bytes of a file. One without any gives it up.
    pub(super) fn chunk(&mut self, mut frame: Bytes) -> Result<(), End> {
        self.io.meter.message("in", "binary", frame.len());
        let found = read_chunk(&frame).and_then(|(number, begin)| {
            let coming = self.uploads.as_mut()?.by_number.get_mut(&number.into())?;
            Some((number, begin, coming))
        });
        let Some((number, begin, coming)) = found else {
            self.io.meter.protocol_error("unexpected");
            return self.nuisance();
        };
        frame.advance(begin);
        let bytes = frame.len() as u64;
        if bytes == 0 {
            // One that is whole has the disk's word on its way; any other is forgotten.
            if !matches!(coming.state, State::Whole)
                && let Some(uploads) = &mut self.uploads
            {
                uploads.by_number.remove(&number.into());
            }
            return Ok(());
        }
        match &mut coming.state {
            State::Open { credit, .. } if bytes > *credit => {
                let message = format!("{bytes} bytes came with credit for {credit}");
                let error = refused("artifact_beyond_credit", message);
                coming.state = State::Refused(error.clone());
                self.io.meter.protocol_error("unexpected");
                self.refuse(number, &error)
            }
            State::Open { upload, credit, missing } => {
                *credit -= bytes;
                *missing = missing.saturating_sub(bytes);
                upload.write(frame);
                if *missing == 0 {
                    coming.state = State::Whole;
                }
                Ok(())
            }
            // What was on its way when it was refused.
            State::Refused(_) => Ok(()),
            State::Whole => {
                self.io.meter.protocol_error("unexpected");
                self.nuisance()
            }
        }
    }

    /// An attempt has ended, by the worker's word. Its result goes on once its files are settled, and
    /// an output that is too long for a record is one of them.
    pub(super) fn result(&mut self, mut result: Box<ResultReport>) -> Result<(), End> {
        let (conn, task, epoch) = (self.io.conn, result.task, result.epoch);
        let long = result.output.as_ref().filter(|output| output.as_str().len() > INLINE_BYTES);
        if let Some(output) = long {
            let bytes = Bytes::copy_from_slice(output.as_str().as_bytes());
            let uploads = self.uploads.get_or_insert_with(|| Box::new(Uploads::new()));
            let number = uploads.next_own;
            uploads.next_own += 1;
            match self.io.door.keep(uploads.to(conn, task, epoch, number), OUTPUT_NAME, OUTPUT_TYPE, bytes) {
                Ok(()) => {
                    let name = OUTPUT_NAME.into();
                    uploads.by_number.insert(number, Coming { task, epoch, name, state: State::Whole });
                }
                // It fits into a message, so it fits into a record: better long than lost.
                Err(error) => debug!(%task, code = %error.code, "a long output stays in its record"),
            }
        }
        let Some(uploads) = &mut self.uploads else { return self.report(Report::Result(result)) };
        uploads.cut_off(task, epoch);
        if uploads.awaits(task, epoch) {
            uploads.held.retain(|held| (held.task, held.epoch) != (task, epoch));
            uploads.held.push(*result);
            return Ok(());
        }
        settle(&mut result, uploads.close(task, epoch));
        self.report(Report::Result(result))
    }

    /// What has become of a file: the worker is told, and a result that waited for it goes on.
    pub(super) fn uploaded(&mut self, news: UploadNews) -> Result<(), End> {
        let Some(uploads) = &mut self.uploads else { return Ok(()) };
        let (UploadNews::Credit { number, .. }
        | UploadNews::Stored { number, .. }
        | UploadNews::Refused { number, .. }) = news;
        // It was given up meanwhile.
        let Some(coming) = uploads.by_number.get_mut(&number) else { return Ok(()) };
        let (task, epoch) = (coming.task, coming.epoch);
        match (news, u32::try_from(number)) {
            (UploadNews::Credit { bytes, .. }, Ok(number)) => {
                let State::Open { credit, .. } = &mut coming.state else { return Ok(()) };
                *credit += bytes;
                return self.credit(wire::Credit { number, bytes, ..wire::Credit::default() });
            }
            (UploadNews::Stored { .. }, Ok(of_worker)) => {
                uploads.by_number.remove(&number);
                self.credit(wire::Credit { number: of_worker, stored: true, ..wire::Credit::default() })?;
            }
            (UploadNews::Stored { artifact, .. }, Err(_)) => {
                uploads.by_number.remove(&number);
                let its = |held: &&mut ResultReport| (held.task, held.epoch) == (task, epoch);
                if let Some(held) = uploads.held.iter_mut().find(its) {
                    held.output = Some(reference(&artifact));
                }
            }
            (UploadNews::Refused { error, .. }, Ok(number)) => {
                coming.state = State::Refused(error.clone());
                self.refuse(number, &error)?;
            }
            (UploadNews::Refused { error, .. }, Err(_)) => {
                uploads.by_number.remove(&number);
                warn!(%task, code = %error.code, message = %error.message, "a long output stays in its record");
            }
            (UploadNews::Credit { .. }, Err(_)) => return Ok(()),
        }
        self.release(task, epoch)
    }

    /// Lets a result go on, if it is here and awaits nothing more.
    fn release(&mut self, task: TaskId, epoch: Epoch) -> Result<(), End> {
        let Some(uploads) = &mut self.uploads else { return Ok(()) };
        let its = |held: &ResultReport| (held.task, held.epoch) == (task, epoch);
        let Some(at) = uploads.held.iter().position(its) else { return Ok(()) };
        if uploads.awaits(task, epoch) {
            return Ok(());
        }
        let mut result = uploads.held.swap_remove(at);
        settle(&mut result, uploads.close(task, epoch));
        self.report(Report::Result(Box::new(result)))
    }

    fn refuse(&mut self, number: u32, error: &TaskError) -> Result<(), End> {
        self.credit(translate::refusal(number, error))
    }

    fn credit(&mut self, credit: wire::Credit) -> Result<(), End> {
        let frame = FromServer::from(credit);
        match frame.encode() {
            Ok(text) => self.send_text(frame.kind(), text),
            // Numbers and texts always have a JSON form.
            Err(_) => Ok(()),
        }
    }
}

/// A task that succeeded has all its files: one that lacks a file has failed, with the file's error.
fn settle(result: &mut ResultReport, missing: Option<TaskError>) {
    if let Some(error) = missing
        && result.status == AttemptOutcome::Succeeded
    {
        result.status = AttemptOutcome::Failed;
        result.error = Some(error);
    }
}

/// What stands in the place of an output that became a file.
fn reference(artifact: &Artifact) -> Payload {
    let shown = serde_json::json!({
        "$artifact": format!("sha256:{}", artifact.sha256),
        "name": &*artifact.name,
        "media_type": &*artifact.media_type,
        "size": artifact.size,
    });
    Payload::from(shown.to_string())
}

fn refused(code: &str, message: String) -> TaskError {
    TaskError::new(code, message, Fault::Worker)
}
