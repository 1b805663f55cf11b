//! How tasks are submitted: checked against what the workers and the disk say, let in, and answered
//! for, by waiting or by key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::handle::{Ask, Call, CallError, Manager, Submitted, Waited};
use crate::fleet::*;

/// The longest that a caller can wait: a year, in which any clock's end is far.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl Ask {
    fn named(&self) -> Option<(Tenant, KeyHash)> {
        self.key.map(|key| (self.tenant.clone(), key))
    }
}

impl CallError {
    /// Whether it says no to this task as the fleet is now; another time the answer may differ.
    fn judges_the_task(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::UnknownArtifact(_) => true,
            Self::Refused(refusal) => match refusal {
                Refusal::UnknownCapability { .. }
                | Refusal::QueueFull { .. }
                | Refusal::TooManyKinds { .. } => true,
                Refusal::KeyConflict
                | Refusal::Draining
                | Refusal::StoreUnavailable
                | Refusal::NoSuchTask
                | Refusal::NoSuchWorker
                | Refusal::NoSuchPool
                | Refusal::SizeOutOfBounds { .. }
                | Refusal::NoSuchSession
                | Refusal::SessionLost { .. } => false,
            },
            Self::Disk(_) | Self::Stopped | Self::Unread(_) => false,
        }
    }
}

impl Manager {
    /// Submits a task that is kept: the answer comes once its record is durable, and the task goes
    /// on whether or not anybody listens.
    ///
    /// # Errors
    /// [`CallError::Refused`] or [`CallError::Invalid`] with the reason, [`CallError::Stopped`] when
    /// the server is gone.
    pub async fn submit(&self, ask: Ask) -> Result<Submitted, CallError> {
        let named = ask.named();
        let answer = self.submit_new(ask).await;
        self.or_first(named, answer).await
    }

    async fn submit_new(&self, ask: Ask) -> Result<Submitted, CallError> {
        self.check(&ask).await?;
        let keep = ask.key.map_or(Keep::Kept, Keep::ByKey);
        let tenant = ask.tenant.clone();
        let lane = self.lane().await?;
        let submission = self.submission(ask, keep)?;
        let (reply, answer) = oneshot::channel();
        lane.send(Call::Ask(submission.request, Event::Submit(submission), reply));
        let answer = answer.await.map_err(|_| CallError::Stopped)?;
        self.submitted(&tenant, answer).await
    }

    /// Submits many tasks that are all kept. Those that are accepted are one commit; each has an
    /// answer of its own, in the order asked. A caller who drops this future takes nothing back.
    pub async fn submit_all(&self, asks: Vec<Ask>) -> Vec<Result<Submitted, CallError>> {
        let names: Vec<_> = asks.iter().map(Ask::named).collect();
        let mut checked = Vec::with_capacity(asks.len());
        for ask in asks {
            checked.push(self.check(&ask).await.map(|()| ask));
            // Each check may take a moment: the fleet goes on between them.
            tokio::task::yield_now().await;
        }
        let Ok(lane) = self.lane().await else {
            return checked.into_iter().map(|ask| ask.and(Err(CallError::Stopped))).collect();
        };
        let mut submissions = Vec::with_capacity(checked.len());
        let mut waiting = Vec::with_capacity(checked.len());
        for ask in checked {
            waiting.push(ask.and_then(|ask| {
                let keep = ask.key.map_or(Keep::Kept, Keep::ByKey);
                let tenant = ask.tenant.clone();
                let submission = self.submission(ask, keep)?;
                let (reply, answer) = oneshot::channel();
                submissions.push((submission, reply));
                Ok((tenant, answer))
            }));
        }
        lane.send(Call::SubmitAll(submissions));
        let mut answers = Vec::with_capacity(waiting.len());
        for (waits, named) in waiting.into_iter().zip(names) {
            let answer = match waits {
                Ok((tenant, answer)) => match answer.await {
                    Ok(answer) => self.submitted(&tenant, answer).await,
                    Err(_) => Err(CallError::Stopped),
                },
                Err(refused) => Err(refused),
            };
            answers.push(self.or_first(named, answer).await);
        }
        answers
    }

    /// The answer; but for a task that would be refused if it were new, the one that its key names.
    /// The fleet may take other inputs than it did then, may have lost a file or a capability, or be
    /// full: what a key has named once it goes on naming. Asked only on this way, so that nobody
    /// else pays for it.
    async fn or_first(
        &self,
        named: Option<(Tenant, KeyHash)>,
        answer: Result<Submitted, CallError>,
    ) -> Result<Submitted, CallError> {
        let (Err(refused), Some((tenant, hash))) = (&answer, named) else { return answer };
        if !refused.judges_the_task() {
            return answer;
        }
        let row = self.0.reads.key(&tenant, hash.key).await.map_err(CallError::Unread)?;
        match row {
            None => answer,
            Some(row) if row.body != hash.body => Err(Refusal::KeyConflict.into()),
            Some(row) => self.task(&tenant, row.task).await.map(Submitted::Replayed),
        }
    }

    async fn submitted(&self, tenant: &Tenant, answer: Answer) -> Result<Submitted, CallError> {
        match answer {
            Answer::Accepted(record) => Ok(Submitted::Accepted(record)),
            Answer::Replayed(record) => Ok(Submitted::Replayed(record)),
            Answer::ReplayedFromArchive(task) => self.task(tenant, task).await.map(Submitted::Replayed),
            Answer::Refused(refusal) => Err(refusal.into()),
            Answer::Cancel(_) | Answer::Done => Err(CallError::Stopped),
        }
    }

    /// Submits a task and waits up to `patience` for its end. A task that has not ended by then is
    /// kept and goes on. Without a key, a caller who drops this future before the task was handed
    /// to a worker takes the task back.
    ///
    /// # Errors
    /// As [`Manager::submit`].
    pub async fn execute(&self, ask: Ask, patience: Duration) -> Result<Submitted, CallError> {
        if ask.key.is_some() {
            return Box::pin(self.execute_by_key(ask, patience)).await;
        }
        self.check(&ask).await?;
        let lane = self.lane().await?;
        let submission = self.submission(ask, Keep::Passing)?;
        let task = submission.id;
        let (reply, waited) = oneshot::channel();
        lane.send(Call::SubmitAndWait(submission, Instant::now() + patience.min(LONGEST), reply));
        let caller = WaitingCaller { manager: self, task, done: false };
        let heard = waited.await;
        caller.heard();
        match heard.map_err(|_| CallError::Stopped)? {
            Waited::Finished(record) => Ok(Submitted::Finished(record)),
            Waited::GoesOn(record) => Ok(Submitted::Accepted(record)),
            Waited::Refused(refusal) => Err(refusal.into()),
        }
    }

    async fn execute_by_key(&self, ask: Ask, patience: Duration) -> Result<Submitted, CallError> {
        let submitted = self.submit(ask).await?;
        let (Submitted::Finished(record) | Submitted::Accepted(record) | Submitted::Replayed(record)) =
            &submitted;
        if record.state.is_final() {
            return Ok(submitted);
        }
        let replayed = matches!(submitted, Submitted::Replayed(_));
        Ok(match self.finished(record.id, patience).await? {
            Some(record) if replayed => Submitted::Replayed(record),
            Some(record) => Submitted::Finished(record),
            None => submitted,
        })
    }

    /// Whether the workers would take this input, as far as their schemas say. What is rare is in
    /// boxes of its own: the futures around it are moved for every task.
    async fn check(&self, ask: &Ask) -> Result<(), CallError> {
        if !ask.spec.artifacts.is_empty() {
            // A reference stands for what only the worker gets to see: no schema is held against it.
            return Box::pin(self.check_files(ask)).await;
        }
        if self.0.schemas.agreed(&ask.spec.capability).is_none() {
            return Ok(());
        }
        let checked = Box::pin(self.0.schemas.check(&ask.spec.capability, &ask.spec.input)).await;
        checked.map_err(|invalid| {
            self.refused(&ask.spec.capability, ask.source, "invalid");
            CallError::Invalid(Box::new(invalid))
        })
    }

    /// Sees that the files that an input refers to are there, and stay until the task is.
    async fn check_files(&self, ask: &Ask) -> Result<(), CallError> {
        let (artifacts, hashes) = (Arc::clone(&self.0.artifacts), ask.spec.artifacts.clone());
        let looked = tokio::task::spawn_blocking(move || artifacts.missing(&hashes)).await;
        let missing = looked.map_err(|error| CallError::Disk(error.to_string().into()))?;
        match missing.map_err(|error| CallError::Disk(error.to_string().into()))? {
            None => Ok(()),
            Some(hash) => {
                self.refused(&ask.spec.capability, ask.source, "invalid");
                Err(CallError::UnknownArtifact(hash))
            }
        }
    }

    /// Counts a submission that does not reach the core.
    fn refused(&self, capability: &Capability, source: Source, outcome: &'static str) {
        self.0.metrics.note(&Note::Submitted { capability: capability.clone(), source, outcome });
    }

    fn submission(&self, ask: Ask, keep: Keep) -> Result<Box<Submission>, CallError> {
        let bytes = ask.spec.input.as_str().len() as u64;
        if let Err(depth) = self.0.admission.enter(bytes) {
            self.refused(&ask.spec.capability, ask.source, "queue_full");
            return Err(Refusal::QueueFull { depth }.into());
        }
        Ok(Box::new(Submission {
            id: self.0.clock.task_id(),
            tenant: ask.tenant,
            request: self.request(),
            keep,
            source: ask.source,
            spec: ask.spec,
            retry_of: ask.retry_of,
        }))
    }

    /// A place in the lane to the loop. A submission has one before it is let in: a caller who hangs
    /// up while the lane is full must not leave it counted for ever.
    async fn lane(&self) -> Result<mpsc::Permit<'_, Call>, CallError> {
        self.0.calls.reserve().await.map_err(|_| CallError::Stopped)
    }
}

/// Tells the core that a waiting caller has hung up, unless it was answered first.
struct WaitingCaller<'a> {
    manager: &'a Manager,
    task: TaskId,
    done: bool,
}

impl WaitingCaller<'_> {
    fn heard(mut self) {
        self.done = true;
    }
}

impl Drop for WaitingCaller<'_> {
    fn drop(&mut self) {
        if !self.done {
            // A full lane only means that the task runs although nobody waits for it any more.
            drop(self.manager.0.calls.try_send(Call::Tell(Event::Abandoned(self.task))));
        }
    }
}
