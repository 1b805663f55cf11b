//! The HTTP API as its callers meet it: what it answers. What it refuses and what it streams is in
//! the modules below.

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use rollcall::client::Request;
use serde_json::{Value, json};

use crate::support::{MOCKS, Server, eventually};

mod refusals;
mod streams;

fn header(name: &'static str, value: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"))
}

fn submit(body: Value) -> Request {
    Request::new(Method::POST, "/v1/tasks").body(body.to_string())
}

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("the answer is JSON")
}

#[tokio::test]
async fn a_caller_who_waits_gets_the_finished_task() {
    let server = Server::start(MOCKS);
    let (status, task) =
        server.post("/v1/tasks?wait=20s", r#"{"capability":"echo","input":{"a":[1,2.50]}}"#).await;
    assert_eq!(status, 200, "{task}");
    assert_eq!((&task["state"], &task["capability"]), (&json!("succeeded"), &json!("echo")));
    assert_eq!(task["output"], json!({"a": [1, 2.5]}));
    assert_eq!(task["attempts"][0]["worker"], "echo");
    assert_eq!(task["attempts"][0]["outcome"], "succeeded");
    for time in ["submitted_at", "assigned_at", "started_at", "finished_at"] {
        assert!(
            task[time].as_str().is_some_and(|time| time.ends_with('Z') && time.len() == 24),
            "{time}: {task}"
        );
    }
    let (name, value) = header("prefer", "wait=20");
    let preferred = server.send(submit(json!({"capability": "echo"})).header(name, value)).await;
    assert_eq!((preferred.status.as_u16(), &read(&preferred.body)["output"]), (200, &json!({})));
}

#[tokio::test]
async fn a_caller_who_does_not_wait_gets_an_id_and_a_place() {
    let server = Server::start(MOCKS);
    let answer = server.send(submit(json!({"capability": "echo", "input": 7}))).await;
    let task = read(&answer.body);
    assert_eq!(answer.status, 202);
    let location = answer.headers["location"].to_str().expect("text").to_owned();
    assert_eq!(location, format!("/v1/tasks/{}", task["id"].as_str().expect("an id")));
    eventually("the task has succeeded", async || {
        let task = server.get(&location).await;
        if task["state"] == "succeeded" { Ok(()) } else { Err(task.to_string()) }
    })
    .await;
    let listed = server.get("/v1/tasks?capability=echo&state=succeeded&worker=echo&dead_letter=false").await;
    assert_eq!(listed["items"][0]["id"], task["id"], "{listed}");
    assert_eq!(listed["next_cursor"], Value::Null);
}

#[tokio::test]
async fn patience_that_ends_leaves_a_task_that_goes_on() {
    let server = Server::start(MOCKS);
    let (status, task) = server.post("/v1/tasks?wait=50ms", r#"{"capability":"slow"}"#).await;
    assert_eq!(status, 202, "{task}");
    let shown = server.get(&format!("/v1/tasks/{}", task["id"].as_str().expect("an id"))).await;
    assert_eq!(shown["state"], "running", "{shown}");
}

#[tokio::test]
async fn one_key_is_one_task() {
    let server = Server::start(MOCKS);
    let keyed = |input: u32| {
        let (name, value) = header("idempotency-key", "order-7");
        submit(json!({"capability": "echo", "input": input})).header(name, value)
    };
    let first = server.send(keyed(1)).await;
    assert_eq!(first.status, 202);
    let again = server.send(keyed(1)).await;
    assert_eq!(
        (again.status.as_u16(), &again.headers["idempotent-replayed"]),
        (200, &HeaderValue::from_static("true"))
    );
    assert_eq!(read(&again.body)["id"], read(&first.body)["id"]);
    let other = server.send(keyed(2)).await;
    assert_eq!((other.status.as_u16(), &read(&other.body)["code"]), (422, &json!("idempotency_key_reused")));
    let (name, value) = header("idempotency-key", &"k".repeat(129));
    let long = server.send(submit(json!({"capability": "echo"})).header(name, value)).await;
    assert_eq!(long.status, 422);
}

#[tokio::test]
async fn a_cancelled_task_ends_cancelled_and_can_be_tried_again() {
    let server = Server::start(MOCKS);
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"slow","input":"x"}"#).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    let (status, early) = server.post(&format!("{path}/retry"), "").await;
    assert_eq!((status, &early["code"]), (409, &json!("task_not_final")));
    server.post(&format!("{path}/cancel"), "").await;
    eventually("it is cancelled", async || {
        let (status, task) = server.post(&format!("{path}/cancel"), "").await;
        if (status, &task["state"]) == (200, &json!("cancelled")) { Ok(()) } else { Err(task.to_string()) }
    })
    .await;
    let (status, again) = server.post(&format!("{path}/retry"), "").await;
    assert_eq!((status, &again["retry_of"]), (202, &task["id"]), "{again}");
    assert_ne!(again["id"], task["id"]);
}

#[tokio::test]
async fn a_waiting_task_says_why() {
    let server = Server::start(MOCKS);
    server.worker_is("slow", "ready").await;
    let (name, value) = header("rollcall-operator", "ana");
    let cordon = Request::new(Method::POST, "/v1/workers/slow/cordon").header(name, value);
    let worker = read(&server.send(cordon).await.body);
    assert_eq!(worker["state"], "cordoned", "{worker}");
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"slow"}"#).await;
    let id = task["id"].as_str().expect("an id");
    let why = server.get(&format!("/v1/tasks/{id}/explain")).await;
    assert_eq!((&why["state"], &why["wait"]), (&json!("queued"), &json!("not_ready")));
    assert_eq!((&why["workers"][0]["worker"], &why["workers"][0]["count"]), (&json!("slow"), &json!(1)));
    let reason = why["workers"][0]["reason"].as_str().expect("a text");
    assert!(reason.starts_with("cordoned by ana ") && reason.ends_with(" UTC"), "{why}");
    assert_eq!(why["fix"], "rollcall workers uncordon slow");
    assert_eq!(server.task(&task).await["pending_reason"], why["summary"]);
    let (name, value) = header("rollcall-operator", "");
    let nameless = Request::new(Method::POST, "/v1/workers/slow/cordon").header(name, value);
    assert_eq!(server.send(nameless).await.status, 422);
    let (_, worker) = server.post("/v1/workers/slow/uncordon", "").await;
    assert_eq!(worker["state"], "ready", "{worker}");
    let (status, probed) = server.post("/v1/workers/slow/probe", "").await;
    assert_eq!(status, 200, "{probed}");
    assert!(probed["rtt_ms"].is_number());
}

#[tokio::test]
async fn a_worker_is_added_beside_the_file_and_removed() {
    let server = Server::start(MOCKS);
    let entry = r#"{"name":"extra","interface":"mock","capabilities":["extra"],"slots":1}"#;
    let answer = server.send(Request::new(Method::POST, "/v1/workers").body(entry)).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["location"]),
        (201, &HeaderValue::from_static("/v1/workers/extra"))
    );
    assert_eq!(read(&answer.body)["origin"], "api");
    server.worker_is("extra", "ready").await;
    assert_eq!(server.run("extra", json!("x")).await["output"], "x");
    let topology = server.get("/v1/topology").await;
    let named = |name: &str| {
        topology["workers"].as_array().into_iter().flatten().find(|it| it["name"] == name).cloned()
    };
    assert_eq!(named("echo").map(|it| it["line"].clone()), Some(json!(3)));
    assert_eq!(named("extra").map(|it| it["line"].clone()), Some(Value::Null));
    let removed = server.send(Request::new(Method::DELETE, "/v1/workers/extra")).await;
    assert_eq!(removed.status, 202, "{removed:?}");
    eventually("it is gone", async || {
        let workers = server.get("/v1/workers").await;
        let there = workers["items"].as_array().into_iter().flatten().any(|it| it["name"] == "extra");
        if there { Err(workers.to_string()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn the_file_is_planned_and_read_again() {
    let server = Server::start(MOCKS);
    let wider = MOCKS.replacen("slots: 2", "slots: 3", 1);
    let (status, plan) = server.post("/v1/topology/plan", wider.clone()).await;
    assert_eq!(status, 200, "{plan}");
    assert_eq!(plan["changes"]["updated"][0]["worker"], "echo");
    let before = server.get("/v1/topology").await["generation"].as_u64().expect("a number");
    std::fs::write(server.config_file(), wider).expect("it can be written");
    let (status, reloaded) = server.post("/-/reload", "").await;
    assert_eq!(status, 200, "{reloaded}");
    assert_eq!(reloaded["generation"], json!(before + 1), "{reloaded}");
    std::fs::write(server.config_file(), "workers: [").expect("it can be written");
    let (status, problem) = server.post("/-/reload", "").await;
    assert_eq!((status, &problem["code"]), (422, &json!("topology_invalid")));
    assert!(problem["problems"][0]["line"].as_u64().is_some_and(|line| line > 0), "{problem}");
    let after = server.get("/v1/status").await;
    assert_eq!(
        (&after["generation"], &after["last_reload"]["successful"]),
        (&json!(before + 1), &json!(false))
    );
}

#[tokio::test]
async fn the_server_tells_how_it_is() {
    let server = Server::start(MOCKS);
    server.worker_is("echo", "ready").await;
    assert_eq!(server.get("/healthz").await["alive"], true);
    assert_eq!(server.get("/readyz").await["ready"], true);
    let status = server.get("/v1/status").await;
    assert_eq!(status["lifecycle"], "ready", "{status}");
    assert_eq!(status["capacity"]["slots"]["total"], 4, "{status}");
    let document = server.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let page = server.send(Request::new(Method::GET, "/")).await;
    assert_eq!(page.status, 200);
    assert!(
        page.headers["content-security-policy"]
            .to_str()
            .is_ok_and(|policy| policy.contains("default-src 'none'"))
    );
    let metrics = server.send(Request::new(Method::GET, "/metrics")).await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for series in [
        "rollcall_http_requests_total{code=\"200\",method=\"POST\",route=\"/v1/tasks\"} 0",
        "rollcall_http_requests_total{code=\"200\",method=\"GET\",route=\"/healthz\"} 1",
    ] {
        assert!(metrics.contains(series), "{series} is not in:\n{metrics}");
    }
    let workers = server.send(Request::new(Method::GET, "/metrics/workers")).await;
    assert!(String::from_utf8_lossy(&workers.body).contains("worker=\"echo\""));
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start(MOCKS);
    for path in ["/v1/status", "/v1/events", "/"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = server.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order() {
    let server = Server::start(MOCKS);
    let two = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\
        GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answers = server.raw(two.as_bytes()).await;
    let found: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(found, ["200", "404"], "{answers}");
}

#[tokio::test]
async fn a_caller_who_hangs_up_before_the_hand_over_takes_the_task_back() {
    let server = Server::start(MOCKS);
    server.worker_is("slow", "ready").await;
    server.post("/v1/workers/slow/cordon", "").await;
    let depth = async |wanted: u64| {
        eventually(&format!("{wanted} tasks wait"), async || {
            let status = server.get("/v1/status").await;
            if status["pressure"]["tasks"] == wanted { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    };
    let waiting = server.client().clone();
    let waiting = tokio::spawn(async move {
        waiting.send(Request::new(Method::POST, "/v1/tasks?wait=1m").body(r#"{"capability":"slow"}"#)).await
    });
    depth(1).await;
    waiting.abort();
    depth(0).await;
}

#[tokio::test]
async fn the_metrics_can_have_a_listener_of_their_own() {
    let server = Server::start(&format!("server: {{ metrics_listen: \"127.0.0.1:0\" }}\n{MOCKS}"));
    let moved = server.metrics_client().expect("there is one");
    let status = async |client: &rollcall::client::Client, path: &str| {
        let answer = client.send(Request::new(Method::GET, path)).await.expect("an answer");
        answer.status.as_u16()
    };
    assert_eq!(status(moved, "/metrics").await, 200);
    assert_eq!(status(moved, "/metrics/workers").await, 200);
    assert_eq!(status(moved, "/v1/status").await, 404);
    assert_eq!(status(server.client(), "/metrics").await, 404);
    assert_eq!(status(server.client(), "/v1/status").await, 200);
}

/// What the journal is not told, a list shows all the same: that an attempt began.
#[tokio::test]
async fn a_list_shows_tasks_as_they_are_and_finds_them_by_that() {
    let server = Server::start(MOCKS);
    server.worker_is("slow", "ready").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let task = server.submit_as(json!({ "capability": "slow" })).await;
        ids.push(task["id"].as_str().expect("an id").to_owned());
    }
    let is = async |number: usize, state: &str| server.task_is(&json!({ "id": ids[number] }), state).await;
    is(0, "running").await;
    is(1, "running").await;
    let listed = async |query: &str| {
        let page = server.get(&format!("/v1/tasks?{query}")).await;
        let items = page["items"].as_array().expect("a list").clone();
        let of = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let found: Vec<_> = items.iter().map(|item| (of(item, "id"), of(item, "state"))).collect();
        (found, page["next_cursor"].clone(), items)
    };
    let as_shown = |numbers: &[(usize, &str)]| -> Vec<(String, String)> {
        numbers.iter().map(|(number, state)| (ids[*number].clone(), (*state).to_owned())).collect()
    };
    let (all, _, items) = listed("capability=slow").await;
    let waiting = [(4, "queued"), (3, "queued"), (2, "queued")];
    let running = [(1, "running"), (0, "running")];
    assert_eq!(all, as_shown(&[&waiting[..], &running[..]].concat()));
    for field in ["/started_at", "/attempts/0/started_at"] {
        assert!(items[4].pointer(field).is_some_and(Value::is_string), "{field}: {}", items[4]);
    }
    assert_eq!(listed("state=running").await.0, as_shown(&running));
    assert_eq!(listed("state=queued").await.0, as_shown(&waiting));
    assert_eq!(listed("state=assigned").await.0, []);
    // Page by page, and each task once.
    let (first, next, _) = listed("state=queued&limit=2").await;
    let (rest, end, _) =
        listed(&format!("state=queued&limit=2&cursor={}", next.as_str().expect("more"))).await;
    assert_eq!(([first, rest].concat(), end), (as_shown(&waiting), Value::Null));

    // One ends, and the next one begins.
    assert!([200, 202].contains(&server.post(&format!("/v1/tasks/{}/cancel", ids[0]), "").await.0));
    is(2, "running").await;
    assert_eq!(listed("state=running").await.0, as_shown(&[(2, "running"), (1, "running")]));
    assert_eq!(listed("state=cancelled").await.0, as_shown(&[(0, "cancelled")]));
}
