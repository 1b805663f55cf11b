//! The ways in which a file changes under a server: editors rename, Kubernetes swaps a link, writers
//! stop halfway, people save ten times in a second.

use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::json;

use super::{entry, file, generation, generation_after, link, reload_fails, rename_over};
use crate::support::counting::{CountingWorker, Runs};
use crate::support::{Server, eventually};

/// A worker that every version of the file has, and a file with it and one more number of slots.
struct Stage {
    ann: CountingWorker,
    bob: CountingWorker,
    server: Server,
    ann_link: (serde_json::Value, serde_json::Value),
}

impl Stage {
    async fn set() -> Self {
        let runs = Runs::new();
        let ann = CountingWorker::listen("ann", &runs).await;
        let bob = CountingWorker::listen("bob", &runs).await;
        let server = Server::start(&file(&[entry("ann", &ann, 1), entry("bob", &bob, 1)]));
        server.worker_is("ann", "ready").await;
        server.worker_is("bob", "ready").await;
        let ann_link = link(&server, "ann").await;
        Self { ann, bob, server, ann_link }
    }

    /// The file with so many slots for bob.
    fn text(&self, slots: u32) -> String {
        file(&[entry("ann", &self.ann, 1), entry("bob", &self.bob, slots)])
    }

    async fn bob_has(&self, slots: u32) {
        eventually(&format!("bob has {slots} slots"), async || {
            let bob = self.server.get("/v1/workers/bob").await;
            if bob["slots"]["total"] == slots { Ok(()) } else { Err(bob.to_string()) }
        })
        .await;
    }

    /// What went wrong with the file changed nothing.
    async fn nothing_changed(&self, generation_before: u64, slots: u32) {
        assert_eq!(generation(&self.server).await, generation_before);
        self.bob_has(slots).await;
        self.untouched().await;
        assert_eq!(self.server.metric("rollcall_config_last_reload_successful", &[]).await, Some(0.0));
        assert_eq!(self.server.run("count.again", json!(1)).await["state"], "succeeded");
    }

    async fn untouched(&self) {
        assert_eq!(link(&self.server, "ann").await, self.ann_link);
    }
}

#[tokio::test]
async fn an_editor_that_renames_is_noticed_each_time() {
    let stage = Stage::set().await;
    for slots in 2..=4 {
        rename_over(&stage.server, &stage.text(slots));
        stage.bob_has(slots).await;
    }
    stage.untouched().await;
    let by_file = ["trigger=\"file\"", "outcome=\"applied\""];
    let applied = stage.server.metric("rollcall_config_reloads_total", &by_file).await;
    assert_eq!(applied, Some(3.0), "told by the file system, not found by the slow timer");
}

#[tokio::test]
async fn a_link_that_kubernetes_swaps_is_followed() {
    let stage = Stage::set().await;
    let file = stage.server.config_file();
    let folder = file.parent().expect("it is in a folder").to_owned();
    let mount = |version: &str, slots: u32| {
        std::fs::create_dir(folder.join(version)).expect("a folder can be made");
        std::fs::write(folder.join(version).join("config.yaml"), stage.text(slots))
            .expect("it can be written");
        symlink(version, folder.join("..data_tmp")).expect("a link can be made");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("it can be renamed");
    };
    // As a volume is mounted: the file is a link through the link that is swapped later.
    mount("..2026_01", 2);
    symlink("..data/config.yaml", folder.join("link")).expect("a link can be made");
    std::fs::rename(folder.join("link"), &file).expect("it can be renamed");
    stage.bob_has(2).await;
    mount("..2026_02", 3);
    stage.bob_has(3).await;
    std::fs::remove_dir_all(folder.join("..2026_01")).expect("nobody needs it");
    mount("..2026_03", 4);
    stage.bob_has(4).await;
    stage.untouched().await;
}

#[tokio::test]
async fn a_half_written_file_changes_nothing_until_it_is_whole() {
    let stage = Stage::set().await;
    let before = generation(&stage.server).await;
    let whole = stage.text(5);
    let (half, _) = whole.split_at(whole.rfind("endpoint").expect("it is there"));
    std::fs::write(stage.server.config_file(), half).expect("it can be written");
    let problems = reload_fails(&stage.server).await;
    assert!(problems[0]["line"].as_u64().is_some_and(|line| line > 0), "{problems}");
    stage.nothing_changed(before, 1).await;
    std::fs::write(stage.server.config_file(), whole).expect("it can be written");
    stage.bob_has(5).await;
    stage.untouched().await;
    assert_eq!(stage.server.metric("rollcall_config_last_reload_successful", &[]).await, Some(1.0));
}

#[tokio::test]
async fn an_empty_file_changes_nothing() {
    let stage = Stage::set().await;
    let before = generation(&stage.server).await;
    std::fs::write(stage.server.config_file(), "").expect("it can be written");
    let problems = reload_fails(&stage.server).await;
    assert!(problems[0]["message"].as_str().is_some_and(|text| text.contains("empty")), "{problems}");
    stage.nothing_changed(before, 1).await;
    rename_over(&stage.server, &stage.text(2));
    stage.bob_has(2).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_changes_nothing() {
    let stage = Stage::set().await;
    let before = generation(&stage.server).await;
    let file = stage.server.config_file();
    std::fs::remove_file(&file).expect("it is there");
    reload_fails(&stage.server).await;
    stage.nothing_changed(before, 1).await;
    // A folder in its place; no mode of a file would keep a test that runs as root from reading it.
    std::fs::create_dir(&file).expect("a folder can be made");
    let (status, problem) = stage.server.post("/-/reload", "").await;
    assert_eq!((status, &problem["code"]), (422, &json!("topology_unreadable")), "{problem}");
    stage.nothing_changed(before, 1).await;
    let unreadable = ["outcome=\"unreadable\""];
    stage.server.metric_reaches("rollcall_config_reloads_total", &unreadable, 2.0).await;
    std::fs::remove_dir(&file).expect("it is there");
    std::fs::write(&file, stage.text(2)).expect("it can be written");
    stage.bob_has(2).await;
    stage.untouched().await;
}

#[tokio::test]
async fn of_ten_edits_in_a_second_the_last_one_holds() {
    let stage = Stage::set().await;
    let before = generation(&stage.server).await;
    for slots in 2..=11 {
        rename_over(&stage.server, &stage.text(slots));
        tokio::time::sleep(Duration::from_millis(90)).await;
    }
    stage.bob_has(11).await;
    let after = generation_after(&stage.server, before).await;
    assert!(after <= before + 10, "{after} after {before}");
    stage.untouched().await;
}
