//! Programs that the server starts, watches and stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rollcall::fleet::{Event, LaunchSpec, WorkerName};
use rollcall::supervise::{Options, Pace, ProcessState, Supervisor};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A supervisor, a worker's name, and a folder where the scripts leave traces.
struct Stage {
    supervisor: Supervisor,
    events: mpsc::Receiver<Event>,
    worker: WorkerName,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let (send, events) = mpsc::channel(64);
        let pace = Pace { first: Duration::from_millis(2), failures: 4, ..Pace::default() };
        let shim = Some(PathBuf::from(env!("CARGO_BIN_EXE_rollcall")));
        let options = Options { shim, pace, stop_grace: Duration::from_millis(300), ..Options::default() };
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self { supervisor: Supervisor::new(send, options), events, worker: "py".into(), folder }
    }

    /// Launches a shell script; `$HERE` is the stage's folder.
    fn launch(&self, script: &str) {
        let here = self.folder.path().display().to_string();
        self.supervisor.launch(self.worker.clone(), shell(script, &here));
    }

    fn trace(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the scripts have written so many pids, and returns them.
    async fn pids(&self, count: usize) -> Vec<i32> {
        let file = self.trace("pids");
        eventually("the pids", || {
            let pids = read_pids(&file);
            (pids.len() >= count).then_some(pids)
        })
        .await
    }

    async fn gone(&mut self) {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("ProcessGone comes");
        assert_eq!(event, Some(Event::ProcessGone(self.worker.clone())));
    }

    async fn given_up(&self) -> Arc<str> {
        eventually("the giving up", || match self.supervisor.status(&self.worker)?.state {
            ProcessState::GaveUp { reason } => Some(reason),
            ProcessState::Running | ProcessState::BackingOff { .. } | ProcessState::Stopping => None,
        })
        .await
    }
}

fn shell(script: &str, here: &str) -> Arc<LaunchSpec> {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Arc::new(LaunchSpec { command, env: [("HERE".to_owned(), here.to_owned())].into() })
}

fn read_pids(file: &Path) -> Vec<i32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // A line is whole once its end is there.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}

/// Whether a process runs; one that has ended but was not reaped does not.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come in time");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Three processes that would outlive a careless parent: one in the group, one in a session of its
/// own, one whose parent is gone.
const FAMILY: &str = "
    sleep 1000 & echo $! >> $HERE/pids
    setsid sleep 1000 & echo $! >> $HERE/pids
    (setsid sh -c 'echo $$ >> $HERE/pids; exec sleep 1000' &)
    echo $$ >> $HERE/pids
";

#[tokio::test]
async fn a_killed_program_is_started_again_as_a_new_process() {
    let mut stage = Stage::new();
    stage.launch("echo $$ >> $HERE/pids; exec sleep 1000");
    let first = stage.pids(1).await[0];
    let token = stage.supervisor.token(&stage.worker).expect("a running program has a token");
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it runs");
    stage.gone().await;
    assert!(!runs(first));
    let second = stage.pids(2).await[1];
    assert_ne!(first, second);
    let status = stage.supervisor.status(&stage.worker).expect("it is known");
    assert_eq!((status.state, status.restarts), (ProcessState::Running, 1));
    assert_eq!(status.last_exit.as_deref(), Some("killed by SIGKILL"));
    assert_ne!(stage.supervisor.token(&stage.worker), Some(token));
    stage.supervisor.shutdown(PATIENCE).await;
    assert!(!runs(second));
}

#[tokio::test]
async fn a_program_whose_parent_is_killed_is_started_again_too() {
    let mut stage = Stage::new();
    stage.launch("sleep 1000 & echo $! >> $HERE/pids; echo $$ >> $HERE/pids; wait");
    let first = stage.pids(2).await;
    let shown = stage.supervisor.status(&stage.worker).and_then(|status| status.pid).expect("it runs");
    kill(Pid::from_raw(i32::try_from(shown).expect("a pid")), Signal::SIGKILL).expect("it runs");
    stage.gone().await;
    assert!(first.iter().all(|pid| !runs(*pid)), "the group outlived its leader");
    stage.pids(4).await;
    stage.supervisor.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_flapping_program_is_given_up_until_it_is_wanted_anew() {
    let mut stage = Stage::new();
    let script = "echo $$ >> $HERE/pids; echo the port is taken >&2; exit 3";
    stage.launch(script);
    let reason = stage.given_up().await;
    assert!(reason.contains("exit code 3") && reason.contains("the port is taken"), "{reason}");
    assert_eq!(stage.pids(4).await.len(), 4);
    for _ in 0..4 {
        stage.gone().await;
    }
    stage.launch(script); // The same word again changes nothing.
    stage.supervisor.halt(stage.worker.clone());
    stage.gone().await;
    assert_eq!(stage.pids(4).await.len(), 4);
    stage.launch(script);
    stage.pids(8).await;
    stage.given_up().await;
    stage.supervisor.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_program_that_misses_its_isolation_is_not_tried_again() {
    let stage = Stage::new();
    stage.launch("echo $$ >> $HERE/pids; echo bwrap is not installed >&2; exit 78");
    assert!(stage.given_up().await.ends_with("bwrap is not installed"));
    assert_eq!(stage.pids(1).await.len(), 1);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let stage = Stage::new();
    let spec = LaunchSpec { command: vec!["no-such-program".to_owned()], env: [].into() };
    stage.supervisor.launch(stage.worker.clone(), Arc::new(spec));
    assert!(stage.given_up().await.contains("cannot find no-such-program"));
}

#[tokio::test]
async fn halting_leaves_nothing_behind() {
    let mut stage = Stage::new();
    stage.launch(&format!("{FAMILY} wait"));
    let family = stage.pids(4).await;
    assert!(family.iter().all(|pid| runs(*pid)));
    stage.supervisor.halt(stage.worker.clone());
    stage.gone().await;
    assert!(family.iter().all(|pid| !runs(*pid)));
    eventually("the end of its keeper", || stage.supervisor.status(&stage.worker).is_none().then_some(()))
        .await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_the_grace() {
    let mut stage = Stage::new();
    stage.launch("trap '' TERM; sleep 1000 & echo $! >> $HERE/pids; while :; do wait; done");
    let child = stage.pids(1).await[0];
    stage.supervisor.halt(stage.worker.clone());
    stage.gone().await;
    assert!(!runs(child));
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_before_the_next_start() {
    let mut stage = Stage::new();
    let first_time = "test -e $HERE/again && exec sleep 1000; touch $HERE/again";
    let all_there = "while test $(wc -l < $HERE/pids) -lt 4; do sleep 0.01; done";
    stage.launch(&format!("{first_time}; {FAMILY} {all_there}; exit 1"));
    let family = stage.pids(4).await;
    stage.gone().await;
    assert!(family.iter().all(|pid| !runs(*pid)));
    stage.supervisor.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn halting_what_does_not_run_is_answered() {
    let mut stage = Stage::new();
    stage.supervisor.halt(stage.worker.clone());
    stage.gone().await;
}

#[tokio::test]
async fn another_program_under_the_name_follows_when_the_first_is_gone() {
    let mut stage = Stage::new();
    stage.launch("echo $$ >> $HERE/pids; exec sleep 1000");
    let first = stage.pids(1).await[0];
    stage.launch("echo $$ >> $HERE/pids; exec sleep 2000");
    stage.gone().await;
    assert!(!runs(first));
    stage.pids(2).await;
    stage.supervisor.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn the_environment_is_small_and_has_what_a_worker_needs() {
    let stage = Stage::new();
    stage.launch("env > $HERE/half; mv $HERE/half $HERE/env; exec sleep 1000");
    let text = eventually("the environment", || fs::read_to_string(stage.trace("env")).ok()).await;
    let token = stage.supervisor.token(&stage.worker).expect("a running program has a token");
    assert!(text.contains("ROLLCALL_WORKER_NAME=py\n") && text.contains("ROLLCALL_LIFELINE_FD="));
    assert!(text.contains(&format!("ROLLCALL_TOKEN={}\n", token.reveal())));
    let known = ["PATH", "HOME", "LANG", "TZ", "HERE", "PWD", "OLDPWD", "SHLVL", "_"];
    for line in text.lines() {
        let name = line.split('=').next().unwrap_or_default();
        assert!(known.contains(&name) || name.starts_with("ROLLCALL_"), "{name} leaked into the worker");
    }
    stage.supervisor.shutdown(PATIENCE).await;
}

/// Without the server: a lifeline whose pipe closes, as the kernel does for a server that dies.
#[tokio::test]
async fn a_broken_lifeline_ends_the_whole_family() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let watcher = "trap '' TERM; cat <&$ROLLCALL_LIFELINE_FD; echo seen > $HERE/seen; exec sleep 1000";
    let mut lifeline = Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(["__lifeline", "--grace-ms", "500", "--", "sh", "-c", &format!("{FAMILY} {watcher}")])
        .env("HERE", folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("rollcall can be started");
    let pids = folder.path().join("pids");
    let family = eventually("the pids", || Some(read_pids(&pids)).filter(|pids| pids.len() == 4)).await;
    drop(lifeline.stdin.take());
    eventually("the end of the lifeline", || lifeline.try_wait().ok().flatten()).await;
    assert!(family.iter().all(|pid| !runs(*pid)));
    assert!(folder.path().join("seen").exists(), "the program could not watch the pipe itself");
}
