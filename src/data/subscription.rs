//! One watcher's place in a task's log. It reads at its own pace; what it misses is told as a reset.

use std::sync::Arc;

use tokio::sync::Notify;

use super::TaskLogs;
use super::log::{Found, Log, StateChange, TaskEvent, What};
use crate::fleet::{TaskId, TaskRecord};

/// The number under which the end of a task is told once its log is gone; no log counts that far.
const END: u64 = (1 << 53) - 1;

/// What a watcher gets.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// The next event.
    Event(TaskEvent),
    /// Events before this number's successor cannot be told any more: show the whole task instead,
    /// under this number, then go on.
    Reset(u64),
    /// The log is gone: show the whole task, and its state once more; nothing follows.
    Gone,
}

/// Watches one task until its final state.
#[derive(Debug)]
pub struct Subscription {
    logs: Arc<TaskLogs>,
    task: TaskId,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In a log, after the event of this number; `reset` is owed first.
    Live { seen: u64, reset: bool, more: Arc<Notify> },
    /// The task had ended and its log was gone: what is left to tell, last item first.
    Over(Vec<Item>),
}

impl Subscription {
    pub(super) fn live(logs: Arc<TaskLogs>, task: TaskId, log: &Log, last: Option<&str>) -> Self {
        let before = log.before_first();
        let (seen, reset) = match last {
            Some(id) => logs.number_of(id).map_or((before, true), |number| (number, false)),
            // Somebody new begins with the first event that is kept; if it is not the first of all,
            // the whole task makes up for the others.
            None => (before, log.is_trimmed()),
        };
        let more = log.buffer.as_ref().map(|buffer| Arc::clone(&buffer.more)).unwrap_or_default();
        Self { logs, task, place: Place::Live { seen, reset, more } }
    }

    pub(super) fn over(logs: Arc<TaskLogs>, record: &TaskRecord, last: Option<&str>) -> Self {
        let (change, at) = StateChange::of(record);
        let end = Item::Event(TaskEvent { number: END, at, what: What::State(change) });
        let items = match last {
            Some(id) if logs.number_of(id) == Some(END) => Vec::new(),
            Some(_) => vec![end, Item::Reset(END - 1)],
            None => vec![end],
        };
        Self { logs, task: record.id, place: Place::Over(items) }
    }

    /// Whether nothing is left to tell, so that a watcher who comes back need not do so again.
    pub fn is_over(&self) -> bool {
        match &self.place {
            Place::Over(items) => items.is_empty(),
            Place::Live { seen, reset, .. } => {
                !reset
                    && self
                        .logs
                        .shelf()
                        .logs
                        .get(&self.task)
                        .is_some_and(|log| log.after(*seen) == Found::End)
            }
        }
    }

    /// The opaque id of an event's number.
    pub fn event_id(&self, number: u64) -> String {
        self.logs.event_id(number)
    }

    /// The next item; `None` after the final state. Cancel-safe.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            let (seen, reset, more) = match &mut self.place {
                Place::Over(items) => return items.pop(),
                Place::Live { seen, reset, more } => (seen, reset, Arc::clone(more)),
            };
            let mut changed = std::pin::pin!(more.notified());
            // Registered before the look, so that nothing published in between is slept through.
            changed.as_mut().enable();
            let found = self.logs.shelf().logs.get(&self.task).map(|log| {
                if std::mem::take(reset) { Found::Gap(log.before_first()) } else { log.after(*seen) }
            });
            match found {
                Some(Found::Event(event)) => {
                    *seen = event.number;
                    return Some(Item::Event(event));
                }
                Some(Found::Gap(before)) => {
                    *seen = before;
                    return Some(Item::Reset(before));
                }
                Some(Found::End) => return None,
                Some(Found::Nothing) => changed.await,
                None => {
                    self.place = Place::Over(Vec::new());
                    return Some(Item::Gone);
                }
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if matches!(self.place, Place::Live { .. }) {
            self.logs.unsubscribe(self.task);
        }
    }
}
