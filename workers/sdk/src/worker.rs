//! A worker: its name and offers, put together by a builder, and the two ways to meet a server.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fetch::{Api, SERVER};
use crate::hub::Hub;
use crate::{Capability, ConnectOptions, Handler, ServeOptions, Task, TaskContext, TaskEnd, Token};

/// The environment's name for the worker's name, which a server sets for those that it launches.
pub const WORKER_NAME: &str = "ROLLCALL_WORKER_NAME";

/// A worker, ready to meet a server. Cheap to clone; the clones are one worker.
#[derive(Clone)]
pub struct Worker(pub(crate) Arc<Hub>);

/// Hears of sessions that are over.
type SessionEnded = Arc<dyn Fn(&str) + Send + Sync>;

/// Tells which sessions are there.
type SessionsHeld = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What a worker is; see [`Worker::builder`].
pub struct WorkerBuilder {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) pool: Option<String>,
    pub(crate) kind: String,
    pub(crate) version: String,
    pub(crate) slots: Option<u32>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) isolation: Option<String>,
    pub(crate) offers: Vec<(Capability, Arc<dyn Handler>)>,
    pub(crate) max_message: usize,
    pub(crate) stop_grace: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) lifeline: CancellationToken,
    pub(crate) session_ended: Option<SessionEnded>,
    pub(crate) sessions: Option<SessionsHeld>,
    pub(crate) server: Option<Api>,
}

impl Worker {
    /// Begins a worker of a kind, such as `python-sandbox`.
    pub fn builder(kind: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder {
            name: std::env::var(WORKER_NAME).unwrap_or_default(),
            instance: format!("{:016x}", rand::random::<u64>()),
            pool: None,
            kind: kind.into(),
            version: String::new(),
            slots: None,
            labels: BTreeMap::new(),
            isolation: None,
            offers: Vec::new(),
            max_message: (1 << 20) + rollcall_protocol::ENVELOPE_BYTES,
            stop_grace: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(30),
            lifeline: CancellationToken::new(),
            session_ended: None,
            sessions: None,
            server: std::env::var(SERVER).ok().and_then(|url| Api::read(&url, None)),
        }
    }

    /// Serves a port that a server dials, with `/healthz` and `/metrics` on the same port, until
    /// `shutdown`; then says goodbye, lets running tasks finish for the grace, and returns.
    /// Connections that break are waited for anew; tasks go on meanwhile.
    ///
    /// # Errors
    /// When the listener is broken, or listens off loopback without a token, or a certificate's file is wrong.
    pub async fn serve(
        &self,
        listener: TcpListener,
        options: ServeOptions,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        crate::serve::serve(Arc::clone(&self.0), listener, options, shutdown).await
    }

    /// Dials in to a server (`ws://host:port` or `wss://host:port`, the path may be left out) until `shutdown`, again and
    /// again with exponential backoff and full jitter; then as [`Worker::serve`].
    ///
    /// # Errors
    /// When the URL is not one that can be dialled. A server that refuses is dialled again.
    pub async fn connect(
        &self,
        url: &str,
        options: ConnectOptions,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        crate::dial::dial(Arc::clone(&self.0), url, options, shutdown).await
    }

    /// How many tasks run now.
    pub fn running(&self) -> usize {
        self.0.running()
    }
}

impl WorkerBuilder {
    /// Names it as in the server's configuration. Default: `ROLLCALL_WORKER_NAME`, else none, which
    /// is enough for a worker that is dialled.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Replaces the random word that tells this process from the one before.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = instance.into();
        self
    }

    /// Names the pool that it was made for.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = Some(pool.into());
        self
    }

    /// Tells the program's version.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Bounds the tasks at once. Default: what the server says.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Adds a label that placement matches.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Tells how tool code is isolated: `full`, `no-cgroup` or `none`.
    pub fn isolation(mut self, level: impl Into<String>) -> Self {
        self.isolation = Some(level.into());
        self
    }

    /// Offers a capability and the `async` closure behind it. Of two that cover a task, the first
    /// runs it.
    pub fn capability<F, Fut>(self, capability: Capability, handler: F) -> Self
    where
        F: Fn(Task, TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = TaskEnd> + Send + 'static,
    {
        self.handler(capability, handler)
    }

    /// The same for a [`Handler`] that is a type of its own.
    pub fn handler(mut self, capability: Capability, handler: impl Handler) -> Self {
        self.offers.push((capability, Arc::new(handler)));
        self
    }

    /// Bounds one message in bytes, in and out. Default: 1 MiB + 64 KiB, what a server allows that
    /// has the default `server.max_body`. A result that is larger fails with `output_too_large`.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// How long a handler may go on after it was told to stop, before it is dropped. Default 5 s.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// How long running tasks may go on after the worker was told to stop. Default 30 s.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = grace;
        self
    }

    /// Ties the worker to its server's life (see [`lifeline`](crate::lifeline())): when the token is
    /// cancelled, every task is told to stop at once, and `serve` or `connect` returns.
    pub fn lifeline(mut self, cut: CancellationToken) -> Self {
        self.lifeline = cut;
        self
    }

    /// Called with the name of a session that nobody will name any more. Must not wait.
    pub fn on_session_end(mut self, ended: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.session_ended = Some(Arc::new(ended));
        self
    }

    /// Called with each connection: the names of the sessions whose state is there. So a server that was
    /// started anew goes on with them, and one that counts on others hears that they are gone. Must not wait.
    pub fn sessions(mut self, held: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.sessions = Some(Arc::new(held));
        self
    }

    /// Says where the server's API is (`http://host:port`), from which files of inputs are fetched, and what
    /// to show there. Default: `ROLLCALL_SERVER`, which a launched worker finds set; else the server that is
    /// dialled. A URL of another form is ignored.
    pub fn server(mut self, url: &str, token: Option<Token>) -> Self {
        self.server = Api::read(url, token).or(self.server);
        self
    }

    /// The worker.
    pub fn build(self) -> Worker {
        Worker(Hub::new(self))
    }
}
