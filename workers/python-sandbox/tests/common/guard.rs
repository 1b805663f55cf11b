//! The harness guards itself before it lets hostile code run: a limit that fails to hold must cost these
//! tests their processes, and not the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Processes and threads of this test program with all that it starts.
const MOST: &str = "1500";

const NAME: &str = "rollcall-harness.";

/// Puts this process into a control group with a bounded number of processes, once, and makes sure that it
/// is in it.
pub(crate) fn harness() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let name = format!("{NAME}{}", std::process::id());
        let parent = parent().expect("a pids controller for the harness: run these tests as root");
        for old in fs::read_dir(&parent).expect("our own group").flatten() {
            if old.file_name().to_string_lossy().starts_with(NAME) {
                clear(&old.path());
            }
        }
        let group = parent.join(&name);
        fs::create_dir(&group).expect("a group for the harness");
        fs::write(group.join("pids.max"), MOST).expect("its limit");
        fs::write(group.join("cgroup.procs"), "0").expect("this process enters");
        let now = fs::read_to_string("/proc/self/cgroup").expect("procfs");
        assert!(now.lines().any(|line| line.ends_with(&name)), "the harness is not in its group: {now}");
    });
}

/// Removes what an earlier run left; what somebody is in stays.
fn clear(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            clear(&inner.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// This process's group where processes are counted: of version 1, or of version 2 that hands `pids` on.
fn parent() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = |line: &str| line.splitn(3, ':').nth(2).map(|path| path.trim_start_matches('/').to_owned());
    let v1 = groups.lines().find(|line| line.split(':').nth(1) == Some("pids"));
    if let Some(line) = v1 {
        return Some(Path::new("/sys/fs/cgroup/pids").join(path(line)?));
    }
    let own = Path::new("/sys/fs/cgroup").join(path(groups.lines().find(|line| line.starts_with("0::"))?)?);
    let hands_on = |dir: &&Path| {
        let listed = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        listed.split_whitespace().any(|word| word == "pids")
    };
    own.ancestors().take_while(|dir| dir.starts_with("/sys/fs/cgroup")).find(hands_on).map(Path::to_owned)
}
