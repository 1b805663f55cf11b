//! What a worker offers, and the code behind it.

use rollcall_protocol::{CapabilityOffer, RawValueEq};

use crate::{BoxFuture, Task, TaskContext, TaskEnd};

/// One thing that a worker can be asked for.
#[derive(Debug, Clone)]
pub struct Capability(pub(crate) CapabilityOffer);

impl Capability {
    /// Names it, such as `python.execute`; a name may end in `*`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(CapabilityOffer { name: name.into(), ..CapabilityOffer::default() })
    }

    /// Describes it in a sentence for people and agents.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.0.description = Some(text.into());
        self
    }

    /// Says by a JSON Schema what its input looks like; at most 64 KiB of text.
    pub fn input_schema(mut self, schema: &serde_json::Value) -> Self {
        self.0.input_schema =
            serde_json::value::to_raw_value(schema).ok().map(|raw| Box::new(RawValueEq(raw)));
        self
    }

    /// Says whether an attempt that was lost may be run again without harm. Default: no.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.0.idempotent = idempotent;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it covers what is asked.
    pub(crate) fn covers(&self, asked: &str) -> bool {
        match self.0.name.strip_suffix('*') {
            Some(prefix) => asked.starts_with(prefix),
            None => self.0.name == asked,
        }
    }
}

/// Runs the tasks of a capability. Any `async` closure of a [`Task`] and its [`TaskContext`] is one.
///
/// A handler should stop soon after [`TaskContext::cancelled`]; one that does not is dropped at its
/// next `.await` after a grace. A panic becomes a failed result, the worker's fault.
pub trait Handler: Send + Sync + 'static {
    /// Runs one task.
    fn run(&self, task: Task, context: TaskContext) -> BoxFuture<TaskEnd>;
}

impl<F, Fut> Handler for F
where
    F: Fn(Task, TaskContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = TaskEnd> + Send + 'static,
{
    fn run(&self, task: Task, context: TaskContext) -> BoxFuture<TaskEnd> {
        Box::pin(self(task, context))
    }
}
