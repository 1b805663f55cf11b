//! What a reload does to the fleet, and above all what it does not.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;
use crate::config::{Env, Timing, Watcher};
use crate::fleet::{ConnId, HealthView, Now, WorkerState, WorkerView};
use crate::telemetry::Metrics;

/// A fleet that takes every topology and shows each worker as connected and busy with two tasks.
#[derive(Clone, Default)]
struct Stand(Arc<Mutex<Arc<Topology>>>);

impl Reconciler for Stand {
    fn retain(&self, _: crate::store::Retention) {}

    fn believe(&self, _: Arc<crate::trust::Credentials>) {}

    fn apply(&self, mut topology: Topology) -> BoxFuture<Result<Applied, CallError>> {
        let mut now = self.0.lock().expect("no test panics with it");
        let diff = Diff::between(&now, &topology);
        topology.generation = Generation(now.generation.0 + u64::from(!diff.is_empty()));
        let applied = Applied { generation: topology.generation, diff: Arc::new(diff) };
        *now = Arc::new(topology);
        Box::pin(async move { Ok(applied) })
    }

    fn topology(&self) -> Arc<Topology> {
        self.0.lock().expect("no test panics with it").clone()
    }

    fn workers(&self) -> Arc<Snapshot> {
        let workers = self.topology().workers.values().map(|spec| Arc::new(busy(spec))).collect();
        Arc::new(Snapshot { workers, at: Now::default() })
    }
}

fn busy(spec: &WorkerSpec) -> WorkerView {
    WorkerView {
        name: spec.name.clone(),
        pool: None,
        origin: spec.origin,
        state: WorkerState::Ready,
        reason: None,
        endpoint: spec.endpoint.clone(),
        launched: false,
        mock: false,
        instance: None,
        connection: Some(ConnId(1)),
        kind: None,
        version: None,
        isolation: None,
        metrics: None,
        capabilities: Arc::new([]),
        has_registered: true,
        slots_total: 4,
        slots_used: 2,
        slots_unavailable: 0,
        labels: BTreeMap::new(),
        last_heartbeat: None,
        connected_at: None,
        reconnects: 0,
        next_attempt_at: None,
        last_error: None,
        health: HealthView::default(),
        attempts_ok: 0,
        attempts_error: 0,
    }
}

/// A file, the desired fleet read from it, and its keeper at work.
struct Room {
    folder: tempfile::TempDir,
    desired: Desired,
    fleet: Stand,
    stop: watch::Sender<bool>,
    keeper: JoinHandle<()>,
}

const PROMPT: Timing = Timing {
    settle: Duration::from_millis(30),
    longest_burst: Duration::from_millis(300),
    recheck: Duration::from_secs(3_600),
    poll: Duration::from_secs(3_600),
};
/// A watcher that stays silent, for tests that reload by hand.
const NEVER: Timing =
    Timing { settle: Duration::from_secs(3_600), longest_burst: Duration::from_secs(3_600), ..PROMPT };

impl Room {
    async fn new(text: &str, timing: Timing) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, text).expect("writable");
        let source = Source::new(&path, Env::default());
        let loaded = source.load().expect("right");
        let fleet = Stand::default();
        let (desired, keeper) = Desired::start(fleet.clone(), source, loaded).await.expect("it runs");
        let (stop, stopping) = watch::channel(false);
        let watcher = Watcher::with_timing(&path, timing);
        let keeper = tokio::spawn(keeper.run(watcher, stopping, Arc::new(Metrics::default())));
        Self { folder, desired, fleet, stop, keeper }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).expect("writable");
    }

    async fn reload(&self) -> Result<Reloaded, ReloadRejected> {
        self.desired.reload(Trigger::Api, false).await
    }

    fn names(&self) -> Vec<String> {
        self.fleet.topology().workers.keys().map(ToString::to_string).collect()
    }

    /// Waits for a condition on the status, and shows the last one if it never comes.
    async fn until(&self, met: impl Fn(&ReloadStatus) -> bool) -> Arc<ReloadStatus> {
        for _ in 0..2_000 {
            let status = self.desired.status();
            if met(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came; last seen: {:?}", self.desired.status());
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.keeper.await.expect("the keeper ends by itself");
    }
}

fn workers(names: &[&str]) -> String {
    let items: Vec<_> = names.iter().map(|name| format!("  - name: {name}\n")).collect();
    format!("workers:\n{}", if items.is_empty() { "  []\n".to_owned() } else { items.concat() })
}

fn spec(json: serde_json::Value) -> (WorkerSpec, crate::trust::Credential) {
    config::worker_from_json(&json, &Env::default()).expect("right")
}

#[tokio::test]
async fn the_start_is_a_reload_from_nothing() {
    let room = Room::new(&workers(&["a", "b"]), NEVER).await;
    assert_eq!(room.names(), ["a", "b"]);
    let status = room.desired.status();
    assert_eq!((status.generation, status.added, status.last_successful), (Generation(1), 2, true));
    assert_eq!(status.reloads, [((Trigger::Start, Outcome::Applied), 1)].into());
    assert_eq!(status.hash, room.desired.config().hash);
    room.end().await;
}

#[tokio::test]
async fn a_saved_file_becomes_the_next_generation_by_itself() {
    let room = Room::new(&workers(&["a"]), PROMPT).await;
    room.write(&workers(&["a", "b"]));
    let status = room.until(|status| status.generation == Generation(2)).await;
    assert_eq!(status.reloads.get(&(Trigger::File, Outcome::Applied)), Some(&1));
    assert_eq!(room.names(), ["a", "b"]);
    room.end().await;
}

#[tokio::test]
async fn a_half_written_file_changes_nothing_until_it_is_whole() {
    let room = Room::new(&workers(&["a"]), PROMPT).await;
    room.write("workers:\n  - name: a\n  - name: b\n    labels: { zone: ");
    let status = room.until(|status| !status.last_successful).await;
    assert_eq!(status.generation, Generation(1));
    assert!(status.problems[0].message.contains("not valid YAML"), "{:?}", status.problems);
    assert_eq!(room.names(), ["a"]);
    room.write("workers:\n  - name: a\n  - name: b\n    labels: { zone: c }\n");
    room.until(|status| status.last_successful && status.generation == Generation(2)).await;
    assert_eq!(room.names(), ["a", "b"]);
    room.end().await;
}

#[tokio::test]
async fn a_file_that_is_deleted_and_made_again_changes_nothing_meanwhile() {
    let room = Room::new(&workers(&["a"]), PROMPT).await;
    std::fs::remove_file(room.path()).expect("removed");
    let status = room.until(|status| !status.last_successful).await;
    assert!(status.reloads.contains_key(&(Trigger::File, Outcome::Unreadable)));
    assert_eq!(room.names(), ["a"]);
    room.write(&workers(&["a"]));
    let status = room.until(|status| status.last_successful).await;
    assert_eq!(status.generation, Generation(1));
    room.end().await;
}

#[tokio::test]
async fn an_empty_and_a_wrong_file_change_nothing() {
    let room = Room::new(&workers(&["a"]), NEVER).await;
    for (text, problems) in [("", 1), ("# only this\n", 1), ("workers:\n  - nam: a\n  - name: B\n", 3)] {
        room.write(text);
        let rejected = room.reload().await.expect_err("wrong");
        assert!(matches!(&rejected, ReloadRejected::Invalid(told) if told.len() == problems), "{rejected}");
        assert_eq!(room.names(), ["a"]);
    }
    let status = room.desired.status();
    assert_eq!(status.reloads[&(Trigger::Api, Outcome::Invalid)], 3);
    assert_eq!((status.last_successful, status.problems.len()), (false, 3));
    room.end().await;
}

#[tokio::test]
async fn the_same_file_again_is_no_new_generation() {
    let room = Room::new(&workers(&["a"]), NEVER).await;
    room.write(&(workers(&["a"]) + "# a comment\n"));
    let reloaded = room.reload().await.expect("right");
    assert!(reloaded.unchanged);
    assert_eq!(reloaded.generation, Generation(1));
    assert_eq!(room.desired.status().reloads[&(Trigger::Api, Outcome::Unchanged)], 1);
    room.end().await;
}

#[tokio::test]
async fn what_takes_a_restart_is_refused_by_field() {
    let room = Room::new(&workers(&[]), NEVER).await;
    room.write(
        "server:\n  listen: 127.0.0.1:1\n  data_dir: elsewhere\n  max_body: 2MiB\nworkers: [{ name: a }]\n",
    );
    let rejected = room.reload().await.expect_err("it takes a restart");
    assert!(matches!(rejected, ReloadRejected::NeedsRestart(_)));
    let told: Vec<_> = rejected.problems().iter().map(|it| (it.line, it.path.as_str())).collect();
    assert_eq!(told, [(2, "server.listen"), (3, "server.data_dir")]);
    assert!(rejected.to_string().contains("from 127.0.0.1:7600 to 127.0.0.1:1"), "{rejected}");
    assert!(room.names().is_empty());
    room.write("server: { max_body: 2MiB }\nworkers: []\n");
    assert!(room.reload().await.expect("this may change").unchanged);
    assert_eq!(room.desired.config().server.max_body, 2 << 20);
    room.end().await;
}

#[tokio::test]
async fn a_file_that_would_empty_the_fleet_needs_a_word() {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let room = Room::new(&workers(&all), NEVER).await;
    room.write(&workers(&["a", "b"]));
    let rejected = room.reload().await.expect_err("6 of 8");
    assert!(matches!(rejected, ReloadRejected::MassRemoval(_)), "{rejected}");
    assert_eq!(room.names().len(), 8);
    // Four may always go, and a renamed worker stays.
    room.write(&workers(&["a", "b", "c", "d\n    formerly: e"]));
    let reloaded = room.reload().await.expect("4 of 8");
    assert_eq!(reloaded.diff.removed(), 4);
    room.write(&workers(&all));
    room.reload().await.expect("more are always welcome");
    room.write(&workers(&[]));
    assert!(room.reload().await.is_err());
    let reloaded = room.desired.reload(Trigger::Api, true).await.expect("the call allows it");
    assert_eq!(reloaded.diff.removed(), 8);
    room.write(&workers(&all));
    room.reload().await.expect("right");
    room.write("reload: { allow_mass_removal: true }\nworkers: []\n");
    room.reload().await.expect("the file allows it");
    room.end().await;
}

#[tokio::test]
async fn workers_of_the_api_live_beside_the_files() {
    let room = Room::new("workers:\n  - { name: a, endpoint: 'ws://127.0.0.1:1' }\n", NEVER).await;
    let added = room.desired.add_worker(spec(serde_json::json!({ "name": "x" }))).await.expect("free");
    assert_eq!((added.generation, room.names()), (Generation(2), vec!["a".to_owned(), "x".to_owned()]));
    assert_eq!(room.fleet.topology().workers["x"].origin, crate::fleet::Origin::Api);
    room.reload().await.expect("right");
    assert_eq!(room.names(), ["a", "x"]);

    let refused = room.desired.add_worker(spec(serde_json::json!({ "name": "x" }))).await;
    assert_eq!(refused.expect_err("taken"), AddRefused::NameTaken { by: None });
    let refused = room.desired.add_worker(spec(serde_json::json!({ "name": "a" }))).await;
    let file = room.path().display().to_string();
    assert_eq!(refused.expect_err("taken"), AddRefused::NameTaken { by: Some((file.clone(), 2)) });
    let twin = spec(serde_json::json!({ "name": "y", "endpoint": "ws://127.0.0.1:1" }));
    let refused = room.desired.add_worker(twin).await.expect_err("one endpoint");
    assert_eq!(refused, AddRefused::EndpointTaken { by: "a".into() });

    assert_eq!(room.desired.remove_worker(&"x".into()).await.expect("added above").generation, Generation(3));
    let refused = room.desired.remove_worker(&"x".into()).await.expect_err("gone");
    assert_eq!(refused, RemoveRefused::NoSuchWorker);
    let refused = room.desired.remove_worker(&"a".into()).await.expect_err("the file's");
    assert_eq!(refused, RemoveRefused::InFile { file, line: 2 });
    room.end().await;
}

#[tokio::test]
async fn the_file_wins_a_name_and_keeps_it() {
    let room = Room::new(&workers(&["a"]), NEVER).await;
    room.desired.add_worker(spec(serde_json::json!({ "name": "x", "slots": 2 }))).await.expect("free");
    room.write(&workers(&["a", "x"]));
    room.reload().await.expect("the file takes it up");
    assert_eq!(room.fleet.topology().workers["x"].slots, None);
    room.write(&workers(&["a"]));
    room.reload().await.expect("and lets it go");
    assert_eq!(room.names(), ["a"]);
    room.end().await;
}

#[tokio::test]
async fn a_plan_tells_what_a_reload_does_and_changes_nothing() {
    let text =
        "workers:\n  - { name: a, capabilities: [x.y] }\n  - { name: b, capabilities: ['z.*'], slots: 4 }\n";
    let room = Room::new(text, NEVER).await;
    let text = "server: { listen: '127.0.0.1:1' }\nworkers:\n  - { name: b, capabilities: ['z.*'], slots: 8 }\n  - { name: c, capabilities: [z.z] }\n";
    let plan = room.desired.plan("new.yaml", text.to_owned()).await.expect("right");
    assert_eq!(plan.summary, "generation 2: +c, ~b slots 4→8, -a (draining 2 tasks), 0 unchanged");
    assert_eq!(plan.reach.sockets_closed, [WorkerName::from("a")]);
    assert_eq!(plan.reach.tasks_touched, 2);
    assert_eq!(plan.reach.capabilities_lost, [crate::fleet::Capability::from("x.y")]);
    assert_eq!(plan.refusals.len(), 1);
    assert_eq!(room.names(), ["a", "b"]);
    assert_eq!(room.desired.status().reloads.len(), 1);
    let wrong = room.desired.plan("new.yaml", "workers: 5".to_owned()).await.expect_err("wrong");
    assert!(wrong[0].to_string().starts_with("new.yaml:1:10: workers: "), "{}", wrong[0]);
    room.end().await;
}

#[tokio::test]
async fn requests_that_wait_together_are_one_reading() {
    let room = Room::new(&workers(&["a"]), NEVER).await;
    room.write(&workers(&["a", "b"]));
    let all = futures_util::future::join_all((0..20).map(|_| room.reload())).await;
    for reloaded in all {
        assert_eq!(reloaded.expect("right").generation, Generation(2));
    }
    let attempts: u64 = room.desired.status().reloads.values().sum();
    assert!(attempts <= 4, "{attempts} attempts");
    room.end().await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_stops_nothing() {
    let room = Room::new(&workers(&["a"]), NEVER).await;
    room.write(&workers(&["a", "b"]));
    let desired = room.desired.clone();
    let caller = tokio::spawn(async move { desired.reload(Trigger::Sighup, false).await });
    tokio::task::yield_now().await;
    caller.abort();
    room.until(|status| status.generation == Generation(2)).await;
    room.end().await;
}

#[tokio::test]
async fn nothing_is_taken_once_the_server_stops() {
    let room = Room::new(&workers(&["a"]), NEVER).await;
    room.stop.send_replace(true);
    let desired = room.desired.clone();
    room.end().await;
    assert!(matches!(desired.reload(Trigger::Api, false).await, Err(ReloadRejected::Stopped)));
}

#[tokio::test]
async fn a_timer_that_finds_the_same_file_makes_no_attempt() {
    let often = Timing { recheck: Duration::from_millis(20), ..NEVER };
    let room = Room::new(&workers(&["a"]), often).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(room.desired.status().reloads.len(), 1);
    room.write(&workers(&["a", "b"]));
    let status = room.until(|status| status.generation == Generation(2)).await;
    assert_eq!(status.reloads[&(Trigger::Timer, Outcome::Applied)], 1);
    room.end().await;
}
