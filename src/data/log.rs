//! One task's log: its newest state, and, once somebody watches or output has come, a bounded run
//! of numbered events. A task that nobody watches and that says nothing costs one small entry.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::fleet::{Artifact, ConnId, Epoch, TaskRecord, TaskState, Wall, WorkerName};
use crate::interface::OutputStream;

/// Events that one log keeps.
pub(super) const MAX_EVENTS: usize = 1_000;
/// Bytes of output and progress texts that one log keeps.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Output is cut into pieces of at most so many bytes, so that dropping one loses little.
pub(super) const MAX_PIECE: usize = 32 << 10;
/// What an event, or a buffer, is counted with beside its text.
pub(super) const OVERHEAD: usize = 128;

/// One numbered event of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Rises by one within a log.
    pub number: u64,
    /// When it happened.
    pub at: Wall,
    /// What happened.
    pub what: What,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// It has a new state.
    State(StateChange),
    /// It wrote something.
    Output {
        /// Where to.
        stream: OutputStream,
        /// The attempt's fencing number: offsets count from each attempt's beginning.
        epoch: Epoch,
        /// Where in the stream `data` begins, in bytes; a gap means that the worker dropped something.
        offset: u64,
        /// The text.
        data: Arc<str>,
    },
    /// It came further.
    Progress {
        /// 0 to 1, where it is known.
        fraction: Option<f64>,
        /// A short sentence.
        message: Option<Arc<str>>,
    },
    /// It made a file, which is stored.
    Artifact(Artifact),
}

impl What {
    fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                Self::State(_) => 0,
                Self::Output { data, .. } => data.len(),
                Self::Progress { message, .. } => message.as_ref().map_or(0, |message| message.len()),
                Self::Artifact(artifact) => artifact.name.len() + artifact.media_type.len(),
            }
    }
}

/// A task's new state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The state.
    pub state: TaskState,
    /// The attempt that it is about, from 1; 0 before the first.
    pub attempt: u32,
    /// The worker that it is about.
    pub worker: Option<WorkerName>,
    /// Why, where there is something to say.
    pub reason: Option<Arc<str>>,
}

impl StateChange {
    /// The state that a record shows, and when it came.
    pub fn of(record: &TaskRecord) -> (Self, Wall) {
        let last = record.attempts.last();
        let at = match record.state {
            TaskState::Queued => Some(record.submitted_at),
            TaskState::Assigned => last.map(|attempt| attempt.assigned_at),
            TaskState::Running | TaskState::Cancelling => {
                last.map(|attempt| attempt.started_at.unwrap_or(attempt.assigned_at))
            }
            TaskState::Succeeded
            | TaskState::Failed
            | TaskState::TimedOut
            | TaskState::Cancelled
            | TaskState::Expired
            | TaskState::Lost => record.finished_at,
        };
        let change = Self {
            state: record.state,
            attempt: last.map_or(0, |attempt| attempt.number),
            worker: last.map(|attempt| attempt.worker.clone()),
            reason: record
                .error
                .as_ref()
                .map(|error| Arc::clone(&error.code))
                .or(record.pending_reason.clone()),
        };
        (change, at.unwrap_or(record.submitted_at))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    /// Whose output may come in.
    pub(super) door: Option<(ConnId, Epoch)>,
    /// The number of the newest event.
    pub(super) newest: u64,
    /// The newest state, with its number.
    current: Option<(u64, Wall, StateChange)>,
    /// The final state, as the store was told of it; its watchers are told later.
    pub(super) concluded: Option<(Wall, StateChange)>,
    /// Made by the first output or the first watcher.
    pub(super) buffer: Option<Box<Buffer>>,
    /// Nothing more can come.
    pub(super) ended: bool,
    /// Watchers at this moment.
    pub(super) watchers: u32,
}

/// The events that a log keeps.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    events: VecDeque<TaskEvent>,
    trimmed: bool,
    pub(super) bytes: usize,
    pub(super) more: Arc<Notify>,
}

/// What a reader finds at its place.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// The next event.
    Event(TaskEvent),
    /// Events are missing; the ones that are kept begin after this number.
    Gap(u64),
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing will come.
    End,
}

impl Log {
    /// A log whose first event will bear the number after `base`.
    pub(super) fn new(base: u64) -> Self {
        Self {
            door: None,
            newest: base,
            current: None,
            concluded: None,
            buffer: None,
            ended: false,
            watchers: 0,
        }
    }

    /// Takes up a new state. Returns by how many bytes the log has grown.
    pub(super) fn state(&mut self, at: Wall, change: StateChange) -> isize {
        self.newest += 1;
        self.current = Some((self.newest, at, change.clone()));
        match &mut self.buffer {
            None => 0,
            Some(buffer) => buffer.push(TaskEvent { number: self.newest, at, what: What::State(change) }),
        }
    }

    /// The final state is on its way to the store: everything up to it, and whether something is
    /// missing before. `None` where no events are kept. Nothing but that state may follow.
    pub(super) fn conclude(&mut self, at: Wall, change: StateChange) -> Option<(bool, Vec<TaskEvent>)> {
        let buffer = self.buffer.as_ref()?;
        let end = TaskEvent { number: self.newest + 1, at, what: What::State(change.clone()) };
        let events = buffer.events.iter().cloned().chain([end]).collect();
        self.door = None;
        self.concluded = Some((at, change));
        Some((buffer.trimmed, events))
    }

    /// Appends output or progress. Returns by how many bytes the log has grown.
    pub(super) fn append(&mut self, at: Wall, what: What) -> isize {
        let opened = self.open_buffer();
        self.newest += 1;
        let event = TaskEvent { number: self.newest, at, what };
        opened + self.buffer.as_mut().map_or(0, |buffer| buffer.push(event))
    }

    /// Sees that events are kept from here on, beginning with the current state.
    pub(super) fn open_buffer(&mut self) -> isize {
        if self.buffer.is_some() {
            return 0;
        }
        let mut buffer = Box::new(Buffer { bytes: OVERHEAD, ..Buffer::default() });
        let mut grown = OVERHEAD.cast_signed();
        if let Some((number, at, change)) = &self.current {
            let what = What::State(change.clone());
            grown += buffer.push(TaskEvent { number: *number, at: *at, what });
        }
        self.buffer = Some(buffer);
        grown
    }

    /// Whether a state was ever published here.
    pub(super) fn has_state(&self) -> bool {
        self.current.is_some()
    }

    /// The newest state that was published here, and when it came.
    pub(super) fn newest_state(&self) -> Option<(StateChange, Wall)> {
        self.current.as_ref().map(|(_, at, change)| (change.clone(), *at))
    }

    /// Whether it has taken in this task's final state.
    pub(super) fn is_final(&self) -> bool {
        self.current.as_ref().is_some_and(|(_, _, change)| change.state.is_final())
    }

    /// Drops the oldest event; how many bytes that freed, `None` when there is none.
    pub(super) fn drop_oldest(&mut self) -> Option<usize> {
        self.buffer.as_mut()?.pop()
    }

    /// Whether it was made for a watcher of a task that no worker has had yet.
    pub(super) fn never_handed_over(&self) -> bool {
        !self.ended
            && self.door.is_none()
            && self.current.as_ref().is_some_and(|(_, _, change)| change.attempt == 0)
    }

    /// Whether events that were kept have been dropped again.
    pub(super) fn is_trimmed(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.trimmed)
    }

    /// The number before the first event that is kept.
    pub(super) fn before_first(&self) -> u64 {
        let first = self.buffer.as_ref().and_then(|buffer| buffer.events.front());
        first.map_or(self.newest, |event| event.number - 1)
    }

    /// What stands after the event `seen`.
    pub(super) fn after(&self, seen: u64) -> Found {
        let before = self.before_first();
        if seen < before || seen > self.newest {
            return Found::Gap(before);
        }
        if seen == self.newest {
            return if self.ended { Found::End } else { Found::Nothing };
        }
        let at = usize::try_from(seen - before).unwrap_or(usize::MAX);
        let event = self.buffer.as_ref().and_then(|buffer| buffer.events.get(at));
        event.map_or(Found::Nothing, |event| Found::Event(event.clone()))
    }
}

impl Buffer {
    fn push(&mut self, event: TaskEvent) -> isize {
        let before = self.bytes.cast_signed();
        self.bytes += event.what.bytes();
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            if self.pop().is_none() {
                break;
            }
        }
        self.bytes.cast_signed() - before
    }

    fn pop(&mut self) -> Option<usize> {
        // The newest state stays: it may be the final one, which every watcher is owed.
        if self.events.len() == 1 && matches!(self.events[0].what, What::State(_)) {
            return None;
        }
        let freed = self.events.pop_front()?.what.bytes();
        self.bytes -= freed;
        self.trimmed = true;
        Some(freed)
    }
}
