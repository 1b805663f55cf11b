//! The parent that a launched program runs under: `rollcall __lifeline --grace-ms N -- PROGRAM
//! ARG…`. Its standard input is the read end of a pipe whose only write end the server holds, so
//! the kernel itself tells it when the server is gone, by whatever death. Then it ends everything.
//!
//! - The pipe, not the parent-death signal: that one fires when the forking *thread* ends.
//! - A parent, not a promise of the program: programs that know nothing of Rollcall, and their
//!   grandchildren, end too. It is a subreaper, so those who leave the process group, or lose
//!   their own parent, become its children; it ends only once it has none.
//! - The program inherits the pipe as well (`ROLLCALL_LIFELINE_FD`): one that watches it ends even
//!   when this parent was killed together with the server.
//! - Only its own children are killed one by one: their pids cannot be taken by others before it
//!   reaps them.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, setpgid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::proc;

/// The hidden verb.
pub const VERB: &str = "__lifeline";
/// The variable that names the pipe's file descriptor to the program.
pub const FD_VARIABLE: &str = "ROLLCALL_LIFELINE_FD";
/// The exit code, as shells use it, when the program cannot be started.
const CANNOT_START: u8 = 127;

/// The command line that runs `program` under a lifeline.
pub(super) fn arguments(grace: Duration, program: &Path, arguments: &[String]) -> Vec<OsString> {
    let mut line = vec![VERB.into(), "--grace-ms".into(), grace.as_millis().to_string().into()];
    line.push("--".into());
    line.push(program.into());
    line.extend(arguments.iter().map(OsString::from));
    line
}

/// Runs `command` until it ends or the lifeline breaks, ends everything that it started, and
/// returns its exit code (128 and the number of a signal).
pub fn run(command: &[OsString], grace: Duration) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(watch(command, grace))) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let program = command.first().map(|name| name.to_string_lossy().into_owned());
            // A server that is gone reads no line, and none is owed to it.
            drop(writeln!(io::stderr(), "cannot start {}: {error}", program.unwrap_or_default()));
            ExitCode::from(CANNOT_START)
        }
    }
}

/// What can happen.
enum Happened {
    /// A child ended, the program or another.
    ChildEnded,
    /// A signal came that is for the program.
    Signal(Signal),
    /// Time is up, says the server.
    TimeUp,
    /// The server is gone.
    ServerGone,
}

async fn watch(command: &[OsString], grace: Duration) -> io::Result<u8> {
    // Handlers first: a signal that comes while the program starts must find them.
    let mut happened = listen()?;
    // A group of its own, also where a person started it: it signals the whole group. The leader
    // of a session, which cannot be moved, has one.
    if let Err(error) = setpgid(Pid::from_raw(0), Pid::from_raw(0))
        && getpgrp() != getpid()
    {
        return Err(error.into());
    }
    prctl::set_child_subreaper(true)?;
    // What `ps` shows, where the binary is called by another name.
    prctl::set_name(c"rollcall-shim")?;
    let program = start(command)?;
    let mut ended = None;
    let mut kill_at: Option<Instant> = None;
    let mut stopping = false;
    loop {
        let time_up = async {
            match kill_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = happened.recv() => event.unwrap_or(Happened::ServerGone),
            () = time_up => Happened::TimeUp,
        };
        match event {
            Happened::ChildEnded => {
                if reap(program, &mut ended) || ended.is_some() {
                    break;
                }
            }
            Happened::Signal(Signal::SIGTERM) if stopping => {} // Our own, come back to us.
            Happened::Signal(Signal::SIGTERM) => {
                stopping = true;
                proc::signal_group(getpgrp(), Signal::SIGTERM);
            }
            Happened::Signal(signal) => proc::signal(program, signal),
            Happened::TimeUp => break,
            Happened::ServerGone if kill_at.is_some() => {}
            Happened::ServerGone => {
                kill_at = Some(Instant::now() + grace);
                if !std::mem::replace(&mut stopping, true) {
                    proc::signal_group(getpgrp(), Signal::SIGTERM);
                }
            }
        }
    }
    end_all(program, &mut ended).await;
    Ok(exit_code(ended))
}

/// Everything that can wake the lifeline, in one queue.
fn listen() -> io::Result<mpsc::Receiver<Happened>> {
    let (send, receive) = mpsc::channel(16);
    let forwarded = [
        (SignalKind::terminate(), Signal::SIGTERM),
        (SignalKind::interrupt(), Signal::SIGINT),
        (SignalKind::hangup(), Signal::SIGHUP),
        (SignalKind::quit(), Signal::SIGQUIT),
        (SignalKind::user_defined1(), Signal::SIGUSR1),
        (SignalKind::user_defined2(), Signal::SIGUSR2),
        (SignalKind::child(), Signal::SIGCHLD),
        (SignalKind::alarm(), Signal::SIGALRM),
    ];
    for (kind, name) in forwarded {
        let mut signals = signal(kind)?;
        let send = send.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let event = match name {
                    Signal::SIGCHLD => Happened::ChildEnded,
                    Signal::SIGALRM => Happened::TimeUp,
                    other => Happened::Signal(other),
                };
                if send.send(event).await.is_err() {
                    return;
                }
            }
        });
    }
    // A thread that blocks, because the program shares the pipe: made non-blocking for an event
    // loop here, it would be so there as well, and a plain read would look like the end.
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1) = io::stdin().read(&mut byte) {}
        // The receiver lives as long as the process.
        drop(send.blocking_send(Happened::ServerGone));
    });
    Ok(receive)
}

/// Starts the program in this process group, with the pipe and an empty standard input.
fn start(command: &[OsString]) -> io::Result<Pid> {
    let [program, arguments @ ..] = command else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program was named"));
    };
    // A copy without close-on-exec, above the standard three.
    let pipe = fcntl(io::stdin().as_fd(), FcntlArg::F_DUPFD(3))?;
    let child = Command::new(program)
        .args(arguments)
        .env(FD_VARIABLE, pipe.to_string())
        .stdin(Stdio::null())
        .spawn()?;
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

/// Reaps all children that have ended and keeps the program's status. True when none is left.
fn reap(program: Pid, ended: &mut Option<ExitStatus>) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => {
                *ended = Some(ExitStatus::from_raw(code << 8))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                *ended = Some(ExitStatus::from_raw(signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}

/// Kills all children, and their children as these become ours, until none is left.
async fn end_all(program: Pid, ended: &mut Option<ExitStatus>) {
    let mut wait = Duration::from_millis(1);
    while !reap(program, ended) {
        match proc::children() {
            Ok(children) => children.into_iter().for_each(|pid| proc::signal(pid, Signal::SIGKILL)),
            // Without /proc the whole group is all that can be named, this process with it.
            Err(_) => proc::signal_group(getpgrp(), Signal::SIGKILL),
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(50));
    }
}

fn exit_code(ended: Option<ExitStatus>) -> u8 {
    let code = ended.and_then(|status| status.code().or_else(|| Some(128 + status.signal()?)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_by_signal_is_told_as_shells_do() {
        assert_eq!(exit_code(Some(ExitStatus::from_raw(9))), 137);
        assert_eq!(exit_code(Some(ExitStatus::from_raw(3 << 8))), 3);
    }
}
