//! Workers of the story's own, made with the SDK, that note every run: whether a task ran twice is
//! known only where it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollcall_worker_sdk as sdk;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Server;

/// One start of a task's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The task.
    pub(crate) task: String,
    /// The attempt's fencing number.
    pub(crate) epoch: u64,
    /// Where it ran.
    pub(crate) worker: String,
}

/// What all workers of a story have run, and the gate that held tasks wait at. Clones are one.
#[derive(Clone)]
pub(crate) struct Runs {
    noted: Arc<Mutex<Vec<Run>>>,
    gate: Arc<watch::Sender<bool>>,
}

impl Runs {
    pub(crate) fn new() -> Self {
        Self { noted: Arc::default(), gate: Arc::new(watch::channel(false).0) }
    }

    /// Lets every task go that waits, or will wait, because of `"hold": true` in its input.
    pub(crate) fn open_the_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Every run so far, in order.
    pub(crate) fn all(&self) -> Vec<Run> {
        self.noted.lock().expect("nobody panics while noting").clone()
    }

    /// The runs of one task.
    pub(crate) fn of(&self, task: &Value) -> Vec<Run> {
        let id = task["id"].as_str().expect("a task has an id");
        self.all().into_iter().filter(|run| run.task == id).collect()
    }

    /// How often each task ran.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for run in self.all() {
            *counts.entry(run.task).or_default() += 1;
        }
        counts
    }

    async fn run(self, worker: String, task: sdk::Task, context: sdk::TaskContext) -> sdk::TaskEnd {
        let run = Run { task: task.id.clone(), epoch: task.epoch, worker };
        self.noted.lock().expect("nobody panics while noting").push(run);
        let input: Value = serde_json::from_str(task.input.get()).unwrap_or(Value::Null);
        let work = async {
            if let Some(millis) = input["millis"].as_u64() {
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            if input["hold"] == true {
                // Closed only with the story.
                drop(self.gate.subscribe().wait_for(|open| *open).await);
            }
        };
        tokio::select! {
            () = work => sdk::TaskEnd::succeeded(&input),
            _ = context.cancelled() => sdk::TaskEnd::cancelled(),
        }
    }
}

/// A worker on the story's own runtime. It offers `count.once`, which must not be repeated, and
/// `count.again`, which may be; both answer with their input. It ends when it is dropped.
pub(crate) struct CountingWorker {
    address: Option<SocketAddr>,
    _stop: DropGuard,
}

impl CountingWorker {
    /// One that listens on a free port.
    pub(crate) async fn listen(name: &str, runs: &Runs) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (worker, stop) = (worker(name, runs), CancellationToken::new());
        let until = stop.clone();
        // Ends by its guard, at the latest with the runtime.
        drop(tokio::spawn(async move { worker.serve(listener, Default::default(), until).await }));
        Self { address: Some(address), _stop: stop.drop_guard() }
    }

    /// One that dials in, and is quick to come back.
    pub(crate) fn dial_in(name: &str, runs: &Runs, server: &Server) -> Self {
        let (worker, stop) = (worker(name, runs), CancellationToken::new());
        let until = stop.clone();
        let url = server.base_url().replacen("http", "ws", 1);
        let options = sdk::ConnectOptions {
            initial_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(200),
            ..Default::default()
        };
        drop(tokio::spawn(async move { worker.connect(&url, options, until).await }));
        Self { address: None, _stop: stop.drop_guard() }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("it listens")
    }

    /// The same, as an `endpoint`.
    pub(crate) fn endpoint(&self) -> String {
        format!("ws://{}", self.address())
    }
}

fn worker(name: &str, runs: &Runs) -> sdk::Worker {
    let handler = |name: &str, runs: &Runs| {
        let (name, runs) = (name.to_owned(), runs.clone());
        move |task, context| runs.clone().run(name.clone(), task, context)
    };
    sdk::Worker::builder("counting")
        .name(name)
        .capability(sdk::Capability::new("count.once"), handler(name, runs))
        .capability(sdk::Capability::new("count.again").idempotent(true), handler(name, runs))
        .build()
}
