//! `docs/faults.md`, held to the catalogue of metrics and to the rules: every fault has its row, and
//! whatever a row names is there.

use std::collections::BTreeSet;

use rollcall::telemetry::catalogue::{FAMILIES, Family, Kind};

use super::bundle::{alerts, records, root};
use super::promql::{selectors, wrong};

/// Faults of the matrix that have to be told.
const FAULTS: usize = 34;

/// The words of a line that stand in backquotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_fault_has_metrics_and_an_alert_or_a_reason_for_none() {
    let page = std::fs::read_to_string(root().join("docs/faults.md")).expect("docs/faults.md");
    let (known, records) = (alerts(), records());
    let mut told = Vec::new();
    let mut named = BTreeSet::new();
    for line in page.lines() {
        for word in quoted(line).filter(|word| word.starts_with("Rollcall")) {
            assert!(known.contains(word), "there is no alert {word}: {line}");
            named.insert(word.to_owned());
        }
        let Some(rest) = line.strip_prefix("| F") else { continue };
        told.push(rest[..2].parse::<usize>().expect("a number"));
        // A bar inside backquotes is part of a query.
        let mut quote = false;
        let cells: Vec<&str> = line
            .split(|c| {
                quote ^= c == '`';
                c == '|' && !quote
            })
            .map(str::trim)
            .collect();
        let ["", _, fault, metrics, alert, ""] = cells[..] else { panic!("five bars: {line}") };
        assert!(!fault.is_empty());
        let metrics: Vec<&str> = quoted(metrics).collect();
        assert!(!metrics.is_empty(), "no metric: {line}");
        for metric in metrics {
            let found = selectors(metric);
            assert_eq!(found.len(), 1, "{metric} is one series");
            for selector in &found {
                let whole = |family: &&Family| {
                    family.name == selector.metric && matches!(family.kind, Kind::Histogram(_))
                };
                if selector.matchers.is_empty() && FAMILIES.iter().any(|family| whole(&family)) {
                    continue;
                }
                assert_eq!(wrong(selector, &records), None, "{metric}");
            }
        }
        let alerts = quoted(alert).filter(|word| word.starts_with("Rollcall")).count();
        let reason = alert.split_once("no alert: ").is_some_and(|(_, why)| why.len() > 20);
        assert!(alerts > 0 || reason, "neither an alert nor a reason: {line}");
    }
    assert_eq!(told, (1..=FAULTS).collect::<Vec<_>>(), "every fault, once, in order");
    // What no fault of the matrix raises is about the monitoring itself, or a bug.
    let others = [
        "RollcallLabelOverflow",
        "RollcallPanics",
        "RollcallQueueStalled",
        "RollcallRetryBudgetExhausted",
        "RollcallScrapeSlow",
        "RollcallWatchdog",
        "RollcallWorkerDiscoveryFailing",
        "RollcallWorkersUnseen",
    ];
    let others: BTreeSet<String> = others.map(str::to_owned).into();
    assert!(named.is_disjoint(&others));
    assert_eq!(named.union(&others).cloned().collect::<BTreeSet<_>>(), known);
}
