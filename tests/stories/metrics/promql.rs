//! Reads queries far enough to know which series they ask for, and holds those to the catalogue: no
//! metric, label or word that nothing writes. Whether a query is one at all is promtool's business.

use rollcall::telemetry::catalogue::{FAMILIES, Family, Kind, Values};

use super::planned::PLANNED;

/// A metric of a query, with its label matchers.
#[derive(Debug, PartialEq)]
pub(crate) struct Selector<'a> {
    /// Where it begins in the query.
    pub(crate) at: usize,
    pub(crate) metric: &'a str,
    /// Label, operator, value.
    pub(crate) matchers: Vec<(&'a str, &'a str, &'a str)>,
}

/// What other programs than ours write.
const FOREIGN: [&str; 7] =
    ["up", "scrape_", "prometheus_", "alertmanager_", "ALERTS", "rollcall_sandbox_", "rollcall_browser_"];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Whether a word is a metric's name, not a function's, a label's or a keyword.
fn is_metric(word: &str) -> bool {
    let ours = ["rollcall_", "process_"].iter().any(|prefix| word.starts_with(prefix));
    let theirs = FOREIGN
        .iter()
        .any(|known| if known.ends_with('_') { word.starts_with(known) } else { word == *known });
    ours || theirs || (word.contains(':') && !word.starts_with(':'))
}

/// Every selector of a query, in order.
pub(crate) fn selectors(query: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = query[at..].chars().next() {
        let rest = &query[at..];
        if next == '"' || next == '\'' {
            at += quoted(rest).len() + 2;
        } else if is_word(next) {
            let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            at += word.len();
            if is_metric(word) {
                let matchers = match query[at..].strip_prefix('{') {
                    Some(inside) => matchers(inside),
                    None => Vec::new(),
                };
                found.push(Selector { at: at - word.len(), metric: word, matchers });
            }
        } else {
            at += next.len_utf8();
        }
    }
    found
}

/// What stands between the quotes that a text begins with.
fn quoted(text: &str) -> &str {
    let mark = text.chars().next().unwrap_or('"');
    let mut escaped = false;
    let end = text[1..].find(|c| {
        let ends = c == mark && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    &text[1..=end.unwrap_or_else(|| panic!("a string without an end: {text}"))]
}

/// The matchers of `label="value", …}`.
fn matchers(mut text: &str) -> Vec<(&str, &str, &str)> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',']);
        if text.starts_with('}') {
            return found;
        }
        let label = &text[..text.find(|c| !is_word(c)).unwrap_or(0)];
        let rest = text[label.len()..].trim_start();
        let operator = &rest[..rest.find(['"', '\'']).unwrap_or_else(|| panic!("no value: {text}"))];
        let value = quoted(&rest[operator.len()..]);
        found.push((label, operator.trim(), value));
        text = &rest[operator.len() + value.len() + 2..];
    }
}

/// The family that a metric belongs to, and the part of it that a histogram's metric is.
pub(crate) fn family_of(metric: &str) -> Option<(&'static Family, &str)> {
    FAMILIES.iter().find_map(|family| match family.kind {
        Kind::Counter | Kind::Gauge => (family.name == metric).then_some((family, "")),
        Kind::Histogram(_) => {
            let part = metric.strip_prefix(family.name)?;
            ["_bucket", "_sum", "_count"].contains(&part).then_some((family, part))
        }
    })
}

/// What is wrong with a selector, if anything: a name, a label or a word that nothing writes.
pub(crate) fn wrong(selector: &Selector<'_>, records: &[String]) -> Option<String> {
    let metric = selector.metric;
    if metric.contains(':') {
        return (!records.iter().any(|record| record == metric)).then(|| format!("no rule records {metric}"));
    }
    if let Some((family, part)) = family_of(metric) {
        let known = |label: &str, value: &str| match family.labels.iter().find(|known| known.name == label) {
            Some(known) => match known.values {
                Values::Words(words) => unknown_word(value, &words()),
                Values::Topology | Values::Program => None,
            },
            None if part == "_bucket" && label == "le" => None,
            None => Some(label.to_owned()),
        };
        return first_wrong(selector, known);
    }
    if let Some(planned) = PLANNED.iter().find(|planned| planned.name == metric) {
        let known = |label: &str, value: &str| match planned.labels.iter().find(|(known, _)| *known == label)
        {
            Some((_, words)) => unknown_word(value, words),
            None => Some(label.to_owned()),
        };
        return first_wrong(selector, known);
    }
    let ours = metric.starts_with("rollcall_") && !FOREIGN.iter().any(|known| metric.starts_with(known));
    (ours || metric.starts_with("process_")).then(|| format!("there is no metric {metric}"))
}

fn first_wrong(selector: &Selector<'_>, known: impl Fn(&str, &str) -> Option<String>) -> Option<String> {
    // A worker's own page gets the worker's names from service discovery.
    let own_page = selector.matchers.contains(&("job", "=", "rollcall-worker-hosts"));
    let of_target = |label: &str| {
        ["job", "instance", "endpoint"].contains(&label)
            || (own_page && ["worker", "pool", "zone"].contains(&label))
    };
    let mut foreign = selector.matchers.iter().filter(|(label, _, _)| !of_target(label));
    foreign.find_map(|(label, _, value)| {
        known(label, value).map(|what| format!("{} has no {label}={value:?} ({what})", selector.metric))
    })
}

/// The alternative of a matcher's value that is none of the words; patterns and variables may match
/// any, and so may every value where there are no words.
fn unknown_word(value: &str, words: &[&str]) -> Option<String> {
    let mut parts = value.split('|');
    let plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let unknown = parts.find(|part| plain(part) && !words.is_empty() && !words.contains(part));
    unknown.map(str::to_owned)
}

#[test]
fn selectors_are_found_whatever_stands_around_them() {
    let query = r#"sum by (job) (rate(rollcall_queue_tasks{job=~"$job", state!="a}b"}[5m])) / rollcall_queue_bytes > up"#;
    let found = selectors(query);
    let metrics: Vec<_> = found.iter().map(|selector| selector.metric).collect();
    assert_eq!(metrics, ["rollcall_queue_tasks", "rollcall_queue_bytes", "up"]);
    assert_eq!(found[0].matchers, [("job", "=~", "$job"), ("state", "!=", "a}b")]);
    assert_eq!(wrong(&found[0], &[]), None);
}

#[test]
fn a_name_a_label_or_a_word_that_nothing_writes_is_found() {
    for query in [
        "rollcall_queue_task",
        "rollcall_task_latency_seconds",
        "job:rollcall_queue:sum",
        r#"rollcall_queue_tasks{pool="p"}"#,
        r#"rollcall_queue_tasks{state="waiting"}"#,
        r#"rollcall_queue_tasks{state=~"queued|waiting"}"#,
        r#"rollcall_auth_attempts_total{plane="web"}"#,
    ] {
        assert!(wrong(&selectors(query)[0], &[]).is_some(), "{query}");
    }
    for query in [
        r#"rollcall_queue_tasks{state=~"queued|delayed",job="x"}"#,
        r#"rollcall_task_latency_seconds_bucket{le="30",capability="c"}"#,
        "prometheus_sd_refresh_failures_total",
    ] {
        assert_eq!(wrong(&selectors(query)[0], &[]), None, "{query}");
    }
}
