//! The store on disk: one SQLite database in a folder that one server holds. It keeps whole records
//! and decides nothing; what it confirms survives SIGKILL and a power cut.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

use super::{Opened, Retention, StoreFault};
use crate::fleet::TaskId;

mod archive;
mod backup;
mod ballast;
mod codec;
mod connect;
mod journal;
mod open;
mod place;
mod put;
mod repair;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;

pub use backup::{Backup, BackupError, backup};
#[cfg(test)]
pub(in crate::store) use journal::now;
pub use repair::{RepairError, Report, drop_damaged, inspect, salvage};

/// How a store on disk is kept.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The folder; it is made, for its owner alone, if it is not there.
    pub folder: PathBuf,
    /// How much of finished tasks is kept.
    pub retention: Retention,
    /// Bytes held back for the results of running tasks, should the disk become full.
    pub ballast: u64,
}

impl SqliteOptions {
    /// The usual ones.
    pub fn new(folder: impl Into<PathBuf>, retention: Retention) -> Self {
        Self { folder: folder.into(), retention, ballast: ballast::BALLAST }
    }
}

/// Opens the store, or makes a new one.
///
/// # Errors
/// See [`OpenError`].
pub fn open(options: &SqliteOptions) -> Result<Opened, OpenError> {
    open::open(options, schema::STEPS)
}

/// Why a store was not opened: nothing of it may be served.
#[derive(Debug)]
pub enum OpenError {
    /// Another server has the folder.
    Held {
        /// The folder.
        folder: PathBuf,
        /// That server's process id, if it could be read.
        by: Option<u32>,
    },
    /// The folder is on another machine.
    Networked {
        /// The folder.
        folder: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// A newer Rollcall has written it.
    Newer {
        /// The database.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// It is a database of another program.
    Foreign(PathBuf),
    /// It is not what was written.
    Damaged {
        /// The database.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// The copy before a change of version could not be made.
    Copy {
        /// Where it should go.
        to: PathBuf,
        /// Why not.
        why: String,
    },
    /// The system refuses.
    System {
        /// What was tried.
        doing: String,
        /// Its word.
        error: io::Error,
    },
    /// SQLite refuses.
    Sql {
        /// The database.
        file: PathBuf,
        /// Its word.
        why: String,
    },
}

impl OpenError {
    fn of(file: &Path, failed: Failed) -> Self {
        let file = file.to_owned();
        match failed {
            Failed::Damage(damage) => Self::Damaged { file, what: damage.to_string() },
            Failed::Sql(error) if connect::is_damage(&error) => {
                Self::Damaged { file, what: error.to_string() }
            }
            failed @ (Failed::Sql(_) | Failed::NoLog(_)) => Self::Sql { file, why: failed.to_string() },
        }
    }
}

impl From<Failed> for OpenError {
    /// For steps that do not know the file; [`open::open`] puts its name in.
    fn from(failed: Failed) -> Self {
        Self::of(Path::new(""), failed)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { folder, by } => {
                write!(f, "the store in {} is held by another server", folder.display())?;
                if let Some(pid) = by {
                    write!(f, " (process {pid})")?;
                }
                f.write_str("; stop that one, or give this one another server.data_dir")
            }
            Self::Networked { folder, kind } => write!(
                f,
                "{} is on a network file system ({kind}), where no store is safe; set server.data_dir to a folder on a disk of this machine",
                folder.display()
            ),
            Self::Newer { file, found, known } => write!(
                f,
                "{} has version {found} of the store, and this Rollcall knows up to {known}; start the newer Rollcall that wrote it",
                file.display()
            ),
            Self::Foreign(file) => write!(
                f,
                "{} is a database of another program; set server.data_dir to a folder of Rollcall's own",
                file.display()
            ),
            Self::Damaged { file, what } => write!(
                f,
                "{} is damaged: {what}; `rollcall repair` shows what can be saved, and nothing is served until then",
                file.display()
            ),
            Self::Copy { to, why } => write!(
                f,
                "the store needs a change of version, and the copy that is made before it, {}, failed: {why}",
                to.display()
            ),
            Self::System { doing, error } => write!(f, "cannot {doing}: {error}"),
            Self::Sql { file, why } => write!(f, "the store {} cannot be opened: {why}", file.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { error, .. } => Some(error),
            Self::Held { .. }
            | Self::Networked { .. }
            | Self::Newer { .. }
            | Self::Foreign(_)
            | Self::Damaged { .. }
            | Self::Copy { .. }
            | Self::Sql { .. } => None,
        }
    }
}

/// Why a step on the database failed.
#[derive(Debug)]
enum Failed {
    Sql(rusqlite::Error),
    Damage(codec::Damage),
    /// No write-ahead log is to be had here; SQLite offers this instead.
    NoLog(String),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<codec::Damage> for Failed {
    fn from(damage: codec::Damage) -> Self {
        Self::Damage(damage)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(error) => error.fmt(f),
            Self::Damage(damage) => damage.fmt(f),
            Self::NoLog(instead) => write!(f, "no write-ahead log is to be had here, only {instead:?}"),
        }
    }
}

impl From<Failed> for StoreFault {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                Self::Full(error.to_string())
            }
            failed @ (Failed::Sql(_) | Failed::NoLog(_)) => Self::Io(failed.to_string()),
            Failed::Damage(damage) => Self::Lost(damage.to_string()),
        }
    }
}

/// An id as the database keeps it.
fn bytes_of(id: TaskId) -> [u8; 16] {
    id.0.to_be_bytes()
}

/// The id in a column.
fn id_of(bytes: &[u8]) -> Result<TaskId, Failed> {
    Ok(TaskId(number_of(bytes)?))
}

/// A number of 16 bytes in a column.
fn number_of(bytes: &[u8]) -> Result<u128, Failed> {
    let bytes = bytes
        .try_into()
        .map_err(|_| codec::Damage(format!("an id has {} bytes where it must have 16", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

/// A number as SQLite keeps it; ours never come near the limit.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What the parts of one opened store share.
#[derive(Debug)]
struct Shared {
    place: place::Place,
    readers: archive::Readers,
    retention: Arc<super::Limits>,
}
