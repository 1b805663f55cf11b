//! Clouds that a network parts: the server is in one, workers in namespaces of their own, with a wire
//! between them that can be cut, on one side or both, lossy or thin. The rows are those of the fault
//! matrix in docs/guarantees.md.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{OF_ANN, TOKENS, listens};
use crate::support::asking::outcomes;
use crate::support::authority::Authority;
use crate::support::cloud::{Cloud, Fault};
use crate::support::machine::skip;
use crate::support::process::{Papers, WorkerProcess, runs};
use crate::support::{Server, eventually};

/// Silence is found in seconds; the lease leaves room for short cuts.
const TIMES: &str = "
heartbeat: { interval: 400ms, suspect_after: 1s, timeout: 2s, lease: 6s }
reconnect: { initial_backoff: 20ms, max_backoff: 200ms }
";

/// On a thin line heartbeats stand behind what is sent before them.
const SLOW_TIMES: &str = "heartbeat: { interval: 2500ms, suspect_after: 4s, timeout: 8s, lease: 12s }\n";

/// A server, and a cloud with a worker called `ann` in it.
struct Story {
    folder: TempDir,
    authority: Authority,
    server: Server,
    cloud: Cloud,
}

impl Story {
    /// `None` where no namespaces can be made; that has been said then.
    fn begin() -> Option<Self> {
        Self::begin_with(TIMES)
    }

    fn begin_with(times: &str) -> Option<Self> {
        let cloud = match Cloud::open() {
            Ok(cloud) => cloud,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        let folder = tempfile::tempdir().expect("a folder can be made");
        let authority = Authority::new(&folder.path().join("pki"));
        let address = cloud.near();
        let workers = "workers:\n  - { name: ann, slots: 4, token: \"${OF_ANN}\", labels: { region: far } }\n  \
                       - { name: bob, slots: 4, token: \"${OF_ANN}\", labels: { region: near } }\n";
        let config =
            listens(&format!("{address}:0"), &authority, &[&address.to_string()], false) + times + workers;
        let server = Server::with_env(&config, &TOKENS);
        Some(Self { folder, authority, server, cloud })
    }

    /// A worker's process in the cloud, or beside the server.
    fn worker(&self, name: &str, inside: Option<&Cloud>) -> WorkerProcess {
        let papers = Papers {
            token: Some(OF_ANN),
            believes: Some(self.authority.ca()),
            shows: None,
            inside: inside.map(Cloud::name),
        };
        let url = format!("wss://{}", self.server.workers_address());
        WorkerProcess::enter(name, &url, self.folder.path(), &papers)
    }

    /// A task that runs until the file of this name is there.
    async fn held(&self, capability: &str, until: &str, region: &str) -> Value {
        let task = self
            .server
            .submit_as(json!({ "capability": capability, "input": { "until": until }, "labels": { "region": region } }))
            .await;
        self.server.task_is(&task, "running").await
    }

    fn let_go(&self, name: &str) {
        std::fs::write(self.folder.path().join(name), "").expect("a file can be written");
    }

    fn runs_of(&self, task: &Value) -> usize {
        runs(self.folder.path()).iter().filter(|(id, ..)| task["id"] == id.as_str()).count()
    }

    async fn resumed(&self, least: f64) {
        self.server
            .metric_reaches("rollcall_task_reconciliations_total", &["decision=\"resumed\""], least)
            .await;
    }
}

#[tokio::test]
async fn f15_a_short_partition_costs_nobody_a_run() {
    let Some(story) = Story::begin() else { return };
    let _ann = story.worker("ann", Some(&story.cloud));
    story.server.worker_is("ann", "ready").await;
    let task = story.held("once", "go", "far").await;
    story.cloud.suffer(Fault::Cut);
    // The connection is given up, the lease is not.
    story.server.worker_is("ann", "disconnected").await;
    story.cloud.heal();
    story.server.worker_is("ann", "ready").await;
    story.resumed(1.0).await;
    story.let_go("go");
    let ended = story.server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), story.runs_of(&task)), (vec!["succeeded"], 1), "{ended}");
}

#[tokio::test]
async fn f15_after_a_long_partition_the_sides_come_to_terms() {
    let Some(story) = Story::begin() else { return };
    let _ann = story.worker("ann", Some(&story.cloud));
    story.server.worker_is("ann", "ready").await;
    let (kept, lost) = (story.held("again", "go", "far").await, story.held("once", "go", "far").await);
    story.cloud.suffer(Fault::Cut);
    // What may be repeated waits for the region, what must not be is lost aloud, each once.
    let ended = story.server.task_is(&lost, "lost").await;
    assert_eq!(ended["error"]["side_effects"], "possible", "{ended}");
    let waiting = story.server.task_is(&kept, "queued").await;
    assert_eq!(outcomes(&waiting), ["worker_lost"], "{waiting}");
    story.let_go("go");
    story.cloud.heal();
    story.server.worker_is("ann", "ready").await;
    let ended = story.server.task_is(&kept, "succeeded").await;
    // Nobody else took it meanwhile, so what the worker did is not done again.
    assert_eq!((outcomes(&ended), story.runs_of(&kept)), (vec!["succeeded"], 1), "{ended}");
    let late = story.server.task(&lost).await;
    assert_eq!(late["state"], "lost", "a late result changes nothing: {late}");
}

#[tokio::test]
async fn a_region_is_lost_another_one_takes_its_work_and_it_comes_back() {
    let Some(story) = Story::begin() else { return };
    let other = Cloud::open().expect("one could be made a moment ago");
    let ann = story.worker("ann", Some(&story.cloud));
    // The second cloud has a wire of its own; its worker goes by the first one's address, through the server's machine.
    other.reaches(story.cloud.near());
    let _bob = story.worker("bob", Some(&other));
    story.server.worker_is("ann", "ready").await;
    story.server.worker_is("bob", "ready").await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(story.server.submit("again", json!({ "until": "go" })).await);
    }
    for task in &tasks {
        story.server.task_is(task, "running").await;
    }
    story.cloud.suffer(Fault::Cut);
    story.server.worker_is("ann", "disconnected").await;
    let began = Instant::now();
    story.let_go("go");
    for task in &tasks {
        let ended = story.server.task_is(task, "succeeded").await;
        assert!(outcomes(&ended).len() <= 2, "leases end once: {ended}");
    }
    // What ran in the lost region was run again by the other one, after the lease and no later.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    story.cloud.heal();
    story.server.worker_is("ann", "ready").await;
    let task = json!({ "capability": "once", "input": {}, "labels": { "region": "far" } });
    let task = story.server.submit_as(task).await;
    let ended = story.server.task_is(&task, "succeeded").await;
    assert_eq!(ended["output"]["pid"], ann.pid(), "the region works again: {ended}");
}

async fn one_way(fault: Fault) {
    let Some(story) = Story::begin() else { return };
    let ann = story.worker("ann", Some(&story.cloud));
    story.server.worker_is("ann", "ready").await;
    let task = story.held("once", "go", "far").await;
    let began = Instant::now();
    story.cloud.suffer(fault);
    story.server.worker_is("ann", "disconnected").await;
    // 2 s of silence, and what a busy machine adds.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let labels = ["reason=\"heartbeat_timeout\""];
    story.server.metric_reaches("rollcall_worker_disconnects_total", &labels, 1.0).await;
    story.cloud.heal();
    story.server.worker_is("ann", "ready").await;
    story.let_go("go");
    let ended = story.server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), story.runs_of(&task)), (vec!["succeeded"], 1), "{ended}");
    assert_eq!(ended["output"]["pid"], ann.pid());
}

#[tokio::test]
async fn f16_a_worker_that_cannot_be_heard_is_found_out_though_tcp_looks_open() {
    one_way(Fault::Mute).await;
}

#[tokio::test]
async fn f16_a_worker_that_hears_nothing_gives_up_by_itself() {
    let Some(story) = Story::begin() else { return };
    let _ann = story.worker("ann", Some(&story.cloud));
    let before = story.server.worker_is("ann", "ready").await;
    let task = story.held("once", "go", "far").await;
    story.cloud.suffer(Fault::Deaf);
    story.server.worker_is("ann", "disconnected").await;
    story.cloud.heal();
    let after = story.server.worker_is("ann", "ready").await;
    assert_eq!(before["instance"], after["instance"]);
    story.let_go("go");
    let ended = story.server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), story.runs_of(&task)), (vec!["succeeded"], 1), "{ended}");
}

#[tokio::test]
async fn f18_a_tenth_of_the_packets_lost_kills_nobody() {
    let Some(story) = Story::begin() else { return };
    let _ann = story.worker("ann", Some(&story.cloud));
    let before = story.server.worker_is("ann", "ready").await;
    story.cloud.suffer(Fault::Loss(10));
    let mut tasks = Vec::new();
    for _ in 0..40 {
        let task = json!({ "capability": "once", "input": { "pad": "x".repeat(8_000) }, "labels": { "region": "far" } });
        tasks.push(story.server.submit_as(task).await);
    }
    for task in &tasks {
        let ended = story.server.task_is(task, "succeeded").await;
        assert_eq!(story.runs_of(&ended), 1, "{ended}");
    }
    story.cloud.heal();
    let after = story.server.worker_is("ann", "ready").await;
    assert_eq!(before["instance"], after["instance"], "the same process");
}

#[tokio::test]
async fn f18_a_thin_line_carries_heartbeats_beside_large_inputs() {
    let Some(story) = Story::begin_with(SLOW_TIMES) else { return };
    let _ann = story.worker("ann", Some(&story.cloud));
    let before = story.server.worker_is("ann", "ready").await;
    // 200 kB at 2 Mbit/s take nearly a second, in which nothing else passes.
    story.cloud.suffer(Fault::Thin { kbit: 2_000 });
    let task = json!({ "capability": "once", "input": { "pad": "x".repeat(200_000) }, "labels": { "region": "far" } });
    let task = story.server.submit_as(task).await;
    let ended = story.server.task_is(&task, "succeeded").await;
    assert_eq!((outcomes(&ended), story.runs_of(&task)), (vec!["succeeded"], 1), "{ended}");
    let after = story.server.worker_is("ann", "ready").await;
    assert_eq!(before["connection"], after["connection"], "one and the same connection: {after}");
}

#[tokio::test]
async fn f01_a_killed_worker_is_noticed_at_once_across_the_wire() {
    let Some(story) = Story::begin() else { return };
    let ann = story.worker("ann", Some(&story.cloud));
    story.server.worker_is("ann", "ready").await;
    let task = story.held("again", "go", "far").await;
    let began = Instant::now();
    ann.kill();
    story.server.worker_is("ann", "disconnected").await;
    assert!(began.elapsed() < Duration::from_secs(2), "by the end of the connection: {:?}", began.elapsed());
    // A new process under the name says by its registration that the old one is gone: no lease is waited for.
    let _new = story.worker("ann", Some(&story.cloud));
    eventually("the task runs again", async || {
        let now = story.server.task(&task).await;
        let again = now["attempts"].as_array().map_or(0, Vec::len) == 2 && now["state"] == "running";
        if again { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    story.let_go("go");
    let ended = story.server.task_is(&task, "succeeded").await;
    assert_eq!(outcomes(&ended), ["worker_lost", "succeeded"], "{ended}");
}
