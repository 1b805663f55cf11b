//! A file that holds disk space for the worst moment: once the disk is full it goes, so that results
//! can still be recorded while submissions are refused. It comes back when there is room again.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use super::place::private;

/// Bytes held back.
pub(super) const BALLAST: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Ballast {
    /// Takes the space if the disk has it.
    pub(super) fn take(folder: &Path, bytes: u64) -> Self {
        let mut ballast = Self { path: folder.join("ballast"), bytes, held: false };
        ballast.held = ballast.fill();
        if !ballast.held {
            tracing::warn!(
                folder = %folder.display(),
                wanted = bytes,
                alert = "RollcallStoreNotWritable",
                "the disk has no room to hold back: tasks that must be kept are refused until it has"
            );
        }
        ballast
    }

    /// Whether the space is there for the worst moment.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Lets go of the space; false when there is none to let go of.
    pub(super) fn release(&mut self) -> bool {
        let held = std::mem::take(&mut self.held);
        held && std::fs::remove_file(&self.path).is_ok()
    }

    /// Takes the space again once the disk has twice as much: with less it would be gone at once.
    pub(super) fn restore(&mut self) -> bool {
        let roomy = self.path.parent().and_then(free_bytes).is_some_and(|free| free >= 2 * self.bytes);
        self.held = self.held || (roomy && self.fill());
        self.held
    }

    fn fill(&self) -> bool {
        let Ok(file) = private(self.path.clone()) else { return false };
        let length = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        let filled = match fallocate(&file, FallocateFlags::empty(), 0, length) {
            Ok(()) => true,
            // A file system without it: the blocks are written instead.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(&file, self.bytes).is_ok(),
            Err(_) => false,
        };
        if !filled {
            // Half of it helps nobody.
            let _gone = std::fs::remove_file(&self.path);
        }
        filled
    }
}

fn write_zeros(mut file: &std::fs::File, bytes: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), bytes), &mut file)?;
    file.sync_all()
}

/// Bytes that the disk under a folder still has for us.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = statvfs(folder).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_holds_real_blocks_until_it_is_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut ballast = Ballast::take(folder.path(), 1 << 20);
        let blocks = std::fs::metadata(folder.path().join("ballast")).expect("it is there").blocks();
        assert!(ballast.is_held() && blocks * 512 >= 1 << 20, "{blocks} blocks");
        assert!(ballast.release() && !ballast.is_held());
        assert!(!folder.path().join("ballast").exists());
        assert!(!ballast.release(), "it is let go of once");
        assert!(ballast.restore() && ballast.is_held());
    }
}
