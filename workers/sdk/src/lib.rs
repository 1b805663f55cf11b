//! What a worker written in Rust needs: offer capabilities, then serve a port that a Rollcall server
//! dials, or dial in. Registration, slots, heartbeats, deadlines, cancels, drains, resending of
//! results and reconnects are done here; a worker only runs its tasks.
//!
//! ```no_run
//! use rollcall_worker_sdk::{Capability, ServeOptions, TaskEnd, Worker};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> std::io::Result<()> {
//! let worker = Worker::builder("echo")
//!     .version(env!("CARGO_PKG_VERSION"))
//!     .slots(8)
//!     .capability(Capability::new("echo.say").idempotent(true), async |task, _context| {
//!         TaskEnd::succeeded(&task.input)
//!     })
//!     .build();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
//! worker.serve(listener, ServeOptions::default(), CancellationToken::new()).await
//! # }
//! ```

mod artifact;
mod capability;
mod dial;
mod fetch;
mod hub;
mod ledger;
mod lifeline;
mod link;
mod options;
mod process;
mod run;
mod serve;
mod shorten;
mod socket;
mod task;
mod text;
mod token;
mod worker;

pub use artifact::{ArtifactBody, StoredArtifact};
pub use capability::{Capability, Handler};
pub use fetch::{ArtifactReference, SERVER};
pub use lifeline::{LIFELINE_FD, lifeline};
pub use options::{ConnectOptions, ServeOptions};
pub use rollcall_protocol::{Fault, Status, Stream, TaskError, Usage};
pub use rollcall_tls::{ClientFiles, Identity, ServerFiles};
pub use serde_json::value::RawValue;
pub use task::{CancelReason, Task, TaskContext, TaskEnd};
pub use token::{TOKEN, Token};
pub use worker::{WORKER_NAME, Worker, WorkerBuilder};

/// A boxed future that may move between threads.
pub type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;
