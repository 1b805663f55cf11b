//! What the stories share: whole servers on port 0, and waiting for conditions.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rollcall::api::{self, AppState, Listeners, WorkersListener};
use rollcall::client::{Answer, Client, Request};
use rollcall::config::{Source, Watcher, WorkersListen};
use rollcall::interface::LinkLimits;
use rollcall::interface::factory::WorkerInterfaceFactory;
use rollcall::manager::desired::Desired;
use rollcall::manager::{self, Manager, Parts};
use rollcall::store::MemoryStore;
use rollcall::supervise::Options;
use rollcall::telemetry::{Metrics, Traces};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) mod asking;
pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod cloud;
pub(crate) mod counting;
pub(crate) mod machine;
pub(crate) mod noting;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod recorder;
pub(crate) mod sandbox;
pub(crate) mod scripted;
pub(crate) mod trace;

/// How long a story waits for something before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A whole server in this process, on a thread and a port of its own. It stops when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    client: Client,
    metrics: Option<Client>,
    workers: Option<SocketAddr>,
    manager: Manager,
    folder: TempDir,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What the server's thread tells once it serves.
struct Started {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    workers: Option<SocketAddr>,
    manager: Manager,
}

impl Server {
    /// Starts a server with this text as its config.yaml. Whatever `listen` says, it listens on a
    /// free port of loopback.
    pub(crate) fn start(config: &str) -> Self {
        Self::with_env(config, &[])
    }

    /// The same, with this environment.
    pub(crate) fn with_env(config: &str, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config).expect("a file can be written");
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let source = Source::new(file, env);
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be had").block_on(serve(source, stopped, tell));
        });
        let Started { address, metrics, workers, manager } = told.recv().expect("the server starts");
        let client = |address| Client::new(&format!("http://{address}")).expect("the address is one");
        let (client, metrics) = (client(address), metrics.map(client));
        Self { address, client, metrics, workers, manager, folder, stop, thread: Some(thread) }
    }

    /// Where workers dial in, if there is such a listener.
    pub(crate) fn workers_address(&self) -> SocketAddr {
        self.workers.expect("server.workers_listen is in the configuration")
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn base_url(&self) -> &str {
        self.client.base()
    }

    /// A client of it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A client of the listener that `metrics_listen` asks for.
    pub(crate) fn metrics_client(&self) -> Option<&Client> {
        self.metrics.as_ref()
    }

    /// The handle to its fleet.
    pub(crate) fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Its config.yaml. Writing it reloads it.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// `GET path`, which must succeed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.client.get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// `POST path` with this body as it is; the status and the answer.
    pub(crate) async fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> (u16, Value) {
        let answer = self.send(Request::new(hyper::Method::POST, path).body(body)).await;
        (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// Sends a request, whatever the answer.
    pub(crate) async fn send(&self, request: Request) -> Answer {
        self.client.send(request).await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Runs a task to its end.
    pub(crate) async fn run(&self, capability: &str, input: Value) -> Value {
        let body = serde_json::json!({ "capability": capability, "input": input }).to_string();
        let (status, task) = self.post("/v1/tasks?wait=20s", body).await;
        assert_eq!(status, 200, "{task}");
        task
    }

    /// Waits until the worker shows this state.
    pub(crate) async fn worker_is(&self, name: &str, state: &str) -> Value {
        eventually(&format!("worker {name} is {state}"), async || {
            let worker = self.client.get::<Value>(&format!("/v1/workers/{name}")).await;
            worker.map_or_else(
                |error| Err(error.to_string()),
                |worker| {
                    if worker["state"] == state { Ok(worker) } else { Err(worker.to_string()) }
                },
            )
        })
        .await
    }

    /// Sends these bytes on a connection of their own and reads until the server closes it.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.expect("it listens");
        socket.write_all(bytes).await.expect("it takes bytes");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        let so_far = String::from_utf8_lossy(&answer);
        // A server that refuses before it has read everything may reset the connection.
        drop(read.unwrap_or_else(|_| panic!("it did not close the connection; it said: {so_far}")));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the server's thread panicked");
        }
    }
}

async fn serve(source: Source, mut stopped: watch::Receiver<bool>, tell: mpsc::Sender<Started>) {
    let loaded = source.load().unwrap_or_else(|error| panic!("config.yaml: {error}"));
    let moved = loaded.config.server.metrics_listen.is_some();
    let door = loaded.config.server.workers_listen.clone();
    let metrics = Arc::new(Metrics::default());
    let otlp = loaded.config.telemetry.otlp.clone();
    let start = |url: Arc<str>| Traces::start(&url, "story", Arc::clone(&metrics)).expect("a thread");
    let (traces, exporter) = otlp.map(start).unzip();
    let parts = Parts {
        opened: MemoryStore::default().open(),
        metrics,
        traces,
        factory: WorkerInterfaceFactory::new(),
        programs: Options { shim: Some(env!("CARGO_BIN_EXE_rollcall").into()), ..Options::default() },
        limits: LinkLimits::default(),
        seed: 1,
        record: None,
        data_dir: loaded.config.server.data_dir.clone(),
    };
    let (manager, fleet) = manager::start(parts).expect("threads are to be had");
    let fleet = tokio::spawn(fleet.run());
    let watcher = Watcher::new(source.path());
    let (desired, keeper) = Desired::start(manager.clone(), source, loaded).await.expect("the loop runs");
    let keeper = tokio::spawn(keeper.run(watcher, manager.stopping(), Arc::clone(manager.metrics())));
    let workers = match door {
        Some(WorkersListen { listen, tls }) => {
            let listener = TcpListener::bind(listen).await.expect("the port is free");
            let tls = tls.map(|files| manager.trust().tls.door(files).expect("good certificates"));
            Some(WorkersListener { listener, tls })
        }
        None => None,
    };
    let bind = async || TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let bound = |listener: &TcpListener| listener.local_addr().expect("it is bound");
    let listeners =
        Listeners { api: bind().await, metrics: if moved { Some(bind().await) } else { None }, workers };
    let workers = listeners.workers.as_ref().map(|workers| bound(&workers.listener));
    let address = bound(&listeners.api);
    let metrics = listeners.metrics.as_ref().map(bound);
    let (close, closed) = watch::channel(false);
    let state = AppState::new(manager.clone(), desired);
    let api = tokio::spawn(api::serve(listeners, state, closed));
    drop(tell.send(Started { address, metrics, workers, manager: manager.clone() }));
    drop(stopped.wait_for(|stop| *stop).await);
    manager.shutdown(Duration::from_secs(5)).await;
    close.send_replace(true);
    for (what, task) in [("the API", api), ("the keeper", keeper), ("the loop", fleet)] {
        task.await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    if let Some(exporter) = exporter {
        exporter.stop().await;
    }
}

/// Asks until the answer is `Ok`, and fails with the last one.
pub(crate) async fn eventually<T, F>(what: &str, mut ask: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < until, "waited in vain for: {what}; last seen: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A fleet of two mock workers with two slots each: one echoes at once, one takes a minute.
pub(crate) const MOCKS: &str = "
workers:
  - name: echo
    interface: mock
    capabilities: [echo, echo.twice]
    slots: 2
    mock: { latency: 5ms }
  - name: slow
    interface: mock
    capabilities: [slow]
    slots: 2
    mock: { latency: 60s }
";
