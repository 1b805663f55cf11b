//! A worker that notes each start of a task's code and answers with the number of that start, so
//! that two runs of one task can never have the same result.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rollcall_worker_sdk as sdk;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The worker, on a thread of its own: it goes on while the server is killed and starts again. It
/// ends when it is dropped.
pub(crate) struct NotingWorker {
    endpoint: String,
    starts: Starts,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// The attempts that were started, `(task, epoch)`, in order.
type Starts = Arc<Mutex<Vec<(String, u64)>>>;

impl NotingWorker {
    /// One that listens on a free port and offers `note`, which must not be repeated.
    pub(crate) fn listen() -> Self {
        let (starts, stop) = (Starts::default(), CancellationToken::new());
        let (tell, told) = mpsc::channel();
        let (noted, until) = (Arc::clone(&starts), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be had").block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
                tell.send(listener.local_addr().expect("it is bound")).expect("somebody waits for it");
                let worker = sdk::Worker::builder("noting")
                    .capability(sdk::Capability::new("note"), move |task, context| {
                        note(Arc::clone(&noted), task, context)
                    })
                    .build();
                worker.serve(listener, Default::default(), until).await.expect("it listens");
            });
        });
        let address = told.recv().expect("the worker starts");
        Self { endpoint: format!("ws://{address}"), starts, stop, thread: Some(thread) }
    }

    /// A configuration with only this worker.
    pub(crate) fn config(&self) -> String {
        format!(
            "reconnect: {{ initial_backoff: 20ms, max_backoff: 200ms }}\nworkers:\n  - {{ name: ann, endpoint: \"{}\", slots: 8 }}\n",
            self.endpoint
        )
    }

    /// The attempts that were started, in order.
    pub(crate) fn starts(&self) -> Vec<(String, u64)> {
        self.starts.lock().expect("nobody panics while noting").clone()
    }

    /// No attempt was started twice.
    pub(crate) fn never_started_an_attempt_twice(&self) {
        let mut seen = BTreeSet::new();
        for start in self.starts() {
            assert!(seen.insert(start.clone()), "{start:?} was started twice");
        }
    }
}

impl Drop for NotingWorker {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the worker's thread panicked");
        }
    }
}

async fn note(starts: Starts, task: sdk::Task, context: sdk::TaskContext) -> sdk::TaskEnd {
    let start = {
        let mut starts = starts.lock().expect("nobody panics while noting");
        starts.push((task.id.clone(), task.epoch));
        starts.len() - 1
    };
    let input: Value = serde_json::from_str(task.input.get()).unwrap_or(Value::Null);
    let work = tokio::time::sleep(Duration::from_millis(input["millis"].as_u64().unwrap_or_default()));
    tokio::select! {
        () = work => sdk::TaskEnd::succeeded(&json!({ "number": input["number"], "start": start })),
        _ = context.cancelled() => sdk::TaskEnd::cancelled(),
    }
}
