//! Workers over a WebSocket that speaks `rollcall.v1`, whichever side dialled: after the opening
//! handshake the two are the same.

mod accept;
mod address;
mod dial;
mod link;
mod socket;
mod translate;

pub use accept::{NotAccepted, accept_response};
pub use socket::tune;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Abilities, BoxFuture, Ended, LinkIo, Target, WorkerInterface};
use crate::trust::Pass;
use address::Addresses;
use socket::Counted;

/// Opening handshakes that are under way at once. Each takes 8 KiB for a moment, and a server with
/// 10,000 workers dials them all when it starts.
const HANDSHAKES: usize = 128;

/// The interface for workers that are dialled.
#[derive(Debug)]
pub struct WebSocketInterface {
    handshakes: Arc<Semaphore>,
    addresses: Arc<Addresses>,
}

impl Default for WebSocketInterface {
    fn default() -> Self {
        Self { handshakes: Arc::new(Semaphore::new(HANDSHAKES)), addresses: Arc::default() }
    }
}

impl WorkerInterface for WebSocketInterface {
    fn abilities(&self) -> Abilities {
        Abilities { resumes: true, confirms_cancel: true }
    }

    fn run(&self, target: Target, io: LinkIo) -> BoxFuture<Ended> {
        Box::pin(dial::run(target, io, Arc::clone(&self.handshakes), Arc::clone(&self.addresses)))
    }
}

/// Carries the connection of a worker that dialled in, after its request was answered with
/// [`accept_response`] and the stream taken over. `read` is what arrived behind the request, `pass`
/// what was shown with it.
/// Ends as [`WorkerInterface::run`] does; dropping the future closes the connection at once.
pub async fn serve_upgraded<S>(stream: S, read: Vec<u8>, pass: Pass, io: LinkIo) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = Some(socket::limits(&io.limits));
    let ws = WebSocketStream::from_partially_read(Counted::new(stream), read, Role::Server, limits).await;
    link::carry(ws, link::Peer::Came(pass), io).await
}
