//! What a program asks of the fleet, and what it gets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::data::artifacts::references;
use crate::fleet::{
    Capability, Deadline, FairnessKey, Payload, Placement, Refusal, RetryWord, TaskError, TaskId, TaskRecord,
    TaskSpec, TaskState, bounds,
};
use crate::manager::CallError;
use crate::schemas::InvalidInput;

/// One piece of work. What is not said has the default of the configuration.
#[derive(Debug, Clone)]
pub struct Task {
    spec: TaskSpec,
    /// The first thing that was wrong with what was said.
    wrong: Option<String>,
}

impl Task {
    /// Work that asks for this capability, such as `python.execute`, with `{}` as its input.
    pub fn new(capability: impl Into<String>) -> Self {
        let capability: String = capability.into();
        let fits = bounds::is_capability(&capability);
        let wrong = (!fits).then(|| format!("{capability:?} is no name of a capability"));
        let spec = TaskSpec::new(Capability::from(capability), "{}");
        Self { spec, wrong }
    }

    /// The input: anything that has a JSON form. `{"$artifact": "sha256:…"}` in it stands for a stored
    /// file, which must be there and stays until the task has ended.
    pub fn input(mut self, input: impl Serialize) -> Self {
        match serde_json::to_string(&input) {
            Ok(text) => {
                match references(&text) {
                    Ok(files) => self.spec.artifacts = files,
                    Err(wrong) => self.wrong_is(|| format!("the input: {wrong}")),
                }
                self.spec.input = Payload::from(text);
            }
            Err(error) => self.wrong_is(|| format!("the input has no JSON form: {error}")),
        }
        self
    }

    /// A label that the worker must have.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.spec.labels.insert(name.into(), value.into());
        if !bounds::are_labels(&self.spec.labels) {
            let (most, bytes) = (bounds::MAX_LABELS, bounds::MAX_NAME);
            self.wrong_is(|| format!("at most {most} labels of {bytes} bytes each"));
        }
        self
    }

    /// A label that the worker should have: of those that do, a free one goes first.
    pub fn prefer(mut self, name: &str, value: &str) -> Self {
        let placement = self.placement();
        placement.preferred.insert(name.into(), value.into());
        if !bounds::are_labels(&placement.preferred) {
            let (most, bytes) = (bounds::MAX_LABELS, bounds::MAX_NAME);
            self.wrong_is(|| format!("at most {most} preferred labels of {bytes} bytes each"));
        }
        self
    }

    /// How long to wait for a worker with the preferred labels before any other will do.
    pub fn fallback_after(mut self, wait: Duration) -> Self {
        let wait = self.span("fallback_after", wait);
        self.placement().fallback_after = Some(wait);
        self
    }

    fn placement(&mut self) -> &mut Placement {
        self.spec
            .placement
            .get_or_insert_with(|| Placement { preferred: Default::default(), fallback_after: None })
    }

    /// 1 (first) to 5; 3 unless said.
    pub fn priority(mut self, priority: u8) -> Self {
        self.spec.priority = priority;
        if !bounds::PRIORITIES.contains(&priority) {
            self.wrong_is(|| format!("priority {priority} is not from 1 to 5"));
        }
        self
    }

    /// How long an attempt may run; the worker's own timeout if that is shorter.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.spec.execution_timeout = Some(self.span("timeout", limit));
        self
    }

    /// How long the task may wait for a worker.
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.spec.queue_timeout = Some(self.span("queue_timeout", limit));
        self
    }

    /// When all must be over, counted from now.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.spec.deadline = Some(Deadline::After(self.span("deadline", limit)));
        self
    }

    /// How many attempts at most: 1 to 100.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.spec.max_attempts = Some(attempts);
        if !bounds::ATTEMPTS.contains(&attempts) {
            self.wrong_is(|| format!("max_attempts {attempts} is not from 1 to {}", bounds::ATTEMPTS.end()));
        }
        self
    }

    /// Whose share of the queue it counts against.
    pub fn fairness_key(mut self, key: &str) -> Self {
        self.spec.fairness_key = Some(FairnessKey::from(key));
        if !bounds::is_name(key) {
            self.wrong_is(|| format!("a fairness key has 1 to {} bytes", bounds::MAX_NAME));
        }
        self
    }

    /// Repeats an attempt that was lost even if the worker did not say that this is safe.
    pub fn retry_always(mut self) -> Self {
        self.spec.retry = RetryWord::Always;
        self
    }

    /// The checked task.
    pub(super) fn finish(self) -> Result<Arc<TaskSpec>, ExecuteError> {
        match self.wrong {
            Some(wrong) => Err(ExecuteError::Invalid(wrong)),
            None => Ok(Arc::new(self.spec)),
        }
    }

    fn span(&mut self, what: &str, limit: Duration) -> Duration {
        if !bounds::is_span(limit) {
            self.wrong_is(|| format!("{what} {limit:?} is not from 1 ms to 30 days"));
        }
        limit
    }

    fn wrong_is(&mut self, wrong: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(wrong);
    }
}

/// A task that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its id.
    pub id: TaskId,
    /// How it ended.
    pub state: TaskState,
    /// What the worker returned, of a failed task too; `null` where it returned nothing.
    pub output: Value,
    /// Why it did not succeed.
    pub error: Option<TaskError>,
    /// How many attempts were made.
    pub attempts: usize,
    /// The worker that had it last.
    pub worker: Option<String>,
}

impl Outcome {
    /// The output as a value of the caller's own.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn output_as<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        T::deserialize(&self.output)
    }

    pub(super) fn of(record: &TaskRecord) -> Self {
        // The worker's own JSON, checked when it came in.
        let output = record.output.as_ref().and_then(|output| serde_json::from_str(output.as_str()).ok());
        Self {
            id: record.id,
            state: record.state,
            output: output.unwrap_or(Value::Null),
            error: record.error.clone(),
            attempts: record.attempts.len(),
            worker: record.attempts.last().map(|attempt| attempt.worker.to_string()),
        }
    }
}

/// Why a task has no good outcome.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecuteError {
    /// The task makes no sense; it was not sent.
    Invalid(String),
    /// It was not taken.
    Refused(Refusal),
    /// The workers of its capability take other inputs; it was not sent.
    Input(Box<InvalidInput>),
    /// Whether the files of its input are there cannot be told: the disk failed. It was not sent.
    Disk(Arc<str>),
    /// It ended otherwise than well; the outcome says how.
    Failed(Box<Outcome>),
    /// The agent has stopped.
    Stopped,
}

impl From<CallError> for ExecuteError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(refusal),
            CallError::Invalid(invalid) => Self::Input(invalid),
            CallError::UnknownArtifact(hash) => Self::Invalid(format!("no file has the SHA-256 {hash}")),
            CallError::Disk(why) => Self::Disk(why),
            // An agent asks for no stored task.
            CallError::Stopped | CallError::Unread(_) => Self::Stopped,
        }
    }
}

impl fmt::Display for ExecuteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "the task makes no sense: {why}"),
            Self::Refused(refusal) => refused(f, refusal),
            Self::Input(invalid) => invalid.fmt(f),
            Self::Disk(why) => write!(f, "the disk that holds the artifacts failed: {why}"),
            Self::Failed(outcome) => {
                write!(f, "task {} ended {}", outcome.id, outcome.state.as_str())?;
                match &outcome.error {
                    Some(error) => write!(f, ": {} ({})", error.message, error.code),
                    None => Ok(()),
                }
            }
            Self::Stopped => f.write_str("the agent has stopped"),
        }
    }
}

fn refused(f: &mut fmt::Formatter<'_>, refusal: &Refusal) -> fmt::Result {
    match refusal {
        Refusal::QueueFull { depth } => write!(f, "the queue is full: {depth} tasks are not finished"),
        Refusal::TooManyKinds { what } => write!(f, "too many different {what} wait at once"),
        Refusal::UnknownCapability { capability, nearest } => {
            write!(f, "no worker could ever offer {capability}")?;
            match nearest {
                Some(nearest) => write!(f, "; did you mean {nearest}?"),
                None => Ok(()),
            }
        }
        Refusal::KeyConflict => f.write_str("the key was used with another task"),
        Refusal::Draining => f.write_str("the agent is stopping"),
        Refusal::StoreUnavailable => f.write_str("the store takes no writes"),
        Refusal::NoSuchTask => f.write_str("there is no such task"),
        Refusal::NoSuchWorker => f.write_str("there is no such worker"),
        Refusal::NoSuchPool => f.write_str("there is no such pool"),
        Refusal::SizeOutOfBounds { min, max } => write!(f, "the pool may have {min} to {max} instances"),
        Refusal::NoSuchSession => f.write_str("there is no such session"),
        Refusal::SessionLost { session, why } => write!(f, "session {session} is lost: {why}"),
    }
}

impl std::error::Error for ExecuteError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_told_when_it_is_sent() {
        let wrong = [
            Task::new("files.*"),
            Task::new(""),
            Task::new("a").priority(0),
            Task::new("a").timeout(Duration::ZERO),
            Task::new("a").max_attempts(101),
            Task::new("a").label("", "x"),
            Task::new("a").fairness_key(""),
            Task::new("a").input(serde_json::json!({ "$artifact": "sha256:12" })),
            Task::new("a").input(std::collections::HashMap::from([((1, 2), 3)])),
        ];
        for task in wrong {
            assert!(matches!(task.clone().finish(), Err(ExecuteError::Invalid(_))), "{task:?}");
        }
        let file = serde_json::json!([{ "$artifact": format!("sha256:{:064}", 7) }]);
        let task = Task::new("a").input(file).finish().expect("it makes sense");
        assert_eq!(task.artifacts.len(), 1, "it is kept for the task, and must be there");
        assert!(Task::new("a.b").priority(1).label("zone", "a").input([1, 2]).finish().is_ok());
    }
}
