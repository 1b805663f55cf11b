//! Workers that announce one thing and send another, or more than they may.

use serde_json::json;

use super::{FLEET, announced, bytes, sha256};
use crate::support::Server;
use crate::support::scripted::{Scripted, about};

#[tokio::test]
async fn bytes_of_another_hash_are_refused_and_the_task_has_not_succeeded() {
    let server = Server::start(FLEET);
    let (mut worker, task, execute, _) = announced(&server, b"hello", json!({})).await;
    worker.bytes(7, b"jello").await;
    let word = worker.hear("credit").await;
    assert_eq!(word["error"]["code"], "artifact_corrupt", "{word}");
    worker.say(about(&execute, json!({ "type": "result", "status": "succeeded", "output": 1 }))).await;
    let ended = server.task_is(&task, "failed").await;
    assert_eq!(ended["error"]["code"], "artifact_corrupt");
    assert_eq!((&ended["output"], &ended["artifacts"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn a_worker_that_gives_a_refused_file_up_may_succeed_without_it() {
    let server = Server::start(FLEET);
    let (mut worker, task, execute, _) = announced(&server, b"hello", json!({})).await;
    worker.bytes(7, b"jello").await;
    worker.hear("credit").await;
    worker.bytes(7, b"").await;
    worker.say(about(&execute, json!({ "type": "result", "status": "succeeded" }))).await;
    assert_eq!(server.task_is(&task, "succeeded").await["artifacts"], json!([]));
}

#[tokio::test]
async fn a_result_waits_for_its_files_and_does_not_succeed_without_the_rest_of_one() {
    let server = Server::start(FLEET);
    let (mut worker, task, execute, _) = announced(&server, b"hello", json!({})).await;
    worker.bytes(7, b"hello").await;
    worker.say(about(&execute, json!({ "type": "result", "status": "succeeded" }))).await;
    assert_eq!(server.task_is(&task, "succeeded").await["artifacts"][0]["sha256"], sha256(b"hello"));
    drop(worker);
    server.worker_is("ann", "disconnected").await;

    let (mut worker, task, execute, _) = announced(&server, b"hello", json!({})).await;
    worker.bytes(7, b"hel").await;
    worker.say(about(&execute, json!({ "type": "result", "status": "succeeded" }))).await;
    assert_eq!(server.task_is(&task, "failed").await["error"]["code"], "artifact_incomplete");
}

#[tokio::test]
async fn nobody_sends_more_than_its_credit_or_than_it_announced() {
    let server = Server::start(FLEET);
    let (mut worker, ..) = announced(&server, b"hello", json!({})).await;
    worker.bytes(7, b"hello and more").await;
    assert_eq!(worker.hear("credit").await["error"]["code"], "artifact_beyond_credit");
    drop(worker);
    server.worker_is("ann", "disconnected").await;
    let (mut worker, ..) = announced(&server, &bytes(1 << 20), json!({})).await;
    for _ in 0..5 {
        worker.bytes(7, &[0; 64 << 10]).await;
    }
    // What reaches the disk meanwhile makes new credit, so this one may or may not be too much.
    for _ in 0..100 {
        worker.bytes(7, &[0; 64 << 10]).await;
    }
    while worker.hear("credit").await["error"]["code"] != "artifact_beyond_credit" {}
}

#[tokio::test]
async fn what_is_announced_is_checked_before_a_byte_is_taken() {
    for (changes, code) in [
        (json!({ "size": 1_u64 << 40 }), "artifact_too_large"),
        (json!({ "sha256": "nonsense" }), "artifact_bad_frame"),
        (json!({ "name": "" }), "artifact_bad_name"),
        (json!({ "media_type": "a\r\nb: c" }), "artifact_bad_type"),
        (json!({ "epoch": 1 }), "artifact_not_open"),
    ] {
        let server = Server::start(FLEET);
        // What `about` adds comes last, so the epoch is changed by a frame of its own.
        let (mut worker, _, execute, credit) = announced(&server, b"hello", changes.clone()).await;
        if changes["epoch"].is_null() {
            assert_eq!(credit["error"]["code"], code, "{credit}");
        } else {
            let mut frame =
                about(&execute, json!({ "type": "artifact", "number": 8, "name": "b", "size": 1 }));
            frame["epoch"] = changes["epoch"].clone();
            frame["media_type"] = json!("text/plain");
            frame["sha256"] = json!(sha256(b"x"));
            worker.say(frame).await;
            assert_eq!(worker.hear("credit").await["error"]["code"], code);
        }
    }
}

#[tokio::test]
async fn bytes_that_nobody_announced_are_a_nuisance_and_then_the_end() {
    let server = Server::start(FLEET);
    let (mut worker, _) = Scripted::register(&server, "ann", "i", json!([])).await;
    for _ in 0..30 {
        worker.bytes(1, b"surprise").await;
    }
    assert_eq!(worker.close_code().await, 1008);
}

#[tokio::test]
async fn a_long_output_of_a_worker_that_knows_no_files_becomes_one_too() {
    let server = Server::start(FLEET);
    let (mut worker, _) = Scripted::register(&server, "ann", "i", json!([])).await;
    let task = server.submit("once", json!({})).await;
    let execute = worker.hear("execute").await;
    let long = "x".repeat(300 << 10);
    worker.say(about(&execute, json!({ "type": "result", "status": "succeeded", "output": long }))).await;
    let ended = server.task_is(&task, "succeeded").await;
    let output = json!(long).to_string();
    assert_eq!(ended["output"]["$artifact"], format!("sha256:{}", sha256(output.as_bytes())), "{ended}");
    assert_eq!(ended["artifacts"][0]["name"], "output.json");
}
