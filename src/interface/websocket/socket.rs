//! Settings of sockets, and what lies between a socket and the WebSocket library: a count of the bytes
//! that pass, by which a stalled peer is known, and reads that are large although an idle connection
//! keeps next to nothing.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::interface::LinkLimits;

/// Unsent bytes that the kernel takes at most: more, and a `cancel` stands behind megabytes.
#[cfg(target_os = "linux")]
const NOT_SENT: u32 = 64 * 1024;

/// Bytes that one read of a socket may bring; one buffer of so many for each thread.
const READ_AT_ONCE: usize = 16 * 1024;

/// Bytes that the library keeps for reading, for each connection; it takes them from what was read.
const READ_BUFFER: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AT_ONCE].into());
}

/// Bytes gathered before a write that nobody flushed.
const WRITE_BUFFER: usize = 64 * 1024;

/// Limits, all checked before anything is allocated for a frame. The library's defaults would take
/// 128 KiB for each idle connection (1.25 GiB at 10,000) and let the write buffer grow without end.
pub(super) fn limits(limits: &LinkLimits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + limits.max_message + (1 << 20))
        .max_message_size(Some(limits.max_message))
        .max_frame_size(Some(limits.max_message))
}

/// Sets a worker's socket: small frames leave at once, little waits unsent in the kernel, and the
/// kernel too notices a dead peer.
///
/// # Errors
/// When the socket is already broken.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(NOT_SENT)?;
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&probes)
}

/// A stream that counts, and reads more than it was asked for.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    /// Bytes handed to the reader so far.
    pub(super) read: u64,
    /// Bytes written so far.
    pub(super) written: u64,
    /// What was read and not asked for yet, from `ahead_at` on; no room once it is.
    ahead: Vec<u8>,
    ahead_at: usize,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: 0, written: 0, ahead: Vec::new(), ahead_at: 0 }
    }

    /// Takes back the last bytes that it handed out.
    fn give_back(&mut self, mut last: Vec<u8>) {
        self.read -= last.len() as u64;
        last.extend_from_slice(&self.ahead[self.ahead_at..]);
        self.ahead = last;
        self.ahead_at = 0;
    }

    /// Hands out of what was read ahead.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.ahead[self.ahead_at..];
        let given = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..given]);
        self.ahead_at += given;
        if self.ahead_at == self.ahead.len() {
            self.ahead = Vec::new();
            self.ahead_at = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> Counted<S> {
    fn poll_socket(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() >= READ_AT_ONCE {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut all = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut all))?;
            let (now, later) = all.filled().split_at(all.filled().len().min(buffer.remaining()));
            buffer.put_slice(now);
            if !later.is_empty() {
                self.ahead = later.to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(self.poll_socket(cx, buffer))?;
        } else {
            self.hand_out(buffer);
        }
        self.read += (buffer.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = polled {
            self.written += written as u64;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where the head of an HTTP message ends.
const HEAD_END: &[u8; 4] = b"\r\n\r\n";

/// The beginning of the status line that agrees to a handshake.
const AGREED: &[u8] = b"HTTP/1.1 101";

/// A stream whose reader gets the head of the answer to a handshake and nothing of what is behind
/// it: the library's buffer for heads (4 KiB) would else become that of the connection. An answer
/// that does not agree is handed out whole, for its body says why.
#[derive(Debug)]
pub(super) struct Opening<S> {
    stream: Counted<S>,
    /// How much of [`AGREED`] was read; `None` once it was something else.
    agreed: Option<usize>,
    /// How much of [`HEAD_END`] was read last.
    ending: usize,
}

impl<S> Opening<S> {
    pub(super) fn new(stream: Counted<S>) -> Self {
        Self { stream, agreed: Some(0), ending: 0 }
    }

    /// The stream, once the handshake is over.
    pub(super) fn into_inner(self) -> Counted<S> {
        self.stream
    }

    /// How many of the bytes that were just read belong to the head.
    fn of_head(&mut self, read: &[u8]) -> usize {
        for (at, byte) in read.iter().enumerate() {
            self.agreed = match self.agreed {
                Some(seen) if seen == AGREED.len() => Some(seen),
                Some(seen) if *byte == AGREED[seen] => Some(seen + 1),
                Some(_) | None => {
                    self.agreed = None;
                    return read.len();
                }
            };
            self.ending = match self.ending {
                seen if *byte == HEAD_END[seen] => seen + 1,
                _ => usize::from(*byte == HEAD_END[0]),
            };
            if self.ending == HEAD_END.len() {
                self.ending = 0;
                return at + 1;
            }
        }
        read.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let head = before + self.of_head(&buffer.filled()[before..]);
        let behind = buffer.filled()[head..].to_vec();
        if !behind.is_empty() {
            buffer.set_filled(head);
            self.stream.give_back(behind);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_is_handed_out_in_order_and_leaves_no_room_behind() {
        let (mut peer, ours) = duplex(64 * 1024);
        let sent: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        peer.write_all(&sent).await.expect("there is room");
        drop(peer);
        let mut ours = Counted::new(ours);
        let mut got = Vec::new();
        let mut piece = [0; 700];
        loop {
            let read = ours.read(&mut piece).await.expect("a pipe does not break");
            if read == 0 {
                break;
            }
            got.extend_from_slice(&piece[..read]);
            assert_eq!(ours.read, got.len() as u64);
        }
        assert_eq!(got, sent);
        assert_eq!(ours.ahead.capacity(), 0);
    }

    async fn opened(pieces: &[&str]) -> (String, String) {
        let mut read = Opening::new(Counted::new(in_pieces(pieces)));
        let mut buffer = [0; 4096];
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let bytes = read.read(&mut buffer).await.expect("a pipe does not break");
            if bytes == 0 {
                break;
            }
            head.push_str(std::str::from_utf8(&buffer[..bytes]).expect("plain text"));
        }
        let mut behind = String::new();
        read.into_inner().read_to_string(&mut behind).await.expect("plain text");
        (head, behind)
    }

    fn in_pieces(pieces: &[&str]) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let (mut peer, ours) = duplex(7);
        let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        tokio::spawn(async move {
            for piece in pieces {
                if peer.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        ours
    }

    #[tokio::test]
    async fn the_head_of_an_agreement_ends_where_its_frames_begin() {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
        let (read, behind) = opened(&[head, "\u{1}\u{2}frames\r\n\r\nmore"]).await;
        assert_eq!((read.as_str(), behind.as_str()), (head, "\u{1}\u{2}frames\r\n\r\nmore"));
    }

    #[tokio::test]
    async fn a_refusal_is_read_whole() {
        let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 8\r\n\r\n";
        let mut read = Opening::new(Counted::new(in_pieces(&[refusal, "no token"])));
        let mut all = String::new();
        read.read_to_string(&mut all).await.expect("plain text");
        assert!(all.ends_with("no token"), "{all}");
        assert!(read.into_inner().ahead.is_empty());
    }
}
