//! How a worker is reached, or reaches a server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rollcall_tls::{ClientFiles, ServerFiles};

use crate::Token;

/// How a listening worker serves.
#[derive(Clone, Default)]
pub struct ServeOptions {
    /// What the server must show. Needed off loopback; a launched worker has one in `ROLLCALL_TOKEN`.
    pub token: Option<Token>,
    /// The worker's own part of the page at `/metrics`, in the Prometheus text format; what the
    /// operating system says of the process is added. Absent: no such page.
    pub metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// What is shown to the server, and by whose authority its certificate is judged. The files are
    /// followed. Absent: no TLS.
    pub tls: Option<ServerFiles>,
}

impl fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = self.metrics.is_some();
        f.debug_struct("ServeOptions")
            .field("token", &self.token)
            .field("metrics", &metrics)
            .field("tls", &self.tls)
            .finish()
    }
}

/// How a worker dials in.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// What to show the server.
    pub token: Option<Token>,
    /// The upper bound of the first wait before dialling again; jitter is full. Default 100 ms.
    pub initial_backoff: Duration,
    /// The longest such bound; it doubles with each failure. Default 30 s.
    pub max_backoff: Duration,
    /// How long dialling and the opening handshake may take together. Default 10 s.
    pub connect_timeout: Duration,
    /// Whom to believe over `wss://`, and what to show. Default: the operating system's authorities,
    /// and nothing. The files are read anew for each connection.
    pub tls: ClientFiles,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            token: None,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            tls: ClientFiles::default(),
        }
    }
}
