//! What one commit does to the database: each record in its row, keys in their index, and the
//! counts that go with them.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::codec::{self, Damage, checksum, encoded, task_checksum};
use super::{Failed, bytes_of, id_of, number_of, stored};
use crate::fleet::{
    Keep, KeyHash, KeyRow, KeyTaken, Overlay, PoolName, PoolRecord, Record, RosterEntry, Seq, TaskId,
    TaskRecord, WorkerName,
};
use crate::store::{Batch, TaskLog};

/// What stands before a pool's name among the workers' overlays; no worker's name has a slash.
pub(super) const POOL_PREFIX: &str = "pool/";

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

impl Put<'_> {
    pub(super) fn batch(&mut self, batch: &Batch) -> Result<(), Failed> {
        for (seq, record) in &batch.records {
            match record {
                Record::Task(task) => self.task(*seq, task)?,
                Record::Roster(entry) => self.roster(entry)?,
                Record::Overlay(worker, overlay) => self.overlay(worker, overlay)?,
                Record::Pool(pool, record) => self.pool(pool, record)?,
            }
        }
        for log in &batch.logs {
            self.log(log)?;
        }
        Ok(())
    }

    pub(super) fn task(&mut self, seq: Seq, task: &TaskRecord) -> Result<(), Failed> {
        let known = self.known(task)?;
        // The last version wins, whatever the order in which they come.
        if known.as_ref().is_some_and(|known| known.version >= stored(task.version)) {
            return Ok(());
        }
        if known.is_none()
            && let Keep::ByKey(hash) = task.keep
            && let Some(taken) = self.claim(seq, task, hash)?
        {
            self.taken.push(taken);
            return Ok(());
        }
        let parts = codec::encode(task)?;
        let id = bytes_of(task.id);
        if let (Some(input), None) = (parts.input, &known) {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO inputs (task, input, checksum) VALUES (?1, ?2, ?3)")?
                .execute(params![id, input, checksum(&[b"input", &id, input.as_bytes()])])?;
        }
        let is_final = task.state.is_final();
        let mut bytes = parts.record.len() as u64 + parts.input.map_or(0, |input| input.len() as u64);
        if known.as_ref().is_some_and(|known| known.is_final) {
            // A dead letter that was retried is written again; its log stays.
            bytes += self.log_bytes(task.id)?;
        }
        let key = match task.keep {
            Keep::ByKey(hash) => Some(hash.key.to_be_bytes()),
            Keep::Passing | Keep::Kept => None,
        };
        let row = params![
            task.tenant.as_str(),
            id,
            stored(task.version),
            task.term.0,
            task.state.as_str(),
            task.spec.capability.as_str(),
            task.attempts.last().map(|attempt| attempt.worker.as_str()),
            task.dead_letter,
            task.submitted_at.0,
            is_final.then(|| task.finished_at.unwrap_or(task.submitted_at).0),
            task.retry_of.map(bytes_of),
            key,
            stored(bytes),
            parts.record,
            task_checksum(task.id, task.version, &parts.record),
        ];
        let written = match &known {
            None => self.db.prepare_cached(INSERT)?.execute(row)?,
            Some(_) => self.db.prepare_cached(UPDATE)?.execute(row)?,
        };
        if written != 1 {
            return Err(Damage(format!("task {} is in {written} rows", task.id)).into());
        }
        self.count(known.as_ref(), is_final, bytes);
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

    /// Gives the key to this task; or says whose it is.
    fn claim(&self, seq: Seq, task: &TaskRecord, hash: KeyHash) -> Result<Option<KeyTaken>, Failed> {
        let tenant = task.tenant.as_str();
        let key = hash.key.to_be_bytes();
        if let Some(KeyRow { task: holder, body }) = key_row(self.db, tenant, hash.key)? {
            return Ok((holder != task.id).then_some(KeyTaken { seq, task: holder, body }));
        }
        let (body, id, since) = (hash.body.to_be_bytes(), bytes_of(task.id), task.submitted_at.0);
        let sum = checksum(&key_parts(tenant, &key, &body, &id, since).each());
        self.db
            .prepare_cached(
                "INSERT INTO keys (tenant, key, body, task, since, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![tenant, key, body, id, since, sum])?;
        Ok(None)
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
        let id = bytes_of(log.task);
        let kept = self
            .db
            .prepare_cached(
                "INSERT OR IGNORE INTO logs (task, log, checksum) SELECT id, ?3, ?4 FROM tasks
                 WHERE tenant = ?1 AND id = ?2 AND finished_at IS NOT NULL",
            )?
            .execute(params![log.tenant.as_str(), id, &log.log[..], checksum(&[b"log", &id, &log.log]),])?;
        if kept == 1 {
            self.db
                .prepare_cached("UPDATE tasks SET bytes = bytes + ?3 WHERE tenant = ?1 AND id = ?2")?
                .execute(params![log.tenant.as_str(), id, stored(log.log.len() as u64)])?;
            self.counts.finished_bytes += log.log.len() as u64;
        }
        Ok(())
    }
}

const INSERT: &str = "
    INSERT INTO tasks (tenant, id, version, term, state, capability, worker, dead_letter, submitted_at,
        finished_at, retry_of, key, bytes, record, checksum)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

const UPDATE: &str = "
    UPDATE tasks SET version = ?3, term = ?4, state = ?5, capability = ?6, worker = ?7, dead_letter = ?8,
        submitted_at = ?9, finished_at = ?10, retry_of = ?11, key = ?12, bytes = ?13, record = ?14,
        checksum = ?15
    WHERE tenant = ?1 AND id = ?2";

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
