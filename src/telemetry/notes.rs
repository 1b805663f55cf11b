//! Counts what the core notes. A new note does not compile until it is decided here.

use super::catalogue as c;
use super::metrics::Metrics;
use crate::fleet::{AttemptOutcome, Change, ConnectOutcome, Diff, Note, Source, TaskRecord, Why};

impl Metrics {
    /// Counts what the core noted.
    pub fn note(&self, note: &Note) {
        match note {
            // Accepted tasks, like completed ones, are shown from the core's own count, so that
            // they agree with the queue's gauges at every scrape.
            Note::Submitted { outcome: "accepted", .. } => {}
            Note::Submitted { capability, source, outcome } => {
                let series = match *outcome {
                    "invalid" => self.labels.refused(capability, &c::TASK_SUBMISSIONS),
                    _ => self.labels.capability(capability, &c::TASK_SUBMISSIONS),
                };
                let at = Source::ALL.iter().position(|known| known == source);
                if let Some(by_outcome) = at.and_then(|at| series.submissions.get(at)) {
                    by_outcome.count(outcome);
                }
            }
            Note::Assigned { capability, wait } => {
                self.labels.capability(capability, &c::QUEUE_WAIT).wait.observe(wait.as_secs_f64());
            }
            Note::Started { pool, ack } => {
                if let Some(pool) = self.labels.names().pool(pool.as_ref()) {
                    pool.start_ack.observe(ack.as_secs_f64());
                }
            }
            Note::AttemptEnded { capability, pool, outcome, execution, task: _, worker: _ } => {
                self.labels.attempt_ended(capability, pool.as_ref(), outcome.as_str());
                if let Some(execution) = execution {
                    let series = self.labels.capability(capability, &c::EXECUTION);
                    series.execution.observe(execution.as_secs_f64());
                }
            }
            Note::Retried { capability, outcome, paid: _ } => {
                if let Some(reason) = retry_reason(*outcome) {
                    self.labels.capability(capability, &c::TASK_RETRIES).retries.count(reason);
                }
            }
            Note::RetryHeld { capability } => {
                self.labels.capability(capability, &c::TASK_RETRIES_HELD).retries_held.inc();
            }
            Note::Ended { record, latency, fault: _ } => self.ended(record, *latency),
            Note::Discarded { reason, task: _, worker: _ } => self.discarded.count(reason.as_str()),
            Note::Reconciled { decision, task: _ } => self.reconciled.count(decision),
            // Shown from the snapshot, which cannot drift from what it counts.
            Note::WorkerState { .. } => {}
            Note::Canary { pool, outcome, worker: _, took: _ } => {
                if let Some(pool) = self.labels.names().pool(pool.as_ref()) {
                    pool.canaries.count(outcome);
                }
            }
            Note::Health { pool, what, worker: _, detail: _ } => {
                let counted = matches!(*what, "ejected" | "pool_limit" | "last_ready");
                if let Some(pool) = self.labels.names().pool(pool.as_ref()).filter(|_| counted) {
                    pool.ejections.count(what);
                }
            }
            Note::Connected { pool, outcome, again, took, down, worker: _, detail: _ } => {
                let names = self.labels.names();
                let Some(pool) = names.pool(pool.as_ref()) else { return };
                self.labels.connected(pool, *outcome, *took);
                if *again && *outcome == ConnectOutcome::Ok {
                    pool.reconnects.inc();
                }
                if let Some(down) = down {
                    pool.downtime.observe(down.as_secs_f64());
                }
            }
            Note::Disconnected { pool, why, worker: _ } => {
                let names = self.labels.names();
                let Some(pool) = names.pool(pool.as_ref()) else { return };
                pool.disconnects.count(why.as_str());
                if *why == Why::SlowConsumer {
                    pool.send_queue_full.inc();
                }
            }
            Note::Heartbeat { pool, outcome, lag, worker: _ } => {
                let names = self.labels.names();
                let Some(pool) = names.pool(pool.as_ref()) else { return };
                pool.heartbeats.count(outcome);
                pool.lag.observe(lag.as_secs_f64());
            }
            Note::Blocked(reason) => self.blocked.count(reason),
            Note::PoolDecided { .. } | Note::PoolCalled { .. } | Note::PoolCapacity { .. } => {
                self.pools.note(note);
            }
            // Shown with the pool; a warning tells of it.
            Note::PoolOdd { .. } => {}
            Note::Applied { diff, generation: _ } => self.applied(diff),
        }
    }

    fn ended(&self, record: &TaskRecord, latency: std::time::Duration) {
        let series = self.labels.capability(&record.counted_as(), &c::LATENCY);
        series.latency.observe(latency.as_secs_f64());
        series.attempts_per_task.observe(super::page::float(record.attempts.len()));
        if record.dead_letter {
            let poison = record.error.as_ref().is_some_and(|error| &*error.code == "poison");
            series.dead_letters.count(if poison { "poison" } else { "max_attempts" });
        }
        if record.is_probe() {
            return;
        }
        let [request, result] = &self.payload;
        request.observe(super::page::float(usize::try_from(record.spec.input_bytes()).unwrap_or(usize::MAX)));
        if let Some(output) = &record.output {
            result.observe(super::page::float(output.as_str().len()));
        }
    }

    fn applied(&self, diff: &Diff) {
        for change in diff.workers.values() {
            self.worker_changes.count(match change {
                Change::Added => "added",
                Change::Renamed { .. } | Change::Updated { .. } | Change::Moved { .. } => "updated",
                Change::Removed => "removed",
            });
        }
    }
}

/// Why a task is tried again; the other outcomes end it.
fn retry_reason(outcome: AttemptOutcome) -> Option<&'static str> {
    match outcome {
        AttemptOutcome::Failed
        | AttemptOutcome::TimedOut
        | AttemptOutcome::WorkerLost
        | AttemptOutcome::Rejected => Some(outcome.as_str()),
        AttemptOutcome::Succeeded | AttemptOutcome::Cancelled | AttemptOutcome::Superseded => None,
    }
}
