//! The command line: what it says and how it exits when things are not as they should be.

use std::io::Read;
use std::process::{Command, Output, Stdio};

/// Runs `rollcall` with nothing of our own environment that it would obey.
fn rollcall(arguments: &[&str]) -> Output {
    command(arguments).output().expect("rollcall can be started")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["ROLLCALL_SERVER", "ROLLCALL_KEY", "ROLLCALL_WORKER_INTERFACE"] {
        command.env_remove(name);
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port on which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

#[test]
fn a_command_line_that_makes_no_sense_exits_2() {
    let cases: [&[&str]; 6] = [
        &[],
        &["frobnicate"],
        &["run"],
        &["workers", "ls", "-o", "xml"],
        &["workers", "ls", "--server", "localhost"],
        &["run", "python.execute", "--input", "{not json"],
    ];
    for arguments in cases {
        let output = rollcall(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(!said(&output).is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let server = nobody();
    let cases: [&[&str]; 6] = [
        &["status"],
        &["workers", "ls"],
        &["tasks", "cancel", "x"],
        &["events"],
        &["reload"],
        &["run", "python.execute"],
    ];
    for arguments in cases {
        let output = rollcall(&[arguments, &["--server", server.as_str()]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let expected =
            format!("error: cannot reach {server}: connection refused; is `rollcall serve` running?");
        assert!(said(&output).starts_with(&expected), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_file_that_is_not_there_is_a_failure_and_not_a_crash() {
    for arguments in [["check", "no-such-file.yaml"], ["plan", "no-such-file.yaml"]] {
        let output = rollcall(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(said(&output).contains("no-such-file.yaml"), "{}", said(&output));
    }
}

#[test]
fn check_shows_all_that_is_wrong_with_the_lines_and_says_so_when_nothing_is() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("config.yaml");
    let path = file.display().to_string();
    let wrong = "workers:\n  - name: a\n    interface: mokc\n    capabilities: [a.b]\n  - name: b\n    interface: mock\n    capabilities: [a.b]\n    slot: 4\n";
    std::fs::write(&file, wrong).expect("the folder can be written");
    let output = rollcall(&["check", &path]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [":3:", "mokc", "mock", ":8:", "slot: 4", "slots", "has 2 problems"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    std::fs::write(&file, wrong.replace("mokc", "mock").replace("slot:", "slots:")).expect("as before");
    let output = rollcall(&["check", &path]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("is valid: 2 workers"), "{output:?}");
}

#[test]
fn a_reader_who_leaves_is_not_an_error() {
    let mut child = command(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rollcall can be started");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().map(|mut err| err.read_to_string(&mut said));
    let status = child.wait().expect("it ends");
    assert!(status.success() && said.is_empty(), "{status}: {said}");
}

#[test]
fn no_colours_reach_a_pipe() {
    let output = rollcall(&["status", "--server", nobody().as_str()]);
    assert!(!said(&output).contains('\u{1b}'));
}
