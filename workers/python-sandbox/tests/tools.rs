//! Sessions, warm sandboxes, files, packages and the analysis of code: all that is more than one run.

mod common;

use std::time::Duration;

use common::{
    Heard, asking, eventually, processes_with, python, quiet, run, sandbox, sandbox_as, shell, stderr,
    stdout, tool, within,
};
use rollcall_python_sandbox::{
    Config, Limits, NoSession, Opening, Outcome, Program, Report, Request, Sandbox,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(600);

async fn call(sandbox: &Sandbox, session: &str, request: Request) -> Report {
    call_as(sandbox, session, Opening::Either, request).await.expect("a session")
}

async fn call_as(
    sandbox: &Sandbox,
    session: &str,
    opening: Opening,
    request: Request,
) -> Result<Report, NoSession> {
    sandbox.call(session, opening, LONG, request, quiet(), &CancellationToken::new()).await
}

fn answer(report: &Report) -> Value {
    report.output.clone().unwrap_or_else(|| panic!("{} {:?}", report.message, report.error))
}

fn refusal(report: Report) -> String {
    assert_eq!(report.outcome, Outcome::Error, "{}", report.message);
    report.error.expect("an error").kind
}

#[tokio::test]
async fn a_session_remembers_names_and_files_as_a_notebook_does() {
    let sandbox = sandbox().await;
    let first = call(&sandbox, "a", python("x = 20\ndef f(): return 2 * x + 2")).await;
    assert_eq!((first.outcome, first.session_lost), (Outcome::Ok, false), "{}", stderr(&first));
    call(&sandbox, "a", shell("echo kept > note.txt")).await;
    let report = call(&sandbox, "a", python("print(open('note.txt').read(), end='')\nf()")).await;
    assert_eq!((stdout(&report).as_str(), report.last_value()), ("kept\n", Some("42")));
    // What one call raises does not cost the next one its state.
    let report = call(&sandbox, "a", python("raise ValueError(x)")).await;
    assert_eq!((report.outcome, report.session_lost), (Outcome::Error, false));
    let report = call(&sandbox, "a", python("import sys; sys.exit(3)")).await;
    assert_eq!((report.outcome, report.exit_code, report.session_lost), (Outcome::Exit, Some(3), false));
    assert_eq!(call(&sandbox, "a", python("x")).await.last_value(), Some("20"));
    sandbox.close().await;
}

#[tokio::test]
async fn s17_two_sessions_are_strangers() {
    let sandbox = sandbox().await;
    let marker = format!("77{}", std::process::id());
    let open = format!(
        "import socket, subprocess\nopen('/tmp/secret', 'w').write('s')\nopen('/dev/shm/secret', 'w').write('s')\n\
         server = socket.create_server(('127.0.0.1', 7777))\nchild = subprocess.Popen(['sleep', '{marker}'])\nx = 1"
    );
    assert_eq!(call(&sandbox, "a", python(&open)).await.outcome, Outcome::Ok);
    let look = format!(
        "import os, socket\nprint(os.path.exists('/tmp/secret'), os.path.exists('/dev/shm/secret'), 'x' in globals())\n\
         print(any(b'{marker}' in open(f'/proc/{{p}}/cmdline', 'rb').read() for p in os.listdir('/proc') if p.isdigit()))\n\
         try: socket.create_connection(('127.0.0.1', 7777), 1)\nexcept ConnectionRefusedError: print('refused')"
    );
    let report = call(&sandbox, "b", python(&look)).await;
    assert_eq!(stdout(&report), "False False False\nFalse\nrefused\n", "{}", stderr(&report));
    assert_eq!(call(&sandbox, "a", python("child.poll() is None")).await.last_value(), Some("True"));
    // Begun anew, a session has nothing of what it had.
    let report = call_as(&sandbox, "a", Opening::New, python(&look)).await.expect("a new session");
    assert_eq!(stdout(&report), "False False False\nFalse\nrefused\n", "{}", stderr(&report));
    eventually("the child of the old one is gone", || processes_with(&marker).is_empty()).await;
    sandbox.close().await;
}

#[tokio::test]
async fn a_call_that_is_stopped_leaves_its_session_alive_if_it_obeys() {
    let sandbox = sandbox().await;
    call(&sandbox, "a", python("x = 1")).await;
    let sleep = python("import time\ntime.sleep(60)");
    let report = call(&sandbox, "a", within(Duration::from_millis(500), sleep)).await;
    assert_eq!((report.outcome, report.session_lost, report.killed), (Outcome::Timeout, false, false));
    let report = call(&sandbox, "a", within(Duration::from_millis(500), shell("sleep 60"))).await;
    assert_eq!((report.outcome, report.session_lost), (Outcome::Timeout, false), "{}", report.message);
    assert_eq!(call(&sandbox, "a", python("x")).await.last_value(), Some("1"));
    let stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass";
    let report = call(&sandbox, "a", within(Duration::from_millis(500), python(stubborn))).await;
    assert_eq!((report.outcome, report.session_lost, report.killed), (Outcome::Timeout, true, true));
    assert_eq!(call_as(&sandbox, "a", Opening::Known, python("x")).await.err(), Some(NoSession::Lost));
    sandbox.close().await;
}

#[tokio::test]
async fn a_session_whose_process_ends_is_lost_and_said_to_be() {
    let sandbox = sandbox().await;
    call(&sandbox, "a", python("x = 1")).await;
    let report = call(&sandbox, "a", python("import os; os._exit(5)")).await;
    assert_eq!((report.outcome, report.exit_code, report.session_lost), (Outcome::Exit, Some(5), true));
    assert_eq!(call_as(&sandbox, "a", Opening::Known, python("x")).await.err(), Some(NoSession::Lost));
    let report = call(&sandbox, "a", python("'x' in globals()")).await;
    assert_eq!(report.last_value(), Some("False"));
    sandbox.close().await;
}

#[tokio::test]
async fn memory_that_a_child_wastes_is_told_and_the_session_may_live_on() {
    let limits = Limits { memory: 64 << 20, workspace: 16 << 20, ..Limits::default() };
    let sandbox = sandbox_as(Config { limits, ..Config::default() }).await;
    let request = |code: &str| Request { limits, ..python(code) };
    call(&sandbox, "a", request("x = 1")).await;
    let bomb =
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytearray(1 << 30)']).returncode";
    let report = call(&sandbox, "a", request(bomb)).await;
    assert_eq!(report.outcome, Outcome::OutOfMemory, "{}", stderr(&report));
    if !report.session_lost {
        assert_eq!(call(&sandbox, "a", request("x")).await.last_value(), Some("1"));
    }
    sandbox.close().await;
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_with_its_processes() {
    let sandbox = sandbox().await;
    let marker = format!("78{}", std::process::id());
    let request = python(&format!("import subprocess\nsubprocess.Popen(['sleep', '{marker}'])"));
    let (ttl, cancel) = (Duration::from_millis(400), CancellationToken::new());
    let begun = sandbox.call("a", Opening::New, ttl, request, quiet(), &cancel).await;
    assert_eq!(begun.expect("a session").outcome, Outcome::Ok);
    assert!(!processes_with(&marker).is_empty());
    eventually("it is gone", || sandbox.sessions() == 0 && processes_with(&marker).is_empty()).await;
    assert_eq!(call_as(&sandbox, "a", Opening::Known, python("1")).await.err(), Some(NoSession::Lost));
    // Use renews it: a call that takes longer than its time to live is use.
    let slow = python("import time\ntime.sleep(1)\nx = 1");
    sandbox.call("b", Opening::New, ttl, slow, quiet(), &cancel).await.expect("a session");
    let report = sandbox.call("b", Opening::Known, ttl, python("x"), quiet(), &cancel).await;
    assert_eq!(report.expect("still there").last_value(), Some("1"));
    assert!(sandbox.end_session("b") && !sandbox.end_session("b"));
    sandbox.close().await;
}

#[tokio::test]
async fn there_are_no_more_sessions_than_allowed() {
    let sandbox = sandbox_as(Config { sessions: 1, ..Config::default() }).await;
    call(&sandbox, "a", python("1")).await;
    assert_eq!(call_as(&sandbox, "b", Opening::New, python("1")).await.err(), Some(NoSession::TooMany(1)));
    assert!(sandbox.end_session("a"));
    assert_eq!(call(&sandbox, "b", python("1")).await.outcome, Outcome::Ok);
    sandbox.close().await;
}

#[tokio::test]
async fn an_answer_that_is_forged_ahead_costs_the_session_and_nobody_else() {
    let sandbox = sandbox().await;
    let forge = "
import json, os
body = json.dumps({'done': {'call': 2, 'exit': 0}}).encode()
for fd in range(3, 256):
    try: os.write(fd, b'J' + len(body).to_bytes(4, 'big') + body)
    except OSError: pass
";
    let report = call(&sandbox, "a", python(forge)).await;
    assert!(report.session_lost, "an answer to a call that was never made");
    assert_eq!(call(&sandbox, "b", python("1 + 1")).await.last_value(), Some("2"));
    sandbox.close().await;
}

#[tokio::test]
async fn warm_sandboxes_serve_one_task_each_and_are_made_anew() {
    let imports = vec!["json".to_owned(), "no_such_module".to_owned()];
    let sandbox = sandbox_as(Config { warm: 2, imports, ..Config::default() }).await;
    sandbox.is_warm().await;
    assert_eq!(sandbox.warm(), 2);
    let report =
        run(&sandbox, python("import sys\nopen('/tmp/f', 'x').close()\n'json' in sys.modules")).await;
    assert_eq!(report.last_value(), Some("True"), "{}", stderr(&report));
    for _ in 0..4 {
        let report = run(&sandbox, python("open('/tmp/f', 'x').close()")).await;
        assert_eq!(report.outcome, Outcome::Ok, "another's file: {}", stderr(&report));
    }
    sandbox.is_warm().await;
    let narrow = Limits { memory: 64 << 20, ..Limits::default() };
    let bomb = Request { limits: narrow, ..python("x = bytearray(256 << 20)") };
    let report = sandbox.run(bomb, quiet(), &CancellationToken::new()).await;
    assert_eq!(report.outcome, Outcome::OutOfMemory, "a task's own limits hold in a warm sandbox");
    let small = Limits { workspace: 4 << 20, ..Limits::default() };
    let fill = Request { limits: small, ..python("open('/workspace/f', 'wb').write(bytes(8 << 20))") };
    let report = sandbox.run(fill, quiet(), &CancellationToken::new()).await;
    assert_eq!(report.outcome, Outcome::DiskFull, "one whose mounts differ is made for the task");
    sandbox.close().await;
    assert_eq!(sandbox.warm(), 0);
}

#[tokio::test]
async fn s11_a_cancel_finds_a_sandbox_at_every_age() {
    let sandbox = sandbox().await;
    for wait in [0, 5, 15, 30, 60, 120] {
        let cancel = CancellationToken::new();
        let run = sandbox.run(python("import time\ntime.sleep(60)"), quiet(), &cancel);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            cancel.cancel();
            cancel.cancel();
        };
        let (report, ()) = tokio::join!(run, stop);
        assert_eq!(report.outcome, Outcome::Cancelled, "after {wait} ms: {}", report.message);
    }
    assert_eq!(run(&sandbox, python("1")).await.outcome, Outcome::Ok);
    sandbox.close().await;
}

#[tokio::test]
async fn files_go_in_and_come_out() {
    let sandbox = sandbox().await;
    let request = Request {
        inputs: vec![
            json!({ "path": "in/a.txt", "text": "one" }),
            json!({ "path": "b.bin", "base64": "AAEC" }),
        ],
        outputs: vec!["*.out".into(), "in/a.txt".into()],
        ..python(
            "data = open('in/a.txt').read() + str(open('b.bin', 'rb').read())\nopen('r.out', 'w').write(data)",
        )
    };
    let report = run(&sandbox, request).await;
    assert_eq!(report.outcome, Outcome::Ok, "{:?}", report.error);
    let files: Vec<(&str, &[u8])> =
        report.files.iter().map(|file| (file.name.as_str(), &file.bytes[..])).collect();
    assert_eq!(files, [("r.out", &b"oneb'\\x00\\x01\\x02'"[..]), ("in/a.txt", b"one")]);
    let missing = Request { outputs: vec!["none.txt".into()], ..python("1") };
    assert_eq!(refusal(run(&sandbox, missing).await), "FileNotFoundError");
    sandbox.close().await;
}

#[tokio::test]
async fn files_of_a_session_are_written_read_listed_and_deleted() {
    let sandbox = sandbox().await;
    let ask = |name, arguments| call(&sandbox, "a", tool(name, arguments));
    let written = ask("files.write", json!({ "path": "a/b.txt", "text": "hello" })).await;
    assert_eq!(answer(&written)["size"], 5);
    ask("files.write", json!({ "path": "a/b.txt", "text": " you", "append": true })).await;
    let read = answer(&ask("files.read", json!({ "path": "a/b.txt", "offset": 1, "length": 4 })).await);
    assert_eq!(
        (&read["content"], &read["next_offset"], &read["size"]),
        (&json!("ello"), &json!(5), &json!(9))
    );
    let read = answer(&ask("files.read", json!({ "path": "a/b.txt", "encoding": "base64" })).await);
    assert_eq!(read["content"], "aGVsbG8geW91");
    let listed = answer(&ask("files.list", json!({ "path": ".", "depth": 3 })).await);
    let paths: Vec<&str> =
        listed["entries"].as_array().expect("a list").iter().filter_map(|one| one["path"].as_str()).collect();
    assert_eq!(paths, ["a", "a/b.txt"]);
    assert_eq!(answer(&ask("files.stat", json!({ "path": "a" })).await)["kind"], "folder");
    assert_eq!(refusal(ask("files.delete", json!({ "path": "a" })).await), "OSError");
    assert_eq!(
        answer(&ask("files.delete", json!({ "path": "a", "recursive": true })).await)["deleted"],
        true
    );
    assert_eq!(refusal(ask("files.read", json!({ "path": "a/b.txt" })).await), "FileNotFoundError");
    let large = json!({ "path": "large", "text": "x".repeat(200_000) });
    ask("files.write", large).await;
    let report = ask("files.read", json!({ "path": "large" })).await;
    assert_eq!((report.files.len(), report.files[0].bytes.len()), (1, 200_000));
    assert_eq!(answer(&report)["artifact"], json!({ "$file": 0 }));
    sandbox.close().await;
}

#[tokio::test]
async fn s13_no_path_leads_out_of_the_workspace_and_none_hangs() {
    let sandbox = sandbox().await;
    let make = "
import os, socket
os.symlink('/etc/passwd', 'out')
os.symlink('../../..', 'up')
os.symlink('/proc/self/root/etc/passwd', 'proc')
os.symlink('a.txt', 'fine')
open('a.txt', 'w').write('mine')
os.link('a.txt', 'hard')
os.mkfifo('fifo')
s = socket.socket(socket.AF_UNIX); s.bind('socket')
";
    assert_eq!(call(&sandbox, "a", python(make)).await.outcome, Outcome::Ok);
    let read = |path: &'static str| call(&sandbox, "a", tool("files.read", json!({ "path": path })));
    for path in
        ["out", "up/etc/passwd", "proc", "../etc/passwd", "/etc/passwd", "/proc/self/environ", "/dev/zero"]
    {
        assert_eq!(refusal(read(path).await), "OutsideWorkspace", "{path}");
    }
    for path in ["fifo", "socket", ".", "up/workspace"] {
        let kind = refusal(read(path).await);
        assert!(["NotAFile", "IsADirectoryError"].contains(&kind.as_str()), "{path}: {kind}");
    }
    for path in ["fine", "hard", "a.txt", "up/workspace/a.txt"] {
        assert_eq!(answer(&read(path).await)["content"], "mine", "{path}");
    }
    for path in ["", "\0", "a\0b"] {
        let report = call(&sandbox, "a", tool("files.read", json!({ "path": path }))).await;
        assert_eq!(refusal(report), "BadPath");
    }
    for pattern in ["out", "fifo", "../etc/passwd", "/proc/self/environ"] {
        let request = Request { outputs: vec![pattern.into()], ..python("1") };
        let report = call(&sandbox, "a", request).await;
        assert_eq!((report.outcome, report.files.len()), (Outcome::Error, 0), "{pattern}");
    }
    sandbox.close().await;
}

#[tokio::test]
async fn values_come_in_the_forms_that_they_offer() {
    let sandbox = sandbox().await;
    let code = r#"
class Rich:
    def __repr__(self): return "rich"
    def _repr_html_(self): return "<b>x</b>"
    def _repr_svg_(self): return "<svg>" + " " * 20000 + "</svg>"
    def _repr_png_(self): return b"\x89PNG..."
    def _repr_json_(self): return {"a": [1]}
    def _repr_latex_(self): raise ValueError("fails")
display("first", Rich)
Rich()
"#;
    let report = run(&sandbox, python(code)).await;
    assert_eq!(report.outcome, Outcome::Ok, "{}", stderr(&report));
    assert_eq!(report.results.len(), 3);
    assert_eq!(report.results[0], json!({ "text": "'first'" }));
    let rich = &report.results[2];
    assert_eq!(
        (&rich["text"], &rich["html"], &rich["json"]),
        (&json!("rich"), &json!("<b>x</b>"), &json!({ "a": [1] }))
    );
    assert!(rich.get("latex").is_none());
    let names: Vec<(&str, &str)> =
        report.files.iter().map(|file| (file.name.as_str(), file.media_type.as_str())).collect();
    assert_eq!(names, [("result.svg", "image/svg+xml"), ("result.png", "image/png")]);
    assert_eq!((&rich["svg"], &rich["png"]), (&json!({ "$file": 0 }), &json!({ "$file": 1 })));
    sandbox.close().await;
}

#[tokio::test]
async fn a_value_too_large_to_send_is_said_to_be_left_out() {
    let code = "class Big:\n    def _repr_png_(self): return bytes(11 << 20)\nBig()";
    let report = run(&sandbox().await, python(code)).await;
    assert_eq!(report.outcome, Outcome::Ok, "{}", stderr(&report));
    assert!(report.results[0]["png"]["omitted"].is_string(), "{:?}", report.results);
}

#[tokio::test]
async fn code_is_analysed_and_not_run() {
    let sandbox = sandbox().await;
    let code = "
import os, subprocess as sp
from shutil import rmtree
print('this must not be seen')
class A(dict):
    def f(self, x, *rest):
        if x and rest: return [y for y in rest if y]
        return missing
def g():
    sp.run(['ls']); eval('1'); rmtree('/'); os.system('x')
";
    let report = run(&sandbox, tool("code.analyze", json!({ "code": code }))).await;
    let told = answer(&report);
    assert_eq!((&told["valid"], stdout(&report).as_str()), (&json!(true), ""));
    let calls: Vec<&str> =
        told["findings"].as_array().expect("a list").iter().filter_map(|one| one["call"].as_str()).collect();
    assert_eq!(calls, ["subprocess.run", "eval", "shutil.rmtree", "os.system"]);
    assert_eq!(told["undefined"], json!([{ "name": "missing", "line": 8 }]));
    assert_eq!(told["classes"][0], json!({ "name": "A", "line": 5, "bases": ["dict"], "methods": ["f"] }));
    let f = &told["functions"].as_array().expect("a list").iter().find(|one| one["name"] == "f");
    assert_eq!(f.expect("f")["complexity"], 4);
    assert_eq!(told["imports"][1], json!({ "module": "subprocess", "line": 2 }));
    let told = answer(&run(&sandbox, tool("code.analyze", json!({ "code": "x = = 1" }))).await);
    assert_eq!((&told["valid"], &told["syntax_error"]["line"]), (&json!(false), &json!(1)));
    let deep = "(".repeat(100_000);
    let report = run(&sandbox, tool("code.analyze", json!({ "code": deep }))).await;
    assert_eq!(report.outcome == Outcome::Ok, report.output.is_some(), "{}", report.message);
    sandbox.close().await;
}

#[tokio::test]
async fn a_command_gets_the_environment_that_it_is_given_and_no_other() {
    let mut env = serde_json::Map::new();
    env.insert("GREETING".into(), json!("hello"));
    let argv = vec!["/bin/sh".into(), "-c".into(), "echo $GREETING; env | wc -l".into()];
    let program = Program::Command { argv, stdin: String::new(), cwd: "/workspace".into(), env };
    let report = run(&sandbox().await, asking(program)).await;
    let lines: Vec<String> = stdout(&report).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "hello");
    assert!(lines[1].trim().parse::<u32>().is_ok_and(|names| names <= 10), "{lines:?}");
}

#[tokio::test]
async fn output_of_a_call_is_its_own_although_processes_live_on() {
    let sandbox = sandbox().await;
    let start = "import subprocess\nchild = subprocess.Popen(['sh', '-c', 'while sleep 0.02; do echo tick; done'])\nprint('one')";
    let heard = Heard::default();
    let (cancel, request) = (CancellationToken::new(), python(start));
    let report = sandbox.call("a", Opening::New, LONG, request, heard.output(), &cancel).await;
    assert!(stdout(&report.expect("a session")).starts_with("one\n"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let report = call(&sandbox, "a", python("child.kill(); child.wait(); print('two')")).await;
    assert!(stdout(&report).matches("tick").count() < 8, "{}", stdout(&report));
    assert!(stdout(&report).ends_with("two\n"));
    sandbox.close().await;
}
