//! What the API refuses, and that nothing a stranger sends makes it stop or grow.

use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue, ORIGIN};
use rollcall::client::Request;
use serde_json::json;

use super::{read, submit};
use crate::support::{MOCKS, Server};

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
        ("POST", "/v1/tasks", r#"{"capability":"echo","placement":{"near":1}}"#, 422, "invalid_field"),
        ("POST", "/v1/tasks", r#"{"capability":"echo","session":"a/b"}"#, 422, "invalid_field"),
        ("DELETE", "/v1/sessions/nobody", "", 404, "no_such_session"),
        ("POST", "/v1/tasks?wait=9h", r#"{"capability":"echo"}"#, 422, "invalid_field"),
        ("POST", "/v1/tasks?wiat=9s", r#"{"capability":"echo"}"#, 422, "unknown_field"),
        ("POST", "/v1/tasks", r#"{"capability":"echo","idempotency_key":"k"}"#, 422, "invalid_field"),
        ("POST", "/v1/tasks/batch", "[]", 400, "not_json"),
        ("POST", "/v1/tasks/batch", r#"{"tasks":[]}"#, 422, "invalid_field"),
        ("POST", "/v1/tasks/batch?wait=9s", r#"{"tasks":[{"capability":"echo"}]}"#, 422, "unknown_field"),
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
    for (headers, expected) in [(62, "200"), (63, "431"), (100, "431")] {
        let many: String = (0..headers).map(|n| format!("X-{n}: y\r\n")).collect();
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{many}\r\n");
        assert_eq!(status(request).await, expected, "{headers} and two more");
    }
    let large = "y".repeat(100_000);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {large}\r\n\r\n")).await, "431");
    let long = "y".repeat(9_000);
    let long = format!("GET /v1/tasks/{long} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status(long).await, "414");
    assert_eq!(status("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()).await, "400", "no host");
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
    // The other stories run in this process, too, and take memory now and then; a leak takes it in
    // each round: 1 KiB a request would be 2.5 MiB.
    let mut grown = Vec::new();
    for _ in 0..4 {
        let before = resident();
        volley(2_500).await;
        grown.push(resident().saturating_sub(before));
    }
    assert!(grown.iter().any(|kib| *kib < 2 << 10), "grown by {grown:?} KiB");
    assert_eq!(server.manager().stats().await.expect("it runs").depth, 0);
    assert_eq!(server.run("echo", json!(1)).await["state"], "succeeded", "and it serves on");
}
