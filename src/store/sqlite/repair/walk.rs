//! Looks at every row of a database by its table alone, and hands on what is as it was written.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Report;
use crate::fleet::{Overlay, PoolName, PoolRecord, RosterEntry, SessionRecord, Tenant, WorkerName};
use crate::store::TaskLog;
use crate::store::sqlite::archive::{COLUMNS, Stored};
use crate::store::sqlite::codec::{Damage, decoded, verify};
use crate::store::sqlite::connect::{full_check, settled_reader};
use crate::store::sqlite::journal::number;
use crate::store::sqlite::place::Place;
use crate::store::sqlite::put::{POOL_PREFIX, Put, key_parts, session_of};
use crate::store::sqlite::{Failed, id_of};

/// Where what is whole goes.
pub(super) struct Saved<'a> {
    pub(super) put: Put<'a>,
    pub(super) meta: Meta,
}

#[derive(Default)]
pub(super) struct Meta {
    pub(super) term: i64,
    pub(super) store_id: Option<String>,
}

/// Looks at everything, and saves what is whole.
pub(super) fn walk(place: &Place, saved: Option<&mut Saved<'_>>) -> Report {
    let mut report = Report::default();
    let db = match settled_reader(&place.database()) {
        Ok(db) => db,
        Err(failed) => {
            report.damage(format!("the file cannot be read at all: {failed}"));
            return report;
        }
    };
    if let Err(failed) = full_check(&db) {
        report.damage(format!("the file is not whole: {failed}"));
    }
    let mut walk = Walk { db: &db, report: &mut report, saved };
    let live = walk.tasks();
    walk.logs();
    walk.keys();
    walk.workers();
    walk.aside();
    walk.meta(live);
    report
}

struct Walk<'a, 'b> {
    db: &'a Connection,
    report: &'a mut Report,
    saved: Option<&'a mut Saved<'b>>,
}

/// A row that is looked at, with the number that finds it.
type Take<'t, T> = &'t dyn Fn(&Row<'_>) -> rusqlite::Result<T>;

impl Walk<'_, '_> {
    /// Every row of a table that has row numbers, by the table alone: an index may be what is wrong.
    /// A page that cannot be read costs the rows on it.
    fn rows<T>(&mut self, table: &str, columns: &str, take: Take<'_, T>, each: impl Fn(&mut Self, T)) {
        let bounds = self.db.query_row(&format!("SELECT min(rowid), max(rowid) FROM {table}"), [], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
        });
        let (mut next, last) = match bounds {
            Ok((Some(first), Some(last))) => (first, last),
            Ok(_) => return,
            Err(error) => return self.report.damage(format!("the table {table} cannot be read: {error}")),
        };
        let ahead = format!("SELECT rowid, {columns} FROM {table} WHERE rowid >= ?1 ORDER BY rowid LIMIT 1");
        let here = format!("SELECT rowid, {columns} FROM {table} WHERE rowid = ?1");
        let mut lost = 0_u64;
        while next <= last {
            let numbered = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, take(row)));
            let found =
                self.db.prepare_cached(&ahead).and_then(|mut ahead| ahead.query_row([next], numbered));
            // What cannot be found by going on may be found by its number.
            let found = match found {
                Err(rusqlite::Error::QueryReturnedNoRows) => break,
                Err(_) => self
                    .db
                    .prepare_cached(&here)
                    .and_then(|mut here| here.query_row([next], numbered).optional())
                    .map(|found| found.unwrap_or((next, Err(rusqlite::Error::QueryReturnedNoRows)))),
                found => found,
            };
            match found {
                Ok((number, Ok(row))) => {
                    next = number + 1;
                    each(self, row);
                }
                Ok((number, Err(_))) => {
                    next = number + 1;
                    lost += 1;
                }
                Err(_) => {
                    next += 1;
                    lost += 1;
                }
            }
        }
        if lost > 0 {
            self.report.damage(format!("{lost} rows of the table {table} cannot be read"));
        }
    }

    fn save(&mut self, save: impl FnOnce(&mut Saved<'_>) -> Result<(), Failed>) {
        if let Some(saved) = self.saved.as_deref_mut()
            && let Err(failed) = save(saved)
        {
            self.report.damage(format!("a whole record could not be saved: {failed}"));
        }
    }

    /// How many of them are not final.
    fn tasks(&mut self) -> i64 {
        let live = std::cell::Cell::new(0);
        self.rows("tasks", COLUMNS, &|row| Stored::at(row, 1), |walk, row| match row.decode(walk.db) {
            Ok(task) => {
                walk.report.tasks += 1;
                live.set(live.get() + i64::from(!task.state.is_final()));
                walk.save(|saved| saved.put.any_task(&task));
            }
            Err(failed) => walk.report.damage(failed.to_string()),
        });
        live.get()
    }

    fn logs(&mut self) {
        let take = |row: &Row<'_>| {
            let blob = |at| row.get::<_, Vec<u8>>(at);
            Ok((blob(1)?, blob(2)?, row.get::<_, i64>(3)?))
        };
        self.rows("logs", "task, log, checksum", &take, |walk, (task, log, sum)| {
            let whole = id_of(&task).and_then(|id| {
                verify(|| format!("the log of task {id}"), sum, &[b"log", &task, &log])?;
                let tenant = walk
                    .db
                    .prepare_cached("SELECT tenant FROM tasks NOT INDEXED WHERE id = ?1")?
                    .query_row([&task], |row| row.get::<_, String>(0))
                    .optional();
                Ok((id, tenant.ok().flatten()))
            });
            match whole {
                Ok((id, Some(tenant))) => walk.save(|saved| {
                    saved.put.log(&TaskLog { tenant: Tenant::from(tenant), task: id, log: log.into() })
                }),
                // Its task is lost, and told.
                Ok((_, None)) => {}
                Err(failed) => walk.report.damage(failed.to_string()),
            }
        });
    }

    /// Keys whose task is gone; the others come with their tasks.
    fn keys(&mut self) {
        let rows = self.each("SELECT tenant, key, body, task, since, checksum FROM keys", |row| {
            let blob = |at| row.get::<_, Vec<u8>>(at);
            Ok((row.get::<_, String>(0)?, blob(1)?, blob(2)?, blob(3)?, row.get(4)?, row.get(5)?))
        });
        for (tenant, key, body, task, since, sum) in rows {
            let parts = key_parts(&tenant, &key, &body, &task, since);
            if let Err(damage) = verify(|| "a key".to_owned(), sum, &parts.each()) {
                self.report.damage(damage.to_string());
                continue;
            }
            self.save(|saved| {
                saved.put.db.execute(
                    "INSERT OR IGNORE INTO keys (tenant, key, body, task, since, orphan, checksum)
                     VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6)",
                    params![tenant, key, body, task, since, sum],
                )?;
                Ok(())
            });
        }
    }

    fn workers(&mut self) {
        let take =
            |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, i64>(2)?));
        for (worker, entry, sum) in self.each("SELECT worker, entry, checksum FROM roster", take) {
            let parts: [&[u8]; 3] = [b"roster", worker.as_bytes(), &entry];
            match whole::<RosterEntry>("the roster entry", &worker, sum, &parts, &entry) {
                Ok(entry) => self.save(|saved| saved.put.roster(&entry)),
                Err(damage) => self.report.damage(damage.to_string()),
            }
        }
        for (worker, entry, sum) in self.each("SELECT worker, entry, checksum FROM overlays", take) {
            let parts: [&[u8]; 3] = [b"overlay", worker.as_bytes(), &entry];
            if let Some(pool) = worker.strip_prefix(POOL_PREFIX) {
                match whole::<PoolRecord>("what is kept", &worker, sum, &parts, &entry) {
                    Ok(record) => self.save(|saved| saved.put.pool(&PoolName::from(pool), &record)),
                    Err(damage) => self.report.damage(damage.to_string()),
                }
                continue;
            }
            if let Some((tenant, name)) = session_of(&worker) {
                match whole::<SessionRecord>("the session", &worker, sum, &parts, &entry) {
                    Ok(record) => self.save(|saved| saved.put.session(&tenant, &name, &record)),
                    Err(damage) => self.report.damage(damage.to_string()),
                }
                continue;
            }
            match whole::<Overlay>("what people said", &worker, sum, &parts, &entry) {
                Ok(overlay) => self.save(|saved| saved.put.overlay(&WorkerName::from(worker), &overlay)),
                Err(damage) => self.report.damage(damage.to_string()),
            }
        }
    }

    fn aside(&mut self) {
        let rows = self.each("SELECT id, why FROM aside ORDER BY id", |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?))
        });
        for (id, why) in rows {
            let name = id_of(&id).map_or_else(|failed| failed.to_string(), |id| id.to_string());
            self.report.aside.push(format!("task {name}: {why}"));
        }
    }

    fn meta(&mut self, live: i64) {
        let known = number(self.db, "live").and_then(|known| {
            let term = number(self.db, "term")?.unwrap_or(0);
            let store_id = self
                .db
                .query_row("SELECT text FROM meta WHERE name = 'store_id'", [], |row| row.get(0))
                .optional()?;
            Ok((known.unwrap_or(0), Meta { term, store_id: store_id.flatten() }))
        });
        match known {
            Ok((known, meta)) => {
                if known != live {
                    self.report.damage(format!(
                        "{live} tasks that are not final are whole, and there must be {known}"
                    ));
                }
                self.save(|saved| {
                    saved.meta = meta;
                    Ok(())
                });
            }
            Err(failed) => {
                self.report.damage(format!("the store's name and term cannot be read: {failed}"));
            }
        }
    }

    /// The rows of a small table, as far as they can be read.
    fn each<T>(&mut self, sql: &str, take: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let mut rows = Vec::new();
        let read = self.db.prepare(sql).and_then(|mut statement| {
            for row in statement.query_map([], take)? {
                rows.push(row?);
            }
            Ok(())
        });
        if let Err(error) = read {
            self.report.damage(format!("a table cannot be read to its end: {error}"));
        }
        rows
    }
}

fn whole<T: serde::de::DeserializeOwned>(
    what: &str,
    worker: &str,
    sum: i64,
    parts: &[&[u8]],
    entry: &[u8],
) -> Result<T, Damage> {
    verify(|| format!("{what} of {worker}"), sum, parts)?;
    decoded(entry)
}
