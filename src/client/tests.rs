//! The client against small servers of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each request on each connection with the next text, and counts connections.
async fn server(answers: Vec<String>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let base = format!("http://{}", listener.local_addr().expect("it is bound"));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            let mut buffer = vec![0; 64 << 10];
            while let Ok(1..) = stream.read(&mut buffer).await {
                let Some(answer) = answers.next() else { return };
                if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    (base, connections)
}

/// An answer with a body of JSON.
fn answer(head: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let ok = answer("200 OK", &json!({"answer": 42}));
    let (base, connections) = server(vec![ok.clone(), ok.clone(), ok]).await;
    let client = Client::new(&base).expect("the address is good");
    for _ in 0..3 {
        let answer: Value = client.get("/v1/status").await.expect("it answers");
        assert_eq!(answer, json!({"answer": 42}));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_hint() {
    let body = json!({"code": "queue_full", "detail": "100000 tasks wait", "hint": "wait", "depth": 100_000});
    let (base, _) = server(vec![answer("429 Too Many Requests\r\nretry-after: 3", &body)]).await;
    let client = Client::new(&base).expect("the address is good");
    let refused = client.post::<Value>("/v1/tasks", &json!({})).await;
    let Err(ClientError::Problem(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!((problem.status, problem.code.as_str(), problem.retry_after), (429, "queue_full", Some(3)));
    assert_eq!(problem.more["depth"], 100_000);
    assert_eq!(problem.to_string(), "100000 tasks wait (queue_full); wait; try again in 3 s");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let base = format!("http://{}", listener.local_addr().expect("it is bound"));
    drop(listener);
    let client = Client::new(&base).expect("the address is good");
    let error = client.get::<Value>("/v1/status").await.expect_err("nobody listens");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot reach {base}: connection refused; is `rollcall serve` running? use --server or ROLLCALL_SERVER"
        )
    );
}

#[tokio::test]
async fn a_request_that_may_have_been_carried_out_is_not_sent_again() {
    let (base, connections) = server(vec![String::new(), answer("200 OK", &json!({}))]).await;
    let client = Client::new(&base).expect("the address is good");
    let broken = client.post::<Value>("/v1/tasks", &json!({})).await;
    assert!(matches!(broken, Err(ClientError::Broken { .. })), "{broken:?}");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let base = format!("http://{}", listener.local_addr().expect("it is bound"));
    let client = Client::new(&base).expect("the address is good");
    let request = Request::new(Method::GET, "/").timeout(Duration::from_millis(20));
    assert!(matches!(client.send(request).await, Err(ClientError::Timeout { .. })));
}

#[test]
fn only_http_addresses_are_taken() {
    for bad in ["127.0.0.1:7600", "https://localhost", "ftp://x", "http://", "http://a@b", "http://x/?q=1"] {
        assert!(matches!(Client::new(bad), Err(ClientError::Address { .. })), "{bad}");
    }
    assert!(Client::new("http://[::1]:7600/rollcall/").is_ok());
}

#[test]
fn a_name_in_a_path_cannot_change_the_path() {
    assert_eq!(encoded("a/b?c d.é"), "a%2Fb%3Fc%20d.%C3%A9");
}
