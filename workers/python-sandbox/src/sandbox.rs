//! Runs one program after another, or many at once, each in a sandbox of its own, and clears away
//! all that is left of it before it answers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::cgroup::{Cgroup, Cgroups};
use crate::launch;
use crate::limits::{GRACE, Limits, MAX_WALL};
use crate::outcome::{ErrorReport, Outcome, Program, Report, Request, Usage};
use crate::pipes::{Output, Pipes};
use crate::seats::{Seat, Seats};
use crate::spawn::Spawner;
use crate::verdict::{self, End, Seen};

/// How often the count of memory kills is looked at while a program runs.
const OOM_CHECK: Duration = Duration::from_millis(100);

/// What sandboxes are made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) bwrap: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) filters: [Vec<u8>; 2],
    /// Absent at the level `no-cgroup`.
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) spawner: Spawner,
}

/// Makes sandboxes. Cheap to clone; the clones share everything.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    seats: Seats,
    runs: TaskTracker,
    closing: CancellationToken,
    /// Groups that would not go, and the seats that are out of service until they do.
    stuck: Mutex<Vec<(Cgroup, Seat)>>,
}

impl Sandbox {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared {
            parts,
            seats: Seats::default(),
            runs: TaskTracker::new(),
            closing: CancellationToken::new(),
            stuck: Mutex::default(),
        }))
    }

    /// What each sandbox may use.
    pub fn limits(&self) -> &Limits {
        &self.0.parts.limits
    }

    /// Groups that could not be removed; anything but 0 deserves a look at the machine.
    pub fn stuck(&self) -> usize {
        self.0.stuck.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Runs a program to its end, or to its forced end. Output is handed on as it comes. All of its
    /// processes are gone when this returns; if it is dropped before, they are killed all the same.
    pub async fn run(&self, request: Request, output: Output, cancel: &CancellationToken) -> Report {
        let stop = cancel.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let shared = Arc::clone(&self.0);
        let run = self.0.runs.spawn(async move { shared.run(request, output, stop).await });
        run.await.unwrap_or_else(|problem| Report::failed(format!("a bug in the worker: {problem}")))
    }

    /// Kills all that runs and waits until it is gone. The last clone that is dropped then removes
    /// what was made on the machine.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.runs.close();
        self.0.runs.wait().await;
        self.0.retry_stuck().await;
    }
}

impl Report {
    /// The sandbox itself failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::unstarted(Outcome::SandboxError, message.into(), None)
    }

    /// There was nothing to run.
    fn not_found(program: &str) -> Self {
        let message = format!("there is no program {program:?} in the sandbox");
        let error = ErrorReport { kind: "CommandNotFound".into(), message: message.clone(), traceback: None };
        Self::unstarted(Outcome::Error, message, Some(error))
    }

    fn unstarted(outcome: Outcome, message: String, error: Option<ErrorReport>) -> Self {
        Self {
            outcome,
            message,
            stdout: Default::default(),
            stderr: Default::default(),
            exit_code: None,
            signal: None,
            error,
            last_value: None,
            killed: false,
            usage: Usage::default(),
        }
    }
}

impl Shared {
    async fn run(&self, request: Request, output: Output, stop: CancellationToken) -> Report {
        let begun = Instant::now();
        if let Program::Command { argv, .. } = &request.program
            && let Some(program) = argv.first()
            && !launch::is_visible(program)
        {
            return Report::not_found(program);
        }
        self.retry_stuck().await;
        let Some(seat) = self.seats.take() else {
            return Report::failed("all sandboxes of this worker are in use or out of service");
        };
        let group = match self.parts.cgroups.as_ref().map(|all| all.create(&self.parts.limits)).transpose() {
            Ok(group) => group,
            Err(problem) => return Report::failed(format!("no control group: {problem}")),
        };
        let mut report = match launch::launch(&self.parts, &request.program, &seat, group.as_ref()).await {
            Ok((child, pipes)) => {
                let deadline = begun + request.wall.min(MAX_WALL);
                self.attend(child, pipes, group.as_ref(), output, deadline, &stop).await
            }
            Err(problem) => {
                // It may have come as far as a process.
                if let Some(group) = &group {
                    group.kill().await;
                }
                Report::failed(format!("cannot start the sandbox: {problem}"))
            }
        };
        if let Some(group) = group {
            let used = group.usage();
            report.usage = Usage {
                cpu: used.cpu,
                peak_memory: used.peak_memory,
                processes: used.processes,
                ..report.usage
            };
            self.remove(group, seat).await;
        }
        report.usage.wall = begun.elapsed();
        report
    }

    /// Reads all that comes while waiting for the end, then makes sure of it.
    async fn attend(
        &self,
        mut child: Child,
        pipes: Pipes,
        group: Option<&Cgroup>,
        output: Output,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Report {
        let (too_much, ended) = (CancellationToken::new(), CancellationToken::new());
        let watch = async {
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => End::Cancelled,
                () = self.closing.cancelled() => End::Cancelled,
                () = too_much.cancelled() => End::OutputLimit,
                () = sleep_until(deadline) => End::Timeout,
                () = out_of_memory(group) => End::OutOfMemory,
                // Whatever the status: what counts is the one that bwrap reports from inside.
                _ = child.wait() => End::Exited,
            };
            let stopped = self.stop(&mut child, group, end).await;
            ended.cancel();
            (end, stopped)
        };
        let read = pipes.read(output, self.parts.limits.output, &too_much, &ended);
        let ((end, stopped), read) = tokio::join!(watch, read);
        if stopped == Stopped::Survived {
            return Report::failed("some of its processes cannot be killed");
        }
        let complaint = read.stderr.shown(1024).text;
        let verdict = verdict::judge(Seen {
            end,
            oom_kills: group.map_or(0, Cgroup::oom_kills),
            exit_code: verdict::exit_code(&read.status),
            frame: read.frame,
            complaint: &complaint,
        });
        Report {
            outcome: verdict.outcome,
            message: verdict.message,
            stdout: read.stdout,
            stderr: read.stderr,
            exit_code: verdict.exit_code,
            signal: verdict.signal,
            error: verdict.error,
            last_value: verdict.last_value,
            killed: stopped == Stopped::Killed,
            usage: Usage::default(),
        }
    }

    /// Ends what still runs: politely first where the program may want to clear up.
    async fn stop(&self, child: &mut Child, group: Option<&Cgroup>, end: End) -> Stopped {
        let mut left = end != End::Exited;
        if let (Some(group), End::Timeout | End::Cancelled) = (group, end)
            && !self.closing.is_cancelled()
        {
            // Without bwrap's outer process there would be no grace: the sandbox dies with it.
            let outer = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
            group.signal(Signal::SIGTERM, outer.as_slice()).await;
            tokio::select! {
                _ = child.wait() => left = false,
                () = sleep(GRACE) => {}
                () = self.closing.cancelled() => {}
            }
        }
        // Group first: killing bwrap alone leaves it to the kernel when the rest goes.
        let emptied = match group {
            Some(group) => group.kill().await,
            None => true,
        };
        // An error means that it is dead already.
        drop(child.kill().await);
        match (emptied, left) {
            (false, _) => Stopped::Survived,
            (true, true) => Stopped::Killed,
            (true, false) => Stopped::ByItself,
        }
    }

    async fn remove(&self, group: Cgroup, seat: Seat) {
        if let Err(stuck) = group.remove().await {
            error!(problem = %stuck, uid = seat.uid(), "a sandbox slot is out of service");
            self.stuck.lock().unwrap_or_else(PoisonError::into_inner).push((stuck.group, seat));
        }
    }

    /// Looks again at the groups that would not go.
    async fn retry_stuck(&self) {
        let stuck = std::mem::take(&mut *self.stuck.lock().unwrap_or_else(PoisonError::into_inner));
        for (group, seat) in stuck {
            if let Err(group) = group.remove_now() {
                self.stuck.lock().unwrap_or_else(PoisonError::into_inner).push((group, seat));
            }
        }
    }
}

/// What it took to end a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// Nothing, or a word.
    ByItself,
    /// Force.
    Killed,
    /// Some process of it is still there.
    Survived,
}

/// Returns when the kernel has killed a process of the group for memory.
async fn out_of_memory(group: Option<&Cgroup>) {
    match group {
        None => std::future::pending().await,
        Some(group) => {
            while group.oom_kills() == 0 {
                sleep(OOM_CHECK).await;
            }
        }
    }
}
