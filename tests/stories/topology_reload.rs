//! Adding, changing, moving and removing workers in the file while tasks run: none is lost, none runs
//! twice, and whoever did not change keeps its connection.

mod files;
mod refused;
mod under_load;

use serde_json::Value;

use crate::support::counting::CountingWorker;
use crate::support::{Server, eventually};

/// One entry of the file: a worker that is dialled, and its slots.
fn entry(name: &str, worker: &CountingWorker, slots: u32) -> String {
    format!("  - {{ name: {name}, endpoint: \"{}\", slots: {slots} }}\n", worker.endpoint())
}

/// A file of these entries.
fn file(entries: &[String]) -> String {
    format!("workers:\n{}", entries.concat())
}

/// Which process, over which connection: by these an untouched worker is known, not by any number of
/// workers that are ready.
async fn link(server: &Server, name: &str) -> (Value, Value) {
    let worker = server.get(&format!("/v1/workers/{name}")).await;
    assert_eq!(worker["state"], "ready", "{worker}");
    (worker["instance"].clone(), worker["connection"].clone())
}

/// The generation in force.
async fn generation(server: &Server) -> u64 {
    server.get("/v1/status").await["generation"].as_u64().expect("a number")
}

/// Waits until a later generation than this is in force.
async fn generation_after(server: &Server, before: u64) -> u64 {
    eventually(&format!("generation {} is in force", before + 1), async || {
        let status = server.get("/v1/status").await;
        let now = status["generation"].as_u64().expect("a number");
        if now > before { Ok(now) } else { Err(status["last_reload"].to_string()) }
    })
    .await
}

/// Replaces the file as editors do: a new one beside it takes its name.
fn rename_over(server: &Server, text: &str) {
    let beside = server.config_file().with_extension("yaml.tmp");
    std::fs::write(&beside, text).expect("a file can be written");
    std::fs::rename(&beside, server.config_file()).expect("a file can be renamed");
}

/// Waits until the last reload failed, and returns its problems.
async fn reload_fails(server: &Server) -> Value {
    eventually("a reload has failed", async || {
        let status = server.get("/v1/status").await;
        let last = &status["last_reload"];
        if last["successful"] == false { Ok(last["problems"].clone()) } else { Err(last.to_string()) }
    })
    .await
}
