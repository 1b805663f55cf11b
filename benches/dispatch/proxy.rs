//! The limit that Rollcall is held against: an axum handler, one tokio-tungstenite connection to a
//! worker, a map from id to waiting caller between them, one runtime thread, and nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::Failure;
use crate::worker::ECHO;
use crate::{journal, process};

/// A frame is the caller's number in eight bytes, then the body; the worker sends it back as it is.
const ID_BYTES: usize = 8;

type Waiting = Mutex<(u64, HashMap<u64, oneshot::Sender<Bytes>>)>;

#[derive(Clone)]
struct Proxy {
    /// Where there is one, a task is on the disk before it is dispatched.
    journal: Option<std::sync::mpsc::Sender<journal::Wanted>>,
    waiting: Arc<Waiting>,
    outgoing: mpsc::UnboundedSender<Message>,
}

/// The proxy's process: `LISTEN WORKER [JOURNAL]`, until its standard input closes.
pub(crate) fn serve(arguments: &[String]) -> Result<(), Failure> {
    process::end_with_parent();
    let [listen, worker, file @ ..] = arguments else {
        return Err("the proxy needs an address and a worker".into());
    };
    let journal = file.first().map(|path| journal::start(path.into())).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = TcpStream::connect(worker).await?;
        process::set_nodelay(&mut stream);
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{worker}{ECHO}"), stream).await?;
        let waiting = Arc::new(Waiting::default());
        let (outgoing, frames) = mpsc::unbounded_channel();
        let carrier = tokio::spawn(carry(socket, frames, waiting.clone()));
        let listener = TcpListener::bind(listen).await?.tap_io(process::set_nodelay);
        let app = axum::Router::new()
            .route("/readyz", get(|| async { "ready" }))
            .route("/v1/tasks", post(task))
            .with_state(Proxy { journal, waiting, outgoing });
        axum::serve(listener, app).await?;
        carrier.abort();
        Ok(())
    })
}

async fn task(State(proxy): State<Proxy>, body: Bytes) -> Response {
    if let Some(journal) = &proxy.journal {
        let (done, committed) = oneshot::channel();
        if journal.send(done).is_err() || committed.await.is_err() {
            return StatusCode::BAD_GATEWAY.into_response();
        }
    }
    let (answer, answered) = oneshot::channel();
    let id = {
        let mut waiting = proxy.waiting.lock().expect("no holder of the lock panics");
        waiting.0 += 1;
        let id = waiting.0;
        waiting.1.insert(id, answer);
        id
    };
    let mut frame = Vec::with_capacity(ID_BYTES + body.len());
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&body);
    if proxy.outgoing.send(Message::Binary(frame.into())).is_err() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    match answered.await {
        Ok(output) => ([(header::CONTENT_TYPE, "application/json")], output).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// Carries frames both ways. Each side takes all that is there before it flushes or waits: on a
/// busy socket that is worth several times the throughput, so a limit without it would be no limit.
async fn carry(
    mut socket: WebSocketStream<TcpStream>,
    mut outgoing: mpsc::UnboundedReceiver<Message>,
    waiting: Arc<Waiting>,
) {
    loop {
        tokio::select! {
            frame = outgoing.recv() => {
                let mut next = frame;
                while let Some(frame) = next {
                    if socket.feed(frame).await.is_err() {
                        return;
                    }
                    next = outgoing.try_recv().ok();
                }
                if socket.flush().await.is_err() {
                    return;
                }
            }
            message = socket.next() => {
                let mut next = Some(message);
                while let Some(message) = next {
                    let Some(Ok(message)) = message else { return };
                    deliver(&waiting, message);
                    next = socket.next().now_or_never();
                }
            }
        }
    }
}

fn deliver(waiting: &Waiting, message: Message) {
    let Message::Binary(mut frame) = message else { return };
    if frame.len() < ID_BYTES {
        return;
    }
    let output = frame.split_off(ID_BYTES);
    let id = u64::from_be_bytes(frame.as_ref().try_into().expect("split at eight bytes"));
    let caller = waiting.lock().expect("no holder of the lock panics").1.remove(&id);
    if let Some(caller) = caller {
        // A caller that hung up wants no answer.
        drop(caller.send(output));
    }
}
