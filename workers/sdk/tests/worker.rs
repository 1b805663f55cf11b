//! A worker made with this crate, seen from a server that a test plays on a real socket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rollcall_protocol::{AttemptRef, Execute, FromServer, FromWorker, Registered};
use rollcall_worker_sdk::{
    CancelReason, Capability, ServeOptions, Status, Stream, Task, TaskContext, TaskEnd, Worker, WorkerBuilder,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

#[path = "worker/files.rs"]
mod files;

/// How long anything may take. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

/// A worker that serves.
struct Serving {
    address: String,
    stop: CancellationToken,
    done: JoinHandle<std::io::Result<()>>,
}

impl Serving {
    async fn start(builder: WorkerBuilder) -> Self {
        Self::with(builder, ServeOptions::default()).await
    }

    async fn with(builder: WorkerBuilder, options: ServeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let (worker, stop) = (builder.build(), CancellationToken::new());
        let shutdown = stop.clone();
        let done = tokio::spawn(async move { worker.serve(listener, options, shutdown).await });
        Self { address, stop, done }
    }

    /// Connects and reads `register`.
    async fn connect(&self) -> (Server, Value) {
        loop {
            let mut request = format!("ws://{}", self.address).into_client_request().expect("a request");
            let protocol = "rollcall.v1".parse().expect("a header");
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
            let stream = TcpStream::connect(&self.address).await.expect("it listens");
            let Ok((ws, _)) = tokio_tungstenite::client_async(request, stream).await else {
                // It has not noticed the end of the last connection yet.
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            let mut server = Server(ws);
            let register = server.frame("register").await;
            return (server, register);
        }
    }

    async fn registered(&self, connection: u64) -> Server {
        let (mut server, _) = self.connect().await;
        server.welcome(connection, |_| {}).await;
        server
    }

    /// The body of a page, and its status line.
    async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

/// A server that a test plays.
struct Server(WebSocketStream<TcpStream>);

impl Server {
    async fn say<'a>(&mut self, frame: impl Into<FromServer<'a>>) {
        let text = frame.into().encode().expect("plain data");
        self.0.send(Message::text(text)).await.expect("the worker reads");
    }

    async fn welcome(&mut self, connection: u64, change: impl FnOnce(&mut Registered)) {
        let mut answer = Registered {
            connection,
            slots: 64,
            heartbeat_interval_ms: 30_000,
            lease_ms: 120_000,
            store_id: "s".into(),
            ..Registered::default()
        };
        change(&mut answer);
        self.say(Box::new(answer)).await;
    }

    async fn execute(&mut self, epoch: u64, connection: u64, capability: &str, deadline: Duration) {
        let input = serde_json::value::to_raw_value(&epoch).expect("plain data");
        self.say(Execute {
            task: format!("task-{epoch}"),
            epoch,
            connection,
            attempt: 1,
            capability: capability.into(),
            input: &input,
            deadline_ms: u64::try_from(deadline.as_millis()).expect("short"),
            session: None,
            session_new: None,
            session_ttl_ms: None,
            idempotency_key: None,
            traceparent: None,
        })
        .await;
    }

    async fn cancel(&mut self, epoch: u64, reason: &str) {
        let task = format!("task-{epoch}");
        self.say(rollcall_protocol::Cancel { task, epoch, reason: reason.into() }).await;
    }

    async fn acknowledge(&mut self, epoch: u64) {
        let task = format!("task-{epoch}");
        self.say(rollcall_protocol::ResultAck { task, epoch, accepted: true, reason: None }).await;
    }

    /// The next frame but heartbeats, which must be of this type.
    async fn frame(&mut self, kind: &str) -> Value {
        loop {
            match within(self.0.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    assert!(FromWorker::decode(&text).is_ok(), "{text}");
                    if frame["type"] == kind {
                        return frame;
                    }
                    assert_eq!(frame["type"], "heartbeat", "{kind} was awaited, not {text}");
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{kind} was awaited, not {other:?}"),
            }
        }
    }

    /// The next result; what comes before it is skipped.
    async fn result(&mut self) -> Value {
        loop {
            if let Some(Ok(Message::Text(text))) = within(self.0.next()).await {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                if frame["type"] == "result" {
                    return frame;
                }
            }
        }
    }
}

const LONG: Duration = Duration::from_secs(3600);

fn echo() -> WorkerBuilder {
    Worker::builder("echo")
        .capability(Capability::new("echo"), async |task: Task, _| TaskEnd::succeeded(&task.input))
}

/// Runs until it is told to stop, and obeys.
fn patient() -> WorkerBuilder {
    echo().capability(Capability::new("wait"), async |_, context: TaskContext| {
        context.cancelled().await;
        TaskEnd::cancelled()
    })
}

#[tokio::test]
async fn register_tells_what_the_builder_was_told() {
    let schema = serde_json::json!({"type": "object"});
    let capability = Capability::new("a.b").description("d").input_schema(&schema).idempotent(true);
    let builder = Worker::builder("kind")
        .name("ann")
        .instance("one")
        .pool("p")
        .version("1.2")
        .slots(3)
        .label("zone", "a")
        .isolation("full")
        .capability(capability, async |_, _| TaskEnd::cancelled());
    let (_server, register) = Serving::start(builder).await.connect().await;
    let expected = serde_json::json!({
        "type": "register", "name": "ann", "instance": "one", "pool": "p", "kind": "kind", "version": "1.2",
        "slots": 3, "labels": {"zone": "a"}, "isolation": "full", "attempts": [],
        "features": ["cancel", "resume", "output", "artifacts", "sessions"],
        "capabilities": [{"name": "a.b", "description": "d", "input_schema": {"type": "object"}, "idempotent": true}],
    });
    assert_eq!(register, expected);
}

#[tokio::test]
async fn what_cannot_be_started_is_rejected_with_the_reason() {
    let serving = Serving::start(patient().slots(1)).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    server.execute(2, 1, "echo", LONG).await;
    let rejected = server.frame("rejected").await;
    assert_eq!((&rejected["reason"], &rejected["retryable"]), (&"no free slot".into(), &true.into()));
    server.cancel(1, "cancelled").await;
    assert_eq!(server.result().await["status"], "cancelled");
    server.execute(3, 1, "sing", LONG).await;
    let reason = server.frame("rejected").await["reason"].clone();
    assert_eq!(reason, "the worker does not offer this capability");
}

#[tokio::test]
async fn an_execute_of_an_old_connection_is_ignored() {
    let serving = Serving::start(echo()).await;
    drop(serving.registered(1).await);
    let mut server = serving.registered(2).await;
    server.execute(1, 1, "echo", LONG).await;
    server.execute(2, 2, "echo", LONG).await;
    assert_eq!(server.frame("accepted").await["epoch"], 2);
}

#[tokio::test]
async fn an_acknowledged_attempt_is_not_started_again() {
    let serving = Serving::start(echo()).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "echo", LONG).await;
    assert_eq!(server.result().await["output"], 1);
    server.acknowledge(1).await;
    server.execute(1, 1, "echo", LONG).await;
    server.execute(2, 1, "echo", LONG).await;
    assert_eq!(server.frame("accepted").await["epoch"], 2);
}

#[tokio::test]
async fn output_is_cut_into_pieces_between_characters_and_comes_before_the_result() {
    let builder =
        Worker::builder("talker").capability(Capability::new("talk"), async |_, context: TaskContext| {
            context.output(Stream::Stdout, "é".repeat(20_000));
            context.progress(Some(0.5), Some("half"));
            context.output(Stream::Stderr, b"\xE2\x82");
            TaskEnd::succeeded(&())
        });
    let mut server = Serving::start(builder).await.registered(1).await;
    server.execute(1, 1, "talk", LONG).await;
    server.frame("accepted").await;
    let mut next = 0;
    while next < 40_000 {
        let piece = server.frame("output").await;
        assert_eq!((&piece["stream"], &piece["offset"]), (&"stdout".into(), &next.into()));
        next += piece["data"].as_str().expect("text").len();
    }
    assert_eq!(server.frame("progress").await["fraction"], 0.5);
    let cut = server.frame("output").await;
    assert_eq!((&cut["stream"], &cut["data"]), (&"stderr".into(), &"\u{fffd}".into()));
    assert_eq!(server.frame("result").await["status"], "succeeded");
}

#[tokio::test]
async fn output_beyond_what_the_link_takes_leaves_a_gap_and_no_debt() {
    let builder =
        Worker::builder("talker").capability(Capability::new("talk"), async |_, context: TaskContext| {
            for _ in 0..400 {
                context.output(Stream::Stdout, "x".repeat(10_000));
            }
            TaskEnd::succeeded(&())
        });
    let mut server = Serving::start(builder).await.registered(1).await;
    server.execute(1, 1, "talk", LONG).await;
    let (mut got, mut end) = (0, 0);
    loop {
        let Some(Ok(Message::Text(text))) = within(server.0.next()).await else { panic!("closed") };
        match FromWorker::decode(&text).expect("a frame") {
            FromWorker::Output(output) => {
                got += output.data.len();
                end = output.offset + output.data.len() as u64;
            }
            FromWorker::Result(result) => {
                assert_eq!(result.status, Status::Succeeded);
                break;
            }
            _ => {}
        }
    }
    assert!(got <= 1 << 20, "{got} bytes were held for a link that was slower");
    assert!(end <= 4_000_000);
}

#[tokio::test]
async fn a_panic_is_a_failed_result_and_no_end_of_the_worker() {
    let builder = echo().capability(Capability::new("boom").idempotent(true), async |_, _| -> TaskEnd {
        panic!("on purpose")
    });
    let mut server = Serving::start(builder).await.registered(1).await;
    server.execute(1, 1, "boom", LONG).await;
    let error = server.result().await["error"].clone();
    assert_eq!(
        (&error["code"], &error["fault"], &error["retryable"]),
        (&"panic".into(), &"worker".into(), &true.into())
    );
    server.execute(2, 1, "echo", LONG).await;
    assert_eq!(server.result().await["status"], "succeeded");
}

#[tokio::test]
async fn a_handler_that_ignores_its_cancel_is_dropped_after_the_grace() {
    let builder = Worker::builder("deaf")
        .stop_grace(Duration::from_millis(20))
        .capability(Capability::new("deaf"), async |_, _| std::future::pending().await);
    let serving = Serving::start(builder).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "deaf", Duration::from_millis(20)).await;
    let end = server.result().await;
    assert_eq!((&end["status"], &end["error"]["code"]), (&"timed_out".into(), &"timeout".into()));
    server.execute(2, 1, "deaf", LONG).await;
    server.cancel(2, "cancelled").await;
    assert_eq!(server.result().await["status"], "cancelled");
}

#[tokio::test]
async fn a_handler_hears_why_it_should_stop() {
    let builder =
        Worker::builder("curious").capability(Capability::new("why"), async |_, context: TaskContext| {
            let reason = context.cancelled().await;
            assert_eq!(context.cancel_reason(), Some(reason));
            assert!(context.cancellation().is_cancelled());
            TaskEnd::cancelled().with_output(&format!("{reason:?}"))
        });
    let mut server = Serving::start(builder).await.registered(1).await;
    let reasons = [
        ("cancelled", CancelReason::Cancelled),
        ("timeout", CancelReason::Timeout),
        ("superseded", CancelReason::Superseded),
        ("unknown", CancelReason::Dropped),
        ("removed_from_config", CancelReason::Removed),
    ];
    for (epoch, (word, reason)) in (1..).zip(reasons) {
        server.execute(epoch, 1, "why", LONG).await;
        server.cancel(epoch, word).await;
        let end = server.result().await;
        assert_eq!(end["output"], format!("{reason:?}"));
        assert_eq!(end["status"], if word == "timeout" { "timed_out" } else { "cancelled" });
    }
}

#[tokio::test]
async fn a_result_too_large_for_the_server_fails_and_says_so() {
    let builder = Worker::builder("big")
        .max_message(10_000)
        .capability(Capability::new("big"), async |_, _| TaskEnd::succeeded(&"x".repeat(20_000)));
    let mut server = Serving::start(builder).await.registered(1).await;
    server.execute(1, 1, "big", LONG).await;
    let end = server.result().await;
    assert_eq!((&end["status"], &end["error"]["code"]), (&"failed".into(), &"output_too_large".into()));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_and_waited_for() {
    let serving = Serving::start(patient()).await;
    let (mut server, _) = serving.connect().await;
    server.welcome(1, |answer| answer.heartbeat_interval_ms = 40).await;
    server.execute(1, 1, "wait", LONG).await;
    // It reads, but says nothing: 2.5 intervals later the worker is gone, its task is not.
    while let Some(Ok(_)) = within(server.0.next()).await {}
    let (_server, register) = serving.connect().await;
    assert_eq!(register["attempts"][0]["phase"], "running");
    assert_eq!(register["store_id"], "s");
}

#[tokio::test]
async fn the_workers_heartbeat_lists_what_runs() {
    let serving = Serving::start(patient()).await;
    let (mut server, _) = serving.connect().await;
    server.welcome(1, |answer| answer.heartbeat_interval_ms = 400).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    let beat = server.frame("heartbeat").await;
    assert_eq!(beat["running"], serde_json::json!([{"task": "task-1", "epoch": 1}]));
}

#[tokio::test]
async fn garbage_from_the_server_ends_the_connection_and_nothing_else() {
    let serving = Serving::start(patient()).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    server.0.send(Message::text(r#"{"type":"dance"}"#)).await.expect("the worker reads");
    assert_eq!(server.frame("error").await["code"], "unknown_type");
    server.0.send(Message::text("{")).await.expect("the worker reads");
    assert_eq!(server.frame("error").await["code"], "bad_frame");
    assert!(matches!(within(server.0.next()).await, Some(Ok(Message::Close(_)))));
    drop(server);
    let (_server, register) = serving.connect().await;
    assert_eq!(register["attempts"][0]["epoch"], 1);
}

#[tokio::test]
async fn a_worker_that_stops_says_goodbye_finishes_and_waits_for_the_last_word() {
    let serving = Serving::start(patient()).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    serving.stop.cancel();
    server.frame("goodbye").await;
    server.execute(2, 1, "echo", LONG).await;
    assert_eq!(server.frame("rejected").await["reason"], "the worker is stopping");
    server.cancel(1, "cancelled").await;
    assert_eq!(server.result().await["status"], "cancelled");
    server.acknowledge(1).await;
    assert!(matches!(within(server.0.next()).await, Some(Ok(Message::Close(_)))));
    drop(server);
    within(serving.done).await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn what_outlives_the_grace_of_a_stop_is_failed_and_may_be_tried_elsewhere() {
    let builder = Worker::builder("w").shutdown_grace(Duration::from_millis(10)).capability(
        Capability::new("wait").idempotent(true),
        async |_, context: TaskContext| {
            context.cancelled().await;
            TaskEnd::cancelled()
        },
    );
    let serving = Serving::start(builder).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    serving.stop.cancel();
    let error = server.result().await["error"].clone();
    assert_eq!((&error["code"], &error["retryable"]), (&"worker_shutdown".into(), &true.into()));
    server.acknowledge(1).await;
    drop(server);
    within(serving.done).await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_cut_lifeline_stops_everything_at_once() {
    let cut = CancellationToken::new();
    let serving = Serving::start(patient().lifeline(cut.clone())).await;
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    drop(server);
    cut.cancel();
    within(serving.done).await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn pages_tell_how_the_worker_is() {
    let metrics =
        Some(std::sync::Arc::new(|| "up 1\n".to_owned()) as std::sync::Arc<dyn Fn() -> String + Send + Sync>);
    let serving = Serving::with(patient(), ServeOptions { metrics, ..ServeOptions::default() }).await;
    let (line, body) = serving.get("/healthz").await;
    assert_eq!(
        (line.as_str(), body.as_str()),
        ("HTTP/1.1 200 OK", "{\"status\":\"ok\",\"connected\":false,\"running\":0}\n")
    );
    let mut server = serving.registered(1).await;
    server.execute(1, 1, "wait", LONG).await;
    server.frame("accepted").await;
    assert_eq!(serving.get("/healthz").await.1, "{\"status\":\"ok\",\"connected\":true,\"running\":1}\n");
    let (_, page) = serving.get("/metrics").await;
    // The worker's own series come first, then those that every process has.
    assert!(page.starts_with("up 1\n# HELP process_cpu_seconds_total "), "{page}");
    assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
    assert_eq!(serving.get("/nothing").await.0, "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn a_worker_off_loopback_needs_a_token() {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
    let stop = CancellationToken::new();
    let refused = echo().build().serve(listener, ServeOptions::default(), stop).await;
    assert!(refused.expect_err("no token").to_string().contains("needs a token"));
}

#[tokio::test]
async fn what_the_server_keeps_or_drops_is_kept_or_dropped() {
    let serving = Serving::start(patient()).await;
    let mut server = serving.registered(1).await;
    for epoch in [1, 2] {
        server.execute(epoch, 1, "wait", LONG).await;
        server.frame("accepted").await;
    }
    server.execute(3, 1, "echo", LONG).await;
    assert_eq!(server.result().await["epoch"], 3);
    drop(server);
    let (mut server, register) = serving.connect().await;
    assert_eq!(register["attempts"].as_array().map(Vec::len), Some(3));
    let named = |epoch| AttemptRef { task: format!("task-{epoch}"), epoch };
    server
        .welcome(2, |answer| {
            answer.keep = vec![named(1)];
            answer.drop = vec![named(2), named(3)];
        })
        .await;
    server.cancel(1, "cancelled").await;
    assert_eq!(server.frame("result").await["epoch"], 1);
    drop(server);
    let (_server, register) = serving.connect().await;
    let left = serde_json::json!([{"task": "task-1", "epoch": 1, "phase": "done"}]);
    assert_eq!(register["attempts"], left);
}
