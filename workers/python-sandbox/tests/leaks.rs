//! What many runs leave behind: nothing. A test program of its own, since it counts what its process
//! and the machine hold, and what its own memory is.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{asking, command, eventually, processes_with, python, quiet, run, sandbox_as, shell, within};
use rollcall_python_sandbox::{Config, Limits, Opening, Outcome, Program, Sandbox};
use tokio_util::sync::CancellationToken;

/// Runs in a row, and how many of them at once.
const RUNS: usize = 1_000;
const AT_ONCE: usize = 8;

/// One test after the other: what one has open is nothing that the other may count.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn s22_a_thousand_runs_leave_no_group_process_mount_descriptor_or_uid() {
    let _alone = ALONE.lock().await;
    let sandbox = sandbox_as(Config { warm: AT_ONCE / 2, ..Config::default() }).await;
    let groups = own_groups();
    assert!(!groups.is_empty(), "the folders of this process are there");
    let idle = || groups.iter().map(|group| children(group).len()).max() == Some(AT_ONCE / 2);
    sandbox.is_warm().await;
    eventually("the trial is cleared away", idle).await;
    let before = held();
    let marker = format!("74{}", std::process::id());
    let lanes = (0..AT_ONCE).map(|lane| {
        let (sandbox, marker) = (sandbox.clone(), marker.clone());
        async move {
            for round in (lane..RUNS).step_by(AT_ONCE) {
                one_of_many(&sandbox, round, &marker).await;
            }
        }
    });
    futures_util::future::join_all(lanes).await;
    assert!(processes_with(&marker).is_empty());
    // What sandboxes were made of goes away after the answers.
    sandbox.is_warm().await;
    eventually("only what is warm is left", idle).await;
    eventually("all is as it was", || held() == before).await;
    assert_eq!((sandbox.stuck(), sandbox.sessions()), (0, 0));
    // The numbers of its uids are free again, or this many could not run at once.
    let holders = (0..64).map(|_| run(&sandbox, python("print(1)")));
    for report in futures_util::future::join_all(holders).await {
        assert_eq!(report.outcome, Outcome::Ok, "{}", report.message);
    }
    sandbox.close().await;
    let children = format!("/proc/{0}/task/{0}/children", std::process::id());
    assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "", "no child, not even a zombie");
    drop(sandbox);
    assert_eq!(own_groups(), Vec::<PathBuf>::new());
}

/// A run of some kind, and what must come of it.
async fn one_of_many(sandbox: &Sandbox, round: usize, marker: &str) {
    let (request, outcome) = match round % 10 {
        0..=5 => (python("print(1)"), Outcome::Ok),
        6 => (python("1 / 0"), Outcome::Error),
        7 => (shell(&format!("setsid sleep {marker} & exit 3")), Outcome::Exit),
        8 => (command(&["cat"], "text"), Outcome::Ok),
        _ => (python("import os; os.kill(os.getpid(), 11)"), Outcome::Signal),
    };
    let report = run(sandbox, request).await;
    assert_eq!(report.outcome, outcome, "round {round}: {}", report.message);
}

#[tokio::test]
async fn s01_a_warm_start_is_faster_than_a_cold_one() {
    let _alone = ALONE.lock().await;
    let cold = sandbox_as(Config::default()).await;
    let warm = sandbox_as(Config { warm: 2, ..Config::default() }).await;
    let (mut of_cold, mut of_warm) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        warm.is_warm().await;
        for (sandbox, times) in [(&cold, &mut of_cold), (&warm, &mut of_warm)] {
            let begun = Instant::now();
            let report = run(sandbox, python("print(1)")).await;
            times.push(begun.elapsed());
            assert_eq!((report.outcome, report.stdout.shown(9).text.as_str()), (Outcome::Ok, "1\n"));
        }
    }
    of_cold.sort_unstable();
    of_warm.sort_unstable();
    assert!(of_warm[4] < of_cold[4], "warm {of_warm:?}, cold {of_cold:?}");
    cold.close().await;
    warm.close().await;
}

#[tokio::test]
async fn a_sandbox_that_is_given_up_while_it_is_made_leaves_nobody_behind() {
    let _alone = ALONE.lock().await;
    // bwrap names the modules to load on its command line; nobody else has this one there.
    let marker = format!("no_such_module_{}", std::process::id());
    let sandbox = Arc::new(sandbox_as(Config { imports: vec![marker.clone()], ..Config::default() }).await);
    eventually("the trial is over", || processes_with(&marker).is_empty()).await;
    for age in 0..150_u64 {
        let cancel = CancellationToken::new();
        let run = sandbox.run(python("import time\ntime.sleep(60)"), quiet(), &cancel);
        let stop = async {
            tokio::time::sleep(Duration::from_micros(age * 200)).await;
            cancel.cancel();
        };
        let (report, ()) = tokio::join!(run, stop);
        assert_eq!(report.outcome, Outcome::Cancelled, "after {age} steps: {}", report.message);
    }
    eventually("nobody is left of them", || processes_with(&marker).is_empty()).await;
    sandbox.close().await;
}

#[tokio::test]
async fn a_sandbox_whose_bwrap_is_killed_while_it_is_made_is_told_at_once_and_leaves_nobody() {
    let _alone = ALONE.lock().await;
    let marker = format!("no_such_module_2_{}", std::process::id());
    let sandbox = sandbox_as(Config { imports: vec![marker.clone()], ..Config::default() }).await;
    eventually("the trial is over", || processes_with(&marker).is_empty()).await;
    for age in 0..30_u64 {
        eventually("the one before is gone", || processes_with(&marker).is_empty()).await;
        let kill = async {
            // The outer one alone, as the kernel's own killer may choose it: of the two, its pid is the smaller.
            let outer = loop {
                if let Some(outer) = processes_with(&marker).into_iter().min() {
                    break outer;
                }
                tokio::time::sleep(Duration::from_micros(100)).await;
            };
            tokio::time::sleep(Duration::from_micros(age * 300)).await;
            kill_one(outer);
        };
        let run = run(&sandbox, python("import time\ntime.sleep(60)"));
        let (report, ()) = tokio::join!(run, kill);
        assert_eq!(report.outcome, Outcome::SandboxError, "after {age} steps: {}", report.message);
        assert!(report.usage.wall < Duration::from_secs(10), "after {age} steps: {:?}", report.usage.wall);
    }
    eventually("nobody is left of them", || processes_with(&marker).is_empty()).await;
    sandbox.close().await;
}

#[tokio::test]
async fn each_sandbox_counts_as_a_process_when_the_machine_is_shared_out() {
    let _alone = ALONE.lock().await;
    let sandbox = sandbox_as(Config { warm: 2, ..Config::default() }).await;
    let shares_are = |wanted: u64| {
        let groups = own_groups();
        let read = |name| groups.iter().find_map(|group| std::fs::read_to_string(group.join(name)).ok());
        // Version 2 counts in hundreds, and version 1 in 1,024ths.
        let weight =
            read("cpu.weight").map(|text| (text, 100)).or(read("cpu.shares").map(|text| (text, 1024)));
        let (text, each) = weight.expect("the worker's own group");
        text.trim().parse() == Ok(wanted * each)
    };
    eventually("two wait", || shares_are(2)).await;
    let (request, cancel) = (asking(Program::Python { code: "x = 1".into() }), CancellationToken::new());
    let begun = sandbox.call("s", Opening::New, Duration::from_secs(60), request, quiet(), &cancel).await;
    begun.expect("there is room");
    eventually("two wait beside a session", || shares_are(3)).await;
    assert!(sandbox.end_session("s"));
    eventually("two wait again", || shares_are(2)).await;
    sandbox.close().await;
}

#[tokio::test]
async fn sessions_that_come_and_go_leave_nothing_either() {
    let _alone = ALONE.lock().await;
    let sandbox = sandbox_as(Config { warm: 1, ..Config::default() }).await;
    sandbox.is_warm().await;
    let groups = own_groups();
    let idle = || groups.iter().map(|group| children(group).len()).max() == Some(1);
    eventually("the trial is cleared away", idle).await;
    let before = held();
    for round in 0..20 {
        let name = format!("s{}", round % 5);
        let code = if round % 4 == 3 { "import os; os._exit(9)" } else { "x = 1" };
        let request = asking(Program::Python { code: code.into() });
        let opening = if round % 7 == 0 { Opening::New } else { Opening::Either };
        let (ttl, cancel) = (Duration::from_millis(300), CancellationToken::new());
        let report = sandbox.call(&name, opening, ttl, request, quiet(), &cancel).await;
        report.expect("there is room");
    }
    eventually("they have idled out", || sandbox.sessions() == 0).await;
    sandbox.is_warm().await;
    eventually("only what is warm is left", idle).await;
    eventually("all is as it was", || held() == before).await;
    sandbox.close().await;
}

#[tokio::test]
async fn a_task_whose_time_is_over_while_its_sandbox_is_made_is_told_so() {
    let _alone = ALONE.lock().await;
    let sandbox = common::sandbox_with(Limits::default()).await;
    let report = run(&sandbox, within(Duration::from_millis(1), python("print(1)"))).await;
    assert_eq!(report.outcome, Outcome::Timeout, "{}", report.message);
    sandbox.close().await;
}

fn kill_one(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    // It may have ended already.
    let (Ok(()) | Err(_)) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// Mounts and descriptors of this process.
fn held() -> (usize, usize) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs").lines().count();
    (mounts, std::fs::read_dir("/proc/self/fd").expect("procfs").count())
}

/// The folders in which this process makes its control groups.
fn own_groups() -> Vec<PathBuf> {
    let name = format!("rollcall-sandbox.{}.", std::process::id());
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for child in children(&folder) {
            if child.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name)) {
                found.push(child);
            } else {
                folders.push(child);
            }
        }
    }
    found
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}
