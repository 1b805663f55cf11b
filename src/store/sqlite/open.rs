//! How a store is opened: hold the folder, look whether the file is ours and whole, bring it to this
//! version, raise the term, and read everything that is not final.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use super::archive::{COLUMNS, Readers, SqliteArchive, Stored};
use super::ballast::Ballast;
use super::codec::{Damage, decoded, verify};
use super::connect::{self, full_check};
use super::journal::{SqliteJournal, count, now, number, set_number};
use super::place::{Place, private};
use super::put::{POOL_PREFIX, session_of};
use super::schema::{self, APPLICATION_ID};
use super::{Failed, OpenError, Shared, SqliteOptions, stored};
use crate::fleet::{
    Overlay, PoolName, PoolRecord, Record, RosterEntry, SessionRecord, StoreId, TaskRecord, TaskSpec, Term,
    WorkerName,
};
use crate::store::{Limits, Opened};

/// A file up to this size is looked through at each start: that takes a few milliseconds.
const LOOKED_THROUGH: u64 = 16 << 20;

/// A worker process that has not begun anything for so long, and that no task names, is forgotten;
/// in milliseconds.
const ROSTER_LIFE: i64 = 7 * 24 * 3_600 * 1_000;

pub(super) fn open(options: &SqliteOptions, steps: &[&str]) -> Result<Opened, OpenError> {
    let Parts { journal, archive, begun, records, limits } = parts(options, steps)?;
    Ok(Opened {
        journal: Box::new(journal),
        archive,
        term: begun.term,
        id: begun.id,
        records,
        failed_recoveries: begun.failed_recoveries,
        limits,
    })
}

/// An opened store before its parts are handed out.
pub(super) struct Parts {
    pub(super) journal: SqliteJournal,
    pub(super) archive: Arc<SqliteArchive>,
    begun: Begun,
    pub(super) records: Vec<Record>,
    pub(super) limits: Arc<Limits>,
}

pub(super) fn parts(options: &SqliteOptions, steps: &[&str]) -> Result<Parts, OpenError> {
    let place = Place::take(&options.folder)?;
    let file = place.database();
    parts_in(place, options, steps).map_err(|error| match error {
        OpenError::Damaged { what, .. } => OpenError::Damaged { file, what },
        OpenError::Sql { why, .. } => OpenError::Sql { file, why },
        other => other,
    })
}

fn parts_in(place: Place, options: &SqliteOptions, steps: &[&str]) -> Result<Parts, OpenError> {
    let mut db = connect_to(&place)?;
    schema::migrate(&mut db, &place, steps)?;
    place.sync().map_err(|error| OpenError::System {
        doing: format!("sync the folder {}", place.folder().display()),
        error,
    })?;
    let records = read_all(&db)?;
    let counts = count(&db)?;
    // Only now: a store that is refused is left as it was.
    let begun = begin(&mut db)?;
    let ballast = Ballast::take(place.folder(), options.ballast);
    let limits = Arc::new(Limits::new(options.retention));
    let shared = Arc::new(Shared { place, readers: Readers::default(), retention: Arc::clone(&limits) });
    let archive = Arc::new(SqliteArchive(Arc::clone(&shared)));
    let journal = SqliteJournal::new(shared, db, begun.term, counts, ballast)?;
    Ok(Parts { journal, archive, begun, records, limits })
}

/// The one writing connection to a file that is ours, or new.
fn connect_to(place: &Place) -> Result<Connection, OpenError> {
    let file = place.database();
    // Made here, and not by SQLite, so that nobody else may read it; its log takes its mode from it.
    let made = private(file.clone())
        .and_then(|file| file.metadata())
        .map_err(|error| OpenError::System { doing: format!("make {}", file.display()), error })?;
    // Before anything is changed about it, and be it only its way of logging.
    if made.len() > 0 && is_foreign(&file)? {
        return Err(OpenError::Foreign(file));
    }
    let db = connect::writer(place)?;
    if made.len() <= LOOKED_THROUGH {
        full_check(&db)?;
    }
    Ok(db)
}

fn is_foreign(file: &Path) -> Result<bool, Failed> {
    match connect::reader(file).and_then(|db| looks_foreign(&db)) {
        // What only reads may not roll back what a start that was killed has left.
        Err(Failed::Sql(error)) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
            looks_foreign(&connect::finisher(file)?)
        }
        looked => looked,
    }
}

fn looks_foreign(db: &Connection) -> Result<bool, Failed> {
    let id: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    // A start that was cut short leaves an empty database.
    Ok(id != APPLICATION_ID && (id != 0 || tables > 0))
}

/// What an opening begins with.
struct Begun {
    term: Term,
    id: StoreId,
    failed_recoveries: u32,
}

/// Raises the term, and counts a recovery that has not succeeded yet.
fn begin(db: &mut Connection) -> Result<Begun, Failed> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = number(&change, "term")?.unwrap_or(0);
    let term = u32::try_from(before + 1).map_err(|_| Damage(format!("{before} is no term")))?;
    set_number(&change, "term", i64::from(term))?;
    let failed = number(&change, "failed_recoveries")?.unwrap_or(0);
    set_number(&change, "failed_recoveries", failed + 1)?;
    let random = format!("{:016x}", rand::random::<u64>());
    change.execute("INSERT OR IGNORE INTO meta (name, text) VALUES ('store_id', ?1)", [random])?;
    let id: String =
        change.query_row("SELECT text FROM meta WHERE name = 'store_id'", [], |row| row.get(0))?;
    change.commit()?;
    Ok(Begun {
        term: Term(term),
        id: StoreId::from(id),
        failed_recoveries: u32::try_from(failed).unwrap_or(u32::MAX),
    })
}

/// Everything that is not final, and rosters and overlays. One damaged row refuses the start: a
/// task that was accepted must not be missing without anybody's knowing.
fn read_all(db: &Connection) -> Result<Vec<Record>, Failed> {
    let mut records = Vec::new();
    let mut hinted = BTreeSet::new();
    let mut live =
        db.prepare(&format!("SELECT {COLUMNS} FROM tasks WHERE finished_at IS NULL ORDER BY id"))?;
    let mut rows = live.query([])?;
    while let Some(row) = rows.next()? {
        let task = Stored::of(row)?.decode(db)?;
        if task.state.is_final() {
            return Err(Damage(format!("task {} is final, and its row says that it is not", task.id)).into());
        }
        hinted.extend(task.hint.as_ref().map(|hint| hint.worker.clone()));
        records.push(Record::Task(lean(task)));
    }
    // The index may have lost an entry, and nothing in the file looks wrong then.
    let counted = number(db, "live")?.unwrap_or(0);
    if counted != stored(records.len() as u64) {
        let found = records.len();
        return Err(Damage(format!("{found} tasks are not final, and there must be {counted}")).into());
    }
    forget_workers(db, &hinted)?;
    each(db, "roster", |_, entry| {
        records.push(Record::Roster(decoded::<RosterEntry>(entry)?));
        Ok(())
    })?;
    each(db, "overlay", |worker, entry| {
        records.push(match (worker.strip_prefix(POOL_PREFIX), session_of(worker)) {
            (Some(pool), _) => Record::Pool(PoolName::from(pool), decoded::<PoolRecord>(entry)?),
            (None, Some((tenant, name))) => Record::Session(tenant, name, decoded::<SessionRecord>(entry)?),
            (None, None) => Record::Overlay(WorkerName::from(worker), decoded::<Overlay>(entry)?),
        });
        Ok(())
    })?;
    Ok(records)
}

/// Without a large input, which was looked at and is read again when it is needed: all of them at once
/// may be more than there is memory.
fn lean(task: Arc<TaskRecord>) -> Arc<TaskRecord> {
    if task.spec.input.as_str().len() <= TaskSpec::LARGE_INPUT {
        return task;
    }
    let spec = Arc::new(task.spec.without_input());
    Arc::new(TaskRecord { spec, ..Arc::unwrap_or_clone(task) })
}

fn each(
    db: &Connection,
    what: &str,
    mut take: impl FnMut(&str, &[u8]) -> Result<(), Damage>,
) -> Result<(), Failed> {
    let table = if what == "overlay" { "overlays" } else { what };
    let mut find = db.prepare(&format!("SELECT worker, entry, checksum FROM {table} ORDER BY worker"))?;
    let mut rows = find.query([])?;
    while let Some(row) = rows.next()? {
        let (worker, entry, sum): (String, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        verify(
            || format!("the {what} entry of {worker}"),
            sum,
            &[what.as_bytes(), worker.as_bytes(), &entry],
        )?;
        take(&worker, &entry)?;
    }
    Ok(())
}

/// Forgets worker processes of long ago; not those that a task names, for its recovery asks for them.
fn forget_workers(db: &Connection, hinted: &BTreeSet<WorkerName>) -> Result<(), Failed> {
    let old = now().saturating_sub(ROSTER_LIFE);
    let mut find = db.prepare("SELECT worker FROM roster WHERE seen_at < ?1")?;
    let names = find.query_map([old], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    for name in names.iter().filter(|name| !hinted.contains(name.as_str())) {
        db.execute("DELETE FROM roster WHERE worker = ?1", params![name])?;
    }
    Ok(())
}
