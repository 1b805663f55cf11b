//! The one way in past the core: what comes for an attempt whose door is open goes to the task's log
//! or to the artifacts, all else is dropped and counted, or refused.

use std::sync::Arc;

use bytes::Bytes;

use super::TaskLogs;
use super::artifacts::Artifacts;
use crate::fleet::{Artifact, ConnId, Epoch, Fault, TaskError, TaskId};
use crate::interface::{DataDoor, OutputStream, Upload, UploadTo};

/// See the module.
#[derive(Debug)]
pub struct DataDoors {
    /// What tasks say.
    pub logs: Arc<TaskLogs>,
    /// What they make.
    pub artifacts: Arc<Artifacts>,
}

impl DataDoors {
    fn open(&self, to: &UploadTo) -> Result<(), TaskError> {
        if self.logs.is_open(to.conn, to.task, to.epoch) {
            return Ok(());
        }
        let message = "the attempt has ended, or is not this connection's";
        Err(TaskError::new("artifact_not_open", message, Fault::Worker))
    }
}

impl DataDoor for DataDoors {
    fn output(
        &self,
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        stream: OutputStream,
        offset: u64,
        data: &str,
    ) {
        self.logs.output(conn, task, epoch, stream, offset, data);
    }

    fn progress(
        &self,
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        fraction: Option<f64>,
        message: Option<&str>,
    ) {
        self.logs.progress(conn, task, epoch, fraction, message);
    }

    fn upload(&self, to: UploadTo, artifact: Artifact) -> Result<Box<dyn Upload>, TaskError> {
        self.open(&to)?;
        self.artifacts.upload(to, artifact)
    }

    fn keep(&self, to: UploadTo, name: &str, media_type: &str, bytes: Bytes) -> Result<(), TaskError> {
        self.open(&to)?;
        self.artifacts.keep(to, name, media_type, bytes)
    }

    fn artifacts(&self, task: TaskId, epoch: Epoch) -> Vec<Artifact> {
        self.artifacts.of(task, epoch)
    }
}
