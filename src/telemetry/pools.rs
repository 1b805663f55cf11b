//! The series of pools that are scaled: there as long as the pool is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::build::{counters, gauges, histograms};
use super::catalogue as c;
use crate::fleet::autoscaler::{Direction, Reason};
use crate::fleet::{Decision, Note, PoolName, Topology};

/// One pool's handles.
struct Series {
    /// Those that can be; see [`can_be`].
    decisions: Vec<(Direction, Reason, IntCounter)>,
    /// Of a pool that has a hook.
    hook: Option<Hook>,
    capacity: Histogram,
}

struct Hook {
    calls: [(&'static str, IntCounter); 3],
    seconds: Histogram,
}

/// All of them.
pub(super) struct PoolSeries {
    by_pool: Mutex<BTreeMap<PoolName, Arc<Series>>>,
    desired: GaugeVec,
    min: GaugeVec,
    max: GaugeVec,
    enabled: GaugeVec,
    limited: GaugeVec,
    decisions: IntCounterVec,
    calls: IntCounterVec,
    hook: HistogramVec,
    capacity: HistogramVec,
}

impl PoolSeries {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            by_pool: Mutex::default(),
            desired: gauges(registry, &c::AUTOSCALER_DESIRED),
            min: gauges(registry, &c::AUTOSCALER_MIN),
            max: gauges(registry, &c::AUTOSCALER_MAX),
            enabled: gauges(registry, &c::AUTOSCALER_ENABLED),
            limited: gauges(registry, &c::AUTOSCALER_LIMITED),
            decisions: counters(registry, &c::AUTOSCALER_DECISIONS),
            calls: counters(registry, &c::AUTOSCALER_HOOK_CALLS),
            hook: histograms(registry, &c::AUTOSCALER_HOOK_SECONDS),
            capacity: histograms(registry, &c::AUTOSCALER_TIME_TO_CAPACITY),
        }
    }

    /// Takes up a topology: its pools are there at 0, others are gone.
    pub(super) fn apply(&self, topology: &Topology) {
        let mut series = self.series();
        series.retain(|name, _| {
            let stays = topology.pools.contains_key(name);
            if !stays {
                self.remove(name.as_str());
            }
            stays
        });
        for (name, spec) in &topology.pools {
            let has_hook = spec.scaling.hook.is_some();
            if series.get(name).is_none_or(|known| known.hook.is_some() != has_hook) {
                series.insert(name.clone(), Arc::new(self.make(name.as_str(), has_hook)));
            }
            self.max.with_label_values(&[name.as_str()]).set(f64::from(spec.scaling.max));
            let enabled = self.enabled.with_label_values(&[name.as_str()]);
            enabled.set(f64::from(u8::from(!spec.scaling.paused)));
        }
    }

    /// Counts what is about pools.
    pub(super) fn note(&self, note: &Note) {
        match note {
            Note::PoolDecided { pool, decision, sample: _ } => self.decided(pool, decision),
            Note::PoolCalled { pool, outcome, took, detail: _ } => {
                let series = self.of(pool);
                let Some(hook) = series.as_ref().and_then(|series| series.hook.as_ref()) else { return };
                for (word, counter) in &hook.calls {
                    counter.inc_by(u64::from(word == outcome));
                }
                hook.seconds.observe(took.as_secs_f64());
            }
            Note::PoolCapacity { pool, took, worker: _ } => {
                if let Some(series) = self.of(pool) {
                    series.capacity.observe(took.as_secs_f64());
                }
            }
            _ => {}
        }
    }

    fn decided(&self, pool: &PoolName, decision: &Decision) {
        let Some(series) = self.of(pool) else { return };
        let mut known = series.decisions.iter();
        match known.find(|(to, why, _)| (*to, *why) == (decision.direction, decision.reason)) {
            Some((_, _, counter)) => counter.inc(),
            None => debug_assert!(false, "such decisions cannot be: {decision:?}"),
        }
        let label = [pool.as_str()];
        self.desired.with_label_values(&label).set(f64::from(decision.to));
        self.min.with_label_values(&label).set(f64::from(decision.min));
        self.max.with_label_values(&label).set(f64::from(decision.max));
        let held = decision.direction == Direction::Hold && decision.reason == Reason::Manual;
        self.enabled.with_label_values(&label).set(f64::from(u8::from(!held)));
        for (limit, cut) in decision.limits.by_word() {
            self.limited.with_label_values(&[pool.as_str(), limit]).set(f64::from(u8::from(cut)));
        }
    }

    fn of(&self, pool: &PoolName) -> Option<Arc<Series>> {
        self.series().get(pool).cloned()
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<PoolName, Arc<Series>>> {
        self.by_pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, pool: &str, has_hook: bool) -> Series {
        for gauge in [&self.desired, &self.min] {
            gauge.with_label_values(&[pool]);
        }
        for (limit, _) in crate::fleet::autoscaler::Limits::default().by_word() {
            self.limited.with_label_values(&[pool, limit]);
        }
        let all = Direction::ALL.iter().flat_map(|to| Reason::ALL.iter().map(move |why| (*to, *why)));
        let counter = |(to, why): (Direction, Reason)| {
            (to, why, self.decisions.with_label_values(&[pool, to.as_str(), why.as_str()]))
        };
        Series {
            decisions: all.filter(|(to, why)| can_be(*to, *why)).map(counter).collect(),
            hook: has_hook.then(|| Hook {
                calls: ["ok", "error", "timeout"]
                    .map(|outcome| (outcome, self.calls.with_label_values(&[pool, outcome]))),
                seconds: self.hook.with_label_values(&[pool]),
            }),
            capacity: self.capacity.with_label_values(&[pool]),
        }
    }

    // A series that was never made cannot be removed, which is no failure: so the results below
    // are dropped.
    fn remove(&self, pool: &str) {
        for gauge in [&self.desired, &self.min, &self.max, &self.enabled] {
            drop(gauge.remove_label_values(&[pool]));
        }
        for (limit, _) in crate::fleet::autoscaler::Limits::default().by_word() {
            drop(self.limited.remove_label_values(&[pool, limit]));
        }
        for direction in Direction::ALL {
            for reason in Reason::ALL {
                drop(self.decisions.remove_label_values(&[pool, direction.as_str(), reason.as_str()]));
            }
        }
        for outcome in ["ok", "error", "timeout"] {
            drop(self.calls.remove_label_values(&[pool, outcome]));
        }
        for histogram in [&self.hook, &self.capacity] {
            drop(histogram.remove_label_values(&[pool]));
        }
    }
}

/// Whether the rule ever decides so: delays and failures hold a pool, and a schedule never does.
fn can_be(direction: Direction, reason: Reason) -> bool {
    match reason {
        Reason::Backlog | Reason::Utilisation | Reason::Manual => true,
        Reason::Schedule => direction != Direction::Hold,
        Reason::Cooldown | Reason::ProviderError => direction == Direction::Hold,
    }
}
