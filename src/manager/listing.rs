//! Lists of tasks: the archive's pages, with what has happened since each record was written. The
//! journal is not told that an attempt began, for that would cost every task a row; the task's log
//! is, and it lies outside of the loop. So a list shows the truth and the core never hears of it.

use std::sync::Arc;

use super::Manager;
use crate::data::StateChange;
use crate::fleet::{TaskId, TaskRecord, TaskState, Wall};
use crate::store::{Page, Query, ReadFault};

/// Records that one page may look at for each that it shows, before it is handed out short: a list of
/// the few tasks that are `assigned` must not read through all that run.
const LOOKED_AT: usize = 10;

impl Manager {
    /// A page of tasks, newest first, as they are now (what has just been accepted or has just ended
    /// may be missing for 50 ms). A page may be short, or empty, although there is a next one.
    ///
    /// # Errors
    /// See [`ReadFault`].
    pub async fn tasks(&self, query: Query) -> Result<Page, ReadFault> {
        match query.state {
            Some(state) if !state.is_final() => self.tasks_in(state, query).await,
            _ => {
                let mut page = self.archive().list(query).await?;
                for record in &mut page.items {
                    self.bring_up_to_date(record).await?;
                }
                Ok(page)
            }
        }
    }

    /// Tasks that are in this state now, whichever the archive has them in.
    async fn tasks_in(&self, state: TaskState, mut query: Query) -> Result<Page, ReadFault> {
        let limit = query.limit;
        let mut page = Page::default();
        for _ in 0..LOOKED_AT {
            let (found, next) = self.unfinished(&query).await?;
            for mut record in found {
                let id = record.id;
                self.bring_up_to_date(&mut record).await?;
                if record.state == state {
                    page.items.push(record);
                }
                if page.items.len() == limit {
                    page.next = Some(id);
                    return Ok(page);
                }
            }
            page.next = next;
            query.before = next;
            if next.is_none() {
                break;
            }
        }
        Ok(page)
    }

    /// The next tasks that the archive has as not final, newest first, and where to go on.
    async fn unfinished(&self, query: &Query) -> Result<(Vec<Arc<TaskRecord>>, Option<TaskId>), ReadFault> {
        let mut found = Vec::new();
        let mut next = None;
        for state in TaskState::ALL.into_iter().filter(|state| !state.is_final()) {
            let page = self.archive().list(Query { state: Some(state), ..query.clone() }).await?;
            found.extend(page.items);
            // What lies beyond the end of any one of the pages is not known whole.
            next = next.max(page.next);
        }
        found.retain(|record| next.is_none_or(|next| record.id >= next));
        found.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
        Ok((found, next))
    }

    /// Takes up what the task's log knows and its record does not.
    async fn bring_up_to_date(&self, record: &mut Arc<TaskRecord>) -> Result<(), ReadFault> {
        if record.state.is_final() {
            return Ok(());
        }
        match self.logs().newest_state(record.id) {
            Some((change, _)) if change.state.is_final() => {
                // Its end is shown once it is written, so the archive has it by now.
                if let Some(ended) = self.archive().task(&record.tenant, record.id).await? {
                    *record = ended;
                }
            }
            Some((change, at)) if change.state != record.state => renew(Arc::make_mut(record), &change, at),
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// The record of a task that has gone on to this state.
fn renew(record: &mut TaskRecord, change: &StateChange, at: Wall) {
    record.state = change.state;
    record.pending_reason = change.reason.clone().filter(|_| change.state == TaskState::Queued);
    if change.state == TaskState::Running {
        record.started_at.get_or_insert(at);
        if let Some(attempt) = record.attempts.last_mut().filter(|last| last.number == change.attempt) {
            attempt.started_at.get_or_insert(at);
        }
    }
}
