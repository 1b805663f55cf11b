//! Writes the text format 0.0.4: one family after another, each with its help and type, and those
//! without a sample too, so that "none yet" and "no such metric" look different.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use super::catalogue::{FAMILIES, Family, Kind};
use crate::fleet::WorkerView;

/// A page that is being written.
#[derive(Default)]
pub(super) struct Page {
    text: String,
    samples: usize,
    written: BTreeSet<&'static str>,
}

/// A count as a sample's value. Exact up to 2^53, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "samples are 64-bit floats by format")]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

impl Page {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// Begins a family. Its samples must follow before the next one begins.
    pub(super) fn family(&mut self, family: &Family) {
        self.written.insert(family.name);
        for part in ["# HELP ", family.name, " ", family.help, "\n# TYPE ", family.name, " "] {
            self.text.push_str(part);
        }
        self.text.push_str(family.kind.as_str());
        self.text.push('\n');
    }

    /// One sample; the labels' values in the family's order.
    pub(super) fn sample(&mut self, family: &Family, values: &[&str], value: impl Display) {
        self.with_head(family, "", values, value);
    }

    /// The two first labels of the per-worker families, put together once for all of them.
    pub(super) fn head(worker: &str, pool: &str) -> String {
        let mut head = String::with_capacity(worker.len() + pool.len() + 24);
        for (label, value) in [("{worker=\"", worker), ("\",pool=\"", pool)] {
            head.push_str(label);
            push_escaped(&mut head, value);
        }
        head.push('"');
        head
    }

    /// A per-worker family with one sample a worker.
    pub(super) fn per_worker<V: Display>(
        &mut self,
        family: &Family,
        workers: &[(String, &WorkerView)],
        value: impl Fn(&WorkerView) -> V,
    ) {
        self.family(family);
        for (head, view) in workers {
            self.with_head(family, head, &[], value(view));
        }
    }

    /// One sample whose first labels are written already; the rest as in [`Page::sample`].
    pub(super) fn with_head(&mut self, family: &Family, head: &str, values: &[&str], value: impl Display) {
        self.samples += 1;
        self.text.push_str(family.name);
        self.text.push_str(head);
        let mut open = !head.is_empty();
        let rest = family.labels.len().saturating_sub(values.len());
        for (label, value) in family.labels.iter().skip(rest).zip(values) {
            self.text.push(if open { ',' } else { '{' });
            self.text.push_str(label.name);
            self.text.push_str("=\"");
            push_escaped(&mut self.text, value);
            self.text.push('"');
            open = true;
        }
        self.text.push_str(if open { "} " } else { " " });
        writeln!(self.text, "{value}").expect("a string takes every write");
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, family: &Family, value: impl Display) {
        self.family(family);
        self.sample(family, &[], value);
    }

    /// A histogram without labels, from its counts by bucket (not cumulative, the rest last).
    pub(super) fn histogram(&mut self, family: &Family, counts: &[u64], sum: f64) {
        self.family(family);
        let Kind::Histogram(bounds) = family.kind else { return };
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut total = 0;
        for (bound, count) in bounds.zip(counts) {
            total += count;
            self.raw(format_args!("{}_bucket{{le=\"{bound}\"}} {total}", family.name));
        }
        self.raw(format_args!("{}_sum {sum}", family.name));
        self.raw(format_args!("{}_count {total}", family.name));
    }

    fn raw(&mut self, line: std::fmt::Arguments<'_>) {
        self.samples += 1;
        writeln!(self.text, "{line}").expect("a string takes every write");
    }

    /// A family as the registry gathered it.
    pub(super) fn gathered(&mut self, family: &Family, gathered: &MetricFamily) {
        self.written.insert(family.name);
        // An error would mean a family without metrics, which `gather` leaves out.
        drop(TextEncoder::new().encode_utf8(std::slice::from_ref(gathered), &mut self.text));
        let of_histogram = |buckets: usize| if buckets == 0 { 1 } else { buckets + 3 };
        let metrics = gathered.get_metric().iter();
        self.samples += metrics.map(|m| of_histogram(m.get_histogram().get_bucket().len())).sum::<usize>();
    }

    /// Ends the page: families of its kind that had nothing to show get their help and type.
    pub(super) fn finish(mut self, per_worker: bool) -> String {
        for family in FAMILIES.iter().filter(|family| family.is_per_worker() == per_worker) {
            if !self.written.contains(family.name) {
                self.family(family);
            }
        }
        self.text
    }
}

fn push_escaped(text: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        let (plain, special) = rest.split_at(at);
        text.push_str(plain);
        text.push_str(match special.as_bytes().first() {
            Some(b'\\') => "\\\\",
            Some(b'"') => "\\\"",
            _ => "\\n",
        });
        rest = &special[1..];
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::super::catalogue as c;
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut page = Page::default();
        page.sample(&c::WORKER_UP, &["a\\b\"c\nd", "é"], 1);
        assert_eq!(page.text(), "rollcall_worker_up{worker=\"a\\\\b\\\"c\\nd\",pool=\"é\"} 1\n");
    }
}
