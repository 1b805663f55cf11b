//! The journal's thread (or, for one that takes no time, its place in the loop). Records gather here
//! and are committed together: at once when an answer waits for one, else after a short lingering,
//! because an eager write-behind of records that nobody awaits costs about a third of the throughput.

use std::collections::VecDeque;
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

/// The same where the commit runs in the loop: no task may stand behind a long one.
const LINGER_ROWS_HERE: usize = 32;

/// Records on their way at most; beyond it those of passing tasks are dropped, and counted.
const MAX_BACKLOG: usize = 65_536;

/// How long the journal rests after a failure before it is tried again with the same records.
const RETRY: Duration = Duration::from_secs(1);

/// What the journal's thread answers: a failure is followed by more tries with the same records, so
/// nothing that waits behind them is ever let out without them.
pub type Committed = Result<Seq, StoreFault>;

/// The loop's end of the journal.
pub struct Writer {
    /// A journal that takes no time: to hand its records to a thread, and to free them there, would
    /// cost more than the commit.
    here: Option<(Box<dyn Journal>, Arc<Metrics>)>,
    /// What the journal that is here has answered.
    done: VecDeque<Committed>,
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
        if !journal.takes_time() {
            return Ok(Self {
                here: Some((journal, metrics)),
                done: VecDeque::new(),
                gathered: Vec::new(),
                sent: Seq(0),
                underway: 0,
                batches: None,
                committed,
                thread: None,
                dropped: 0,
            });
        }
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            while let Ok(batch) = incoming.recv() {
                if !commit(journal.as_mut(), batch, &incoming, &answers, &metrics) {
                    return;
                }
            }
        })?;
        Ok(Self {
            here: None,
            done: VecDeque::new(),
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
        let rows = if self.here.is_some() { LINGER_ROWS_HERE } else { LINGER_ROWS };
        if awaited.is_some_and(|seq| seq > self.sent) || self.gathered.len() >= rows {
            self.flush();
        }
    }

    /// Sends what has gathered.
    pub fn flush(&mut self) {
        let Some((last, _)) = self.gathered.last() else { return };
        self.sent = *last;
        if let Some((journal, metrics)) = &mut self.here {
            let began = std::time::Instant::now();
            self.done.push_back(journal.commit(&self.gathered).map(|()| self.sent));
            metrics.store_commit(began.elapsed(), self.gathered.len());
            self.gathered.clear();
            return;
        }
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
        if self.here.is_some() {
            return match self.done.pop_front() {
                Some(result) => Some(result),
                None => std::future::pending().await,
            };
        }
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

/// Commits a batch, with what has come meanwhile; after a failure again and again, until it is
/// written. False when there is nobody left to tell, or no sense in going on.
fn commit(
    journal: &mut dyn Journal,
    mut batch: Vec<(Seq, Record)>,
    incoming: &std::sync::mpsc::Receiver<Vec<(Seq, Record)>>,
    answers: &tokio_mpsc::Sender<(Committed, usize)>,
    metrics: &Metrics,
) -> bool {
    loop {
        batch.extend(incoming.try_iter().flatten());
        let began = std::time::Instant::now();
        match journal.commit(&batch) {
            Ok(()) => {
                metrics.store_commit(began.elapsed(), batch.len());
                let last = batch.last().map_or(Seq(0), |(seq, _)| *seq);
                return answers.blocking_send((Ok(last), batch.len())).is_ok();
            }
            Err(fault) => {
                let fenced = matches!(fault, StoreFault::Fenced { .. });
                if answers.blocking_send((Err(fault), 0)).is_err() || fenced {
                    return false;
                }
                match incoming.recv_timeout(RETRY) {
                    Ok(more) => batch.extend(more),
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    // The server ends; what could not be written was never shown as kept.
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Overlay, WorkerName};

    /// A disk that is full for so many tries.
    struct Full(u32, std::sync::mpsc::Sender<Vec<u64>>);

    impl Journal for Full {
        fn commit(&mut self, batch: &[(Seq, Record)]) -> Result<(), StoreFault> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(StoreFault::Io("no space left".into()));
            }
            drop(self.1.send(batch.iter().map(|(seq, _)| seq.0).collect()));
            Ok(())
        }
    }

    fn record() -> Record {
        Record::Overlay(WorkerName::from("ann"), Overlay::default())
    }

    #[tokio::test]
    async fn records_that_a_full_disk_refused_are_written_once_there_is_room() {
        let (tell, written) = std::sync::mpsc::channel();
        let journal = Box::new(Full(1, tell));
        let mut writer = Writer::start(journal, Arc::new(Metrics::default())).expect("a thread");
        writer.push(Seq(1), record());
        writer.settle(Some(Seq(1)));
        assert!(matches!(writer.committed().await, Some(Err(StoreFault::Io(_)))));
        writer.push(Seq(2), record());
        writer.settle(Some(Seq(2)));
        assert_eq!(writer.committed().await, Some(Ok(Seq(2))));
        assert_eq!(written.recv(), Ok(vec![1, 2]));
        writer.close().await;
    }
}
