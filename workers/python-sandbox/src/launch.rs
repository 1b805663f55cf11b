//! From a program to a running bwrap: its options, its descriptors, its command line.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::resource::Resource;
use nix::unistd::Uid;
use tokio::process::Child;

use crate::cgroup::Cgroup;
use crate::limits::{Limits, OPEN_FILES, OWN_PROCESSES};
use crate::outcome::Program;
use crate::pipes::{Pipes, inward, outward};
use crate::profile::{Options, RUNNER_PATH, SYSTEM, WORKSPACE};
use crate::sandbox::Parts;
use crate::seats::Seat;
use crate::spawn::{Launch, number};

/// Runs Python code inside; see its own words.
const RUNNER: &str = include_str!("runner.py");

/// Where a bare program name is looked for, inside as outside.
const PROGRAM_FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Starts a sandbox for a program, and returns with it our ends of its pipes.
pub(crate) async fn launch(
    parts: &Parts,
    program: &Program,
    seat: &Seat,
    group: Option<&Cgroup>,
) -> io::Result<(Child, Pipes)> {
    let entrances = group.map(Cgroup::entrances).transpose()?.unwrap_or_default();
    let (status, status_inside) = outward()?;
    let root = Uid::effective().is_root();
    let launch = |mut options: Options, command: Vec<OsString>, stdin| {
        options.report_to(status_inside);
        let (argument, inherit) = options.into_argument()?;
        let mut arguments = vec!["--args".into(), argument.into(), "--".into()];
        arguments.extend(command);
        io::Result::Ok(Launch {
            program: parts.bwrap.clone(),
            arguments,
            inherit,
            entrances,
            identity: root.then(|| seat.uid()),
            rlimits: rlimits(&parts.limits, group.is_some(), root),
            stdin,
        })
    };
    match program {
        Program::Python { code } => {
            let (code_inside, code_writer) = inward()?;
            let (frames, frames_inside) = outward()?;
            let mut options = Options::new(&parts.limits, &parts.filters, Some(RUNNER), WORKSPACE)?;
            let numbers = [number(&code_inside), number(&frames_inside)];
            options.descriptors.extend([code_inside, frames_inside]);
            // -I: nothing of the environment or the current folder changes what Python loads.
            let mut command = vec![parts.python.clone().into_os_string(), "-I".into(), RUNNER_PATH.into()];
            command.extend(numbers.map(|number| number.to_string().into()));
            let mut child = parts.spawner.spawn(launch(options, command, false)?).await?;
            let pipes = Pipes::new(&mut child, status)?;
            Ok((child, pipes.with_frames(frames).with_input(code_writer, code.clone())))
        }
        Program::Command { argv, stdin, cwd } => {
            let options = Options::new(&parts.limits, &parts.filters, None, cwd)?;
            let command = argv.iter().map(OsString::from).collect();
            let mut child = parts.spawner.spawn(launch(options, command, !stdin.is_empty())?).await?;
            let pipes = Pipes::new(&mut child, status)?;
            match child.stdin.take() {
                Some(writer) => Ok((child, pipes.with_input(writer, stdin.clone()))),
                None => Ok((child, pipes)),
            }
        }
    }
}

/// Whether a program name leads to a file inside. Asked before the start, because bwrap tells a
/// program that is not there by the same exit code as a program that failed. Files that a sandbox
/// does not show are as good as absent: whether the host has them is nobody's business.
pub(crate) fn is_visible(program: &str) -> bool {
    let shown = |path: PathBuf| {
        let real = path.canonicalize();
        real.is_ok_and(|real| real.is_file() && SYSTEM.iter().any(|folder| real.starts_with(folder)))
    };
    if program.starts_with('/') {
        return shown(program.into());
    }
    // Any other path would be one in the workspace, and a fresh workspace holds no programs.
    !program.contains('/') && PROGRAM_FOLDERS.iter().any(|folder| shown(Path::new(folder).join(program)))
}

/// Limits of each process. Without control groups they are all there is, and weaker: memory is then
/// counted for each process, and processes for each uid.
fn rlimits(limits: &Limits, grouped: bool, root: bool) -> Vec<(Resource, u64)> {
    let mut all = vec![(Resource::RLIMIT_NOFILE, OPEN_FILES), (Resource::RLIMIT_CORE, 0)];
    if !grouped {
        // A sandbox that root starts has its uid for itself; others share ours.
        let others = if root { 0 } else { threads_of(Uid::effective()) };
        all.push((Resource::RLIMIT_AS, limits.memory));
        all.push((Resource::RLIMIT_NPROC, others + limits.pids + OWN_PROCESSES));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_that_a_sandbox_shows_are_found() {
        for program in ["sh", "python3", "/bin/sh", "/usr/bin/env"] {
            assert!(is_visible(program), "{program}");
        }
        for program in
            ["", "no-such-program", "/etc/passwd", "/usr/../etc/passwd", "./sh", "/usr", "/workspace/x"]
        {
            assert!(!is_visible(program), "{program}");
        }
    }
}
