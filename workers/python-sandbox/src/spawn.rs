//! The one place where this program forks. Forks happen on one thread that lives as long as the
//! process: bwrap's `--die-with-parent` is tied to the thread that started it, and would kill a
//! sandbox when a thread of a pool goes to sleep for good.

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Orders that may wait at once; a fork takes about a millisecond.
const WAITING_ORDERS: usize = 64;

/// What the kernel kills first when the machine itself runs out of memory: a sandbox rather than
/// the worker, or a service that shares the machine.
const OOM_SCORE: &[u8] = b"500";
const OOM_SCORE_FILE: &CStr = c"/proc/self/oom_score_adj";

/// A process to start.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The program file.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// All that is in its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Where it starts.
    pub(crate) folder: PathBuf,
    /// Descriptors that it inherits under their numbers. Closed here once it has started.
    pub(crate) inherit: Vec<OwnedFd>,
    /// `cgroup.procs` files that it enters.
    pub(crate) entrances: Vec<OwnedFd>,
    /// The uid and gid to become; with them all other groups are given up.
    pub(crate) identity: Option<u32>,
    /// Limits, hard and soft.
    pub(crate) rlimits: Vec<(Resource, u64)>,
}

struct Order {
    launch: Launch,
    reply: oneshot::Sender<io::Result<Program>>,
}

/// The way to the forking thread, which ends with the last of these.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    orders: SyncSender<Order>,
}

impl Spawner {
    /// Starts the thread. Must be called in a runtime, which will reap the children.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, incoming) = sync_channel(WAITING_ORDERS);
        let runtime = Handle::current();
        std::thread::Builder::new().name("spawner".into()).spawn(move || serve(&incoming, &runtime))?;
        Ok(Self { orders })
    }

    /// Starts a process.
    pub(crate) async fn spawn(&self, launch: Launch) -> io::Result<Program> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread is gone or has too many orders");
        self.orders.try_send(Order { launch, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A process that was started, with its group: whoever drops it, or sees its end, ends both. A bwrap that
/// is killed in its first moments leaves its own child waiting for it for ever: that one has not asked to
/// die with it yet, and is still in the group.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    /// Until the group was killed after the process had ended.
    group: Option<Pid>,
}

impl Program {
    fn new(child: Child) -> Self {
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        Self { child, group }
    }

    /// Its pid, until its end was seen.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.group
    }

    /// Kills its whole group, unless its end has been seen.
    pub(crate) fn kill_all(&self) {
        if let Some(group) = self.group {
            // An error means that nothing of it is left.
            let _none_left = killpg(group, Signal::SIGKILL);
        }
    }

    /// Waits for its end, and ends what is left of its group. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        // An error means that somebody else has reaped it: it has ended, too.
        drop(self.child.wait().await);
        self.ended();
    }

    /// How it ended, if it has; what is left of its group is ended then.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        let end = self.child.try_wait().ok()?;
        if end.is_some() {
            self.ended();
        }
        end
    }

    /// Its number is nobody else's as long as one of the group has it. Of an empty group, that of a process
    /// reaped this moment, it is free; but numbers are given out in turn, and this one comes last.
    fn ended(&mut self) {
        self.kill_all();
        self.group = None;
    }
}

impl Program {
    /// Our ends of its standard output and error, once.
    pub(crate) fn streams(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.child.stdout.take().zip(self.child.stderr.take())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn serve(orders: &Receiver<Order>, runtime: &Handle) {
    let _runtime = runtime.enter();
    while let Ok(Order { launch, reply }) = orders.recv() {
        // Nobody waits any more: the child is dropped here, and killed by that.
        drop(reply.send(start(launch)));
    }
}

fn start(launch: Launch) -> io::Result<Program> {
    let Launch { program, arguments, environment, folder, inherit, entrances, identity, rlimits } = launch;
    let mut command = std::process::Command::new(program);
    // A group of its own: a signal for the worker's whole group (Ctrl-C) is for the worker to obey,
    // which then ends its sandboxes in order.
    command.args(arguments).env_clear().envs(environment).current_dir(folder).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let in_child = move || {
        enter(&entrances)?;
        prefer_for_oom();
        for (resource, limit) in &rlimits {
            setrlimit(*resource, *limit, *limit)?;
        }
        become_user(identity)?;
        close_on_exec()?;
        keep_open(&inherit)
    };
    before_exec(&mut command, in_child);
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn().map(Program::new)
}

/// Has every descriptor but the standard three closed by exec. The worker itself may have inherited
/// some, such as its lifeline, which code in a sandbox must not hold.
#[expect(unsafe_code, reason = "neither std nor nix has close_range")]
fn close_on_exec() -> io::Result<()> {
    let (first, last) = (3_u32, u32::MAX);
    // SAFETY: with this flag the call closes nothing now; it reads and writes no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a closure in the child between fork and exec.
fn before_exec(
    command: &mut std::process::Command,
    in_child: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    #[expect(
        unsafe_code,
        reason = "the closure below makes only system calls: no allocation, no lock, so it is safe in \
                  the forked child of a process with other threads"
    )]
    // SAFETY: see the reason above; reviewed with each change of the functions that `start` calls.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Becomes a member of control groups while still allowed to, so that no process is ever outside.
fn enter(entrances: &[OwnedFd]) -> io::Result<()> {
    for entrance in entrances {
        nix::unistd::write(entrance, b"0")?;
    }
    Ok(())
}

/// Raising the own score is always allowed; where there is no such file, nothing is lost.
fn prefer_for_oom() {
    if let Ok(file) = nix::fcntl::open(OOM_SCORE_FILE, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        let (Ok(_) | Err(_)) = nix::unistd::write(&file, OOM_SCORE);
    }
}

/// Root inside a user namespace is root outside: bwrap must be started by somebody else.
fn become_user(identity: Option<u32>) -> io::Result<()> {
    if let Some(id) = identity {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    Ok(())
}

fn keep_open(inherit: &[OwnedFd]) -> io::Result<()> {
    for descriptor in inherit {
        fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

/// The number under which a child will find a descriptor that it inherits.
pub(crate) fn number(descriptor: &impl AsFd) -> RawFd {
    descriptor.as_fd().as_raw_fd()
}
