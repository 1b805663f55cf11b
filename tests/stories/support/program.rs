//! The server as a program in a process of its own: its log, its verbs, its signals, its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a server logs once it serves.
const SERVES: &str = "rollcall serves on http://";

/// Where, by that line.
fn base(line: &str) -> String {
    let (_, rest) = line.split_once(" on ").expect("the line says where");
    rest.split(':').take(3).collect::<Vec<_>>().join(":")
}

/// `rollcall serve`, with its log. It is killed when dropped.
pub(crate) struct Server {
    child: Child,
    base: String,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    folder: Arc<TempDir>,
}

impl Server {
    /// One in a folder of its own, with these workers.
    pub(crate) fn start(workers: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
        Self::start_in(&folder, workers, &[])
    }

    /// One at an address that its workers know beforehand, with this configuration.
    pub(crate) fn start_listening(address: std::net::SocketAddr, config: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
        let mut server = Self::launch_at(&folder, &address.to_string(), config, &[]);
        let line = server.logs(SERVES);
        server.base = base(&line);
        server
    }

    /// One in this folder, where another one may have been before; run by these words, if any.
    pub(crate) fn start_in(folder: &Arc<TempDir>, config: &str, by: &[&str]) -> Self {
        let mut server = Self::launch(folder, config, by);
        let line = server.logs(SERVES);
        server.base = base(&line);
        server
    }

    /// The same for one that may not come to serve.
    pub(crate) fn launch(folder: &Arc<TempDir>, config: &str, by: &[&str]) -> Self {
        Self::launch_at(folder, "127.0.0.1:0", config, by)
    }

    fn launch_at(folder: &Arc<TempDir>, address: &str, config: &str, by: &[&str]) -> Self {
        let file = folder.path().join("config.yaml");
        // One that says more of the server says this, too.
        let says = config.starts_with("server:");
        let head = if says { String::new() } else { format!("server: {{ listen: \"{address}\" }}\n") };
        fs::write(&file, head + config).expect("as before");
        let serve = ["serve", "--config", file.to_str().expect("UTF-8"), "--record"];
        let mut command = match by {
            [] => rollcall(&serve),
            [program, words @ ..] => {
                let mut command = Command::new(program);
                command.args(words).arg(env!("CARGO_BIN_EXE_rollcall")).args(serve).stdin(Stdio::null());
                command
            }
        };
        let mut child = command
            .arg(folder.path().join("recording"))
            .env("HERE", folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rollcall can be started");
        let stderr = child.stderr.take().expect("it was asked for");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, base: String::new(), log, reader: Some(reader), folder: Arc::clone(folder) }
    }

    /// Waits for a log line with this in it.
    pub(crate) fn logs(&self, part: &str) -> String {
        let all = || self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begun = Instant::now();
        loop {
            if let Some(line) = all().into_iter().find(|line| line.contains(part)) {
                return line;
            }
            assert!(begun.elapsed() < PATIENCE, "no log line with {part:?}: {:#?}", all());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until one that was launched serves; false when it ends before.
    pub(crate) fn serves(&mut self) -> bool {
        let (log, child) = (Arc::clone(&self.log), &mut self.child);
        let line = eventually("a server that serves, or its end", || {
            let ended = child.try_wait().is_ok_and(|ended| ended.is_some());
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let line = log.iter().find(|line| line.contains(SERVES)).cloned();
            if line.is_some() || ended { Some(line) } else { None }
        });
        self.base = line.as_deref().map(base).unwrap_or_default();
        line.is_some()
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it keeps its database, unless told otherwise.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A file of its folder.
    pub(crate) fn trace(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.trace("config.yaml")
    }

    /// Runs another verb against it.
    pub(crate) fn asked(&self, arguments: &[&str]) -> Output {
        rollcall(arguments).args(["--server", &self.base]).output().expect("rollcall can be started")
    }

    /// What a verb prints, which must succeed.
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let output = self.asked(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("the server runs");
    }

    /// Whether it has not ended yet.
    pub(crate) fn still_runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// Waits for its end; its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        eventually("the server's end", || self.child.try_wait().ok().flatten()).code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(self.reader.take().map(JoinHandle::join));
    }
}

/// The program with these arguments, and nothing of the environment that would steer it.
pub(crate) fn rollcall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["ROLLCALL_SERVER", "ROLLCALL_KEY", "ROLLCALL_WORKER_INTERFACE"] {
        command.env_remove(name);
    }
    command
}

/// A folder's path as an argument.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Looks until something is there.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}
