//! Sandboxes that live on between calls, each under a name, until nobody has used it for a while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::live::Live;

/// Whether a call may begin a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It must: one of this name that is still there belongs to the past and is ended first.
    New,
    /// It must not: what the call counts on would not be there.
    Known,
    /// As it comes.
    Either,
}

/// Why a call has no session to run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSession {
    /// There is none of this name any more.
    Lost,
    /// As many as may be are there already.
    TooMany(usize),
}

/// The sessions of a worker, by name.
pub(crate) struct Sessions {
    most: usize,
    all: Mutex<BTreeMap<String, Arc<Session>>>,
}

/// One of them. Whoever holds the sandbox's lock has a call in it; `None` once it has ended.
pub(crate) struct Session {
    pub(crate) live: tokio::sync::Mutex<Option<Live>>,
    idle_until: Mutex<(Instant, Duration)>,
    ended: CancellationToken,
    /// What its packages take, in bytes.
    packages: AtomicU64,
}

impl Session {
    /// It was used now.
    pub(crate) fn renew(&self, ttl: Duration) {
        *lock(&self.idle_until) = (Instant::now() + ttl, ttl);
    }

    /// Waits until it has been idle for as long as it may, or has ended. The answer is its sandbox.
    pub(crate) async fn idle_out(&self, closing: &CancellationToken) -> Option<Live> {
        loop {
            let (at, ttl) = *lock(&self.idle_until);
            tokio::select! {
                () = self.ended.cancelled() => return self.live.lock().await.take(),
                () = closing.cancelled() => return self.live.lock().await.take(),
                () = sleep_until(at) => {}
            }
            // A call that runs is use.
            let Ok(mut live) = self.live.try_lock() else {
                self.renew(ttl);
                continue;
            };
            if lock(&self.idle_until).0 <= Instant::now() {
                return live.take();
            }
        }
    }
}

impl Sessions {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, all: Mutex::default() }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.all).len()
    }

    /// What the packages of a session take, in bytes, after `more` were added.
    pub(crate) fn packages(&self, name: &str, more: u64) -> u64 {
        self.find(name).map_or(0, |session| session.packages.fetch_add(more, Ordering::Relaxed) + more)
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.all).keys().cloned().collect()
    }

    /// The session of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Session>> {
        lock(&self.all).get(name).cloned()
    }

    /// Adds one without a sandbox yet.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn add(&self, name: &str, ttl: Duration) -> Result<Arc<Session>, NoSession> {
        let mut all = lock(&self.all);
        if all.len() >= self.most {
            return Err(NoSession::TooMany(self.most));
        }
        let session = Arc::new(Session {
            live: tokio::sync::Mutex::default(),
            idle_until: Mutex::new((Instant::now() + ttl, ttl)),
            ended: CancellationToken::new(),
            packages: AtomicU64::new(0),
        });
        all.insert(name.to_owned(), Arc::clone(&session));
        Ok(session)
    }

    /// Forgets a session, which then ends as soon as no call is in it. False when there is none.
    pub(crate) fn end(&self, name: &str) -> bool {
        let ended = lock(&self.all).remove(name);
        ended.inspect(|session| session.ended.cancel()).is_some()
    }

    /// Forgets this very session, if it has not been replaced meanwhile.
    pub(crate) fn forget(&self, name: &str, session: &Arc<Session>) {
        session.ended.cancel();
        let mut all = lock(&self.all);
        if all.get(name).is_some_and(|known| Arc::ptr_eq(known, session)) {
            all.remove(name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
