//! SIGKILL at moments of chance, while many clients submit and the worker goes on.

use nix::sys::signal::Signal;
use rand::RngExt as _;

use super::{client, folder, recorders, submit_until_silence};
use crate::support::machine::{amount, dice, moment};
use crate::support::noting::NotingWorker;
use crate::support::program::Server;
use crate::support::recorder::no_submission_made_two_tasks;

#[tokio::test]
async fn every_acknowledged_task_ends_once_however_often_the_server_is_killed() {
    let (mut dice, kills) = (dice(), amount("ROLLCALL_KILLS", 15));
    let (folder, worker) = (folder(), NotingWorker::listen());
    let mut recorders = recorders(8, &mut dice);
    for _ in 0..kills {
        if dice.random_range(0..4) == 0 {
            // Before it serves: while it opens the store, recovers, or dials.
            let mut server = Server::launch(&folder, &worker.config(), &[]);
            tokio::time::sleep(moment(&mut dice, 0..200)).await;
            server.signal(Signal::SIGKILL);
            server.ended();
            continue;
        }
        let mut server = Server::start_in(&folder, &worker.config(), &[]);
        let killed = async {
            tokio::time::sleep(moment(&mut dice, 0..400)).await;
            server.signal(Signal::SIGKILL);
        };
        tokio::join!(killed, submit_until_silence(&mut recorders, &server));
        server.ended();
    }

    let mut server = Server::start_in(&folder, &worker.config(), &[]);
    for recorder in &mut recorders {
        recorder.ask_again(&client(&server)).await;
        recorder.sees_everything_end(&client(&server), &worker).await;
    }
    no_submission_made_two_tasks(&client(&server), &recorders).await;
    worker.never_started_an_attempt_twice();
    // Ends are on the disk, too.
    server.signal(Signal::SIGKILL);
    server.ended();
    let server = Server::start_in(&folder, &worker.config(), &[]);
    for recorder in &mut recorders {
        recorder.finds_everything(&client(&server)).await;
        assert!(recorder.acknowledged() > kills, "there was hardly any load");
    }
}
