//! Our ends of a sandbox's pipes, and the reading and writing of all of them at once.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rollcall_worker_sdk::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::capture::{Capture, Captured};
use crate::frame::{Forged, Frame, FrameReader};
use crate::limits::OUTPUT_KILL_FACTOR;

/// Hands live output on; must not wait.
pub type Output = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// What one read may take.
const BUFFER: usize = 64 * 1024;

/// The most that is kept of bwrap's status lines.
const STATUS_LIMIT: usize = 8 * 1024;

/// How long pipes may stay open after every process is gone: an end that somebody holds by mistake
/// must not hold up the result.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Our ends.
pub(crate) struct Pipes {
    stdout: Reader,
    stderr: Reader,
    status: Reader,
    frames: Option<Reader>,
    input: Option<(Writer, Vec<u8>)>,
}

/// All that was read.
pub(crate) struct Read {
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    pub(crate) status: String,
    pub(crate) frame: Result<Option<Frame>, Forged>,
}

/// A pipe's two ends: ours, and the sandbox's.
pub(crate) fn inward() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (theirs, ours) = io::pipe()?;
    Ok((theirs.into(), pipe::Sender::from_owned_fd(ours.into())?))
}

/// As [`inward`], for what the sandbox writes.
pub(crate) fn outward() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(ours.into())?, theirs.into()))
}

impl Pipes {
    /// Takes the child's streams, and bwrap's status lines.
    pub(crate) fn new(child: &mut Child, status: pipe::Receiver) -> io::Result<Self> {
        let missing = || io::Error::other("a stream of the child is missing");
        Ok(Self {
            stdout: Box::new(child.stdout.take().ok_or_else(missing)?),
            stderr: Box::new(child.stderr.take().ok_or_else(missing)?),
            status: Box::new(status),
            frames: None,
            input: None,
        })
    }

    /// Also reads frames.
    pub(crate) fn with_frames(mut self, frames: pipe::Receiver) -> Self {
        self.frames = Some(Box::new(frames));
        self
    }

    /// Also writes what the program reads.
    pub(crate) fn with_input(
        mut self,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        text: String,
    ) -> Self {
        self.input = Some((Box::new(writer), text.into_bytes()));
        self
    }

    /// Reads until every pipe has ended, or for a short while after `ended`. Keeps up to `limit`
    /// bytes of each stream, and hands as many on; cancels `too_much` when one has gone far beyond.
    pub(crate) async fn read(
        self,
        output: Output,
        limit: usize,
        too_much: &CancellationToken,
        ended: &CancellationToken,
    ) -> Read {
        let (mut stdout, mut stderr) = (Capture::new(limit), Capture::new(limit));
        let (mut status, mut frames) = (Vec::new(), FrameReader::default());
        let keep = |stream, capture: &mut Capture, bytes: &[u8]| {
            let shown = usize::try_from(capture.total()).unwrap_or(limit);
            let live = limit.saturating_sub(shown).min(bytes.len());
            if live > 0 {
                output(stream, &bytes[..live]);
            }
            capture.push(bytes);
            if capture.total() > limit as u64 * OUTPUT_KILL_FACTOR {
                too_much.cancel();
            }
        };
        tokio::join!(
            drain(self.stdout, ended, |bytes| keep(Stream::Stdout, &mut stdout, bytes)),
            drain(self.stderr, ended, |bytes| keep(Stream::Stderr, &mut stderr, bytes)),
            drain(self.status, ended, |bytes| {
                let room = STATUS_LIMIT - status.len();
                status.extend_from_slice(&bytes[..room.min(bytes.len())]);
            }),
            async {
                if let Some(reader) = self.frames {
                    drain(reader, ended, |bytes| frames.push(bytes)).await;
                }
            },
            feed(self.input, ended),
        );
        Read {
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            status: String::from_utf8_lossy(&status).into_owned(),
            frame: frames.finish(),
        }
    }
}

async fn drain(mut reader: Reader, ended: &CancellationToken, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; BUFFER];
    let late = async {
        ended.cancelled().await;
        sleep(DRAIN_PATIENCE).await;
    };
    tokio::pin!(late);
    loop {
        tokio::select! {
            biased; // A stream that never ends must not keep the clock from being looked at.
            () = &mut late => return,
            read = reader.read(&mut buffer) => match read {
                Ok(count @ 1..) => take(&buffer[..count]),
                // A pipe that cannot be read has as good as ended.
                Ok(0) | Err(_) => return,
            },
        }
    }
}

/// Writes the input and closes. A program need not read it: that is no failure.
async fn feed(input: Option<(Writer, Vec<u8>)>, ended: &CancellationToken) {
    if let Some((mut writer, bytes)) = input {
        tokio::select! {
            written = writer.write_all(&bytes) => drop(written),
            () = ended.cancelled() => {}
        }
    }
}
