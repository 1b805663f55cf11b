//! What survives: SIGKILL at any moment, a disk that fails, a disk that is full; and what a store
//! that must not be served looks like from outside.

use std::path::Path;
use std::sync::Arc;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use nix::sys::signal::Signal;
use rollcall::client::{Answer, Client, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::machine::{Mounted, run, skip, strace};
use crate::support::program::{Server, rollcall, word};

/// One worker that echoes, once somebody uncordons it.
const ECHO: &str = "
workers:
  - { name: ann, interface: mock, capabilities: [echo], slots: 4 }
";

/// One that takes its time.
const SLOW: &str = "
workers:
  - { name: ann, interface: mock, capabilities: [echo], slots: 4, mock: { latency: 2s } }
";

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a folder can be made"))
}

fn client(server: &Server) -> Client {
    Client::new(server.base()).expect("an address")
}

async fn submit(client: &Client, key: Option<&str>, input: Value) -> Result<Answer, String> {
    let body = json!({ "capability": "echo", "input": input }).to_string();
    let mut request = Request::new(Method::POST, "/v1/tasks").body(body);
    if let Some(key) = key {
        let key = HeaderValue::from_str(key).expect("a header");
        request = request.header(HeaderName::from_static("idempotency-key"), key);
    }
    client.send(request).await.map_err(|error| error.to_string())
}

fn id_of(answer: &Answer) -> String {
    let task: Value = serde_json::from_slice(&answer.body).expect("JSON");
    task["id"].as_str().unwrap_or_else(|| panic!("an id: {task}")).to_owned()
}

async fn task(client: &Client, id: &str) -> Result<Value, String> {
    client.get(&format!("/v1/tasks/{id}")).await.map_err(|error| error.to_string())
}

async fn ends(client: &Client, id: &str) -> Value {
    eventually(&format!("the end of {id}"), async || {
        let task = task(client, id).await?;
        if task["state"] == "succeeded" { Ok(task) } else { Err(task.to_string()) }
    })
    .await
}

#[tokio::test]
async fn what_was_accepted_survives_sigkill_and_keys_are_remembered() {
    let folder = folder();
    let mut first = Server::start_in(&folder, ECHO, &[]);
    let asked = client(&first);
    let done = id_of(&submit(&asked, Some("order-1"), json!(1)).await.expect("an answer"));
    ends(&asked, &done).await;
    first.says(&["workers", "cordon", "ann"]);
    let mut waiting = Vec::new();
    for number in 0..20 {
        let answer = submit(&asked, None, json!({ "number": number })).await.expect("an answer");
        assert_eq!(answer.status, 202);
        waiting.push(id_of(&answer));
    }
    first.signal(Signal::SIGKILL);
    first.ended();

    let second = Server::start_in(&folder, ECHO, &[]);
    let asked = client(&second);
    for id in &waiting {
        assert_eq!(task(&asked, id).await.expect("it is there")["state"], "queued");
    }
    let finished = task(&asked, &done).await.expect("it is there");
    assert_eq!((&finished["state"], &finished["output"]), (&json!("succeeded"), &json!(1)));
    // Only the disk remembers this key by now.
    let again = submit(&asked, Some("order-1"), json!(1)).await.expect("an answer");
    assert_eq!((again.status.as_u16(), id_of(&again)), (200, done.clone()));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let other = submit(&asked, Some("order-1"), json!(2)).await.expect("an answer");
    assert_eq!(other.status, 422);
    let status = asked.get::<Value>("/v1/status").await.expect("it answers");
    assert_eq!(status["pressure"]["tasks"], 20, "the refused ones are none: {status}");
    // A person's word survives as well.
    eventually("the cordon", async || {
        let worker: Value = asked.get("/v1/workers/ann").await.map_err(|error| error.to_string())?;
        if worker["state"] == "cordoned" { Ok(()) } else { Err(worker.to_string()) }
    })
    .await;
    second.says(&["workers", "uncordon", "ann"]);
    for (number, id) in waiting.iter().enumerate() {
        assert_eq!(ends(&asked, id).await["output"], json!({ "number": number }));
    }
}

#[tokio::test]
async fn a_store_in_use_is_copied_and_a_second_server_on_it_is_refused() {
    let folder = folder();
    let mut server = Server::start_in(&folder, ECHO, &[]);
    let asked = client(&server);
    let id = id_of(&submit(&asked, None, json!("x")).await.expect("an answer"));
    ends(&asked, &id).await;

    let mut second = Server::launch(&folder, ECHO, &[]);
    assert_eq!(second.ended(), Some(4));
    let told = second.logs("is held by another server");
    assert!(told.contains(&format!("process {}", server.pid())), "{told}");

    let copies = tempfile::tempdir().expect("a folder can be made");
    let copy = copies.path().join("rollcall.db");
    let config = server.config();
    let backup = |file: &Path| {
        rollcall(&["backup", word(file), "--config", word(&config)]).output().expect("it can be started")
    };
    let made = backup(&copy);
    assert!(made.status.success(), "{made:?}");
    assert!(String::from_utf8_lossy(&made.stdout).contains("1 tasks"), "{made:?}");
    assert_eq!(backup(&copy).status.code(), Some(1), "it replaces nothing");

    let held = rollcall(&["repair", "--data-dir", word(&server.data())]).output().expect("as before");
    assert_eq!(held.status.code(), Some(4), "{held:?}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(), Some(0));
    let looked = rollcall(&["repair", "--data-dir", word(&server.data())]).output().expect("as before");
    assert!(looked.status.success(), "{looked:?}");
    let looked = rollcall(&["repair", "--data-dir", word(copies.path())]).output().expect("as before");
    assert!(String::from_utf8_lossy(&looked.stdout).starts_with("1 tasks are as they were"), "{looked:?}");
}

#[tokio::test]
async fn a_damaged_store_is_not_served_and_goes_on_after_a_repair() {
    let folder = folder();
    let mut server = Server::start_in(&folder, ECHO, &[]);
    let asked = client(&server);
    let id = id_of(&submit(&asked, None, json!("a".repeat(3_000))).await.expect("an answer"));
    ends(&asked, &id).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(), Some(0));
    let database = server.data().join("rollcall.db");
    let mut bytes = std::fs::read(&database).expect("it is there");
    // The first page says what is where.
    bytes[100..200].fill(0xff);
    std::fs::write(&database, bytes).expect("written");

    let mut refused = Server::launch(&folder, ECHO, &[]);
    assert_eq!(refused.ended(), Some(4));
    refused.logs("rollcall repair");
    let config = server.config();
    let repair = |more: &[&str]| {
        let output = rollcall(&["repair", "--config", word(&config)]).args(more).output();
        output.expect("it can be started").status.code()
    };
    assert_eq!(repair(&[]), Some(4));
    assert_eq!(repair(&["--drop"]), Some(0));
    assert_eq!(repair(&[]), Some(0));
    let after = Server::start_in(&folder, ECHO, &[]);
    let answer = submit(&client(&after), None, json!("b")).await.expect("an answer");
    ends(&client(&after), &id_of(&answer)).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_over_a_sync_that_failed_and_the_server_goes_on() {
    let inject = "inject=fsync,fdatasync:error=EIO:when=30+40";
    let by = strace(&["-e", "trace=fsync,fdatasync", "-e", inject], Path::new("/dev/null"));
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let folder = folder();
    let server = Server::start_in(&folder, ECHO, &by);
    let asked = client(&server);
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for number in 0..400 {
        match submit(&asked, None, json!(number)).await.map(|answer| (answer.status.as_u16(), answer)) {
            Ok((202, answer)) => accepted.push(id_of(&answer)),
            Ok((503, _)) => {
                refused += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            other => panic!("{other:?}"),
        }
        if accepted.len() >= 60 && refused > 0 {
            break;
        }
    }
    server.logs("the store refuses writes");
    server.logs("the store takes writes again");
    for id in &accepted {
        ends(&asked, id).await;
    }
    let metrics = String::from_utf8(
        asked.send(Request::new(Method::GET, "/metrics")).await.expect("an answer").body.to_vec(),
    );
    let metrics = metrics.expect("UTF-8");
    assert!(metrics.contains("rollcall_store_writable 1\n"), "{metrics}");
    assert!(!metrics.contains("rollcall_store_errors_total{op=\"write\",kind=\"io\"} 0\n"));
}

#[tokio::test]
async fn a_full_disk_takes_results_and_no_submissions_until_there_is_room() {
    let disk = match Mounted::in_memory("96m") {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let folder = folder();
    let data = format!("ROLLCALL_SERVER__DATA_DIR={}", disk.path().join("data").display());
    let by = ["env", &data, "ROLLCALL_SERVER__MAX_BODY=8MiB"];
    let mut server = Server::start_in(&folder, SLOW, &by);
    let asked = client(&server);
    let mut running = Vec::new();
    for number in 0..4 {
        running.push(id_of(&submit(&asked, None, json!(number)).await.expect("an answer")));
    }
    // Somebody else fills what the ballast leaves.
    let filler = disk.path().join("filler");
    let mut rest = std::fs::File::create(&filler).expect("made");
    let zeros = vec![0_u8; 1 << 16];
    while std::io::Write::write_all(&mut rest, &zeros).is_ok() {}
    drop(rest);
    let large = json!("x".repeat(1 << 20));
    let refused = eventually("a refusal", async || {
        let answer = submit(&asked, None, large.clone()).await?;
        if answer.status == 503 { Ok(answer) } else { Err(format!("{}", answer.status)) }
    })
    .await;
    let refused: Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(refused["code"], "store_unavailable", "{refused}");
    for id in &running {
        ends(&asked, id).await;
    }
    let ready = asked.send(Request::new(Method::GET, "/readyz")).await.expect("an answer");
    let told: Value = serde_json::from_slice(&ready.body).expect("JSON");
    assert_eq!((ready.status.as_u16(), &told["ready"]), (503, &json!(false)), "{told}");
    assert_ne!(told["store"], "ok", "{told}");
    std::fs::remove_file(&filler).expect("it is there");
    // The ballast takes twice its size; there is not so much room on this disk while it is that small.
    run("mount", &["-o", "remount,size=512m", word(disk.path())]).expect("it was mounted here");
    eventually("readiness", async || {
        let ready = asked.send(Request::new(Method::GET, "/readyz")).await.map_err(|it| it.to_string())?;
        if ready.status == 200 { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    let answer = submit(&asked, None, json!("after")).await.expect("an answer");
    assert_eq!(answer.status, 202);
    // What was recorded while there was no room is on the disk.
    server.signal(Signal::SIGKILL);
    server.ended();
    let server = Server::start_in(&folder, SLOW, &by);
    for id in &running {
        assert_eq!(task(&client(&server), id).await.expect("it is there")["state"], "succeeded");
    }
}
