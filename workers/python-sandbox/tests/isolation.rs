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
async fn s19_a_machine_that_cannot_hold_a_sandbox_is_refused_in_one_line() {
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
async fn s19_without_control_groups_it_runs_only_if_the_operator_says_so() {
    let output = on_read_only_system(&["--bind", "/proc", "/proc"], &["--check"]).await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("\"control groups\" failed"), "{}", text(&output.stderr));
    let weaker = ["--check", "--isolation-minimum", "no-cgroup"];
    let output = on_read_only_system(&["--bind", "/proc", "/proc"], &weaker).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("isolation: no-cgroup"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn s19_without_user_namespaces_it_never_runs() {
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

#[tokio::test]
async fn s19_no_isolation_is_had_only_by_who_types_it_out_and_every_result_says_so() {
    // Without bwrap on its PATH.
    let words = ["/usr/bin/env", "PATH=/nonexistent", PROGRAM, "--unsafe-no-isolation"];
    let worker = Worker::start_as(&words).await;
    let (mut link, register) = worker.meet().await;
    assert_eq!(register["isolation"], "none");
    let ended = link.run("python.execute", json!({ "code": "import os\nprint('hello')\nos.getcwd()" })).await;
    assert_eq!((&ended.output["stdout"], &ended.output["isolation"]), (&json!("hello\n"), &json!("none")));
    let ended = link.run("python.execute", json!({ "code": "import sys; sys.exit(3)" })).await;
    assert_eq!((&ended.output["exit_code"], &ended.output["isolation"]), (&json!(3), &json!("none")));
    let input = json!({ "shell": "pwd; echo kept > a.txt", "cwd": "/workspace/a" });
    let ended = link.run("command.execute", input).await;
    assert_eq!(
        (ended.status, &ended.output["isolation"]),
        (Status::Succeeded, &json!("none")),
        "{}",
        ended.output
    );
    assert!(ended.output["stdout"].as_str().is_some_and(|cwd| cwd.ends_with("/a\n")), "{}", ended.output);
    link.run_in("s", "python.execute", json!({ "code": "x = 1" })).await;
    let ended = link.run_in("s", "python.execute", json!({ "code": "x + 1" })).await;
    assert_eq!(ended.output["results"][0]["text"], "2", "{}", ended.output);
    let ended = link.run_in("s", "files.list", json!({})).await;
    assert_eq!(ended.output["isolation"], "none", "{}", ended.output);
    let folder = std::env::temp_dir().join(format!("rollcall-bare.{}.1", worker.pid()));
    assert!(folder.exists());
    nix::sys::signal::kill(worker.pid(), nix::sys::signal::Signal::SIGTERM).expect("it runs");
    let output = worker.child.wait_with_output().await.expect("our own child");
    assert!(
        text(&output.stderr).contains("--unsafe-no-isolation: tasks run as plain"),
        "{}",
        text(&output.stderr)
    );
    assert!(!folder.exists(), "nothing of it stays");
}

/// A view of the machine in which nothing can be written, control groups neither.
const READ_ONLY_SYSTEM: [&str; 10] =
    ["bwrap", "--die-with-parent", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--cap-add", "ALL"];

async fn on_read_only_system(but: &[&str], arguments: &[&str]) -> Output {
    let arguments = [&READ_ONLY_SYSTEM[1..], but, &[PROGRAM], arguments].concat();
    call(Path::new(READ_ONLY_SYSTEM[0]), &arguments, |_| {}).await
}
