//! Finds where this process may make control groups: mounts, its own place in them, and whether the
//! controllers that the limits need can be used there.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{OWN_FOLDER, Tree};

/// What a group's limits need, as the kernel names it.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where this process goes so that its own group may have children (version 2 allows no processes
/// in a group that hands controllers on); its pid follows.
const LEAF: &str = "rollcall-worker.";

/// How long the start of a worker may wait for what a dead one left to go, and the pause between two looks.
const SWEEP_TIME: Duration = Duration::from_secs(2);
const SWEEP_STEP: Duration = Duration::from_millis(5);

/// Why no control groups can be made.
#[derive(Debug)]
pub(crate) struct CgroupsMissing {
    v2: String,
    v1: String,
}

impl fmt::Display for CgroupsMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v2: {}; v1: {}", self.v2, self.v1)
    }
}

impl std::error::Error for CgroupsMissing {}

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The group that the mount shows at its top.
    root: String,
    point: PathBuf,
    v2: bool,
    options: Vec<String>,
}

/// Finds the controllers and makes a folder of this process, told from its others by `number`.
pub(super) fn own_tree(number: u64) -> Result<Tree, CgroupsMissing> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mounts = mounts(&read("/proc/self/mountinfo"));
    let memberships = read("/proc/self/cgroup");
    v2(&mounts, &memberships, number)
        .or_else(|v2| v1(&mounts, &memberships, number).map_err(|v1| CgroupsMissing { v2, v1 }))
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let v2 = match kind.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let options = kind.nth(1)?.split(',').map(str::to_owned).collect();
    Some(Mount { root: root.to_owned(), point: point.into(), v2, options })
}

impl Mount {
    /// The folder in which the group with this path is seen, if the mount shows it.
    fn dir(&self, group: &str) -> PathBuf {
        let below = group.strip_prefix(self.root.trim_end_matches('/')).unwrap_or("/");
        self.point.join(below.trim_start_matches('/'))
    }
}

/// This process's group, of the line for a controller, or of the nameless one of version 2.
fn membership<'a>(memberships: &'a str, controller: Option<&str>) -> Option<&'a str> {
    memberships.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let here = match controller {
            None => names.is_empty(),
            Some(controller) => names.split(',').any(|name| name == controller),
        };
        here.then_some(path)
    })
}

fn v1(mounts: &[Mount], memberships: &str, number: u64) -> Result<Tree, String> {
    let folder = |controller: &str| {
        let mount = mounts
            .iter()
            .find(|mount| !mount.v2 && mount.options.iter().any(|option| option == controller))
            .ok_or_else(|| format!("controller {controller} is not mounted"))?;
        let parent = mount.dir(membership(memberships, Some(controller)).unwrap_or("/"));
        make_own_folder(&parent, number)
    };
    Ok(Tree::V1 {
        memory: folder("memory")?,
        pids: folder("pids")?,
        cpu: folder("cpu")?,
        cpuacct: folder("cpuacct")?,
        freezer: folder("freezer")?,
    })
}

/// The own group first, then its ancestors: a server that shares our group, or a group whose parent
/// hands on too little, must not stop us where the parent is ours to use as well.
fn v2(mounts: &[Mount], memberships: &str, number: u64) -> Result<Tree, String> {
    let mount = mounts.iter().find(|mount| mount.v2).ok_or("not mounted")?;
    let own = mount.dir(membership(memberships, None).unwrap_or("/"));
    let mut problem = None;
    for dir in own.ancestors().take_while(|dir| dir.starts_with(&mount.point)) {
        match v2_at(dir, dir == own, number) {
            Ok(tree) => return Ok(tree),
            Err(found) => problem = problem.or(Some(found)),
        }
    }
    Err(problem.unwrap_or_else(|| "no group to work in".into()))
}

fn v2_at(dir: &Path, own: bool, number: u64) -> Result<Tree, String> {
    if !lists_all(&dir.join("cgroup.controllers")) {
        return Err(format!("{} has not all of {}", dir.display(), CONTROLLERS.join(", ")));
    }
    if let Err(problem) = hand_on(dir) {
        if !(own && problem.kind() == io::ErrorKind::ResourceBusy) {
            return Err(format!("{}: {problem}", dir.join("cgroup.subtree_control").display()));
        }
        let leave = || step_aside(dir).and_then(|()| hand_on(dir));
        leave().map_err(|problem| format!("{} is shared: {problem}", dir.display()))?;
    }
    let folder = make_own_folder(dir, number)?;
    hand_on(&folder).map_err(|problem| format!("{}: {problem}", folder.display()))?;
    Ok(Tree::V2(folder))
}

/// Lets the children of a group have the controllers.
fn hand_on(dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    if lists_all(&file) {
        Ok(())
    } else {
        fs::write(file, CONTROLLERS.map(|name| format!("+{name}")).join(" "))
    }
}

fn lists_all(file: &Path) -> bool {
    let listed = fs::read_to_string(file).unwrap_or_default();
    CONTROLLERS.iter().all(|name| listed.split_whitespace().any(|word| word == *name))
}

fn step_aside(dir: &Path) -> io::Result<()> {
    let leaf = dir.join(format!("{LEAF}{}", std::process::id()));
    fs::create_dir_all(&leaf)?;
    fs::write(leaf.join("cgroup.procs"), "0")
}

/// Makes `parent/rollcall-sandbox.PID.N`, and clears away what dead workers left there.
fn make_own_folder(parent: &Path, number: u64) -> Result<PathBuf, String> {
    sweep(parent);
    let own = parent.join(format!("{OWN_FOLDER}{}.{number}", std::process::id()));
    fs::create_dir_all(&own).map_err(|problem| format!("cannot make {}: {problem}", own.display()))?;
    Ok(own)
}

/// A worker that was killed cannot clear its groups away. Its sandboxes died with it, but for one that
/// was just being made: bwrap's inner process waits for ever for an outer one that is gone, and is
/// killed here. Only groups of workers that are gone are touched.
fn sweep(parent: &Path) {
    let give_up = Instant::now() + SWEEP_TIME;
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(OWN_FOLDER).or(name.strip_prefix(LEAF)));
        let pid = pid.and_then(|rest| rest.split('.').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            for group in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                kill_members(&group.path());
                // Killed is not gone: that takes the kernel a moment.
                while is_busy(fs::remove_dir(group.path())) && Instant::now() < give_up {
                    std::thread::sleep(SWEEP_STEP);
                }
            }
            drop(fs::remove_dir(entry.path()));
        }
    }
}

fn is_busy(removed: io::Result<()>) -> bool {
    removed.is_err_and(|problem| problem.kind() == io::ErrorKind::ResourceBusy)
}

fn kill_members(group: &Path) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse::<i32>().ok().filter(|pid| *pid > 0)) {
        // It may have ended meanwhile (0 would be one of another namespace, and to us the own group). The
        // folder goes now, or at the next start.
        let (Ok(()) | Err(_)) = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn cgroup_mounts_are_read_and_others_passed_over() {
        let mounts = mounts(MOUNTINFO);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].options, ["rw", "cpu", "cpuacct"]);
        assert!(mounts[2].v2);
    }

    #[test]
    fn a_group_is_looked_for_below_what_its_mount_shows() {
        let mounts = mounts(MOUNTINFO);
        assert_eq!(mounts[1].dir("/docker/abc/sub"), Path::new("/sys/fs/cgroup/memory/sub"));
        assert_eq!(mounts[1].dir("/docker/abc"), Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(mounts[0].dir("/user.slice"), Path::new("/sys/fs/cgroup/cpu,cpuacct/user.slice"));
        assert_eq!(mounts[2].dir("/"), Path::new("/sys/fs/cgroup/unified/"));
    }

    #[test]
    fn a_controller_that_shares_its_hierarchy_is_found() {
        let memberships = "4:memory:/a\n1:cpu,cpuacct:/b:c\n0::/d\n";
        assert_eq!(membership(memberships, Some("cpuacct")), Some("/b:c"));
        assert_eq!(membership(memberships, Some("memory")), Some("/a"));
        assert_eq!(membership(memberships, Some("pids")), None);
        assert_eq!(membership(memberships, None), Some("/d"));
    }

    #[test]
    fn version_2_goes_up_to_the_group_that_has_the_controllers() {
        let top = tempfile::tempdir().expect("a folder");
        let own = top.path().join("a/b");
        fs::create_dir_all(&own).expect("folders");
        // As under systemd: the parent is delegated to us and hands on, our own group does not.
        for (dir, handed_on) in [(&own, ""), (&top.path().join("a"), "cpu memory pids")] {
            fs::write(dir.join("cgroup.controllers"), handed_on).expect("a file");
            fs::write(dir.join("cgroup.subtree_control"), handed_on).expect("a file");
        }
        let mount = Mount { root: "/".into(), point: top.path().into(), v2: true, options: vec![] };
        let tree = v2(&[mount], "0::/a/b\n", 7).expect("the parent will do");
        let own = top.path().join(format!("a/{OWN_FOLDER}{}.7", std::process::id()));
        assert_eq!(tree, Tree::V2(own.clone()));
        let handed_on = fs::read_to_string(own.join("cgroup.subtree_control")).expect("a file");
        assert_eq!(handed_on, "+memory +pids +cpu");
    }

    #[test]
    fn what_is_missing_is_said_for_both_versions() {
        let problem = v2(&[], "", 1).expect_err("nothing is mounted");
        assert_eq!(problem, "not mounted");
        let problem = v1(&[], "", 1).expect_err("nothing is mounted");
        assert_eq!(problem, "controller memory is not mounted");
    }
}
