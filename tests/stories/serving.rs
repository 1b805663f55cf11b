//! The server as a program: starting it, steering it from the command line and by signals, and
//! ending it, gently and not.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::program::{Server, eventually, rollcall};

/// Two mocks: one echoes, one takes its time.
const MOCKS: &str = "
workers:
  - { name: ann, interface: mock, capabilities: [echo] }
  - { name: slow, interface: mock, capabilities: [sleep], mock: { latency: 10m } }
";

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A launched shell script that never connects; `$HERE` is the server's folder.
fn launched(script: &str) -> String {
    let command = serde_json::json!(["sh", "-c", script]);
    format!(
        "workers:\n  - name: py\n    interface: websocket\n    endpoint: ws://127.0.0.1:9\n    \
         capabilities: [echo]\n    launch: {{ command: {command}, env: {{ HERE: \"${{HERE}}\" }} }}\n"
    )
}

/// The pids of a launched family of three: in the group, out of it, and orphaned.
fn family(server: &Server) -> Vec<i32> {
    eventually("the pids", || {
        let text = fs::read_to_string(server.trace("pids")).unwrap_or_default();
        let pids: Vec<i32> = text.split_inclusive('\n').filter_map(|line| line.trim().parse().ok()).collect();
        (text.ends_with('\n') && pids.len() == 3).then_some(pids)
    })
}

const FAMILY: &str = "sleep 1000 & echo $! >> $HERE/pids; setsid sleep 1000 & echo $! >> $HERE/pids; \
     (setsid sh -c 'sleep 1000 & echo $! >> $HERE/pids' &); wait";

#[test]
fn a_task_is_run_and_looked_at_from_the_command_line() {
    let mut server = Server::start(MOCKS);
    eventually("both workers", || server.says(&["status"]).contains("2 ready").then_some(()));
    let workers = server.says(&["workers", "ls"]);
    assert!(workers.lines().nth(1).is_some_and(|line| line.starts_with("ann   ready")), "{workers}");
    assert_eq!(server.says(&["run", "echo", "--input", "{\"n\":7}"]), "{\n  \"n\": 7\n}\n");
    let tasks: serde_json::Value =
        serde_json::from_str(&server.says(&["tasks", "ls", "-o", "json"])).expect("it is JSON");
    let id = tasks["items"][0]["id"].as_str().expect("the task has an id");
    assert!(server.says(&["tasks", "get", id]).contains("succeeded"));
    assert!(server.says(&["tasks", "get", id, "-o", "yaml"]).starts_with("id: "));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(), Some(0));
    let replayed =
        rollcall(&["replay", "--quiet"]).arg(server.trace("recording")).output().expect("as before");
    assert!(replayed.status.success(), "{replayed:?}");
}

#[test]
fn a_refused_task_a_waiting_one_and_a_stopped_one_are_told_apart() {
    let server = Server::start(MOCKS);
    let refused = server.asked(&["run", "ecko"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("\"echo\""), "{refused:?}");
    server.says(&["workers", "cordon", "ann", "--as", "eve"]);
    let waiting = server.says(&["run", "echo", "--detach"]);
    let waiting = waiting.trim();
    let why = server.says(&["tasks", "explain", waiting]);
    for part in
        ["ann: cordoned by eve ", "slow: does not offer echo", "to mend it: rollcall workers uncordon ann"]
    {
        assert!(why.contains(part), "{part:?} is missing in:\n{why}");
    }
    assert!(server.says(&["tasks", "cancel", waiting]).contains("is cancelled"));
    assert!(server.says(&["tasks", "ls", "--state", "cancelled"]).contains(waiting));
    server.says(&["workers", "uncordon", "ann"]);
    let again = server.says(&["tasks", "retry", waiting]);
    assert!(again.contains(&format!("repeats {waiting}")), "{again}");
    let unknown = server.asked(&["workers", "describe", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn a_program_writes_into_the_log_under_its_workers_name() {
    let server =
        Server::start(&launched("printf 'here I am \\033[31m\\n'; echo and there >&2; exec sleep 1000"));
    let line = server.logs("here I am");
    assert!(line.contains("worker=py") && line.contains("\\u{1b}[31m"), "{line}");
    assert!(server.logs("and there").contains("stream=\"stderr\""));
}

#[test]
fn nothing_is_left_when_the_server_is_killed() {
    let mut server = Server::start(&launched(FAMILY));
    let family = family(&server);
    assert!(family.iter().all(|pid| runs(*pid)));
    server.signal(Signal::SIGKILL);
    server.ended();
    eventually("the end of all it launched", || family.iter().all(|pid| !runs(*pid)).then_some(()));
}

#[test]
fn nothing_is_left_when_the_server_stops() {
    let mut server = Server::start(&launched(FAMILY));
    let family = family(&server);
    server.signal(Signal::SIGINT);
    assert_eq!(server.ended(), Some(0));
    assert!(family.iter().all(|pid| !runs(*pid)));
}

#[test]
fn sighup_reads_the_file_again() {
    let server = Server::start(MOCKS);
    let config = fs::read_to_string(server.trace("config.yaml")).expect("it was written");
    fs::write(server.trace("config.yaml"), config + "  - { nam: bob }\n").expect("as before");
    server.signal(Signal::SIGHUP);
    let line = server.logs("trigger=\"sighup\"");
    assert!(line.contains("was not taken"), "{line}");
    assert!(server.says(&["status"]).contains("failed"));
    assert_eq!(server.asked(&["reload"]).status.code(), Some(1));
}

/// Puts a pipe that nobody writes to in the place of a file: who reads it waits.
fn put_pipe(at: &Path) {
    let pipe = at.with_extension("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("a pipe can be made");
    fs::rename(&pipe, at).expect("it can be put there");
}

#[test]
fn a_topology_that_hangs_while_it_is_read_holds_up_neither_work_nor_the_end() {
    let mut server = Server::start(MOCKS);
    put_pipe(&server.config());
    server.signal(Signal::SIGHUP);
    // It is not waited for to the end of days...
    let line = server.logs("is it a pipe that nobody writes to");
    assert!(line.contains("config.yaml: cannot be read"), "{line}");
    assert!(server.says(&["status"]).contains("failed"));
    // ... and not at all by who wants to stop, though the next look hangs already.
    server.signal(Signal::SIGHUP);
    server.signal(Signal::SIGTERM);
    let begun = Instant::now();
    assert_eq!(server.ended(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn a_topology_that_hangs_at_the_start_is_told_and_can_be_given_up() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("config.yaml");
    put_pipe(&file);
    let mut child = rollcall(&["serve", "--config"])
        .arg(&file)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("rollcall can be started");
    let stderr = child.stderr.take().expect("it was asked for");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut line).expect("it says so");
    assert!(line.contains("waiting for") && line.contains("config.yaml"), "{line}");
    crate::support::process::send(child.id(), Signal::SIGTERM);
    let begun = Instant::now();
    let ended = eventually("its end", || child.try_wait().expect("it can be asked"));
    assert_eq!(ended.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn told_twice_to_stop_it_ends_at_once() {
    let mut server = Server::start(MOCKS);
    let path = format!("{}/v1/tasks?wait=60s", server.base());
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("as before");
        let (base, rest) = path.split_at(path.find("/v1").expect("it is there"));
        let client = rollcall::client::Client::new(base).expect("a good address");
        let task = serde_json::json!({"capability": "sleep"});
        runtime.block_on(client.post::<serde_json::Value>(rest, &task)).is_err()
    });
    eventually("the running task", || {
        let slow = server.says(&["workers", "describe", "slow"]);
        slow.contains("1 of 4 used").then_some(())
    });
    server.signal(Signal::SIGTERM);
    server.logs("stopping");
    assert!(server.still_runs(), "it did not wait for the caller");
    server.signal(Signal::SIGTERM);
    let begun = Instant::now();
    assert_eq!(server.ended(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(waiting.join().is_ok_and(|failed| failed));
}

#[test]
fn an_address_that_is_taken_is_named_before_anything_is_started() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = taken.local_addr().expect("it is bound");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("config.yaml");
    fs::write(&file, format!("server: {{ listen: \"{address}\" }}\nworkers: []\n")).expect("as before");
    let output = rollcall(&["serve", "--config"]).arg(file).output().expect("rollcall can be started");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains(&format!("cannot listen on {address}")) && said.contains("server.listen"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_wrong_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("config.yaml");
    fs::write(&file, "workers:\n  - { name: a, interface: mokc }\n").expect("the folder can be written");
    let output = rollcall(&["serve", "--config"]).arg(file).output().expect("rollcall can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("mokc") && said.contains("nothing was started"), "{said}");
}
