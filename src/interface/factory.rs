//! Picks the code that speaks to a worker: the real one or its mock twin. The configuration has
//! applied `ROLLCALL_WORKER_INTERFACE` by then, so the entry's own word is all that counts.

use std::sync::Arc;

use super::WorkerInterface;
use super::mock::MockInterface;
use super::websocket::WebSocketInterface;
use crate::fleet::{InterfaceKind, WorkerSpec};

/// One instance of each interface.
#[derive(Clone)]
pub struct WorkerInterfaceFactory {
    websocket: Arc<WebSocketInterface>,
    mock: Arc<MockInterface>,
}

impl WorkerInterfaceFactory {
    /// All of them. The mock workers live in it: as real ones do, they outlive their connections.
    pub fn new() -> Self {
        Self { websocket: Arc::default(), mock: Arc::default() }
    }

    /// The interface for a worker.
    pub fn interface(&self, spec: &WorkerSpec) -> Arc<dyn WorkerInterface> {
        match spec.interface {
            InterfaceKind::Websocket => Arc::clone(&self.websocket) as Arc<dyn WorkerInterface>,
            InterfaceKind::Mock => Arc::clone(&self.mock) as Arc<dyn WorkerInterface>,
        }
    }
}

impl Default for WorkerInterfaceFactory {
    fn default() -> Self {
        Self::new()
    }
}
