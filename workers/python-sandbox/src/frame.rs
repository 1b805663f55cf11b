//! The one message that the runner may send from inside the sandbox. The task's code can write to
//! the same pipe, so nothing in it is trusted: size, number and shape are checked, and what does not
//! fit is the task's own failure.

use serde::Deserialize;

use crate::outcome::ErrorReport;

/// The largest body; the runner shortens what it sends far below this.
const MAX_BODY: usize = 256 * 1024;

/// The length before the body, big-endian.
const PREFIX: usize = 4;

/// What the runner told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Frame {
    /// `repr` of the last expression.
    Value(String),
    /// The code asked for this exit code.
    Exit(u8),
    /// The code raised an exception.
    Error(Raised),
}

/// An exception.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raised {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    traceback: String,
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
        Self { kind: raised.kind, message: raised.message, traceback: Some(raised.traceback) }
    }
}

/// The pipe held something else than one good frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// Gathers the pipe's bytes, and never more than one frame of the largest size.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    overflown: bool,
}

impl FrameReader {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.overflown |= self.bytes.len() + bytes.len() > PREFIX + MAX_BODY;
        if !self.overflown {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The pipe has ended: the frame, if there was one.
    pub(crate) fn finish(self) -> Result<Option<Frame>, Forged> {
        if self.overflown {
            return Err(Forged);
        }
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let (length, body) = self.bytes.split_first_chunk::<PREFIX>().ok_or(Forged)?;
        if usize::try_from(u32::from_be_bytes(*length)) != Ok(body.len()) {
            return Err(Forged);
        }
        serde_json::from_slice(body).map(Some).map_err(|_| Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Option<Frame>, Forged> {
        let mut reader = FrameReader::default();
        for piece in pieces {
            reader.push(piece);
        }
        reader.finish()
    }

    fn frame(body: &str) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("a short body");
        [&length.to_be_bytes(), body.as_bytes()].concat()
    }

    #[test]
    fn no_frame_and_one_frame_are_good() {
        assert_eq!(read(&[]), Ok(None));
        let whole = frame(r#"{"value":"42"}"#);
        assert_eq!(read(&[&whole[..3], &whole[3..]]), Ok(Some(Frame::Value("42".into()))));
    }

    #[test]
    fn everything_else_is_forged() {
        let good = frame(r#"{"exit":3}"#);
        assert_eq!(read(&[&good, &good]), Err(Forged), "two frames");
        assert_eq!(read(&[&good[..7]]), Err(Forged), "half a frame");
        assert_eq!(read(&[b"\xFF\xFF\xFF\xFF"]), Err(Forged), "a length that never comes");
        assert_eq!(read(&[&frame("[]")]), Err(Forged), "another shape");
        assert_eq!(read(&[&frame(r#"{"exit":3,"value":"1"}"#)]), Err(Forged), "two in one");
        assert_eq!(read(&[&vec![b' '; MAX_BODY + PREFIX + 1]]), Err(Forged), "too large");
    }

    #[test]
    fn a_flood_is_not_kept() {
        let mut reader = FrameReader::default();
        for _ in 0..1000 {
            reader.push(&[0; 65536]);
        }
        assert!(reader.bytes.capacity() <= 2 * (MAX_BODY + PREFIX));
    }
}
