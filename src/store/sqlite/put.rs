//! What one commit does to the database: each record in its row, keys in their index, and the
//! counts that go with them.

use rusqlite::{Connection, OptionalExtension as _, params};
use rustc_hash::FxHashMap;

use super::codec::{self, Damage, checksum, encoded, task_checksum};
use super::{Failed, bytes_of, id_of, number_of, stored};
use crate::fleet::{
    Keep, KeyRow, KeyTaken, Overlay, PoolName, PoolRecord, Record, RosterEntry, Seq, SessionName,
    SessionRecord, TaskId, TaskRecord, Tenant, WorkerName,
};
use crate::store::{Batch, TaskLog};

/// What stands before a pool's name among the workers' overlays; no worker's name has a slash.
pub(super) const POOL_PREFIX: &str = "pool/";

/// The same for sessions; the tenant and a slash follow, then the session's name, which has none.
pub(super) const SESSION_PREFIX: &str = "session/";

/// Whose session an entry is about; `None` when it is about something else.
pub(super) fn session_of(entry: &str) -> Option<(Tenant, SessionName)> {
    let (tenant, name) = entry.strip_prefix(SESSION_PREFIX)?.rsplit_once('/')?;
    Some((Tenant::from(tenant), SessionName::from(name)))
}

/// How many tasks there are, and how large the finished ones are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) live: i64,
    pub(super) finished: u64,
    pub(super) finished_bytes: u64,
}

/// One commit, inside its transaction.
pub(super) struct Put<'a> {
    pub(super) db: &'a Connection,
    pub(super) counts: Counts,
    pub(super) taken: Vec<KeyTaken>,
    /// Milliseconds since the Unix epoch.
    pub(super) now: i64,
}

/// What the database has of a task before the commit.
struct Known {
    version: i64,
    is_final: bool,
    bytes: u64,
}

/// What a batch has of one task.
struct Span {
    oldest: u64,
    newest: u64,
}

/// The logs of a batch that are not written yet.
type Logs<'a> = FxHashMap<TaskId, &'a TaskLog>;

impl Put<'_> {
    pub(super) fn batch(&mut self, batch: &Batch) -> Result<(), Failed> {
        let spans = spans(batch);
        // Of two logs of a task the first stays, in whatever batches they come.
        let mut logs: Logs<'_> = batch.logs.iter().rev().map(|log| (log.task, log)).collect();
        for (seq, record) in &batch.records {
            match record {
                Record::Task(task) | Record::HandOver(task) => {
                    let is_first = spans.get(&task.id).is_none_or(|span| span.oldest == FIRST);
                    let newest = spans.get(&task.id).is_none_or(|span| span.newest == task.version);
                    // The same commit writes over it: a task is often accepted, handed over and even
                    // finished within one. What claims a key is known by its own number, and written.
                    if newest || (task.version == FIRST && matches!(task.keep, Keep::ByKey(_))) {
                        self.task(*seq, task, is_first, &mut logs)?;
                    }
                }
                Record::Roster(entry) => self.roster(entry)?,
                Record::Overlay(worker, overlay) => self.overlay(worker, overlay)?,
                Record::Pool(pool, record) => self.pool(pool, record)?,
                Record::Session(tenant, name, record) => self.session(tenant, name, record)?,
            }
        }
        for log in logs.into_values() {
            self.log(log)?;
        }
        Ok(())
    }

    /// Writes one record, unless a newer one is there, whatever the order in which they come.
    pub(super) fn any_task(&mut self, task: &TaskRecord) -> Result<(), Failed> {
        self.task(Seq(0), task, false, &mut Logs::default())
    }

    /// Writes a record. `is_first` says that nothing is there of its task in all likelihood; without
    /// it, that a live version of it is. Only where that is wrong does it cost a look.
    fn task(
        &mut self,
        seq: Seq,
        task: &TaskRecord,
        is_first: bool,
        logs: &mut Logs<'_>,
    ) -> Result<(), Failed> {
        if is_first && self.claim(seq, task)? {
            return Ok(());
        }
        let parts = codec::encode(task)?;
        let is_final = task.state.is_final();
        let log = if is_final { logs.get(&task.id).copied() } else { None };
        let log_bytes = log.map_or(0, |log| log.log.len() as u64);
        let bytes = parts.record.len() as u64 + parts.input_bytes + log_bytes;
        let written = if is_first {
            self.input(task, &parts)?;
            self.write(INSERT, task, &parts, bytes)?
        } else {
            self.write(UPDATE, task, &parts, bytes)?
        };
        if !written {
            return self.over(seq, task, &parts, bytes - log_bytes);
        }
        self.count((!is_first).then_some(&LIVE), is_final, bytes);
        if let Some(log) = log {
            logs.remove(&task.id);
            self.insert_log(log)?;
        }
        Ok(())
    }

    /// Writes a record where it is not what it seemed to be: new, or the next of a live one.
    fn over(
        &mut self,
        seq: Seq,
        task: &TaskRecord,
        parts: &codec::Encoded<'_>,
        mut bytes: u64,
    ) -> Result<(), Failed> {
        let known = self.known(task)?;
        let sql = match &known {
            Some(known) if known.version >= stored(task.version) => return Ok(()),
            Some(known) if known.is_final => {
                // A dead letter that was retried is written again; its log stays.
                bytes += self.log_bytes(task.id)?;
                self.db
                    .prepare_cached("DELETE FROM tasks WHERE tenant = ?1 AND id = ?2")?
                    .execute(params![task.tenant.as_str(), bytes_of(task.id)])?;
                INSERT
            }
            Some(_) => UPDATE,
            None if self.claim(seq, task)? => return Ok(()),
            None => {
                self.input(task, parts)?;
                INSERT
            }
        };
        if !self.write(sql, task, parts, bytes)? {
            return Err(Damage(format!("task {} cannot be written to its row", task.id)).into());
        }
        self.count(known.as_ref(), task.state.is_final(), bytes);
        Ok(())
    }

    /// Whether the row is as the statement takes it for, and was written.
    fn write(
        &self,
        sql: &str,
        task: &TaskRecord,
        parts: &codec::Encoded<'_>,
        bytes: u64,
    ) -> Result<bool, Failed> {
        let key = match task.keep {
            Keep::ByKey(hash) => Some(hash.key.to_be_bytes()),
            Keep::Passing | Keep::Kept => None,
        };
        let ended = task.state.is_final().then(|| task.finished_at.unwrap_or(task.submitted_at).0);
        let rows = self.db.prepare_cached(sql)?.execute(params![
            task.tenant.as_str(),
            bytes_of(task.id),
            stored(task.version),
            task.term.0,
            task.state.as_str(),
            task.spec.capability.as_str(),
            task.attempts.last().map(|attempt| attempt.worker.as_str()),
            task.dead_letter,
            task.submitted_at.0,
            ended,
            task.retry_of.map(bytes_of),
            key,
            stored(bytes),
            parts.record,
            task_checksum(task.id, task.version, &parts.record),
        ])?;
        Ok(rows == 1)
    }

    /// Gives a large input its row.
    fn input(&self, task: &TaskRecord, parts: &codec::Encoded<'_>) -> Result<(), Failed> {
        let Some(input) = parts.input else { return Ok(()) };
        let id = bytes_of(task.id);
        self.db
            .prepare_cached("INSERT OR REPLACE INTO inputs (task, input, checksum) VALUES (?1, ?2, ?3)")?
            .execute(params![id, input, checksum(&[b"input", &id, input.as_bytes()])])?;
        Ok(())
    }

    fn known(&self, task: &TaskRecord) -> Result<Option<Known>, Failed> {
        let known = self
            .db
            .prepare_cached(
                "SELECT version, finished_at IS NOT NULL, bytes FROM tasks WHERE tenant = ?1 AND id = ?2",
            )?
            .query_row(params![task.tenant.as_str(), bytes_of(task.id)], |row| {
                let bytes: i64 = row.get(2)?;
                let bytes = u64::try_from(bytes).unwrap_or(0);
                Ok(Known { version: row.get(0)?, is_final: row.get(1)?, bytes })
            })
            .optional()?;
        Ok(known)
    }

    fn log_bytes(&self, task: TaskId) -> Result<u64, Failed> {
        let bytes: Option<i64> = self
            .db
            .prepare_cached("SELECT length(log) FROM logs WHERE task = ?1")?
            .query_row([bytes_of(task)], |row| row.get(0))
            .optional()?;
        Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }

    fn count(&mut self, known: Option<&Known>, is_final: bool, bytes: u64) {
        let counts = &mut self.counts;
        match known {
            Some(known) if known.is_final => {
                counts.finished = counts.finished.saturating_sub(1);
                counts.finished_bytes = counts.finished_bytes.saturating_sub(known.bytes);
            }
            Some(_) => counts.live -= 1,
            None => {}
        }
        if is_final {
            counts.finished += 1;
            counts.finished_bytes += bytes;
        } else {
            counts.live += 1;
        }
    }

    /// Gives a task its key; or notes whose it is, and that the task is not to be written.
    fn claim(&mut self, seq: Seq, task: &TaskRecord) -> Result<bool, Failed> {
        let Keep::ByKey(hash) = task.keep else { return Ok(false) };
        let tenant = task.tenant.as_str();
        if let Some(KeyRow { task: holder, body }) = key_row(self.db, tenant, hash.key)? {
            let is_taken = holder != task.id;
            if is_taken {
                self.taken.push(KeyTaken { seq, task: holder, body });
            }
            return Ok(is_taken);
        }
        let (key, body) = (hash.key.to_be_bytes(), hash.body.to_be_bytes());
        let (id, since) = (bytes_of(task.id), task.submitted_at.0);
        let sum = checksum(&key_parts(tenant, &key, &body, &id, since).each());
        self.db
            .prepare_cached(
                "INSERT INTO keys (tenant, key, body, task, since, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![tenant, key, body, id, since, sum])?;
        Ok(false)
    }

    pub(super) fn roster(&self, entry: &RosterEntry) -> Result<(), Failed> {
        let (worker, bytes) = (entry.worker.as_str(), encoded(entry)?);
        let sum = checksum(&[b"roster", worker.as_bytes(), &bytes]);
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO roster (worker, seen_at, entry, checksum) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![worker, self.now, bytes, sum])?;
        Ok(())
    }

    pub(super) fn overlay(&self, worker: &WorkerName, overlay: &Overlay) -> Result<(), Failed> {
        self.said(worker.as_str(), overlay)
    }

    pub(super) fn pool(&self, pool: &PoolName, record: &PoolRecord) -> Result<(), Failed> {
        self.said(&format!("{POOL_PREFIX}{pool}"), record)
    }

    pub(super) fn session(
        &self,
        tenant: &Tenant,
        name: &SessionName,
        record: &SessionRecord,
    ) -> Result<(), Failed> {
        self.said(&format!("{SESSION_PREFIX}{tenant}/{name}"), record)
    }

    /// What people said of something, and what follows from it; what says nothing is deleted.
    fn said<T: Default + PartialEq + serde::Serialize>(&self, name: &str, entry: &T) -> Result<(), Failed> {
        if *entry == T::default() {
            self.db.prepare_cached("DELETE FROM overlays WHERE worker = ?1")?.execute([name])?;
            return Ok(());
        }
        let bytes = encoded(entry)?;
        let sum = checksum(&[b"overlay", name.as_bytes(), &bytes]);
        self.db
            .prepare_cached("INSERT OR REPLACE INTO overlays (worker, entry, checksum) VALUES (?1, ?2, ?3)")?
            .execute(params![name, bytes, sum])?;
        Ok(())
    }

    /// Keeps a log, once, with a task that is stored and final.
    pub(super) fn log(&mut self, log: &TaskLog) -> Result<(), Failed> {
        let (tenant, id) = (log.tenant.as_str(), bytes_of(log.task));
        let is_final: Option<bool> = self
            .db
            .prepare_cached("SELECT finished_at IS NOT NULL FROM tasks WHERE tenant = ?1 AND id = ?2")?
            .query_row(params![tenant, id], |row| row.get(0))
            .optional()?;
        if is_final == Some(true) && self.insert_log(log)? {
            self.db
                .prepare_cached("UPDATE tasks SET bytes = bytes + ?3 WHERE tenant = ?1 AND id = ?2")?
                .execute(params![tenant, id, stored(log.log.len() as u64)])?;
            self.counts.finished_bytes += log.log.len() as u64;
        }
        Ok(())
    }

    fn insert_log(&self, log: &TaskLog) -> Result<bool, Failed> {
        let id = bytes_of(log.task);
        let rows = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO logs (task, log, checksum) VALUES (?1, ?2, ?3)")?
            .execute(params![id, &log.log[..], checksum(&[b"log", &id, &log.log])])?;
        Ok(rows == 1)
    }
}

/// What the batch has of each task.
fn spans(batch: &Batch) -> FxHashMap<TaskId, Span> {
    let mut spans = FxHashMap::default();
    for (_, record) in &batch.records {
        if let Record::Task(task) | Record::HandOver(task) = record {
            let (oldest, newest) = (task.version, task.version);
            let span = spans.entry(task.id).or_insert(Span { oldest, newest });
            span.oldest = span.oldest.min(task.version);
            span.newest = span.newest.max(task.version);
        }
    }
    spans
}

/// The version of a task's first record.
const FIRST: u64 = 1;

/// What a live row counts as; of one that has not ended, nothing else is counted.
const LIVE: Known = Known { version: 0, is_final: false, bytes: 0 };

const INSERT: &str = "
    INSERT INTO tasks (tenant, id, version, term, state, capability, worker, dead_letter, submitted_at,
        finished_at, retry_of, key, bytes, record, checksum)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
    ON CONFLICT (tenant, id) DO NOTHING";

/// Of a live task. What never changes is left out, because SQLite writes the entries of every index
/// anew that has a column of the list, whatever the column was before.
const UPDATE: &str = "
    UPDATE tasks SET version = ?3, term = ?4, state = ?5, worker = ?7, dead_letter = ?8,
        finished_at = ?10, bytes = ?13, record = ?14, checksum = ?15
    WHERE tenant = ?1 AND id = ?2 AND finished_at IS NULL AND version < ?3";

/// What a key row's checksum is over.
pub(super) struct KeyParts<'a> {
    tenant: &'a str,
    key: &'a [u8],
    body: &'a [u8],
    task: &'a [u8],
    since: [u8; 8],
}

/// The task that a key names, if its row is what was written.
pub(super) fn key_row(db: &Connection, tenant: &str, key: u128) -> Result<Option<KeyRow>, Failed> {
    let key = key.to_be_bytes();
    let row = db
        .prepare_cached("SELECT body, task, since, checksum FROM keys WHERE tenant = ?1 AND key = ?2")?
        .query_row(params![tenant, key], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })
        .optional()?;
    let Some((body, holder, since, sum)) = row else { return Ok(None) };
    let task = id_of(&holder)?;
    let parts = key_parts(tenant, &key, &body, &holder, since);
    codec::verify(|| format!("the key of task {task}"), sum, &parts.each())?;
    Ok(Some(KeyRow { task, body: number_of(&body)? }))
}

pub(super) fn key_parts<'a>(
    tenant: &'a str,
    key: &'a [u8],
    body: &'a [u8],
    task: &'a [u8],
    since: i64,
) -> KeyParts<'a> {
    KeyParts { tenant, key, body, task, since: since.to_be_bytes() }
}

impl KeyParts<'_> {
    pub(super) fn each(&self) -> [&[u8]; 6] {
        [b"key", self.tenant.as_bytes(), self.key, self.body, self.task, &self.since]
    }
}
