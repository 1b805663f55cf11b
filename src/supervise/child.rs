//! One process under its lifeline: starting it, waiting for it, stopping it, and making sure that
//! nothing of its group is left.

use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::Options;
use super::lifeline;
use super::lines::ProcessLog;
use super::proc;
use super::program::{find_program, find_shim};
use crate::fleet::{LaunchSpec, WorkerName};
use crate::interface::Token;

/// What a launched program gets of the server's own environment; the rest may hold secrets.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// How long the last lines of a process that is gone may take to be read.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the lifeline may take to kill what is left, before the group is killed past it.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// A process that was started.
pub(super) struct Process {
    child: Child,
    group: Pid,
    token: Token,
    log: ProcessLog,
    readers: JoinSet<()>,
    /// Closes with this value, and with the server: then the lifeline ends the process.
    _lifeline: PipeWriter,
}

impl Process {
    /// Starts the program.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn start(worker: &WorkerName, spec: &LaunchSpec, options: &Options) -> Result<Self, String> {
        let [name, arguments @ ..] = spec.command.as_slice() else {
            return Err("launch.command is empty".to_owned());
        };
        let program = find_program(name)?;
        let shim = options.shim.as_ref().map_or_else(find_shim, |path| Ok(path.clone()))?;
        let failed = |error: io::Error| format!("cannot start {name}: {error}");
        let (end, lifeline) = io::pipe().map_err(failed)?;
        let token = fresh_token();
        let mut command = Command::new(&shim);
        command
            .arg0("rollcall")
            .args(lifeline::arguments(options.stop_grace, &program, arguments))
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(options.server.as_ref().map(|url| ("ROLLCALL_SERVER", url)))
            .envs(&spec.env)
            .env("ROLLCALL_WORKER_NAME", worker.as_str())
            .env("ROLLCALL_TOKEN", token.reveal())
            .stdin(OwnedFd::from(end))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(|error| {
            format!("cannot start {name}: cannot run its parent {}: {error}", shim.display())
        })?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let log = ProcessLog::new(worker.clone());
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(log.clone().copy("stdout", stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(log.clone().copy("stderr", stderr));
        }
        Ok(Self { child, group: Pid::from_raw(pid), token, log, readers, _lifeline: lifeline })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) fn token(&self) -> Token {
        self.token.clone()
    }

    /// Waits for the process to end by itself. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the process to end, kills it after the grace, and waits for its end.
    pub(super) async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        // The lifeline passes SIGTERM on to the group once; SIGALRM tells it that time is up.
        for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGALRM, KILL_PATIENCE)] {
            self.signal(signal);
            if let Ok(ended) = timeout(patience, self.child.wait()).await {
                return ended;
            }
        }
        self.child.start_kill()?;
        self.child.wait().await
    }

    /// After the end: waits until the whole group is gone, kills what is left of it, and reads the
    /// last lines. Returns the last line of standard error.
    pub(super) async fn clear(mut self) -> Option<Arc<str>> {
        let began = Instant::now();
        let mut told = false;
        // Only a lifeline that was itself killed leaves anything behind. The group's number is
        // still ours: the kernel does not give it away while a member lives.
        while self.group.as_raw() > 0
            && killpg(self.group, Signal::SIGKILL).is_ok()
            && proc::group_runs(self.group).unwrap_or(true)
        {
            if !told && began.elapsed() > Duration::from_secs(5) {
                told = true;
                warn!(group = %self.group, "processes of a worker's group do not end although they were killed");
            }
            sleep(Duration::from_millis(10)).await;
        }
        let readers = &mut self.readers;
        let all = async { while readers.join_next().await.is_some() {} };
        // A process that left its group may hold the pipe open; what it writes is not waited for.
        if timeout(LAST_LINES, all).await.is_err() {
            self.readers.shutdown().await;
        }
        self.log.last_error_line()
    }

    fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            proc::signal(self.group, signal);
        }
    }
}

/// How a process ended, in words, and its exit code if it had one. The lifeline says a signal as
/// shells do: 128 and its number.
pub(super) fn describe(status: ExitStatus) -> (Option<i32>, String) {
    let code = status.code();
    let signal = status.signal().or_else(|| code.filter(|code| *code > 128).map(|code| code - 128));
    match (signal.map(Signal::try_from), code) {
        (Some(Ok(signal)), _) => (code, format!("killed by {signal}")),
        (_, Some(code)) => (Some(code), format!("exit code {code}")),
        (_, None) => (None, "ended".to_owned()),
    }
}

fn fresh_token() -> Token {
    let secret: [u128; 2] = rand::random();
    Token::new(format!("{:032x}{:032x}", secret[0], secret[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_by_a_signal_is_named() {
        assert_eq!(describe(ExitStatus::from_raw(9)).1, "killed by SIGKILL");
        assert_eq!(describe(ExitStatus::from_raw(137 << 8)), (Some(137), "killed by SIGKILL".to_owned()));
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), (Some(3), "exit code 3".to_owned()));
    }

    #[test]
    fn tokens_differ_and_do_not_print() {
        let (one, two) = (fresh_token(), fresh_token());
        assert_ne!(one.reveal(), two.reveal());
        assert_eq!(one.reveal().len(), 64);
        assert_eq!(format!("{one:?}"), "***");
    }
}
