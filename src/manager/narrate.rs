//! What the core notes, in the log: fleet-level facts only, each one line with its facts as fields.

use tracing::{info, warn};

use crate::fleet::{
    ConnectOutcome, Decision, Direction, Note, TaskRecord, TaskState, TraceContext, WorkerState,
};

/// Whether a note belongs to the fleet's event stream: what happens to single tasks would drown it.
pub(super) fn is_of_the_fleet(note: &Note) -> bool {
    match note {
        Note::WorkerState { .. }
        | Note::Health { .. }
        | Note::Connected { .. }
        | Note::Disconnected { .. }
        | Note::PoolCapacity { .. }
        | Note::PoolOdd { .. }
        | Note::Applied { .. } => true,
        Note::PoolDecided { decision, .. } => decision.direction != Direction::Hold,
        Note::PoolCalled { outcome, .. } => *outcome != "ok",
        Note::Ended { record, .. } => record.dead_letter,
        Note::Submitted { .. }
        | Note::Assigned { .. }
        | Note::Started { .. }
        | Note::AttemptEnded { .. }
        | Note::Retried { .. }
        | Note::RetryHeld { .. }
        | Note::Discarded { .. }
        | Note::Reconciled { .. }
        | Note::Heartbeat { .. }
        | Note::Canary { .. }
        | Note::Blocked(_) => false,
    }
}

fn trace_of(record: &TaskRecord) -> String {
    format!("{:032x}", TraceContext::of(record.id, record.spec.traceparent.as_deref()).trace)
}

/// Who had it last.
fn worker_of(record: &TaskRecord) -> &str {
    record.attempts.last().map_or("", |attempt| attempt.worker.as_str())
}

/// Logs a note of the fleet. A line that speaks of what an alert is about names the alert.
pub(super) fn narrate(note: &Note) {
    match note {
        Note::WorkerState { worker, state, .. } => match state {
            WorkerState::Suspect | WorkerState::Ejected => {
                warn!(%worker, state = state.as_str(), "worker state")
            }
            WorkerState::Ready | WorkerState::Draining | WorkerState::Cordoned | WorkerState::Removed => {
                info!(%worker, state = state.as_str(), "worker state");
            }
            // Told by the connection's own lines.
            WorkerState::Disconnected | WorkerState::Connecting => {}
        },
        Note::Canary { worker, outcome: "failed", took, .. } => {
            warn!(%worker, ?took, "a worker failed its canary");
        }
        Note::Health { worker, what: "returned", detail, .. } => {
            info!(%worker, %detail, "worker returned");
        }
        Note::Health { worker, what, detail, .. } => {
            warn!(%worker, what, %detail, "worker fails by its own fault");
        }
        Note::Connected { worker, outcome: ConnectOutcome::Ok, again, .. } => {
            info!(%worker, again, "worker connected");
        }
        Note::Connected { worker, outcome, detail, .. } => {
            let detail = detail.as_deref().unwrap_or_default();
            // A worker that is starting refuses its first dials: that is no news.
            tracing::debug!(%worker, outcome = outcome.as_str(), detail, "cannot connect to worker");
        }
        Note::Disconnected { worker, why, .. } => {
            if why.is_planned() {
                info!(%worker, reason = why.as_str(), "worker disconnected");
            } else {
                warn!(%worker, reason = why.as_str(), alert = "RollcallWorkerDown", "worker disconnected");
            }
        }
        Note::Ended { record, .. } if record.dead_letter => {
            let code = record.error.as_ref().map_or("", |error| &*error.code);
            let (trace_id, worker) = (trace_of(record), worker_of(record));
            warn!(
                task_id = %record.id, trace_id, worker, capability = %record.spec.capability, code,
                alert = "RollcallDeadLetters", "task became a dead letter"
            );
        }
        Note::Ended { record, .. } if record.state == TaskState::Lost => {
            let (trace_id, worker) = (trace_of(record), worker_of(record));
            warn!(
                task_id = %record.id, trace_id, worker, capability = %record.spec.capability,
                alert = "RollcallTaskErrorBudgetBurn", "task was lost with its worker"
            );
        }
        Note::PoolDecided { pool, decision, .. } if decision.direction != Direction::Hold => {
            let Decision { from, to, reason, inputs, .. } = &**decision;
            let (waiting, running) = (inputs.waiting, inputs.running);
            info!(%pool, from, to, reason = reason.as_str(), waiting, running, "pool scaled");
        }
        Note::PoolCalled { pool, outcome, detail: Some(detail), .. } => {
            let alert = "RollcallAutoscalerHookFailing";
            warn!(%pool, outcome, %detail, alert, "the pool's provider failed; it is called again later");
        }
        Note::PoolCapacity { pool, worker, took } => {
            info!(%pool, %worker, ?took, "pool instance takes tasks");
        }
        Note::PoolOdd { pool, worker, what } => {
            let alert = "RollcallAutoscalerDiverged";
            warn!(%pool, %worker, what, alert, "what the pool's provider says and what is there differ");
        }
        Note::Discarded { task, worker, reason } => {
            let reason = reason.as_str();
            info!(task_id = %task, %worker, reason, alert = "RollcallZombieResults", "a result was fenced off");
        }
        Note::Submitted { .. }
        | Note::Assigned { .. }
        | Note::Started { .. }
        | Note::AttemptEnded { .. }
        | Note::Retried { .. }
        | Note::RetryHeld { .. }
        | Note::Ended { .. }
        | Note::Reconciled { .. }
        | Note::Heartbeat { .. }
        | Note::Canary { .. }
        | Note::Blocked(_)
        | Note::PoolDecided { .. }
        | Note::PoolCalled { .. }
        | Note::Applied { .. } => {}
    }
}
