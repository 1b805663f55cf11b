//! What the worker does on machines that cannot hold a sandbox, or only a weaker one.

mod common;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use common::link::{PROGRAM, Worker, call, text};
use common::{eventually, processes_with};
use rollcall_protocol::Status;
use serde_json::json;
use tokio::process::Command;

#[tokio::test]
async fn the_check_tells_what_was_found() {
    let output = call(Path::new(PROGRAM), &["--check"], |_| {}).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    for line in ["ok: bubblewrap", "ok: control groups", "ok: seccomp", "ok: Python 3", "isolation: full"] {
        assert!(found.contains(line), "{found}");
    }
}

#[tokio::test]
async fn a_machine_that_cannot_hold_a_sandbox_is_refused_in_one_line() {
    let no_bwrap = |command: &mut Command| {
        command.env("PATH", "/nonexistent");
    };
    let output = call(Path::new(PROGRAM), &["--listen", "127.0.0.1:0"], no_bwrap).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(78), String::new()));
    let complaint = text(&output.stderr);
    assert!(
        complaint.contains("\"bubblewrap\" failed") && complaint.contains("cure: install"),
        "{complaint}"
    );
    assert_eq!(complaint.lines().count(), 1);
    let output = call(Path::new(PROGRAM), &["--check", "--python", "/nonexistent"], |_| {}).await;
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test]
async fn without_control_groups_it_runs_only_if_the_operator_says_so() {
    let output = on_read_only_system(&["--bind", "/proc", "/proc"], &["--check"]).await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("\"control groups\" failed"), "{}", text(&output.stderr));
    let weaker = ["--check", "--isolation-minimum", "no-cgroup"];
    let output = on_read_only_system(&["--bind", "/proc", "/proc"], &weaker).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("isolation: no-cgroup"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn without_user_namespaces_it_never_runs() {
    // With /proc read-only no uid map can be written, as where the kernel forbids it.
    let weaker = ["--check", "--isolation-minimum", "no-cgroup"];
    let output = on_read_only_system(&[], &weaker).await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("\"namespaces\" failed"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn without_control_groups_each_process_is_still_bounded() {
    let weaker =
        ["--bind", "/proc", "/proc", PROGRAM, "--isolation-minimum", "no-cgroup", "--memory", "128MiB"];
    let worker = Worker::start_as(&[&READ_ONLY_SYSTEM[..], &weaker].concat()).await;
    let (mut link, register) = worker.meet().await;
    assert_eq!(register["isolation"], "no-cgroup");
    let ended = link.run("python.execute", json!({ "code": "x = bytearray(256 << 20)" })).await;
    assert_eq!(ended.output["error"]["type"], "MemoryError", "{}", ended.output);
    let bounded = "
import os, time
made = 0
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made < 100)
";
    let ended = link.run("python.execute", json!({ "code": bounded })).await;
    assert_eq!(ended.output["stdout"], "True\n", "{}", ended.output);
    let marker = format!("76{}", std::process::id());
    let input = json!({ "shell": format!("trap '' TERM; setsid sleep {marker} & sleep {marker}") });
    link.execute("limit", "command.execute", &input, Duration::from_secs(1)).await;
    assert_eq!(link.ended("limit").await.status, Status::TimedOut);
    eventually("the kernel has cleared up", || processes_with(&marker).is_empty()).await;
}

/// A view of the machine in which nothing can be written, control groups neither.
const READ_ONLY_SYSTEM: [&str; 10] =
    ["bwrap", "--die-with-parent", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--cap-add", "ALL"];

async fn on_read_only_system(but: &[&str], arguments: &[&str]) -> Output {
    let arguments = [&READ_ONLY_SYSTEM[1..], but, &[PROGRAM], arguments].concat();
    call(Path::new(READ_ONLY_SYSTEM[0]), &arguments, |_| {}).await
}
