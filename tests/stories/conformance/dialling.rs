//! The ways in which dialling fails, and what a listening worker refuses.

use std::time::Duration;

use rollcall::fleet::{ConnectOutcome, InterfaceKind, Why};
use rollcall::interface::factory::WorkerInterfaceFactory;
use rollcall::interface::{Ended, LinkCommand, LinkLimits, Token};
use rollcall_worker_sdk as sdk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::harness::{Core, ways, within};
use super::subjects::target;
use crate::support::python;

/// Dials `endpoint`, with a token or none.
fn dial(endpoint: &str, token: Option<&str>, limits: LinkLimits) -> Core {
    let mut target = target(InterfaceKind::Websocket, Some(endpoint.to_owned()), Duration::ZERO);
    target.token = token.map(Token::new);
    let (io, ways) = ways(1, limits);
    ways.core(tokio::spawn(WorkerInterfaceFactory::new().interface(&target.spec).run(target, io)))
}

async fn outcome(endpoint: &str, token: Option<&str>) -> (ConnectOutcome, String) {
    match dial(endpoint, token, LinkLimits::default()).ended().await {
        Ended::NotConnected(outcome, detail) => (outcome, detail),
        Ended::Down(why) => panic!("it was connected, until {why:?}"),
    }
}

/// A listener that answers every request with the same head.
async fn answers(head: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("ws://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.expect("a request");
        assert!(read > 0);
        stream.write_all(head.as_bytes()).await.expect("it reads");
    });
    endpoint
}

/// A worker in Python that listens with a token, and where.
fn python_worker() -> (python::Program, String) {
    let code = "import sys; from rollcall_worker import Worker; Worker('echo').main(sys.argv[1:])";
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (file, token) = (folder.path().join("worker.py"), folder.path().join("token"));
    std::fs::write(&file, code).expect("a file can be written");
    std::fs::write(&token, "s3cret").expect("a file can be written");
    let token = token.to_str().expect("a path in UTF-8");
    let mut program = python::Program::start(&file, &["--listen", "127.0.0.1:0", "--token-file", token]);
    // Both files have been read when it listens.
    let address = program.address("listening on");
    (program, address)
}

/// A worker that listens with a token, and where.
async fn worker(stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    let token = Some(sdk::Token::new("s3cret").expect("a token"));
    let options = sdk::ServeOptions { token, ..Default::default() };
    let (worker, stop) = (sdk::Worker::builder("echo").build(), stop.clone());
    tokio::spawn(async move { worker.serve(listener, options, stop).await });
    address
}

#[tokio::test]
async fn nobody_at_the_address_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("ws://{}", listener.local_addr().expect("its address"));
    drop(listener);
    assert_eq!(outcome(&endpoint, None).await.0, ConnectOutcome::Refused);
}

#[tokio::test]
async fn a_listener_that_never_answers_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("ws://{}", listener.local_addr().expect("its address"));
    let limits = LinkLimits { connect_timeout: Duration::from_millis(50), ..LinkLimits::default() };
    let ended = dial(&endpoint, None, limits).ended().await;
    assert!(matches!(ended, Ended::NotConnected(ConnectOutcome::Timeout, _)), "{ended:?}");
}

#[tokio::test]
async fn each_refusal_of_a_handshake_has_its_word() {
    for (head, expected) in [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", ConnectOutcome::Auth),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", ConnectOutcome::Auth),
        ("HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", ConnectOutcome::Duplicate),
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", ConnectOutcome::Version),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", ConnectOutcome::Handshake),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", ConnectOutcome::Handshake),
    ] {
        assert_eq!(outcome(&answers(head).await, None).await.0, expected, "{head}");
    }
    let plain = answers("HTTP/1.1 400 Bad Request\r\n\r\n").await.replacen("ws://", "wss://", 1);
    let (word, detail) = outcome(&plain, None).await;
    assert_eq!((word, detail.contains("speak TLS at all")), (ConnectOutcome::Tls, true), "{detail}");
}

#[tokio::test]
async fn a_listening_worker_wants_its_token_and_takes_one_controller() {
    let stop = CancellationToken::new();
    wants_its_token_and_takes_one(&worker(&stop).await).await;
    let (_program, address) = python_worker();
    wants_its_token_and_takes_one(&address).await;
}

async fn wants_its_token_and_takes_one(address: &str) {
    let endpoint = format!("ws://{address}");
    assert_eq!(outcome(&endpoint, None).await.0, ConnectOutcome::Auth);
    assert_eq!(outcome(&endpoint, Some("wrong")).await.0, ConnectOutcome::Auth);

    let mut first = dial(&endpoint, Some("s3cret"), LinkLimits::default());
    first.up().await.expect("a registration");
    let (second, detail) = outcome(&endpoint, Some("s3cret")).await;
    assert_eq!((second, detail.contains("another server")), (ConnectOutcome::Duplicate, true), "{detail}");
    first.close(Why::Drained).await;
}

#[tokio::test]
async fn a_listening_worker_refuses_pages_and_other_protocols() {
    let stop = CancellationToken::new();
    refuses_pages_and_other_protocols(&worker(&stop).await).await;
    let (_program, address) = python_worker();
    refuses_pages_and_other_protocols(&address).await;
}

async fn refuses_pages_and_other_protocols(address: &str) {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer s3cret\r\n";
    let ours = "Sec-WebSocket-Protocol: rollcall.v1\r\n";
    for (headers, status) in [
        (format!("{upgrade}{ours}Origin: http://127.0.0.1\r\n"), "403"),
        ("Origin: null\r\n".to_owned(), "403"),
        (upgrade.to_owned(), "426"),
        (format!("{upgrade}Sec-WebSocket-Protocol: rollcall.v2\r\n"), "426"),
        (format!("{}{ours}", upgrade.replace("13", "8")), "400"),
        (String::new(), "404"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = [0; 1024];
        let read = within(stream.read(&mut answer)).await.expect("an answer");
        let line = String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned();
        assert_eq!(line.split(' ').nth(1), Some(status), "{line} for {headers}");
    }
}

#[tokio::test]
async fn a_dial_can_be_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("ws://{}", listener.local_addr().expect("its address"));
    let mut core = dial(&endpoint, None, LinkLimits::default());
    core.command(LinkCommand::Close(Why::RemovedFromConfig)).await;
    assert_eq!(core.ended().await, Ended::Down(Why::RemovedFromConfig));
}
