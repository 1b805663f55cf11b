//! Copies of a database that is in use: one moment of it, compact, checked, and for its owner's eyes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rusqlite::Connection;

use super::Failed;
use super::connect::{full_check, reader, settled_reader};
use super::place::database_in;
use super::schema::{self, APPLICATION_ID, STEPS};

/// Why no copy was made.
#[derive(Debug)]
pub enum BackupError {
    /// There is no store.
    NoStore(PathBuf),
    /// Something is there already; a backup never replaces anything.
    Exists(PathBuf),
    /// It is no store of Rollcall's, or one of a newer version.
    NotOurs(PathBuf),
    /// The system refuses.
    System(PathBuf, io::Error),
    /// The database cannot be read, or the copy is not whole.
    Failed(String),
}

impl std::fmt::Display for BackupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoStore(file) => write!(f, "there is no store at {}", file.display()),
            Self::Exists(file) => {
                write!(f, "{} is there already, and a backup replaces nothing; name another", file.display())
            }
            Self::NotOurs(file) => {
                write!(f, "{} is not a store that this version of Rollcall can read", file.display())
            }
            Self::System(file, error) => write!(f, "cannot write {}: {error}", file.display()),
            Self::Failed(why) => write!(f, "the copy cannot be made: {why}"),
        }
    }
}

impl std::error::Error for BackupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(_, error) => Some(error),
            Self::NoStore(_) | Self::Exists(_) | Self::NotOurs(_) | Self::Failed(_) => None,
        }
    }
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Tasks in it.
    pub tasks: u64,
    /// The size of the file.
    pub bytes: u64,
}

/// Copies the store of `folder` to `file`, while a server uses it or not. The copy is one moment of
/// the store: everything that was acknowledged before the call is in it. It is a database that
/// a server can be started on, under the name `rollcall.db`.
///
/// # Errors
/// See [`BackupError`]; nothing is left behind then.
pub fn backup(folder: &Path, file: &Path) -> Result<Backup, BackupError> {
    let database = database_in(folder);
    if !database.is_file() {
        return Err(BackupError::NoStore(database));
    }
    let failed = |error: Failed| BackupError::Failed(error.to_string());
    let db = settled_reader(&database).map_err(failed)?;
    let ours: i32 = db
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(|error| failed(error.into()))?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if ours != APPLICATION_ID || schema::version(&db).map_err(failed)? > known {
        return Err(BackupError::NotOurs(database));
    }
    // It would keep SQLite from writing to the copy, too; the store itself was opened for reading alone.
    db.pragma_update(None, "query_only", false).map_err(|error| failed(error.into()))?;
    copy(&db, file)?;
    let copied = reader(file).map_err(failed)?;
    let tasks: i64 = copied
        .query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))
        .map_err(|error| failed(error.into()))?;
    let bytes = file.metadata().map_err(|error| BackupError::System(file.to_owned(), error))?.len();
    Ok(Backup { tasks: u64::try_from(tasks).unwrap_or(0), bytes })
}

/// Copies a database to a file that is not there yet. The file appears whole or not at all.
pub(super) fn copy(db: &Connection, file: &Path) -> Result<(), BackupError> {
    let system = |error| BackupError::System(file.to_owned(), error);
    if file.exists() {
        return Err(BackupError::Exists(file.to_owned()));
    }
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".partial");
    let partial = file.with_file_name(name);
    // What an interrupted backup has left.
    if partial.exists() {
        std::fs::remove_file(&partial).map_err(system)?;
    }
    let copied = copy_to(db, &partial, file);
    if copied.is_err() {
        let _gone = std::fs::remove_file(&partial);
    }
    copied
}

fn copy_to(db: &Connection, partial: &Path, file: &Path) -> Result<(), BackupError> {
    let system = |error| BackupError::System(file.to_owned(), error);
    let failed = |error: Failed| BackupError::Failed(error.to_string());
    // Made by us, so that nobody else can read it even for a moment; SQLite takes an empty file.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial).map_err(system)?;
    let path = partial.to_str().ok_or_else(|| BackupError::Failed("its name is not UTF-8".to_owned()))?;
    db.execute("VACUUM INTO ?1", [path]).map_err(|error| failed(error.into()))?;
    made.sync_all().map_err(system)?;
    full_check(&reader(partial).map_err(failed)?).map_err(failed)?;
    renameat2(AT_FDCWD, partial, AT_FDCWD, file, RenameFlags::RENAME_NOREPLACE).map_err(
        |errno| match errno {
            nix::errno::Errno::EEXIST => BackupError::Exists(file.to_owned()),
            errno => system(errno.into()),
        },
    )?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(system)
}
