//! What a sandbox looks like from inside: the options given to bwrap. They go through a descriptor,
//! because the command line of bwrap can be read at `/proc/1/cmdline` by the code it holds.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::limits::Limits;
use crate::spawn::number;

/// The uid and gid that the code sees.
const INSIDE_ID: &str = "1000";

/// Where the runner and its helpers lie inside.
pub(crate) const RUNNER_PATH: &str = "/run/rollcall/runner.py";

/// What runs inside, the runner first; see the words of each.
pub(crate) const INSIDE: [(&str, &str); 5] = [
    (RUNNER_PATH, include_str!("inside/runner.py")),
    ("/run/rollcall/files.py", include_str!("inside/files.py")),
    ("/run/rollcall/rich.py", include_str!("inside/rich.py")),
    ("/run/rollcall/analyze.py", include_str!("inside/analyze.py")),
    ("/run/rollcall/packages.py", include_str!("inside/packages.py")),
];

/// A file or folder of the host that a sandbox shows beside the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) host: PathBuf,
    pub(crate) inside: &'static str,
    pub(crate) writable: bool,
}

/// Where the code starts and may write.
pub(crate) const WORKSPACE: &str = "/workspace";

/// Where the installed packages are seen.
pub(crate) const PACKAGES: &str = "/packages";

/// All that a sandbox shows of the host's programs and libraries.
pub(crate) const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// The parts of `/etc` that programs need to start; nothing of it is secret.
const SYSTEM_FILES: [&str; 4] = ["/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/localtime"];

/// Programs look root up by its number, although nobody is root here.
const PASSWD: &[u8] = b"root:x:0:0:root:/:/bin/false\nsandbox:x:1000:1000:sandbox:/workspace:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nsandbox:x:1000:\n";

/// The sandbox's own loopback has the name that programs call it by.
const HOSTS: &[u8] = b"127.0.0.1 localhost\n::1 localhost\n";

/// All that the code finds in its environment.
pub(crate) const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("HOME", WORKSPACE),
    ("USER", "sandbox"),
    ("LANG", "C.UTF-8"),
    ("TMPDIR", "/tmp"),
    ("TERM", "dumb"),
    // Where there is no screen, figures are drawn into memory.
    ("MPLBACKEND", "Agg"),
];

/// Builds the options, and holds the descriptors that they name.
#[derive(Debug, Default)]
pub(crate) struct Options {
    arguments: Vec<u8>,
    /// To be inherited by bwrap.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Options {
    /// The whole profile.
    pub(crate) fn new(limits: &Limits, filters: &[Vec<u8>], shown: &[Shown]) -> io::Result<Self> {
        let mut options = Self::default();
        options.namespaces();
        options.system()?;
        options.scratch(limits);
        for (path, source) in INSIDE {
            options.file(source.as_bytes(), path)?;
        }
        for Shown { host, inside, writable } in shown {
            let bind = if *writable { "--bind" } else { "--ro-bind" };
            options.add_os(&[bind.as_ref(), host.as_os_str(), inside.as_ref()]);
        }
        options.file(PASSWD, "/etc/passwd")?;
        options.file(GROUP, "/etc/group")?;
        options.file(HOSTS, "/etc/hosts")?;
        options.add(&["--chdir", WORKSPACE]);
        // Only now: nothing can be made on a read-only root. Folders mounted on it stay as they are.
        options.add(&["--remount-ro", "/dev", "--remount-ro", "/"]);
        for (name, value) in ENVIRONMENT {
            options.add(&["--setenv", name, value]);
        }
        for filter in filters {
            let descriptor = in_memory(filter)?;
            options.add(&["--add-seccomp-fd", &number(&descriptor).to_string()]);
            options.descriptors.push(descriptor);
        }
        Ok(options)
    }

    /// Has bwrap report the sandbox's pid and exact exit code on a descriptor.
    pub(crate) fn report_to(&mut self, status: OwnedFd) {
        self.add(&["--json-status-fd", &number(&status).to_string()]);
        self.descriptors.push(status);
    }

    /// Puts the options where bwrap reads them, and returns what remains for its command line.
    pub(crate) fn into_argument(mut self) -> io::Result<(String, Vec<OwnedFd>)> {
        let file = in_memory(&self.arguments)?;
        let argument = number(&file).to_string();
        self.descriptors.push(file);
        Ok((argument, self.descriptors))
    }

    fn namespaces(&mut self) {
        self.add(&["--unshare-all", "--unshare-user", "--disable-userns"]);
        self.add(&["--uid", INSIDE_ID, "--gid", INSIDE_ID, "--hostname", "sandbox"]);
        self.add(&["--new-session", "--die-with-parent", "--cap-drop", "ALL"]);
    }

    fn system(&mut self) -> io::Result<()> {
        // Most systems have links into `/usr` for all of these but itself.
        for path in SYSTEM.map(Path::new) {
            match fs::read_link(path) {
                Ok(target) => self.add_os(&["--symlink".as_ref(), target.as_os_str(), path.as_os_str()]),
                Err(_) if path.is_dir() => {
                    self.add_os(&["--ro-bind".as_ref(), path.as_os_str(), path.as_os_str()])
                }
                Err(_) => {}
            }
        }
        for path in SYSTEM_FILES {
            self.add(&["--ro-bind-try", path, path]);
        }
        // Debian keeps parts of Python's own library here.
        for entry in fs::read_dir("/etc")?.flatten() {
            if entry.file_name().as_bytes().starts_with(b"python3") {
                let path = entry.path();
                self.add_os(&["--ro-bind".as_ref(), path.as_os_str(), path.as_os_str()]);
            }
        }
        self.add(&["--proc", "/proc", "--dev", "/dev"]);
        Ok(())
    }

    /// All that can be written, each with a size; it counts as memory, too.
    fn scratch(&mut self, limits: &Limits) {
        let (large, small) = (limits.workspace.to_string(), (limits.workspace / 4).to_string());
        self.add(&["--size", &small, "--perms", "1777", "--tmpfs", "/dev/shm"]);
        self.add(&["--size", &small, "--perms", "1777", "--tmpfs", "/tmp"]);
        self.add(&["--size", &large, "--perms", "0755", "--tmpfs", WORKSPACE]);
    }

    fn file(&mut self, content: &[u8], path: &str) -> io::Result<()> {
        let descriptor = in_memory(content)?;
        self.add(&["--perms", "0444", "--file", &number(&descriptor).to_string(), path]);
        self.descriptors.push(descriptor);
        Ok(())
    }

    fn add(&mut self, words: &[&str]) {
        for word in words {
            self.push(word.as_bytes());
        }
    }

    fn add_os(&mut self, words: &[&OsStr]) {
        for word in words {
            self.push(word.as_bytes());
        }
    }

    fn push(&mut self, word: &[u8]) {
        self.arguments.extend_from_slice(word);
        self.arguments.push(0);
    }
}

/// A file without a name, to be read from its start.
fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"rollcall", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}
