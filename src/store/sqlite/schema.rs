//! The shape of the database, as steps from each version to the next. They only go forward, each
//! after a copy of the file was put beside it.

use std::path::PathBuf;

use rusqlite::{Connection, TransactionBehavior};

use super::backup::copy;
use super::place::Place;
use super::{Failed, OpenError};

/// Marks the file as ours: "Roll".
pub(super) const APPLICATION_ID: i32 = 0x526f_6c6c;

/// What leads from each version to the next. A step that was released never changes.
pub(super) const STEPS: &[&str] = &[FIRST, LEANER];

const FIRST: &str = "
    CREATE TABLE meta (
        name TEXT NOT NULL PRIMARY KEY,
        number INTEGER,
        text TEXT
    ) STRICT, WITHOUT ROWID;

    -- One row per task. `record` is the truth; the other columns are for finding it.
    CREATE TABLE tasks (
        tenant TEXT NOT NULL,
        id BLOB NOT NULL,              -- 16 bytes, big endian: the order of ids is the order of time
        version INTEGER NOT NULL,
        term INTEGER NOT NULL,
        state TEXT NOT NULL,
        capability TEXT NOT NULL,
        worker TEXT,                   -- of the last attempt
        dead_letter INTEGER NOT NULL,
        submitted_at INTEGER NOT NULL, -- milliseconds since the Unix epoch, as all times here
        finished_at INTEGER,           -- NULL while it is not final
        retry_of BLOB,
        key BLOB,                      -- the hash of its Idempotency-Key
        bytes INTEGER NOT NULL,        -- of its record, its input and its log
        record BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (tenant, id)
    ) STRICT;
    CREATE INDEX tasks_live ON tasks (id) WHERE finished_at IS NULL;
    CREATE INDEX tasks_by_end ON tasks (finished_at, bytes) WHERE finished_at IS NOT NULL;
    CREATE INDEX tasks_by_state ON tasks (tenant, state, id);
    CREATE INDEX tasks_by_capability ON tasks (tenant, capability, id);
    CREATE INDEX tasks_by_worker ON tasks (tenant, worker, id) WHERE worker IS NOT NULL;
    CREATE INDEX tasks_dead ON tasks (tenant, id) WHERE dead_letter = 1;

    -- Inputs that are large, so that a change of state does not write them again.
    CREATE TABLE inputs (
        task BLOB NOT NULL PRIMARY KEY,
        input TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;

    -- What a finished task's watchers were shown.
    CREATE TABLE logs (
        task BLOB NOT NULL PRIMARY KEY,
        log BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;

    -- One task per key. A key outlives its task, if need be, until it is a day old.
    CREATE TABLE keys (
        tenant TEXT NOT NULL,
        key BLOB NOT NULL,
        body BLOB NOT NULL,
        task BLOB NOT NULL,
        since INTEGER NOT NULL,
        orphan INTEGER NOT NULL DEFAULT 0,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX keys_orphans ON keys (since) WHERE orphan = 1;

    CREATE TABLE roster (
        worker TEXT NOT NULL PRIMARY KEY,
        seen_at INTEGER NOT NULL,
        entry BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE overlays (
        worker TEXT NOT NULL PRIMARY KEY,
        entry BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Records that made recovery fail, out of the way; `rollcall repair` shows them.
    CREATE TABLE aside (
        tenant TEXT NOT NULL,
        id BLOB NOT NULL PRIMARY KEY,
        at INTEGER NOT NULL,
        why TEXT NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
";

/// Fewer indexes to keep: a list by state finds live tasks and the many that succeeded soon without
/// one. The list's own statement says the same condition in the same words, which is how SQLite knows
/// that it may use the index.
const LEANER: &str = "
    DROP INDEX tasks_by_state;
    CREATE INDEX tasks_unsuccessful ON tasks (tenant, state, id)
        WHERE state IN ('failed', 'timed_out', 'cancelled', 'expired', 'lost');
";

/// What [`LEANER`]'s index is for, as its own condition says it.
pub(super) const UNSUCCESSFUL: &str = " AND state IN ('failed', 'timed_out', 'cancelled', 'expired', 'lost')";

/// Brings a database to the newest version. A new one has no copy made of it.
pub(super) fn migrate(db: &mut Connection, place: &Place, steps: &[&str]) -> Result<(), OpenError> {
    let found = version(db)?;
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(OpenError::Newer { file: place.database(), found, known });
    }
    if found == known {
        return Ok(());
    }
    if found > 0 {
        let beside = beside(place, found);
        if !beside.exists() {
            copy(db, &beside)
                .map_err(|error| OpenError::Copy { to: beside.clone(), why: error.to_string() })?;
        }
        tracing::info!(from = found, to = known, copy = %beside.display(), "the store is brought to this version");
    }
    Ok(go(db, &steps[usize::try_from(found).unwrap_or(0)..], known)?)
}

/// Makes an empty store of a new file.
pub(super) fn create(db: &mut Connection) -> Result<(), Failed> {
    go(db, STEPS, i64::try_from(STEPS.len()).unwrap_or(i64::MAX))
}

/// All or nothing: the version is a part of the file's first page, and so of the transaction.
fn go(db: &mut Connection, steps: &[&str], version: i64) -> Result<(), Failed> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in steps {
        change.execute_batch(step)?;
    }
    change.pragma_update(None, "application_id", APPLICATION_ID)?;
    change.pragma_update(None, "user_version", version)?;
    change.commit()?;
    Ok(())
}

/// The version that a file says it has.
pub(super) fn version(db: &Connection) -> Result<i64, Failed> {
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Where the copy of an older version goes.
fn beside(place: &Place, version: i64) -> PathBuf {
    place.folder().join(format!("rollcall.db.version-{version}"))
}
