//! A worker that a story speaks for, frame by frame: it dials in like any other, and then says what
//! no honest worker would.

use futures_util::{SinkExt, StreamExt};
use rollcall_protocol::SUBPROTOCOL;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{PATIENCE, Server};

/// One connection of such a worker.
pub(crate) struct Scripted(WebSocketStream<TcpStream>);

impl Scripted {
    /// Dials in, and says nothing yet.
    pub(crate) async fn dial(server: &Server) -> Self {
        Self::dial_at(server.base_url()).await
    }

    /// The same, to the server with this base URL.
    pub(crate) async fn dial_at(base_url: &str) -> Self {
        let address = base_url.strip_prefix("http://").expect("the base of a URL").to_owned();
        let url = format!("ws://{address}/v1/workers/connect");
        let mut request = url.into_client_request().expect("a URL");
        let protocol = SUBPROTOCOL.parse().expect("a header");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let stream = TcpStream::connect(&address).await.expect("it listens");
        let (socket, _) = client_async(request, stream).await.expect("it takes workers");
        Self(socket)
    }

    /// Dials in and registers; what it holds is said by `attempts`. The server's answer comes along.
    pub(crate) async fn register(
        server: &Server,
        name: &str,
        instance: &str,
        attempts: Value,
    ) -> (Self, Value) {
        let mut worker = Self::dial(server).await;
        worker.say(introduction(name, instance, attempts)).await;
        let answer = worker.hear("registered").await;
        (worker, answer)
    }

    /// Sends a frame.
    pub(crate) async fn say(&mut self, frame: Value) {
        self.text(frame.to_string()).await;
    }

    /// Sends any text.
    pub(crate) async fn text(&mut self, text: String) {
        // The server may have closed it meanwhile; what follows will show.
        drop(self.0.send(Message::text(text)).await);
    }

    /// Sends bytes of the artifact with this number.
    pub(crate) async fn bytes(&mut self, number: u32, bytes: &[u8]) {
        let frame = rollcall_protocol::chunk(number, bytes);
        // The server may have closed it meanwhile; what follows will show.
        drop(self.0.send(Message::binary(frame)).await);
    }

    /// The next frame of this type; others are passed over.
    pub(crate) async fn hear(&mut self, kind: &str) -> Value {
        let mut heard = Vec::new();
        loop {
            match self.next().await {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).expect("the server speaks JSON");
                    if frame["type"] == kind {
                        return frame;
                    }
                    heard.push(frame.to_string());
                }
                Message::Close(close) => panic!("closed ({close:?}) before {kind}; heard {heard:?}"),
                Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            }
        }
    }

    /// The code that the server closes the connection with.
    pub(crate) async fn close_code(mut self) -> u16 {
        loop {
            if let Message::Close(close) = self.next().await {
                return close.map_or(0, |close| close.code.into());
            }
        }
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("the server says something");
        next.expect("the server closes with a word").expect("the connection holds until the server closes it")
    }
}

/// A `register` of a worker that offers `again` (which may be repeated) and `once` (which may not).
pub(crate) fn introduction(name: &str, instance: &str, attempts: Value) -> Value {
    json!({
        "type": "register", "name": name, "instance": instance, "kind": "scripted",
        "capabilities": [{ "name": "again", "idempotent": true }, { "name": "once" }],
        "features": ["cancel", "resume", "output", "artifacts"], "attempts": attempts,
    })
}

/// A frame about the attempt that `execute` has handed over.
pub(crate) fn about(execute: &Value, frame: Value) -> Value {
    let mut frame = frame;
    frame["task"] = execute["task"].clone();
    frame["epoch"] = execute["epoch"].clone();
    frame
}
