//! Worker processes, to be killed, stopped and continued: this test program itself, told by its
//! environment to be a worker.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rollcall_worker_sdk as sdk;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::authority::Pair;

const LISTEN: &str = "STORY_WORKER_LISTEN";
const CONNECT: &str = "STORY_WORKER_CONNECT";
const FOLDER: &str = "STORY_WORKER_FOLDER";
const KIND: &str = "STORY_WORKER_KIND";

/// What makes this program a worker, beside its environment.
const ARGUMENTS: [&str; 4] =
    ["--exact", "support::process::is_a_worker_when_told_so", "--ignored", "--nocapture"];

/// The `launch` block of such a worker with a canary, for a server that starts it by itself.
pub(crate) fn launch_block(address: SocketAddr, folder: &Path) -> String {
    let program = std::env::current_exe().expect("this program has a path");
    let command =
        serde_json::to_string(&[&[program.to_str().expect("a plain path")], &ARGUMENTS[..]].concat());
    let env = json!({ LISTEN: address.to_string(), FOLDER: folder, KIND: "python-sandbox" });
    format!("launch: {{ command: {}, env: {env} }}", command.expect("texts have a JSON form"))
}

const CA: &str = "STORY_WORKER_CA";
const CERT: &str = "STORY_WORKER_CERT";
const KEY: &str = "STORY_WORKER_KEY";

/// What a worker has to show, and whom it believes.
#[derive(Default, Clone)]
pub(crate) struct Papers<'s> {
    /// Its token.
    pub(crate) token: Option<&'s str>,
    /// The authority of the other side.
    pub(crate) believes: Option<PathBuf>,
    /// Its certificate.
    pub(crate) shows: Option<Pair>,
    /// The network namespace that it lives in.
    pub(crate) inside: Option<&'s str>,
}

/// A worker in a process of its own. It offers `once`, which must not be repeated, `again`, which
/// may be, and `strict`, which takes objects only. Each notes its run in the file `runs` of its folder, waits for the file that its input
/// names by `until`, and answers with its process's id. Dropping kills it.
pub(crate) struct WorkerProcess(Child);

impl WorkerProcess {
    /// One that listens there.
    pub(crate) fn listen(name: &str, address: SocketAddr, folder: &Path) -> Self {
        Self::start(name, (LISTEN, &address.to_string()), folder)
    }

    /// One that dials in to the server with this base URL.
    pub(crate) fn dial_in(name: &str, base_url: &str, folder: &Path) -> Self {
        Self::start(name, (CONNECT, &base_url.replacen("http", "ws", 1)), folder)
    }

    /// One that listens there and is of a kind that has a canary: it offers `python.execute` as well.
    /// For as long as there is a file `sick` in its folder with its name or process id in it, all that
    /// it does fails by its own fault.
    pub(crate) fn with_canary(name: &str, address: SocketAddr, folder: &Path) -> Self {
        let way = (LISTEN, &*address.to_string());
        Self::of_kind("python-sandbox", name, way, folder, &Papers::default())
    }

    /// One that dials in to this URL with what it was given.
    pub(crate) fn enter(name: &str, url: &str, folder: &Path, papers: &Papers<'_>) -> Self {
        Self::of_kind("story", name, (CONNECT, url), folder, papers)
    }

    /// One that listens there with what it was given.
    pub(crate) fn listen_with(name: &str, address: SocketAddr, folder: &Path, papers: &Papers<'_>) -> Self {
        Self::of_kind("story", name, (LISTEN, &address.to_string()), folder, papers)
    }

    fn start(name: &str, way: (&str, &str), folder: &Path) -> Self {
        Self::of_kind("story", name, way, folder, &Papers::default())
    }

    fn of_kind(kind: &str, name: &str, way: (&str, &str), folder: &Path, papers: &Papers<'_>) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = match papers.inside {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        let pair = papers.shows.iter().flat_map(|pair| [(CERT, &pair.cert), (KEY, &pair.key)]);
        command.envs(pair).envs(papers.believes.iter().map(|ca| (CA, ca)));
        command.env_remove(sdk::TOKEN).envs(papers.token.map(|token| (sdk::TOKEN, token)));
        let child = command
            .args(ARGUMENTS)
            .env(way.0, way.1)
            .env(FOLDER, folder)
            .env(KIND, kind)
            .env(sdk::WORKER_NAME, name)
            // A story that is killed leaves no process behind: the pipe ends with it.
            .env(sdk::LIFELINE_FD, "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program can be started");
        Self(child)
    }

    /// Its process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Kills it with SIGKILL, and returns when it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal to a process that this story has started.
pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, signal).expect("it runs");
}

/// What the worker processes of a folder have run: `(task, epoch, pid)`, in order.
pub(crate) fn runs(folder: &Path) -> Vec<(String, u64, u32)> {
    let text = std::fs::read_to_string(folder.join("runs")).unwrap_or_default();
    let run = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().map(|line| run(line).unwrap_or_else(|| panic!("an odd line: {line}"))).collect()
}

/// A port of loopback that nobody has, from below those that the system gives out by itself, so that
/// it stays free until its worker takes it.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 8_000).expect("small");
    for _ in 0..8_000 {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}

/// The worker program. Without its environment there is nothing to do.
#[tokio::test]
#[ignore = "is started by stories as a worker process"]
async fn is_a_worker_when_told_so() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let handler = move |task: sdk::Task, context: sdk::TaskContext| run(folder.clone(), task, context);
    let kind = std::env::var(KIND).unwrap_or_else(|_| "story".to_owned());
    let mut builder = sdk::Worker::builder(kind.as_str());
    if kind == "python-sandbox" {
        builder =
            builder.capability(sdk::Capability::new("python.execute").idempotent(true), handler.clone());
    }
    let worker = builder
        .capability(sdk::Capability::new("once"), handler.clone())
        .capability(sdk::Capability::new("again").idempotent(true), handler.clone())
        .capability(sdk::Capability::new("strict").input_schema(&json!({ "type": "object" })), handler)
        .lifeline(sdk::lifeline().expect("the story holds the other end"))
        .build();
    let never = CancellationToken::new();
    let token = sdk::Token::from_env().expect("a token that a header can carry");
    let file = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let identity = file(CERT).zip(file(KEY)).map(|(cert, key)| sdk::Identity { cert, key });
    let ca = file(CA);
    if let Ok(address) = std::env::var(LISTEN) {
        let listener = tokio::net::TcpListener::bind(&address).await.expect("the port is free");
        let tls = identity.map(|identity| sdk::ServerFiles { identity, client_ca: ca });
        let options = sdk::ServeOptions { token, tls, ..Default::default() };
        worker.serve(listener, options, never).await.expect("it listens");
    } else if let Ok(url) = std::env::var(CONNECT) {
        let options = sdk::ConnectOptions {
            initial_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(200),
            token,
            tls: sdk::ClientFiles { ca, identity },
            ..Default::default()
        };
        worker.connect(&url, options, never).await.expect("a URL");
    }
}

async fn run(folder: PathBuf, task: sdk::Task, context: sdk::TaskContext) -> sdk::TaskEnd {
    use std::io::Write;
    let line = format!("{} {} {}\n", task.id, task.epoch, std::process::id());
    let mut noted = std::fs::OpenOptions::new();
    let mut noted = noted.append(true).create(true).open(folder.join("runs")).expect("a folder");
    // In one piece, for other processes write here, too.
    noted.write_all(line.as_bytes()).expect("room on the disk");
    let name = std::env::var(sdk::WORKER_NAME).unwrap_or_default();
    let patient = std::fs::read_to_string(folder.join("sick")).unwrap_or_default();
    if patient == name || patient == std::process::id().to_string() {
        return sdk::TaskEnd::failed(sdk::TaskError {
            code: "sick".to_owned(),
            message: "whatever it does fails".to_owned(),
            retryable: true,
            fault: sdk::Fault::Worker,
            details: None,
        });
    }
    let input: Value = serde_json::from_str(task.input.get()).expect("JSON");
    while let Some(name) = input["until"].as_str() {
        if folder.join(name).exists() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
            _ = context.cancelled() => return sdk::TaskEnd::cancelled(),
        }
    }
    sdk::TaskEnd::succeeded(&json!({ "pid": std::process::id(), "epoch": task.epoch }))
}
