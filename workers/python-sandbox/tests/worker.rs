//! The worker program as a server meets it: a process of its own, spoken to in `rollcall.v1`.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use common::{AMPLE, eventually, processes_with};
use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rollcall_protocol::{
    Cancel, Execute, FromServer, FromWorker, Registered, ResultAck, SUBPROTOCOL, ServerHeartbeat, Status,
    Stream,
};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rollcall-python-sandbox");
const TOKEN: &str = "canary-of-the-token";

/// A worker process that listens on a free port.
struct Worker {
    child: Child,
    address: String,
}

impl Worker {
    async fn start() -> Self {
        // It inherits a descriptor, as a launched worker does its lifeline.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exec 9</dev/null; exec \"$@\"", "sh", PROGRAM])
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

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("it runs")).expect("a pid"))
    }

    /// Meets it as its server; returns with the link what it registered as.
    async fn meet(&self) -> (Link, Value) {
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
            heartbeat_interval_ms: 5000,
            lease_ms: 30_000,
            store_id: "s".into(),
            ..Registered::default()
        })))
        .await;
        (link, register)
    }

    async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).await.expect("text");
        page
    }
}

struct Link {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The last attempt's number.
    epoch: u64,
}

/// What a task came to.
struct Ended {
    status: Status,
    output: Value,
    error: Option<(String, bool)>,
    live: String,
    usage: Value,
}

impl Link {
    async fn text(&mut self) -> String {
        loop {
            let message = tokio::time::timeout(AMPLE, self.socket.next()).await.expect("a frame in time");
            match message.expect("the link holds").expect("a message") {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send(&mut self, frame: &FromServer<'_>) {
        let text = frame.encode().expect("plain data");
        self.socket.send(Message::text(text)).await.expect("the link holds");
    }

    async fn execute(&mut self, task: &str, capability: &str, input: &Value, limit: Duration) {
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
            session: None,
            idempotency_key: None,
            traceparent: None,
        }))
        .await;
    }

    /// Reads until the live output of a task has this in it.
    async fn until_output(&mut self, wanted: &str) {
        loop {
            let text = self.text().await;
            if let Ok(FromWorker::Output(output)) = FromWorker::decode(&text)
                && output.data.contains(wanted)
            {
                return;
            }
        }
    }

    async fn ended(&mut self, task: &str) -> Ended {
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

    async fn run(&mut self, capability: &str, input: Value) -> Ended {
        self.execute("t", capability, &input, Duration::from_secs(30)).await;
        self.ended("t").await
    }
}

#[tokio::test]
async fn a_server_sees_two_capabilities_and_gets_what_code_does() {
    let worker = Worker::start().await;
    let (mut link, register) = worker.meet().await;
    assert_eq!(register["kind"], "python-sandbox");
    assert_eq!((&register["isolation"], &register["slots"]), (&json!("full"), &json!(3)));
    let offers = register["capabilities"].as_array().expect("a list");
    assert_eq!(offers.len(), 2);
    for (offer, name) in offers.iter().zip(["python.execute", "command.execute"]) {
        assert_eq!((&offer["name"], &offer["idempotent"]), (&json!(name), &json!(true)));
        assert_eq!(offer["input_schema"]["type"], "object");
    }
    let code = format!("import os\nprint('hello', '{TOKEN}' in str(os.environ))\n6 * 7");
    let ended = link.run("python.execute", json!({ "code": code })).await;
    assert_eq!(ended.status, Status::Succeeded);
    assert_eq!(ended.live, "hello False\n");
    assert_eq!(
        ended.output,
        json!({
            "outcome": "ok", "stdout": "hello False\n", "stderr": "", "exit_code": 0,
            "truncated": { "stdout": 0, "stderr": 0 }, "results": [{ "text": "42" }]
        })
    );
    for name in ["wall_ms", "cpu_ms", "peak_memory_bytes"] {
        assert!(ended.usage[name].is_u64(), "{name}: {}", ended.usage);
    }
    let ended = link.run("command.execute", json!({ "argv": ["cat"], "stdin": "in" })).await;
    assert_eq!((ended.status, &ended.output["stdout"]), (Status::Succeeded, &json!("in")));
    // The standard three, and the folder that ls reads: none of the worker's own.
    let ended = link.run("command.execute", json!({ "shell": "ls /proc/self/fd" })).await;
    assert_eq!(ended.output["stdout"], "0\n1\n2\n3\n");
}

#[tokio::test]
async fn failures_of_the_code_are_the_callers_and_are_not_tried_again() {
    let worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let ended = link.run("python.execute", json!({ "code": "raise KeyError('x')" })).await;
    assert_eq!((ended.status, ended.error), (Status::Failed, Some(("error".into(), false))));
    assert_eq!(ended.output["error"]["type"], "KeyError");
    let ended = link.run("command.execute", json!({ "shell": "exit 3" })).await;
    assert_eq!((ended.status, ended.error), (Status::Failed, Some(("exit".into(), false))));
    assert_eq!(ended.output["exit_code"], 3);
    let ended = link.run("command.execute", json!({ "argv": [] })).await;
    assert_eq!(ended.error, Some(("invalid_input".into(), false)));
    let page = worker.page("/metrics").await;
    assert!(page.contains("rollcall_sandbox_runs_total{outcome=\"exit\"} 1"), "{page}");
    assert!(worker.page("/healthz").await.contains("\"status\":\"ok\""));
}

#[tokio::test]
async fn a_task_ends_by_its_limit_or_by_a_cancel_with_what_it_wrote() {
    let worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let input = json!({ "code": "import time\nprint('up')\ntime.sleep(60)" });
    link.execute("limit", "python.execute", &input, Duration::from_secs(1)).await;
    let ended = link.ended("limit").await;
    assert_eq!((ended.status, ended.error), (Status::TimedOut, Some(("timeout".into(), false))));
    assert_eq!((&ended.output["outcome"], &ended.output["stdout"]), (&json!("timeout"), &json!("up\n")));
    link.execute("cancel", "python.execute", &input, Duration::from_secs(60)).await;
    link.until_output("up").await;
    let cancel = Cancel { task: "cancel".into(), epoch: link.epoch, reason: "cancelled".into() };
    link.send(&FromServer::from(cancel)).await;
    let ended = link.ended("cancel").await;
    assert_eq!((ended.status, &ended.output["outcome"]), (Status::Cancelled, &json!("cancelled")));
}

#[tokio::test]
async fn sandboxes_die_with_a_killed_worker() {
    let mut worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let marker = format!("75{}", std::process::id());
    let input = json!({ "shell": format!("setsid sleep {marker} & echo up; sleep {marker}") });
    link.execute("t", "command.execute", &input, Duration::from_secs(60)).await;
    link.until_output("up").await;
    assert!(!processes_with(&marker).is_empty());
    worker.child.kill().await.expect("our own child");
    eventually("no sandbox is left", || processes_with(&marker).is_empty()).await;
}

#[tokio::test]
async fn sigterm_is_a_clean_end_with_a_goodbye() {
    let mut worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let input = json!({ "shell": "echo up; sleep 1; echo finished" });
    link.execute("t", "command.execute", &input, Duration::from_secs(60)).await;
    link.until_output("up").await;
    kill(worker.pid(), Signal::SIGTERM).expect("it runs");
    let goodbye: Value = serde_json::from_str(&link.text().await).expect("JSON");
    assert_eq!(goodbye["type"], "goodbye");
    let ended = link.ended("t").await;
    assert_eq!((ended.status, &ended.output["stdout"]), (Status::Succeeded, &json!("up\nfinished\n")));
    assert!(worker.child.wait().await.expect("our own child").success());
}

#[tokio::test]
async fn a_worker_whose_server_is_gone_ends_with_all_its_sandboxes() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // The worker inherits the pipe as its standard input; any number will do.
    let mut child = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0"])
        .env("ROLLCALL_LIFELINE_FD", "0")
        .stdin(reader)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = lines.next_line().await.expect("a pipe");
    assert!(line.is_some_and(|line| line.starts_with("listening on ")));
    drop(writer);
    child.wait().await.expect("our own child");
}

#[tokio::test]
async fn a_wrong_token_and_an_open_port_without_one_are_refused() {
    let worker = Worker::start().await;
    let mut request = format!("ws://{}/", worker.address).into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("plain"));
    assert!(connect_async(request).await.is_err());
    let output = call(Path::new(PROGRAM), &["--listen", "0.0.0.0:0"], |_| {}).await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("token"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_check_tells_what_was_found() {
    let output = call(Path::new(PROGRAM), &["--check"], |_| {}).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    for line in ["ok: bubblewrap", "ok: control groups", "ok: seccomp", "ok: Python 3", "isolation: full"] {
        assert!(found.contains(line), "{found}");
    }
}

#[tokio::test]
async fn a_machine_that_cannot_hold_a_sandbox_is_refused_in_one_line() {
    let no_bwrap = |command: &mut Command| {
        command.env("PATH", "/nonexistent");
    };
    let output = call(Path::new(PROGRAM), &["--listen", "127.0.0.1:0"], no_bwrap).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(78), String::new()));
    let complaint = text(&output.stderr);
    assert!(
        complaint.contains("\"bubblewrap\" failed") && complaint.contains("cure: install"),
        "{complaint}"
    );
    assert_eq!(complaint.lines().count(), 1);
    let output = call(Path::new(PROGRAM), &["--check", "--python", "/nonexistent"], |_| {}).await;
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test]
async fn without_control_groups_it_runs_only_if_the_operator_says_so() {
    let output = on_read_only_system(&["--bind", "/proc", "/proc"], &["--check"]).await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("\"control groups\" failed"), "{}", text(&output.stderr));
    let weaker = ["--check", "--isolation-minimum", "no-cgroup"];
    let output = on_read_only_system(&["--bind", "/proc", "/proc"], &weaker).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("isolation: no-cgroup"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn without_user_namespaces_it_never_runs() {
    // With /proc read-only no uid map can be written, as where the kernel forbids it.
    let weaker = ["--check", "--isolation-minimum", "no-cgroup"];
    let output = on_read_only_system(&[], &weaker).await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("\"namespaces\" failed"), "{}", text(&output.stderr));
}

/// Calls the worker where nothing can be written, control groups neither.
async fn on_read_only_system(but: &[&str], arguments: &[&str]) -> Output {
    let view = ["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--cap-add", "ALL"];
    let arguments = [&view[..], but, &[PROGRAM], arguments].concat();
    call(Path::new("bwrap"), &arguments, |_| {}).await
}

async fn call(program: &Path, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("ROLLCALL_TOKEN").kill_on_drop(true).stdin(Stdio::null());
    change(&mut command);
    command.output().await.expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
