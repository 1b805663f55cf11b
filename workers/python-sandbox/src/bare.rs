//! No isolation at all, for who has typed that out: the runner is a plain process of this machine, with an
//! empty environment, in a folder of its own. Limits hold for each process only; what a task leaves behind
//! in other folders or with other processes stays.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{Gid, Uid};

use crate::profile::{ENVIRONMENT, INSIDE};

static OPENED: AtomicU64 = AtomicU64::new(1);

/// Where the runner lies, and where its folders are made.
#[derive(Debug, Clone)]
pub(crate) struct Bare(Arc<Home>);

#[derive(Debug)]
struct Home {
    folder: PathBuf,
    next: AtomicU64,
}

/// The folder of one runner; removed with this.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

impl Bare {
    /// Puts the runner where it can be started.
    ///
    /// # Errors
    /// When there can be no folder for it.
    pub(crate) fn new() -> io::Result<Self> {
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let name = format!("rollcall-bare.{}.{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        // Not there yet, or somebody else has made it.
        DirBuilder::new().mode(0o755).create(&folder)?;
        for (path, source) in INSIDE {
            fs::write(folder.join(file_of(path)), source)?;
        }
        Ok(Self(Arc::new(Home { folder, next: AtomicU64::new(1) })))
    }

    /// The runner's file.
    pub(crate) fn runner(&self) -> PathBuf {
        self.0.folder.join(file_of(INSIDE[0].0))
    }

    /// A folder for one runner, which is `owner`'s.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn place(&self, owner: Option<u32>) -> io::Result<Place> {
        let folder = self.0.folder.join(format!("workspace.{}", self.0.next.fetch_add(1, Ordering::Relaxed)));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let place = Place(folder);
        if let Some(owner) = owner {
            nix::unistd::chown(place.folder(), Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
        }
        Ok(place)
    }
}

impl Place {
    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// What the runner finds in its environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let home = self.0.display().to_string();
        let own = |name: &str, value: &str| {
            let value = if matches!(name, "HOME" | "TMPDIR") { home.clone() } else { value.to_owned() };
            (name.to_owned(), value)
        };
        ENVIRONMENT.iter().map(|(name, value)| own(name, value)).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    if let Err(problem) = fs::remove_dir_all(folder) {
        tracing::warn!(%problem, folder = %folder.display(), "a folder stays");
    }
}

fn file_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
