//! Records as bytes: JSON, so that a field more or less in another version of Rollcall is nothing
//! special, and beside it a checksum, so that a flipped bit is found and never answered as truth.

use std::fmt;
use std::hash::Hasher as _;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use crate::fleet::{Payload, TaskId, TaskRecord, TaskSpec};

/// A stored thing that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage(pub(super) String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A task's record in two parts.
pub(super) struct Encoded<'a> {
    pub(super) record: Vec<u8>,
    /// An input that goes to a row of its own; the record has an empty one then, which no JSON is.
    pub(super) input: Option<&'a str>,
    /// Bytes of an input that has a row of its own, written now or before.
    pub(super) input_bytes: u64,
}

/// Takes a record apart for the disk.
pub(super) fn encode(record: &TaskRecord) -> Result<Encoded<'_>, Damage> {
    let spec = &record.spec;
    if spec.is_stowed() {
        return Ok(Encoded { record: encoded(record)?, input: None, input_bytes: spec.input_bytes() });
    }
    let input = spec.input.as_str();
    if !input.is_empty() && input.len() <= TaskSpec::LARGE_INPUT {
        return Ok(Encoded { record: encoded(record)?, input: None, input_bytes: 0 });
    }
    let apart = TaskRecord { spec: Arc::new(spec.without_input()), ..record.clone() };
    Ok(Encoded { record: encoded(&apart)?, input: Some(input), input_bytes: spec.input_bytes() })
}

/// Reads a record; `input` finds one that has a row of its own.
pub(super) fn decode(
    bytes: &[u8],
    input: impl FnOnce() -> Result<Option<String>, super::Failed>,
) -> Result<Arc<TaskRecord>, super::Failed> {
    let mut record: TaskRecord = decoded(bytes)?;
    if record.spec.input.as_str().is_empty() {
        let Some(input) = input()? else {
            return Err(Damage(format!("the input of task {} is not there", record.id)).into());
        };
        record.spec = Arc::new(record.spec.with_input(Payload::from(input)));
    }
    Ok(Arc::new(record))
}

/// Any other row's bytes.
pub(super) fn encoded(value: &impl Serialize) -> Result<Vec<u8>, Damage> {
    serde_json::to_vec(value).map_err(|error| Damage(format!("it cannot be written: {error}")))
}

/// Reads what [`encoded`] wrote.
pub(super) fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    serde_json::from_slice(bytes).map_err(|error| Damage(format!("it cannot be read: {error}")))
}

/// XXH3 over a row's table, its key and its contents: it is there for a disk that errs, not for
/// somebody who forges rows, and costs a hundredth of what SHA-256 does without an instruction for
/// it. A row that was moved to another key is found as well.
pub(super) fn checksum(parts: &[&[u8]]) -> i64 {
    let mut hash = XxHash3_64::new();
    for part in parts {
        hash.write(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.write(part);
    }
    hash.finish().cast_signed()
}

/// The same in rows of the first version: eight bytes of SHA-256.
pub(super) fn first_checksum(parts: &[&[u8]]) -> i64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    i64::from_be_bytes(first)
}

/// The checksum of a task's row.
pub(super) fn task_checksum(id: TaskId, version: u64, record: &[u8]) -> i64 {
    checksum(&[b"task", &id.0.to_be_bytes(), &version.to_be_bytes(), record])
}

/// Compares a row's checksum with its contents.
pub(super) fn verify(what: impl FnOnce() -> String, stored: i64, parts: &[&[u8]]) -> Result<(), Damage> {
    if checksum(parts) == stored || first_checksum(parts) == stored {
        return Ok(());
    }
    Err(Damage(format!("{} is not what was written: its checksum differs", what())))
}
