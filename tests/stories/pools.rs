//! Pools of a real server: processes that come with the work and go after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rollcall::client::Client;
use serde_json::{Value, json};

use crate::support::process::free_port;
use crate::support::program::Server;

mod providers;

/// How long anything here may take: starting sandboxes on a busy machine does.
const PATIENCE: Duration = Duration::from_secs(90);

/// The Python worker, as the build leaves it beside the server's program.
fn sandbox() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_rollcall")).parent().expect("it is in a folder");
    let program = built.join("rollcall-python-sandbox");
    let missing = "run `make test`, or `cargo build --workspace` first";
    assert!(program.exists(), "{} is missing: {missing}", program.display());
    program
}

/// A pool of them that forgets quickly.
fn config(more: &str) -> String {
    format!(
        "heartbeat: {{ interval: 1s }}\nworkers: []\npools:\n  - name: python\n    worker:\n      \
         endpoint: 'ws://127.0.0.1:{{port}}'\n      capabilities: [python.execute, command.execute]\n      \
         slots: 1\n      launch: {{ command: ['{}', --listen, '127.0.0.1:{{port}}'] }}\n    \
         scaling: {{ min: 1, max: 4, target_load: 1, downscale_delay: 3s{more} }}\n",
        sandbox().display()
    )
}

/// A pool whose workers a hook starts, elsewhere for all that the server knows, and which dial in.
fn hooked(folder: &Path, server: &str) -> String {
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories/pools/hook.py");
    format!(
        "heartbeat: {{ interval: 1s }}\nworkers: []\npools:\n  - name: python\n    worker: {{ slots: 1, capabilities: \
         [command.execute] }}\n    scaling:\n      min: 0\n      max: 3\n      downscale_delay: 2s\n      \
         downscale_to_zero_delay: 2s\n      provider: exec\n      hook: {{ timeout: 30s, command: [python3, '{}', '{}', '{}', \
         '{server}'] }}\n",
        hook.display(),
        folder.display(),
        sandbox().display(),
    )
}

/// A running server, and what it says of its pool.
struct Stage {
    server: Server,
    client: Client,
}

impl Stage {
    fn start(config: &str) -> Self {
        let server = Server::start(config);
        let client = Client::new(server.base()).expect("an address");
        Self { server, client }
    }

    async fn get(&self, path: &str) -> Value {
        self.client.get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    async fn pool(&self) -> Value {
        self.get("/v1/pools/python").await
    }

    /// Waits until the pool is like this.
    async fn pool_is(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let pool = self.pool().await;
            if fits(&pool) {
                return pool;
            }
            assert!(begun.elapsed() < PATIENCE, "the pool never was {what}: {pool:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The processes of the pool's workers.
    async fn processes(&self) -> BTreeMap<String, i32> {
        let workers = self.get("/v1/workers").await;
        let workers = workers["items"].as_array().expect("a list").iter();
        workers
            .filter_map(|worker| {
                let pid = i32::try_from(worker["program"]["pid"].as_i64()?).ok()?;
                Some((worker["name"].as_str()?.to_owned(), pid))
            })
            .collect()
    }

    /// Submits so many tasks that take so long each; their ids.
    async fn burst(&self, count: usize, seconds: f64) -> Vec<String> {
        let task = json!({
            "capability": "command.execute",
            "input": { "argv": ["sleep", seconds.to_string()] },
        });
        let tasks = json!({ "tasks": vec![task; count] });
        let request = rollcall::client::Request::new(hyper::Method::POST, "/v1/tasks/batch");
        let request = request.json(&tasks).expect("JSON");
        let answer: Value = self.client.send(request).await.expect("taken").json().expect("JSON");
        assert_eq!(answer["accepted"], count, "{answer:#}");
        let items = answer["items"].as_array().expect("a list").iter();
        items.map(|item| item["task"]["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Waits until every task has succeeded.
    async fn all_succeed(&self, tasks: &[String]) {
        let begun = Instant::now();
        for task in tasks {
            loop {
                let task = self.get(&format!("/v1/tasks/{task}")).await;
                match task["state"].as_str() {
                    Some("succeeded") => break,
                    Some("queued" | "assigned" | "running") => {}
                    _ => panic!("a task was lost: {task:#}"),
                }
                assert!(begun.elapsed() < PATIENCE, "it does not end: {task:#}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn is_gone(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_err()
}

#[tokio::test]
async fn a_burst_grows_the_pool_by_real_processes_of_which_half_are_killed_and_no_task_is_lost() {
    let stage = Stage::start(&config(""));
    stage.pool_is("at its least", |pool| pool["ready"] == 1).await;
    let tasks = stage.burst(40, 0.4).await;
    stage.pool_is("at its most", |pool| pool["ready"] == 4).await;
    let grown = stage.processes().await;
    assert_eq!(grown.len(), 4, "{grown:?}");
    for pid in grown.values().take(2) {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("it runs");
    }
    stage.all_succeed(&tasks).await;
    stage.pool_is("at its least again", |pool| pool["instances"] == 1 && pool["draining"] == 0).await;
    let left = stage.processes().await;
    assert_eq!(left.len(), 1, "{left:?}");
    let begun = Instant::now();
    while grown.iter().filter(|(name, _)| !left.contains_key(*name)).any(|(_, pid)| !is_gone(*pid)) {
        assert!(begun.elapsed() < PATIENCE, "processes outlive the pool's shrinking: {grown:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = stage.get("/v1/pools/python/decisions").await;
    let ways: Vec<(&str, i64)> = told["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|it| it["direction"] != "hold")
        .map(|it| (it["reason"].as_str().expect("a word"), it["to"].as_i64().expect("a number")))
        .collect();
    assert!(ways.contains(&("backlog", 4)), "{told:#}");
    assert_eq!(ways.first().map(|(_, to)| *to), Some(1), "{told:#}");
    let explained = stage.server.says(&["pools", "explain", "python", "--all"]);
    assert!(explained.contains("tasks wait") && explained.contains("ceil(("), "{explained}");
    assert!(explained.contains("capacity: "), "{explained}");
    let policy = stage.server.trace("new.yaml");
    std::fs::write(&policy, config("").replace("max: 4", "max: 1")).expect("written");
    let policy = policy.to_str().expect("UTF-8");
    let beside = stage.server.says(&["pools", "simulate", "--policy", policy, "-o", "json"]);
    let beside: Value = serde_json::from_str(&beside).expect("JSON");
    let (old, new) = (&beside["items"][0]["old"], &beside["items"][0]["new"]);
    assert_eq!((&old["tasks"], &new["tasks"]), (&json!(40), &json!(40)), "{beside:#}");
    assert!(old["wait_mean_seconds"].as_f64() < new["wait_mean_seconds"].as_f64(), "{beside:#}");
    assert!(stage.server.says(&["pools", "simulate", "--policy", policy]).contains("WORKER-HOURS"));
}

#[tokio::test]
async fn a_pool_at_zero_starts_a_worker_for_the_first_task() {
    let zero = config(", downscale_to_zero_delay: 3s").replace("min: 1", "min: 0");
    let stage = Stage::start(&zero);
    let tasks = stage.burst(1, 0.0).await;
    stage.all_succeed(&tasks).await;
    stage.pool_is("empty again", |pool| pool["instances"] == 0 && pool["desired"] == 0).await;
}

#[tokio::test]
async fn a_person_scales_pauses_and_is_refused_what_the_bounds_forbid() {
    let stage = Stage::start(&config(""));
    stage.pool_is("at its least", |pool| pool["ready"] == 1).await;
    assert_eq!(stage.server.says(&["pools", "scale", "python", "2"]), "python is to have 2 workers\n");
    stage.server.says(&["pools", "--as", "ann", "pause", "python"]);
    let pool = stage.pool_is("at two", |pool| pool["ready"] == 2).await;
    assert_eq!((&pool["paused"], &pool["paused_by"]), (&json!(true), &json!("ann")));
    let refused = stage.server.asked(&["pools", "scale", "python", "9"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("1 to 4"), "{told}");
    let unknown = stage.server.asked(&["pools", "explain", "nobody"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no pool"), "{unknown:?}");
    let listed = stage.server.says(&["pools", "ls"]);
    assert!(listed.contains("python") && listed.contains("process"), "{listed}");
}

#[tokio::test]
async fn a_command_makes_workers_that_dial_in_and_takes_them_away_again() {
    let (folder, address) = (tempfile::tempdir().expect("a folder"), free_port());
    let config = hooked(folder.path(), &format!("ws://{address}"));
    let server = Server::start_listening(address, &config);
    let client = Client::new(server.base()).expect("an address");
    let stage = Stage { server, client };
    let tasks = stage.burst(12, 0.4).await;
    stage.pool_is("at its most", |pool| pool["ready"] == 3).await;
    stage.all_succeed(&tasks).await;
    stage.pool_is("empty again", |pool| pool["instances"] == 0 && pool["draining"] == 0).await;
    let begun = Instant::now();
    let left = || {
        let files = std::fs::read_dir(folder.path()).expect("a folder");
        files.filter_map(Result::ok).filter(|it| it.path().extension().is_some_and(|it| it == "pid")).count()
    };
    while left() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the hook was not told of its victims");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = std::fs::read_to_string(folder.path().join("asked")).expect("it was called");
    let asked: Vec<Value> = asked.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&asked[0]["from"], &asked[0]["reason"]), (&json!(0), &json!("backlog")), "{asked:#?}");
    assert_eq!(asked.last().expect("some")["to"], 0, "{asked:#?}");
    let metrics = client_text(&stage, "/metrics").await;
    let calls = metrics.lines().find(|line| {
        line.starts_with("rollcall_autoscaler_hook_calls_total{") && line.contains("outcome=\"ok\"")
    });
    assert!(calls.is_some_and(|line| !line.ends_with(" 0")), "{calls:?}");
}

async fn client_text(stage: &Stage, path: &str) -> String {
    let request = rollcall::client::Request::new(hyper::Method::GET, path);
    let answer = stage.client.send(request).await.expect("an answer");
    String::from_utf8_lossy(&answer.body).into_owned()
}
