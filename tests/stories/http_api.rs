//! The HTTP API as its callers meet it: what it answers, what it refuses and how, what it streams,
//! and that nothing a stranger sends makes it stop or grow.

use std::time::Duration;

use hyper::Method;
use hyper::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use rollcall::client::{Events, Request, ServerEvent};
use serde_json::{Value, json};

use crate::support::{MOCKS, PATIENCE, Server, eventually};

fn header(name: &'static str, value: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"))
}

fn submit(body: Value) -> Request {
    Request::new(Method::POST, "/v1/tasks").body(body.to_string())
}

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("the answer is JSON")
}

async fn next(events: &mut Events) -> Option<ServerEvent> {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream is whole")
}

/// Every event until the stream ends.
async fn rest(events: &mut Events) -> Vec<ServerEvent> {
    let mut all = Vec::new();
    while let Some(event) = next(events).await {
        all.push(event);
    }
    all
}

fn states(events: &[ServerEvent]) -> Vec<String> {
    let states = events.iter().filter(|event| event.event == "state");
    states.map(|event| read(event.data.as_bytes())["state"].as_str().unwrap_or_default().to_owned()).collect()
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
async fn what_is_wrong_is_told_by_a_problem_with_a_code() {
    let server = Server::start(MOCKS);
    let deep = format!(r#"{{"capability":"echo","input":{}1{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let unknown = "/v1/tasks/0192f0c1-2345-7abc-8def-0123456789ab";
    let cases: &[(&str, &str, &str, u16, &str)] = &[
        ("POST", "/v1/tasks", "{", 400, "not_json"),
        ("POST", "/v1/tasks", &deep, 400, "too_deep"),
        ("POST", "/v1/tasks", r#"{"capability":"echo","priorty":1}"#, 422, "unknown_field"),
        ("POST", "/v1/tasks", r#"{"capability":"echo","priority":9}"#, 422, "invalid_field"),
        ("POST", "/v1/tasks", r#"{"capability":"ecko"}"#, 422, "unknown_capability"),
        ("POST", "/v1/tasks", r#"{"capability":"echo","session":"s"}"#, 422, "not_supported"),
        ("POST", "/v1/tasks?wait=9h", r#"{"capability":"echo"}"#, 422, "invalid_field"),
        ("POST", "/v1/tasks?wiat=9s", r#"{"capability":"echo"}"#, 422, "unknown_field"),
        ("GET", "/v1/tasks?state=done", "", 422, "invalid_field"),
        ("GET", "/v1/tasks?limit=0", "", 422, "invalid_field"),
        ("GET", unknown, "", 404, "no_such_task"),
        ("GET", "/v1/tasks/7", "", 404, "no_such_task"),
        ("GET", &format!("{unknown}/events"), "", 404, "no_such_task"),
        ("GET", &format!("{unknown}/explain"), "", 404, "no_such_task"),
        ("POST", &format!("{unknown}/cancel"), "", 404, "no_such_task"),
        ("POST", &format!("{unknown}/retry"), "", 404, "no_such_task"),
        ("GET", "/v1/workers/nobody", "", 404, "no_such_worker"),
        ("POST", "/v1/workers/nobody/cordon", "", 404, "no_such_worker"),
        ("POST", "/v1/workers/nobody/probe", "", 404, "no_such_worker"),
        ("DELETE", "/v1/workers/nobody", "", 404, "no_such_worker"),
        ("DELETE", "/v1/workers/echo", "", 409, "worker_in_file"),
        (
            "POST",
            "/v1/workers",
            r#"{"name":"echo","interface":"mock","capabilities":["x"]}"#,
            409,
            "name_taken",
        ),
        ("POST", "/v1/workers", r#"{"nmae":"x"}"#, 422, "invalid_field"),
        ("POST", "/v1/workers", "workers", 400, "not_json"),
        ("POST", "/v1/topology/plan", "workers: [{name: 7x7, slots: 0}]", 422, "topology_invalid"),
        ("POST", "/-/reload?allow_mass_removal=maybe", "", 422, "invalid_field"),
        ("GET", "/v1/sessions", "", 404, "no_such_route"),
        ("PUT", "/v1/tasks", "", 405, "method_not_allowed"),
        ("GET", "/v1/workers/connect", "", 400, "bad_request"),
    ];
    for (method, path, body, status, code) in cases {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let answer = server.send(Request::new(method.clone(), *path).body((*body).to_owned())).await;
        let problem = read(&answer.body);
        let shown = &body[..body.len().min(80)];
        assert_eq!(
            (answer.status.as_u16(), &problem["code"]),
            (*status, &json!(code)),
            "{method} {path} {shown}: {problem}"
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{method} {path}");
        for field in ["type", "title", "detail", "retryable", "side_effects"] {
            assert!(!problem[field].is_null(), "{method} {path}: {field} of {problem}");
        }
        assert_eq!(problem["status"], json!(status));
    }
    let wrong_method = server.send(Request::new(Method::PUT, "/v1/tasks")).await;
    assert_eq!(wrong_method.headers["allow"], "GET, HEAD, POST");
    let in_file = server.send(Request::new(Method::DELETE, "/v1/workers/echo")).await;
    assert!(
        read(&in_file.body)["detail"].as_str().is_some_and(|text| text.contains("line 3")),
        "{in_file:?}"
    );
    let near = server.send(submit(json!({"capability": "echo", "priorty": 1}))).await;
    assert!(read(&near.body)["hint"].as_str().is_some_and(|hint| hint.contains("priority")), "{near:?}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let server = Server::start(&format!("server: {{ max_body: 64KiB }}\n{MOCKS}"));
    let head = "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let announced = server.raw(format!("{head}Content-Length: 99999999\r\n\r\n").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    assert!(announced.contains("body_too_large"), "{announced}");
    let fits = json!({"capability": "echo", "input": "x".repeat(60_000)}).to_string();
    assert_eq!(server.post("/v1/tasks?wait=20s", fits).await.0, 200);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    let unannounced = server.raw(chunked.as_bytes()).await;
    assert!(unannounced.is_empty() || unannounced.starts_with("HTTP/1.1 413 "), "{unannounced}");
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_turned_away() {
    let server = Server::start(&format!(
        "server: {{ allowed_hosts: [rollcall.test], allowed_origins: [\"https://board.test\"] }}\n{MOCKS}"
    ));
    let ask = |name: HeaderName, value: &str| {
        Request::new(Method::GET, "/v1/status").header(name, HeaderValue::from_str(value).expect("a header"))
    };
    // The client writes its own `Host`: a stranger's needs a hand-made request.
    let hosted = async |host: &str| {
        let answer = server
            .raw(format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
            .await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(hosted("evil.test").await, "403");
    assert_eq!(hosted("rollcall.test").await, "200");
    assert_eq!(hosted("127.0.0.1:1").await, "200");
    assert_eq!(server.send(ask(ORIGIN, "https://evil.test")).await.status, 403);
    assert_eq!(server.send(ask(ORIGIN, "null")).await.status, 403);
    assert_eq!(server.send(ask(ORIGIN, "https://board.test")).await.status, 200);
    assert_eq!(server.send(ask(ORIGIN, server.base_url())).await.status, 200, "our own page");
    let streamed =
        server.raw(b"GET /v1/events HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n").await;
    assert!(streamed.starts_with("HTTP/1.1 403 "), "{streamed}");
    let metrics = server.send(Request::new(Method::GET, "/metrics")).await;
    let page = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(page.contains("rollcall_http_rejected_total{reason=\"host\"} 2"), "{page}");
    assert!(page.contains("rollcall_http_rejected_total{reason=\"origin\"} 2"), "{page}");
    assert_ne!(HOST, ORIGIN);
}

#[tokio::test]
async fn a_worker_dials_in_only_as_a_worker() {
    let server = Server::start(MOCKS);
    let handshake = "GET /v1/workers/connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let from_a_page =
        format!("{handshake}Sec-WebSocket-Protocol: rollcall.v1\r\nOrigin: http://localhost\r\n\r\n");
    let speaks_otherwise = format!("{handshake}Connection: close\r\n\r\n");
    for (request, status) in [(from_a_page, "403"), (speaks_otherwise, "426")] {
        let answer =
            server.raw(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_whole_is_not_waited_for() {
    let server = Server::start(MOCKS);
    let began = std::time::Instant::now();
    let slow = server.raw(b"GET /v1/status HTTP/1.1\r\nHost: loc").await;
    assert!(began.elapsed() > Duration::from_secs(9) && began.elapsed() < Duration::from_secs(15), "{slow}");
}

#[tokio::test]
async fn heads_have_limits() {
    let server = Server::start(MOCKS);
    let status = async |request: String| {
        let answer = server.raw(request.as_bytes()).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")).await, "431");
    let large = "y".repeat(100_000);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {large}\r\n\r\n")).await, "431");
    let long = "y".repeat(9_000);
    let long = format!("GET /v1/tasks/{long} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status(long).await, "414");
    assert_eq!(status("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()).await, "400", "no host");
}

#[tokio::test]
async fn a_task_is_followed_to_its_final_state_and_taken_up_again() {
    let server = Server::start(MOCKS);
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"slow"}"#).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    let events_path = format!("{path}/events");
    let mut events = server.client().events(&events_path, None).await.expect("a stream");
    let mut seen = Vec::new();
    while !states(&seen).contains(&"running".to_owned()) {
        seen.push(next(&mut events).await.expect("it runs before it ends"));
    }
    let (status, cancelled) = server.post(&format!("{path}/cancel"), "").await;
    assert!(matches!(status, 200 | 202), "{cancelled}");
    let tail = rest(&mut events).await;
    assert_eq!(states(&tail).last().map(String::as_str), Some("cancelled"), "{tail:?}");
    let middle = seen.last().and_then(|event| event.id.clone()).expect("an id");
    let mut again = server.client().events(&events_path, Some(&middle)).await.expect("a stream");
    assert_eq!(rest(&mut again).await, tail, "nothing missed, nothing twice");
    let mut foreign = server.client().events(&events_path, Some("99-1")).await.expect("a stream");
    let told = rest(&mut foreign).await;
    assert_eq!(told.first().map(|event| event.event.as_str()), Some("reset"));
    assert_eq!(read(told[0].data.as_bytes())["state"], "cancelled", "the whole task");
    assert_eq!(states(&told).last().map(String::as_str), Some("cancelled"));
    let over = tail.last().and_then(|event| event.id.clone()).expect("an id");
    let (name, value) = header("last-event-id", &over);
    let answer = server.send(Request::new(Method::GET, events_path.as_str()).header(name, value)).await;
    assert_eq!(answer.status, 204, "nothing more will come, so browsers need not ask again");
}

#[tokio::test]
async fn a_watcher_who_comes_after_the_end_is_told_the_end() {
    let server = Server::start(MOCKS);
    let task = server.run("echo", json!(1)).await;
    let path = format!("/v1/tasks/{}/events", task["id"].as_str().expect("an id"));
    let mut events = server.client().events(&path, None).await.expect("a stream");
    assert_eq!(states(&rest(&mut events).await), ["succeeded"]);
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
    let (status, worker) = server.post("/v1/workers/slow/cordon", "").await;
    assert_eq!((status, &worker["state"]), (200, &json!("cordoned")), "{worker}");
    let (_, task) = server.post("/v1/tasks", r#"{"capability":"slow"}"#).await;
    let id = task["id"].as_str().expect("an id");
    let why = server.get(&format!("/v1/tasks/{id}/explain")).await;
    assert!(why["summary"].as_str().is_some_and(|text| !text.is_empty()), "{why}");
    assert_eq!(why["state"], "queued");
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
async fn the_fleet_is_followed() {
    let server = Server::start(MOCKS);
    server.worker_is("echo", "ready").await;
    server.worker_is("slow", "ready").await;
    let mut events = server.client().events("/v1/events", None).await.expect("a stream");
    let mut past = Vec::new();
    let is_ready = |event: &ServerEvent| event.event == "worker_state" && event.data.contains("\"ready\"");
    while past.iter().filter(|event| is_ready(event)).count() < 2 {
        past.push(next(&mut events).await.expect("the past is told first"));
    }
    let last = past.last().and_then(|event| event.id.clone()).expect("an id");
    server.post("/v1/workers/echo/cordon", "").await;
    let mut again = server.client().events("/v1/events", Some(&last)).await.expect("a stream");
    let cordoned = next(&mut again).await.expect("it goes on");
    assert!(cordoned.data.contains("cordoned"), "{cordoned:?}");
    let mut foreign = server.client().events("/v1/events", Some("0-1")).await.expect("a stream");
    assert_eq!(next(&mut foreign).await.map(|event| event.event), Some("reset".to_owned()));
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
    assert!(
        metrics.contains("rollcall_http_requests_total{method=\"POST\",route=\"/v1/tasks\",code=\"200\"} 0")
            || metrics.contains("route=\"/v1/tasks\""),
        "{metrics}"
    );
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

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is told");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test]
async fn ten_thousand_bad_requests_leave_no_trace() {
    let server = Server::start(MOCKS);
    let long = "x".repeat(2_000);
    let bad = [
        ("/v1/tasks".to_owned(), "{\"capability\":".to_owned()),
        ("/v1/tasks".to_owned(), format!("{{\"capability\":\"{long}\"}}")),
        ("/v1/tasks".to_owned(), format!("{{\"capability\":\"echo\",\"{long}\":1}}")),
        ("/v1/tasks".to_owned(), "{\"capability\":\"nobody.offers\"}".to_owned()),
        ("/v1/tasks".to_owned(), "[".repeat(2_000)),
        (format!("/v1/{long}"), String::new()),
        ("/v1/workers".to_owned(), format!("{{\"name\":\"{long}\"}}")),
    ];
    let volley = async |rounds: usize| {
        for (path, body) in bad.iter().cycle().take(rounds) {
            let (status, problem) = server.post(path, body.clone()).await;
            assert!((400..500).contains(&status), "{status} {problem}");
        }
    };
    volley(500).await;
    let before = resident();
    volley(10_000).await;
    let grown = resident().saturating_sub(before);
    // The other stories run in this process too; a leak of 1 KiB a request would be 10 MiB.
    assert!(grown < 64 << 10, "grown by {grown} KiB");
    assert_eq!(server.manager().stats().await.expect("it runs").depth, 0);
    assert_eq!(server.run("echo", json!(1)).await["state"], "succeeded", "and it serves on");
}
