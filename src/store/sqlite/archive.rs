//! The reading side: a few connections that only read, each lent to one read at a time. What is read
//! is compared with what was written before anybody is shown it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::types::ToSql;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row};

use super::codec::{self, Damage, verify};
use super::connect::{is_damage, reader};
use super::put::key_row;
use super::schema::UNSUCCESSFUL;
use super::{Failed, Shared, bytes_of, id_of, stored};
use crate::fleet::{Capability, KeyRow, TaskId, TaskRecord, TaskState, Tenant};
use crate::store::{Archive, Page, Query, ReadFault};

/// A read that takes longer is given up: it may be a filter that fits almost nothing in a million
/// tasks.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that wait for the next read.
const IDLE: usize = 4;

/// Instructions of SQLite's machine between two looks at the clock.
const STEP: i32 = 10_000;

/// The connections that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct Readers {
    idle: Mutex<Vec<(u64, Connection)>>,
    /// Rises when the journal begins anew: connections from before are not used again.
    life: AtomicU64,
}

impl Readers {
    fn idle(&self) -> MutexGuard<'_, Vec<(u64, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all that are idle, and the others once they are through.
    pub(super) fn close(&self) {
        let closed = {
            let mut idle = self.idle();
            self.life.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut *idle)
        };
        drop(closed);
    }

    fn lend<T>(
        &self,
        shared: &Shared,
        read: impl FnOnce(&Connection) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let life = self.life.load(Ordering::Acquire);
        let lent = self.idle().pop().filter(|(of, _)| *of == life);
        let mut db = match lent {
            Some((_, db)) => db,
            None => reader(&shared.place.database())?,
        };
        let until = Instant::now() + PATIENCE;
        db.progress_handler(STEP, Some(move || Instant::now() > until))?;
        let answer = read(&db);
        let mut idle = self.idle();
        if answer.is_ok() && idle.len() < IDLE && self.life.load(Ordering::Acquire) == life {
            idle.push((life, db));
        }
        answer
    }
}

/// The archive of one opened store.
#[derive(Debug)]
pub(super) struct SqliteArchive(pub(super) Arc<Shared>);

impl SqliteArchive {
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Failed>) -> Result<T, ReadFault> {
        self.0.readers.lend(&self.0, read).map_err(|failed| match failed {
            Failed::Damage(damage) => ReadFault::Damaged(damage.to_string()),
            Failed::Sql(error) if is_damage(&error) => ReadFault::Damaged(error.to_string()),
            Failed::Sql(error) => match error.sqlite_error_code() {
                Some(ErrorCode::OperationInterrupted | ErrorCode::DatabaseBusy) => ReadFault::Busy,
                _ => ReadFault::Io(error.to_string()),
            },
            failed @ Failed::NoLog(_) => ReadFault::Io(failed.to_string()),
        })
    }
}

impl Archive for SqliteArchive {
    fn task(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Arc<TaskRecord>>, ReadFault> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM tasks WHERE tenant = ?1 AND id = ?2");
            let row =
                db.prepare_cached(&sql)?.query_row((tenant.as_str(), bytes_of(id)), Stored::of).optional()?;
            row.map(|row| row.decode(db)).transpose()
        })
    }

    fn key(&self, tenant: &Tenant, key: u128) -> Result<Option<KeyRow>, ReadFault> {
        self.read(|db| key_row(db, tenant.as_str(), key))
    }

    fn list(&self, query: &Query) -> Result<Page, ReadFault> {
        self.read(|db| {
            let (sql, values) = asked(query);
            let values: Vec<&dyn ToSql> = values.iter().map(AsRef::as_ref).collect();
            let mut statement = db.prepare_cached(&sql)?;
            let rows = statement.query_map(&*values, Stored::of)?.collect::<Result<Vec<_>, _>>()?;
            let more = rows.len() > query.limit;
            let mut page = Page::default();
            for row in rows.into_iter().take(query.limit) {
                // The next page goes on behind a damaged record, too.
                page.next = Some(id_of(&row.id)?).filter(|_| more);
                match row.decode(db) {
                    Ok(record) => page.items.push(record),
                    Err(Failed::Damage(damage)) => {
                        tracing::error!(%damage, "a stored task is left out of a list; see `rollcall repair`");
                    }
                    Err(failed) => return Err(failed),
                }
            }
            Ok(page)
        })
    }

    fn log(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Bytes>, ReadFault> {
        self.read(|db| {
            let row = db
                .prepare_cached(
                    "SELECT logs.log, logs.checksum FROM logs JOIN tasks ON tasks.id = logs.task
                     WHERE tasks.tenant = ?1 AND tasks.id = ?2",
                )?
                .query_row((tenant.as_str(), bytes_of(id)), |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
                })
                .optional()?;
            let Some((log, sum)) = row else { return Ok(None) };
            verify(|| format!("the log of task {id}"), sum, &[b"log", &bytes_of(id), &log])?;
            Ok(Some(log.into()))
        })
    }

    fn dead_letters(&self) -> Result<BTreeMap<Capability, u64>, ReadFault> {
        self.read(|db| {
            let mut counted = db.prepare_cached(
                "SELECT capability, count(*) FROM tasks WHERE dead_letter = 1 GROUP BY capability",
            )?;
            let rows = counted.query_map([], |row| {
                Ok((Capability::from(row.get::<_, String>(0)?), u64::from(row.get::<_, u32>(1)?)))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

/// A page's statement and its values. Only the filters that are there are in it, so that each
/// combination finds its index.
fn asked(query: &Query) -> (String, Vec<Box<dyn ToSql>>) {
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(query.tenant.to_string())];
    let mut sql = format!("SELECT {COLUMNS} FROM tasks WHERE tenant = ?1");
    let mut filter = |column: &str, value: Box<dyn ToSql>| {
        values.push(value);
        sql.push_str(&format!(" AND {column} ?{}", values.len()));
    };
    if let Some(state) = query.state {
        filter("state =", Box::new(state.as_str()));
    }
    if let Some(capability) = &query.capability {
        filter("capability =", Box::new(capability.to_string()));
    }
    if let Some(worker) = &query.worker {
        filter("worker =", Box::new(worker.to_string()));
    }
    if let Some(before) = query.before {
        filter("id <", Box::new(bytes_of(before)));
    }
    // Spelled like the indexes' own conditions, which is how SQLite knows that they fit.
    match query.state {
        Some(state) if !state.is_final() => sql.push_str(" AND finished_at IS NULL"),
        Some(state) if state != TaskState::Succeeded => sql.push_str(UNSUCCESSFUL),
        Some(_) | None => {}
    }
    match query.dead_letter {
        Some(true) => sql.push_str(" AND dead_letter = 1"),
        Some(false) => sql.push_str(" AND dead_letter = 0"),
        None => {}
    }
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", query.limit + 1));
    (sql, values)
}

/// The columns of [`Stored`], in order.
pub(super) const COLUMNS: &str = "tenant, id, version, state, capability, dead_letter, record, checksum";

/// A task's row as it was read, not believed yet.
pub(super) struct Stored {
    pub(super) tenant: String,
    pub(super) id: Vec<u8>,
    version: i64,
    state: String,
    capability: String,
    dead_letter: bool,
    record: Vec<u8>,
    checksum: i64,
}

impl Stored {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Self::at(row, 0)
    }

    /// From columns that begin with this one.
    pub(super) fn at(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            tenant: row.get(first)?,
            id: row.get(first + 1)?,
            version: row.get(first + 2)?,
            state: row.get(first + 3)?,
            capability: row.get(first + 4)?,
            dead_letter: row.get(first + 5)?,
            record: row.get(first + 6)?,
            checksum: row.get(first + 7)?,
        })
    }

    /// The record, if the row is what was written.
    pub(super) fn decode(self, db: &Connection) -> Result<Arc<TaskRecord>, Failed> {
        let id = id_of(&self.id)?;
        let parts: [&[u8]; 4] = [b"task", &self.id, &self.version.to_be_bytes(), &self.record];
        verify(|| format!("task {id}"), self.checksum, &parts)?;
        let record = codec::decode(&self.record, || input(db, id))?;
        let same = record.id == id
            && record.tenant.as_str() == self.tenant
            && stored(record.version) == self.version
            && record.state.as_str() == self.state
            && record.spec.capability.as_str() == self.capability
            && record.dead_letter == self.dead_letter;
        if same { Ok(record) } else { Err(Damage(format!("task {id} differs from its own row")).into()) }
    }
}

fn input(db: &Connection, id: TaskId) -> Result<Option<String>, Failed> {
    let row = db
        .prepare_cached("SELECT input, checksum FROM inputs WHERE task = ?1")?
        .query_row([bytes_of(id)], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((input, sum)) = row else { return Ok(None) };
    verify(|| format!("the input of task {id}"), sum, &[b"input", &bytes_of(id), input.as_bytes()])?;
    Ok(Some(input))
}
