//! The loop's end of reading inputs that the core let go of: on a thread of its own, one after another
//! in the order in which they were asked for. Not through [`Reads`](super::Reads), where a flood of
//! lists could refuse them: their number is bounded by the slots that are kept free for them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc as tokio_mpsc;

use super::{Archive, ReadFault};
use crate::fleet::{Event, InputFault, Payload, TaskId, Tenant};
use crate::telemetry::{Metrics, StoreCall, StoreStep};

/// Inputs that were read, or are being read, and that the loop has not taken yet: so many are in memory.
const AHEAD: usize = 8;

type Asked = (Tenant, TaskId);

/// See the module.
pub struct Inputs {
    archive: Arc<dyn Archive>,
    metrics: Arc<Metrics>,
    waiting: VecDeque<Asked>,
    underway: usize,
    /// `None` where a read takes no time.
    asked: Option<Sender<Asked>>,
    thread: Option<JoinHandle<()>>,
}

impl Inputs {
    /// Starts the thread, if the archive needs one. What is read comes as [`Event::Fetched`].
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(
        archive: Arc<dyn Archive>,
        metrics: Arc<Metrics>,
        events: tokio_mpsc::Sender<Event>,
    ) -> std::io::Result<Self> {
        let (mut asked, mut thread) = (None, None);
        if archive.takes_time() {
            let (sender, incoming) = std::sync::mpsc::channel();
            let (archive, metrics) = (Arc::clone(&archive), Arc::clone(&metrics));
            let run = move || read_all(&*archive, &metrics, &incoming, &events);
            thread = Some(std::thread::Builder::new().name("inputs".into()).spawn(run)?);
            asked = Some(sender);
        }
        Ok(Self { archive, metrics, waiting: VecDeque::new(), underway: 0, asked, thread })
    }

    /// Reads the input of a task. Where that takes no time, the event is the answer.
    pub fn fetch(&mut self, tenant: Tenant, task: TaskId) -> Option<Event> {
        if self.asked.is_none() {
            return Some(Event::Fetched(task, read(&*self.archive, &self.metrics, &tenant, task)));
        }
        self.waiting.push_back((tenant, task));
        self.go_on();
        None
    }

    /// The loop has taken one that was read.
    pub fn taken(&mut self) {
        self.underway = self.underway.saturating_sub(1);
        self.go_on();
    }

    fn go_on(&mut self) {
        let Some(asked) = &self.asked else { return };
        while self.underway < AHEAD
            && let Some(next) = self.waiting.pop_front()
        {
            self.underway += 1;
            // It goes on until this end is dropped: nothing in it can panic.
            drop(asked.send(next));
        }
    }

    /// Ends the thread. The receiver of the events must be closed before: it may be full.
    pub fn close(mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads inputs panicked");
        }
    }
}

fn read_all(
    archive: &dyn Archive,
    metrics: &Metrics,
    asked: &Receiver<Asked>,
    events: &tokio_mpsc::Sender<Event>,
) {
    while let Ok((tenant, task)) = asked.recv() {
        let read = catch_unwind(AssertUnwindSafe(|| read(archive, metrics, &tenant, task)));
        let input = read.unwrap_or_else(|_| Err(InputFault::Unread("the read panicked".into())));
        if events.blocking_send(Event::Fetched(task, input)).is_err() {
            return;
        }
    }
}

fn read(
    archive: &dyn Archive,
    metrics: &Metrics,
    tenant: &Tenant,
    task: TaskId,
) -> Result<Payload, InputFault> {
    let began = Instant::now();
    let found = archive.input(tenant, task);
    if archive.takes_time() {
        metrics.store_call(StoreCall::Read, began.elapsed());
    }
    let (kind, fault) = match found {
        Ok(Some(input)) => return Ok(input),
        Ok(None) => ("corrupt", InputFault::Damaged("it is not there".into())),
        Err(fault @ ReadFault::Damaged(_)) => ("corrupt", InputFault::Damaged(fault.to_string().into())),
        Err(fault @ ReadFault::Busy) => ("busy", InputFault::Unread(fault.to_string().into())),
        Err(fault @ ReadFault::Io(_)) => ("io", InputFault::Unread(fault.to_string().into())),
    };
    metrics.store_failed(StoreStep::Read, kind);
    let (InputFault::Unread(why) | InputFault::Damaged(why)) = &fault;
    tracing::error!(%task, %why, alert = "RollcallStoreErrors", "a task's input cannot be read for its hand-over");
    Err(fault)
}
