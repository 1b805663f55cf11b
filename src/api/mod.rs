//! The HTTP face: REST, server-sent events, the metrics pages and the status page. It reads requests,
//! asks the manager, and writes answers; it decides nothing about tasks or workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::http::strikes::Strikes;
use crate::config::Config;
use crate::manager::Manager;
use crate::manager::desired::Desired;
use crate::telemetry::{Metrics, RouteSeries};

mod artifacts;
mod dispatch;
mod fleet;
mod http;
mod openapi;
mod page;
mod routes;
mod tasks;

pub use http::server::{Listeners, serve};
pub use http::workers_door::WorkersListener;

/// Streams of events that may be open at once.
const MAX_STREAMS: usize = 1_024;

/// What the handlers share. Clone it freely.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    manager: Manager,
    desired: Desired,
    /// The series of each route, in the order of the table.
    routes: Vec<RouteSeries>,
    /// Marks the ids of fleet events, so that those of another process are not taken for ours.
    boot: u32,
    /// When the API was put together.
    began: Instant,
    /// Turns at the very end: streams end, connections close.
    closing: CancellationToken,
    /// Connections of workers that dialled in.
    links: TaskTracker,
    streams: Arc<Semaphore>,
    /// Wrong tokens, by address.
    strikes: Strikes,
}

impl AppState {
    /// The API of this manager, whose fleet is what `desired` says.
    pub fn new(manager: Manager, desired: Desired) -> Self {
        Self(Arc::new(Shared {
            routes: routes::announce(manager.metrics()),
            manager,
            desired,
            boot: rand::random(),
            began: Instant::now(),
            closing: CancellationToken::new(),
            links: TaskTracker::new(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            strikes: Strikes::default(),
        }))
    }

    fn manager(&self) -> &Manager {
        &self.0.manager
    }

    fn desired(&self) -> &Desired {
        &self.0.desired
    }

    fn metrics(&self) -> &Arc<Metrics> {
        self.0.manager.metrics()
    }

    fn config(&self) -> Arc<Config> {
        self.0.desired.config()
    }

    /// How long there has been an API.
    fn age(&self) -> Duration {
        self.0.began.elapsed()
    }

    fn strikes(&self) -> &Strikes {
        &self.0.strikes
    }

    fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    fn close(&self) {
        self.0.closing.cancel();
        self.0.links.close();
    }

    /// Waits until no worker that dialled in is connected any more.
    async fn workers_ended(&self) {
        self.0.links.wait().await;
    }
}
