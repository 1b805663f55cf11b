//! Connections to the database, each with the settings that the promises rest on.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Failed;
use super::place::Place;

/// The write-ahead log is cut back to this size once it was larger.
pub(super) const LOG_BYTES: u64 = 64 << 20;

/// How long a statement waits for a lock that another connection has.
const BUSY: Duration = Duration::from_secs(5);

/// The one connection that writes.
///
/// `synchronous=FULL`: with NORMAL a power cut takes whole commits away. `mmap_size=0`: a read error
/// under a memory map is a SIGBUS. Checkpoints are the journal's own business.
pub(super) fn writer(place: &Place) -> Result<Connection, Failed> {
    writer_of(&place.database())
}

/// The same for a file elsewhere, which is there.
pub(super) fn writer_of(database: &Path) -> Result<Connection, Failed> {
    let db = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(BUSY)?;
    // Before the first table is made; later it would do nothing.
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    safe(&db)?;
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failed::NoLog(mode));
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "fullfsync", true)?;
    db.pragma_update(None, "checkpoint_fullfsync", true)?;
    db.pragma_update_and_check(None, "journal_size_limit", super::stored(LOG_BYTES), |_| Ok(()))?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// A connection that changes nothing by itself, but may finish what a killed one has begun: a file that
/// was cut short before its log was written ahead has a journal to roll back.
pub(super) fn finisher(database: &Path) -> Result<Connection, Failed> {
    let db = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(BUSY)?;
    safe(&db)?;
    Ok(db)
}

/// A connection that only reads.
pub(super) fn reader(database: &Path) -> Result<Connection, Failed> {
    let db = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(BUSY)?;
    safe(&db)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

/// The same for a file that nobody may have opened since a server was killed: what only reads may not
/// roll back what that one had begun.
pub(super) fn settled_reader(database: &Path) -> Result<Connection, Failed> {
    let look = |db: &Connection| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    let db = reader(database)?;
    match look(&db) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => {
            look(&finisher(database)?)?;
            reader(database)
        }
        // Whatever else is wrong shows to whoever reads on.
        Ok(()) | Err(_) => Ok(db),
    }
}

fn safe(db: &Connection) -> Result<(), Failed> {
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(()))?;
    Ok(())
}

/// Looks at every page: is the file whole? Indexes are not compared with their tables.
pub(super) fn quick_check(db: &Connection) -> Result<(), Failed> {
    check(db, "quick_check")
}

/// Looks at every page and every index.
pub(super) fn full_check(db: &Connection) -> Result<(), Failed> {
    check(db, "integrity_check")
}

fn check(db: &Connection, how: &str) -> Result<(), Failed> {
    // One finding is as bad as a hundred.
    let found: String = db.query_row(&format!("PRAGMA {how}(1)"), [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(super::codec::Damage(found).into()) }
}

/// Whether SQLite found that the file is not a whole database.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        // A column has another type than was written into it.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)),
    }
}
