//! Starts, watches, restarts and stops the programs of `launch` blocks, so that a worker's process
//! is there while the fleet wants it and nothing of it is left once the server is gone.
//!
//! Each program runs under a small parent of its own (`lifeline.rs`: this same binary, hidden verb
//! `__lifeline`), which the kernel tells when the server is gone, however it went. Every program
//! has one keeper task (`keeper.rs`), which alone starts and stops it. A handle only states what is
//! wanted; the keeper acts on the latest word.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::fleet::{Event, LaunchSpec, WorkerName};
use crate::interface::Token;
use crate::trust::Digest;

mod child;
mod keeper;
pub mod lifeline;
mod lines;
mod pace;
mod proc;
mod program;

pub use lines::printable;
pub use pace::Pace;
pub use program::find_program;

use keeper::Keeper;

/// How programs are started and stopped.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that offers [`lifeline::VERB`]; `None`: this one, if it is `rollcall`, else the
    /// `rollcall` beside it or on `PATH`.
    pub shim: Option<PathBuf>,
    /// How long a program may take to end after SIGTERM, before SIGKILL.
    pub stop_grace: Duration,
    /// When a program that ended is started again.
    pub pace: Pace,
    /// The server's URL, told to programs so that they can fetch files of inputs.
    pub server: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { shim: None, stop_grace: Duration::from_secs(10), pace: Pace::default(), server: None }
    }
}

/// What a program is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It ended, or could not be started, and is started again at `until`.
    BackingOff {
        /// When.
        until: std::time::Instant,
    },
    /// It ended too often and is not started again until a person, or the file, says so.
    GaveUp {
        /// Why.
        reason: Arc<str>,
    },
    /// It was told to end.
    Stopping,
}

/// One program, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// The leader of its process group, while it runs: a signal to it reaches the program.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: ProcessState,
    /// How often it was started again after it had ended by itself.
    pub restarts: u64,
    /// How it ended last.
    pub last_exit: Option<Arc<str>>,
}

/// What the fleet wants of one program. Only ever replaced whole; the keeper reads the latest.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// The program; `None` once it is to be gone.
    program: Option<Arc<LaunchSpec>>,
    /// How many halts were asked for; each is answered by `ProcessGone` (several may share one).
    halts: u64,
}

/// One program's place in the table.
struct Entry {
    wanted: watch::Sender<Wanted>,
    status: Option<ProcessStatus>,
    token: Option<Token>,
}

/// What the handles and the keepers share.
struct Shared {
    table: Mutex<BTreeMap<WorkerName, Entry>>,
    keepers: Mutex<JoinSet<()>>,
    events: mpsc::Sender<Event>,
    /// Set once, to the grace of the server's own end.
    closing: watch::Sender<Option<Duration>>,
    options: Options,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<WorkerName, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to all programs. Clone it freely; use it inside a tokio runtime.
#[derive(Clone)]
pub struct Supervisor(Arc<Shared>);

impl Supervisor {
    /// A supervisor of nothing yet. It sends [`Event::ProcessGone`] to `events`.
    pub fn new(events: mpsc::Sender<Event>, options: Options) -> Self {
        Self(Arc::new(Shared {
            table: Mutex::default(),
            keepers: Mutex::default(),
            events,
            closing: watch::Sender::new(None),
            options,
        }))
    }

    /// Sees that this program runs. Says nothing new when it was wanted already; another program
    /// under the same name is started once the old one is gone.
    pub fn launch(&self, name: WorkerName, program: Arc<LaunchSpec>) {
        self.want(name, |wanted| {
            let changed = wanted.program.as_ref().is_some_and(|was| *was != program);
            wanted.halts += u64::from(changed);
            wanted.program = Some(Arc::clone(&program));
        });
    }

    /// Stops the program: SIGTERM to its group, SIGKILL after the grace. [`Event::ProcessGone`]
    /// follows once nothing of it is left, at once if nothing ran.
    pub fn halt(&self, name: WorkerName) {
        self.want(name, |wanted| {
            wanted.halts += 1;
            wanted.program = None;
        });
    }

    /// The secret that the running process was given; fresh at each start.
    pub fn token(&self, name: &WorkerName) -> Option<Token> {
        self.0.table().get(name)?.token.clone()
    }

    /// Whether some running process was given this secret.
    pub fn gave(&self, shown: &Digest) -> bool {
        let table = self.0.table();
        let tokens = table.values().filter_map(|entry| entry.token.as_ref());
        tokens.fold(false, |found, token| found | token.digest().is_same(shown))
    }

    /// How a program is; `None` when there is none of that name.
    pub fn status(&self, name: &WorkerName) -> Option<ProcessStatus> {
        self.0.table().get(name)?.status.clone()
    }

    /// Stops all programs, each with this grace, and waits until nothing of them is left. No
    /// program is started any more. Cancel-safe: what still runs then ends by its lifeline when
    /// the supervisor is dropped.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.closing.send_replace(Some(grace));
        let mut keepers = std::mem::take(&mut *self.0.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = keepers.join_next().await {
            report(ended);
        }
    }

    /// Changes what is wanted of a program and makes sure that it has a keeper.
    fn want(&self, name: WorkerName, change: impl FnOnce(&mut Wanted)) {
        if self.0.closing.borrow().is_some() {
            return;
        }
        let mut table = self.0.table();
        if let Some(entry) = table.get(&name) {
            entry.wanted.send_modify(change);
            return;
        }
        let wanted = watch::Sender::new(Wanted::default());
        wanted.send_modify(change);
        let keeper = Keeper::new(name.clone(), Arc::clone(&self.0), wanted.subscribe());
        table.insert(name, Entry { wanted, status: None, token: None });
        drop(table);
        let mut keepers = self.0.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = keepers.try_join_next() {
            report(ended);
        }
        keepers.spawn(keeper.run());
    }
}

/// A keeper never fails by itself: one that did is a bug worth a line.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "the keeper of a worker program failed");
    }
}
