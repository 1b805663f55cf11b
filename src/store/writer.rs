//! The journal's thread. Records gather here and are committed together: at once when an answer
//! waits for one, else after a short lingering, because an eager write-behind costs a third of the
//! throughput (docs/guarantees.md).

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc as tokio_mpsc;

use super::{Journal, StoreFault};
use crate::fleet::{Keep, Record, Seq};
use crate::telemetry::Metrics;

/// Records that nobody waits for are committed so late at most.
pub const LINGER: Duration = Duration::from_millis(50);

/// ... or once there are so many.
const LINGER_ROWS: usize = 512;

/// Records on their way at most; beyond it those of passing tasks are dropped, and counted.
const MAX_BACKLOG: usize = 65_536;

/// What the journal's thread answers.
pub type Committed = Result<Seq, StoreFault>;

/// The loop's end of the journal.
pub struct Writer {
    gathered: Vec<(Seq, Record)>,
    /// The last record that was sent to the thread.
    sent: Seq,
    underway: usize,
    batches: Option<std::sync::mpsc::Sender<Vec<(Seq, Record)>>>,
    committed: tokio_mpsc::Receiver<(Committed, usize)>,
    thread: Option<JoinHandle<()>>,
    dropped: u64,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(mut journal: Box<dyn Journal>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (batches, incoming) = std::sync::mpsc::channel::<Vec<(Seq, Record)>>();
        let (answers, committed) = tokio_mpsc::channel(1_024);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            while let Ok(mut batch) = incoming.recv() {
                // What has come meanwhile goes into the same commit.
                while let Ok(more) = incoming.try_recv() {
                    batch.extend(more);
                }
                let began = std::time::Instant::now();
                let result = journal.commit(&batch).map(|()| batch.last().map_or(Seq(0), |(seq, _)| *seq));
                metrics.store_commit(began.elapsed(), batch.len());
                if answers.blocking_send((result, batch.len())).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            gathered: Vec::new(),
            sent: Seq(0),
            underway: 0,
            batches: Some(batches),
            committed,
            thread: Some(thread),
            dropped: 0,
        })
    }

    /// Gathers a record.
    pub fn push(&mut self, seq: Seq, record: Record) {
        let passing = matches!(&record, Record::Task(task) if task.keep == Keep::Passing);
        if passing && self.gathered.len() + self.underway >= MAX_BACKLOG {
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::warn!(
                    dropped = self.dropped,
                    "the store lags: finished tasks that nobody asked to keep are not listed"
                );
            }
            return;
        }
        self.gathered.push((seq, record));
    }

    /// Sends what has gathered if an answer waits for it, or if it is much.
    pub fn settle(&mut self, awaited: Option<Seq>) {
        if awaited.is_some_and(|seq| seq > self.sent) || self.gathered.len() >= LINGER_ROWS {
            self.flush();
        }
    }

    /// Sends what has gathered.
    pub fn flush(&mut self) {
        let Some((last, _)) = self.gathered.last() else { return };
        self.sent = *last;
        let batch = std::mem::take(&mut self.gathered);
        self.underway += batch.len();
        if let Some(batches) = &self.batches {
            // A thread that is gone shows as the end of `committed`.
            drop(batches.send(batch));
        }
    }

    /// Whether something lingers.
    pub fn lingers(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// The next commit's result; `None` when the thread is gone. Cancel-safe.
    pub async fn committed(&mut self) -> Option<Committed> {
        let (result, rows) = self.committed.recv().await?;
        self.underway = self.underway.saturating_sub(rows);
        Some(result)
    }

    /// Sends what has gathered and waits until the thread has ended.
    pub async fn close(mut self) {
        self.flush();
        self.batches = None;
        while self.committed.recv().await.is_some() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread panicked");
        }
    }
}
