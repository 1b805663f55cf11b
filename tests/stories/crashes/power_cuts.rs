//! A power cut: what the disk has at that moment is all that is left. The store is on a disk image
//! that is mounted; a copy of the image holds what was synced, and nothing of what was not.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{client, folder, recorders, submit_until_silence};
use crate::support::machine::{Mounted, amount, dice, empty_image, moment, run, skip};
use crate::support::noting::NotingWorker;
use crate::support::program::{Server, word};

/// A server whose store is on that file system.
fn start(folder: &Arc<TempDir>, worker: &NotingWorker, disk: &Mounted) -> Server {
    let data = format!("ROLLCALL_SERVER__DATA_DIR={}", disk.path().join("data").display());
    Server::start_in(folder, &worker.config(), &["env", &data])
}

/// Whether the file system of this image has a file with something in it.
fn has(image: &Path, name: &str) -> bool {
    let disk = Mounted::image(image).expect("the copy can be mounted as its original was");
    fs::read(disk.path().join(name)).is_ok_and(|bytes| !bytes.is_empty())
}

#[tokio::test]
async fn everything_acknowledged_is_on_the_disk_when_the_power_is_cut() {
    let (mut dice, cuts) = (dice(), amount("ROLLCALL_CUTS", 4));
    let folder = folder();
    let image = match empty_image(folder.path(), 512 << 20) {
        Ok(image) => image,
        Err(why) => return skip(&why),
    };
    let worker = NotingWorker::listen();
    let mut recorders = recorders(8, &mut dice);
    for cut in 0..cuts {
        let disk = match Mounted::image(&image) {
            Ok(disk) => disk,
            Err(why) => return skip(&why),
        };
        let mut server = start(&folder, &worker, &disk);
        for recorder in &mut recorders {
            recorder.finds_everything(&client(&server)).await;
        }
        let killed = async {
            tokio::time::sleep(moment(&mut dice, 100..600)).await;
            // What is written after this moment must not reach the copy, nor anybody else.
            server.signal(Signal::SIGKILL);
        };
        tokio::join!(killed, submit_until_silence(&mut recorders, &server));
        server.ended();
        let unsynced = format!("unsynced-{cut}");
        fs::write(disk.path().join(&unsynced), "gone").expect("there is room");
        let copy = folder.path().join("copy.img");
        run("cp", &["--sparse=always", word(&image), word(&copy)]).expect("there is room");
        drop((server, disk));
        assert!(!has(&copy, &unsynced), "the copy has what was never synced, so it shows nothing");
        fs::rename(&copy, &image).expect("both are in one folder");
    }

    let disk = Mounted::image(&image).expect("as before");
    let server = start(&folder, &worker, &disk);
    for recorder in &mut recorders {
        recorder.ask_again(&client(&server)).await;
        recorder.sees_everything_end(&client(&server), &worker).await;
        assert!(recorder.acknowledged() > cuts, "there was hardly any load");
    }
    worker.never_started_an_attempt_twice();
}
