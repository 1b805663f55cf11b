//! From a family of the catalogue to its counters: registered, and with every combination of a
//! closed set of labels there at 0, so that zero and missing look different.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::catalogue::{Family, Kind};

const NO_LABELS: [&str; 0] = [];
const WELL_FORMED: &str = "the catalogue is well-formed and names each family once";

fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

fn label_names(family: &Family) -> Vec<&'static str> {
    family.labels.iter().map(|label| label.name).collect()
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect(WELL_FORMED);
}

/// Counters that no page shows by itself.
pub(super) fn detached_counters(family: &Family) -> IntCounterVec {
    IntCounterVec::new(opts(family), &label_names(family)).expect(WELL_FORMED)
}

/// Counters of which not every combination of labels can happen: whoever asks for them makes those
/// that can, at once.
pub(super) fn sparse_counters(registry: &Registry, family: &Family) -> IntCounterVec {
    let vec = detached_counters(family);
    register(registry, vec.clone());
    vec
}

pub(super) fn counters(registry: &Registry, family: &Family) -> IntCounterVec {
    let vec = sparse_counters(registry, family);
    for labels in family.combinations() {
        vec.with_label_values(&labels);
    }
    vec
}

pub(super) fn counter(registry: &Registry, family: &Family) -> IntCounter {
    counters(registry, family).with_label_values(&NO_LABELS)
}

/// Gauges that are there once they were set, because 0 would mean something else than "none yet".
pub(super) fn sparse_gauges(registry: &Registry, family: &Family) -> GaugeVec {
    let vec = GaugeVec::new(opts(family), &label_names(family)).expect(WELL_FORMED);
    register(registry, vec.clone());
    vec
}

pub(super) fn gauges(registry: &Registry, family: &Family) -> GaugeVec {
    let vec = sparse_gauges(registry, family);
    for labels in family.combinations() {
        vec.with_label_values(&labels);
    }
    vec
}

pub(super) fn gauge(registry: &Registry, family: &Family) -> Gauge {
    gauges(registry, family).with_label_values(&NO_LABELS)
}

pub(super) fn histograms(registry: &Registry, family: &Family) -> HistogramVec {
    let buckets = match family.kind {
        Kind::Histogram(buckets) => buckets.to_vec(),
        Kind::Counter | Kind::Gauge => Vec::new(),
    };
    let opts = HistogramOpts::from(opts(family)).buckets(buckets);
    let vec = HistogramVec::new(opts, &label_names(family)).expect(WELL_FORMED);
    for labels in family.combinations() {
        vec.with_label_values(&labels);
    }
    register(registry, vec.clone());
    vec
}

pub(super) fn histogram(registry: &Registry, family: &Family) -> Histogram {
    histograms(registry, family).with_label_values(&NO_LABELS)
}

/// Handles by the words of one label. The sets are small, so a look is a few comparisons.
pub(super) struct ByWord<T>(Vec<(&'static str, T)>);

impl<T> ByWord<T> {
    /// One handle for each word of the family's last label.
    pub(super) fn of(family: &Family, handle: impl Fn(&'static str) -> T) -> Self {
        Self::of_all_but(&[], family, handle)
    }

    /// The same without some of the words.
    pub(super) fn of_all_but(without: &[&str], family: &Family, handle: impl Fn(&'static str) -> T) -> Self {
        let words = match family.labels.last().map(|label| label.values) {
            Some(super::catalogue::Values::Words(words)) => words(),
            _ => Vec::new(),
        };
        let wanted = words.into_iter().filter(|word| !without.contains(word));
        Self(wanted.map(|word| (word, handle(word))).collect())
    }

    /// The handle of that word; none for a word that the catalogue lacks.
    pub(super) fn get(&self, word: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == word).map(|(_, handle)| handle)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.0.iter().map(|(word, handle)| (*word, handle))
    }
}

impl ByWord<IntCounter> {
    /// Counts one; a word that the catalogue lacks is a mistake in the code that a test run shows.
    pub(super) fn count(&self, word: &str) {
        match self.get(word) {
            Some(counter) => counter.inc(),
            None => debug_assert!(false, "the catalogue does not know the word {word:?}"),
        }
    }
}
