//! From limits to a running bwrap: its options, its descriptors, its command line, our ends of its pipes.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::resource::Resource;
use nix::unistd::Uid;
use tokio::net::unix::pipe;

use crate::bare::Bare;
use crate::cgroup::Cgroup;
use crate::limits::{Limits, OWN_PROCESSES};
use crate::live::{Live, Pipes};
use crate::profile::{Options, RUNNER_PATH, Shown, WORKSPACE};
use crate::sandbox::Parts;
use crate::seats::Seat;
use crate::spawn::{Launch, Program, number};

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
    if let Some(bare) = &parts.bare {
        return launch_bare(parts, bare, limits, seat).await;
    }
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
        // The code that it holds could read bwrap's environment.
        environment: Vec::new(),
        folder: "/".into(),
        inherit,
        entrances,
        identity: root.then(|| seat.uid()),
        rlimits: rlimits(&limits, group.is_some(), root),
    };
    let mut child = parts.spawner.spawn(launch).await?;
    let pipes = pipes(&mut child, status, frames, requests)?;
    Ok(Live::new(child, pipes, group, seat, limits))
}

/// Starts a runner without any sandbox.
async fn launch_bare(parts: &Parts, bare: &Bare, limits: Limits, seat: Seat) -> io::Result<Live> {
    let root = Uid::effective().is_root();
    let place = bare.place(root.then(|| seat.uid()))?;
    // Nobody writes to it: there is no bwrap to tell of an end.
    let (status, _) = outward()?;
    let (frames, frames_inside) = outward()?;
    let (requests_inside, requests) = inward()?;
    let numbers = [number(&requests_inside), number(&frames_inside)];
    let mut arguments: Vec<OsString> = vec!["-I".into(), bare.runner().into()];
    arguments.extend(numbers.map(|number| number.to_string().into()));
    arguments.push(place.folder().into());
    arguments.extend(parts.imports.iter().map(OsString::from));
    let launch = Launch {
        program: parts.python.clone(),
        arguments,
        environment: place.environment(),
        folder: place.folder().to_owned(),
        inherit: vec![requests_inside, frames_inside],
        entrances: Vec::new(),
        identity: root.then(|| seat.uid()),
        rlimits: rlimits(&limits, false, root),
    };
    let mut child = parts.spawner.spawn(launch).await?;
    let pipes = pipes(&mut child, status, frames, requests)?;
    Ok(Live::new(child, pipes, None, seat, limits).in_place(place))
}

/// Our ends of all that leads to and from a child.
fn pipes(
    child: &mut Program,
    status: pipe::Receiver,
    frames: pipe::Receiver,
    requests: pipe::Sender,
) -> io::Result<Pipes> {
    let missing = || io::Error::other("a stream of the child is missing");
    let (stdout, stderr) = child.streams().ok_or_else(missing)?;
    Ok(Pipes {
        stdout: pipe::Receiver::from_owned_fd(stdout.into_owned_fd()?)?,
        stderr: pipe::Receiver::from_owned_fd(stderr.into_owned_fd()?)?,
        status,
        frames,
        requests,
    })
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
