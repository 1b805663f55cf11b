//! A loop that hangs while the rest of the server answers: its file is on a disk that does not. The
//! rule's two minutes are in its expression, so this takes as long, and next to nothing else.

use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Watch;
use crate::support::program;

pub(super) const RAISED: [&str; 1] = ["RollcallLoopStuck"];

#[tokio::test]
async fn a_loop_that_hangs_is_told_and_passes() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let server = program::Server::start("workers: []\n");
    let mut watch = Watch::over(server.base(), folder.path()).await;
    let config = std::fs::read_to_string(server.config()).expect("it is there");
    // Reading it waits for a writer, as reading from a server that is away would.
    let pipe = server.trace("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe can be made");
    std::fs::rename(&pipe, server.config()).expect("it can be put there");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(115) {
        assert!(watch.firing("RollcallLoopStuck").await.is_empty(), "two minutes are not over");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    watch.fire(&RAISED).await;
    let answer = server.says(&["status"]);
    assert!(answer.contains("ready"), "all else goes on: {answer}");
    // The disk answers at last. A writer that waited for the reader would wait for ever after its end.
    let pipe = server.config();
    tokio::task::spawn_blocking(move || std::fs::write(pipe, config))
        .await
        .expect("it ends")
        .expect("it reads");
    watch.fall(&RAISED).await;
    watch.told(&RAISED);
}
