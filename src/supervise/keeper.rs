//! The keeper of one program: starts it, starts it again when it ends, stops it when it is no
//! longer wanted, and tells the core each time that nothing of it is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::child::{Process, describe};
use super::pace::{Failures, Verdict};
use super::{ProcessState, ProcessStatus, Shared, Wanted};
use crate::fleet::{Event, LaunchSpec, WorkerName};
use crate::interface::Token;

/// What a worker program exits with when the isolation that it needs is not to be had: trying
/// again cannot help.
const EXIT_NO_ISOLATION: i32 = 78;

/// One keeper; [`Keeper::run`] is its task.
pub(super) struct Keeper {
    name: WorkerName,
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    closing: watch::Receiver<Option<Duration>>,
    restarts: u64,
    last_exit: Option<Arc<str>>,
}

/// How a run came to its end.
struct Run {
    lasted: Duration,
    code: Option<i32>,
    /// For people.
    how: String,
    last_line: Option<Arc<str>>,
}

impl Keeper {
    pub(super) fn new(name: WorkerName, shared: Arc<Shared>, wanted: watch::Receiver<Wanted>) -> Self {
        let closing = shared.closing.subscribe();
        Self { name, shared, wanted, closing, restarts: 0, last_exit: None }
    }

    /// Keeps the program until it is not wanted any more, or the server ends.
    pub(super) async fn run(mut self) {
        let mut answered = 0;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            // Nothing runs at this point: a halt that was asked for is done.
            if wanted.halts != answered {
                answered = wanted.halts;
                self.tell_gone().await;
                continue;
            }
            if self.closing.borrow().is_some() {
                return;
            }
            match wanted.program {
                Some(program) => self.keep(&program, answered).await,
                None if self.retire() => return,
                None => {}
            }
        }
    }

    /// Runs the program, again and again, until it is to stop. Nothing runs when this returns.
    async fn keep(&mut self, program: &LaunchSpec, answered: u64) {
        let mut failures = Failures::new(self.shared.options.pace.clone());
        loop {
            let Some(run) = self.run_once(program, answered).await else { return };
            self.last_exit = Some(run.how.as_str().into());
            let verdict = if run.code == Some(EXIT_NO_ISOLATION) {
                Verdict::GiveUp
            } else {
                failures.after(Instant::now(), run.lasted, rand::random())
            };
            match verdict {
                Verdict::Again(wait) => {
                    let worker = &self.name;
                    warn!(%worker, how = run.how, ?wait, "worker program ended; starting it again");
                    self.show(None, ProcessState::BackingOff { until: Instant::now() + wait });
                    tokio::select! {
                        () = sleep(wait) => self.restarts += 1,
                        () = self.unwanted(answered) => return,
                    }
                }
                Verdict::GiveUp => {
                    self.give_up(&run);
                    return self.unwanted(answered).await;
                }
            }
        }
    }

    /// One run of the program; `None` when it was stopped because it is not wanted any more.
    async fn run_once(&mut self, program: &LaunchSpec, answered: u64) -> Option<Run> {
        let began = Instant::now();
        let options = &self.shared.options;
        let started = Process::start(&self.name, program, options);
        let mut process = match started {
            Ok(process) => process,
            Err(how) => return Some(Run { lasted: Duration::ZERO, code: None, how, last_line: None }),
        };
        let pid = process.pid();
        info!(worker = %self.name, pid, "worker program started");
        self.show(Some((pid, process.token())), ProcessState::Running);
        let ended = tokio::select! {
            ended = process.ended() => Some(ended),
            () = self.unwanted(answered) => None,
        };
        let (ended, stopped) = match ended {
            Some(ended) => (ended, false),
            None => {
                self.show(Some((pid, process.token())), ProcessState::Stopping);
                let grace = self.closing.borrow().unwrap_or(self.shared.options.stop_grace);
                (process.stop(grace).await, true)
            }
        };
        self.show(None, ProcessState::Stopping);
        let last_line = process.clear().await;
        let (code, how) = ended.map_or_else(|error| (None, error.to_string()), describe);
        if stopped {
            info!(worker = %self.name, how, "worker program stopped");
            self.last_exit = Some(how.into());
            return None;
        }
        self.tell_gone().await;
        Some(Run { lasted: began.elapsed(), code, how, last_line })
    }

    /// Says that the program is not started again, why, and what to do.
    fn give_up(&self, run: &Run) {
        let worker = &self.name;
        let last_line = run.last_line.as_deref();
        let reason = match (run.code, last_line) {
            (Some(EXIT_NO_ISOLATION), line) => {
                format!("isolation is not to be had: {}", line.unwrap_or("exit code 78"))
            }
            (_, Some(line)) => format!("it keeps ending: {}; its last line: {line}", run.how),
            (_, None) => format!("it keeps ending: {}", run.how),
        };
        error!(
            %worker,
            reason,
            alert = "RollcallWorkerDown",
            "worker program given up; mend the cause, then `rollcall workers restart {worker}` or change its `launch` block"
        );
        self.show(None, ProcessState::GaveUp { reason: reason.into() });
    }

    /// Waits until the program that was wanted at the halt `answered` is to stop. Cancel-safe.
    async fn unwanted(&self, answered: u64) {
        let (mut wanted, mut closing) = (self.wanted.clone(), self.closing.clone());
        // An error means that the other side is gone, and with it every wish.
        tokio::select! {
            changed = wanted.wait_for(|wanted| wanted.halts != answered) => drop(changed),
            closing = closing.wait_for(Option::is_some) => drop(closing),
        }
    }

    /// Tells the core that the process and its whole group are gone.
    async fn tell_gone(&self) {
        let event = Event::ProcessGone(self.name.clone());
        // At the server's end the core may have stopped listening, and must not hold this up.
        if self.closing.borrow().is_some() {
            return drop(self.shared.events.try_send(event));
        }
        let mut closing = self.closing.clone();
        tokio::select! {
            sent = self.shared.events.send(event) => drop(sent),
            closing = closing.wait_for(Option::is_some) => drop(closing),
        }
    }

    fn show(&self, process: Option<(Option<u32>, Token)>, state: ProcessState) {
        let (pid, token) = process.map_or((None, None), |(pid, token)| (pid, Some(token)));
        if let Some(entry) = self.shared.table().get_mut(&self.name) {
            let (restarts, last_exit) = (self.restarts, self.last_exit.clone());
            entry.status = Some(ProcessStatus { pid, state, restarts, last_exit });
            entry.token = token;
        }
    }

    /// Leaves the table, unless something new is wanted by now.
    fn retire(&self) -> bool {
        let mut table = self.shared.table();
        let idle = table.get(&self.name).is_some_and(|entry| {
            let wanted = entry.wanted.borrow();
            wanted.program.is_none() && !self.wanted.has_changed().unwrap_or(false)
        });
        if idle {
            table.remove(&self.name);
        }
        idle
    }
}
