//! `ROLLCALL_WORKER_INTERFACE=mock`: the whole configuration without a single process.

use std::time::Duration;

use rollcall::agent::{ExecutorAgent, Task};
use serde_json::json;

use super::{
    CONFIG, HEARTBEATS, counted, heartbeats_arrive, three_of_three, told_in_order,
    unknown_capabilities_are_refused,
};
use crate::support::asking::outcomes;
use crate::support::{PATIENCE, Server};

const MOCK: [(&str, &str); 1] = [("ROLLCALL_WORKER_INTERFACE", "mock")];

fn server() -> Server {
    Server::with_env(&format!("{CONFIG}{HEARTBEATS}"), &MOCK)
}

#[tokio::test]
async fn an_agent_starts_in_another_program() {
    let agent = ExecutorAgent::builder_of_yaml(CONFIG).env(MOCK).start().await.expect("it starts");
    agent.ready(PATIENCE).await.expect("all are ready");
    let task = Task::new("python.execute").input(json!({ "code": "print(6*7)" }));
    let outcome = agent.execute(task.timeout(Duration::from_secs(10))).await.expect("it succeeds");
    assert_eq!(outcome.output, json!({ "code": "print(6*7)" }));
    agent.shutdown().await;
}

#[tokio::test]
async fn three_of_three_workers_join() {
    let server = server();
    three_of_three(&server).await;
    for name in super::WORKERS {
        let worker = server.get(&format!("/v1/workers/{name}")).await;
        assert_eq!((&worker["mock"], &worker["launched"]), (&json!(true), &json!(false)), "{worker}");
    }
}

#[tokio::test]
async fn tasks_are_run_by_who_offers_them() {
    let server = server();
    for (capability, worker, input) in [
        ("python.execute", "python-sandbox", json!({ "code": "print(6*7)" })),
        ("command.execute", "python-sandbox", json!({ "argv": ["echo", "hi"] })),
        ("browser.screenshot", "browser", json!({ "url": "http://localhost" })),
        ("figma.get_file", "figma", json!({ "key": "k" })),
    ] {
        let task = server.run(capability, input.clone()).await;
        assert_eq!((&task["state"], &task["output"]), (&json!("succeeded"), &input), "{task}");
        assert_eq!(task["attempts"][0]["worker"], worker);
    }
}

#[tokio::test]
async fn what_happens_is_told_in_order() {
    let server = server();
    server.worker_is("figma", "ready").await;
    let task = server.submit("figma.get_file", json!(1)).await;
    told_in_order(&server, &task).await;
}

#[tokio::test]
async fn heartbeats_are_noticed() {
    let server = server();
    for name in super::WORKERS {
        heartbeats_arrive(&server, name).await;
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    let failing = CONFIG.replace("mock: { latency: 100ms }", "mock: { latency: 100ms, failure_rate: 1 }");
    assert_ne!(failing, CONFIG);
    let server = Server::with_env(&format!("{failing}\nretry: {{ initial_interval: 10ms }}\n"), &MOCK);
    let (status, failed) =
        server.post("/v1/tasks?wait=20s", r#"{"capability":"figma.get_file","max_attempts":2}"#).await;
    assert_eq!((status, &failed["state"]), (200, &json!("failed")), "{failed}");
    assert_eq!(outcomes(&failed), ["failed", "failed"]);
    assert_eq!((&failed["error"]["fault"], &failed["dead_letter"]), (&json!("worker"), &json!(true)));
    let late = r#"{"capability":"figma.get_file","execution_timeout":"20ms"}"#;
    let (status, late) = server.post("/v1/tasks?wait=20s", late).await;
    assert_eq!((status, &late["state"]), (200, &json!("timed_out")), "{late}");
    assert_eq!((&late["error"]["code"], &late["error"]["fault"]), (&json!("timeout"), &json!("caller")));
    unknown_capabilities_are_refused(&server).await;
}

#[tokio::test]
async fn all_of_it_is_counted() {
    let server = server();
    counted(&server, "python.execute", json!({ "code": "" })).await;
    let failed = ["outcome=\"failed\""];
    assert_eq!(server.metric("rollcall_tasks_completed_total", &failed).await.unwrap_or(0.0), 0.0);
}
