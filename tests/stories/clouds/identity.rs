//! Who may dial in: a token that is right for the name, and a certificate that is for it; whoever has
//! something else is refused, counted, and added nowhere.

use futures_util::SinkExt as _;
use rollcall_protocol::SUBPROTOCOL;
use rollcall_worker_sdk::{ClientFiles, Identity};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{FLEET, OF_ANN, OF_GPU, TIMES, TOKENS, listens};
use crate::support::authority::{Authority, Pair};
use crate::support::process::{Papers, WorkerProcess};
use crate::support::scripted::introduction;
use crate::support::{Server, eventually};

const CONNECT: &str = "/v1/workers/connect";

struct Room {
    folder: TempDir,
    authority: Authority,
    server: Server,
}

impl Room {
    fn new(asks: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let authority = Authority::new(&folder.path().join("pki"));
        let config = listens("127.0.0.1:0", &authority, &["127.0.0.1"], asks) + TIMES + FLEET;
        let server = Server::with_env(&config, &TOKENS);
        Self { folder, authority, server }
    }

    fn url(&self) -> String {
        format!("wss://{}", self.server.workers_address())
    }

    fn enters(&self, name: &str, token: Option<&str>, shows: Option<Pair>) -> WorkerProcess {
        let papers = Papers { token, believes: Some(self.authority.ca()), shows, inside: None };
        WorkerProcess::enter(name, &self.url(), self.folder.path(), &papers)
    }

    /// What the server answers to a request at its listener for workers.
    async fn asks(&self, head: &str) -> (u16, Value) {
        let mut stream = self.tls(None).await.expect("they agree");
        stream.write_all(head.as_bytes()).await.expect("it is sent");
        let mut answer = Vec::new();
        // It closes when the answer is complete, and need not say goodbye in the words of TLS.
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn tls(&self, shows: Option<Pair>) -> std::io::Result<impl TlsStream> {
        use rollcall_tls::Files as _;
        let identity = shows.map(|pair| Identity { cert: pair.cert, key: pair.key });
        let files = ClientFiles { ca: Some(self.authority.ca()), identity };
        let config = files.load().expect("good files");
        let stream = TcpStream::connect(self.server.workers_address()).await?;
        let name = rollcall_tls::ServerName::try_from("127.0.0.1").expect("a name");
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await
    }

    /// Registers as a scripted worker would, and hears the answer.
    async fn registers(&self, name: &str, token: &str, shows: Option<Pair>) -> Value {
        use futures_util::StreamExt as _;
        use tokio_tungstenite::tungstenite::Message;
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let mut request = format!("{}{CONNECT}", self.url()).into_client_request().expect("a URL");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("a header"));
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        let stream = self.tls(shows).await.expect("they agree");
        let (mut socket, _) =
            tokio_tungstenite::client_async(request, stream).await.expect("the token is right");
        let introduction = introduction(name, "scripted", json!([])).to_string();
        socket.send(Message::text(introduction)).await.expect("it is sent");
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
                Some(Ok(_)) => {}
                other => panic!("an answer was awaited, not {other:?}"),
            }
        }
    }

    async fn auth(&self, outcome: &str, least: f64) {
        let labels = ["plane=\"worker\"", &format!("outcome=\"{outcome}\"")];
        self.server.metric_reaches("rollcall_auth_attempts_total", &labels, least).await;
    }
}

trait TlsStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> TlsStream for S {}

fn upgrade(authorization: &str) -> String {
    format!(
        "GET {CONNECT} HTTP/1.1\r\nHost: rollcall.example\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{authorization}\r\n"
    )
}

#[tokio::test]
async fn workers_dial_in_under_tls_with_their_own_token_or_their_pools() {
    let room = Room::new(false);
    let _ann = room.enters("ann", Some(OF_ANN), None);
    room.server.worker_is("ann", "ready").await;
    assert_eq!(room.server.run("once", json!({})).await["state"], "succeeded");
    let _gpu = room.enters("gpu-1", Some(OF_GPU), None);
    room.server.worker_is("gpu-1", "ready").await;
    room.auth("ok", 2.0).await;
    // The main listener, on loopback, takes the token as well, and misses it as well.
    let papers = Papers { token: Some(OF_GPU), ..Papers::default() };
    let plain = room.server.base_url().replacen("http", "ws", 1);
    let _gpu = WorkerProcess::enter("gpu-2", &plain, room.folder.path(), &papers);
    room.server.worker_is("gpu-2", "ready").await;
}

#[tokio::test]
async fn the_listener_for_workers_serves_nothing_else() {
    let room = Room::new(false);
    for path in ["/", "/v1/tasks", "/metrics", "/healthz", "/v1/workers", "/v1/status"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (status, problem) = room.asks(&request).await;
        assert_eq!((status, &problem["code"]), (404, &json!("no_such_route")), "{path}");
    }
    let page = upgrade(&format!("Origin: https://rollcall.example\r\nAuthorization: Bearer {OF_ANN}\r\n"));
    assert_eq!(room.asks(&page).await.0, 403, "a page of the web has no business here");
    // And who speaks no TLS is not answered at all.
    let mut plain = TcpStream::connect(room.server.workers_address()).await.expect("it listens");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is sent");
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    room.server.metric_reaches("rollcall_worker_connects_total", &["outcome=\"tls\""], 1.0).await;
}

#[tokio::test]
async fn without_a_token_or_with_a_wrong_one_nobody_comes_in() {
    let room = Room::new(false);
    let (status, problem) = room.asks(&upgrade("")).await;
    assert_eq!((status, &problem["code"]), (401, &json!("token_missing")), "{problem}");
    assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("ROLLCALL_TOKEN")), "{problem}");
    let (status, problem) = room.asks(&upgrade("Authorization: Basic YTpi\r\n")).await;
    assert_eq!((status, &problem["code"]), (401, &json!("token_missing")), "{problem}");
    let (status, problem) = room.asks(&upgrade("Authorization: Bearer guessed\r\n")).await;
    assert_eq!((status, &problem["code"]), (401, &json!("token_unknown")), "{problem}");
    for outcome in ["missing", "malformed", "unknown"] {
        room.auth(outcome, 1.0).await;
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_name_alone() {
    let room = Room::new(false);
    let error = room.registers("ann", OF_GPU, None).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("unauthorized")), "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("not that of \"ann\"")), "{error}");
    let error = room.registers("bob", OF_ANN, None).await;
    assert_eq!(error["code"], "unauthorized", "a name that nobody gave: {error}");
    let error = room.registers("gpu-1", OF_ANN, None).await;
    assert_eq!(error["code"], "unauthorized", "{error}");
    room.auth("forbidden", 3.0).await;
    let workers = room.server.get("/v1/workers").await;
    let names: Vec<_> = workers["items"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["ann"], "nobody was added");
    assert_eq!(workers["items"][0]["state"], "disconnected");
    // Without a token, not even on loopback.
    let (mut plain, _) = {
        let mut plain = crate::support::scripted::Scripted::dial(&room.server).await;
        plain.say(introduction("ann", "x", json!([]))).await;
        let error = plain.hear("error").await;
        (plain, error)
    };
    plain.say(json!({})).await;
}

#[tokio::test]
async fn a_certificate_is_good_for_the_worker_that_it_names() {
    let room = Room::new(true);
    let ann = room.authority.issue("ann", &["ann"]);
    let gpu = room.authority.issue("gpu", &["gpu"]);
    let error = room.registers("ann", OF_ANN, Some(gpu.clone())).await;
    assert_eq!(error["code"], "unauthorized", "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("for gpu, neither")), "{error}");
    let _ann = room.enters("ann", Some(OF_ANN), Some(ann));
    room.server.worker_is("ann", "ready").await;
    let _gpu = room.enters("gpu-1", Some(OF_GPU), Some(gpu));
    room.server.worker_is("gpu-1", "ready").await;
    // A certificate of another authority, and none at all, do not come as far as a request.
    let other = Authority::new(&room.folder.path().join("other")).issue("ann", &["ann"]);
    let refused = room.server.metric("rollcall_worker_connects_total", &["outcome=\"tls\""]).await;
    let _impostor = room.enters("ann", Some(OF_ANN), Some(other));
    let _naked = room.enters("ann", Some(OF_ANN), None);
    let least = refused.unwrap_or_default() + 2.0;
    room.server.metric_reaches("rollcall_worker_connects_total", &["outcome=\"tls\""], least).await;
    room.server.worker_is("ann", "ready").await;
}

#[tokio::test]
async fn a_worker_gets_no_more_than_its_entry_grants() {
    let room = Room::new(false);
    // The story's worker registers `once`, `again` and `strict`; its entry grants the first two.
    let _ann = room.enters("ann", Some(OF_ANN), None);
    let ann = room.server.worker_is("ann", "ready").await;
    let mut offered: Vec<_> = ann["capabilities"].as_array().expect("a list").iter().map(name).collect();
    offered.sort();
    assert_eq!(offered, ["again", "once"], "{ann}");
    let (status, refused) =
        room.server.post("/v1/tasks", json!({ "capability": "strict", "input": {} }).to_string()).await;
    assert_eq!((status, &refused["code"]), (422, &json!("unknown_capability")), "{refused}");
}

fn name(capability: &Value) -> String {
    capability.as_str().or(capability["name"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn who_guesses_has_to_wait_and_who_is_right_does_not() {
    let room = Room::new(false);
    let ann = room.enters("ann", Some(OF_ANN), None);
    room.server.worker_is("ann", "ready").await;
    for n in 0..10 {
        let (status, _) = room.asks(&upgrade(&format!("Authorization: Bearer guess-{n}\r\n"))).await;
        assert_eq!(status, 401);
    }
    let (status, problem) = room.asks(&upgrade("Authorization: Bearer guess-10\r\n")).await;
    assert_eq!((status, &problem["code"]), (429, &json!("too_many_failures")), "{problem}");
    assert!(problem["retry_after"].as_u64().is_some_and(|wait| (50..=60).contains(&wait)), "{problem}");
    room.auth("throttled", 1.0).await;
    // The right one comes from the same address, and comes back.
    ann.kill();
    room.server.worker_is("ann", "disconnected").await;
    let _ann = room.enters("ann", Some(OF_ANN), None);
    room.server.worker_is("ann", "ready").await;
}

#[tokio::test]
async fn a_token_that_was_changed_counts_from_the_next_connection_on() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("token");
    std::fs::write(&file, OF_ANN).expect("a file can be written");
    let config = format!("{TIMES}workers: [{{ name: ann, token: \"${{file:{}}}\" }}]\n", file.display());
    let server = Server::start(&config);
    let url = server.base_url().replacen("http", "ws", 1);
    let with = |token| Papers { token: Some(token), ..Papers::default() };
    let ann = WorkerProcess::enter("ann", &url, folder.path(), &with(OF_ANN));
    let before = server.worker_is("ann", "ready").await;
    std::fs::write(&file, OF_GPU).expect("a file can be written");
    let (status, reloaded) = server.post("/-/reload", "").await;
    assert_eq!(status, 200, "{reloaded}");
    let after = server.worker_is("ann", "ready").await;
    assert_eq!(before["connection"], after["connection"], "what is connected stays connected");
    ann.kill();
    let old = WorkerProcess::enter("ann", &url, folder.path(), &with(OF_ANN));
    let unknown = ["plane=\"worker\"", "outcome=\"unknown\""];
    server.metric_reaches("rollcall_auth_attempts_total", &unknown, 1.0).await;
    old.kill();
    let _new = WorkerProcess::enter("ann", &url, folder.path(), &with(OF_GPU));
    eventually("another process is ann", async || {
        let ann = server.get("/v1/workers/ann").await;
        let other = ann["instance"] != before["instance"] && ann["state"] == "ready";
        if other { Ok(()) } else { Err(ann.to_string()) }
    })
    .await;
}
