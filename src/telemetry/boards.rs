//! Holds the Grafana boards and the scrape configuration to their conventions: every query names
//! metrics that exist, for the instances chosen, and every panel says what is normal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::catalogue::{FAMILIES, Kind};

/// The colours that stay apart for people who see colours differently (Okabe and Ito, 2008).
const OKABE_ITO: [&str; 8] =
    ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"];

/// What every selector begins with.
const INSTANCES: &str = r#"{job=~"$job", instance=~"$instance""#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn boards() -> Vec<(PathBuf, Value)> {
    let folder = root().join("grafana/dashboards");
    let files =
        std::fs::read_dir(&folder).expect("grafana/dashboards").map(|entry| entry.expect("an entry").path());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable board");
        let board = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, board)
    };
    let boards: Vec<_> = files.map(read).collect();
    assert!(!boards.is_empty(), "no boards");
    boards
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Every panel but the rows, those of collapsed rows too.
fn panels(board: &Value) -> Vec<&Value> {
    let top = list(board, "/panels");
    let inner = top.iter().flat_map(|panel| list(panel, "/panels"));
    top.iter().chain(inner).filter(|panel| text(panel, "/type") != "row").collect()
}

fn queries(board: &Value) -> Vec<(&str, &str)> {
    let of_panels = panels(board).into_iter().flat_map(|panel| {
        list(panel, "/targets").iter().map(move |target| (text(panel, "/title"), text(target, "/expr")))
    });
    let annotations = list(board, "/annotations/list").iter();
    let of_annotations = annotations
        .filter(|annotation| annotation.get("builtIn").is_none())
        .map(|annotation| (text(annotation, "/name"), text(annotation, "/expr")));
    of_panels.chain(of_annotations).collect()
}

/// The metrics of a query, each with what stands right before it.
fn metrics_in(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = query[at..].find(is_word).map(|offset| at + offset) {
        let end = query[start..].find(|c| !is_word(c)).map_or(query.len(), |offset| start + offset);
        let word = &query[start..end];
        if word.starts_with("rollcall_") || word.starts_with("process_") {
            found.push((&query[..start], word));
        }
        at = end;
    }
    found
}

/// Whether the catalogue has it, and whether it only rises.
fn lookup(metric: &str) -> Option<bool> {
    FAMILIES.iter().find_map(|family| match family.kind {
        Kind::Counter if family.name == metric => Some(true),
        Kind::Gauge if family.name == metric => Some(false),
        Kind::Histogram(_) => {
            let part = metric.strip_prefix(family.name)?;
            ["_bucket", "_sum", "_count"].contains(&part).then_some(true)
        }
        Kind::Counter | Kind::Gauge => None,
    })
}

#[test]
fn every_query_asks_for_metrics_that_exist_of_the_instances_chosen() {
    for (path, board) in boards() {
        let queries = queries(&board);
        assert!(queries.len() > 10);
        for (title, query) in queries {
            let place = format!("{}: {title}: {query}", path.display());
            let metrics = metrics_in(query);
            assert!(!metrics.is_empty(), "{place}");
            assert_eq!(
                query.matches(INSTANCES).count(),
                metrics.len(),
                "a selector without {INSTANCES}: {place}"
            );
            for (before, metric) in metrics {
                let rises = lookup(metric).unwrap_or_else(|| panic!("no metric {metric}: {place}"));
                // The timestamp of the start is no counter, and a lone counter says nothing.
                let in_rate = before.ends_with("rate(") || before.ends_with("increase(");
                assert_eq!(rises, in_rate, "a counter needs rate or increase, a gauge neither: {place}");
            }
            for window in query.split('[').skip(1) {
                let known = ["$__rate_interval]", "$__range]", "$__interval]"];
                assert!(known.iter().any(|known| window.starts_with(known)), "a fixed window: {place}");
            }
        }
    }
}

#[test]
fn every_board_keeps_the_conventions_of_all() {
    for (path, board) in boards() {
        let place = path.display();
        let uid = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert!(uid.starts_with("rollcall-"), "{place}");
        for (field, expected) in [
            ("/uid", Value::from(uid)),
            ("/tags/0", "rollcall".into()),
            ("/editable", false.into()),
            ("/refresh", "30s".into()),
            ("/timezone", "browser".into()),
            ("/graphTooltip", 1.into()),
            ("/schemaVersion", 39.into()),
            ("/links/0/includeVars", true.into()),
            ("/links/0/keepTime", true.into()),
            ("/links/0/asDropdown", true.into()),
            ("/templating/list/0/type", "datasource".into()),
        ] {
            assert_eq!(board.pointer(field), Some(&expected), "{place}: {field}");
        }
        let names: Vec<_> =
            list(&board, "/templating/list").iter().map(|variable| text(variable, "/name")).collect();
        let order = ["datasource", "job", "instance", "pool", "capability", "worker"];
        let expected: Vec<_> = order.into_iter().filter(|name| names.contains(name)).collect();
        assert_eq!(names, expected, "{place}: the variables' order");
        assert_eq!(names[..3], order[..3], "{place}");
        for variable in &list(&board, "/templating/list")[1..] {
            assert_eq!(variable.get("refresh"), Some(&2.into()), "{place}: {}", text(variable, "/name"));
            assert_eq!(text(variable, "/allValue"), ".+", "{place}: {}", text(variable, "/name"));
        }
        let annotations: Vec<_> =
            list(&board, "/annotations/list").iter().map(|annotation| text(annotation, "/expr")).collect();
        for metric in ["rollcall_config_last_reload_success_timestamp_seconds", "process_start_time_seconds"]
        {
            assert!(
                annotations.iter().any(|query| query.starts_with(metric)),
                "{place}: no annotation of {metric}"
            );
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_what_is_normal_and_in_which_unit() {
    let units = ["s", "bytes", "percentunit", "ops", "reqps", "short", "dateTimeFromNow"];
    for (path, board) in boards() {
        let mut seen = BTreeSet::new();
        for panel in panels(&board) {
            let title = text(panel, "/title");
            let place = format!("{}: {title}", path.display());
            assert!(!title.is_empty() && seen.insert(title), "{place}: a title of its own");
            let description = text(panel, "/description");
            assert!(description.contains("Normal: "), "{place}: what is normal?");
            assert!(description.len() > 80, "{place}: what is to be done?");
            let (_, named) =
                description.rsplit_once("Metric: ").unwrap_or_else(|| panic!("{place}: its metric"));
            let targets = list(panel, "/targets");
            let named = named.trim_end_matches('.');
            assert!(targets.iter().all(|target| text(target, "/expr").contains(named)), "{place}: {named}");
            assert!(units.contains(&text(panel, "/fieldConfig/defaults/unit")), "{place}: a unit");
            assert_eq!(panel.pointer("/fieldConfig/defaults/min"), Some(&0.into()), "{place}: min");
            for source in targets.iter().chain([panel]) {
                assert_eq!(text(source, "/datasource/uid"), "${datasource}", "{place}");
            }
            let kind = text(panel, "/type");
            for query in targets.iter().map(|target| text(target, "/expr")) {
                for group in query.split(" by (").skip(1).filter(|_| kind != "heatmap") {
                    // A heatmap has one histogram; all else tells instances apart.
                    assert!(group.starts_with("instance"), "{place}: {query}");
                }
                let many = ["pool", "capability", "worker", "reason"];
                let by_many = query.split(" by (").skip(1).any(|group| {
                    let labels = group.split(')').next().unwrap_or_default();
                    many.iter().any(|label| labels.contains(label))
                });
                assert!(
                    !by_many || query.starts_with("topk(8, "),
                    "{place}: more than eight series: {query}"
                );
            }
            if kind == "timeseries" {
                assert_eq!(text(panel, "/options/legend/displayMode"), "table", "{place}");
                assert_eq!(text(panel, "/options/legend/placement"), "right", "{place}");
                assert_eq!(list(panel, "/options/legend/calcs"), ["mean", "max", "lastNotNull"], "{place}");
                let limit = list(panel, "/fieldConfig/defaults/thresholds/steps").len() > 1;
                let style = text(panel, "/fieldConfig/defaults/custom/thresholdsStyle/mode");
                assert_eq!(
                    style,
                    if limit { "dashed" } else { "off" },
                    "{place}: its limit is a dashed line"
                );
            }
        }
    }
}

#[test]
fn colours_stay_apart_for_people_who_see_them_differently() {
    for (path, _) in boards() {
        let text = std::fs::read_to_string(&path).expect("a readable board");
        for colour in text.split('"').filter(|word| word.starts_with('#')) {
            assert!(OKABE_ITO.contains(&colour), "{}: {colour}", path.display());
        }
    }
    for (at, one) in OKABE_ITO.iter().enumerate() {
        for other in &OKABE_ITO[at + 1..] {
            let [a, b] = [one, other].map(|colour| without_green_cones(linear(colour)));
            let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            assert!(distance > 0.05, "{one} and {other} look alike: {distance}");
        }
    }
}

fn linear(colour: &str) -> [f64; 3] {
    [1, 3, 5].map(|at| {
        let channel = u8::from_str_radix(&colour[at..at + 2], 16).expect("a colour");
        (f64::from(channel) / 255.0).powf(2.2)
    })
}

/// What deuteranopia leaves of a colour (Viénot, Brettel and Mollon, 1999).
fn without_green_cones([r, g, b]: [f64; 3]) -> [f64; 3] {
    [0.29275 * r + 0.70725 * g, 0.29275 * r + 0.70725 * g, -0.02234 * r + 0.02234 * g + b]
}

#[test]
fn promtool_takes_the_scrape_configuration() {
    let file = root().join("monitoring/prometheus.yml");
    let said = std::process::Command::new("promtool")
        .args(["check", "config"])
        .arg(&file)
        .output()
        .expect("promtool is missing; `make setup` installs it (Debian's package `prometheus`)");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}
