//! Control groups over plain files: one group for each run, under one folder for this process.
//! Version 2 is used where it has the controllers, else version 1.

mod find;
mod group;

pub(crate) use find::CgroupsMissing;
pub(crate) use group::{Cgroup, GroupUsage};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
    crowd: Arc<Crowd>,
}

/// How many groups there are, which is how many shares of CPU time their folder has. With a single one, as
/// the kernel gives it, all sandboxes of a worker together would count as much as one process outside: on a
/// busy machine calls would take seconds.
#[derive(Debug)]
struct Crowd {
    /// The folder of this process.
    tree: Tree,
    groups: Mutex<u64>,
}

impl Crowd {
    fn change(&self, change: impl FnOnce(u64) -> u64) {
        // Under the lock, or two changes could be written in the wrong order.
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        *groups = change(*groups);
        if *groups > 0 {
            self.tree.set_shares(*groups);
        }
    }
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
        let tree = find::own_tree(OPENED.fetch_add(1, Ordering::Relaxed))?;
        let crowd = Arc::new(Crowd { tree: tree.clone(), groups: Mutex::default() });
        Ok(Self { tree, next: AtomicU64::new(1), crowd })
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
        Cgroup::create(tree, Arc::clone(&self.crowd), limits)
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
    /// Gives it so many times the share of CPU time that a group has by itself. 0: the least there is.
    fn set_shares(&self, times: u64) {
        let set = match self {
            Self::V2(dir) => group::write(dir, "cpu.weight", &(100 * times).clamp(1, 10_000).to_string()),
            Self::V1 { cpu, .. } => {
                group::write(cpu, "cpu.shares", &(1024 * times).clamp(2, 262_144).to_string())
            }
        };
        if let Err(problem) = set {
            tracing::debug!(%problem, "a control group's share stays as it was");
        }
    }

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
