//! The core's words: what it is told (`Event`) and what it asks for (`Effect`). What these carry is
//! beside it, by whom it is about: `words/worker.rs`, `words/request.rs`, `words/record.rs` and
//! `words/connection.rs`.

mod connection;
mod record;
mod request;
mod worker;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::autoscaler::{PoolSpec, PoolWord, ProviderReport, Wanted};
use super::ids::*;
use super::notes::Note;
use super::task::*;
use super::topology::Topology;

pub use connection::*;
pub use record::*;
pub use request::*;
pub use worker::*;

/// Everything that the core can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A task arrives.
    Submit(Box<Submission>),
    /// A waiting caller's patience ended: record the task, then answer the request with it.
    Promote(TaskId, RequestId),
    /// Every caller of a passing task has hung up.
    Abandoned(TaskId),
    /// Stop a task; the request is answered with it.
    Cancel(TaskId, RequestId),
    /// A person's word about a worker, with that person's name where it is known; the request is
    /// answered.
    Operator(OperatorWord, Option<Arc<str>>, RequestId),
    /// A person's word about a pool, with that person's name where it is known; the request is
    /// answered.
    Pool(PoolWord, Option<Arc<str>>, RequestId),
    /// A pool's provider has answered the call of that number.
    Provided(PoolName, u64, ProviderReport),
    /// A new generation.
    Desired(Arc<Topology>),
    /// A connection is up and the worker has registered.
    LinkUp(ConnId, Box<Registration>),
    /// A dial ended without a registration.
    DialFailed(WorkerName, ConnectOutcome, Arc<str>),
    /// A worker said something.
    Report(ConnId, Report),
    /// A connection ended, or the shell carried out a `Close`.
    LinkDown(ConnId, Why),
    /// A launched process, with its whole group, is gone.
    ProcessGone(WorkerName),
    /// Every record up to this one is on disk.
    Durable {
        /// The last of them.
        up_to: Seq,
        /// Those among them that were not written, because their key names another task already.
        #[serde(default)]
        taken: Vec<KeyTaken>,
    },
    /// The journal refuses writes (true), or takes them again (false).
    StoreFailed(bool),
    /// The server begins to stop: no new work is taken or handed out; launched workers drain.
    Quiesce,
    /// The drain time is over: what launched workers still run is queued again, all are sent away.
    Farewell,
    /// Delete a session; the request is answered.
    EndSession(Tenant, SessionName, RequestId),
    /// What the journal has of the input of a task that was asked for by [`Effect::Fetch`].
    Fetched(TaskId, Result<Payload, InputFault>),
    /// A time that `next_wake` named has come, or the shell was away.
    Wake,
}

/// Everything that the core can ask of the shell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Effect {
    /// Say this to the worker on that connection; first in, first out.
    Order(ConnId, Order),
    /// Flush what was said, then close; `LinkDown` follows.
    Close(ConnId, Why),
    /// Dial this worker; `LinkUp` or `DialFailed` follows.
    Dial(WorkerName),
    /// Stop dialling it; nothing follows.
    HangUp(WorkerName),
    /// See that its program runs.
    Launch(WorkerName),
    /// Stop its program; `ProcessGone` follows.
    Halt(WorkerName),
    /// Ask a pool's provider for this; `Provided` follows. One call of a pool at a time.
    Provision(Arc<PoolSpec>, Arc<Wanted>),
    /// Write this to the journal; `Durable` follows.
    Record(Seq, Record),
    /// Read the input of a task from what the journal wrote; `Fetched` follows, once for each of these.
    Fetch(Tenant, TaskId),
    /// Answer a request.
    Answer(RequestId, Answer),
    /// A task is final: every caller who waits for it gets this.
    Finish(TaskId, Arc<TaskRecord>),
    /// Show this to the task's watchers.
    Publish(TaskId, Happening),
    /// Open or shut the way into the task's log.
    Gate(TaskId, Epoch, Door),
    /// Count and log this; nothing depends on it.
    Note(Note),
}

/// Something in a task's life that a watcher is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Happening {
    /// It has a new state.
    State {
        /// The new state.
        state: TaskState,
        /// The attempt that it is about, from 1; 0 before the first.
        attempt: u32,
        /// The worker that it is about.
        worker: Option<WorkerName>,
        /// Why, where there is something to say.
        reason: Option<Arc<str>>,
    },
}

/// Whether an attempt's output may be appended to its task's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Door {
    /// From now on, from this connection.
    Open(ConnId),
    /// No more.
    Shut,
}
