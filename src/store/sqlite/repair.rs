//! The way out of a damaged store: what is still as it was written, what is not, and a new store
//! made of the former. The damaged file itself is never changed, but for what a killed server had begun
//! in it: that is undone first, as any start would.

use std::path::{Path, PathBuf};

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME};

use super::backup::BackupError;
use super::connect::{self, full_check};
use super::journal::{now, set_number};
use super::place::{Place, private};
use super::put::{Counts, Put};
use super::{Failed, OpenError, schema};

mod walk;

use walk::{Meta, Saved, walk};

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
