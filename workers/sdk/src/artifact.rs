//! A file on its way to the server: hashed, announced, then sent piece by piece as far as the
//! server's credit goes, and once more from its beginning on each new connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rollcall_protocol::{Artifact, CHUNK_BYTES, Fault, TaskError};
use serde::ser::{Serialize, SerializeMap, Serializer};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::TaskContext;
use crate::hub::Hub;
use crate::ledger::UploadStep;
use crate::task::error;

/// The bytes of a file.
#[derive(Debug, Clone)]
pub enum ArtifactBody {
    /// In memory.
    Bytes(Bytes),
    /// In a file that does not change meanwhile; read from its beginning, off the runtime's threads.
    File(Arc<File>),
}

impl From<Bytes> for ArtifactBody {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for ArtifactBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for ArtifactBody {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<File> for ArtifactBody {
    fn from(file: File) -> Self {
        Self::File(Arc::new(file))
    }
}

/// A file that the server has. As JSON it is a reference, to be put into a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredArtifact {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// The SHA-256 of its bytes, as 64 hexadecimal digits.
    pub sha256: String,
}

impl Serialize for StoredArtifact {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(4))?;
        map.serialize_entry("$artifact", &format!("sha256:{}", self.sha256))?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("media_type", &self.media_type)?;
        map.serialize_entry("size", &self.size)?;
        map.end()
    }
}

/// See [`TaskContext::artifact`].
pub(crate) async fn send_artifact(
    context: &TaskContext,
    name: &str,
    media_type: &str,
    body: ArtifactBody,
) -> Result<StoredArtifact, TaskError> {
    let (size, sha256) = measured(&body).await.map_err(|problem| unreadable(&problem))?;
    let key = &context.0.key;
    let file = Artifact {
        task: key.task.clone(),
        epoch: key.epoch,
        number: 0,
        name: name.to_owned(),
        media_type: media_type.to_owned(),
        size,
        sha256,
    };
    while !sent(&context.0.hub, &file, &body).await? {}
    let Artifact { name, media_type, size, sha256, .. } = file;
    Ok(StoredArtifact { name, media_type, size, sha256 })
}

/// Sends it over one connection; false when that one broke.
async fn sent(hub: &Arc<Hub>, file: &Artifact, body: &ArtifactBody) -> Result<bool, TaskError> {
    let upload = Upload { hub, number: hub.announce(file).await? };
    let mut at = 0;
    loop {
        match hub.upload_step(upload.number, file.size - at).await {
            UploadStep::Send(most) => {
                let most = usize::try_from(most).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                let bytes = read(body, at, most).await.map_err(|problem| unreadable(&problem))?;
                at += bytes.len() as u64;
                hub.send_chunk(upload.number, &bytes);
            }
            UploadStep::Stored => return Ok(true),
            UploadStep::Refused(problem) => return Err(*problem),
            UploadStep::Again => return Ok(false),
        }
    }
}

/// Ends an upload, however its future ends.
struct Upload<'a> {
    hub: &'a Hub,
    number: u32,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        self.hub.end_upload(self.number);
    }
}

async fn measured(body: &ArtifactBody) -> io::Result<(u64, String)> {
    let body = body.clone();
    let measure = move || {
        let mut hasher = Sha256::new();
        let size = match body {
            ArtifactBody::Bytes(bytes) => {
                hasher.update(&bytes);
                bytes.len() as u64
            }
            ArtifactBody::File(file) => {
                let (mut at, mut piece) = (0, vec![0; CHUNK_BYTES]);
                loop {
                    let count = file.read_at(&mut piece, at)?;
                    if count == 0 {
                        break at;
                    }
                    hasher.update(&piece[..count]);
                    at += count as u64;
                }
            }
        };
        let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((size, hash))
    };
    spawn_blocking(measure).await.map_err(io::Error::other)?
}

async fn read(body: &ArtifactBody, at: u64, most: usize) -> io::Result<Bytes> {
    match body {
        ArtifactBody::Bytes(bytes) => {
            let at = usize::try_from(at).map_err(io::Error::other)?;
            Ok(bytes.slice(at..at + most))
        }
        ArtifactBody::File(file) => {
            let file = Arc::clone(file);
            let read = move || {
                let mut piece = vec![0; most];
                file.read_exact_at(&mut piece, at).map(|()| piece.into())
            };
            spawn_blocking(read).await.map_err(io::Error::other)?
        }
    }
}

fn unreadable(problem: &io::Error) -> TaskError {
    error("artifact_unreadable", &format!("the file cannot be read: {problem}"), Fault::Worker)
}
