//! The desired fleet, as the configuration states it: one value per generation. Applying it cannot
//! fail (all checks came before); the core replaces its value and moves workers towards it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::autoscaler::{PoolChange, PoolSpec, pool_changes};
use super::ids::*;

/// Which code speaks to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceKind {
    /// A WebSocket, dialled by either side.
    Websocket,
    /// The mock twin: no process, no network.
    Mock,
}

/// Who asked for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An entry of the file.
    File,
    /// `POST /v1/workers`.
    Api,
    /// An instance of a pool.
    Pool,
}

/// One worker that ought to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// Its identity.
    pub name: WorkerName,
    /// The name it had before; its connection carries over.
    pub formerly: Option<WorkerName>,
    /// Who asked for it.
    pub origin: Origin,
    /// The pool it belongs to.
    pub pool: Option<PoolName>,
    /// How to speak to it.
    pub interface: InterfaceKind,
    /// Where to dial; `None`: it dials in.
    pub endpoint: Option<Arc<str>>,
    /// What it may be asked for (patterns); `None`: all that it registers.
    pub capabilities: Option<Vec<Capability>>,
    /// Tasks at once; `None`: what it registers, else [`WorkerSpec::DEFAULT_SLOTS`].
    pub slots: Option<u32>,
    /// The longest that one attempt may run here.
    pub timeout: Duration,
    /// Labels that placement matches; they win over those that the worker registers.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// What the server starts and supervises for it; changing it restarts the process.
    pub launch: Option<LaunchSpec>,
    /// How its mock twin behaves.
    pub mock: MockSpec,
}

impl WorkerSpec {
    /// Slots where neither the file nor the worker says a number.
    pub const DEFAULT_SLOTS: u32 = 4;

    /// How long an attempt may run where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
}

/// A program that the server starts for a worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment beside the few names that every launched program gets.
    pub env: BTreeMap<String, String>,
}

impl std::fmt::Debug for LaunchSpec {
    /// Without the environment's values: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.keys().collect();
        f.debug_struct("LaunchSpec").field("command", &self.command).field("env", &names).finish()
    }
}

/// How a mock worker behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MockSpec {
    /// How long a task takes.
    pub latency: Duration,
    /// How many tasks of a million fail, drawn from `seed`; retryable, fault `worker`.
    pub failures_per_million: u32,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for MockSpec {
    fn default() -> Self {
        Self { latency: Duration::ZERO, failures_per_million: 0, seed: 1 }
    }
}

/// The numbers that rule the core, with the defaults of `config.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How often both sides send a heartbeat.
    pub heartbeat_interval: Duration,
    /// Silence after which a worker gets no new work.
    pub suspect_after: Duration,
    /// Silence after which its connection is closed.
    pub heartbeat_timeout: Duration,
    /// Silence after which its attempts are taken for lost.
    pub lease: Duration,
    /// The first wait before dialling again (its upper bound: jitter is full).
    pub initial_backoff: Duration,
    /// The longest such wait.
    pub max_backoff: Duration,
    /// What the wait is multiplied by after each failure, in hundredths.
    pub backoff_multiplier_percent: u32,
    /// How much of the wait is drawn at random, in hundredths: 100 is full jitter.
    pub backoff_jitter_percent: u32,
    /// Infrastructure failures in a row that eject a worker.
    pub consecutive_failures: u32,
    /// How long an ejection lasts, times how often the worker was ejected.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// How much of a pool may be ejected at once, in hundredths.
    pub max_ejection_percent: u32,
    /// Non-final tasks at most.
    pub max_depth: u64,
    /// Bytes of their inputs at most.
    pub max_bytes: u64,
    /// `queue_timeout` of tasks with a waiting caller that names none.
    pub queue_timeout: Duration,
    /// Shares of fairness keys; a key that is not named has 1.
    pub fairness_weights: BTreeMap<FairnessKey, u32>,
    /// Charged attempts at most, unless the task says another number.
    pub max_attempts: u32,
    /// The first wait before a retry (its upper bound: jitter is full).
    pub retry_initial: Duration,
    /// What that wait is multiplied by after each attempt, in hundredths.
    pub retry_coefficient_percent: u32,
    /// The longest such wait.
    pub retry_max: Duration,
    /// How long a worker that was removed or moved may finish what it runs; `None`: as long as its
    /// tasks' own limits allow.
    pub removal_grace: Option<Duration>,
    /// How long a cancelled attempt may take to stop before it is fenced.
    pub cancel_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(30),
            suspect_after: Duration::from_secs(45),
            heartbeat_timeout: Duration::from_secs(75),
            lease: Duration::from_secs(120),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            backoff_multiplier_percent: 200,
            backoff_jitter_percent: 100,
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 50,
            max_depth: 100_000,
            max_bytes: 1 << 30,
            queue_timeout: Duration::from_secs(300),
            fairness_weights: BTreeMap::new(),
            max_attempts: 3,
            retry_initial: Duration::from_millis(200),
            retry_coefficient_percent: 200,
            retry_max: Duration::from_secs(30),
            removal_grace: None,
            cancel_grace: Duration::from_secs(30),
        }
    }
}

/// The whole desired fleet: one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Topology {
    /// Its number; rises by one with each applied change.
    pub generation: Generation,
    /// The workers by name.
    pub workers: BTreeMap<WorkerName, Arc<WorkerSpec>>,
    /// The pools by name. Their instances are not among the workers: how many there are is decided
    /// while the generation is in force.
    #[serde(default)]
    pub pools: BTreeMap<PoolName, Arc<PoolSpec>>,
    /// The numbers.
    pub settings: Settings,
}

/// What one worker's entry changes into; the order of the variants is the order shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It is new.
    Added,
    /// Another name for a worker that goes on under its connection.
    Renamed {
        /// The old name.
        from: WorkerName,
    },
    /// Limits, labels or capabilities: taken up in place, the socket stays.
    Updated {
        /// One phrase per field, such as `slots 4→8`.
        fields: Vec<String>,
    },
    /// Endpoint, interface or program: the old connection drains, a new one is made.
    Moved {
        /// One phrase per field.
        fields: Vec<String>,
    },
    /// It is gone: drains, then closes.
    Removed,
}

/// What turns one topology into another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Diff {
    /// By worker name (the new name of a renamed one).
    pub workers: BTreeMap<WorkerName, Change>,
    /// By pool name (the new name of a renamed one).
    #[serde(default)]
    pub pools: BTreeMap<PoolName, PoolChange>,
    /// One phrase per setting that changed.
    pub settings: Vec<String>,
    /// How many workers are the same in both.
    pub unchanged: usize,
}

impl Diff {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.pools.is_empty() && self.settings.is_empty()
    }

    /// How many workers the second topology lacks.
    pub fn removed(&self) -> usize {
        self.workers.values().filter(|change| matches!(change, Change::Removed)).count()
    }

    /// What turns `old` into `new`.
    pub fn between(old: &Topology, new: &Topology) -> Self {
        let mut diff = Self {
            settings: setting_changes(&old.settings, &new.settings),
            pools: pool_changes(&old.pools, &new.pools),
            ..Self::default()
        };
        let mut carried = std::collections::BTreeSet::new();
        for (name, spec) in &new.workers {
            let former = spec
                .formerly
                .as_ref()
                .filter(|from| old.workers.contains_key(*from) && !new.workers.contains_key(*from));
            match (old.workers.get(name), former) {
                (Some(was), _) if Arc::ptr_eq(was, spec) => diff.unchanged += 1,
                (Some(was), _) => match WorkerSpec::change(was, spec) {
                    Some(change) => {
                        diff.workers.insert(name.clone(), change);
                    }
                    None => diff.unchanged += 1,
                },
                (None, Some(from)) => {
                    carried.insert(from.clone());
                    diff.workers.insert(name.clone(), Change::Renamed { from: from.clone() });
                }
                (None, None) => {
                    diff.workers.insert(name.clone(), Change::Added);
                }
            }
        }
        for name in old.workers.keys() {
            if !new.workers.contains_key(name) && !carried.contains(name) {
                diff.workers.insert(name.clone(), Change::Removed);
            }
        }
        diff
    }
}

impl WorkerSpec {
    /// What differs between two entries of one name; `None` when nothing that matters does
    /// (`formerly` is history once it has been applied).
    pub fn change(was: &Self, is: &Self) -> Option<Change> {
        let mut moved = Vec::new();
        let mut updated = Vec::new();
        let shown = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("(dials in)").to_owned();
        if was.endpoint != is.endpoint {
            moved.push(format!("endpoint {}→{}", shown(&was.endpoint), shown(&is.endpoint)));
        }
        if was.interface != is.interface {
            moved.push(format!("interface {:?}→{:?}", was.interface, is.interface).to_lowercase());
        }
        if was.launch != is.launch {
            moved.push("launch".to_owned());
        }
        if was.mock != is.mock && is.interface == InterfaceKind::Mock {
            moved.push("mock".to_owned());
        }
        if was.slots != is.slots {
            let number = |slots: Option<u32>| slots.map_or("as registered".to_owned(), |n| n.to_string());
            updated.push(format!("slots {}→{}", number(was.slots), number(is.slots)));
        }
        if was.timeout != is.timeout {
            updated.push(format!("timeout {:?}→{:?}", was.timeout, is.timeout));
        }
        if was.capabilities != is.capabilities {
            updated.push("capabilities".to_owned());
        }
        if was.labels != is.labels {
            updated.push("labels".to_owned());
        }
        if was.pool != is.pool || was.origin != is.origin {
            updated.push("origin".to_owned());
        }
        if !moved.is_empty() {
            moved.append(&mut updated);
            return Some(Change::Moved { fields: moved });
        }
        (!updated.is_empty()).then_some(Change::Updated { fields: updated })
    }
}

/// One phrase per setting that differs, by its name in the struct.
fn setting_changes(was: &Settings, is: &Settings) -> Vec<String> {
    macro_rules! compare {
        ($($field:ident),* $(,)?) => {{
            // A new field that is not listed here does not compile.
            let Settings { $($field: _),* } = was;
            let mut changes = Vec::new();
            $(if was.$field != is.$field {
                changes.push(format!("{} {:?}→{:?}", stringify!($field), was.$field, is.$field));
            })*
            changes
        }};
    }
    compare!(
        heartbeat_interval,
        suspect_after,
        heartbeat_timeout,
        lease,
        initial_backoff,
        max_backoff,
        backoff_multiplier_percent,
        backoff_jitter_percent,
        consecutive_failures,
        base_ejection,
        max_ejection,
        max_ejection_percent,
        max_depth,
        max_bytes,
        queue_timeout,
        fairness_weights,
        max_attempts,
        retry_initial,
        retry_coefficient_percent,
        retry_max,
        removal_grace,
        cancel_grace,
    )
}
