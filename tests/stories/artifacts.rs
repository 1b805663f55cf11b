//! Files that tasks make and read: from a real worker over a real connection to the disk, and from
//! there to whoever asks.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use rollcall::client::{Answer, Request, encoded};
use rollcall_worker_sdk as sdk;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::asking::{data, path, states};
use crate::support::scripted::{Scripted, about};
use crate::support::{Server, eventually};

mod hostile;

const FLEET: &str = "
workers:
  - { name: ann, slots: 4 }
  - { name: mock, interface: mock, capabilities: [mock.*], mock: { latency: 1ms } }
";

/// A real worker that makes files.
struct Maker {
    _stop: DropGuard,
}

impl Maker {
    fn dial_in(server: &Server) -> Self {
        let worker = sdk::Worker::builder("maker")
            .name("ann")
            .capability(sdk::Capability::new("make.file").idempotent(true), make)
            .capability(sdk::Capability::new("make.long").idempotent(true), async |task, _| {
                let input: Value = serde_json::from_str(task.input.get()).expect("JSON");
                let long = "é"
                    .repeat(input["length"].as_u64().and_then(|it| it.try_into().ok()).expect("a length"));
                sdk::TaskEnd::succeeded(&json!({ "stdout": long, "exit_code": 0 }))
            })
            .build();
        let (stop, url) = (CancellationToken::new(), server.base_url().replacen("http", "ws", 1));
        let until = stop.clone();
        let options = sdk::ConnectOptions {
            initial_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_millis(200),
            ..Default::default()
        };
        // Ends by its guard, at the latest with the runtime.
        drop(tokio::spawn(async move { worker.connect(&url, options, until).await }));
        Self { _stop: stop.drop_guard() }
    }
}

async fn make(task: sdk::Task, context: sdk::TaskContext) -> sdk::TaskEnd {
    let input: Value = serde_json::from_str(task.input.get()).expect("JSON");
    let mut made = Vec::new();
    for file in input["files"].as_array().expect("a list") {
        let bytes = bytes(file["size"].as_u64().expect("a size"));
        let (name, media_type) = (file["name"].as_str().expect("text"), file["type"].as_str());
        match context.artifact(name, media_type.unwrap_or("application/x-test"), bytes).await {
            Ok(artifact) => made.push(artifact),
            Err(_) if input["forgiving"] == true => {}
            Err(error) => return sdk::TaskEnd::failed(error),
        }
    }
    sdk::TaskEnd::succeeded(&made)
}

/// So many bytes, none like its neighbours.
fn bytes(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn url(task: &Value, name: &str) -> String {
    format!("{}/artifacts/{}", path(task), encoded(name))
}

async fn fetch(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let request = headers.iter().fold(Request::new(Method::GET, path), |request, (name, value)| {
        request.header(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"))
    });
    server.send(request).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("(none)")
}

#[tokio::test]
async fn a_file_of_five_megabytes_arrives_whole() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    let size = 5 << 20;
    let task = server.run("make.file", json!({ "files": [{ "name": "a.bin", "size": size }] })).await;
    let hash = sha256(&bytes(size));
    let shown =
        json!([{ "name": "a.bin", "media_type": "application/x-test", "size": size, "sha256": hash }]);
    assert_eq!((&task["state"], &task["artifacts"]), (&json!("succeeded"), &shown), "{task}");
    assert_eq!(task["output"][0]["$artifact"], format!("sha256:{hash}"));
    assert_eq!(server.task(&task).await["artifacts"], shown);

    let answer = fetch(&server, &url(&task, "a.bin"), &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, bytes(size));
    assert_eq!(header(&answer, "content-type"), "application/x-test");
    assert_eq!(header(&answer, "content-length"), size.to_string());
    assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
    assert_eq!(header(&answer, "content-disposition"), "attachment; filename=\"a.bin\"");
    assert_eq!(header(&answer, "etag"), format!("\"{hash}\""));
    let answer = fetch(&server, &format!("/v1/artifacts/{hash}"), &[]).await;
    assert_eq!(sha256(&answer.body), hash);
}

#[tokio::test]
async fn a_part_of_a_file_can_be_asked_for() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    let task = server.run("make.file", json!({ "files": [{ "name": "a.bin", "size": 1000 }] })).await;
    let (url, whole) = (url(&task, "a.bin"), bytes(1000));

    let part = fetch(&server, &url, &[("range", "bytes=100-199")]).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &whole[100..200]));
    assert_eq!(header(&part, "content-range"), "bytes 100-199/1000");
    assert_eq!(header(&part, "content-length"), "100");
    let last = fetch(&server, &url, &[("range", "bytes=-10")]).await;
    assert_eq!((last.status.as_u16(), &last.body[..]), (206, &whole[990..]));
    let beyond = fetch(&server, &url, &[("range", "bytes=1000-")]).await;
    assert_eq!((beyond.status.as_u16(), header(&beyond, "content-range")), (416, "bytes */1000"));

    let tag = header(&part, "etag").to_owned();
    let known = fetch(&server, &url, &[("if-none-match", &tag)]).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    let other = fetch(&server, &url, &[("if-none-match", "\"other\"")]).await;
    assert_eq!((other.status.as_u16(), other.body.len()), (200, 1000));
    let head = server.send(Request::new(Method::HEAD, url)).await;
    assert_eq!((head.status.as_u16(), header(&head, "content-length"), head.body.len()), (200, "1000", 0));
}

#[tokio::test]
async fn a_name_is_never_a_path() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    let name = "../../etc/passwd";
    let task = server.run("make.file", json!({ "files": [{ "name": name, "size": 10 }] })).await;
    assert_eq!(task["artifacts"][0]["name"], name);
    let answer = fetch(&server, &url(&task, name), &[]).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &bytes(10)[..]));
    assert_eq!(header(&answer, "content-disposition"), "attachment; filename=\"passwd\"");
    // As a path it leads nowhere.
    let answer = fetch(&server, &format!("{}/artifacts/{name}", path(&task)), &[]).await;
    assert_eq!(answer.status, 404);
    let answer = fetch(&server, &url(&task, "other"), &[]).await;
    assert!(answer.json::<Value>().expect_err("refused").to_string().contains("other"));
}

#[tokio::test]
async fn an_empty_file_is_a_file_and_a_later_one_takes_the_place_of_its_namesake() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    let files = json!([{ "name": "a", "size": 0 }, { "name": "b", "size": 5 }, { "name": "b", "size": 7 }]);
    let task = server.run("make.file", json!({ "files": files })).await;
    let sizes: Vec<_> = task["artifacts"].as_array().expect("a list").iter().map(|it| &it["size"]).collect();
    assert_eq!(sizes, [0, 7], "{task}");
    assert_eq!(fetch(&server, &url(&task, "a"), &[]).await.body, Bytes::new());
}

#[tokio::test]
async fn watchers_are_told_of_a_file_before_the_end() {
    let server = Server::start(FLEET);
    let task = server.submit("make.file", json!({ "files": [{ "name": "a.bin", "size": 10 }] })).await;
    let (story, _ann) = tokio::join!(server.story_of(&task), async { Maker::dial_in(&server) });
    let kinds: Vec<_> = story.iter().map(|event| event.event.as_str()).collect();
    let at = kinds.iter().position(|kind| *kind == "artifact").unwrap_or_else(|| panic!("{kinds:?}"));
    assert!(at < kinds.len() - 1, "{kinds:?}");
    assert_eq!(data(&story[at])["sha256"], sha256(&bytes(10)));
    assert_eq!(states(&story).last().map(String::as_str), Some("succeeded"));
}

#[tokio::test]
async fn a_long_output_becomes_a_file_and_a_reference() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    let task = server.run("make.long", json!({ "length": 200_000 })).await;
    let output = &task["output"];
    assert_eq!((&output["exit_code"], &output["stdout"]["size"]), (&json!(0), &json!(400_000)), "{output}");
    let name = output["stdout"]["name"].as_str().expect("a name");
    let answer = fetch(&server, &url(&task, name), &[]).await;
    assert_eq!(answer.body, "é".repeat(200_000));
    let short = server.run("make.long", json!({ "length": 1_000 })).await;
    assert_eq!(short["output"]["stdout"], "é".repeat(1_000));
    assert_eq!(short["artifacts"], json!([]));
}

#[tokio::test]
async fn a_mock_makes_files_as_a_real_worker_does() {
    let server = Server::start(FLEET);
    let files = json!([{ "name": "a.txt", "media_type": "text/plain", "text": "hello" }]);
    let task = server.run("mock.files", json!({ "mock_artifacts": files })).await;
    assert_eq!(task["artifacts"][0]["sha256"], sha256(b"hello"), "{task}");
    assert_eq!(fetch(&server, &url(&task, "a.txt"), &[]).await.body, "hello");
    let bad = json!([{ "name": "", "media_type": "text/plain", "text": "hello" }]);
    let task = server.run("mock.files", json!({ "mock_artifacts": bad })).await;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("artifact_bad_name")));
}

#[tokio::test]
async fn a_file_that_is_not_taken_is_the_workers_to_judge() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    let files = json!([{ "name": "a\nb", "size": 10 }, { "name": "good", "size": 10 }]);
    let task = server.run("make.file", json!({ "files": files })).await;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("artifact_bad_name")));
    let task = server.run("make.file", json!({ "files": files, "forgiving": true })).await;
    assert_eq!((&task["state"], &task["artifacts"][0]["name"]), (&json!("succeeded"), &json!("good")));
}

#[tokio::test]
async fn an_upload_begins_again_on_the_next_connection() {
    let server = Server::start(FLEET);
    let _ann = Maker::dial_in(&server);
    server.worker_is("ann", "ready").await;
    let task = server.submit("make.file", json!({ "files": [{ "name": "a.bin", "size": 8 << 20 }] })).await;
    server.task_is(&task, "running").await;
    let (status, _) = server.post("/v1/workers/ann/restart", "").await;
    assert_eq!(status, 200);
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!(ended["artifacts"][0]["sha256"], sha256(&bytes(8 << 20)), "{ended}");
}

#[tokio::test]
async fn inputs_refer_to_files_that_are_there() {
    let server = Server::start(FLEET);
    let (status, given) = server.post("/v1/artifacts", "some bytes").await;
    let hash = sha256(b"some bytes");
    assert_eq!(status, 201, "{given}");
    assert_eq!(given, json!({ "sha256": hash, "size": 10, "$artifact": format!("sha256:{hash}") }));
    let input = json!({ "data": [{ "$artifact": format!("sha256:{hash}") }] });
    let task = server.run("mock.echo", input.clone()).await;
    assert_eq!(task["output"], input);
    assert_eq!(fetch(&server, &format!("/v1/artifacts/{hash}"), &[]).await.body, "some bytes");

    for (reference, code) in
        [(format!("sha256:{}", "0".repeat(64)), "unknown_artifact"), ("sha256:x".to_owned(), "invalid_field")]
    {
        let body = json!({ "capability": "mock.echo", "input": { "a": { "$artifact": reference } } });
        let (status, problem) = server.post("/v1/tasks", body.to_string()).await;
        assert_eq!((status, &problem["code"]), (422, &json!(code)), "{problem}");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_is_too_large_is_not_kept() {
    let server = Server::start(FLEET);
    let head = "POST /v1/artifacts HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n";
    let answer = server.raw(format!("{head}content-length: 999999999999\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer =
        server.raw(format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = fetch(&server, &format!("/v1/artifacts/{}", sha256(b"hello")), &[]).await;
    assert_eq!(answer.status, 404);
}

/// A worker that announces a file of the attempt that it was given, and hears how it may go on.
async fn announced(server: &Server, body: &[u8], changes: Value) -> (Scripted, Value, Value, Value) {
    let (mut worker, _) = Scripted::register(server, "ann", "i", json!([])).await;
    let task = server.submit("once", json!({})).await;
    let execute = worker.hear("execute").await;
    worker.say(about(&execute, json!({ "type": "accepted" }))).await;
    let mut frame = json!({
        "type": "artifact", "number": 7, "name": "a.bin", "media_type": "application/x-test",
        "size": body.len(), "sha256": sha256(body),
    });
    for (name, value) in changes.as_object().expect("changes") {
        frame[name] = value.clone();
    }
    worker.say(about(&execute, frame)).await;
    let credit = worker.hear("credit").await;
    (worker, task, execute, credit)
}

#[tokio::test]
async fn results_and_heartbeats_pass_while_a_file_is_on_its_way() {
    let server = Server::start(FLEET);
    let body = bytes(1 << 20);
    let (mut worker, task, execute, credit) = announced(&server, &body, json!({})).await;
    assert_eq!((&credit["number"], &credit["bytes"]), (&json!(7), &json!(256 << 10)));
    // A quarter of what there is credit for (so no more comes yet), and in the middle of it another task
    // from hand-over to end.
    worker.bytes(7, &body[..64 << 10]).await;
    let (mut sent, mut credit) = (64 << 10, 192 << 10);
    let other = server.submit("again", json!({})).await;
    let asked = worker.hear("execute").await;
    worker.say(about(&asked, json!({ "type": "accepted" }))).await;
    worker.say(json!({ "type": "heartbeat", "running": [] })).await;
    worker.say(about(&asked, json!({ "type": "result", "status": "succeeded", "output": 1 }))).await;
    server.task_is(&other, "succeeded").await;
    assert_eq!(server.task(&task).await["state"], "running");
    while sent < body.len() {
        while credit == 0 {
            credit = worker.hear("credit").await["bytes"].as_u64().expect("bytes");
        }
        let most = usize::try_from(credit).expect("small").min(64 << 10);
        worker.bytes(7, &body[sent..sent + most]).await;
        (sent, credit) = (sent + most, credit - most as u64);
    }
    while worker.hear("credit").await["stored"] != true {}
    worker.say(about(&execute, json!({ "type": "result", "status": "succeeded" }))).await;
    let ended = server.task_is(&task, "succeeded").await;
    assert_eq!(ended["artifacts"][0]["sha256"], sha256(&body));
}

#[tokio::test]
async fn a_file_that_its_task_no_longer_shows_frees_the_disk() {
    let server = Server::start(&format!("retention: {{ artifacts: 1s }}\n{FLEET}"));
    let files = json!([{ "name": "a.txt", "media_type": "text/plain", "text": "hello" }]);
    let task = server.run("mock.files", json!({ "mock_artifacts": files })).await;
    let later = std::time::SystemTime::now() + Duration::from_secs(700);
    server.manager().artifacts().sweep_as_of(later);
    let answer = eventually("the file is gone", async || {
        let answer = fetch(&server, &url(&task, "a.txt"), &[]).await;
        if answer.status == 200 { Err("it is there".to_owned()) } else { Ok(answer) }
    })
    .await;
    assert_eq!(answer.status, 410);
    let folder = server.config_file().with_file_name("data").join("artifacts/default/content");
    let left = std::fs::read_dir(folder).expect("it is there").flatten();
    let left: usize = left.map(|part| std::fs::read_dir(part.path()).expect("a folder").count()).sum();
    assert_eq!(left, 0);
}
