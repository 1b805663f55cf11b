//! The Python sandbox through the whole server: what no single worker shows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::Method;
use nix::sys::signal::Signal;
use rollcall::client::Request;
use serde_json::json;

use crate::support::process::{free_port, send};
use crate::support::program;
use crate::support::sandbox::{Listening, pids, program as worker_program};
use crate::support::{Server, eventually};

/// Clients at once, and for how long they go on.
const CLIENTS: usize = 8;
const SOAK: Duration = Duration::from_secs(60);

/// What they do, in turns.
const KINDS: usize = 9;

/// An entry of a worker that the server launches.
fn launched(name: &str, slots: u32) -> (String, String) {
    let address = free_port().to_string();
    let program = worker_program();
    let entry = format!(
        "  - name: {name}\n    endpoint: ws://{address}\n    slots: {slots}\n    launch: {{ command: [\"{}\", --listen, \"{address}\", --warm, \"2\"] }}\n",
        program.display()
    );
    (entry, address)
}

#[tokio::test]
async fn s18_what_ran_on_a_killed_worker_runs_elsewhere_under_a_higher_number() {
    let ((ann, ann_at), (bob, _)) = (launched("ann", 4), launched("bob", 4));
    let server = Server::start(&format!("workers:\n{ann}{bob}"));
    for name in ["ann", "bob"] {
        server.worker_is(name, "ready").await;
    }
    let mut tasks = Vec::new();
    for number in 0..4 {
        let code = format!("import time\nprint('up', flush=True)\ntime.sleep(3)\n{number}");
        tasks.push(server.submit("python.execute", json!({ "code": code })).await);
    }
    eventually("all of them run", async || {
        for task in &tasks {
            let task = server.task(task).await;
            if task["state"] != "running" {
                return Err(task.to_string());
            }
        }
        Ok(())
    })
    .await;
    let [victim] = pids(&ann_at)[..] else { panic!("one process is the worker") };
    send(victim, Signal::SIGKILL);
    let mut moved = 0;
    for (number, task) in tasks.iter().enumerate() {
        let task = server.task_is(task, "succeeded").await;
        assert_eq!(task["output"]["results"][0]["text"], number.to_string(), "{task}");
        let attempts = task["attempts"].as_array().expect("a list");
        let epochs: Vec<u64> = attempts.iter().filter_map(|one| one["epoch"].as_u64()).collect();
        assert!(epochs.is_sorted_by(|one, next| one < next), "{task}");
        if attempts[0]["worker"] == "ann" {
            moved += 1;
            assert_eq!((attempts.len(), &attempts[0]["outcome"]), (2, &json!("worker_lost")), "{task}");
        }
    }
    assert!(moved > 0, "none of them was on the killed worker");
}

#[tokio::test]
async fn s12_code_that_no_body_may_hold_is_refused_with_its_size() {
    let (ann, _) = launched("ann", 2);
    let server = Server::start(&format!("workers:\n{ann}"));
    server.worker_is("ann", "ready").await;
    let code = format!("x = '''{}'''\nprint(len(x))", "y".repeat(3 << 20));
    let task = json!({ "capability": "python.execute", "input": { "code": code } });
    let (status, problem) = server.post("/v1/tasks?wait=20s", task.to_string()).await;
    assert_eq!(status, 413, "{problem}");
}

#[tokio::test]
async fn s23_what_would_move_a_terminal_is_escaped_where_it_is_shown() {
    let address = free_port();
    let _worker = Listening::start(address, &[]);
    let server = program::Server::start(&format!(
        "workers:\n  - {{ name: ann, endpoint: \"ws://{address}\", slots: 2 }}\n"
    ));
    let code = "print('\\x1b[31mred\\x1b]52;c;aGk=\\x07\\u202eback')";
    let input = server.trace("input.json");
    std::fs::write(&input, json!({ "code": code }).to_string()).expect("a file");
    // On a terminal, as a person has one: a pipe is given what was written.
    let program = env!("CARGO_BIN_EXE_rollcall");
    let asked =
        format!("{program} run python.execute --input @{} --server {}", input.display(), server.base());
    let mut terminal = std::process::Command::new("script");
    let terminal =
        terminal.args(["-qec", &asked, "/dev/null"]).env("NO_COLOR", "1").env_remove("ROLLCALL_KEY");
    let output = terminal.stdin(std::process::Stdio::null()).output().expect("script is part of Debian");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("red") && shown.contains("back"), "{shown}");
    let moves = |c: char| (c.is_control() && !"\r\n".contains(c)) || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!shown.contains(moves), "{shown:?}");
}

/// Eight clients for a minute, with failing and crashing code, time limits, cancels and sessions, and the
/// worker itself killed in the middle.
#[tokio::test]
async fn eight_clients_for_a_minute_leave_nothing_behind() {
    let (ann, address) = launched("ann", 8);
    let server = Server::start(&format!("heartbeat: {{ interval: 1s }}\nworkers:\n{ann}"));
    server.worker_is("ann", "ready").await;
    let worker = format!("http://{address}");
    let marker = format!("8{}", std::process::id());
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("procfs").lines().count();
    let (mounts_before, until) = (mounts(), Instant::now() + SOAK);
    let first = pids(&address);
    let kill = async {
        tokio::time::sleep(SOAK / 2).await;
        for pid in &first {
            send(*pid, Signal::SIGKILL);
        }
    };
    let clients = (0..CLIENTS).map(|client| {
        let (server, marker) = (&server, &marker);
        async move {
            let mut counts = [[0_u32; KINDS]; 2];
            let mut round = client;
            while Instant::now() < until {
                let as_wanted = one_of_many(server, round, client, marker).await;
                counts[usize::from(as_wanted)][round % KINDS] += 1;
                round += 1;
            }
            counts
        }
    });
    let (counts, ()) = tokio::join!(futures_util::future::join_all(clients), kill);
    let of = |how: usize, kind: usize| counts.iter().map(|one| one[how][kind]).sum::<u32>();
    let [odd, as_wanted] = [0, 1].map(|how| std::array::from_fn::<u32, KINDS, _>(|kind| of(how, kind)));
    // Around the worker's death some end otherwise than they would. How many there are in all is the
    // machine's affair, but none of the kinds may be missing.
    let most_are = odd.iter().sum::<u32>() * 3 < as_wanted.iter().sum();
    assert!(
        most_are && as_wanted.iter().all(|kind| *kind >= 3),
        "as they should: {as_wanted:?}, not: {odd:?}"
    );
    for client in 0..CLIENTS {
        server.send(Request::new(Method::DELETE, format!("/v1/sessions/s{client}"))).await;
    }
    let second = pids(&address);
    assert_eq!((first.len(), second.len()), (1, 1), "killed once, started once");
    let page = async || {
        let client = rollcall::client::Client::new(&worker).expect("its address");
        let page = client.send(Request::new(Method::GET, "/metrics")).await;
        page.map_or_else(|error| error.to_string(), |page| String::from_utf8_lossy(&page.body).into_owned())
    };
    eventually("the worker is idle and whole", async || {
        let page = page().await;
        let idle = ["running 0", "warm 2", "sessions 0", "stuck_groups 0"];
        let all = idle.iter().all(|line| page.contains(&format!("rollcall_sandbox_{line}\n")));
        if all { Ok(()) } else { Err(page) }
    })
    .await;
    eventually("its groups are those of the warm ones", async || {
        let groups = groups_of(second[0]);
        let most = groups.iter().map(|group| children(group).len()).max();
        if most == Some(2) { Ok(()) } else { Err(format!("{groups:?}: {most:?}")) }
    })
    .await;
    // Three pipes of results, one of requests and one of errors for each warm one, and what it began with.
    let open = std::fs::read_dir(format!("/proc/{}/fd", second[0])).expect("it runs").count();
    assert!(open < 60, "{open} descriptors");
    // Stories beside this one may have something mounted for a while.
    eventually("what was mounted is gone", async || {
        let now = mounts();
        if now <= mounts_before { Ok(()) } else { Err(format!("{now} mounts, {mounts_before} before")) }
    })
    .await;
    drop(server);
    let left = |what: &str| {
        let all = std::fs::read_dir("/proc").expect("procfs").flatten();
        let lines = all.filter_map(|one| std::fs::read(one.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(what)).count()
    };
    eventually("all processes are gone", async || {
        if pids(&address).is_empty() && left(&format!("sleep\0{marker}")) == 0 {
            Ok(())
        } else {
            Err(marker.clone())
        }
    })
    .await;
    for pid in [first[0], second[0]] {
        assert_eq!(groups_of(pid), Vec::<PathBuf>::new(), "the groups of {pid} stay");
    }
    let folders = std::fs::read_dir(std::env::temp_dir()).expect("a folder").flatten();
    let mine = |name: &str| {
        [first[0], second[0]].iter().any(|pid| name.starts_with(&format!("rollcall-bare.{pid}.")))
    };
    assert_eq!(folders.filter(|one| mine(&one.file_name().to_string_lossy())).count(), 0);
}

/// One task of some kind; whether it ended as such a one does.
async fn one_of_many(server: &Server, round: usize, client: usize, marker: &str) -> bool {
    let python = |code: &str| json!({ "capability": "python.execute", "input": { "code": code } });
    let shell = |script: &str| json!({ "capability": "command.execute", "input": { "shell": script } });
    let session = json!({ "session": format!("s{client}"), "session_ttl": "5s" });
    let (mut task, wanted) = match round % KINDS {
        0 | 1 => (python("print(1)"), "succeeded"),
        2 => (python("1 / 0"), "failed"),
        3 => (python("import os; os.kill(os.getpid(), 11)"), "failed"),
        4 => (shell(&format!("setsid sleep {marker} & exit 3")), "failed"),
        5 => (shell(&format!("sleep {marker}")), "timed_out"),
        6 => (shell(&format!("sleep {marker}")), "cancelled"),
        7 => (python("x = globals().get('x', 0) + 1; open('f', 'a').write('x' * 1000)"), "succeeded"),
        _ => (python(&format!("import subprocess; subprocess.Popen(['sleep', '{marker}'])")), "succeeded"),
    };
    match wanted {
        "timed_out" => task["execution_timeout"] = json!("300ms"),
        "cancelled" => {
            let (status, task) = server.post("/v1/tasks", task.to_string()).await;
            let Some(id) = task["id"].as_str().filter(|_| status == 202) else { return false };
            tokio::time::sleep(Duration::from_millis(7 * (round as u64 % 40))).await;
            server.post(&format!("/v1/tasks/{id}/cancel"), "").await;
            return server.task_is(&task, "cancelled").await["state"] == "cancelled";
        }
        _ => {}
    }
    if round % KINDS >= 7 {
        task["session"] = session["session"].clone();
        task["session_ttl"] = session["session_ttl"].clone();
    }
    let (status, answer) = server.post("/v1/tasks?wait=30s", task.to_string()).await;
    if status == 409 {
        // Its session was lost with the worker, or to its ttl: to be begun anew.
        server.send(Request::new(Method::DELETE, format!("/v1/sessions/s{client}"))).await;
    }
    status == 200 && answer["state"] == wanted
}

/// The folders in which a worker makes its control groups.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    let name = format!("rollcall-sandbox.{pid}.");
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

fn children(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}
