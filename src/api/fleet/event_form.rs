//! What the core noted, in the words of `/v1/events`.

use crate::api::http::json::Object;
use crate::config::describe;
use crate::fleet::{Note, PoolName, WorkerName};
use crate::manager::RingEvent;

/// An event's name and its JSON.
pub(super) fn form(event: &RingEvent) -> (&'static str, Vec<u8>) {
    let mut data = Vec::with_capacity(192);
    let mut object = Object::new(&mut data);
    object.time("at", Some(event.at));
    let name = fields(&mut object, &event.note);
    object.end();
    (name, data)
}

fn fields(object: &mut Object<'_>, note: &Note) -> &'static str {
    match note {
        Note::Submitted { capability, source, outcome } => {
            object.text("capability", capability.as_str()).text("source", source.as_str());
            object.text("outcome", outcome);
            "task_submitted"
        }
        Note::Assigned { capability, wait } => {
            object.text("capability", capability.as_str()).value("wait_seconds", &wait.as_secs_f64());
            "task_assigned"
        }
        Note::Started { pool, ack } => {
            object.maybe_text("pool", name(pool)).value("ack_seconds", &ack.as_secs_f64());
            "task_started"
        }
        Note::AttemptEnded { task, capability, worker, pool, outcome, execution } => {
            object.text("task", &task.to_string()).text("capability", capability.as_str());
            about(object, worker, pool);
            object.text("outcome", outcome.as_str());
            object.value("execution_seconds", &execution.map(|took| took.as_secs_f64()));
            "attempt_ended"
        }
        Note::Retried { capability, outcome, paid: _ } => {
            object.text("capability", capability.as_str()).text("after", outcome.as_str());
            "task_retried"
        }
        Note::RetryHeld { capability } => {
            object.text("capability", capability.as_str());
            "task_retry_held"
        }
        Note::Ended { record, fault, latency } => {
            object.text("task", &record.id.to_string()).text("capability", record.spec.capability.as_str());
            object.text("state", record.state.as_str()).text("fault", fault.as_str());
            object.maybe_text("error", record.error.as_ref().map(|error| &*error.code));
            object.value("dead_letter", &record.dead_letter).value("latency_seconds", &latency.as_secs_f64());
            "task_ended"
        }
        Note::Discarded { task, worker, reason } => {
            object.text("task", &task.to_string()).text("worker", worker.as_str());
            object.text("reason", reason.as_str());
            "result_discarded"
        }
        Note::Reconciled { task, decision } => {
            object.text("task", &task.to_string()).text("decision", decision);
            "attempt_reconciled"
        }
        Note::WorkerState { worker, pool, state } => {
            about(object, worker, pool);
            object.text("state", state.as_str());
            "worker_state"
        }
        Note::Canary { worker, pool, outcome, took } => {
            about(object, worker, pool);
            object.text("outcome", outcome).value("took_seconds", &took.as_secs_f64());
            "worker_canary"
        }
        Note::Health { worker, pool, what, detail } => {
            about(object, worker, pool);
            object.text("what", what).text("detail", detail);
            "worker_health"
        }
        Note::Connected { worker, pool, outcome, again, took, down, detail } => {
            about(object, worker, pool);
            object.text("outcome", outcome.as_str()).value("again", again);
            object.value("took_seconds", &took.map(|took| took.as_secs_f64()));
            object.value("down_seconds", &down.map(|down| down.as_secs_f64()));
            object.maybe_text("detail", detail.as_deref());
            "worker_connected"
        }
        Note::Disconnected { worker, pool, why } => {
            about(object, worker, pool);
            object.text("why", why.as_str()).value("planned", &why.is_planned());
            "worker_disconnected"
        }
        Note::Heartbeat { worker, pool, outcome, lag } => {
            about(object, worker, pool);
            object.text("outcome", outcome).value("lag_seconds", &lag.as_secs_f64());
            "worker_heartbeat"
        }
        Note::Blocked(why) => {
            object.text("why", why);
            "dispatch_blocked"
        }
        Note::PoolDecided { pool, decision, sample: _ } => {
            object.text("pool", pool.as_str()).value("from", &decision.from).value("to", &decision.to);
            object.text("direction", decision.direction.as_str()).text("reason", decision.reason.as_str());
            "pool_scaled"
        }
        Note::PoolCalled { pool, outcome, took, detail } => {
            object.text("pool", pool.as_str()).text("outcome", outcome);
            object.value("took_seconds", &took.as_secs_f64()).maybe_text("detail", detail.as_deref());
            "pool_hook_called"
        }
        Note::PoolCapacity { pool, worker, took } => {
            object.text("pool", pool.as_str()).text("worker", worker.as_str());
            object.value("took_seconds", &took.as_secs_f64());
            "pool_instance_ready"
        }
        Note::PoolOdd { pool, worker, what } => {
            object.text("pool", pool.as_str()).text("worker", worker.as_str()).text("what", what);
            "pool_differs"
        }
        Note::Applied { generation, diff } => {
            object.value("generation", generation).text("summary", &describe(*generation, diff, None));
            "generation_applied"
        }
    }
}

fn about(object: &mut Object<'_>, worker: &WorkerName, pool: &Option<PoolName>) {
    object.text("worker", worker.as_str()).maybe_text("pool", name(pool));
}

fn name(pool: &Option<PoolName>) -> Option<&str> {
    pool.as_ref().map(PoolName::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Wall, WorkerState};

    #[test]
    fn an_event_tells_when_what_and_about_whom() {
        let note = Note::WorkerState { worker: "ann".into(), pool: None, state: WorkerState::Suspect };
        let (name, data) = form(&RingEvent { number: 1, at: Wall(0), note });
        let data: serde_json::Value = serde_json::from_slice(&data).expect("it is JSON");
        assert_eq!(name, "worker_state");
        assert_eq!(
            data,
            serde_json::json!({"at": "1970-01-01T00:00:00.000Z", "worker": "ann", "pool": null, "state": "suspect"})
        );
    }
}
