//! The real server, killed at moments of chance, at every call that it makes to the system, and by
//! the power: everything that it acknowledged is there afterwards.

mod acknowledging;
mod at_every_call;
mod at_random;
mod power_cuts;

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rollcall::client::Client;
use tempfile::TempDir;

use crate::support::program::Server;
use crate::support::recorder::Recorder;

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a folder can be made"))
}

fn client(server: &Server) -> Client {
    Client::new(server.base()).expect("an address")
}

/// So many clients, with numbers of their own.
fn recorders(count: u64, dice: &mut SmallRng) -> Vec<Recorder> {
    let recorder = |at| Recorder::new(at * 1_000_000, SmallRng::seed_from_u64(dice.random()));
    (0..count).map(recorder).collect()
}

/// Each submits until the server says nothing more.
async fn submit_until_silence(recorders: &mut [Recorder], server: &Server) {
    let each = recorders.iter_mut().map(async |recorder| {
        let client = client(server);
        recorder.submit_until_silence(&client).await;
    });
    futures_util::future::join_all(each).await;
}
