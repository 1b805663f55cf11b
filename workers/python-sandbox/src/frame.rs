//! The messages between the worker and the runner inside a sandbox. The task's code can write to the
//! same pipe, so nothing that comes is trusted: size, number and shape are checked, and what does not
//! fit is the task's own failure.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::outcome::ErrorReport;

/// The largest JSON body; the runner shortens what it sends far below this.
const MAX_JSON: usize = 256 * 1024;

/// The largest file.
pub(crate) const MAX_FILE: usize = 10 << 20;

/// Files of one call. Two of the largest may be held for each call at once.
pub(crate) const MAX_FILES: usize = 16;
const MAX_FILES_BYTES: usize = 2 * MAX_FILE;

/// A letter for the kind and the length of the body, big-endian.
const PREFIX: usize = 5;

/// What the runner tells.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Frame {
    /// It waits for its first request.
    Ready(bool),
    /// The bytes that follow are this file.
    File(FileHead),
    /// What was asked is done.
    Done(Box<Done>),
}

/// What is said of a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileHead {
    name: String,
    media_type: String,
}

/// A file that a call made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFile {
    /// What it is called.
    pub name: String,
    /// What it is, such as `image/png`.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// How a call ended, in the runner's words.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Done {
    /// Which call it answers: one that is not running was answered by somebody else before.
    pub(crate) call: u64,
    /// The code asked for this exit code, or the program ended with it.
    pub(crate) exit: Option<u8>,
    /// This signal ended the program.
    pub(crate) signal: Option<u8>,
    /// The code raised an exception, or what was asked cannot be done.
    pub(crate) error: Option<Raised>,
    /// What values look like.
    #[serde(default)]
    pub(crate) results: Vec<Value>,
    /// The answer of anything but code and programs.
    pub(crate) output: Option<Value>,
}

/// An exception.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raised {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    traceback: Option<String>,
    errno: Option<i32>,
}

impl Raised {
    /// Whether a write failed because a file system is full.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self.errno, Some(libc::ENOSPC | libc::EDQUOT))
    }
}

impl From<Raised> for ErrorReport {
    fn from(raised: Raised) -> Self {
        Self { kind: raised.kind, message: raised.message, traceback: raised.traceback }
    }
}

/// The pipe held something else than good frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// A request as the runner reads it: what is asked, the number that its answer will bear, and whether
/// there will be no other.
pub(crate) fn request(call: u64, once: bool, asked: &Value) -> Vec<u8> {
    let body = json!({ "call": call, "once": once, "asked": asked }).to_string().into_bytes();
    // One that is longer than u32 tells would have been refused as a message long before.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [b"J", &length[..], &body].concat()
}

/// Gathers the pipe's bytes: never more than one frame of the largest size, and the files of one call.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    announced: Option<FileHead>,
    files: Vec<MadeFile>,
}

impl FrameReader {
    /// Takes the next bytes; tells of the frame that they complete, files apart.
    ///
    /// # Errors
    /// When they are no frames; the reader is of no use afterwards.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Frame>, Forged> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let Some((head, rest)) = self.bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
            let [kind, length @ ..] = *head;
            let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Forged)?;
            let most = match kind {
                b'J' => MAX_JSON,
                b'B' => MAX_FILE,
                _ => return Err(Forged),
            };
            if length > most {
                return Err(Forged);
            }
            let Some(body) = rest.get(..length) else { return Ok(None) };
            if kind == b'B' {
                let file = body.to_vec();
                self.bytes.drain(..PREFIX + length);
                self.keep(file)?;
                continue;
            }
            let frame: Frame = serde_json::from_slice(body).map_err(|_| Forged)?;
            self.bytes.drain(..PREFIX + length);
            match frame {
                Frame::File(head) if self.announced.is_none() => self.announced = Some(head),
                Frame::File(_) => return Err(Forged),
                // The call is over: whatever else is there was written by somebody else.
                Frame::Done(_) if !self.bytes.is_empty() => return Err(Forged),
                frame @ (Frame::Ready(_) | Frame::Done(_)) => return Ok(Some(frame)),
            }
        }
    }

    /// The files of the call that ended.
    pub(crate) fn take_files(&mut self) -> Vec<MadeFile> {
        std::mem::take(&mut self.files)
    }

    fn keep(&mut self, bytes: Vec<u8>) -> Result<(), Forged> {
        let FileHead { name, media_type } = self.announced.take().ok_or(Forged)?;
        let held: usize = self.files.iter().map(|file| file.bytes.len()).sum();
        if self.files.len() == MAX_FILES || held + bytes.len() > MAX_FILES_BYTES {
            return Err(Forged);
        }
        self.files.push(MadeFile { name, media_type, bytes });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Option<Frame>, Forged> {
        let mut reader = FrameReader::default();
        pieces.iter().try_fold(None, |seen, piece| Ok(seen.or(reader.push(piece)?)))
    }

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("a short body").to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn json(body: &str) -> Vec<u8> {
        frame(b'J', body.as_bytes())
    }

    fn done(exit: u8) -> Frame {
        Frame::Done(Box::new(Done { exit: Some(exit), ..Done::default() }))
    }

    #[test]
    fn a_frame_is_known_once_it_is_whole() {
        assert_eq!(read(&[]), Ok(None));
        let whole = json(r#"{"done":{"call":0,"exit":3}}"#);
        assert_eq!(read(&[&whole[..3]]), Ok(None));
        assert_eq!(read(&[&whole[..3], &whole[3..]]), Ok(Some(done(3))));
        assert_eq!(read(&[&json(r#"{"ready":true}"#)]), Ok(Some(Frame::Ready(true))));
    }

    #[test]
    fn a_file_is_announced_and_kept_for_the_end_of_the_call() {
        let mut reader = FrameReader::default();
        let head = json(r#"{"file":{"name":"a.png","media_type":"image/png"}}"#);
        let all = [head, frame(b'B', b"bytes"), json(r#"{"done":{"call":1}}"#)].concat();
        for byte in &all[..all.len() - 1] {
            assert_eq!(reader.push(&[*byte]), Ok(None));
        }
        assert!(matches!(reader.push(&all[all.len() - 1..]), Ok(Some(Frame::Done(_)))));
        let file =
            MadeFile { name: "a.png".into(), media_type: "image/png".into(), bytes: b"bytes".to_vec() };
        assert_eq!(reader.take_files(), [file]);
        assert_eq!(reader.take_files(), []);
    }

    #[test]
    fn everything_else_is_forged() {
        let good = json(r#"{"done":{"call":0,"exit":3}}"#);
        assert_eq!(read(&[&[&good[..], &good].concat()]), Err(Forged), "two frames");
        assert_eq!(read(&[b"J\xFF\xFF\xFF\xFF"]), Err(Forged), "a length that never comes");
        assert_eq!(read(&[&json("[]")]), Err(Forged), "another shape");
        assert_eq!(
            read(&[&json(r#"{"done":{"call":0,"exit":3,"more":1}}"#)]),
            Err(Forged),
            "an unknown field"
        );
        assert_eq!(read(&[b"x\0\0\0\0"]), Err(Forged), "another kind");
        assert_eq!(read(&[&frame(b'B', b"x")]), Err(Forged), "a file that nobody announced");
    }

    #[test]
    fn a_flood_is_not_kept() {
        let head = json(r#"{"file":{"name":"a","media_type":"b"}}"#);
        let file = [head, frame(b'B', &vec![0; MAX_FILE])].concat();
        let mut reader = FrameReader::default();
        assert_eq!(reader.push(&file), Ok(None));
        assert_eq!(reader.push(&file), Ok(None));
        assert_eq!(reader.push(&file), Err(Forged));
    }
}
