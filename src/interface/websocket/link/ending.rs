//! How a connection ends, and the last that the peer hears of it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::{debug, warn};

use super::Link;
use crate::fleet::Why;

/// How long what stands before a `Close` may take to leave.
const CLOSING: Duration = Duration::from_secs(2);

/// How the connection ends: why, and what to tell the peer, unless the socket is broken.
pub(super) struct End {
    pub(super) why: Why,
    close: Option<CloseCode>,
    /// The stream of messages is broken: nothing more can be read from it.
    deaf: bool,
}

impl End {
    /// Tells the peer.
    pub(super) fn tell(why: Why, code: CloseCode) -> Self {
        Self { why, close: Some(code), deaf: false }
    }

    /// Tells a peer from which nothing more can be read.
    pub(super) fn deaf(why: Why, code: CloseCode) -> Self {
        Self { deaf: true, ..Self::tell(why, code) }
    }

    /// There is nobody to tell any more.
    pub(super) fn broken(why: Why) -> Self {
        Self { why, close: None, deaf: true }
    }
}

impl<S> Link<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    pub(super) fn closed(&self) -> End {
        let why = if self.said_goodbye { Why::Drained } else { Why::PeerClosed };
        End::tell(why, CloseCode::Normal)
    }

    /// What an error of the WebSocket means, and what the peer is told of it (RFC 6455, 7.4.1).
    pub(super) fn ended(&self, error: &tungstenite::Error) -> End {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        let (kind, code) = match error {
            Error::Protocol(ResetWithoutClosingHandshake)
            | Error::ConnectionClosed
            | Error::AlreadyClosed => {
                return End { close: None, deaf: true, ..self.closed() };
            }
            Error::WriteBufferFull(_) => return End::broken(Why::SlowConsumer),
            Error::Capacity(_) => ("too_big", CloseCode::Size),
            Error::Utf8(_) => ("bad_utf8", CloseCode::Invalid),
            Error::Protocol(_) | Error::AttackAttempt => ("unexpected", CloseCode::Protocol),
            Error::Io(_) | Error::Tls(_) | Error::Url(_) | Error::Http(_) | Error::HttpFormat(_) => {
                debug!(worker = %self.worker, %error, "the socket broke");
                return End::broken(Why::Io);
            }
        };
        self.io.meter.protocol_error(kind);
        warn!(worker = %self.worker, %error, "closing a connection that breaks the protocol");
        End::deaf(Why::Protocol, code)
    }

    /// Flushes what stands before the end, closes, and waits shortly until the peer has read it: an
    /// early end of the socket would throw away what is still on its way.
    pub(super) async fn finish(&mut self, end: End) {
        let Some(code) = end.close else { return };
        let goodbye = async {
            self.ws.send(Message::Close(Some(CloseFrame { code, reason: end.why.as_str().into() }))).await?;
            self.flushed();
            if end.deaf {
                // Not in the future itself: when the server stops, all connections are here at once.
                let mut ignored = vec![0; 8 * 1024];
                while self.ws.get_mut().read(&mut ignored).await? > 0 {}
            } else {
                while self.ws.next().await.is_some_and(|read| read.is_ok()) {}
            }
            Ok::<_, tungstenite::Error>(())
        };
        // It may be gone or stuck already; then there is nobody to tell.
        drop(timeout(CLOSING, goodbye).await);
    }
}

pub(super) fn code_of(why: Why) -> CloseCode {
    match why {
        Why::ServerShutdown => CloseCode::Away,
        Why::RemovedFromConfig | Why::Moved | Why::ScaledIn | Why::Drained | Why::PeerClosed | Why::Io => {
            CloseCode::Normal
        }
        Why::Protocol => CloseCode::Protocol,
        Why::HeartbeatTimeout | Why::SlowConsumer | Why::Superseded | Why::CancelTimeout => CloseCode::Policy,
    }
}
