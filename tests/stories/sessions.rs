//! Sessions through the whole server, with the real worker: state between tasks, in order, until it is
//! deleted or lost.

use std::sync::Arc;

use hyper::Method;
use rollcall::client::{Client, Request};
use serde_json::{Value, json};

use crate::support::program;
use crate::support::sandbox::Listening;
use crate::support::{Server, eventually};

/// A server with two workers, each a process of its own.
async fn two_workers() -> Server {
    two_workers_with("").await
}

async fn two_workers_with(more: &str) -> Server {
    let entry = |name: &str| {
        let address = crate::support::process::free_port();
        format!(
            "  - name: {name}\n    endpoint: ws://{address}\n    slots: 4\n    launch: {{ command: [\"{}\", --listen, \"{address}\", --warm, \"1\"] }}\n",
            crate::support::sandbox::program().display()
        )
    };
    let server = Server::start(&format!("{more}workers:\n{}{}", entry("ann"), entry("bob")));
    for name in ["ann", "bob"] {
        server.worker_is(name, "ready").await;
    }
    server
}

async fn run_in(server: &Server, session: &str, capability: &str, input: Value) -> Value {
    let task = json!({ "capability": capability, "input": input, "session": session });
    let (status, task) = server.post("/v1/tasks?wait=60s", task.to_string()).await;
    assert_eq!(status, 200, "{task}");
    task
}

async fn python(server: &Server, session: &str, code: &str) -> Value {
    run_in(server, session, "python.execute", json!({ "code": code })).await
}

fn value(task: &Value) -> &Value {
    &task["output"]["results"][0]["text"]
}

fn worker_of(task: &Value) -> &str {
    task["attempts"][0]["worker"].as_str().expect("a worker")
}

#[tokio::test]
async fn a_session_stays_where_it_began_and_remembers() {
    let server = two_workers().await;
    let first = python(&server, "notes", "x = 1").await;
    assert_eq!(first["state"], "succeeded", "{first}");
    for round in 1..5 {
        let task = python(&server, "notes", "x = x + 1\nx").await;
        assert_eq!(value(&task), &json!((round + 1).to_string()), "{task}");
        assert_eq!(worker_of(&task), worker_of(&first));
    }
    let other = python(&server, "other", "'x' in globals()").await;
    assert_eq!(value(&other), "False");
    let written = run_in(&server, "notes", "files.write", json!({ "path": "a.txt", "text": "hello" })).await;
    assert_eq!(written["output"]["size"], 5, "{written}");
    let read = python(&server, "notes", "open('a.txt').read()").await;
    assert_eq!(value(&read), "'hello'");
    let listed = server.get("/v1/sessions").await;
    let names: Vec<&str> =
        listed["items"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["notes", "other"]);
    assert_eq!((&listed["items"][0]["state"], &listed["items"][0]["tasks"]), (&json!("open"), &json!(0)));
}

#[tokio::test]
async fn tasks_of_a_session_run_one_after_another_in_their_order() {
    let server = two_workers().await;
    python(&server, "line", "seen = []").await;
    let codes: Vec<String> = (0..6)
        .map(|n| format!("import time\ntime.sleep({})\nseen.append({n})\nseen", 0.05 * f64::from(6 - n)))
        .collect();
    let mut ids = Vec::new();
    for code in &codes {
        let task = json!({ "capability": "python.execute", "input": { "code": code }, "session": "line" });
        let (status, task) = server.post("/v1/tasks", task.to_string()).await;
        assert_eq!(status, 202, "{task}");
        ids.push(task["id"].as_str().expect("an id").to_owned());
    }
    let last = python(&server, "line", "seen").await;
    assert_eq!(value(&last), "[0, 1, 2, 3, 4, 5]", "{last}");
    for id in ids {
        assert_eq!(server.get(&format!("/v1/tasks/{id}")).await["state"], "succeeded");
    }
}

#[tokio::test]
async fn a_deleted_session_begins_anew_and_what_waited_in_it_is_cancelled() {
    let server = two_workers().await;
    python(&server, "gone", "x = 1").await;
    let sleep = json!({ "capability": "python.execute", "input": { "code": "import time; time.sleep(60)" }, "session": "gone" });
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let (_, task) = server.post("/v1/tasks", sleep.to_string()).await;
        waiting.push(task["id"].as_str().expect("an id").to_owned());
    }
    let deleted = server.send(Request::new(Method::DELETE, "/v1/sessions/gone")).await;
    assert_eq!(deleted.status.as_u16(), 200);
    for id in waiting {
        let task = server.get(&format!("/v1/tasks/{id}")).await;
        assert!(["cancelling", "cancelled"].contains(&task["state"].as_str().expect("a state")), "{task}");
    }
    let task = python(&server, "gone", "'x' in globals()").await;
    assert_eq!(value(&task), "False", "{task}");
    let deleted = server.send(Request::new(Method::DELETE, "/v1/sessions/never")).await;
    assert_eq!(deleted.status.as_u16(), 404);
}

#[tokio::test]
async fn a_session_whose_worker_died_is_lost_aloud_until_it_is_deleted() {
    let server = two_workers().await;
    let first = python(&server, "fragile", "x = 1").await;
    let name = worker_of(&first).to_owned();
    let before = server.get(&format!("/v1/workers/{name}")).await["instance"].clone();
    let (status, answer) = server.post(&format!("/v1/workers/{name}/restart"), "").await;
    assert_eq!(status, 200, "{answer}");
    eventually("another process", async || {
        let worker = server.get(&format!("/v1/workers/{name}")).await;
        let there = worker["state"] == "ready" && worker["instance"] != before;
        there.then_some(()).ok_or_else(|| worker.to_string())
    })
    .await;
    let task = json!({ "capability": "python.execute", "input": { "code": "x" }, "session": "fragile" });
    for _ in 0..2 {
        let (status, problem) = server.post("/v1/tasks?wait=30s", task.to_string()).await;
        assert_eq!((status, &problem["code"]), (409, &json!("session_lost")), "{problem}");
    }
    let listed = server.get("/v1/sessions").await;
    assert_eq!(listed["items"][0]["state"], "lost", "{listed}");
    server.send(Request::new(Method::DELETE, "/v1/sessions/fragile")).await;
    let fresh = python(&server, "fragile", "'x' in globals()").await;
    assert_eq!(value(&fresh), "False", "{fresh}");
}

#[tokio::test]
async fn a_call_that_costs_the_session_tells_so_and_the_next_one_is_refused() {
    let server = two_workers().await;
    python(&server, "hurt", "x = 1").await;
    let killed = python(&server, "hurt", "import os; os._exit(9)").await;
    assert_eq!((&killed["state"], &killed["output"]["session_lost"]), (&json!("failed"), &json!(true)));
    let task = json!({ "capability": "python.execute", "input": { "code": "x" }, "session": "hurt" });
    let (status, problem) = server.post("/v1/tasks?wait=30s", task.to_string()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("session_lost")), "{problem}");
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_after_its_ttl() {
    let server = two_workers().await;
    let task = json!({ "capability": "python.execute", "input": { "code": "x = 1" }, "session": "short", "session_ttl": "500ms" });
    let (status, _) = server.post("/v1/tasks?wait=30s", task.to_string()).await;
    assert_eq!(status, 200);
    eventually("it is lost", async || {
        let listed = server.get("/v1/sessions").await;
        (listed["items"][0]["state"] == "lost").then_some(()).ok_or_else(|| listed.to_string())
    })
    .await;
    let (status, problem) = server.post("/v1/tasks?wait=30s", task.to_string()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("session_lost")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("ttl")), "{problem}");
}

#[tokio::test]
async fn files_without_a_session_are_refused_with_what_is_missing() {
    let server = two_workers().await;
    let task = json!({ "capability": "files.list", "input": {} });
    let (_, task) = server.post("/v1/tasks?wait=30s", task.to_string()).await;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("session_required")));
}

#[tokio::test]
async fn a_figure_arrives_as_a_file_of_its_task() {
    let server = two_workers().await;
    let code = "class Figure:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n' + bytes(100)\nFigure()";
    let task = server.run("python.execute", json!({ "code": code })).await;
    assert_eq!(task["output"]["results"][0]["png"]["name"], "result.png", "{task}");
    assert_eq!(task["artifacts"][0]["media_type"], "image/png");
    let id = task["id"].as_str().expect("an id");
    let file = server.send(Request::new(Method::GET, format!("/v1/tasks/{id}/artifacts/result.png"))).await;
    assert!(file.body.starts_with(b"\x89PNG"));
    let request = json!({ "code": "open('out.csv', 'w').write('a,b')", "outputs": ["*.csv"] });
    let task = server.run("python.execute", request).await;
    assert_eq!(task["artifacts"][0]["name"], "out.csv", "{task}");
}

/// A client that runs code in one session of a server.
async fn ask(client: &Client, code: &str) -> (u16, Value) {
    let task = json!({ "capability": "python.execute", "input": { "code": code }, "session": "kept" });
    let request = Request::new(Method::POST, "/v1/tasks?wait=30s").body(task.to_string());
    let answer = client.send(request).await.expect("an answer");
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).expect("JSON"))
}

#[tokio::test]
async fn a_session_outlives_its_server_and_is_lost_aloud_with_its_worker() {
    let address = crate::support::process::free_port();
    let worker = Listening::start(address, &[]);
    let config = format!(
        "heartbeat: {{ interval: 1s }}\nworkers:\n  - {{ name: ann, endpoint: \"ws://{address}\", slots: 4 }}\n"
    );
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let client = |server: &program::Server| Client::new(server.base()).expect("its address");
    let server = program::Server::start_in(&folder, &config, &[]);
    let (status, begun) = ask(&client(&server), "x = 41").await;
    assert_eq!((status, &begun["state"]), (200, &json!("succeeded")), "{begun}");
    // Killed, not stopped: it had told, so it must know.
    drop(server);
    let server = program::Server::start_in(&folder, &config, &[]);
    let (_, next) = ask(&client(&server), "x + 1").await;
    assert_eq!(value(&next), "42", "{next}");
    drop(server);
    drop(worker);
    let worker = Listening::start(address, &[]);
    let server = program::Server::start_in(&folder, &config, &[]);
    let (_, lost) = ask(&client(&server), "x").await;
    let code = if lost["error"].is_object() { &lost["error"]["code"] } else { &lost["code"] };
    assert_eq!(code, "session_lost", "{lost}");
    let listed: Value = client(&server).get("/v1/sessions").await.expect("a list");
    assert_eq!(listed["items"][0]["state"], "lost", "{listed}");
    // What was lost stays lost over one more start, until somebody deletes it.
    drop(server);
    let server = program::Server::start_in(&folder, &config, &[]);
    let (status, lost) = ask(&client(&server), "x").await;
    assert_eq!((status, &lost["code"]), (409, &json!("session_lost")), "{lost}");
    client(&server).delete("/v1/sessions/kept").await.expect("it is there");
    drop(server);
    let server = program::Server::start_in(&folder, &config, &[]);
    let (_, fresh) = ask(&client(&server), "'x' in globals()").await;
    assert_eq!(value(&fresh), "False", "{fresh}");
    drop(worker);
}

#[tokio::test]
async fn a_worker_that_drains_waits_for_its_sessions_for_a_while() {
    let server = two_workers_with("reload: { removal_grace: 3s }\n").await;
    let first = python(&server, "held", "x = 1").await;
    let name = worker_of(&first).to_owned();
    let (status, answer) = server.post(&format!("/v1/workers/{name}/drain"), "").await;
    assert_eq!(status, 200, "{answer}");
    server.worker_is(&name, "draining").await;
    // Its own goes on there, and everything else elsewhere.
    let next = python(&server, "held", "x + 1").await;
    assert_eq!((value(&next), worker_of(&next)), (&json!("2"), name.as_str()), "{next}");
    for _ in 0..3 {
        let other = server.run("python.execute", json!({ "code": "1" })).await;
        assert_ne!(worker_of(&other), name, "{other}");
    }
    eventually("its time is over", async || {
        let listed = server.get("/v1/sessions").await;
        (listed["items"][0]["state"] == "lost").then_some(()).ok_or_else(|| listed.to_string())
    })
    .await;
    let listed = server.get("/v1/sessions").await;
    assert!(listed["items"][0]["lost"].as_str().is_some_and(|why| why.contains("drained")), "{listed}");
}

#[tokio::test]
async fn a_worker_that_leaves_the_configuration_goes_when_its_last_session_ends() {
    let server = two_workers_with("").await;
    let first = python(&server, "held", "x = 1").await;
    let name = worker_of(&first).to_owned();
    let config = std::fs::read_to_string(server.config_file()).expect("our own file");
    let others: Vec<&str> =
        config.split("  - ").filter(|entry| !entry.starts_with(&format!("name: {name}\n"))).collect();
    std::fs::write(server.config_file(), others.join("  - ")).expect("our own file");
    eventually("it is on its way out", async || {
        let listed = server.get("/v1/workers").await;
        let its = listed["items"].as_array().into_iter().flatten().find(|one| one["name"] == name.as_str());
        match its {
            Some(worker) if worker["state"] == "draining" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let next = python(&server, "held", "x + 1").await;
    assert_eq!((value(&next), worker_of(&next)), (&json!("2"), name.as_str()), "{next}");
    server.send(Request::new(Method::DELETE, "/v1/sessions/held")).await;
    eventually("it is gone", async || {
        let listed = server.get("/v1/workers").await;
        let names =
            listed["items"].as_array().into_iter().flatten().filter(|one| one["name"] == name.as_str());
        (names.count() == 0).then_some(()).ok_or_else(|| listed.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_was_uploaded_is_an_input_of_a_task() {
    let address = crate::support::process::free_port();
    let (program, url) = (crate::support::sandbox::program(), format!("ws://{address}"));
    let command = json!([program, "--listen", address.to_string(), "--warm", "0"]);
    // A launched worker is told where the server is.
    let server = program::Server::start(&format!(
        "workers:\n  - {{ name: ann, endpoint: \"{url}\", launch: {{ command: {command} }} }}\n"
    ));
    let client = Client::new(server.base()).expect("its address");
    let rows = "a,b\n1,2\n".repeat(100_000);
    let given =
        client.send(Request::new(Method::POST, "/v1/artifacts").body(rows.clone())).await.expect("an answer");
    let file: Value = serde_json::from_slice(&given.body).expect("JSON");
    let run = async |reference: &Value| -> Value {
        let inputs = json!([{ "path": "in/rows.csv", "artifact": { "$artifact": reference } }]);
        let code = "len(open('in/rows.csv').read())";
        let task = json!({ "capability": "python.execute", "input": { "code": code, "inputs": inputs } });
        let request = Request::new(Method::POST, "/v1/tasks?wait=30s").body(task.to_string());
        let answer = client.send(request).await.expect("an answer");
        serde_json::from_slice(&answer.body).expect("JSON")
    };
    let task = run(&file["$artifact"]).await;
    assert_eq!(value(&task), &json!(rows.len().to_string()), "{task}");
    let unknown = run(&json!(format!("sha256:{}", "0".repeat(64)))).await;
    assert_eq!(unknown["status"], 422, "{unknown}");
}
