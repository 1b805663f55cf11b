//! The same configuration as it stands: the server launches the Python worker, which runs code in its
//! sandbox.

use std::time::Duration;

use nix::sys::signal::Signal;
use rollcall::agent::{ExecuteError, ExecutorAgent, Task};
use rollcall::fleet::TaskState;
use serde_json::{Value, json};

use super::{
    CONFIG, HEARTBEATS, counted, heartbeats_arrive, three_of_three, told_in_order,
    unknown_capabilities_are_refused,
};
use crate::support::asking::data;
use crate::support::process::{free_port, send};
use crate::support::sandbox::program;
use crate::support::{PATIENCE, Server, eventually};

/// The configuration with this program at a free port, and the port.
fn config() -> (String, String) {
    let address = free_port().to_string();
    let config = CONFIG
        .replace("127.0.0.1:3001", &address)
        .replace("[rollcall-python-sandbox,", &format!("[\"{}\",", program().display()));
    (format!("{config}{HEARTBEATS}"), address)
}

/// A server that has launched the worker, and the worker's address.
async fn server() -> (Server, String) {
    let (config, address) = config();
    let server = Server::start(&config);
    server.worker_is("python-sandbox", "ready").await;
    (server, address)
}

async fn python(server: &Server, code: &str) -> Value {
    server.run("python.execute", json!({ "code": code })).await
}

/// The process that was launched to listen there.
fn process_at(address: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("Linux");
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        program.ends_with(b"/rollcall-python-sandbox") && words.any(|word| word == address.as_bytes())
    })
}

#[tokio::test]
async fn an_agent_starts_in_another_program() {
    let agent = ExecutorAgent::builder_of_yaml(config().0)
        .rollcall_program(env!("CARGO_BIN_EXE_rollcall"))
        .start()
        .await
        .expect("it starts");
    agent.ready(PATIENCE).await.expect("all are ready");
    let run = async |code: &str| {
        let task = Task::new("python.execute").input(json!({ "code": code }));
        agent.execute(task.timeout(Duration::from_secs(20))).await
    };
    let outcome = run("print(6*7)").await.expect("it succeeds");
    assert_eq!(outcome.output["stdout"], "42\n");
    match run("1/0").await {
        Err(ExecuteError::Failed(outcome)) => assert_eq!(outcome.state, TaskState::Failed),
        other => panic!("it must fail: {other:?}"),
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn three_of_three_workers_join() {
    let (server, _) = server().await;
    three_of_three(&server).await;
    let worker = server.get("/v1/workers/python-sandbox").await;
    assert_eq!((&worker["mock"], &worker["launched"]), (&json!(false), &json!(true)), "{worker}");
    assert_eq!((&worker["kind"], &worker["isolation"]), (&json!("python-sandbox"), &json!("full")));
    let offers = worker["capabilities"].as_array().expect("a list");
    for name in ["python.execute", "command.execute", "files.read", "code.analyze"] {
        assert!(offers.contains(&json!(name)), "{worker}");
    }
}

#[tokio::test]
async fn tasks_are_run() {
    let (server, _) = server().await;
    let task = python(&server, "print(6*7)").await;
    assert_eq!((&task["state"], &task["output"]["stdout"]), (&json!("succeeded"), &json!("42\n")), "{task}");
    assert!(task["usage"]["wall_ms"].is_u64(), "{task}");
    let task = server.run("command.execute", json!({ "argv": ["echo", "hello"] })).await;
    assert_eq!((&task["state"], &task["output"]["stdout"]), (&json!("succeeded"), &json!("hello\n")));
    let task = server.run("browser.screenshot", json!({ "url": "x" })).await;
    assert_eq!(task["attempts"][0]["worker"], "browser");
}

#[tokio::test]
async fn what_happens_is_told_in_order_while_it_happens() {
    let (server, _) = server().await;
    let code = "import time\nfor n in range(5):\n    print(n, flush=True)\n    time.sleep(0.2)\n";
    let task = server.submit("python.execute", json!({ "code": code })).await;
    let told = told_in_order(&server, &task).await;
    let output: Vec<_> = told.iter().filter(|event| event.event == "output").map(data).collect();
    assert!(output.len() > 1, "piece by piece: {told:?}");
    let mut stdout = String::new();
    for piece in &output {
        assert_eq!(piece["offset"], stdout.len(), "nothing is left out: {output:?}");
        stdout.push_str(piece["data"].as_str().expect("text"));
    }
    assert_eq!(stdout, "0\n1\n2\n3\n4\n");
    let (first, last) = (&output[0]["at"], &data(told.last().expect("an end"))["at"]);
    assert!(first.as_str() < last.as_str(), "the first piece was told before the end");
    let kept = server.task(&task).await;
    assert_eq!(kept["output"]["stdout"], stdout, "{kept}");
}

#[tokio::test]
async fn silence_is_noticed() {
    let (server, address) = server().await;
    heartbeats_arrive(&server, "python-sandbox").await;
    let before = server.get("/v1/workers/python-sandbox").await;
    let pid = process_at(&address).expect("it was launched");
    send(pid, Signal::SIGSTOP);
    server.worker_is("python-sandbox", "suspect").await;
    let task = server.submit("python.execute", json!({ "code": "print(6*7)" })).await;
    let waiting = server.task(&task).await;
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("queued"), &json!([])), "{waiting}");
    send(pid, Signal::SIGCONT);
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!(ended["output"]["stdout"], "42\n");
    let after = server.worker_is("python-sandbox", "ready").await;
    assert_eq!(after["instance"], before["instance"], "nobody restarted it");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let (server, _) = server().await;
    let raised = python(&server, "def f():\n    raise KeyError('nothing here')\nf()").await;
    assert_eq!((&raised["state"], &raised["error"]["code"]), (&json!("failed"), &json!("error")), "{raised}");
    assert_eq!((&raised["error"]["fault"], &raised["error"]["retryable"]), (&json!("caller"), &json!(false)));
    assert_eq!(raised["attempts"].as_array().map(Vec::len), Some(1), "not tried again: {raised}");
    let told = &raised["output"]["error"];
    assert_eq!(told["type"], "KeyError", "{raised}");
    let traceback = told["traceback"].as_str().expect("a traceback");
    assert!(traceback.contains("line 2, in f") && traceback.contains("nothing here"), "{traceback}");

    let body = json!({
        "capability": "python.execute", "execution_timeout": "1s",
        "input": { "code": "print('up', flush=True)\nwhile True: pass" },
    });
    let (status, late) = server.post("/v1/tasks?wait=20s", body.to_string()).await;
    assert_eq!((status, &late["state"]), (200, &json!("timed_out")), "{late}");
    assert_eq!((&late["error"]["code"], &late["output"]["stdout"]), (&json!("timeout"), &json!("up\n")));
    let exit = server.run("command.execute", json!({ "shell": "echo no >&2; exit 3" })).await;
    assert_eq!((&exit["state"], &exit["error"]["code"]), (&json!("failed"), &json!("exit")), "{exit}");
    assert_eq!((&exit["output"]["exit_code"], &exit["output"]["stderr"]), (&json!(3), &json!("no\n")));
    unknown_capabilities_are_refused(&server).await;
    // None of it was the worker's fault.
    server.worker_is("python-sandbox", "ready").await;
    assert_eq!(python(&server, "print(1)").await["state"], "succeeded");
}

#[tokio::test]
async fn all_of_it_is_counted_reconnects_too() {
    let (server, address) = server().await;
    counted(&server, "python.execute", json!({ "code": "print(1)" })).await;
    let before = server.get("/v1/workers/python-sandbox").await;
    send(process_at(&address).expect("it was launched"), Signal::SIGKILL);
    eventually("it was launched again", async || {
        let worker = server.get("/v1/workers/python-sandbox").await;
        let back = worker["state"] == "ready" && worker["instance"] != before["instance"];
        if back { Ok(()) } else { Err(worker.to_string()) }
    })
    .await;
    server.metric_reaches("rollcall_pool_reconnects_total", &["pool=\"static\""], 1.0).await;
    assert_eq!(python(&server, "print(6*7)").await["output"]["stdout"], "42\n");
}
