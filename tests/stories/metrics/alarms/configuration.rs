//! Configurations that are wrong, too late, too large or not the same; names without end; a server that
//! stalls, that is cut off, and that has too few descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use rollcall::client::Client;
use rollcall_worker_sdk::{Capability, ServeOptions, TaskEnd, Worker};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Watch;
use crate::metrics::proving::{is_ready, post};
use crate::support::machine::run;
use crate::support::program;

pub(super) const RAISED: [&str; 10] = [
    "RollcallConfigReloadFailed",
    "RollcallConfigNotApplied",
    "RollcallConfigDiverged",
    "RollcallLabelOverflow",
    "RollcallScrapeSlow",
    "RollcallFileDescriptors",
    "RollcallWorkersUnseen",
    "RollcallWorkerDiscoveryFailing",
    "RollcallRuntimeLag",
    "RollcallDown",
];

/// Series on its page beyond what an alert takes for normal, and within what Prometheus takes at all.
const MANY_POOLS: usize = 40;

#[tokio::test]
async fn what_goes_wrong_with_a_server_and_its_configuration_is_told_and_passes() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    // A worker with a page of its own, which is well formed while this is true.
    let well = Arc::new(AtomicBool::new(true));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let worker = Worker::builder("paged")
        .capability(Capability::new("paged.run"), async |_, _| TaskEnd::succeeded(&json!({})))
        .build();
    let (shown, stopped) = (Arc::clone(&well), stop.clone());
    let page =
        move || if shown.load(Ordering::Relaxed) { "up_to_date 1\n" } else { "{ no metric\n" }.to_owned();
    let options = ServeOptions { metrics: Some(Arc::new(page)), ..ServeOptions::default() };
    tokio::spawn(async move { worker.serve(listener, options, stopped).await });

    let config = format!(
        "
heartbeat: {{ interval: 500ms }}
workers:
  - {{ name: paged, endpoint: \"ws://127.0.0.1:{port}\", capabilities: [paged.run] }}
"
    );
    let server = program::Server::start(&config);
    let client = Client::new(server.base()).expect("an address");
    is_ready(&client, "paged").await;
    // Another server, with another configuration.
    let other = program::Server::start(&config.replace("name: paged", "name: other"));
    let second = other.base().trim_start_matches("http://").parse().expect("an address");
    let mut watch = Watch::over_all(server.base(), &[second], folder.path()).await;
    let good = std::fs::read_to_string(server.config()).expect("it is there");
    let write = |text: &str| std::fs::write(server.config(), text).expect("it can be written");
    watch.fire(&["RollcallConfigDiverged"]).await;
    std::fs::write(other.config(), &good).expect("it can be written");
    watch.fall(&["RollcallConfigDiverged"]).await;
    other.signal(Signal::SIGSTOP);
    watch.fire(&["RollcallDown"]).await;
    other.signal(Signal::SIGCONT);

    // A file with a mistake, and one that comes from a machine whose clock is ahead.
    write("workers: [{ nam: x }]\n");
    watch.fire(&["RollcallConfigReloadFailed"]).await;
    write(&good);
    watch.fall(&["RollcallConfigReloadFailed"]).await;
    let touch = |at: SystemTime| {
        let file = std::fs::File::options().append(true).open(server.config()).expect("it is there");
        file.set_modified(at).expect("its time can be set");
    };
    touch(SystemTime::now() + Duration::from_secs(3_600));
    watch.fire(&["RollcallConfigNotApplied"]).await;
    touch(SystemTime::now());
    watch.fall(&["RollcallConfigNotApplied"]).await;

    // Somebody makes up a name for each thing.
    watch
        .fire_while(&["RollcallLabelOverflow"], async || {
            assert_eq!(post(&client, "/v1/tasks", json!({ "capability": "nobody.offers" })).await.0, 422);
        })
        .await;

    // A page that is no page.
    well.store(false, Ordering::Relaxed);
    watch.fire(&["RollcallWorkersUnseen"]).await;
    well.store(true, Ordering::Relaxed);

    // As few descriptors as are open, and then some.
    let limit = |most: &str| {
        let told = run("prlimit", &["--pid", &server.pid().to_string(), &format!("--nofile={most}")]);
        told.unwrap_or_else(|why| panic!("the limit cannot be changed: {why}"));
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count();
    limit(&format!("{}:", open + open / 10));
    watch.fire(&["RollcallFileDescriptors"]).await;
    limit("1024:");

    // Far more series than a server ought to have.
    let many: String =
        (0..MANY_POOLS).map(|n| format!("  - {{ name: p{n}, worker: {{ interface: mock, capabilities: [kind{n}.run] }}, scaling: {{ min: 0, max: 1 }} }}\n")).collect();
    write(&format!("{good}pools:\n{many}"));
    watch.fire(&["RollcallScrapeSlow"]).await;
    write(&good);

    // It stalls, again and again.
    watch
        .fire_while(&["RollcallRuntimeLag"], async || {
            server.signal(Signal::SIGSTOP);
            tokio::time::sleep(Duration::from_millis(400)).await;
            server.signal(Signal::SIGCONT);
            tokio::time::sleep(Duration::from_millis(200)).await;
        })
        .await;
    // It hangs, and does not tell where its workers are.
    server.signal(Signal::SIGSTOP);
    watch.fire(&["RollcallWorkerDiscoveryFailing"]).await;
    server.signal(Signal::SIGCONT);
    watch.fall(&RAISED).await;
    watch.told(&RAISED);
}
