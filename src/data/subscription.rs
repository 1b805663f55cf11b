//! One watcher's place in a task's log. It reads at its own pace; what it misses is told as a reset.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::TaskLogs;
use super::kept::KeptLog;
use super::log::{Found, Log, TaskEvent};
use crate::fleet::{TaskId, Term};

/// What a watcher gets.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// The next event.
    Event(TaskEvent),
    /// Events before this number's successor cannot be told any more: show the whole task instead,
    /// under this number, then go on.
    Reset(u64),
    /// The log is gone from memory; what the store has of it is told by
    /// [`TaskLogs::look_back`], after the last event that was told here. Nothing follows.
    Gone,
}

/// Watches one task until its final state.
#[derive(Debug)]
pub struct Subscription {
    logs: Arc<TaskLogs>,
    task: TaskId,
    /// The term that the events' ids bear.
    term: Term,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In a log, after the event of this number; `reset` is owed first.
    Live { seen: u64, reset: bool, more: Arc<Notify> },
    /// The task had ended and its log was not in memory: what is left to tell.
    Over(VecDeque<Item>),
}

impl Subscription {
    pub(super) fn live(logs: Arc<TaskLogs>, task: TaskId, log: &Log, last: Option<&str>) -> Self {
        let before = log.before_first();
        let (seen, reset) = match last {
            Some(id) => number_of(id, logs.term).map_or((before, true), |number| (number, false)),
            // Somebody new begins with the first event that is kept; if it is not the first of all,
            // the whole task makes up for the others.
            None => (before, log.is_trimmed()),
        };
        let more = log.buffer.as_ref().map(|buffer| Arc::clone(&buffer.more)).unwrap_or_default();
        let term = logs.term;
        Self { logs, task, term, place: Place::Live { seen, reset, more } }
    }

    pub(super) fn over(logs: Arc<TaskLogs>, task: TaskId, kept: KeptLog, last: Option<&str>) -> Self {
        let KeptLog { term, trimmed, events } = kept;
        let before = events.first().map_or(0, |event| event.number.saturating_sub(1));
        let newest = events.last().map_or(0, |event| event.number);
        let known = |number: &u64| (before..=newest).contains(number);
        let (seen, reset) = match last {
            Some(id) => number_of(id, term).filter(known).map_or((before, true), |number| (number, false)),
            None => (before, trimmed),
        };
        let reset = reset.then_some(Item::Reset(before));
        let events = events.into_iter().filter(|event| event.number > seen).map(Item::Event);
        Self { logs, task, term, place: Place::Over(reset.into_iter().chain(events).collect()) }
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
        format!("{}-{number}", self.term)
    }

    /// The next item; `None` after the final state. Cancel-safe.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            let (seen, reset, more) = match &mut self.place {
                Place::Over(items) => return items.pop_front(),
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
                    self.place = Place::Over(VecDeque::new());
                    return Some(Item::Gone);
                }
            }
        }
    }
}

/// The number in an event's id, if it bears this term.
fn number_of(id: &str, of: Term) -> Option<u64> {
    let (term, number) = id.split_once('-')?;
    (term.parse() == Ok(of.0)).then(|| number.parse().ok())?
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if matches!(self.place, Place::Live { .. }) {
            self.logs.unsubscribe(self.task);
        }
    }
}
