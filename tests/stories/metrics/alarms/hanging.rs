//! A loop that hangs while the rest of the server answers: a sync of its store does not come back. The
//! rule's two minutes are in its expression, so this takes as long, and next to nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use rollcall::client::Client;
use serde_json::json;

use super::Watch;
use crate::metrics::proving::post;
use crate::support::machine::Tracer;
use crate::support::program;

pub(super) const RAISED: [&str; 1] = ["RollcallLoopStuck"];

#[tokio::test]
async fn a_loop_that_hangs_is_told_and_passes() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let server = program::Server::start("workers: [{ name: ann, interface: mock, capabilities: [echo] }]\n");
    let client = Client::new(server.base()).expect("an address");
    let mut watch = Watch::over(server.base(), folder.path()).await;
    // Ten minutes are for ever here: the disk answers again when the tracer goes.
    let hang = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=600000000"];
    let hangs = Tracer::attach(server.pid(), &hang, Path::new("/dev/null"));
    // What wants to be written makes it hang. Nobody waits so long for the answer.
    let (caller, task) = (client.clone(), json!({ "capability": "echo" }));
    let waits = tokio::spawn(async move { post(&caller, "/v1/tasks", task).await });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(110) {
        assert!(watch.firing("RollcallLoopStuck").await.is_empty(), "two minutes are not over");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    waits.abort();
    watch.fire(&RAISED).await;
    let answer = server.says(&["status"]);
    assert!(answer.contains("ready"), "all else goes on: {answer}");
    drop(hangs);
    let (status, task) = post(&client, "/v1/tasks", json!({ "capability": "echo" })).await;
    assert_eq!(status, 202, "{task}");
    watch.fall(&RAISED).await;
    watch.told(&RAISED);
}
