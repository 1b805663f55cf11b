//! One sandbox that is up: its runner waits for requests, and each call of it is read to its end, or to
//! its forced end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use rollcall_worker_sdk::Stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::bare::Place;
use crate::capture::{Capture, Captured};
use crate::cgroup::{Cgroup, GroupUsage};
use crate::frame::{self, Done, Forged, Frame, FrameReader, MadeFile};
use crate::limits::{GRACE, Limits, OUTPUT_KILL_FACTOR};
use crate::outcome::Output;
use crate::seats::Seat;
use crate::spawn::Program;
use crate::verdict::{self, End};

/// How often the count of memory kills is looked at while a program runs.
const OOM_CHECK: Duration = Duration::from_millis(100);

/// What one read may take.
const BUFFER: usize = 64 * 1024;

/// The most that is kept of bwrap's status lines.
const STATUS_LIMIT: usize = 8 * 1024;

/// How long pipes may stay open after every process is gone: an end that somebody holds by mistake
/// must not hold up the result.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// What is taken of a stream after the call's end at most: other processes may go on writing.
const LAST_READS: usize = 64;

/// How long the kernel may take to end a sandbox whose outer process was killed, before each process is
/// killed by itself.
const FALL_TIME: Duration = Duration::from_millis(200);

/// bwrap's two and the runner: with nobody else there, nothing of the task is left.
const RESIDENTS: usize = 3;

/// Our ends of a sandbox's pipes.
pub(crate) struct Pipes {
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
    pub(crate) status: pipe::Receiver,
    pub(crate) frames: pipe::Receiver,
    pub(crate) requests: pipe::Sender,
}

/// See the module.
pub(crate) struct Live {
    child: Program,
    pipes: Pipes,
    group: Option<Cgroup>,
    seat: Seat,
    limits: Limits,
    reader: FrameReader,
    status: Vec<u8>,
    calls: u64,
    /// Whether one call is all that it is for: then its code may be told to end, and need not come back.
    once: bool,
    /// Where it is without a sandbox.
    place: Option<Place>,
}

/// What ends a call from outside.
pub(crate) struct Stops<'a> {
    /// The caller's word.
    pub(crate) cancel: &'a CancellationToken,
    /// The worker stops.
    pub(crate) closing: &'a CancellationToken,
    pub(crate) deadline: Instant,
}

/// What was seen of a call.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) end: End,
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    /// The runner's word, if it came.
    pub(crate) done: Result<Option<Done>, Forged>,
    pub(crate) files: Vec<MadeFile>,
    /// As bwrap told it; absent while it runs, and when the code was killed from outside.
    pub(crate) exit_code: Option<i32>,
    pub(crate) oom_kills: u64,
    pub(crate) usage: GroupUsage,
    /// It did not stop by itself.
    pub(crate) killed: bool,
    /// Some process of it cannot be killed.
    pub(crate) survived: bool,
    /// The runner waits for another request.
    pub(crate) usable: bool,
}

/// A sandbox whose processes would not go, or whose group would not.
pub(crate) struct Stuck {
    pub(crate) group: Cgroup,
    pub(crate) seat: Seat,
    pub(crate) problem: String,
}

impl Live {
    pub(crate) fn new(
        child: Program,
        pipes: Pipes,
        group: Option<Cgroup>,
        seat: Seat,
        limits: Limits,
    ) -> Self {
        let (reader, status) = (FrameReader::default(), Vec::new());
        Self { child, pipes, group, seat, limits, reader, status, calls: 0, once: true, place: None }
    }

    /// The same for one without a sandbox.
    pub(crate) fn in_place(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// What it may use.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits until the runner waits. Cancel-safe.
    ///
    /// # Errors
    /// Why it will not: what bwrap or Python complained of.
    pub(crate) async fn ready(&mut self) -> Result<(), String> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = tokio::select! {
                count = self.pipes.frames.read(&mut buffer) => count.unwrap_or(0),
                // Killed while it was made. The pipe need not end with it: its child waits for it.
                () = self.child.wait() => break,
            };
            let frame = self.reader.push(&buffer[..count]);
            match frame {
                Ok(Some(Frame::Ready(_))) => return Ok(()),
                Ok(None) if count > 0 => {}
                _ => break,
            }
        }
        let mut complaint = Vec::new();
        let mut start = (&mut self.pipes.stderr).take(4096);
        // A complaint that does not end is told as far as it came.
        let (Ok(_) | Err(_)) = timeout(DRAIN_PATIENCE, start.read_to_end(&mut complaint)).await;
        Err(String::from_utf8_lossy(&complaint).trim().to_owned())
    }

    /// Whether it has not ended, as far as can be seen without waiting.
    pub(crate) fn is_up(&mut self) -> bool {
        self.child.end().is_none()
    }

    /// Gives it other limits, and its full share of the machine.
    pub(crate) fn engage(&mut self, limits: Limits) -> io::Result<()> {
        if let Some(group) = &self.group {
            if limits != self.limits {
                group.set_limits(&limits)?;
            }
            group.set_patient(false);
        }
        self.limits = limits;
        Ok(())
    }

    /// Lets those that work go first.
    pub(crate) fn give_way(&self) {
        if let Some(group) = &self.group {
            group.set_patient(true);
        }
    }

    /// From now on it serves call after call.
    pub(crate) fn keep(&mut self) {
        self.once = false;
    }

    /// Sends a request and reads to its end. Output is handed on as it comes. Must not be dropped
    /// before it returns, or what the call goes on to say would be taken for the next one's.
    pub(crate) async fn call(&mut self, request: &Value, output: &Output, stops: Stops<'_>) -> Called {
        // What a process of an earlier call wrote since then is nobody's any more.
        let mut nowhere = |_: &[u8]| {};
        take_what_is_there(&self.pipes.stdout, &mut nowhere);
        take_what_is_there(&self.pipes.stderr, &mut nowhere);
        let before = self.group.as_ref().map(Cgroup::usage).unwrap_or_default();
        let oom_before = self.oom_kills();
        self.calls += 1;
        let request = frame::request(self.calls, self.once, request);
        let mut seen = self.listen(&request, output, &stops, oom_before).await;
        let answered = matches!(seen.done, Ok(Some(_)));
        let mut survived = false;
        if !answered || (self.once && self.has_company()) {
            survived = !self.fell().await;
            self.collect(&mut seen).await;
        }
        let used = self.group.as_ref().map(Cgroup::usage).unwrap_or_default();
        Called {
            usable: answered && !self.once,
            end: seen.end,
            stdout: seen.stdout.finish(),
            stderr: seen.stderr.finish(),
            done: seen.done,
            files: self.reader.take_files(),
            exit_code: self.exit_code(seen.ended_by_itself),
            oom_kills: self.oom_kills().saturating_sub(oom_before),
            usage: GroupUsage {
                cpu: used.cpu.map(|cpu| cpu.saturating_sub(before.cpu.unwrap_or_default())),
                ..used
            },
            killed: !answered && !seen.ended_by_itself,
            survived,
        }
    }

    /// Ends it and clears away what is left.
    ///
    /// # Errors
    /// What would not go.
    pub(crate) async fn close(mut self) -> Result<(), Box<Stuck>> {
        let gone = self.fell().await;
        let Some(group) = self.group else { return Ok(()) };
        let stuck = |group, problem| Err(Box::new(Stuck { group, seat: self.seat, problem }));
        if !gone {
            return stuck(group, String::from("some of its processes cannot be killed"));
        }
        match group.remove().await {
            Ok(()) => Ok(()),
            Err(still) => {
                let problem = still.to_string();
                stuck(still.group, problem)
            }
        }
    }

    /// As bwrap told it. Without bwrap the runner's own, which says something only of an end of its own.
    fn exit_code(&mut self, ended_by_itself: bool) -> Option<i32> {
        if self.place.is_none() || !ended_by_itself {
            return verdict::exit_code(&String::from_utf8_lossy(&self.status));
        }
        let status = self.child.end()?;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }

    fn oom_kills(&self) -> u64 {
        self.group.as_ref().map_or(0, Cgroup::oom_kills)
    }

    /// Whether processes of the task are left.
    fn has_company(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.members().is_ok_and(|all| all.len() > RESIDENTS))
    }

    async fn listen(
        &mut self,
        request: &[u8],
        output: &Output,
        stops: &Stops<'_>,
        oom_before: u64,
    ) -> Listening {
        let Self { child, pipes, group, limits, reader, once, status, calls, .. } = self;
        let group = group.as_ref();
        let too_much = CancellationToken::new();
        let mut seen = Listening::new(limits.output, output.clone());
        let mut buffer = vec![0; BUFFER];
        let writing = write_all(&mut pipes.requests, request);
        let ending = first_of(stops, &too_much, group, oom_before);
        tokio::pin!(writing, ending);
        let (mut written, mut stopping, mut frames_open) = (false, None, true);
        let (mut stdout_open, mut stderr_open) = (true, true);
        loop {
            let grace_ends: Instant = stopping.unwrap_or(stops.deadline);
            tokio::select! {
                biased; // A stream that never ends must not keep the clock from being looked at.
                end = &mut ending, if stopping.is_none() => {
                    seen.end = end;
                    // A session is worth saving whatever it did; a task's own words are, when its time is over.
                    let polite = !*once || matches!(end, End::Timeout | End::Cancelled);
                    let polite = polite && !stops.closing.is_cancelled();
                    if !polite || !ask_to_stop(child, group, status, &mut pipes.status, *once).await {
                        return seen;
                    }
                    stopping = Some(Instant::now() + GRACE);
                }
                () = sleep_until(grace_ends), if stopping.is_some() => return seen,
                () = stops.closing.cancelled(), if stopping.is_some() => return seen,
                () = &mut writing, if !written => written = true,
                _ = pipes.frames.readable(), if frames_open => match read_now(&pipes.frames, &mut buffer) {
                    Some(0) => frames_open = false,
                    None => {}
                    Some(count) => match reader.push(&buffer[..count]) {
                        Ok(Some(Frame::Done(done))) if done.call == *calls => {
                            seen.done = Ok(Some(*done));
                            if stopping.is_none() {
                                seen.end = End::Done;
                            }
                            take_what_is_there(&pipes.stdout, &mut |bytes| seen.keep(Stream::Stdout, bytes));
                            take_what_is_there(&pipes.stderr, &mut |bytes| seen.keep(Stream::Stderr, bytes));
                            return seen;
                        }
                        Ok(None) => {}
                        Ok(Some(_)) | Err(Forged) => {
                            seen.done = Err(Forged);
                            return seen;
                        }
                    },
                },
                _ = pipes.stdout.readable(), if stdout_open => match read_now(&pipes.stdout, &mut buffer) {
                    Some(0) => stdout_open = false,
                    None => {}
                    Some(count) => seen.keep(Stream::Stdout, &buffer[..count]),
                },
                _ = pipes.stderr.readable(), if stderr_open => match read_now(&pipes.stderr, &mut buffer) {
                    Some(0) => stderr_open = false,
                    None => {}
                    Some(count) => seen.keep(Stream::Stderr, &buffer[..count]),
                },
                // Whatever the status: what counts is the one that bwrap reports from inside.
                () = child.wait() => {
                    seen.ended_by_itself = true;
                    return seen;
                }
            }
            if seen.is_too_much() {
                too_much.cancel();
            }
        }
    }

    /// Reads what is left of a sandbox whose processes are all gone.
    async fn collect(&mut self, seen: &mut Listening) {
        let Pipes { stdout, stderr, status, frames, .. } = &mut self.pipes;
        let Listening { stdout: kept_out, stderr: kept_err, output, limit, done, .. } = seen;
        let mut forged = false;
        let (reader, calls) = (&mut self.reader, self.calls);
        let all = async {
            tokio::join!(
                drain(stdout, |bytes| keep(kept_out, output, *limit, Stream::Stdout, bytes)),
                drain(stderr, |bytes| keep(kept_err, output, *limit, Stream::Stderr, bytes)),
                drain(status, |bytes| remember(&mut self.status, bytes)),
                drain(frames, |bytes| if matches!(done, Ok(None)) && !forged {
                    match reader.push(bytes) {
                        Ok(Some(Frame::Done(told))) if told.call == calls => *done = Ok(Some(*told)),
                        Ok(None) => {}
                        Ok(Some(_)) | Err(Forged) => forged = true,
                    }
                }),
            );
        };
        // What did not end by then is left unread.
        let (Ok(()) | Err(_)) = timeout(DRAIN_PATIENCE, all).await;
        if forged {
            *done = Err(Forged);
        }
    }

    /// Kills all of it. False when something would not go.
    async fn fell(&mut self) -> bool {
        // The kernel ends the rest with bwrap's outer process (`--die-with-parent`).
        self.child.kill_all();
        let emptied = match &self.group {
            Some(group) => group.empties(FALL_TIME).await || group.kill().await,
            None => true,
        };
        self.child.wait().await;
        emptied
    }
}

/// What is being read of a call.
struct Listening {
    stdout: Capture,
    stderr: Capture,
    output: Output,
    limit: usize,
    done: Result<Option<Done>, Forged>,
    end: End,
    ended_by_itself: bool,
}

impl Listening {
    fn new(limit: usize, output: Output) -> Self {
        let (stdout, stderr) = (Capture::new(limit), Capture::new(limit));
        Self { stdout, stderr, output, limit, done: Ok(None), end: End::Exited, ended_by_itself: false }
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        let capture = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        keep(capture, &self.output, self.limit, stream, bytes);
    }

    fn is_too_much(&self) -> bool {
        self.stdout.total().max(self.stderr.total()) > self.limit as u64 * OUTPUT_KILL_FACTOR
    }
}

/// Keeps bytes of a stream, and hands them on as long as they will be in the result.
fn keep(capture: &mut Capture, output: &Output, limit: usize, stream: Stream, bytes: &[u8]) {
    let shown = usize::try_from(capture.total()).unwrap_or(limit);
    let live = limit.saturating_sub(shown).min(bytes.len());
    if live > 0 {
        output(stream, &bytes[..live]);
    }
    capture.push(bytes);
}

fn remember(status: &mut Vec<u8>, bytes: &[u8]) {
    let room = STATUS_LIMIT - status.len();
    status.extend_from_slice(&bytes[..room.min(bytes.len())]);
}

/// Asks politely. False when there is nobody to ask.
async fn ask_to_stop(
    child: &Program,
    group: Option<&Cgroup>,
    known: &mut Vec<u8>,
    status: &mut pipe::Receiver,
    once: bool,
) -> bool {
    if !once {
        // A KeyboardInterrupt: the session can live on.
        take_what_is_there(status, &mut |bytes| remember(known, bytes));
        let runner = verdict::child_pid(&String::from_utf8_lossy(known)).and_then(runner_of);
        return runner.is_some_and(|pid| signal::kill(pid, Signal::SIGINT).is_ok());
    }
    // Without control groups nobody could be told but the sandbox as a whole, which dies with bwrap.
    let Some(group) = group else { return false };
    // Without bwrap's outer process there would be no grace: the sandbox dies with it.
    group.signal(Signal::SIGTERM, child.pid().as_slice()).await;
    true
}

/// The runner is the oldest child of the sandbox's first process; orphans come to it later.
fn runner_of(first: i32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

async fn write_all(requests: &mut pipe::Sender, request: &[u8]) {
    // A runner that does not read is dead or hostile; the call's end tells which.
    let (Ok(()) | Err(_)) = requests.write_all(request).await;
}

/// Waits for whatever ends a call from outside.
async fn first_of(
    stops: &Stops<'_>,
    too_much: &CancellationToken,
    group: Option<&Cgroup>,
    oom_before: u64,
) -> End {
    tokio::select! {
        biased;
        () = stops.cancel.cancelled() => End::Cancelled,
        () = stops.closing.cancelled() => End::Cancelled,
        () = too_much.cancelled() => End::OutputLimit,
        () = sleep_until(stops.deadline) => End::Timeout,
        () = out_of_memory(group, oom_before) => End::OutOfMemory,
    }
}

/// Returns when the kernel has killed a process of the group for memory.
async fn out_of_memory(group: Option<&Cgroup>, before: u64) {
    match group {
        None => std::future::pending().await,
        Some(group) => {
            while group.oom_kills() == before {
                sleep(OOM_CHECK).await;
            }
        }
    }
}

/// What can be read now: `None` when that is nothing, 0 when the pipe has ended or as good as that.
fn read_now(pipe: &pipe::Receiver, buffer: &mut [u8]) -> Option<usize> {
    match pipe.try_read(buffer) {
        Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => None,
        read => Some(read.unwrap_or(0)),
    }
}

/// Reads what lies in a pipe now. Past the runtime, whose idea of what can be read may be older than the
/// frame that has just told of the end.
fn take_what_is_there(pipe: &pipe::Receiver, take: &mut dyn FnMut(&[u8])) {
    let mut buffer = vec![0; BUFFER];
    for _ in 0..LAST_READS {
        match nix::unistd::read(pipe.as_fd(), &mut buffer) {
            Ok(count @ 1..) => take(&buffer[..count]),
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

async fn drain(pipe: &mut pipe::Receiver, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        take(&buffer[..count]);
    }
}
