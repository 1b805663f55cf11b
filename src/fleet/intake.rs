//! How tasks come in: admitted or refused with the reason, named by keys, promoted when a caller's
//! patience ends, dropped when every caller has gone.

use std::sync::Arc;
use std::time::Duration;

use super::finished::Ended;
use super::ids::*;
use super::lifecycle::{DeadlineAt, Phase, Task};
use super::planted::{Planted, planted};
use super::probe::name_of;
use super::slab::{DemandIx, TaskIx};
use super::task::*;
use super::words::*;
use super::{Fleet, KeyRow, Note};

/// How long a key names its task at least, here and in every store.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Keys held in memory at most: beyond it the oldest go even before their time.
pub const MAX_KEYS: usize = 200_000;

impl Fleet {
    pub(super) fn submit(&mut self, submission: Submission) {
        let (source, request) = (submission.source, submission.request);
        let capability = name_of(&submission.tenant, &submission.spec);
        let outcome = match self.admit(submission) {
            // What becomes of a key shows when the record is written, and is noted then.
            Ok("entered") => return,
            Ok(outcome) => outcome,
            Err(refusal) => {
                let outcome = match &refusal {
                    Refusal::QueueFull { .. } | Refusal::TooManyKinds { .. } => "queue_full",
                    Refusal::UnknownCapability { .. }
                    | Refusal::NoSuchTask
                    | Refusal::NoSuchWorker
                    | Refusal::NoSuchPool
                    | Refusal::SizeOutOfBounds { .. }
                    | Refusal::NoSuchSession => "invalid",
                    Refusal::KeyConflict | Refusal::SessionLost { .. } => "conflict",
                    Refusal::Draining => "draining",
                    Refusal::StoreUnavailable => "unavailable",
                };
                self.effect(Effect::Answer(request, Answer::Refused(refusal)));
                outcome
            }
        };
        self.note(Note::Submitted { capability, source, outcome });
    }

    /// Takes a task in; says under which word it is counted.
    fn admit(&mut self, submission: Submission) -> Result<&'static str, Refusal> {
        if self.quiescing {
            return Err(Refusal::Draining);
        }
        let refuses = self.store_failed && !planted(Planted::StoreFailureIgnored);
        if refuses && submission.keep != Keep::Passing {
            return Err(Refusal::StoreUnavailable);
        }
        if let Keep::ByKey(hash) = submission.keep
            && let Some(row) = self.keys.get(&(submission.tenant.clone(), hash.key))
        {
            if row.body != hash.body {
                return Err(Refusal::KeyConflict);
            }
            let task = row.task;
            self.replay(task, submission.request);
            return Ok("deduplicated");
        }
        self.check_session(&submission.tenant, &submission.spec)?;
        let spec = Arc::clone(&submission.spec);
        let bytes = spec.input.as_str().len() as u64;
        let depth = self.tasks.len() as u64;
        if depth >= self.settings.max_depth || self.bytes.saturating_add(bytes) > self.settings.max_bytes {
            return Err(Refusal::QueueFull { depth });
        }
        let known = self.balancer.find(&spec.capability, &spec.labels);
        if known.is_none_or(|demand| self.balancer.demands[demand].eligible.is_empty())
            && !self.registry.could_offer(&spec.capability)
            && !self.pools.could_offer(&spec.capability)
        {
            let nearest = self.nearest(&spec.capability);
            return Err(Refusal::UnknownCapability { capability: spec.capability.clone(), nearest });
        }
        if !self.key_has_room() {
            return Err(Refusal::TooManyKinds { what: "fairness_keys" });
        }
        let demand = match known.filter(|_| spec.placement.is_none()) {
            Some(demand) => demand,
            None => {
                self.admit_preference(&spec)?;
                self.demand(&spec.capability, &spec.labels)?
            }
        };
        self.bytes += bytes;
        let by_key = matches!(submission.keep, Keep::ByKey(_));
        self.accept(submission, demand);
        Ok(if by_key { "entered" } else { "accepted" })
    }

    fn accept(&mut self, submission: Submission, demand: DemandIx) {
        let Submission { id, tenant, request, keep, source, spec, retry_of } = submission;
        self.balancer.demands[demand].tasks += 1;
        let counted = self.tally.place(&name_of(&tenant, &spec));
        let deadline_at = spec.deadline.map(|deadline| match deadline {
            Deadline::After(span) => DeadlineAt::Mono(self.now.mono + span),
            Deadline::At(wall) => DeadlineAt::Wall(wall),
        });
        let ix = self.tasks.insert(Task {
            id,
            tenant,
            keep,
            source,
            spec,
            retry_of: retry_of.as_ref().map(|old| old.id),
            demand,
            session: None,
            counted,
            phase: Phase::Between,
            version: 0,
            seq: Seq(0),
            accepted: self.now.mono,
            submitted_at: self.now.wall,
            waited: Duration::ZERO,
            attempts: Vec::new(),
            charged: 0,
            deaths: 0,
            returns: 0,
            unread: 0,
            retry: None,
            cancel_asked: None,
            assigned_at: None,
            started_at: None,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            deadline: None,
            deadline_at,
        });
        self.by_id.insert(id, ix);
        self.arm_deadline(ix);
        self.join_session(ix);
        match keep {
            Keep::Passing => {
                self.count_accepted(ix);
                self.become_eligible(ix);
            }
            Keep::ByKey(hash) if !planted(Planted::KeyedBeforeCommit) => {
                self.remember_key(hash, ix);
                self.set_phase(ix, Phase::Held);
                let record = self.write(ix);
                let own = self.tasks[ix].seq;
                let seq = self.repeats(retry_of.as_deref()).unwrap_or(own);
                self.enters_after(seq, own, ix, request, record);
            }
            Keep::Kept | Keep::ByKey(_) => {
                self.count_accepted(ix);
                let record = self.write(ix);
                let seq = self.repeats(retry_of.as_deref()).unwrap_or(self.tasks[ix].seq);
                let seq = if planted(Planted::AcceptedBeforeCommit) { Seq(0) } else { seq };
                self.show_after(seq, Effect::Answer(request, Answer::Accepted(record)));
                self.stow_later(ix);
                self.become_eligible(ix);
            }
        }
    }

    /// A task that is repeated is no dead letter any more. Written behind its successor's record: a
    /// crash between the two leaves a dead letter too many, and never loses one.
    fn repeats(&mut self, old: Option<&TaskRecord>) -> Option<Seq> {
        let old = old?;
        let kept_here = self.finished.tasks.get(&old.id).map(|ended| &*ended.record);
        let newest = kept_here.filter(|here| here.version > old.version).unwrap_or(old);
        if !newest.dead_letter {
            return None;
        }
        let (version, term) = (newest.version + 1, self.term);
        let record = Arc::new(TaskRecord { version, term, dead_letter: false, ..newest.clone() });
        let seq = self.record(Record::Task(Arc::clone(&record)));
        match self.finished.tasks.get_mut(&record.id) {
            Some(ended) => {
                ended.seq = seq;
                ended.record = record;
            }
            // Repeated once more before the archive has this, it must not begin from the old one.
            None => self.finished.add_dead_letter(Ended { record, seq, recorded: None }),
        }
        Some(seq)
    }

    pub(super) fn remember_key(&mut self, hash: KeyHash, ix: TaskIx) {
        let (tenant, task, since) =
            (self.tasks[ix].tenant.clone(), self.tasks[ix].id, self.tasks[ix].submitted_at);
        self.keys.insert((tenant.clone(), hash.key), KeyRow { task, body: hash.body });
        self.keys_in_order.push_back((since, tenant, hash.key));
        while let Some((since, _, _)) = self.keys_in_order.front()
            && (self.now.wall.since(*since) > KEY_LIFE || self.keys_in_order.len() > MAX_KEYS)
        {
            if let Some((_, tenant, key)) = self.keys_in_order.pop_front() {
                self.keys.remove(&(tenant, key));
            }
        }
    }

    /// Answers with the task that a key names already.
    fn replay(&mut self, task: TaskId, request: RequestId) {
        if let Some(ix) = self.by_id.get(&task).copied() {
            let record = self.picture(ix);
            let seq = self.tasks[ix].seq;
            self.show_after(seq, Effect::Answer(request, Answer::Replayed(record)));
        } else if let Some(ended) = self.finished.tasks.get(&task) {
            let (seq, record) = (ended.seq, Arc::clone(&ended.record));
            self.show_after(seq, Effect::Answer(request, Answer::Replayed(record)));
        } else {
            self.effect(Effect::Answer(request, Answer::ReplayedFromArchive(task)));
        }
    }

    /// A waiting caller's patience has ended: from here on the task is kept.
    pub(super) fn promote(&mut self, task: TaskId, request: RequestId) {
        if let Some(ix) = self.by_id.get(&task).copied() {
            if self.tasks[ix].keep == Keep::Passing {
                self.tasks[ix].keep = Keep::Kept;
            }
            let record = self.write(ix);
            let seq = self.tasks[ix].seq;
            self.show_after(seq, Effect::Answer(request, Answer::Accepted(record)));
            self.stow_later(ix);
        } else if let Some(ended) = self.finished.tasks.get(&task) {
            let record = Arc::clone(&ended.record);
            self.show(record.keep, ended.seq, Effect::Answer(request, Answer::Accepted(record)));
        } else {
            self.effect(Effect::Answer(request, Answer::Refused(Refusal::NoSuchTask)));
        }
    }

    /// Every caller of a passing task has hung up: before its hand-over it is dropped.
    pub(super) fn abandoned(&mut self, task: TaskId) {
        let Some(ix) = self.by_id.get(&task).copied() else { return };
        let waits = matches!(self.tasks[ix].phase, Phase::Waiting(_));
        if self.tasks[ix].keep == Keep::Passing && waits {
            self.leave_wait(ix);
            self.unsuccessful(
                ix,
                TaskState::Cancelled,
                "caller_gone",
                "every caller hung up before it was handed over",
            );
        }
    }
}
