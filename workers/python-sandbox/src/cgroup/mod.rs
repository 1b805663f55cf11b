//! Control groups over plain files: one group for each run, under one folder for this process.
//! Version 2 is used where it has the controllers, else version 1.

mod find;
mod group;

pub(crate) use find::CgroupsMissing;
pub(crate) use group::{Cgroup, GroupUsage};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Limits;

/// How the folder of this process, in which the groups are made, is called; its pid follows, and the
/// number that tells apart several [`Cgroups`] of one process.
const OWN_FOLDER: &str = "rollcall-sandbox.";

static OPENED: AtomicU64 = AtomicU64::new(1);

/// Where this process makes its groups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    tree: Tree,
    next: AtomicU64,
}

/// A group's folders: one in version 2, one for each controller in version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    V2(PathBuf),
    V1 { memory: PathBuf, pids: PathBuf, cpu: PathBuf, cpuacct: PathBuf, freezer: PathBuf },
}

impl Cgroups {
    /// Finds the controllers and makes a folder of this process.
    ///
    /// # Errors
    /// When neither version can be used; the text says what is missing in each.
    pub(crate) fn open() -> Result<Self, CgroupsMissing> {
        Ok(Self { tree: find::own_tree(OPENED.fetch_add(1, Ordering::Relaxed))?, next: AtomicU64::new(1) })
    }

    /// `v1` or `v2`.
    pub(crate) fn version(&self) -> &'static str {
        match self.tree {
            Tree::V2(_) => "v2",
            Tree::V1 { .. } => "v1",
        }
    }

    /// Makes a group with its limits, in which no process is yet.
    ///
    /// # Errors
    /// When a folder cannot be made or a limit is not taken; nothing is left behind then.
    pub(crate) fn create(&self, limits: &Limits) -> io::Result<Cgroup> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tree = self.tree.map(|dir| dir.join(number.to_string()));
        Cgroup::create(tree, limits)
    }
}

impl Drop for Cgroups {
    /// Removes the folder of this process. What another start finds of it, it removes too.
    fn drop(&mut self) {
        for dir in self.tree.dirs() {
            // Fails only while groups are in it, and then it must stay.
            drop(std::fs::remove_dir(dir));
        }
    }
}

impl Tree {
    fn map(&self, change: impl Fn(&Path) -> PathBuf) -> Self {
        match self {
            Self::V2(dir) => Self::V2(change(dir)),
            Self::V1 { memory, pids, cpu, cpuacct, freezer } => Self::V1 {
                memory: change(memory),
                pids: change(pids),
                cpu: change(cpu),
                cpuacct: change(cpuacct),
                freezer: change(freezer),
            },
        }
    }

    /// Each folder once: version 1 often has `cpu` and `cpuacct` at one place.
    fn dirs(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = match self {
            Self::V2(dir) => vec![dir],
            Self::V1 { memory, pids, cpu, cpuacct, freezer } => vec![memory, pids, cpu, cpuacct, freezer],
        };
        dirs.sort_unstable();
        dirs.dedup();
        dirs
    }
}
