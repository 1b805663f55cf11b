//! What goes in time, a little between commits: finished tasks beyond their retention with all that
//! belongs to them, keys a day old whose task is gone, and the space that they leave.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::journal::{SqliteJournal, now};
use super::put::Counts;
use super::{Failed, id_of};
use crate::fleet::{KEY_LIFE, PROBE, TaskId};
use crate::store::{Retention, StoreFault};

/// Tasks, and keys, deleted at once.
const ROWS: i64 = 512;

/// How long a probe of the server's own is kept once it has ended.
const PROBE_LIFE: Duration = Duration::from_secs(3_600);

/// Free pages that are kept for what comes next; beyond it they go back to the disk.
const SPARE_PAGES: i64 = 1_024;

/// Pages given back at once.
const PAGES: i64 = 1_024;

impl SqliteJournal {
    /// One small step. What age says is looked at only when asked; number and bytes always.
    pub(super) fn sweep(&mut self, look: bool) -> Result<(), StoreFault> {
        let kept = self.shared.retention.get();
        let full = self.counts.finished > kept.max_tasks || self.counts.finished_bytes > kept.max_bytes;
        if !(look || full) {
            return Ok(());
        }
        let now = now();
        let Some(db) = &self.db else { return Ok(()) };
        let mut due = due(db, kept, self.counts, now).map_err(StoreFault::from)?;
        if look && due.is_empty() {
            due = old_probes(db, now).map_err(StoreFault::from)?;
        }
        let orphans = look && has_old_orphans(db, now).map_err(StoreFault::from)?;
        if !due.is_empty() || orphans {
            self.within(|db, mut counts| {
                for row in &due {
                    row.delete(db, now).map_err(StoreFault::from)?;
                    counts.finished = counts.finished.saturating_sub(1);
                    counts.finished_bytes = counts.finished_bytes.saturating_sub(row.bytes);
                }
                forget_orphans(db, now).map_err(StoreFault::from)?;
                Ok(((), counts))
            })?;
            for row in &due {
                self.forget(row.task);
            }
        }
        if look { self.shrink() } else { Ok(()) }
    }

    /// Gives pages back to the disk, if many are free: a few are kept, since the next task needs them.
    fn shrink(&mut self) -> Result<(), StoreFault> {
        let Some(db) = &self.db else { return Ok(()) };
        let shrunk = give_back(db).map_err(StoreFault::from);
        if matches!(shrunk, Err(StoreFault::Io(_))) {
            self.db = None;
        }
        shrunk
    }
}

/// A finished task that must go.
struct Due {
    rowid: i64,
    task: TaskId,
    tenant: String,
    key: Option<Vec<u8>>,
    bytes: u64,
}

impl Due {
    fn delete(&self, db: &Connection, now: i64) -> Result<(), Failed> {
        let id = super::bytes_of(self.task);
        db.prepare_cached("DELETE FROM tasks WHERE rowid = ?1")?.execute([self.rowid])?;
        db.prepare_cached("DELETE FROM inputs WHERE task = ?1")?.execute([id])?;
        db.prepare_cached("DELETE FROM logs WHERE task = ?1")?.execute([id])?;
        let Some(key) = &self.key else { return Ok(()) };
        // A young key outlives its task: it still must not make a second one.
        let old = old_key(now);
        let gone = db
            .prepare_cached("DELETE FROM keys WHERE tenant = ?1 AND key = ?2 AND task = ?3 AND since < ?4")?
            .execute(params![self.tenant, key, id, old])?;
        if gone == 0 {
            db.prepare_cached("UPDATE keys SET orphan = 1 WHERE tenant = ?1 AND key = ?2 AND task = ?3")?
                .execute(params![self.tenant, key, id])?;
        }
        Ok(())
    }
}

/// The oldest finished tasks, as far as they must go.
fn due(db: &Connection, kept: Retention, counts: Counts, now: i64) -> Result<Vec<Due>, Failed> {
    let old = now.saturating_sub(i64::try_from(kept.max_age.as_millis()).unwrap_or(i64::MAX));
    let mut tasks = counts.finished.saturating_sub(kept.max_tasks);
    let mut bytes = counts.finished_bytes.saturating_sub(kept.max_bytes);
    let mut oldest = db.prepare_cached(
        "SELECT rowid, id, tenant, key, bytes, finished_at FROM tasks
         WHERE finished_at IS NOT NULL ORDER BY finished_at LIMIT ?1",
    )?;
    let mut rows = oldest.query([ROWS])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        let ended: i64 = row.get(5)?;
        if tasks == 0 && bytes == 0 && ended >= old {
            break;
        }
        let size = u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0);
        (tasks, bytes) = (tasks.saturating_sub(1), bytes.saturating_sub(size));
        let task = id_of(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
        due.push(Due { rowid: row.get(0)?, task, tenant: row.get(2)?, key: row.get(3)?, bytes: size });
    }
    Ok(due)
}

/// The server's own probes that nobody will look at any more: they must not crowd callers' tasks out.
fn old_probes(db: &Connection, now: i64) -> Result<Vec<Due>, Failed> {
    // By the tenant's own rows, of which there are few, and not by the end of all tasks.
    let mut oldest = db.prepare_cached(
        "SELECT rowid, id, bytes FROM tasks
         WHERE tenant = ?1 AND +finished_at < ?2 ORDER BY id LIMIT ?3",
    )?;
    let before = now.saturating_sub(PROBE_LIFE.as_secs() as i64 * 1_000);
    let mut rows = oldest.query(params![PROBE, before, ROWS])?;
    let mut old = Vec::new();
    while let Some(row) = rows.next()? {
        let task = id_of(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
        let bytes = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        old.push(Due { rowid: row.get(0)?, task, tenant: PROBE.to_owned(), key: None, bytes });
    }
    Ok(old)
}

fn has_old_orphans(db: &Connection, now: i64) -> Result<bool, Failed> {
    let oldest: Option<i64> = db
        .prepare_cached("SELECT since FROM keys WHERE orphan = 1 ORDER BY since LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(oldest.is_some_and(|since| since < old_key(now)))
}

/// Keys from before this time of day, in milliseconds, may go.
fn old_key(now: i64) -> i64 {
    now.saturating_sub(KEY_LIFE.as_secs() as i64 * 1_000)
}

fn forget_orphans(db: &Connection, now: i64) -> Result<(), Failed> {
    db.prepare_cached(
        "DELETE FROM keys WHERE (tenant, key) IN (
             SELECT tenant, key FROM keys WHERE orphan = 1 AND since < ?1 ORDER BY since LIMIT ?2)",
    )?
    .execute(params![old_key(now), ROWS])?;
    Ok(())
}

fn give_back(db: &Connection) -> Result<(), Failed> {
    let page_number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (page_number("freelist_count")?, page_number("page_count")?);
    if free <= SPARE_PAGES.max(all / 8) {
        return Ok(());
    }
    let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut steps = vacuum.query([])?;
    // Each step frees one page.
    while steps.next()?.is_some() {}
    Ok(())
}
