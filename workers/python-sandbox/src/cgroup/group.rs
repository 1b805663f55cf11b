//! One control group: its limits, what its processes use, and their end.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::{Crowd, Tree};
use crate::limits::{Limits, OWN_PROCESSES};

/// How long killed processes may take to be gone, and then the group itself: its page cache and
/// tmpfs pages are freed slowly.
const PATIENCE: Duration = Duration::from_secs(5);

/// A wait between two looks; doubles up to [`LONGEST_STEP`].
const FIRST_STEP: Duration = Duration::from_millis(1);
const LONGEST_STEP: Duration = Duration::from_millis(50);

/// How long the freezer may take. What is not frozen by then is signalled all the same.
const FREEZE_PATIENCE: Duration = Duration::from_millis(200);

/// The scheduler's period, over which the share of CPU time is counted.
const CPU_PERIOD_US: u64 = 100_000;

/// The group of one run.
#[derive(Debug)]
pub(crate) struct Cgroup {
    tree: Tree,
    crowd: Arc<Crowd>,
}

impl Drop for Cgroup {
    /// One that was never used, because its sandbox could not be started, is removed here.
    fn drop(&mut self) {
        self.try_remove().unwrap_or_default();
        self.crowd.change(|groups| groups - 1);
    }
}

/// A group that could not be removed, although it was tried for some seconds.
#[derive(Debug)]
pub(crate) struct StillThere {
    /// The group, for another try later.
    pub(crate) group: Cgroup,
    problem: io::Error,
}

impl fmt::Display for StillThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "control group {:?} stays: {}", self.group.tree.dirs(), self.problem)
    }
}

/// What the processes of a group used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GroupUsage {
    /// CPU time.
    pub(crate) cpu: Option<Duration>,
    /// The most memory at once, in bytes.
    pub(crate) peak_memory: Option<u64>,
    /// The most processes and threads at once, bwrap's own not counted.
    pub(crate) processes: Option<u64>,
}

impl Cgroup {
    pub(super) fn create(tree: Tree, crowd: Arc<Crowd>, limits: &Limits) -> io::Result<Self> {
        crowd.change(|groups| groups + 1);
        let group = Self { tree, crowd };
        group.make()?;
        group.set_limits(limits)?;
        Ok(group)
    }

    fn make(&self) -> io::Result<()> {
        self.tree.dirs().into_iter().try_for_each(fs::create_dir_all)
    }

    /// Limits what its processes may use from now on.
    ///
    /// # Errors
    /// When the kernel does not take a limit.
    pub(crate) fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        let pids_limit = (limits.processes + OWN_PROCESSES).to_string();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0.01 to 1024 cores")]
        let quota = ((limits.cpus * CPU_PERIOD_US as f64) as u64).max(1000);
        match &self.tree {
            Tree::V2(dir) => {
                write(dir, "memory.max", &limits.memory.to_string())?;
                write_if_there(dir, "memory.swap.max", "0")?;
                write_if_there(dir, "memory.oom.group", "1")?;
                write(dir, "pids.max", &pids_limit)?;
                write(dir, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))
            }
            Tree::V1 { memory, pids, cpu, .. } => {
                limit_memory_v1(memory, limits.memory)?;
                write(pids, "pids.max", &pids_limit)?;
                write(cpu, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                write(cpu, "cpu.cfs_quota_us", &quota.to_string())
            }
        }
    }

    /// Lets other sandboxes go first while this one is made ready, or no longer so.
    pub(crate) fn set_patient(&self, patient: bool) {
        self.tree.set_shares(u64::from(!patient));
    }

    /// Files into which a process writes `0` to become a member.
    ///
    /// # Errors
    /// When one cannot be opened for writing.
    pub(crate) fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |dir: &Path| fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"));
        self.tree.dirs().into_iter().map(|dir| open(dir).map(OwnedFd::from)).collect()
    }

    /// How many of its processes the kernel killed for memory. Version 1 kills one at a time, and
    /// the parent may then end with 0 as if nothing had been.
    pub(crate) fn oom_kills(&self) -> u64 {
        let text = match &self.tree {
            Tree::V2(dir) => fs::read_to_string(dir.join("memory.events")),
            Tree::V1 { memory, .. } => fs::read_to_string(memory.join("memory.oom_control")),
        };
        field(&text.unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// What its processes used up to now.
    pub(crate) fn usage(&self) -> GroupUsage {
        let (cpu, peak_memory, pids) = match &self.tree {
            Tree::V2(dir) => {
                let stat = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
                let cpu = field(&stat, "usage_usec").map(Duration::from_micros);
                (cpu, read_number(dir, "memory.peak"), dir)
            }
            Tree::V1 { memory, pids, cpuacct, .. } => {
                let cpu = read_number(cpuacct, "cpuacct.usage").map(Duration::from_nanos);
                (cpu, read_number(memory, "memory.max_usage_in_bytes"), pids)
            }
        };
        let processes = read_number(pids, "pids.peak").map(|peak| peak.saturating_sub(OWN_PROCESSES));
        GroupUsage { cpu, peak_memory, processes }
    }

    /// The pids of its processes.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub(crate) fn members(&self) -> io::Result<Vec<Pid>> {
        let dir = match &self.tree {
            Tree::V2(dir) => dir,
            Tree::V1 { freezer, .. } => freezer,
        };
        let text = fs::read_to_string(dir.join("cgroup.procs"))?;
        // A process of another pid namespace is listed as 0, and a signal to 0 would hit ourselves.
        Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0)
            .map(Pid::from_raw)
            .collect())
    }

    /// Sends a signal to every process but those spared. The group is frozen meanwhile: a pid on the
    /// list cannot become another process's, and nothing can fork away from the signal.
    pub(crate) async fn signal(&self, signal: Signal, spare: &[Pid]) {
        self.freeze().await;
        for pid in self.members().unwrap_or_default() {
            if !spare.contains(&pid) {
                // It may have ended already.
                let (Ok(()) | Err(_)) = signal::kill(pid, signal);
            }
        }
        self.thaw();
    }

    /// Waits until no process is left. False when some stay.
    pub(crate) async fn empties(&self, patience: Duration) -> bool {
        retry(patience, || self.members().is_ok_and(|members| members.is_empty())).await
    }

    /// Kills every process and waits until none is left. False when some would not go.
    pub(crate) async fn kill(&self) -> bool {
        let killed = match &self.tree {
            Tree::V2(dir) => write(dir, "cgroup.kill", "1").is_ok(),
            Tree::V1 { .. } => false,
        };
        if !killed && self.members().is_ok_and(|members| !members.is_empty()) {
            self.signal(Signal::SIGKILL, &[]).await;
        }
        self.empties(PATIENCE).await
    }

    /// Removes the group, for which it must have no processes.
    ///
    /// # Errors
    /// [`StillThere`] when it would not go.
    pub(crate) async fn remove(self) -> Result<(), StillThere> {
        if retry(PATIENCE, || self.try_remove().is_ok()).await {
            return Ok(());
        }
        self.try_remove().map_err(|problem| StillThere { group: self, problem })
    }

    /// Tries to remove the group once; gives it back when it will not go.
    ///
    /// # Errors
    /// The group itself.
    pub(crate) fn remove_now(self) -> Result<(), Box<Self>> {
        self.try_remove().map_err(|_| Box::new(self))
    }

    fn try_remove(&self) -> io::Result<()> {
        for dir in self.tree.dirs() {
            match fs::remove_dir(dir) {
                Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
                _ => {}
            }
        }
        Ok(())
    }

    async fn freeze(&self) {
        let frozen = || match &self.tree {
            Tree::V2(dir) => {
                let events = fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
                field(&events, "frozen") == Some(1)
            }
            Tree::V1 { freezer, .. } => {
                fs::read_to_string(freezer.join("freezer.state")).is_ok_and(|state| state.trim() == "FROZEN")
            }
        };
        if self.set_frozen(true).is_ok() {
            retry(FREEZE_PATIENCE, frozen).await;
        }
    }

    fn thaw(&self) {
        if let Err(problem) = self.set_frozen(false) {
            tracing::warn!(%problem, "a control group could not be thawed");
        }
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        match (&self.tree, frozen) {
            (Tree::V2(dir), _) => write(dir, "cgroup.freeze", if frozen { "1" } else { "0" }),
            (Tree::V1 { freezer, .. }, true) => write(freezer, "freezer.state", "FROZEN"),
            (Tree::V1 { freezer, .. }, false) => write(freezer, "freezer.state", "THAWED"),
        }
    }
}

/// Memory alone may never be limited above memory and swap together, which decides what goes first.
fn limit_memory_v1(memory: &Path, bytes: u64) -> io::Result<()> {
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let bytes_text = bytes.to_string();
    if read_number(memory, BOTH).is_some_and(|both| both < bytes) {
        write(memory, BOTH, &bytes_text)?;
    }
    write(memory, "memory.limit_in_bytes", &bytes_text)?;
    write_if_there(memory, BOTH, &bytes_text)
}

/// Looks again and again, with growing pauses, until it is so or time is up.
async fn retry(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + patience;
    let mut step = FIRST_STEP;
    while !done() {
        if Instant::now() >= give_up {
            return false;
        }
        sleep(step).await;
        step = (step * 2).min(LONGEST_STEP);
    }
    true
}

pub(super) fn write(dir: &Path, name: &str, value: &str) -> io::Result<()> {
    let path = dir.join(name);
    fs::write(&path, value).map_err(|problem| {
        io::Error::new(problem.kind(), format!("cannot write {value} to {}: {problem}", path.display()))
    })
}

/// For files that a kernel may have been built without (swap), or is too old for.
fn write_if_there(dir: &Path, name: &str, value: &str) -> io::Result<()> {
    match write(dir, name, value) {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn read_number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// The value in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
