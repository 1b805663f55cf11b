//! The files of `monitoring/`, held to by the programs that read them, and to each other: no alert
//! without a runbook, a board and two tests, and no name that nothing writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::prometheus::three;
use super::promql::{selectors, wrong};

/// The boards that links may lead to.
pub(crate) const BOARDS: [&str; 8] =
    ["overview", "slos", "tasks", "pool", "worker", "autoscaling", "api", "internals"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program on our files; what it says on standard output. It must find nothing wrong.
pub(crate) fn says(program: &str, arguments: &[&str]) -> String {
    let said = Command::new(program).args(arguments).current_dir(root()).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; `make setup` installs it from Debian's packages")
    });
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{program} {arguments:?}\n{text}{errors}");
    text
}

/// The folder in which `make setup` has put what it fetches. Says so where it has not.
pub(crate) fn fetched(folder: &str, part: &str) -> String {
    let built = Path::new(env!("CARGO_BIN_EXE_rollcall"));
    // Beside the folder of the profile, wherever that is.
    let target = built.parent().and_then(Path::parent).expect("target/debug/rollcall");
    let found = target.join(folder);
    assert!(found.join(part).exists(), "{} is missing: `make setup` fetches it", found.join(part).display());
    found.display().to_string()
}

/// The files of a folder under `monitoring/`, by their ending.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect(folder);
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no {ending} files in {folder}");
    files
}

pub(crate) fn yaml(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every rule of every file.
pub(crate) fn rules() -> Vec<Value> {
    let rules: Vec<Value> = files("monitoring/rules", "yaml")
        .iter()
        .flat_map(|path| {
            let file = yaml(path);
            let groups = file["groups"].as_array().expect("groups").clone();
            groups.into_iter().flat_map(|group| group["rules"].as_array().expect("rules").clone())
        })
        .collect();
    assert_eq!(rules.len(), 73);
    rules
}

pub(crate) fn records() -> Vec<String> {
    rules().iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)).collect()
}

pub(crate) fn alerts() -> BTreeSet<String> {
    rules().iter().filter_map(|rule| rule["alert"].as_str().map(str::to_owned)).collect()
}

#[test]
fn rules_and_their_tests_are_what_the_tables_say() {
    says("/usr/bin/python3", &["-B", "monitoring/generate", "--check"]);
}

#[test]
fn promtool_takes_the_configuration_and_the_rules_and_their_tests_pass() {
    let tools = ["promtool".to_owned(), three("promtool")];
    for tool in &tools {
        says(tool, &["check", "config", "--lint=all", "--lint-fatal", "monitoring/prometheus.yml"]);
        says(tool, &["check", "rules", "--lint=all", "--lint-fatal", "monitoring/rules/rollcall.yaml"]);
        // Beside each other, for each keeps a core busy for seconds.
        std::thread::scope(|scope| {
            for path in files("monitoring/tests", "yaml") {
                scope.spawn(move || says(tool, &["test", "rules", &path.display().to_string()]));
            }
        });
    }
}

#[test]
fn amtool_sends_each_alert_to_whom_it_concerns() {
    says("amtool", &["check-config", "monitoring/alertmanager.yml"]);
    for rule in rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        let expected = match severity {
            "critical" => "page",
            "warning" => "ticket",
            "info" => "blackhole",
            "none" => "deadman",
            other => panic!("{alert}: {other}"),
        };
        let labels =
            [format!("alertname={alert}"), format!("severity={severity}"), "job=rollcall".to_owned()];
        let said = says(
            "amtool",
            &[
                "config",
                "routes",
                "test",
                "--config.file=monitoring/alertmanager.yml",
                &labels[0],
                &labels[1],
                &labels[2],
            ],
        );
        assert_eq!(said.trim(), expected, "{alert}");
    }
}

#[test]
fn what_silences_an_alert_is_an_alert_that_can_bear_those_labels() {
    let known = alerts();
    let file = yaml(&root().join("monitoring/alertmanager.yml"));
    for rule in file["inhibit_rules"].as_array().expect("inhibitions") {
        for part in ["source_matchers", "target_matchers"] {
            for matcher in rule[part].as_array().expect(part) {
                let matcher = matcher.as_str().expect("a matcher");
                let Some((_, names)) = matcher.split_once("alertname") else { continue };
                let names = names.trim_start_matches(['=', '~', '!']).trim_matches('"');
                let plain = names.split('|').filter(|name| !name.contains(".+"));
                for name in plain {
                    assert!(known.contains(name), "{matcher}: no alert {name}");
                }
            }
        }
    }
}

#[test]
fn compose_takes_its_file() {
    says("docker-compose", &["-f", "monitoring/compose.yaml", "config", "-q"]);
    let file = yaml(&root().join("monitoring/compose.yaml"));
    for (name, service) in file["services"].as_object().expect("services") {
        let image = service["image"].as_str().expect("an image");
        let (_, version) = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: no version: {image}"));
        assert!(version.contains('.') && version != "latest", "{name}: no exact version: {image}");
        assert!(service["healthcheck"]["test"].is_array(), "{name}: no health check");
    }
}

#[test]
fn rules_ask_only_for_what_somebody_writes() {
    let records = records();
    for rule in rules() {
        let query = rule["expr"].as_str().expect("a query");
        let found = selectors(query);
        let watchdog = rule["alert"] == "RollcallWatchdog";
        assert_eq!(watchdog, found.is_empty(), "{query}");
        for selector in &found {
            assert_eq!(wrong(selector, &records), None, "{query}");
        }
    }
}

#[test]
fn every_alert_has_its_links_its_runbook_and_its_tests_and_no_runbook_is_left_over() {
    let mut tested = std::collections::BTreeMap::<String, BTreeSet<bool>>::new();
    for path in files("monitoring/tests", "yaml") {
        for test in yaml(&path)["tests"].as_array().expect("tests") {
            for case in test["alert_rule_test"].as_array().into_iter().flatten() {
                let fires = case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
                let name = case["alertname"].as_str().expect("a name").to_owned();
                tested.entry(name).or_default().insert(fires);
            }
        }
    }
    for rule in rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let notes = &rule["annotations"];
        let runbook = format!("http://127.0.0.1:7600/runbooks/{alert}");
        assert_eq!(notes["runbook_url"], runbook.as_str(), "{alert}");
        let board = notes["dashboard_url"].as_str().expect("a board");
        let uid = board.strip_prefix("http://127.0.0.1:3000/d/rollcall-").unwrap_or_default();
        assert!(BOARDS.contains(&uid), "{alert}: {board}");
        assert!(["summary", "description"].iter().all(|note| notes[note].is_string()), "{alert}");
        // The watchdog always fires, so no test can show it silent.
        let both = BTreeSet::from([true, false]);
        assert!(alert == "RollcallWatchdog" || tested.get(alert) == Some(&both), "{alert}: its tests");
    }
    let named: BTreeSet<String> = files("monitoring/runbooks", "md")
        .iter()
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(named, alerts());
    assert!(tested.keys().all(|alert| named.contains(alert)));
}
