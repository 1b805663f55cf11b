//! Which processes there are, by `/proc`: the children of this one, and the members of a group;
//! and signals to them.

use std::{fs, io};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpid};
use tracing::debug;

/// What `/proc/PID/stat` says first.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    group: i32,
}

/// Signals one process. One that has just ended needs no signal.
pub(super) fn signal(pid: Pid, signal: Signal) {
    tell(kill(pid, signal), pid, signal);
}

/// Signals every member of a group.
pub(super) fn signal_group(group: Pid, signal: Signal) {
    tell(killpg(group, signal), group, signal);
}

fn tell(sent: Result<(), Errno>, to: Pid, signal: Signal) {
    if let Err(error @ (Errno::EPERM | Errno::EINVAL)) = sent {
        debug!(%to, %signal, %error, "cannot signal");
    }
}

/// This process's children, those that have ended too.
pub(super) fn children() -> io::Result<Vec<Pid>> {
    let own = getpid().as_raw();
    Ok(all()?.filter(|(_, stat)| stat.parent == own).map(|(pid, _)| pid).collect())
}

/// Whether a member of the group still runs. One that has ended counts as gone even while nobody
/// reaps it: in a container, pid 1 may never do.
pub(super) fn group_runs(group: Pid) -> io::Result<bool> {
    Ok(all()?.any(|(_, stat)| stat.group == group.as_raw() && !matches!(stat.state, 'Z' | 'X')))
}

fn all() -> io::Result<impl Iterator<Item = (Pid, Stat)>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // The process may be gone by now.
        let text = fs::read(entry.path().join("stat")).ok()?;
        Some((Pid::from_raw(pid), read(&String::from_utf8_lossy(&text))?))
    }))
}

/// Reads `pid (name) state ppid pgrp …`; the name may hold anything, brackets too.
fn read(stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_hide_its_parent() {
        assert_eq!(read("42 (a) b) S 7 40 42 0"), Some(Stat { state: 'S', parent: 7, group: 40 }));
        assert_eq!(read("garbage"), None);
    }

    #[test]
    fn this_process_is_in_a_group_that_runs() {
        assert!(group_runs(nix::unistd::getpgrp()).is_ok_and(|runs| runs));
    }
}
