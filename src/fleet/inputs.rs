//! Large inputs, which leave memory once their tasks are recorded: let go of behind the record, read
//! again when a worker has a slot for the task. That slot is kept free meanwhile, so that no more is
//! read than can be handed over.

use std::sync::Arc;

use super::Fleet;
use super::ids::*;
use super::lifecycle::Phase;
use super::slab::{TaskIx, WorkerIx};
use super::task::*;
use super::words::*;

impl Fleet {
    /// Lets go of a task's input, if it is large, once its newest record is durable.
    pub(super) fn stow_later(&mut self, ix: TaskIx) {
        let task = &self.tasks[ix];
        if is_large(&task.spec) {
            self.stow_after(task.seq, task.id);
        }
    }

    /// The journal has the task: its input need not be here.
    pub(super) fn stow(&mut self, id: TaskId) {
        let Some(ix) = self.by_id.get(&id).copied() else { return };
        let task = &mut self.tasks[ix];
        if is_large(&task.spec) {
            task.spec = Arc::new(task.spec.without_input());
        }
    }

    /// Gives a task that waits no longer to a worker with a free slot: at once, or when its input has
    /// been read.
    pub(super) fn hand_over(&mut self, ix: TaskIx, worker: WorkerIx) {
        if !self.tasks[ix].spec.is_stowed() {
            self.leave_wait(ix);
            self.assign(ix, worker, None);
            return;
        }
        let next = self.next_ticket();
        let task = &mut self.tasks[ix];
        let Phase::Waiting(waiting) = &mut task.phase else { return };
        let ticket = waiting.ticket.take().map(|ticket| ticket.number);
        waiting.number = Some(ticket.or(waiting.number).unwrap_or(next));
        waiting.reading_for = Some(worker);
        let (tenant, id) = (task.tenant.clone(), task.id);
        self.registry.workers[worker].reading.insert(ix);
        self.effect(Effect::Fetch(tenant, id));
        self.relist(worker);
    }

    /// A task's input was read, or could not be.
    pub(super) fn fetched(&mut self, id: TaskId, input: Result<Payload, InputFault>) {
        let Some(ix) = self.by_id.get(&id).copied() else { return };
        let Some(worker) = self.end_reading(ix) else { return };
        self.relist(worker);
        match input {
            Ok(input) => {
                self.tasks[ix].unread = 0;
                let subject = &self.registry.workers[worker];
                if subject.listed && subject.demands.contains(&self.tasks[ix].demand) {
                    self.leave_wait(ix);
                    self.assign(ix, worker, Some(input));
                } else {
                    self.aim_again(ix);
                    self.place(ix);
                }
            }
            Err(InputFault::Unread(_)) => {
                self.leave_wait(ix);
                self.set_phase(ix, Phase::Between);
                let delay = self.retry_delay(self.tasks[ix].unread);
                self.tasks[ix].unread += 1;
                self.requeue(ix, delay, "input_unread");
            }
            Err(InputFault::Damaged(what)) => {
                self.leave_wait(ix);
                let started = self.tasks[ix].started_at.is_some();
                let message = format!("its input cannot be read from the store any more: {what}");
                self.tasks[ix].error = Some(TaskError {
                    side_effects: if started { SideEffects::Possible } else { SideEffects::None },
                    ..TaskError::new("store_damaged", message, Fault::Rollcall)
                });
                self.finish(ix, TaskState::Failed, Fault::Rollcall, true, None);
            }
        }
        self.refresh(worker);
    }

    /// Nobody needs a task's input any more; the slot that was kept for it is another's.
    pub(super) fn stop_reading(&mut self, ix: TaskIx) {
        if let Some(worker) = self.end_reading(ix) {
            self.refresh(worker);
        }
    }

    /// The worker has no connection any more: whatever is read for it goes to others.
    pub(super) fn reading_for_nobody(&mut self, worker: WorkerIx) {
        for ix in std::mem::take(&mut self.registry.workers[worker].reading) {
            self.end_reading(ix);
            self.aim_again(ix);
            self.place(ix);
        }
    }

    fn end_reading(&mut self, ix: TaskIx) -> Option<WorkerIx> {
        let Phase::Waiting(waiting) = &mut self.tasks[ix].phase else { return None };
        let worker = waiting.reading_for.take()?;
        self.registry.workers[worker].reading.remove(&ix);
        Some(worker)
    }
}

fn is_large(spec: &TaskSpec) -> bool {
    spec.input.as_str().len() > TaskSpec::LARGE_INPUT
}
