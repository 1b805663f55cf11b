//! The writing side: one connection, one commit at a time. After a failure it stops, closes, and
//! goes on only once it has seen that everything it ever confirmed is there: SQLite alone would fail
//! one insert and acknowledge the next, though the kernel may have dropped the pages before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, DEFAULT_NAME, OptionalExtension as _, TransactionBehavior, params};

use super::ballast::{Ballast, free_bytes};
use super::connect::{self, LOG_BYTES, is_damage, quick_check};
use super::put::{Counts, Put};
use super::{Failed, Shared, bytes_of, stored};
use crate::fleet::{KeyTaken, Record, TaskId, Tenant, Term};
use crate::store::{Batch, Journal, Size, StoreFault};

/// Pages of the log after which they are copied into the database, without waiting for readers.
const CHECKPOINT_PAGES: i32 = 1_000;

/// The bytes of a page.
const PAGE: u64 = 4_096;

/// Confirmed records that a reopened database is asked for.
const TAIL: usize = 1_024;

/// How often the disk's room and the oldest task's age are looked at.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct SqliteJournal {
    pub(super) shared: Arc<Shared>,
    /// None after a failure, until it was revived.
    pub(super) db: Option<Connection>,
    pub(super) term: Term,
    pub(super) counts: Counts,
    tail: Tail,
    pub(super) ballast: Ballast,
    /// Pages in the log, as the last commit left it.
    log_pages: Arc<AtomicI32>,
    /// How many of them were there when they were last copied.
    copied_pages: i32,
    pub(super) looked: Instant,
}

/// The last versions that were confirmed.
#[derive(Debug, Default)]
struct Tail {
    versions: BTreeMap<TaskId, (Tenant, u64)>,
    order: VecDeque<TaskId>,
}

impl Tail {
    fn add(&mut self, batch: &Batch, taken: &[KeyTaken]) {
        for (seq, record) in &batch.records {
            if let Record::Task(task) | Record::HandOver(task) = record
                && !taken.iter().any(|taken| taken.seq == *seq)
            {
                let entry = self.versions.entry(task.id).or_insert_with(|| {
                    self.order.push_back(task.id);
                    (task.tenant.clone(), 0)
                });
                entry.1 = entry.1.max(task.version);
            }
        }
        while self.order.len() > TAIL {
            if let Some(oldest) = self.order.pop_front() {
                self.versions.remove(&oldest);
            }
        }
    }
}

impl SqliteJournal {
    pub(super) fn new(
        shared: Arc<Shared>,
        mut db: Connection,
        term: Term,
        counts: Counts,
        ballast: Ballast,
    ) -> Result<Self, Failed> {
        let log_pages = Arc::new(AtomicI32::new(0));
        watch_log(&mut db, &log_pages)?;
        Ok(Self {
            shared,
            db: Some(db),
            term,
            counts,
            tail: Tail::default(),
            ballast,
            log_pages,
            copied_pages: 0,
            looked: Instant::now(),
        })
    }

    /// Runs a step in a transaction of its own, durable when it returns. A failure closes the
    /// connection, unless the disk is only full: then the step was undone and nothing else has
    /// happened.
    pub(super) fn within<T>(
        &mut self,
        step: impl FnOnce(&Connection, Counts) -> Result<(T, Counts), StoreFault>,
    ) -> Result<T, StoreFault> {
        let Some(db) = &mut self.db else {
            return Err(StoreFault::Io("it was closed after a failure".to_owned()));
        };
        let done = transact(db, self.term, self.counts, step);
        match done {
            Ok((done, counts)) => {
                self.counts = counts;
                Ok(done)
            }
            Err(fault) => {
                let undone = self.db.as_ref().is_some_and(Connection::is_autocommit);
                if !(matches!(fault, StoreFault::Full(_)) && undone) {
                    self.db = None;
                }
                Err(fault)
            }
        }
    }

    /// The sweeper has deleted it: a revived journal must not miss it.
    pub(super) fn forget(&mut self, task: TaskId) {
        if self.tail.versions.remove(&task).is_some() {
            self.tail.order.retain(|known| *known != task);
        }
    }

    /// Copies the log into the database when it has grown: a part without waiting for anybody, all
    /// of it once it is large.
    fn checkpoint(&mut self) -> Result<(), StoreFault> {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < self.copied_pages {
            // It began from the front again.
            self.copied_pages = 0;
        }
        if pages - self.copied_pages < CHECKPOINT_PAGES {
            return Ok(());
        }
        let Some(db) = &self.db else { return Ok(()) };
        let large = u64::try_from(pages).unwrap_or(0) * PAGE > LOG_BYTES;
        let mode = if large { Mode::TRUNCATE } else { Mode::PASSIVE };
        match db.wal_checkpoint_v2(DEFAULT_NAME, mode) {
            Ok(_) => {
                self.copied_pages = if large { 0 } else { pages };
                if large {
                    self.log_pages.store(0, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                // A reader holds on to it; the next thousand pages try again.
                self.copied_pages = pages;
                Ok(())
            }
            Err(error) => {
                let fault = StoreFault::from(Failed::from(error));
                if !matches!(fault, StoreFault::Full(_)) {
                    self.db = None;
                }
                Err(fault)
            }
        }
    }

    /// Whether everything that was confirmed lately is there.
    fn compare(&self, db: &Connection) -> Result<(), StoreFault> {
        let mut find = db
            .prepare("SELECT version FROM tasks WHERE tenant = ?1 AND id = ?2")
            .map_err(|error| StoreFault::from(Failed::from(error)))?;
        for (id, (tenant, version)) in &self.tail.versions {
            let found: Option<i64> = find
                .query_row(params![tenant.as_str(), bytes_of(*id)], |row| row.get(0))
                .optional()
                .map_err(|error| StoreFault::from(Failed::from(error)))?;
            if found.is_none_or(|found| found < stored(*version)) {
                return Err(StoreFault::Lost(format!(
                    "task {id} was confirmed as recorded (version {version}), and the disk does not have it"
                )));
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Failed> {
        self.db = None;
        self.shared.readers.close();
        let mut db = connect::writer(&self.shared.place)?;
        // Whatever the log has is written to the database anew, and synced: pages that the kernel
        // dropped after a failed sync are not believed to be on the disk.
        db.wal_checkpoint_v2(DEFAULT_NAME, Mode::TRUNCATE)?;
        quick_check(&db)?;
        self.log_pages.store(0, Ordering::Relaxed);
        self.copied_pages = 0;
        watch_log(&mut db, &self.log_pages)?;
        self.counts = count(&db)?;
        self.db = Some(db);
        Ok(())
    }
}

use rusqlite::wal::CheckpointMode as Mode;

impl Journal for SqliteJournal {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<KeyTaken>, StoreFault> {
        let now = now();
        let taken = self.within(|db, counts| {
            let mut put = Put { db, counts, taken: Vec::new(), now };
            put.batch(batch).map_err(StoreFault::from)?;
            Ok((put.taken, put.counts))
        })?;
        self.tail.add(batch, &taken);
        Ok(taken)
    }

    fn revive(&mut self) -> Result<(), StoreFault> {
        if self.db.is_some() {
            return Ok(());
        }
        let revived = self.reopen().map_err(|failed| match failed {
            Failed::Damage(damage) => StoreFault::Lost(damage.to_string()),
            Failed::Sql(error) if is_damage(&error) => StoreFault::Lost(error.to_string()),
            failed @ (Failed::Sql(_) | Failed::NoLog(_)) => StoreFault::Io(failed.to_string()),
        });
        let compared = revived.and_then(|()| match &self.db {
            Some(db) => self.compare(db),
            None => Ok(()),
        });
        if compared.is_err() {
            self.db = None;
        }
        compared
    }

    fn make_room(&mut self) -> bool {
        self.ballast.release()
    }

    fn scarce(&self) -> Option<StoreFault> {
        let why = "only results of running tasks are recorded until there is room again";
        (!self.ballast.is_held()).then(|| StoreFault::Full(why.to_owned()))
    }

    fn tend(&mut self) -> Result<(), StoreFault> {
        self.checkpoint()?;
        let look = self.looked.elapsed() >= LOOK;
        if look {
            self.looked = Instant::now();
            if !self.ballast.is_held() {
                self.ballast.restore();
            }
        }
        self.sweep(look)
    }

    fn size(&self) -> Option<Size> {
        let place = &self.shared.place;
        let length = |path| std::fs::metadata(path).map_or(0, |file: std::fs::Metadata| file.len());
        let free = free_bytes(place.folder()).unwrap_or(0);
        Some(Size { db: length(place.database()), wal: length(place.log()), free })
    }

    fn recovered(&mut self) -> Result<(), StoreFault> {
        self.within(|db, counts| {
            set_number(db, "failed_recoveries", 0).map_err(StoreFault::from)?;
            Ok(((), counts))
        })
    }

    fn set_aside(&mut self, tasks: &[(Tenant, TaskId)], why: &str) -> Result<(), StoreFault> {
        let now = now();
        self.within(|db, mut counts| {
            for (tenant, id) in tasks {
                counts.live -= put_aside(db, tenant, *id, now, why).map_err(StoreFault::from)?;
            }
            Ok(((), counts))
        })
    }
}

/// Moves one task out of the way; says how many live ones that were.
fn put_aside(db: &Connection, tenant: &Tenant, id: TaskId, now: i64, why: &str) -> Result<i64, Failed> {
    let (tenant, id) = (tenant.as_str(), bytes_of(id));
    db.execute(
        "INSERT OR REPLACE INTO aside (tenant, id, at, why, record)
         SELECT tenant, id, ?3, ?4, record FROM tasks WHERE tenant = ?1 AND id = ?2",
        params![tenant, id, now, why],
    )?;
    let gone = db.execute("DELETE FROM tasks WHERE tenant = ?1 AND id = ?2", params![tenant, id])?;
    Ok(i64::from(gone > 0))
}

fn transact<T>(
    db: &mut Connection,
    term: Term,
    counts: Counts,
    step: impl FnOnce(&Connection, Counts) -> Result<(T, Counts), StoreFault>,
) -> Result<(T, Counts), StoreFault> {
    let failed = |error: rusqlite::Error| StoreFault::from(Failed::from(error));
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let newest = number(&change, "term").map_err(StoreFault::from)?.unwrap_or(0);
    if newest > i64::from(term.0) {
        return Err(StoreFault::Fenced { by: Term(u32::try_from(newest).unwrap_or(u32::MAX)) });
    }
    let (done, after) = step(&change, counts)?;
    if after.live != counts.live {
        set_number(&change, "live", after.live).map_err(StoreFault::from)?;
    }
    change.commit().map_err(failed)?;
    Ok((done, after))
}

fn watch_log(db: &mut Connection, pages: &Arc<AtomicI32>) -> Result<(), Failed> {
    let pages = Arc::clone(pages);
    db.wal_hook(Some(move |_: &mut Wal, now: i32| {
        pages.store(now, Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(())
}

/// Counts the tasks, by their indexes alone.
pub(super) fn count(db: &Connection) -> Result<Counts, Failed> {
    let live = db.query_row("SELECT count(*) FROM tasks WHERE finished_at IS NULL", [], |row| row.get(0))?;
    let (finished, bytes): (i64, i64) = db.query_row(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM tasks WHERE finished_at IS NOT NULL",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let natural = |number| u64::try_from(number).unwrap_or(0);
    Ok(Counts { live, finished: natural(finished), finished_bytes: natural(bytes) })
}

pub(super) fn number(db: &Connection, name: &str) -> Result<Option<i64>, Failed> {
    let found = db
        .prepare_cached("SELECT number FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(found.flatten())
}

pub(super) fn set_number(db: &Connection, name: &str, number: i64) -> Result<(), Failed> {
    db.prepare_cached(
        "INSERT INTO meta (name, number) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET number = ?2",
    )?
    .execute(params![name, number])?;
    Ok(())
}

/// Milliseconds since the Unix epoch.
pub(in crate::store) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
