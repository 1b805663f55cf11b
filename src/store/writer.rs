//! The loop's end of the journal. Records gather here and are committed together: at once when an
//! answer waits for one, else after a short lingering, because an eager write-behind of records that
//! nobody awaits costs about a third of the throughput. Hand-overs linger even while others are
//! committed: most tasks end before that is over, and then their last record says it all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc as tokio_mpsc;

use super::{Batch, Journal, StoreFault, TaskLog};
use crate::fleet::{Keep, KeyTaken, Record, Seq, TaskId, TaskRecord};
use crate::telemetry::Metrics;

mod thread;

/// Records that nobody waits for are committed so late at most.
pub const LINGER: Duration = Duration::from_millis(50);

/// ... or once there are so many.
const LINGER_ROWS: usize = 512;

/// The same where the commit runs in the loop: no task may stand behind a long one.
const LINGER_ROWS_HERE: usize = 32;

/// Rows on their way at most; beyond it those of passing tasks, and logs, are dropped, and counted.
const MAX_BACKLOG: usize = 65_536;

/// Bytes of logs on their way at most.
const MAX_LOG_BYTES: usize = 64 << 20;

/// What the journal tells the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Every record up to this one is on disk, but for hand-overs, which may follow.
    Committed {
        /// The last of them; `None` when the batch had only logs.
        up_to: Option<Seq>,
        /// Those that were not written because of their keys.
        taken: Vec<KeyTaken>,
    },
    /// It has failed, or has room only for results. More tries follow with the same records, so
    /// nothing that waits behind them is ever let out without them. After one that is for good
    /// ([`StoreFault::Fenced`], [`StoreFault::Lost`]) nothing follows.
    Trouble(StoreFault),
    /// All is well again.
    Well,
}

/// What the thread tells: the loop's part, and how much of what was sent is through.
type Report = (Told, usize, usize);

/// The loop's end of the journal.
pub struct Writer {
    /// A journal that takes no time: to hand its records to a thread, and to free them there, would
    /// cost more than the commit.
    here: Option<(Box<dyn Journal>, Arc<Metrics>)>,
    /// What the journal that is here has answered.
    done: VecDeque<Told>,
    gathered: Batch,
    /// The newest hand-over of each task that has no later record.
    hand_overs: FxHashMap<TaskId, (Seq, Arc<TaskRecord>)>,
    /// The last record that was sent.
    sent: Seq,
    rows_underway: usize,
    log_bytes: usize,
    batches: Option<Sender<Batch>>,
    told: tokio_mpsc::Receiver<Report>,
    thread: Option<JoinHandle<()>>,
    /// There is room only for what must be kept.
    scarce: bool,
    dropped: u64,
}

impl Writer {
    /// Starts the thread, if the journal needs one.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(journal: Box<dyn Journal>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (reports, told) = tokio_mpsc::channel(1_024);
        let mut writer = Self {
            here: None,
            done: VecDeque::new(),
            gathered: Batch::default(),
            hand_overs: FxHashMap::default(),
            sent: Seq(0),
            rows_underway: 0,
            log_bytes: 0,
            batches: None,
            told,
            thread: None,
            scarce: false,
            dropped: 0,
        };
        if journal.takes_time() {
            let (batches, incoming) = std::sync::mpsc::channel();
            let hand = thread::Hand::new(journal, incoming, reports, metrics);
            writer.thread =
                Some(std::thread::Builder::new().name("journal".into()).spawn(move || hand.run())?);
            writer.batches = Some(batches);
        } else {
            writer.here = Some((journal, metrics));
        }
        Ok(writer)
    }

    /// Gathers a record.
    pub fn push(&mut self, seq: Seq, record: Record) {
        let passing = matches!(&record, Record::Task(task) if task.keep == Keep::Passing);
        if passing && (self.scarce || self.is_behind()) {
            self.dropped("finished tasks that nobody asked to keep are not listed");
            return;
        }
        match record {
            Record::HandOver(task) if self.here.is_none() => {
                self.hand_overs.insert(task.id, (seq, task));
                return;
            }
            Record::Task(ref task) => drop(self.hand_overs.remove(&task.id)),
            Record::HandOver(_)
            | Record::Roster(_)
            | Record::Overlay(..)
            | Record::Pool(..)
            | Record::Session(..) => {}
        }
        self.gathered.records.push((seq, record));
    }

    /// Gathers the log of a finished task, whose last record was pushed before. Nobody waits for it.
    pub fn push_log(&mut self, log: TaskLog) {
        if self.scarce || self.is_behind() || self.log_bytes + log.log.len() > MAX_LOG_BYTES {
            self.dropped("the output of finished tasks is not kept");
            return;
        }
        self.log_bytes += log.log.len();
        self.gathered.logs.push(log);
    }

    fn is_behind(&self) -> bool {
        self.rows() + self.rows_underway >= MAX_BACKLOG
    }

    fn dropped(&mut self, what: &str) {
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            tracing::warn!(dropped = self.dropped, "the store lags or has no room: {what}");
        }
    }

    /// Rows that are not sent yet.
    fn rows(&self) -> usize {
        self.gathered.len() + self.hand_overs.len()
    }

    /// Sends what has gathered if an answer waits for it, or if it is much.
    pub fn settle(&mut self, awaited: Option<Seq>) {
        let rows = if self.here.is_some() { LINGER_ROWS_HERE } else { LINGER_ROWS };
        if self.rows() >= rows {
            self.flush();
        } else if awaited.is_some_and(|seq| seq > self.sent) {
            self.send();
        }
    }

    /// Sends all that is there.
    pub fn flush(&mut self) {
        let records = &mut self.gathered.records;
        records.extend(self.hand_overs.drain().map(|(_, (seq, task))| (seq, Record::HandOver(task))));
        records.sort_unstable_by_key(|(seq, _)| *seq);
        self.send();
    }

    /// Sends what has gathered, but for the hand-overs.
    fn send(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let up_to = self.gathered.records.last().map(|(seq, _)| *seq);
        self.sent = up_to.map_or(self.sent, |seq| self.sent.max(seq));
        if let Some((journal, metrics)) = &mut self.here {
            let began = Instant::now();
            self.done.push_back(match journal.commit(&self.gathered) {
                Ok(taken) => Told::Committed { up_to, taken },
                Err(fault) => Told::Trouble(fault),
            });
            metrics.store_commit(began.elapsed(), self.gathered.len());
            self.gathered.records.clear();
            self.gathered.logs.clear();
            self.log_bytes = 0;
            return;
        }
        let batch = std::mem::take(&mut self.gathered);
        self.rows_underway += batch.len();
        if let Some(batches) = &self.batches {
            // A thread that is gone shows as the end of `told`.
            drop(batches.send(batch));
        }
    }

    /// Whether something lingers.
    pub fn lingers(&self) -> bool {
        self.rows() > 0
    }

    /// What the journal tells next; `None` when the thread is gone. Cancel-safe.
    pub async fn told(&mut self) -> Option<Told> {
        if self.here.is_some() {
            return match self.done.pop_front() {
                Some(told) => Some(told),
                None => std::future::pending().await,
            };
        }
        let (told, rows, log_bytes) = self.told.recv().await?;
        self.rows_underway = self.rows_underway.saturating_sub(rows);
        self.log_bytes = self.log_bytes.saturating_sub(log_bytes);
        match told {
            Told::Trouble(_) => self.scarce = true,
            Told::Well => self.scarce = false,
            Told::Committed { .. } => {}
        }
        Some(told)
    }

    /// Sends what has gathered and waits until the thread has ended.
    pub async fn close(mut self) {
        self.flush();
        self.batches = None;
        while self.told.recv().await.is_some() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
