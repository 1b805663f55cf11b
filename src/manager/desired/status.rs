//! What the metrics and the API show of reloading: plain numbers, published after each attempt.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::{Problem, Trigger};
use crate::fleet::{Change, Diff, Generation};
use crate::telemetry::ConfigFacts;

/// Upper bounds of the buckets of `rollcall_config_apply_seconds`.
pub const APPLY_BUCKETS: [f64; 16] = crate::telemetry::catalogue::FAST;

/// Reloads that are remembered for people.
const REMEMBERED: usize = 20;

/// How a reload ended; the words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A new generation is in force.
    Applied,
    /// The file says what is in force already.
    Unchanged,
    /// The file could not be read.
    Unreadable,
    /// The file is wrong, or would do what a reload must not.
    Invalid,
}

impl Outcome {
    /// Every outcome, in label order.
    pub const ALL: [Self; 4] = [Self::Applied, Self::Unchanged, Self::Unreadable, Self::Invalid];

    /// The word used in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
        }
    }
}

/// A reload that changed something, or was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// When.
    pub at: SystemTime,
    /// What set it off.
    pub trigger: Trigger,
    /// How it ended.
    pub outcome: Outcome,
    /// What it changed, or why it did not.
    pub summary: Arc<str>,
}

/// What the metrics and the API show of reloading.
#[derive(Debug, Clone, PartialEq)]
pub struct ReloadStatus {
    /// Whether the last attempt was applied or unchanged.
    pub last_successful: bool,
    /// When an attempt last was.
    pub last_success: SystemTime,
    /// Attempts so far.
    pub reloads: BTreeMap<(Trigger, Outcome), u64>,
    /// The hash of the configuration in force.
    pub hash: Arc<str>,
    /// The generation in force.
    pub generation: Generation,
    /// Workers added so far.
    pub added: u64,
    /// Workers changed so far, renamed and moved ones included.
    pub updated: u64,
    /// Workers removed so far.
    pub removed: u64,
    /// How long changes took, from reading the file until the fleet had them.
    pub apply: ApplyTimes,
    /// What was wrong with the last attempt, if it failed.
    pub problems: Arc<[Problem]>,
    /// The last of those that changed something or were refused, the newest first.
    pub recent: VecDeque<Told>,
}

impl ReloadStatus {
    /// What a scrape shows of it.
    pub fn facts(&self, file_modified: Option<SystemTime>, relaxed: bool) -> ConfigFacts {
        let words = |((trigger, outcome), tries): (&(Trigger, Outcome), &u64)| {
            ((trigger.as_str(), outcome.as_str()), *tries)
        };
        ConfigFacts {
            last_reload_successful: self.last_successful,
            last_success: Some(self.last_success),
            file_modified,
            hash: Arc::clone(&self.hash),
            relaxed,
            reloads: self.reloads.iter().map(words).collect(),
            apply_counts: self.apply.counts,
            apply_sum: self.apply.sum,
        }
    }
}

/// A histogram over [`APPLY_BUCKETS`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ApplyTimes {
    /// Changes whose time is at most the bound of the same place (not cumulative), then the rest.
    pub counts: [u64; APPLY_BUCKETS.len() + 1],
    /// All times together, in seconds.
    pub sum: f64,
}

impl ApplyTimes {
    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = APPLY_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(APPLY_BUCKETS.len());
        self.counts[at] += 1;
        self.sum += seconds;
    }
}

impl ReloadStatus {
    /// Before the first attempt.
    pub(super) fn new(hash: Arc<str>) -> Self {
        Self {
            last_successful: false,
            last_success: SystemTime::UNIX_EPOCH,
            reloads: BTreeMap::new(),
            hash,
            generation: Generation(0),
            added: 0,
            updated: 0,
            removed: 0,
            apply: ApplyTimes::default(),
            problems: Arc::new([]),
            recent: VecDeque::new(),
        }
    }

    /// Remembers a reload for people.
    pub(super) fn tell(&mut self, trigger: Trigger, outcome: Outcome, summary: String) {
        self.recent.truncate(REMEMBERED - 1);
        self.recent.push_front(Told { at: SystemTime::now(), trigger, outcome, summary: summary.into() });
    }

    /// Counts an attempt, and takes what was wrong with it.
    pub(super) fn attempted(&mut self, trigger: Trigger, outcome: Outcome, problems: &[Problem]) {
        *self.reloads.entry((trigger, outcome)).or_default() += 1;
        self.last_successful = matches!(outcome, Outcome::Applied | Outcome::Unchanged);
        if self.last_successful {
            self.last_success = SystemTime::now();
        }
        self.problems = problems.into();
    }

    /// Counts what a generation changed.
    pub(super) fn changed(&mut self, diff: &Diff, took: Duration) {
        for change in diff.workers.values() {
            match change {
                Change::Added => self.added += 1,
                Change::Renamed { .. } | Change::Updated { .. } | Change::Moved { .. } => self.updated += 1,
                Change::Removed => self.removed += 1,
            }
        }
        self.apply.observe(took);
    }
}
