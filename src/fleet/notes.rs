//! What the core saw, told for metrics, logs and the event stream. Nothing is decided by it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::autoscaler::{Decision, DemandSample};
use super::ids::*;
use super::task::*;
use super::words::*;

/// What the core saw, for metrics, logs and the event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Note {
    /// A submission was answered.
    Submitted {
        /// What was asked.
        capability: Capability,
        /// Which door.
        source: Source,
        /// `accepted`, `deduplicated`, `conflict`, `invalid`, `queue_full`, `draining`, `unavailable`.
        outcome: &'static str,
    },
    /// A task was handed to a worker.
    Assigned {
        /// What was asked.
        capability: Capability,
        /// How long it was eligible before.
        wait: Duration,
    },
    /// A worker acknowledged an attempt.
    Started {
        /// The worker's pool.
        pool: Option<PoolName>,
        /// Hand-over to acknowledgement.
        ack: Duration,
    },
    /// An attempt ended.
    AttemptEnded {
        /// The task.
        task: TaskId,
        /// What was asked.
        capability: Capability,
        /// Who had it.
        worker: WorkerName,
        /// That worker's pool.
        pool: Option<PoolName>,
        /// How it ended.
        outcome: AttemptOutcome,
        /// Acknowledgement to end, where it was acknowledged.
        execution: Option<Duration>,
    },
    /// A task was put back for another attempt.
    Retried {
        /// What was asked.
        capability: Capability,
        /// How the attempt before ended.
        outcome: AttemptOutcome,
        /// Whether the retry budget paid for it; what never began costs nothing.
        paid: bool,
    },
    /// A task that is to be tried again waits for the retry budget.
    RetryHeld {
        /// What was asked.
        capability: Capability,
    },
    /// A task became final.
    Ended {
        /// The whole task.
        record: Arc<TaskRecord>,
        /// Whose fault.
        fault: Fault,
        /// Accepted to final.
        latency: Duration,
    },
    /// A result was fenced off.
    Discarded {
        /// The task.
        task: TaskId,
        /// Who sent it.
        worker: WorkerName,
        /// Why.
        reason: Discard,
    },
    /// A reconnecting worker's attempt was decided upon.
    Reconciled {
        /// The task.
        task: TaskId,
        /// `resumed`, `adopted`, `rerun`, `aborted`, `result_accepted`, `result_discarded`.
        decision: &'static str,
    },
    /// A worker shows another state.
    WorkerState {
        /// Who.
        worker: WorkerName,
        /// Its pool.
        pool: Option<PoolName>,
        /// The new state.
        state: super::WorkerState,
    },
    /// A canary ended.
    Canary {
        /// Who had it.
        worker: WorkerName,
        /// Its pool.
        pool: Option<PoolName>,
        /// `passed` or `failed`.
        outcome: &'static str,
        /// How long it took.
        took: Duration,
    },
    /// What a worker's failures, or their end, have led to.
    Health {
        /// Who.
        worker: WorkerName,
        /// Its pool.
        pool: Option<PoolName>,
        /// `ejected`; `pool_limit` or `last_ready` where that holds an ejection back; `returned`;
        /// `restarted`.
        what: &'static str,
        /// For people.
        detail: Arc<str>,
    },
    /// A try to connect ended.
    Connected {
        /// Who.
        worker: WorkerName,
        /// Its pool.
        pool: Option<PoolName>,
        /// How.
        outcome: ConnectOutcome,
        /// Whether it was connected before.
        again: bool,
        /// Dial to registration, where the server dialled.
        took: Option<Duration>,
        /// Disconnect to registration, where it was connected before.
        down: Option<Duration>,
        /// For people, where it failed.
        detail: Option<Arc<str>>,
    },
    /// A connection ended.
    Disconnected {
        /// Who.
        worker: WorkerName,
        /// Its pool.
        pool: Option<PoolName>,
        /// Why.
        why: Why,
    },
    /// A worker's heartbeat came, or was found missing.
    Heartbeat {
        /// Who.
        worker: WorkerName,
        /// Its pool.
        pool: Option<PoolName>,
        /// `on_time`, `late` (over 1.1 intervals) or `missed` (over 2).
        outcome: &'static str,
        /// How much longer than the interval the gap was.
        lag: Duration,
    },
    /// A task is held back although it could run, and why: `no_slot`, `no_worker`, `store`.
    Blocked(&'static str),
    /// A pool was looked at.
    PoolDecided {
        /// Which.
        pool: PoolName,
        /// What came of it.
        decision: Arc<Decision>,
        /// What it was asked for since the look before.
        sample: DemandSample,
    },
    /// A pool's provider has answered.
    PoolCalled {
        /// Which pool.
        pool: PoolName,
        /// `ok`, `error` or `timeout`.
        outcome: &'static str,
        /// How long the call took.
        took: Duration,
        /// For people, where it failed.
        detail: Option<Arc<str>>,
    },
    /// A pool's instance takes tasks for the first time.
    PoolCapacity {
        /// Which pool.
        pool: PoolName,
        /// The instance.
        worker: WorkerName,
        /// Decision to readiness.
        took: Duration,
    },
    /// What a pool's provider says and what is there differ.
    PoolOdd {
        /// Which pool.
        pool: PoolName,
        /// The instance.
        worker: WorkerName,
        /// `missing`: it was to be there and is not; `unwanted`: the other way round.
        what: &'static str,
    },
    /// A new generation is in force.
    Applied {
        /// Its number.
        generation: Generation,
        /// What it changed.
        diff: Arc<super::Diff>,
    },
}
