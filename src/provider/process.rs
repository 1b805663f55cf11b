//! Programs of the server's own machine. The supervisor runs them, as it does those of `launch`; what
//! is left to provide is a free port for each.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::{HookFault, Instances, Provider};
use crate::fleet::{PoolSpec, Wanted};
use crate::interface::BoxFuture;

/// Below the ports that systems give to outgoing connections, which come and go by themselves.
const FIRST: u16 = 20_000;
/// How many there are.
const COUNT: u16 = 12_000;

/// Finds free ports: one after another, from a random one on, so that a port that was just given
/// away is not given away again before its program listens.
#[derive(Debug, Clone)]
pub struct Process {
    next: Arc<AtomicU16>,
}

impl Default for Process {
    fn default() -> Self {
        Self { next: Arc::new(AtomicU16::new(rand::random_range(0..COUNT))) }
    }
}

impl Process {
    fn port(&self) -> Option<u16> {
        (0..COUNT).find_map(|_| {
            let port = FIRST + self.next.fetch_add(1, Ordering::Relaxed) % COUNT;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
        })
    }
}

impl Provider for Process {
    fn reconcile(&self, pool: Arc<PoolSpec>, wanted: Arc<Wanted>) -> BoxFuture<Result<Instances, HookFault>> {
        let wants = if pool.wants_port() { wanted.added.len() } else { 0 };
        let ports: Option<Vec<u16>> = (0..wants).map(|_| self.port()).collect();
        Box::pin(async move {
            let last = FIRST + COUNT - 1;
            let ports = ports
                .ok_or_else(|| HookFault::Failed(format!("no port from {FIRST} to {last} is free here")))?;
            Ok(Instances { ports })
        })
    }
}
