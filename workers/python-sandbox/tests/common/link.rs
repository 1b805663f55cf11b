//! The worker program as a process, and a server of few words that speaks `rollcall.v1` to it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::unistd::Pid;
use rollcall_protocol::{
    Execute, FromServer, FromWorker, Registered, ResultAck, SUBPROTOCOL, ServerHeartbeat, Status, Stream,
};
use serde_json::Value;
use serde_json::value::to_raw_value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::AMPLE;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_rollcall-python-sandbox");
pub(crate) const TOKEN: &str = "canary-of-the-token";

/// A worker process that listens on a free port.
pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Worker {
    pub(crate) async fn start() -> Self {
        // It inherits a descriptor, as a launched worker does its lifeline.
        Self::start_as(&["/bin/sh", "-c", "exec 9</dev/null; exec \"$@\"", "sh", PROGRAM]).await
    }

    pub(crate) async fn start_as(words: &[&str]) -> Self {
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["--listen", "127.0.0.1:0", "--slots", "3", "--name", "ann"])
            .env("ROLLCALL_TOKEN", TOKEN)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let Some(line) = lines.next_line().await.expect("a pipe") else {
            let output = child.wait_with_output().await.expect("our own child");
            panic!("{}", text(&output.stderr));
        };
        let address = line.strip_prefix("listening on ").expect("the announcement").to_owned();
        Self { child, address }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("it runs")).expect("a pid"))
    }

    /// Meets it as its server; returns with the link what it registered as.
    pub(crate) async fn meet(&self) -> (Link, Value) {
        let mut request = format!("ws://{}/", self.address).into_client_request().expect("a URL");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("plain"));
        headers.insert("authorization", format!("Bearer {TOKEN}").parse().expect("plain"));
        let (socket, _) = connect_async(request).await.expect("it lets its server in");
        let mut link = Link { socket, epoch: 0 };
        let register: Value = serde_json::from_str(&link.text().await).expect("JSON");
        assert_eq!(register["type"], "register");
        link.send(&FromServer::from(Box::new(Registered {
            name: "ann".into(),
            connection: 7,
            slots: 3,
            heartbeat_interval_ms: 60_000,
            lease_ms: 30_000,
            store_id: "s".into(),
            ..Registered::default()
        })))
        .await;
        (link, register)
    }

    pub(crate) async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).await.expect("text");
        page
    }
}

pub(crate) struct Link {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The last attempt's number.
    pub(crate) epoch: u64,
}

/// What a task came to.
pub(crate) struct Ended {
    pub(crate) status: Status,
    pub(crate) output: Value,
    pub(crate) error: Option<(String, bool)>,
    pub(crate) live: String,
    pub(crate) usage: Value,
}

impl Link {
    pub(crate) async fn text(&mut self) -> String {
        loop {
            let message = tokio::time::timeout(AMPLE, self.socket.next()).await.expect("a frame in time");
            match message.expect("the link holds").expect("a message") {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: &FromServer<'_>) {
        let text = frame.encode().expect("plain data");
        self.socket.send(Message::text(text)).await.expect("the link holds");
    }

    pub(crate) async fn execute(&mut self, task: &str, capability: &str, input: &Value, limit: Duration) {
        self.execute_in(None, task, capability, input, limit).await;
    }

    pub(crate) async fn execute_in(
        &mut self,
        session: Option<&str>,
        task: &str,
        capability: &str,
        input: &Value,
        limit: Duration,
    ) {
        let input = to_raw_value(input).expect("plain data");
        self.epoch += 1;
        self.send(&FromServer::from(Execute {
            task: task.into(),
            epoch: self.epoch,
            connection: 7,
            attempt: 1,
            capability: capability.into(),
            input: &input,
            deadline_ms: u64::try_from(limit.as_millis()).expect("short"),
            session: session.map(str::to_owned),
            session_new: None,
            session_ttl_ms: None,
            idempotency_key: None,
            traceparent: None,
        }))
        .await;
    }

    /// Reads until the live output of a task has this in it.
    pub(crate) async fn until_output(&mut self, wanted: &str) {
        loop {
            let text = self.text().await;
            if let Ok(FromWorker::Output(output)) = FromWorker::decode(&text)
                && output.data.contains(wanted)
            {
                return;
            }
        }
    }

    pub(crate) async fn ended(&mut self, task: &str) -> Ended {
        let mut live = String::new();
        loop {
            let text = self.text().await;
            match FromWorker::decode(&text).expect("a frame") {
                FromWorker::Output(output) if output.stream == Stream::Stdout => {
                    live.push_str(&output.data);
                }
                FromWorker::Heartbeat(_) => self.send(&FromServer::from(ServerHeartbeat {})).await,
                FromWorker::Result(result) if result.task == task => {
                    let ack =
                        ResultAck { task: result.task, epoch: result.epoch, accepted: true, reason: None };
                    self.send(&FromServer::from(ack)).await;
                    let output = result.output.map_or("null", |raw| raw.get());
                    return Ended {
                        status: result.status,
                        output: serde_json::from_str(output).expect("JSON"),
                        error: result.error.map(|error| (error.code, error.retryable)),
                        live,
                        usage: serde_json::to_value(result.usage).expect("plain data"),
                    };
                }
                FromWorker::Rejected(rejected) => panic!("{rejected:?}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn run_in(&mut self, session: &str, capability: &str, input: Value) -> Ended {
        self.execute_in(Some(session), "t", capability, &input, Duration::from_secs(60)).await;
        self.ended("t").await
    }

    pub(crate) async fn run(&mut self, capability: &str, input: Value) -> Ended {
        self.execute("t", capability, &input, Duration::from_secs(30)).await;
        self.ended("t").await
    }
}

pub(crate) async fn call(program: &Path, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("ROLLCALL_TOKEN").kill_on_drop(true).stdin(Stdio::null());
    change(&mut command);
    command.output().await.expect("the program starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
