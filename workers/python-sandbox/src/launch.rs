//! From limits to a running bwrap: its options, its descriptors, its command line, our ends of its pipes.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::resource::Resource;
use nix::unistd::Uid;
use tokio::net::unix::pipe;

use crate::cgroup::Cgroup;
use crate::limits::{Limits, OWN_PROCESSES};
use crate::live::{Live, Pipes};
use crate::profile::{Options, RUNNER_PATH, Shown, WORKSPACE};
use crate::sandbox::Parts;
use crate::seats::Seat;
use crate::spawn::{Launch, number};

/// Starts a sandbox, whose runner will wait for requests.
pub(crate) async fn launch(
    parts: &Parts,
    limits: Limits,
    shown: &[Shown],
    seat: Seat,
    group: Option<Cgroup>,
) -> io::Result<Live> {
    let entrances = group.as_ref().map(Cgroup::entrances).transpose()?.unwrap_or_default();
    let root = Uid::effective().is_root();
    let (status, status_inside) = outward()?;
    let (frames, frames_inside) = outward()?;
    let (requests_inside, requests) = inward()?;
    let mut options = Options::new(&limits, &parts.filters, shown)?;
    let numbers = [number(&requests_inside), number(&frames_inside)];
    options.descriptors.extend([requests_inside, frames_inside]);
    options.report_to(status_inside);
    let (argument, inherit) = options.into_argument()?;
    let mut arguments: Vec<OsString> = vec!["--args".into(), argument.into(), "--".into()];
    // -I: nothing of the environment or the current folder changes what Python loads.
    arguments.extend([parts.python.clone().into_os_string(), "-I".into(), RUNNER_PATH.into()]);
    arguments.extend(numbers.map(|number| number.to_string().into()));
    arguments.push(WORKSPACE.into());
    arguments.extend(parts.imports.iter().map(OsString::from));
    let launch = Launch {
        program: parts.bwrap.clone(),
        arguments,
        inherit,
        entrances,
        identity: root.then(|| seat.uid()),
        rlimits: rlimits(&limits, group.is_some(), root),
    };
    let mut child = parts.spawner.spawn(launch).await?;
    let missing = || io::Error::other("a stream of the child is missing");
    let stdout = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(missing)?.into_owned_fd()?;
    let pipes = Pipes {
        stdout: pipe::Receiver::from_owned_fd(stdout)?,
        stderr: pipe::Receiver::from_owned_fd(stderr)?,
        status,
        frames,
        requests,
    };
    Ok(Live::new(child, pipes, group, seat, limits))
}

/// A pipe's two ends: the sandbox's, and ours.
fn inward() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (theirs, ours) = io::pipe()?;
    Ok((theirs.into(), pipe::Sender::from_owned_fd(ours.into())?))
}

/// As [`inward`], for what the sandbox writes.
fn outward() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(ours.into())?, theirs.into()))
}

/// Limits of each process. Without control groups they are all there is, and weaker: memory is then
/// counted for each process, and processes for each uid.
fn rlimits(limits: &Limits, grouped: bool, root: bool) -> Vec<(Resource, u64)> {
    let mut all = vec![(Resource::RLIMIT_NOFILE, limits.open_files), (Resource::RLIMIT_CORE, 0)];
    if !grouped {
        // A sandbox that root starts has its uid for itself; others share ours.
        let others = if root { 0 } else { threads_of(Uid::effective()) };
        all.push((Resource::RLIMIT_AS, limits.memory));
        all.push((Resource::RLIMIT_NPROC, others + limits.processes + OWN_PROCESSES));
        all.push((Resource::RLIMIT_FSIZE, limits.workspace));
    }
    all
}

/// How many threads a user has now.
fn threads_of(uid: Uid) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mine = processes.filter(|entry| entry.metadata().is_ok_and(|meta| meta.uid() == uid.as_raw()));
    mine.filter_map(|entry| std::fs::read_dir(entry.path().join("task")).ok())
        .map(|threads| threads.count() as u64)
        .sum()
}
