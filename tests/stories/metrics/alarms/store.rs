//! A disk that is slow, that is small, and that fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rollcall::client::Client;
use serde_json::json;
use tokio::time::timeout;

use super::Watch;
use crate::metrics::proving::post;
use crate::support::machine::{Mounted, Tracer, run, skip};
use crate::support::program::{self, word};

pub(super) const RAISED: [&str; 5] = [
    "RollcallStoreSlow",
    "RollcallDiskFillsSoon",
    "RollcallStoreErrors",
    "RollcallStoreNotWritable",
    "RollcallApiErrorBudgetBurn",
];

#[tokio::test]
async fn what_goes_wrong_with_the_disk_is_told_and_passes() {
    // Large enough to be no reason for an alert; memory is taken only for what is written.
    let disk = match Mounted::in_memory("4g") {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let data = format!("ROLLCALL_SERVER__DATA_DIR={}", disk.path().join("data").display());
    let by = ["env", &data];
    let workers = "workers: [{ name: ann, interface: mock, capabilities: [echo], slots: 8 }]\n";
    let server = program::Server::start_in(&folder, workers, &by);
    let client = Client::new(server.base()).expect("an address");
    let mut watch = Watch::over(server.base(), folder.path()).await;

    // Each sync takes long.
    let traced = |inject: &str| {
        let options = ["-e", "trace=fsync,fdatasync", "-e", inject];
        Tracer::attach(server.pid(), &options, Path::new("/dev/null"))
    };
    let slow = traced("inject=fsync,fdatasync:delay_enter=400000");
    watch
        .fire_while(&["RollcallStoreSlow"], async || {
            assert_eq!(post(&client, "/v1/tasks", json!({ "capability": "echo" })).await.0, 202);
        })
        .await;
    drop(slow);

    // It becomes small, and large again.
    let size = |size: &str| run("mount", &["-o", &format!("remount,size={size}"), word(disk.path())]);
    size("96m").expect("it was mounted here");
    watch.fire(&["RollcallDiskFillsSoon"]).await;
    size("4g").expect("it was mounted here");

    // It fails. Those whose commit failed wait until it works again; all others are refused.
    let failing = traced("inject=fsync,fdatasync:error=EIO");
    watch
        .fire_while(
            &["RollcallStoreErrors", "RollcallStoreNotWritable", "RollcallApiErrorBudgetBurn"],
            async || {
                let all = (0..100).map(|_| post(&client, "/v1/tasks", json!({ "capability": "echo" })));
                drop(timeout(Duration::from_secs(1), join_all(all)).await);
            },
        )
        .await;
    drop(failing);
    watch.fall(&RAISED).await;
    watch.told(&RAISED);
}
