//! A finished task's log as the store keeps it: its events with their numbers, so that a watcher who
//! comes back goes on where it was, also after a restart. The store never looks into it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::log::{StateChange, TaskEvent, What};
use crate::fleet::{TaskRecord, Term};

/// JSON of a kept log at most, in bytes. Texts that need many escapes lose their beginning sooner.
const MAX_JSON: usize = 512 << 10;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptLog {
    /// The term that the events' ids bear.
    pub(super) term: Term,
    /// Whether events before the first are missing.
    pub(super) trimmed: bool,
    /// Each numbered one higher than the one before.
    pub(super) events: Vec<TaskEvent>,
}

impl KeptLog {
    /// What is left to tell of a task whose log was not kept, since it said nothing and nobody watched:
    /// its end. No server has this term, so the event has the same id always.
    pub(super) fn of_end(record: &TaskRecord) -> Self {
        let (change, at) = StateChange::of(record);
        let end = TaskEvent { number: 1, at, what: What::State(change) };
        Self { term: Term(0), trimmed: false, events: vec![end] }
    }

    /// For the store; `None` if even its end is too long.
    pub(super) fn encode(mut self) -> Option<Bytes> {
        while !self.events.is_empty() {
            let json = serde_json::to_vec(&self).ok()?;
            if json.len() <= MAX_JSON {
                return Some(json.into());
            }
            self.events.drain(..self.events.len().div_ceil(4));
            self.trimmed = true;
        }
        None
    }

    /// From the store; `None` for what no server wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|log: &Self| !log.events.is_empty())
    }
}
