//! One handler's run: its time limit, its cancels and its panics.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rollcall_protocol::{Fault, Status};
use tracing::error;

use crate::task::{self, TaskContext, TaskEnd};
use crate::{CancelReason, Handler, Task};

/// Runs a task to its end. Whatever the handler does, there is one within its time limit and a grace.
/// `again`: the capability is idempotent, so what this worker spoilt may be tried again.
pub(crate) async fn supervise(
    handler: Arc<dyn Handler>,
    task: Task,
    context: &TaskContext,
    grace: Duration,
    again: bool,
) -> TaskEnd {
    let limit = task.deadline;
    // Inside `async`, so that a panic before the handler's first `.await` is caught too.
    let work = AssertUnwindSafe(async { handler.run(task, context.clone()).await }).catch_unwind();
    let mut work = pin!(work);
    let finished = |end: Result<TaskEnd, Box<dyn Any + Send>>| {
        let end = end.unwrap_or_else(|_| panicked(context, again));
        // It may have heard of a cancel, and obeyed, before this code had its turn.
        match context.cancel_reason() {
            Some(reason) => stopped(Some(end), reason, again),
            None => end,
        }
    };
    tokio::select! {
        biased;
        end = &mut work => return finished(end),
        _ = context.cancelled() => {}
        () = tokio::time::sleep(limit) => context.cancel(CancelReason::Timeout),
    }
    tokio::select! {
        biased;
        end = &mut work => finished(end),
        () = tokio::time::sleep(grace) => {
            stopped(None, context.cancel_reason().unwrap_or(CancelReason::Cancelled), again)
        }
    }
}

/// The end of a handler that was told to stop; `None` when it did not and was dropped.
fn stopped(end: Option<TaskEnd>, reason: CancelReason, again: bool) -> TaskEnd {
    let heard = end.as_ref().is_none_or(|end| end.status == Status::Cancelled);
    let forced = end.is_none();
    let session_open = end.as_ref().and_then(|end| end.session_open);
    let (output, usage, error) = match end {
        // It had finished, or has its own word about what went wrong.
        Some(end) if end.status == Status::Succeeded => return end,
        Some(end) if !heard && reason != CancelReason::Shutdown => return end,
        Some(end) => (end.output, end.usage, end.error),
        None => (None, None, None),
    };
    let instead = match reason {
        CancelReason::Timeout => TaskEnd::timed_out(),
        CancelReason::Shutdown => {
            let mut error = task::error("worker_shutdown", "the worker was stopped", Fault::Worker);
            error.retryable = again;
            TaskEnd::failed(error)
        }
        CancelReason::Cancelled
        | CancelReason::Superseded
        | CancelReason::Dropped
        | CancelReason::Removed if forced => TaskEnd::killed(),
        CancelReason::Cancelled
        | CancelReason::Superseded
        | CancelReason::Dropped
        // Its own word about how it was stopped goes with it.
        | CancelReason::Removed => TaskEnd { error, ..TaskEnd::cancelled() },
    };
    TaskEnd { output, usage, session_open, ..instead }
}

fn panicked(context: &TaskContext, again: bool) -> TaskEnd {
    let key = &context.0.key;
    error!(task = key.task, epoch = key.epoch, "a handler panicked; this is a bug in the worker");
    let mut error = task::error("panic", "the worker's code panicked", Fault::Worker);
    error.retryable = again;
    TaskEnd::failed(error)
}
