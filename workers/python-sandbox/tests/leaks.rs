//! What many runs leave behind: nothing. A test program of its own, since it counts what its process
//! and the machine hold.

mod common;

use common::{command, eventually, processes_with, python, run, sandbox, shell, within};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[tokio::test]
async fn twenty_runs_leave_no_group_process_mount_or_descriptor() {
    let sandbox = sandbox().await;
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("procfs").lines().count();
    let open_files = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let groups = own_groups();
    assert!(!groups.is_empty(), "the folders of this process are there");
    let nothing_runs = || groups.iter().all(|group| children(group).is_empty());
    eventually("the trial is cleared away", nothing_runs).await;
    let before = (mounts(), open_files());
    let marker = format!("74{}", std::process::id());
    for round in 0..20 {
        let request = match round % 5 {
            0 => python("print(1)"),
            1 => python("1 / 0"),
            2 => shell(&format!("setsid sleep {marker} & exit 3")),
            3 => command(&["cat"], "text"),
            _ => within(Duration::from_millis(150), shell(&format!("sleep {marker}"))),
        };
        run(&sandbox, request).await;
        assert!(processes_with(&marker).is_empty(), "round {round}");
    }
    // What sandboxes were made of goes away after the answers.
    eventually("no group is left", nothing_runs).await;
    assert_eq!((mounts(), open_files()), before);
    assert_eq!(sandbox.stuck(), 0);
    let pid = std::process::id();
    let threads = format!("/proc/{pid}/task/{pid}/children");
    assert_eq!(std::fs::read_to_string(threads).unwrap_or_default(), "", "no child, not even a zombie");
    sandbox.close().await;
    drop(sandbox);
    assert_eq!(own_groups(), Vec::<PathBuf>::new());
}

/// The folders in which this process makes its control groups.
fn own_groups() -> Vec<PathBuf> {
    let name = format!("rollcall-sandbox.{}.", std::process::id());
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for child in children(&folder) {
            if child.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name)) {
                found.push(child);
            } else {
                folders.push(child);
            }
        }
    }
    found
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}
