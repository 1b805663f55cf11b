//! The library face: a fleet inside another program, without HTTP. It runs on a thread of its own,
//! so that neither can starve the other, and any executor may wait for its answers.
//!
//! ```
//! use rollcall::agent::{ExecutorAgent, Task};
//! use serde_json::json;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let agent = ExecutorAgent::from_yaml(
//!     "
//!     workers:
//!       - name: python-sandbox
//!         interface: mock          # websocket, with an endpoint, for a real one
//!         capabilities: [python.execute]
//!     ",
//! )
//! .await?;
//! agent.ready(Duration::from_secs(10)).await?;
//!
//! // A mock worker answers with its input.
//! let task = Task::new("python.execute").input(json!({"code": "print(6*7)"}));
//! let outcome = agent.execute(task.timeout(Duration::from_secs(30))).await?;
//! assert_eq!(outcome.output, json!({"code": "print(6*7)"}));
//!
//! agent.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::config::{Config, Env, Loaded, Problem, Source, StoreKind, listed};
use crate::fleet::{Source as Door, TaskState, Tenant, WorkerState, WorkerView};
use crate::manager::{Ask, Manager, Submitted};
use crate::store::sqlite::OpenError;
use crate::supervise::Options;
use crate::telemetry::Metrics;

pub(crate) mod engine;
mod task;

pub use task::{ExecuteError, Outcome, Task};

use engine::{Engine, EngineError};

/// How often readiness is looked at again, should a change have been missed.
const RECHECK: Duration = Duration::from_millis(50);

/// Why an agent did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration cannot be read, or is wrong: everything that is wrong with it.
    Config(Vec<Problem>),
    /// The store cannot be opened.
    Store(OpenError),
    /// The system would not let it.
    System(std::io::Error),
    /// It stopped while it started.
    Stopped,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => f.write_str(&listed(problems)),
            Self::Store(error) => write!(f, "the agent cannot start: {error}"),
            Self::System(error) => write!(f, "the agent cannot start: {error}"),
            Self::Stopped => f.write_str("the agent stopped while it started"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::System(error) => Some(error),
            Self::Config(_) | Self::Stopped => None,
        }
    }
}

/// Workers that were not ready in time, each with its state and, where there is one, the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady(pub Vec<String>);

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not ready in time: {}", self.0.join(", "))
    }
}

impl std::error::Error for NotReady {}

/// How an agent is made.
#[derive(Debug, Clone)]
pub struct Builder {
    from: Given,
    env: Env,
    programs: Options,
}

#[derive(Debug, Clone)]
enum Given {
    File(PathBuf),
    Text(String),
}

impl Builder {
    /// Reads the configuration with these names and values instead of the process's environment:
    /// `${NAME}` in the text, and switches such as `ROLLCALL_WORKER_INTERFACE=mock`.
    pub fn env<N: Into<String>, V: Into<String>>(mut self, env: impl IntoIterator<Item = (N, V)>) -> Self {
        self.env = env.into_iter().collect();
        self
    }

    /// Where the `rollcall` program is, under which `launch` blocks are run; unless said, beside
    /// this program or on `PATH`.
    pub fn rollcall_program(mut self, path: impl Into<PathBuf>) -> Self {
        self.programs.shim = Some(path.into());
        self
    }

    /// Starts the agent and its workers. They connect meanwhile: see [`ExecutorAgent::ready`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self) -> Result<ExecutorAgent, StartError> {
        let (started, starting) = oneshot::channel();
        let (stop, stopping) = oneshot::channel();
        // Nothing is sent: it closes when the thread is through.
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("rollcall-agent".to_owned())
            .spawn(move || {
                let _closes_last = end;
                self.run(started, stopping);
            })
            .map_err(StartError::System)?;
        let running = starting.await.map_err(|_| StartError::Stopped)??;
        Ok(ExecutorAgent { running, stop: Some(stop), ended: Some(ended), thread: Some(thread) })
    }

    /// The agent's thread.
    fn run(
        self,
        started: oneshot::Sender<Result<Running, StartError>>,
        stopping: oneshot::Receiver<Duration>,
    ) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(StartError::System(error)))),
        };
        runtime.block_on(async {
            let mut engine = match self.engine().await {
                Ok(engine) => engine,
                Err(error) => return drop(started.send(Err(error))),
            };
            let running = Running { manager: engine.manager().clone(), runtime: Handle::current() };
            if started.send(Ok(running)).is_err() {
                return engine.stop(Duration::ZERO).await;
            }
            let drain = tokio::select! {
                // An agent that was dropped waits for nothing.
                drain = stopping => drain.unwrap_or(Duration::ZERO),
                failed = engine.failed() => {
                    error!("{failed}: the agent stops; this is a bug in Rollcall");
                    Duration::ZERO
                }
            };
            engine.stop(drain).await;
        });
    }

    async fn engine(self) -> Result<Engine, StartError> {
        let source = match &self.from {
            Given::File(path) => Source::new(path, self.env),
            Given::Text(_) => Source::new("config.yaml", self.env),
        };
        let start = |config: &Config| {
            // Its tasks end with their callers: nothing needs a disk unless the file says so.
            let usual = StoreKind::Memory;
            Engine::start(config, usual, Arc::new(Metrics::default()), self.programs, None).map_err(|error| {
                match error {
                    EngineError::Store(error) => StartError::Store(error),
                    EngineError::System(error) => StartError::System(error),
                }
            })
        };
        match self.from {
            Given::File(_) => {
                let loaded: Loaded = source.load().map_err(|failed| StartError::Config(failed.problems))?;
                let mut engine = start(&loaded.config)?;
                engine.follow(source, loaded).await.map_err(|_| StartError::Stopped)?;
                Ok(engine)
            }
            Given::Text(text) => {
                let config = source.parse("the given text", &text).map_err(StartError::Config)?;
                let engine = start(&config)?;
                engine.manager().apply(config.topology).await.map_err(|_| StartError::Stopped)?;
                Ok(engine)
            }
        }
    }
}

/// What calls need of a running agent.
struct Running {
    manager: Manager,
    runtime: Handle,
}

/// A fleet inside this program. See the module for an example.
///
/// Dropping it stops it without waiting for tasks; programs that it launched end with it.
pub struct ExecutorAgent {
    running: Running,
    stop: Option<oneshot::Sender<Duration>>,
    ended: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for ExecutorAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorAgent").finish_non_exhaustive()
    }
}

impl ExecutorAgent {
    /// How long launched workers may finish what they run when the agent is shut down.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// An agent of the workers in this file. Later changes of the file are followed.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn from_config_file(path: impl AsRef<Path>) -> Result<Self, StartError> {
        Self::builder_of_file(path).start().await
    }

    /// An agent of the workers in this text, which reads like a `config.yaml`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn from_yaml(text: impl Into<String>) -> Result<Self, StartError> {
        Self::builder_of_yaml(text).start().await
    }

    /// As [`ExecutorAgent::from_config_file`], with more to say.
    pub fn builder_of_file(path: impl AsRef<Path>) -> Builder {
        Self::builder(Given::File(path.as_ref().to_owned()))
    }

    /// As [`ExecutorAgent::from_yaml`], with more to say.
    pub fn builder_of_yaml(text: impl Into<String>) -> Builder {
        Self::builder(Given::Text(text.into()))
    }

    fn builder(from: Given) -> Builder {
        Builder { from, env: Env::of_process(), programs: Options::default() }
    }

    /// Runs a task and waits for its end. A caller who drops this future before the task was handed
    /// to a worker takes the task back; later, it runs on with nobody to hear of it.
    ///
    /// # Errors
    /// See [`ExecuteError`]; a task that did not succeed is one, with its outcome.
    pub async fn execute(&self, task: Task) -> Result<Outcome, ExecuteError> {
        let ask = Ask {
            tenant: Tenant::default_tenant(),
            source: Door::Library,
            key: None,
            spec: task.finish()?,
            retry_of: None,
        };
        // The task's own limits end it; no other patience is needed.
        let submitted = self.within(|manager| async move { manager.execute(ask, Duration::MAX).await }).await;
        let submitted = submitted.ok_or(ExecuteError::Stopped)??;
        let (Submitted::Finished(record) | Submitted::Accepted(record) | Submitted::Replayed(record)) =
            submitted;
        let outcome = Outcome::of(&record);
        if record.state == TaskState::Succeeded {
            Ok(outcome)
        } else {
            Err(ExecuteError::Failed(Box::new(outcome)))
        }
    }

    /// The workers, as they are at the moment.
    pub fn workers(&self) -> Vec<Arc<WorkerView>> {
        self.running.manager.workers().workers.clone()
    }

    /// Waits until every worker is ready.
    ///
    /// # Errors
    /// [`NotReady`] names those that were not within `patience`.
    pub async fn ready(&self, patience: Duration) -> Result<(), NotReady> {
        let waited = self
            .within(|manager| async move {
                let all_ready = async {
                    while !unready(&manager).is_empty() {
                        // Either way the next look decides.
                        drop(tokio::time::timeout(RECHECK, manager.workers_changed()).await);
                    }
                };
                drop(tokio::time::timeout(patience, all_ready).await);
                unready(&manager)
            })
            .await;
        match waited {
            Some(unready) if unready.is_empty() => Ok(()),
            Some(unready) => Err(NotReady(unready)),
            None => Err(NotReady(vec!["the agent has stopped".to_owned()])),
        }
    }

    /// Stops: no new tasks, launched workers finish for up to [`ExecutorAgent::DRAIN_TIMEOUT`], all
    /// connections are closed and all launched programs have ended when this returns.
    pub async fn shutdown(mut self) {
        if let (Some(stop), Some(ended)) = (self.stop.take(), self.ended.take()) {
            // An error means that it has stopped already.
            let _stopped = stop.send(Self::DRAIN_TIMEOUT);
            let _closed = ended.await;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the agent's thread panicked; this is a bug in Rollcall");
        }
    }

    /// Runs a call on the agent's own thread, where its timers are; `None` when that is gone.
    async fn within<T, F>(&self, call: impl FnOnce(Manager) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let call = call(self.running.manager.clone());
        AbortOnDropHandle::new(self.running.runtime.spawn(call)).await.ok()
    }
}

/// The workers that are not ready, and why.
fn unready(manager: &Manager) -> Vec<String> {
    let snapshot = manager.workers();
    let missing = snapshot.workers.iter().filter(|worker| worker.state != WorkerState::Ready);
    missing
        .map(|worker| {
            let why = worker.reason.as_ref().or(worker.last_error.as_ref());
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            format!("{} is {}{why}", worker.name, worker.state.as_str())
        })
        .collect()
}

#[cfg(test)]
mod tests;
