//! Sandboxes that were made ready before anybody asked: each serves one task, or becomes one session, and
//! never two. They are made one at a time, and give way to those that work.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::limits::Limits;
use crate::live::Live;

/// The wait after a sandbox could not be made, and the longest to which it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub(crate) struct Pool {
    size: usize,
    ready: Mutex<VecDeque<Live>>,
    changed: Notify,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, ..Self::default() }
    }

    /// How many are ready.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until as many are ready as there should be.
    pub(crate) async fn filled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.len() >= self.size {
                return;
            }
            changed.await;
        }
    }

    /// Takes one that can be given these limits. The dead ones among them are handed to `bury`.
    pub(crate) fn take(&self, limits: &Limits, bury: impl Fn(Live)) -> Option<Live> {
        let mut ready = self.lock();
        while let Some(mut live) = ready.pop_front() {
            if !live.is_up() {
                bury(live);
            } else if live.limits().can_become(limits) {
                self.changed.notify_waiters();
                return Some(live);
            } else {
                // The others are like it.
                ready.push_front(live);
                return None;
            }
        }
        self.changed.notify_waiters();
        None
    }

    /// Keeps the pool full until `closing`, then gives up all that is in it.
    pub(crate) async fn fill<F>(&self, make: impl Fn() -> F, bury: impl Fn(Live), closing: &CancellationToken)
    where
        F: Future<Output = Result<Live, String>>,
    {
        let mut pause = FIRST_PAUSE;
        while !closing.is_cancelled() {
            let changed = self.changed.notified();
            if self.len() >= self.size {
                tokio::select! {
                    () = changed => {}
                    () = closing.cancelled() => {}
                }
                continue;
            }
            match make().await {
                Ok(live) => {
                    self.lock().push_back(live);
                    self.changed.notify_waiters();
                    pause = FIRST_PAUSE;
                }
                Err(problem) => {
                    warn!(problem, "a sandbox could not be made ready; tasks start their own meanwhile");
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = closing.cancelled() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        for live in self.lock().drain(..) {
            bury(live);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Live>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
