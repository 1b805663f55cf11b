//! Ordinary runs: what code prints, returns, raises and exits with, and how it is stopped.

mod common;

use std::time::{Duration, Instant};

use common::{
    Heard, asking, command, processes_with, python, quiet, run, sandbox, shell, stderr, stdout, within,
};
use rollcall_python_sandbox::{Outcome, Program, Sandbox};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn what_python_prints_comes_back() {
    let report = run(&sandbox().await, python("print(1)")).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Ok, Some(0)), "{}", stderr(&report));
    assert_eq!(stdout(&report), "1\n");
    assert_eq!(report.last_value(), None);
    assert!(report.usage.cpu.is_some_and(|cpu| !cpu.is_zero()));
    assert!(report.usage.peak_memory.is_some_and(|bytes| bytes > 1 << 20));
    assert!(report.usage.wall > Duration::ZERO);
}

#[tokio::test]
async fn the_value_of_the_last_expression_is_told() {
    let sandbox = sandbox().await;
    let report = run(&sandbox, python("x = 6\nx * 7")).await;
    assert_eq!(report.last_value(), Some("42"));
    assert_eq!(stdout(&report), "");
    let report = run(&sandbox, python("'\\ud800'")).await;
    assert_eq!((report.outcome, report.last_value()), (Outcome::Ok, Some("'\\ud800'")));
    let report = run(&sandbox, python("")).await;
    assert_eq!((report.outcome, report.last_value()), (Outcome::Ok, None));
}

#[tokio::test]
async fn standard_error_is_kept_apart() {
    let report =
        run(&sandbox().await, python("import sys\nprint('out')\nprint('err', file=sys.stderr)")).await;
    assert_eq!((stdout(&report).as_str(), stderr(&report).as_str()), ("out\n", "err\n"));
}

#[tokio::test]
async fn an_exception_is_told_with_the_codes_own_lines_and_none_of_ours() {
    let report = run(&sandbox().await, python("def f(x):\n    return 1 / x\n\nf(0)\n")).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Error, Some(1)));
    let error = report.error.as_ref().expect("an exception");
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("ZeroDivisionError", "division by zero"));
    let traceback = error.traceback.as_deref().expect("a stack");
    assert!(traceback.contains("line 2, in f\n    return 1 / x"), "{traceback}");
    assert!(!traceback.contains("runner"), "{traceback}");
    assert_eq!(stderr(&report), traceback);
}

#[tokio::test]
async fn a_syntax_error_points_at_the_line() {
    let report = run(&sandbox().await, python("x = 1\ny = = 2\n")).await;
    let error = report.error.expect("a syntax error");
    assert_eq!(error.kind, "SyntaxError");
    assert!(error.traceback.expect("a place").contains("line 2"));
}

#[tokio::test]
async fn s12_what_no_command_line_holds_goes_through_standard_input() {
    let sandbox = sandbox().await;
    let long = "x".repeat(200 << 10);
    let report = run(&sandbox, command(&["echo", &long], "")).await;
    assert_eq!(report.outcome, Outcome::Error, "{}", report.message);
    assert_eq!(report.error.expect("an error").kind, "CommandNotStarted");
    let report = run(&sandbox, command(&["wc", "-c"], &"y".repeat(3 << 20))).await;
    assert_eq!(stdout(&report).trim(), (3 << 20).to_string());
    let report =
        run(&sandbox, python("# -*- coding: utf-8 -*-\nx = '\u{e9}'\nprint(x, ascii('\\udce9'))")).await;
    assert_eq!(stdout(&report), "\u{e9} '\\udce9'\n", "{}", stderr(&report));
}

#[tokio::test]
async fn s12_code_that_no_file_could_hold_is_a_clear_error() {
    let report = run(&sandbox().await, python("print(1)\0")).await;
    assert_eq!(report.outcome, Outcome::Error);
    assert!(report.error.expect("an error").message.contains("null bytes"));
}

#[tokio::test]
async fn exit_codes_are_told_apart_from_signals() {
    let sandbox = sandbox().await;
    let report = run(&sandbox, python("import sys; sys.exit(3)")).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Exit, Some(3)));
    let report = run(&sandbox, python("raise SystemExit(0)")).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Ok, Some(0)));
    let report = run(&sandbox, python("import sys; sys.exit(137)")).await;
    assert_eq!((report.outcome, report.exit_code, report.signal), (Outcome::Exit, Some(137), None));
    let report = run(&sandbox, python("import os; os.kill(os.getpid(), 11)")).await;
    assert_eq!((report.outcome, report.exit_code, report.signal), (Outcome::Signal, None, Some(11)));
    let report = run(&sandbox, shell("exit 7")).await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Exit, Some(7)));
    let report = run(&sandbox, shell("kill -TERM $$")).await;
    assert_eq!((report.outcome, report.signal), (Outcome::Signal, Some(15)));
}

#[tokio::test]
async fn a_command_reads_its_input_and_starts_where_it_is_told() {
    let sandbox = sandbox().await;
    let large = "line\n".repeat(100_000);
    let report = run(&sandbox, command(&["wc", "-l"], &large)).await;
    assert_eq!((report.outcome, stdout(&report).trim()), (Outcome::Ok, "100000"));
    let argv = vec!["pwd".into()];
    let (stdin, env) = (String::new(), serde_json::Map::new());
    let report =
        run(&sandbox, asking(Program::Command { argv, stdin, cwd: "/workspace/a/b".into(), env })).await;
    assert_eq!(stdout(&report), "/workspace/a/b\n", "{}", stderr(&report));
    // A program that never reads must not hang the writer.
    let report = run(&sandbox, command(&["true"], &large)).await;
    assert_eq!(report.outcome, Outcome::Ok);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_to_be_missing() {
    let report = run(&sandbox().await, command(&["no-such-program"], "")).await;
    assert_eq!(report.outcome, Outcome::Error);
    assert_eq!(report.error.expect("an error").kind, "CommandNotFound");
}

#[tokio::test]
async fn output_is_handed_on_while_the_code_runs() {
    let sandbox = sandbox().await;
    let (heard, cancel) = (Heard::default(), CancellationToken::new());
    let code = "import time\nprint('early')\ntime.sleep(60)";
    let run = sandbox.run(python(code), heard.output(), &cancel);
    let watch = async {
        heard.until("early").await;
        cancel.cancel();
    };
    let (report, ()) = tokio::join!(run, watch);
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(stdout(&report), "early\n");
}

#[tokio::test]
async fn a_cancel_tells_whether_it_took_force() {
    let sandbox = sandbox().await;
    for (trap, killed) in [("trap 'exit 0' TERM", false), ("trap '' TERM", true)] {
        let (heard, cancel) = (Heard::default(), CancellationToken::new());
        let code = format!("{trap}; echo early; while :; do sleep 0.05; done");
        let run = sandbox.run(shell(&code), heard.output(), &cancel);
        let watch = async {
            heard.until("early").await;
            cancel.cancel();
        };
        let (report, ()) = tokio::join!(run, watch);
        assert_eq!((report.outcome, report.killed), (Outcome::Cancelled, killed), "{trap}");
    }
}

#[tokio::test]
async fn one_megabyte_of_code_runs() {
    let code = format!("x = '''{}'''\nprint(len(x))", "y".repeat(1 << 20));
    let report = run(&sandbox().await, python(&code)).await;
    assert_eq!(stdout(&report).trim(), (1 << 20).to_string(), "{}", stderr(&report));
}

#[tokio::test]
async fn s09_a_daemon_in_the_classic_way_ends_with_its_task() {
    let marker = format!("70{}", std::process::id());
    // A daemon in the classic way: two forks, a session of its own, no stream held, no signal heeded.
    let script = format!(
        "trap '' TERM; (setsid sh -c \"trap '' TERM; sleep {marker}\" </dev/null >/dev/null 2>&1 &) ; echo up; sleep {marker}"
    );
    let sandbox = sandbox().await;
    let begun = Instant::now();
    let report = run(&sandbox, within(Duration::from_secs(4), shell(&script))).await;
    assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Timeout, "up\n"));
    assert!(processes_with(&marker).is_empty());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_program_may_clear_up_when_its_time_is_over() {
    let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let report = run(&sandbox().await, within(Duration::from_secs(4), shell(script))).await;
    assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Timeout, "up\nbye\n"));
}

#[tokio::test]
async fn s10_a_stopped_process_is_killed_all_the_same() {
    let code = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)";
    let report = run(&sandbox().await, within(Duration::from_millis(800), python(code))).await;
    assert_eq!(report.outcome, Outcome::Timeout);
}

#[tokio::test]
async fn a_cancel_before_the_start_and_one_after_the_end_do_no_harm() {
    let sandbox = sandbox().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let report = sandbox.run(python("print(1)"), quiet(), &cancel).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    let cancel = CancellationToken::new();
    let report = sandbox.run(python("print(1)"), quiet(), &cancel).await;
    cancel.cancel();
    assert_eq!(report.outcome, Outcome::Ok);
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_is_cleared_away() {
    let marker = format!("71{}", std::process::id());
    let sandbox = sandbox().await;
    let (heard, cancel) = (Heard::default(), CancellationToken::new());
    let request = shell(&format!("echo up; sleep {marker}"));
    tokio::select! {
        _ = sandbox.run(request, heard.output(), &cancel) => panic!("it sleeps"),
        () = heard.until("up") => {}
    }
    sandbox.close().await;
    assert!(processes_with(&marker).is_empty());
}

#[tokio::test]
async fn runs_at_once_do_not_meet() {
    let sandbox = sandbox().await;
    let code = "import os, time\nopen('/workspace/f', 'x').close()\nopen('/tmp/f', 'x').close()\n\
                time.sleep(0.3)\nprint(sum(name.isdigit() for name in os.listdir('/proc')))";
    let requests = [(); 4].map(|()| run(&sandbox, python(code)));
    for report in futures_util::future::join_all(requests).await {
        assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Ok, "2\n"), "{}", stderr(&report));
    }
}

#[tokio::test]
async fn ordinary_libraries_work() {
    let code = "
import asyncio, multiprocessing, subprocess, threading, tempfile, os, pwd, socket

def double(x): return 2 * x

thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
with multiprocessing.Pool(2) as pool: print(pool.map(double, [1, 2]))
print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())
async def main():
    child = await asyncio.create_subprocess_exec('echo', 'async', stdout=asyncio.subprocess.PIPE)
    print((await child.communicate())[0].decode().strip())
asyncio.run(main())
os.mkfifo('/tmp/fifo')
a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'
server = socket.create_server(('127.0.0.1', 0)); socket.create_connection(server.getsockname()).close()
with tempfile.TemporaryDirectory() as folder: open(folder + '/f', 'w').write('x')
print(pwd.getpwuid(os.getuid()).pw_dir, os.getcwd())
";
    let report = run(&sandbox().await, python(code)).await;
    let expected = "thread\n[2, 4]\nchild\nasync\n/workspace /workspace\n";
    assert_eq!((report.outcome, stdout(&report).as_str()), (Outcome::Ok, expected), "{}", stderr(&report));
}

/// Parts of CPython's own tests, all of which pass on the host too: programs that nobody here wrote, which
/// use processes, threads, pipes, temporary files, links, memory maps and event loops.
const CPYTHON: [&str; 22] = [
    "test_asyncio.test_locks",
    "test_asyncio.test_queues",
    "test_base64",
    "test_bisect",
    "test_dataclasses",
    "test_dict",
    "test_fractions",
    "test_functools",
    "test_heapq",
    "test_int",
    "test_json",
    "test_mmap",
    "test_pathlib",
    "test_posix",
    "test_pwd",
    "test_re",
    "test_resource",
    "test_shutil",
    "test_socketserver",
    "test_string",
    "test_struct",
    "test_tempfile",
];

/// Those of its modules that have tests which fail inside and pass outside, and which these are.
const DIFFERENT: [(&str, &[&str]); 1] = [
    // Nobody but the sandbox's own user has a number inside: giving a file to another is EINVAL there, and
    // EPERM outside.
    ("test_os", &["test_chown_without_permission"]),
];

/// Runs modules of CPython's own tests. The answer is how that ended, and what it told.
async fn cpythons_own(sandbox: &Sandbox, names: &[&str]) -> (Outcome, String) {
    let mut argv = vec!["python3", "-I", "-m", "unittest", "-q"];
    let modules: Vec<String> = names.iter().map(|name| format!("test.{name}")).collect();
    argv.extend(modules.iter().map(String::as_str));
    let limit = Duration::from_secs(240);
    let report = run(sandbox, within(limit, command(&argv, ""))).await;
    let told = stderr(&report);
    assert!(
        !told.contains("No module named 'test."),
        "CPython's tests are missing: run scripts/setup.sh run test VENV, or apt-get install \
         libpython3.NN-testsuite"
    );
    (report.outcome, told)
}

#[tokio::test]
async fn what_differs_in_cpythons_own_tests_is_known() {
    let sandbox = sandbox().await;
    for (name, expected) in DIFFERENT {
        let (_, told) = cpythons_own(&sandbox, &[name]).await;
        let failed = told.lines().filter_map(|line| {
            line.strip_prefix("FAIL: ").or(line.strip_prefix("ERROR: "))?.split(' ').next()
        });
        assert_eq!(failed.collect::<Vec<_>>(), expected, "{name}: {told}");
        assert!(told.contains("\nRan "), "{name}: {told}");
    }
    sandbox.close().await;
}

#[tokio::test]
async fn cpythons_own_tests_pass_inside() {
    let sandbox = sandbox().await;
    for names in CPYTHON.chunks(11) {
        let (outcome, told) = cpythons_own(&sandbox, names).await;
        assert_eq!(outcome, Outcome::Ok, "{told}");
        let ran: u32 =
            told.split("Ran ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
        assert!(ran > 100, "only {ran} tests ran: {told}");
    }
    sandbox.close().await;
}

#[tokio::test]
async fn s23_output_that_would_move_a_terminal_is_passed_on_as_it_is() {
    let code = "print('\\x1b[31m\\x1b]52;c;aGk=\\x07\\u202e\\x00', end='')";
    let report = run(&sandbox().await, python(code)).await;
    assert_eq!(stdout(&report), "\u{1b}[31m\u{1b}]52;c;aGk=\u{7}\u{202e}\0", "escaping is for who shows it");
}

#[tokio::test]
async fn s12_three_megabytes_of_code_run_and_a_mark_of_byte_order_is_no_error() {
    let code = format!("x = '''{}'''\nprint(len(x))", "y".repeat(3 << 20));
    let report = run(&sandbox().await, python(&code)).await;
    assert_eq!(stdout(&report).trim(), (3 << 20).to_string(), "{}", stderr(&report));
    let report = run(&sandbox().await, python("\u{feff}print(1)")).await;
    assert_eq!(stdout(&report), "1\n", "{}", stderr(&report));
}
