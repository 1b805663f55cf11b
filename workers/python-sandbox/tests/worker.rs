//! The worker program as a server meets it: a process of its own, spoken to in `rollcall.v1`.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::index::Index;
use common::link::{PROGRAM, TOKEN, Worker, call, text};
use common::{eventually, processes_with, wheels};
use nix::sys::signal::{Signal, kill};
use rollcall_protocol::{Cancel, FromServer, SUBPROTOCOL, Status};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[tokio::test]
async fn a_server_sees_what_is_offered_and_gets_what_code_does() {
    let worker = Worker::start().await;
    let (mut link, register) = worker.meet().await;
    assert_eq!(register["kind"], "python-sandbox");
    assert_eq!((&register["isolation"], &register["slots"]), (&json!("full"), &json!(3)));
    let offers = register["capabilities"].as_array().expect("a list");
    let names: Vec<&str> = offers.iter().filter_map(|offer| offer["name"].as_str()).collect();
    let all = [
        "python.execute",
        "python.reset",
        "command.execute",
        "files.read",
        "files.write",
        "files.list",
        "files.delete",
        "files.stat",
        "package.list",
        "code.analyze",
    ];
    assert_eq!(names, all, "nothing can be installed without wheels");
    for offer in offers {
        let kept = ["python.reset", "files"]
            .iter()
            .any(|word| offer["name"].as_str().is_some_and(|name| name.starts_with(word)));
        assert_eq!(offer["idempotent"], json!(!kept), "{offer}");
        assert_eq!(offer["input_schema"]["type"], "object");
        assert_eq!(offer["input_schema"]["additionalProperties"], json!(false));
    }
    let code = format!("import os\nprint('hello', '{TOKEN}' in str(os.environ))\n6 * 7");
    let ended = link.run("python.execute", json!({ "code": code })).await;
    assert_eq!(ended.status, Status::Succeeded);
    assert_eq!(ended.live, "hello False\n");
    assert_eq!(
        ended.output,
        json!({
            "outcome": "ok", "stdout": "hello False\n", "stderr": "", "exit_code": 0,
            "truncated": { "stdout": 0, "stderr": 0, "results": 0 }, "results": [{ "text": "42" }]
        })
    );
    for name in ["wall_ms", "cpu_ms", "peak_memory_bytes"] {
        assert!(ended.usage[name].is_u64(), "{name}: {}", ended.usage);
    }
    let ended = link.run("command.execute", json!({ "argv": ["cat"], "stdin": "in" })).await;
    assert_eq!((ended.status, &ended.output["stdout"]), (Status::Succeeded, &json!("in")));
    // The standard three, and the folder that ls reads: none of the worker's own.
    let ended = link.run("command.execute", json!({ "shell": "ls /proc/self/fd" })).await;
    assert_eq!(ended.output["stdout"], "0\n1\n2\n3\n");
}

#[tokio::test]
async fn failures_of_the_code_are_the_callers_and_are_not_tried_again() {
    let worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let ended = link.run("python.execute", json!({ "code": "raise KeyError('x')" })).await;
    assert_eq!((ended.status, ended.error), (Status::Failed, Some(("error".into(), false))));
    assert_eq!(ended.output["error"]["type"], "KeyError");
    let ended = link.run("command.execute", json!({ "shell": "exit 3" })).await;
    assert_eq!((ended.status, ended.error), (Status::Failed, Some(("exit".into(), false))));
    assert_eq!(ended.output["exit_code"], 3);
    let ended = link.run("command.execute", json!({ "argv": [] })).await;
    assert_eq!(ended.error, Some(("invalid_input".into(), false)));
    let page = worker.page("/metrics").await;
    assert!(page.contains("rollcall_sandbox_runs_total{outcome=\"exit\"} 1"), "{page}");
    assert!(worker.page("/healthz").await.contains("\"status\":\"ok\""));
}

#[tokio::test]
async fn a_task_ends_by_its_limit_or_by_a_cancel_with_what_it_wrote() {
    let worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let input = json!({ "code": "import time\nprint('up')\ntime.sleep(60)" });
    link.execute("limit", "python.execute", &input, Duration::from_secs(1)).await;
    let ended = link.ended("limit").await;
    assert_eq!((ended.status, ended.error), (Status::TimedOut, Some(("timeout".into(), false))));
    assert_eq!((&ended.output["outcome"], &ended.output["stdout"]), (&json!("timeout"), &json!("up\n")));
    link.execute("cancel", "python.execute", &input, Duration::from_secs(60)).await;
    link.until_output("up").await;
    let cancel = Cancel { task: "cancel".into(), epoch: link.epoch, reason: "cancelled".into() };
    link.send(&FromServer::from(cancel)).await;
    let ended = link.ended("cancel").await;
    assert_eq!((ended.status, &ended.output["outcome"]), (Status::Cancelled, &json!("cancelled")));
}

#[tokio::test]
async fn s04_however_much_is_printed_the_worker_stays_as_small_as_it_was() {
    let worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let line = "import sys\npiece = 'x' * (1 << 20)\nfor _ in range(1024): sys.stdout.write(piece)";
    let tasks = [
        ("command.execute", json!({ "shell": "yes" })),
        ("command.execute", json!({ "shell": "yes 1>&2" })),
        ("command.execute", json!({ "shell": "yes & yes 1>&2" })),
        ("python.execute", json!({ "code": line })),
    ];
    // What it needs for one such task is taken once.
    link.run(tasks[0].0, tasks[0].1.clone()).await;
    let before = resident(worker.pid().as_raw(), "VmRSS:");
    for (capability, input) in tasks {
        let ended = link.run(capability, input.clone()).await;
        assert_eq!(ended.error, Some(("output_limit".into(), false)), "{input}");
        let dropped = |stream: &str| ended.output["truncated"][stream].as_u64().unwrap_or(0);
        assert!(dropped("stdout") + dropped("stderr") > 60 << 20, "{}", ended.output["truncated"]);
    }
    let grown = resident(worker.pid().as_raw(), "VmHWM:").saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
}

/// A line of a process's status, in bytes.
fn resident(pid: i32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let told = status.lines().find_map(|told| told.strip_prefix(line)).expect("a known line");
    told.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test]
async fn s18_sandboxes_die_with_a_killed_worker() {
    let mut worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let marker = format!("75{}", std::process::id());
    let input = json!({ "shell": format!("setsid sleep {marker} & echo up; sleep {marker}") });
    link.execute("t", "command.execute", &input, Duration::from_secs(60)).await;
    link.until_output("up").await;
    assert!(!processes_with(&marker).is_empty());
    worker.child.kill().await.expect("our own child");
    eventually("no sandbox is left", || processes_with(&marker).is_empty()).await;
}

#[tokio::test]
async fn sigterm_is_a_clean_end_with_a_goodbye() {
    let mut worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let input = json!({ "shell": "echo up; sleep 1; echo finished" });
    link.execute("t", "command.execute", &input, Duration::from_secs(60)).await;
    link.until_output("up").await;
    kill(worker.pid(), Signal::SIGTERM).expect("it runs");
    let goodbye: Value = serde_json::from_str(&link.text().await).expect("JSON");
    assert_eq!(goodbye["type"], "goodbye");
    let ended = link.ended("t").await;
    assert_eq!((ended.status, &ended.output["stdout"]), (Status::Succeeded, &json!("up\nfinished\n")));
    assert!(worker.child.wait().await.expect("our own child").success());
}

#[tokio::test]
async fn a_worker_whose_server_is_gone_ends_with_all_its_sandboxes() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // The worker inherits the pipe as its standard input; any number will do.
    let mut child = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0"])
        .env("ROLLCALL_LIFELINE_FD", "0")
        .stdin(reader)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = lines.next_line().await.expect("a pipe");
    assert!(line.is_some_and(|line| line.starts_with("listening on ")));
    drop(writer);
    child.wait().await.expect("our own child");
}

#[tokio::test]
async fn a_wrong_token_and_an_open_port_without_one_are_refused() {
    let worker = Worker::start().await;
    let mut request = format!("ws://{}/", worker.address).into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("plain"));
    assert!(connect_async(request).await.is_err());
    let output = call(Path::new(PROGRAM), &["--listen", "0.0.0.0:0"], |_| {}).await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("token"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn s21_packages_come_from_wheels_and_from_nowhere_else() {
    let (wheels, home) = (open_folder(), open_folder());
    for (name, megabytes) in [("small", 0), ("other", 0), ("huge", 210)] {
        wheels::make(wheels.path(), name, "1.0", megabytes);
    }
    std::fs::write(wheels.path().join("source-1.0.tar.gz"), "no wheel").expect("a file");
    let worker = with_packages(&home, &format!("wheels: {:?}", wheels.path())).await;
    let (mut link, register) = worker.meet().await;
    let offers = register["capabilities"].as_array().expect("a list");
    assert!(offers.iter().any(|offer| offer["name"] == "package.install"));
    let ended = link.run_in("a", "package.install", json!({ "packages": ["small==1.0"] })).await;
    assert_eq!(ended.status, Status::Succeeded, "{}", ended.output);
    let installed = &ended.output["installed"][0];
    assert_eq!((&installed["name"], &installed["version"]), (&json!("small"), &json!("1.0")));
    assert_eq!(installed["sha256"].as_str().map(str::len), Some(64), "{installed}");
    let code = "import small, subprocess, sys\nprint(small.VERSION, flush=True)\n\
                subprocess.run([sys.executable, '-c', 'import small; print(small.__file__)'])\n\
                open(small.__file__, 'a')";
    let ended = link.run_in("a", "python.execute", json!({ "code": code })).await;
    assert!(ended.live.starts_with("1.0\n/packages/"), "{}", ended.live);
    assert_eq!(ended.output["error"]["type"], "PermissionError", "what is installed cannot be written");
    let ended = link.run_in("a", "package.list", json!({})).await;
    let listed = ended.output["packages"].as_array().expect("a list");
    assert!(listed.iter().any(|one| one["name"] == "small"), "{}", ended.output);
    // Another session has it only when it asks.
    let ended = link.run_in("b", "python.execute", json!({ "code": "import small" })).await;
    assert_eq!(ended.output["error"]["type"], "ModuleNotFoundError");
    for wrong in
        ["-r/etc/passwd", "../small", "https://example.org/x.whl", "small @ file:///wheels/x.whl", "--pre"]
    {
        let ended = link.run_in("a", "package.install", json!({ "packages": [wrong] })).await;
        assert_eq!(ended.error, Some(("invalid_input".into(), false)), "{wrong}");
    }
    for missing in ["source", "nowhere", "small==2.0"] {
        let ended = link.run_in("a", "package.install", json!({ "packages": [missing] })).await;
        assert_eq!(ended.output["error"]["type"], "NotInstalled", "{missing}: {}", ended.output);
    }
    let ended = link.run_in("a", "package.install", json!({ "packages": ["huge"] })).await;
    assert_eq!(ended.error, Some(("disk_full".into(), false)), "{}", ended.output);
    let ended = link.run("package.install", json!({ "packages": ["small"] })).await;
    assert_eq!(ended.error, Some(("session_required".into(), false)));
    let left = std::fs::read_dir(home.path().join("staging")).expect("its folder").count();
    assert_eq!(left, 0, "nothing is left of installations");
}

/// A folder where the sandbox's own user gets to.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("our own folder");
    folder
}

/// A worker with these fields in its section about packages.
async fn with_packages(home: &tempfile::TempDir, fields: &str) -> Worker {
    let config = home.path().join("sandbox.yaml");
    let text = format!("packages: {{ home: {:?}, {fields} }}\nwarm: {{ size: 0 }}\n", home.path());
    std::fs::write(&config, text).expect("a file");
    Worker::start_as(&[PROGRAM, "--config", config.to_str().expect("UTF-8")]).await
}

#[tokio::test]
async fn s21_an_index_gives_what_is_allowed_and_the_installer_sees_nothing_else_of_the_network() {
    let (files, home) = (open_folder(), open_folder());
    let index = Index::serve(
        files.path(),
        &[
            ("small", "1.0", &[]),
            ("needs-small", "1.0", &["small"]),
            ("greedy", "1.0", &["unlisted"]),
            ("unlisted", "1.0", &[]),
            ("far", "1.0", &[]),
            ("plain", "1.0", &[]),
        ],
    )
    .await;
    let fields =
        format!("mode: allowlist, index: {:?}, allow: [Small, needs_small, greedy, far, plain]", index.url());
    let worker = with_packages(&home, &fields).await;
    let (mut link, register) = worker.meet().await;
    let offers = register["capabilities"].as_array().expect("a list");
    assert!(offers.iter().any(|offer| offer["name"] == "package.install"));
    let ended = link.run_in("a", "package.install", json!({ "packages": ["needs.small"] })).await;
    assert_eq!(ended.status, Status::Succeeded, "{} {:?}", ended.output, ended.error);
    let names: Vec<&str> = ended.output["installed"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["needs-small", "small"]);
    assert!(ended.output["installed"][0]["sha256"].as_str().is_some_and(|hash| hash.len() == 64));
    let ended = link
        .run_in("a", "python.execute", json!({ "code": "import needs_small, small\nsmall.VERSION" }))
        .await;
    assert_eq!(ended.output["results"][0]["text"], "'1.0'", "{}", ended.output);
    let ended = link.run_in("a", "package.install", json!({ "packages": ["plain"] })).await;
    assert!(ended.output["installed"][0]["record_sha256"].is_string(), "{}", ended.output);
    for (wanted, words) in [
        ("smal", "did you mean"),
        ("unlisted", "not among"),
        ("greedy", "needs another package"),
        // Its page leads to another host.
        ("far", "which packages.hosts"),
    ] {
        let ended = link.run_in("a", "package.install", json!({ "packages": [wanted] })).await;
        assert_eq!(ended.status, Status::Failed, "{wanted}");
        assert!(ended.output.to_string().contains(words), "{wanted}: {}", ended.output);
    }
    let ended = link.run_in("a", "python.execute", json!({ "code": "import greedy" })).await;
    assert_eq!(ended.output["error"]["type"], "ModuleNotFoundError", "nothing is kept of it");
    // What runs in the session has no way out, neither by the installer's door nor otherwise.
    let code = "import os\n[path for path in ('/run/rollcall/proxy', '/wheels', '/staging') if os.path.exists(path)]";
    let ended = link.run_in("a", "python.execute", json!({ "code": code })).await;
    assert_eq!(ended.output["results"][0]["text"], "[]", "{}", ended.output);
    for folder in ["staging", "doors"] {
        let left = std::fs::read_dir(home.path().join(folder)).expect("its folder").count();
        assert_eq!(left, 0, "nothing is left of installations in {folder}");
    }
    assert_eq!(index.strangers(), 0, "the other host heard of nobody");
}

#[tokio::test]
async fn s21_an_open_worker_installs_from_the_index_that_pip_uses_here() {
    let home = open_folder();
    let worker = with_packages(&home, "mode: open, allow: [six]").await;
    let (mut link, _) = worker.meet().await;
    let ended = link.run_in("a", "package.install", json!({ "packages": ["six==1.16.0"] })).await;
    assert_eq!(ended.status, Status::Succeeded, "{} {:?}", ended.output, ended.error);
    let ended = link.run_in("a", "python.execute", json!({ "code": "import six\nsix.__version__" })).await;
    assert_eq!(ended.output["results"][0]["text"], "'1.16.0'", "{}", ended.output);
    let ended = link.run_in("a", "package.install", json!({ "packages": ["sixx"] })).await;
    assert!(ended.output.to_string().contains("did you mean"), "{}", ended.output);
}
