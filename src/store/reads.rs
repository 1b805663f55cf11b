//! The way to the archive for whoever must not wait on its thread: a store that touches a disk is
//! read on threads for that, so many at once, and beyond a short queue a read is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Archive, Page, Query, ReadFault};
use crate::fleet::{Capability, KeyRow, Payload, TaskId, TaskRecord, Tenant};
use crate::telemetry::{Metrics, StoreCall, StoreStep};

/// Reads at once. More would only take the disk and the processor from the journal.
const AT_ONCE: usize = 4;

/// Reads that may wait for their turn.
const WAITING: usize = 256;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    archive: Arc<dyn Archive>,
    /// Held by a read until it is through, its wait included.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Reads {
    /// Reads of this archive.
    pub fn new(archive: Arc<dyn Archive>, metrics: Arc<Metrics>) -> Self {
        Self {
            archive,
            places: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            metrics,
        }
    }

    /// One task. Cancel-safe, as are the others.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn task(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Arc<TaskRecord>>, ReadFault> {
        let tenant = tenant.clone();
        self.read(StoreCall::Read, move |archive| archive.task(&tenant, id)).await
    }

    /// The input of a task, which the task's own record may not have any more.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn input(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Payload>, ReadFault> {
        let tenant = tenant.clone();
        self.read(StoreCall::Read, move |archive| archive.input(&tenant, id)).await
    }

    /// The task that has a key.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn key(&self, tenant: &Tenant, key: u128) -> Result<Option<KeyRow>, ReadFault> {
        let tenant = tenant.clone();
        self.read(StoreCall::Read, move |archive| archive.key(&tenant, key)).await
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn list(&self, query: Query) -> Result<Page, ReadFault> {
        self.read(StoreCall::Scan, move |archive| archive.list(&query)).await
    }

    /// The log of a finished task.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn log(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Bytes>, ReadFault> {
        let tenant = tenant.clone();
        self.read(StoreCall::Read, move |archive| archive.log(&tenant, id)).await
    }

    /// How many dead letters there are, by capability.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn dead_letters(&self) -> Result<BTreeMap<Capability, u64>, ReadFault> {
        self.read(StoreCall::Scan, |archive| archive.dead_letters()).await
    }

    async fn read<T: Send + 'static>(
        &self,
        call: StoreCall,
        read: impl FnOnce(&dyn Archive) -> Result<T, ReadFault> + Send + 'static,
    ) -> Result<T, ReadFault> {
        if !self.archive.takes_time() {
            return read(&*self.archive);
        }
        let began = Instant::now();
        let answer = self.read_elsewhere(read).await;
        self.metrics.store_call(call, began.elapsed());
        if let Err(fault) = &answer {
            let kind = match fault {
                ReadFault::Damaged(_) => "corrupt",
                ReadFault::Busy => "busy",
                ReadFault::Io(_) => "io",
            };
            self.metrics.store_failed(StoreStep::Read, kind);
            tracing::error!(%fault, alert = "RollcallStoreErrors", "a read of the store failed");
        }
        answer
    }

    async fn read_elsewhere<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Archive) -> Result<T, ReadFault> + Send + 'static,
    ) -> Result<T, ReadFault> {
        let _place = self.places.try_acquire().map_err(|_| ReadFault::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| ReadFault::Busy)?;
        let archive = Arc::clone(&self.archive);
        let reading = tokio::task::spawn_blocking(move || {
            // A caller who hangs up does not end the read: its turn goes on until it is through.
            let _turn = turn;
            read(&*archive)
        });
        reading.await.map_err(|error| ReadFault::Io(format!("the read failed: {error}")))?
    }
}
