//! A running fleet, put together: store, manager, desired value, and the tasks behind them. The
//! server is this with an API in front; an embedded agent is this alone.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::config::{Config, Loaded, Source, StoreKind, Watcher};
use crate::interface::LinkLimits;
use crate::interface::factory::WorkerInterfaceFactory;
use crate::manager::desired::Desired;
use crate::manager::{self, CallError, Manager, Parts, Prober};
use crate::store::sqlite::{self, OpenError, SqliteOptions};
use crate::store::{MemoryStore, Opened, Retention};
use crate::supervise::Options;
use crate::telemetry::{Exporter, Metrics, Traces, probe_runtime};

/// A fleet that runs on the present runtime.
pub(crate) struct Engine {
    manager: Manager,
    /// Kept because the watcher of the topology ends when nobody could ask it for anything.
    desired: Option<Desired>,
    tasks: JoinSet<&'static str>,
    /// Ends the tasks that do not end with the manager.
    stop: CancellationToken,
    exporter: Option<Exporter>,
}

/// Why a fleet did not start.
#[derive(Debug)]
pub(crate) enum EngineError {
    /// The store must not be served.
    Store(OpenError),
    /// A thread, a file, or what the store had.
    System(io::Error),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl Engine {
    /// Opens the store, of the `usual` kind unless the configuration names one, and starts the
    /// manager; the fleet is still empty.
    ///
    /// # Errors
    /// When the store cannot be opened, or a thread or `record` cannot be made.
    pub(crate) fn start(
        config: &Config,
        usual: StoreKind,
        metrics: Arc<Metrics>,
        programs: Options,
        record: Option<PathBuf>,
    ) -> Result<Self, EngineError> {
        let opened = open(config, usual).map_err(EngineError::Store)?;
        let (traces, exporter) = match &config.telemetry.otlp {
            None => (None, None),
            Some(url) => {
                let started = Traces::start(url, opened.id.as_str(), Arc::clone(&metrics));
                let (traces, exporter) = started.map_err(EngineError::System)?;
                (Some(traces), Some(exporter))
            }
        };
        let (manager, fleet_loop) = manager::start(Parts {
            opened,
            traces,
            metrics: Arc::clone(&metrics),
            factory: WorkerInterfaceFactory::new(),
            programs,
            limits: limits(config),
            seed: rand::random(),
            record,
            data_dir: config.server.data_dir.clone(),
        })
        .map_err(EngineError::System)?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            fleet_loop.run().await;
            "the fleet's loop"
        });
        let probe = probe_runtime(metrics, stop.clone());
        tasks.spawn(async {
            probe.await;
            "the probe of the event loop"
        });
        Ok(Self { manager, desired: None, tasks, stop, exporter })
    }

    /// Puts a file in force and follows its changes from then on.
    ///
    /// # Errors
    /// [`CallError::Stopped`] when the manager is gone.
    pub(crate) async fn follow(&mut self, source: Source, loaded: Loaded) -> Result<Desired, CallError> {
        let watcher = Watcher::new(source.path());
        let (desired, keeper) = Desired::start(self.manager.clone(), source, loaded).await?;
        let (stopping, metrics) = (self.manager.stopping(), Arc::clone(self.manager.metrics()));
        self.tasks.spawn(async {
            keeper.run(watcher, stopping, metrics).await;
            "the watcher of the topology"
        });
        let prober = Prober::new(self.manager.clone(), desired.configs());
        self.tasks.spawn(async {
            prober.run().await;
            "the sender of probes"
        });
        self.desired = Some(desired.clone());
        Ok(desired)
    }

    pub(crate) fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Waits until a task ends that should not: without it the fleet is not itself. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(ended) => told(ended),
            None => std::future::pending().await,
        }
    }

    /// Stops: launched workers may finish for up to `drain_timeout`, then all are sent away, and
    /// every task and program has ended when this returns.
    pub(crate) async fn stop(mut self, drain_timeout: Duration) {
        self.manager.shutdown(drain_timeout).await;
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a task failed while the fleet stopped");
            }
        }
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
    }
}

fn told(ended: Result<&'static str, JoinError>) -> String {
    match ended {
        Ok(what) => format!("{what} has ended although nobody asked for it"),
        Err(error) => format!("a task of the fleet failed: {error}"),
    }
}

/// A task of the largest accepted size, and its result, fit into one message.
fn limits(config: &Config) -> LinkLimits {
    let max_body = usize::try_from(config.server.max_body).unwrap_or(usize::MAX);
    LinkLimits {
        max_message: max_body.saturating_add(rollcall_protocol::ENVELOPE_BYTES),
        ..LinkLimits::default()
    }
}

/// Opens the store that the configuration names.
fn open(config: &Config, usual: StoreKind) -> Result<Opened, OpenError> {
    let retention = Retention::from(&config.retention);
    match config.store.kind.unwrap_or(usual) {
        StoreKind::Memory => Ok(MemoryStore::new(retention).open()),
        StoreKind::Sqlite => sqlite::open(&SqliteOptions::new(&config.server.data_dir, retention)),
    }
}
