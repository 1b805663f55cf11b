//! The sandbox worker's program.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program, as the build leaves it beside the server's.
pub(crate) fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_rollcall")).parent().expect("it is in a folder");
    let program = built.join("rollcall-python-sandbox");
    assert!(
        program.exists(),
        "{} is missing: run `make test`, or `cargo build --workspace` first",
        program.display()
    );
    program
}

/// A worker in a process of its own, which outlives servers. Dropping kills it.
pub(crate) struct Listening {
    child: Child,
}

impl Listening {
    /// One that listens there, as soon as it does.
    pub(crate) fn start(address: SocketAddr, more: &[&str]) -> Self {
        let mut child = Command::new(program())
            .args(["--listen", &address.to_string(), "--warm", "0"])
            .args(more)
            // A story that is killed leaves no worker behind: the pipe ends with it.
            .env("ROLLCALL_LIFELINE_FD", "0")
            .env_remove("ROLLCALL_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the worker starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("it was asked for");
        BufReader::new(output).read_line(&mut line).expect("a pipe");
        assert!(line.starts_with("listening on "), "the worker cannot run here: see `rollcall doctor`");
        Self { child }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The processes of the worker's program with this word among their arguments.
pub(crate) fn pids(word: &str) -> Vec<u32> {
    let program = program().canonicalize().expect("it is there");
    let entries = std::fs::read_dir("/proc").expect("procfs").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
            && std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|one| one == word.as_bytes()))
    };
    let found: Vec<u32> = pids.filter(is_one).collect();
    // A worker's child is the same program for a moment, between fork and exec.
    let parent = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<u32>().ok()
    };
    let is_child = |pid: &u32| parent(pid).is_some_and(|parent| found.contains(&parent));
    found.iter().copied().filter(|pid| !is_child(pid)).collect()
}
