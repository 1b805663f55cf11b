//! Tasks that ended a short while ago: the core answers for them by itself until the archive surely
//! has them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::ids::*;
use super::task::*;

/// Finished tasks that the core itself still answers for, until the archive surely has them.
const FINISHED_KEPT: usize = 4_096;

/// The same of passing ones, whose callers have had their answers: only their workers may ask once
/// more. Few, so that what each task touches stays in the processor's cache.
const FINISHED_PASSING: usize = 256;

/// Bytes of inputs and outputs that those may hold, of each kind.
const FINISHED_BYTES: usize = 16 << 20;

/// Tasks that ended a short while ago, bounded by number and bytes.
#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) tasks: BTreeMap<TaskId, Ended>,
    kept: Ring,
    passing: Ring,
}

/// Some of them in the order in which they ended.
#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<(TaskId, usize)>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Ended {
    pub(super) record: Arc<TaskRecord>,
    pub(super) seq: Seq,
    /// The attempt whose result was recorded.
    pub(super) recorded: Option<Epoch>,
}

impl Finished {
    pub(super) fn add(&mut self, ended: Ended) {
        let is_dead_letter = ended.record.dead_letter;
        self.put(ended, is_dead_letter);
    }

    /// Takes in one that is, or was until now, a dead letter: people may repeat it.
    pub(super) fn add_dead_letter(&mut self, ended: Ended) {
        self.put(ended, true);
    }

    fn put(&mut self, ended: Ended, is_dead_letter: bool) {
        let record = &ended.record;
        let bytes = record.spec.input.as_str().len() + record.output.as_ref().map_or(0, |o| o.as_str().len());
        let (ring, most) = match record.keep {
            Keep::Passing if !is_dead_letter => (&mut self.passing, FINISHED_PASSING),
            Keep::Passing | Keep::Kept | Keep::ByKey(_) => (&mut self.kept, FINISHED_KEPT),
        };
        ring.bytes += bytes;
        ring.order.push_back((record.id, bytes));
        self.tasks.insert(record.id, ended);
        while ring.order.len() > most || (ring.bytes > FINISHED_BYTES && ring.order.len() > 1) {
            let Some((oldest, bytes)) = ring.order.pop_front() else { break };
            ring.bytes -= bytes;
            self.tasks.remove(&oldest);
        }
    }
}
