//! Where a pool's instances come from. A provider is told what is wanted, not what to do, so that the
//! same call twice is one; the core decides when, one call of a pool at a time, and believes only
//! the workers that register.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::fleet::{Event, PoolSpec, ProviderKind, ProviderReport, Wanted};
use crate::interface::BoxFuture;
use crate::trust::Trust;

mod document;
mod exec;
mod process;
mod signature;
mod webhook;

pub use document::Document;
pub use exec::Exec;
pub use process::Process;
pub use signature::{SIGNATURE, TIMESTAMP, signature};
pub use webhook::Webhook;

/// What a provider has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instances {
    /// A port for each added instance that takes one, in their order.
    pub ports: Vec<u16>,
}

/// Why a provider failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookFault {
    /// It took longer than it may.
    Timeout(Duration),
    /// It said no, or could not be reached. A sentence for people.
    Failed(String),
}

impl std::fmt::Display for HookFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for HookFault {}

/// Where instances come from.
pub trait Provider: Send + Sync {
    /// Sees that there are so many. Told again when it fails; dropping the future gives the call up.
    fn reconcile(&self, pool: Arc<PoolSpec>, wanted: Arc<Wanted>) -> BoxFuture<Result<Instances, HookFault>>;
}

/// The provider of those who ask for themselves how many there ought to be, and of mock twins,
/// which need nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Provider for Nobody {
    fn reconcile(&self, _: Arc<PoolSpec>, _: Arc<Wanted>) -> BoxFuture<Result<Instances, HookFault>> {
        Box::pin(async { Ok(Instances::default()) })
    }
}

/// All providers, and the calls that are under way.
pub struct Providers {
    events: mpsc::Sender<Event>,
    process: Process,
    webhook: Webhook,
    calls: JoinSet<()>,
}

impl Providers {
    /// Answers go to `events`.
    pub fn new(events: mpsc::Sender<Event>, trust: Trust) -> Self {
        Self { events, process: Process::default(), webhook: Webhook { trust }, calls: JoinSet::new() }
    }

    /// Calls the provider of a pool; [`Event::Provided`] follows.
    pub fn provide(&mut self, pool: Arc<PoolSpec>, wanted: Arc<Wanted>) {
        while let Some(ended) = self.calls.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "the call of a provider panicked; this is a bug in Rollcall");
            }
        }
        let (name, number) = (pool.name.clone(), wanted.call);
        let began = Instant::now();
        let call = match pool.scaling.provider {
            _ if pool.is_mock() => Nobody.reconcile(pool, wanted),
            ProviderKind::Process => self.process.reconcile(pool, wanted),
            ProviderKind::Exec => Exec.reconcile(pool, wanted),
            ProviderKind::Webhook => self.webhook.reconcile(pool, wanted),
            ProviderKind::External => Nobody.reconcile(pool, wanted),
        };
        let events = self.events.clone();
        self.calls.spawn(async move {
            // A panic would leave the core waiting for an answer for ever.
            let ended = tokio::spawn(call).await;
            let took = began.elapsed();
            let report = match ended {
                Ok(Ok(Instances { ports })) => ProviderReport::Done { ports, took },
                Ok(Err(fault)) => ProviderReport::Failed {
                    timeout: matches!(fault, HookFault::Timeout(_)),
                    message: fault.to_string().into(),
                    took,
                },
                Err(error) => ProviderReport::Failed {
                    timeout: false,
                    message: format!("the call broke off: {error}").into(),
                    took,
                },
            };
            // The lane is closed only when the server is gone.
            drop(events.send(Event::Provided(name, number, report)).await);
        });
    }

    /// Gives up every call.
    pub async fn shutdown(&mut self) {
        self.calls.shutdown().await;
    }
}
