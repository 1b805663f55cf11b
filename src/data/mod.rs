//! The data plane: each task's log of state changes and output, fed past the core and read by
//! watchers.

/// The logs of all tasks that somebody may still watch.
#[derive(Debug, Default)]
pub struct TaskLogs {}
