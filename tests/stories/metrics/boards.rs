//! Holds the Grafana boards to their conventions and to the rules of Grafana's dashboard-linter: every
//! query asks for what somebody writes, of the servers chosen; every panel says what is normal, and
//! draws its line where the alert is; and nothing that the catalogue has is shown nowhere.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rollcall::telemetry::catalogue::{FAMILIES, Kind};
use serde_json::Value;

use super::bundle::{BOARDS, fetched, files, records, root, rules, says};
use super::promql::{Selector, family_of, selectors, wrong};

mod colours;

/// What every selector of our own metrics begins with.
const INSTANCES: [(&str, &str, &str); 2] = [("job", "=~", "$job"), ("instance", "=~", "$instance")];

/// Panels whose queries are not of the servers chosen, and why. Of the linter's rules these break
/// target-job-rule and target-instance-rule; no other rule has an exception.
const ELSEWHERE: [(&str, &str); 10] = [
    ("What to do", "an alert may be of Prometheus itself, which is no server of ours"),
    ("CPU of the worker", "the workers' own pages are another job"),
    ("Memory of the worker", "the workers' own pages are another job"),
    ("File descriptors of the worker", "the workers' own pages are another job"),
    ("Its page", "the workers' own pages are another job"),
    ("Workers seen and configured", "the workers' own pages are another job"),
    ("Seen of what is configured", "the workers' own pages are another job"),
    ("Discovery failures", "Prometheus tells of itself"),
    ("Rule evaluation", "Prometheus tells of itself"),
    ("Alerts", "alerts on a whole job have no instance"),
];

/// Lines on graphs that are no alert's number: the service levels' own edges, and where a pool of
/// workers is usually given more.
const EDGES: [f64; 8] = [30.0, 0.1, 0.33, 0.8, 1.0, 0.995, 0.99, 0.999];

pub(crate) fn boards() -> Vec<(PathBuf, Value)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable board");
        let board = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, board)
    };
    let boards: Vec<_> = files("grafana/dashboards", "json").into_iter().map(read).collect();
    assert_eq!(boards.len(), BOARDS.len());
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

/// The queries of a board with the titles of their panels or annotations.
pub(crate) fn queries(board: &Value) -> Vec<(&str, &str)> {
    let of_panels = panels(board).into_iter().flat_map(|panel| {
        list(panel, "/targets").iter().map(move |target| (text(panel, "/title"), text(target, "/expr")))
    });
    let annotations = list(board, "/annotations/list").iter();
    let of_annotations = annotations
        .filter(|annotation| annotation.get("builtIn").is_none())
        .map(|annotation| (text(annotation, "/name"), text(annotation, "/expr")));
    of_panels.chain(of_annotations).collect()
}

/// A query with its variables filled as for "All" over the last minutes.
pub(crate) fn filled(query: &str) -> String {
    [
        ("$__rate_interval", "8s"),
        ("$__range", "5m"),
        ("$__interval", "4s"),
        ("$job", ".+"),
        ("$instance", ".+"),
        ("$pool", ".+"),
        ("$capability", ".+"),
        ("$worker", ".+"),
    ]
    .into_iter()
    .fold(query.to_owned(), |query, (variable, value)| query.replace(variable, value))
}

#[test]
fn the_boards_are_what_their_descriptions_say() {
    says("/usr/bin/python3", &["-B", "grafana/generate", "--check"]);
}

#[test]
fn grafana_10_to_13_know_every_field_of_the_boards_and_take_its_value() {
    let schema = fetched("grafana-schema", "node_modules/typescript");
    let said = says("/usr/bin/python3", &["-B", "grafana/schema/check.py", &schema]);
    assert!(said.starts_with("4 versions take all of "), "{said}");
}

#[test]
fn every_query_is_one_to_prometheus() {
    let mut rules = String::from("groups:\n- name: boards\n  rules:\n");
    let mut number = 0;
    for (_, board) in boards() {
        for (_, query) in queries(&board) {
            number += 1;
            let quoted = filled(query).replace('\'', "''");
            rules.push_str(&format!("  - record: board:query:number{number}\n    expr: '{quoted}'\n"));
        }
    }
    assert!(number > 150, "{number} queries");
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), rules).expect("a file can be written");
    says("promtool", &["check", "rules", &file.path().display().to_string()]);
}

#[test]
fn every_query_asks_for_what_somebody_writes_of_the_servers_chosen() {
    let records = records();
    for (path, board) in boards() {
        for (title, query) in queries(&board) {
            let place = format!("{}: {title}: {query}", path.display());
            let found = selectors(query);
            assert!(!found.is_empty(), "{place}");
            for selector in &found {
                assert_eq!(wrong(selector, &records), None, "{place}");
                let chosen = selector.matchers.starts_with(&INSTANCES);
                // The windows of the service levels come from recording rules, which are of a whole job.
                let record = selector.metric.contains(':') && selector.matchers.starts_with(&INSTANCES[..1]);
                let excused = ELSEWHERE.iter().any(|(known, _)| *known == title);
                assert!(chosen || record || excused, "a selector without job and instance: {place}");
                assert_eq!(
                    rises(selector),
                    is_in_rate(query, selector),
                    "a counter needs rate or increase, a gauge neither: {place}"
                );
            }
            for window in query.split('[').skip(1) {
                let known = ["$__rate_interval]", "$__range]", "$__interval]"];
                assert!(known.iter().any(|known| window.starts_with(known)), "a fixed window: {place}");
            }
        }
    }
}

/// Whether a metric only rises. What other programs write goes by the end of its name.
fn rises(selector: &Selector<'_>) -> bool {
    match family_of(selector.metric) {
        Some((family, part)) => family.kind == Kind::Counter || !part.is_empty(),
        None => ["_total", "_bucket", "_count", "_sum"].iter().any(|end| selector.metric.ends_with(end)),
    }
}

fn is_in_rate(query: &str, selector: &Selector<'_>) -> bool {
    let before = &query[..selector.at];
    before.ends_with("rate(") || before.ends_with("increase(")
}

#[test]
fn every_board_keeps_the_conventions_of_all() {
    for (path, board) in boards() {
        let place = path.display();
        let uid = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert!(uid.strip_prefix("rollcall-").is_some_and(|name| BOARDS.contains(&name)), "{place}");
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
            ("/templating/list/0/name", "datasource".into()),
            ("/templating/list/0/label", "Data source".into()),
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
            let name = text(variable, "/name");
            for (field, expected) in [
                ("/refresh", Value::from(2)),
                ("/allValue", ".+".into()),
                ("/multi", true.into()),
                ("/includeAll", true.into()),
                ("/label", name.into()),
                ("/datasource/uid", "${datasource}".into()),
            ] {
                assert_eq!(variable.pointer(field), Some(&expected), "{place}: {name}: {field}");
            }
        }
        let annotations: Vec<_> =
            list(&board, "/annotations/list").iter().map(|annotation| text(annotation, "/name")).collect();
        let expected =
            ["Annotations & Alerts", "Configuration loaded", "Reload rejected", "Restarts", "Alerts"];
        assert_eq!(annotations, expected, "{place}");
        let rows: Vec<_> =
            list(&board, "/panels").iter().filter(|panel| text(panel, "/type") == "row").collect();
        assert!(!rows.is_empty() && rows[0]["collapsed"] == false, "{place}: the first row is open");
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
            let kind = text(panel, "/type");
            // The list of alerts is the one panel without a query: Grafana fills it.
            if kind == "alertlist" {
                continue;
            }
            let targets = list(panel, "/targets");
            assert!(!targets.is_empty(), "{place}: nothing is asked");
            let (said, named) = description
                .rsplit_once("Metric: ")
                .or_else(|| description.rsplit_once("Metrics: "))
                .unwrap_or_else(|| panic!("{place}: its metrics"));
            assert!(said.len() > 60, "{place}: what is to be done?");
            for name in named.trim_end_matches('.').split(", ") {
                assert!(targets.iter().any(|target| text(target, "/expr").contains(name)), "{place}: {name}");
            }
            assert!(units.contains(&text(panel, "/fieldConfig/defaults/unit")), "{place}: a unit");
            assert_eq!(panel.pointer("/fieldConfig/defaults/min"), Some(&0.into()), "{place}: min");
            for source in targets.iter().chain([panel]) {
                assert_eq!(text(source, "/datasource/uid"), "${datasource}", "{place}");
                assert_eq!(text(source, "/datasource/type"), "prometheus", "{place}");
            }
            if kind == "heatmap" {
                // The count's unit is the field's; the buckets' belongs to the axis.
                assert_eq!(text(panel, "/fieldConfig/defaults/unit"), "short", "{place}");
                assert!(units.contains(&text(panel, "/options/yAxis/unit")), "{place}: the axis");
                assert_eq!(text(panel, "/options/color/scheme"), "Viridis", "{place}");
                assert_eq!(text(panel, "/targets/0/format"), "heatmap", "{place}");
            }
            if kind == "timeseries" {
                check_graph(panel, &place);
            }
        }
    }
}

fn check_graph(panel: &Value, place: &str) {
    assert_eq!(text(panel, "/options/legend/displayMode"), "table", "{place}");
    assert_eq!(text(panel, "/options/legend/placement"), "right", "{place}");
    assert_eq!(list(panel, "/options/legend/calcs"), ["mean", "max", "lastNotNull"], "{place}");
    let limit = list(panel, "/fieldConfig/defaults/thresholds/steps").len() > 1;
    let style = text(panel, "/fieldConfig/defaults/custom/thresholdsStyle/mode");
    assert_eq!(style, if limit { "dashed" } else { "off" }, "{place}: its limit is a dashed line");
    for query in list(panel, "/targets").iter().map(|target| text(target, "/expr")) {
        for group in query.split(" by (").skip(1) {
            assert!(group.starts_with("instance"), "{place}: instances are told apart: {query}");
        }
        let many = ["pool", "capability", "worker", "reason", "route", "code", "type", "action"];
        let by_many = query.split(" by (").skip(1).any(|group| {
            let labels = group.split(')').next().unwrap_or_default();
            labels.split(", ").any(|label| many.contains(&label))
        });
        assert!(!by_many || query.starts_with("topk("), "{place}: more than eight series: {query}");
    }
}

#[test]
fn a_line_on_a_graph_is_where_an_alert_is() {
    let mut numbers: Vec<f64> = EDGES.to_vec();
    for rule in rules() {
        let query = rule["expr"].as_str().expect("a query");
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
        numbers.extend(words.filter_map(|word| word.parse::<f64>().ok()));
    }
    let mut lines = 0;
    for (path, board) in boards() {
        for panel in panels(&board) {
            for step in list(panel, "/fieldConfig/defaults/thresholds/steps") {
                let Some(value) = step["value"].as_f64() else { continue };
                lines += 1;
                let known = numbers.iter().any(|number| (number - value).abs() < 1e-9);
                assert!(known, "{}: {}: no alert is at {value}", path.display(), text(panel, "/title"));
            }
        }
    }
    assert!(lines > 30, "{lines} lines");
}

#[test]
fn a_name_on_a_board_leads_to_its_board() {
    let mut links = 0;
    for (path, board) in boards() {
        for panel in panels(&board) {
            let place = format!("{}: {}", path.display(), text(panel, "/title"));
            let defaults = list(panel, "/fieldConfig/defaults/links").iter();
            let overrides =
                list(panel, "/fieldConfig/overrides").iter().flat_map(|own| list(own, "/properties"));
            let of_columns =
                overrides.filter(|own| text(own, "/id") == "links").flat_map(|own| list(own, "/value"));
            let urls: Vec<&str> = defaults.chain(of_columns).map(|link| text(link, "/url")).collect();
            for url in &urls {
                links += 1;
                let uid =
                    url.strip_prefix("/d/rollcall-").map(|rest| rest.split('?').next().unwrap_or_default());
                let runbook = url.starts_with("http://127.0.0.1:7600/runbooks/");
                assert!(runbook || uid.is_some_and(|uid| BOARDS.contains(&uid)), "{place}: {url}");
                assert!(runbook || url.ends_with("&${__url_time_range}"), "{place}: {url}");
            }
            let many = ["{{pool}}", "{{capability}}", "{{worker}}"];
            let targets = list(panel, "/targets");
            let named = targets
                .iter()
                .any(|target| many.iter().any(|label| text(target, "/legendFormat").contains(label)));
            assert!(!named || !urls.is_empty(), "{place}: a name without a link");
        }
    }
    assert!(links > 20, "{links} links");
}

#[test]
fn a_state_is_a_word_and_a_mark_and_never_a_colour_alone() {
    let mut states = 0;
    for (path, board) in boards() {
        for panel in panels(&board) {
            let overrides =
                list(panel, "/fieldConfig/overrides").iter().flat_map(|own| list(own, "/properties"));
            let of_columns =
                overrides.filter(|own| text(own, "/id") == "mappings").flat_map(|own| list(own, "/value"));
            for mapping in list(panel, "/fieldConfig/defaults/mappings").iter().chain(of_columns) {
                let (mark, word) =
                    text(mapping, "/options/result/text").split_once(' ').expect("a mark and a word");
                assert!(["✔", "▲", "✖"].contains(&mark) && word.len() > 1, "{}: {mapping}", path.display());
                states += 1;
            }
        }
    }
    assert!(states > 15, "{states} states");
}

#[test]
fn nothing_that_the_catalogue_has_is_shown_nowhere() {
    let mut asked = BTreeSet::new();
    let boards = boards();
    let of_boards = boards.iter().flat_map(|(_, board)| queries(board)).map(|(_, query)| query.to_owned());
    let of_rules = rules().into_iter().filter_map(|rule| rule["expr"].as_str().map(str::to_owned));
    for query in of_boards.chain(of_rules) {
        asked.extend(
            selectors(&query)
                .iter()
                .filter_map(|selector| family_of(selector.metric))
                .map(|(family, _)| family.name),
        );
    }
    let unseen: Vec<_> =
        FAMILIES.iter().map(|family| family.name).filter(|name| !asked.contains(name)).collect();
    assert!(unseen.is_empty(), "no board and no rule asks for {unseen:?}");
}

#[test]
fn provisioning_and_the_boards_fit() {
    let source = std::fs::read_to_string(root().join("grafana/provisioning/datasources/rollcall.yaml"))
        .expect("it is there");
    assert!(source.contains("uid: rollcall-prometheus") && source.contains("editable: false"));
    let provider = std::fs::read_to_string(root().join("grafana/provisioning/dashboards/rollcall.yaml"))
        .expect("it is there");
    for line in ["disableDeletion: true", "allowUiUpdates: false", "foldersFromFilesStructure: true"] {
        assert!(provider.contains(line), "{line}");
    }
}
