//! The journal's own thread: commits what arrives, does the housekeeping between, and stays with a
//! batch that failed until it is written, or until there is no sense in going on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use super::{Report, Told};
use crate::store::{Batch, Journal, StoreFault};
use crate::telemetry::{Loop, Metrics, StoreCall, StoreStep};

/// The housekeeping is done at least so often.
const TEND: Duration = Duration::from_secs(1);

/// How long the journal rests after a failure before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A disk that fails for longer is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows of one commit: an answer never stands behind a longer one.
const ROWS: usize = 2_048;

pub(super) struct Hand {
    journal: Box<dyn Journal>,
    incoming: Receiver<Batch>,
    reports: Sender<Report>,
    metrics: Arc<Metrics>,
    backlog: VecDeque<Batch>,
    /// Since when the disk has been failing, and not only full.
    failing: Option<Instant>,
    /// The loop was told of trouble, and not yet that all is well.
    troubled: bool,
    /// The loop has let go: what comes now is the last.
    closing: bool,
}

/// There is nobody left to tell, or no sense in going on.
struct Over;

impl Hand {
    pub(super) fn new(
        journal: Box<dyn Journal>,
        incoming: Receiver<Batch>,
        reports: Sender<Report>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            journal,
            incoming,
            reports,
            metrics,
            backlog: VecDeque::new(),
            failing: None,
            troubled: false,
            closing: false,
        }
    }

    pub(super) fn run(mut self) {
        // An early end has been told, or there is nobody to tell.
        let (Ok(()) | Err(Over)) = self.serve();
    }

    fn serve(&mut self) -> Result<(), Over> {
        let mut tended = Instant::now();
        self.look_at_room()?;
        loop {
            self.take_in(TEND.saturating_sub(tended.elapsed()));
            while let Some(batch) = self.next_batch() {
                self.commit(&batch)?;
                self.tend()?;
                self.take_in(Duration::ZERO);
            }
            if self.closing {
                return Ok(());
            }
            if tended.elapsed() >= TEND {
                let late = tended.elapsed().saturating_sub(TEND);
                tended = Instant::now();
                self.tend()?;
                self.metrics.store_call(StoreCall::Delete, tended.elapsed());
                self.metrics.loop_tick(Loop::Checkpoint, late);
                self.look_at_room()?;
                if let Some(size) = self.journal.size() {
                    self.metrics.store_size(size.db, size.wal, size.free);
                }
            }
        }
    }

    /// Waits for the next batch, unless some are there already, and takes all that have come.
    fn take_in(&mut self, patience: Duration) {
        if self.closing {
            return;
        }
        if self.backlog.is_empty() && !patience.is_zero() {
            match self.incoming.recv_timeout(patience) {
                Ok(batch) => self.backlog.push_back(batch),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.closing = true,
            }
        }
        self.backlog.extend(self.incoming.try_iter());
    }

    /// What is committed next: what has come, together, up to a bound.
    fn next_batch(&mut self) -> Option<Batch> {
        let mut batch = self.backlog.pop_front()?;
        while let Some(next) = self.backlog.front()
            && batch.len() + next.len() <= ROWS
        {
            let Some(next) = self.backlog.pop_front() else { break };
            batch.records.extend(next.records);
            batch.logs.extend(next.logs);
        }
        Some(batch)
    }

    /// Commits a batch, after a failure again and again.
    fn commit(&mut self, batch: &Batch) -> Result<(), Over> {
        loop {
            let began = Instant::now();
            match self.journal.commit(batch) {
                Ok(taken) => {
                    self.metrics.store_commit(began.elapsed(), batch.len());
                    // Hand-overs may have come behind what is newer.
                    let up_to = batch.records.iter().map(|(seq, _)| *seq).max();
                    let log_bytes = batch.logs.iter().map(|log| log.log.len()).sum();
                    self.report((Told::Committed { up_to, taken }, batch.len(), log_bytes))?;
                    self.failing = None;
                    return self.look_at_room();
                }
                Err(fault) => self.suffer(fault)?,
            }
        }
    }

    fn tend(&mut self) -> Result<(), Over> {
        match self.journal.tend() {
            Ok(()) => Ok(()),
            Err(fault) => self.suffer(fault),
        }
    }

    /// After a failure: tells it, does what can be done about it, and returns when another try may
    /// succeed.
    fn suffer(&mut self, fault: StoreFault) -> Result<(), Over> {
        self.metrics.store_failed(StoreStep::Write, kind(&fault));
        match fault {
            StoreFault::Fenced { .. } | StoreFault::Lost(_) => {
                self.report((Told::Trouble(fault), 0, 0))?;
                Err(Over)
            }
            StoreFault::Full(_) => {
                self.trouble(fault)?;
                if self.journal.make_room() {
                    return Ok(());
                }
                self.rest()?;
                // The housekeeping takes the space back once there is some, and deletes what is due.
                match self.journal.tend() {
                    Ok(()) | Err(StoreFault::Full(_)) => Ok(()),
                    Err(fault) => self.suffer(fault),
                }
            }
            StoreFault::Io(_) => {
                self.trouble(fault)?;
                self.revive()
            }
        }
    }

    /// Nothing is acknowledged until the journal has begun anew and has found what it confirmed.
    fn revive(&mut self) -> Result<(), Over> {
        let since = *self.failing.get_or_insert_with(Instant::now);
        loop {
            self.rest()?;
            let fault = match self.journal.revive() {
                Ok(()) if since.elapsed() < PATIENCE => return Ok(()),
                Ok(()) => StoreFault::Lost("it fails again and again".to_owned()),
                Err(fault) => fault,
            };
            self.metrics.store_failed(StoreStep::Write, kind(&fault));
            let seconds = since.elapsed().as_secs();
            let last = match fault {
                StoreFault::Io(why) if since.elapsed() >= PATIENCE => {
                    StoreFault::Lost(format!("the disk has been failing for {seconds} s: {why}"))
                }
                StoreFault::Io(_) | StoreFault::Full(_) => continue,
                StoreFault::Fenced { .. } | StoreFault::Lost(_) => fault,
            };
            self.report((Told::Trouble(last), 0, 0))?;
            return Err(Over);
        }
    }

    fn rest(&mut self) -> Result<(), Over> {
        match self.incoming.recv_timeout(RETRY) {
            Ok(batch) => self.backlog.push_back(batch),
            Err(RecvTimeoutError::Timeout) => {}
            // The server ends; what could not be written was never shown as kept.
            Err(RecvTimeoutError::Disconnected) => return Err(Over),
        }
        Ok(())
    }

    fn trouble(&mut self, fault: StoreFault) -> Result<(), Over> {
        if std::mem::replace(&mut self.troubled, true) {
            return Ok(());
        }
        self.report((Told::Trouble(fault), 0, 0))
    }

    /// Says when there is room only for results, and when all is well again.
    fn look_at_room(&mut self) -> Result<(), Over> {
        match self.journal.scarce() {
            Some(fault) => self.trouble(fault),
            None if self.failing.is_none() && std::mem::take(&mut self.troubled) => {
                self.report((Told::Well, 0, 0))
            }
            None => Ok(()),
        }
    }

    fn report(&self, report: Report) -> Result<(), Over> {
        self.reports.blocking_send(report).map_err(|_| Over)
    }
}

/// The label value of a failure.
fn kind(fault: &StoreFault) -> &'static str {
    match fault {
        StoreFault::Fenced { .. } => "conflict",
        StoreFault::Full(_) => "full",
        StoreFault::Io(_) => "io",
        StoreFault::Lost(_) => "corrupt",
    }
}
