//! The way out of a damaged store: what is still as it was written, what is not, and a new store
//! made of the former. The damaged file itself is never changed.

use std::path::{Path, PathBuf};

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME, OptionalExtension as _, Row, params};

use super::archive::{COLUMNS, Stored};
use super::backup::BackupError;
use super::codec::{Damage, decoded, verify};
use super::connect::{self, full_check, reader};
use super::journal::{now, number, set_number};
use super::place::{Place, private};
use super::put::{Counts, Put, key_parts};
use super::{Failed, OpenError, id_of, schema};
use crate::fleet::{Overlay, RosterEntry, Seq, Tenant, WorkerName};
use crate::store::TaskLog;

/// Findings that are told one by one; the others are counted.
const TOLD: usize = 1_000;

/// What a look at a store has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Tasks that are as they were written.
    pub tasks: u64,
    /// What is not, one sentence each, the first thousand.
    pub damages: Vec<String>,
    /// How many there are in all.
    pub damaged: u64,
    /// Tasks that were set aside since the start failed with them: which, and why.
    pub aside: Vec<String>,
}

impl Report {
    /// Whether nothing is lost or set aside.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0 && self.aside.is_empty()
    }

    fn damage(&mut self, what: impl Into<String>) {
        self.damaged += 1;
        if self.damages.len() < TOLD {
            self.damages.push(what.into());
        }
    }
}

/// Why a store was not looked at, or nothing was saved.
#[derive(Debug)]
pub enum RepairError {
    /// The store is held by a server, or is none.
    Open(OpenError),
    /// The new one cannot be written.
    Write(BackupError),
}

impl std::fmt::Display for RepairError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Write(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RepairError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(error) => Some(error),
            Self::Write(error) => Some(error),
        }
    }
}

impl From<OpenError> for RepairError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// Looks at every record of the store in `folder`, which no server may hold.
///
/// # Errors
/// [`RepairError::Open`].
pub fn inspect(folder: &Path) -> Result<Report, RepairError> {
    let place = hold(folder)?;
    Ok(walk(&place, None))
}

/// Writes everything that is as it was written to a new database at `file`. The store stays as it is.
///
/// # Errors
/// See [`RepairError`]; nothing is left at `file` then.
pub fn salvage(folder: &Path, file: &Path) -> Result<Report, RepairError> {
    let place = hold(folder)?;
    if file.exists() {
        return Err(RepairError::Write(BackupError::Exists(file.to_owned())));
    }
    write_new(&place, file).inspect_err(|_| {
        // Only what this call has made.
        let _gone = std::fs::remove_file(file);
    })
}

/// Puts in the store's place what [`salvage`] makes of it. The damaged file stays beside it; the
/// answer says under which name.
///
/// # Errors
/// See [`RepairError`]; the store is as it was then.
pub fn drop_damaged(folder: &Path) -> Result<(Report, PathBuf), RepairError> {
    let place = hold(folder)?;
    let system = |file: &Path| {
        let file = file.to_owned();
        move |error| RepairError::Write(BackupError::System(file, error))
    };
    let new = place.folder().join("rollcall.db.salvaged");
    // What a repair that was cut short has left.
    if new.exists() {
        std::fs::remove_file(&new).map_err(system(&new))?;
    }
    let report = write_new(&place, &new)?;
    let database = place.database();
    let kept = place.folder().join(format!("rollcall.db.damaged-{}", now()));
    // Its log belongs to it and goes with it: without the log it is another database.
    for (from, to) in [(place.log(), suffixed(&kept, "-wal")), (database.clone(), kept.clone())] {
        if from.exists() {
            std::fs::rename(&from, &to).map_err(system(&to))?;
        }
    }
    let _rebuilt_at_need = std::fs::remove_file(suffixed(&database, "-shm"));
    std::fs::rename(&new, &database).map_err(system(&database))?;
    place.sync().map_err(system(&database))?;
    Ok((report, kept))
}

fn suffixed(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn hold(folder: &Path) -> Result<Place, RepairError> {
    let database = super::place::database_in(folder);
    if !database.is_file() {
        return Err(RepairError::Write(BackupError::NoStore(database)));
    }
    Ok(Place::take(folder)?)
}

/// Makes a new database of what can be saved.
fn write_new(place: &Place, file: &Path) -> Result<Report, RepairError> {
    let system = |error| RepairError::Write(BackupError::System(file.to_owned(), error));
    let made = private(file.to_owned()).map_err(system)?;
    let (report, db) =
        fill(place, file).map_err(|failed| RepairError::Write(BackupError::Failed(failed.to_string())))?;
    drop(db);
    made.sync_all().map_err(system)?;
    for left in ["-wal", "-shm"] {
        let _none = std::fs::remove_file(suffixed(file, left));
    }
    Ok(report)
}

fn fill(place: &Place, file: &Path) -> Result<(Report, Connection), Failed> {
    let mut db = connect::writer_of(file)?;
    schema::create(&mut db)?;
    let report = {
        let change = db.transaction()?;
        let mut saved = Saved {
            put: Put { db: &change, counts: Counts::default(), taken: Vec::new(), now: now() },
            meta: Meta::default(),
        };
        let report = walk(place, Some(&mut saved));
        let Saved { put, meta } = saved;
        // The next opening raises it: what the damaged store handed out is older than that.
        set_number(&change, "term", meta.term)?;
        set_number(&change, "live", put.counts.live)?;
        if let Some(id) = meta.store_id {
            change.execute("INSERT INTO meta (name, text) VALUES ('store_id', ?1)", [id])?;
        }
        drop(put);
        change.commit()?;
        report
    };
    db.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE)?;
    full_check(&db)?;
    Ok((report, db))
}

/// Where what is whole goes.
struct Saved<'a> {
    put: Put<'a>,
    meta: Meta,
}

#[derive(Default)]
struct Meta {
    term: i64,
    store_id: Option<String>,
}

/// Looks at everything, and saves what is whole.
fn walk(place: &Place, saved: Option<&mut Saved<'_>>) -> Report {
    let mut report = Report::default();
    let db = match reader(&place.database()) {
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
                walk.save(|saved| saved.put.task(Seq(0), &task));
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
