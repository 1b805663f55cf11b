//! The folder that a store lives in: made for its owner alone, on a disk of this machine, and held
//! by one server at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};

use super::OpenError;

/// The database's name in its folder. SQLite puts `-wal` and `-shm` beside it.
const DATABASE: &str = "rollcall.db";

/// What a server holds while it has the folder; its text is the holder's process id.
const LOCK: &str = "lock";

/// File systems of other machines, by the magic numbers of statfs(2) and linux/magic.h: their locks
/// and their fsync do not keep what SQLite builds on.
const NETWORKED: [(i64, &str); 10] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x564c, "NCP"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
];

/// FUSE may be anything; it is taken, with a warning.
const FUSE: i64 = 0x6573_5546;

/// A folder that this process holds; let go of when dropped.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    /// Held by its lock alone, which ends with the file.
    _lock: File,
}

impl Place {
    /// Makes the folder if it is not there, and takes hold of it.
    ///
    /// # Errors
    /// When another server has it, when it is on another machine, or when the system refuses.
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let refused = |what: &str| {
            let at = format!("{what} {}", folder.display());
            move |error: io::Error| OpenError::System { doing: at, error }
        };
        let is_new = !folder.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refused("make the folder"))?;
        if is_new {
            // Its own name must survive a power cut as well as what is in it.
            let made = folder.canonicalize().map_err(refused("look at"))?;
            let parent = made.parent().unwrap_or(&made);
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(refused("sync the parent of"))?;
        }
        let kind = statfs(folder).map_err(|errno| refused("look at")(errno.into()))?.filesystem_type();
        refuse_networks(folder, kind)?;
        let mut lock = private(folder.join(LOCK)).map_err(refused("make a lock in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The message is as good without a number.
                let _unknown = lock.read_to_string(&mut holder);
                let holder = holder.trim().parse().ok();
                return Err(OpenError::Held { folder: folder.to_owned(), by: holder });
            }
            Err(TryLockError::Error(error)) => return Err(refused("lock")(error)),
        }
        let told = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        told.map_err(refused("write the lock of"))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        database_in(&self.folder)
    }

    /// Where its write-ahead log is.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join(format!("{DATABASE}-wal"))
    }

    /// Makes the names of new files as durable as their contents.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Where the database of a folder is.
pub(super) fn database_in(folder: &Path) -> PathBuf {
    folder.join(DATABASE)
}

/// Opens or makes a file that only its owner may read.
pub(super) fn private(path: PathBuf) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn refuse_networks(folder: &Path, kind: FsType) -> Result<(), OpenError> {
    // The number is 32 bits wide; some kernels hand it out with its sign spread over 64.
    let magic = kind.0 & 0xffff_ffff;
    if let Some((_, name)) = NETWORKED.iter().find(|(number, _)| *number == magic) {
        return Err(OpenError::Networked { folder: folder.to_owned(), kind: name });
    }
    if magic == FUSE {
        tracing::warn!(
            folder = %folder.display(),
            "the store is on a FUSE file system: what was accepted survives a power cut only if that file system syncs"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_machine_is_refused() {
        for (magic, name) in [(0x6969, "NFS"), (-11_317_950, "CIFS")] {
            let refused = refuse_networks(Path::new("/srv"), FsType(magic)).expect_err("refused");
            assert!(refused.to_string().contains(name), "{refused}");
        }
        refuse_networks(Path::new("/srv"), FsType(0xef53)).expect("ext4 is taken");
    }

    #[test]
    fn a_folder_has_one_holder_who_is_named_to_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("a/b");
        let held = Place::take(&inner).expect("nobody has it");
        let refused = Place::take(&inner).expect_err("it is held");
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        Place::take(&inner).expect("it is free again");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&inner).expect("it is there"));
        assert_eq!(mode & 0o777, 0o700);
    }
}
