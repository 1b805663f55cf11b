//! The runbooks, as somebody follows them at night: their queries are queries, their commands are
//! commands of this program, their links lead somewhere, and the server shows them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use hyper::Method;
use rollcall::client::Request;

use super::bundle::{BOARDS, files, records, says};
use super::promql::{selectors, wrong};
use crate::support::Server;

const HEADINGS: [&str; 6] =
    ["Meaning", "Impact on tasks", "First 3 checks", "Mitigate", "Fix", "How it was tested"];

fn runbooks() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable runbook");
        (path, text)
    };
    files("monitoring/runbooks", "md").into_iter().map(read).collect()
}

/// The lines of the fenced blocks of a kind.
fn block<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let fence = format!("```{kind}\n");
    let blocks = text.split(fence.as_str()).skip(1);
    blocks
        .flat_map(|rest| rest.split("```").next().unwrap_or_default().lines())
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn every_runbook_has_the_same_parts_and_something_in_each() {
    for (path, text) in runbooks() {
        let place = path.display();
        let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, HEADINGS, "{place}");
        for part in text.split("\n## ").skip(1) {
            let (_, body) = part.split_once('\n').expect("a heading has a line of its own");
            assert!(!body.trim().is_empty(), "{place}: {part}");
        }
        let checks = ["\n1. ", "\n2. ", "\n3. "].iter().all(|number| text.contains(number));
        assert!(checks, "{place}: three checks");
        assert_eq!(block(&text, "promql").len(), 1, "{place}: one query");
        assert!(!block(&text, "sh").is_empty(), "{place}: a command");
        let board = text.split("http://127.0.0.1:3000/d/rollcall-").nth(1).unwrap_or_default();
        let uid = board.split(['?', '\n']).next().unwrap_or_default();
        assert!(BOARDS.contains(&uid), "{place}: a link to a board");
    }
}

#[test]
fn the_queries_of_the_runbooks_are_queries_about_what_somebody_writes() {
    let records = records();
    let mut rules = String::from("groups:\n- name: runbooks\n  rules:\n");
    for (number, (path, text)) in runbooks().iter().enumerate() {
        let query = block(text, "promql")[0];
        for selector in selectors(query) {
            assert_eq!(wrong(&selector, &records), None, "{}: {query}", path.display());
        }
        let quoted = query.replace('\'', "''");
        rules.push_str(&format!("  - record: runbook:query:number{number}\n    expr: '{quoted}'\n"));
    }
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), rules).expect("a file can be written");
    says("promtool", &["check", "rules", &file.path().display().to_string()]);
}

#[test]
fn the_commands_of_the_runbooks_are_commands_of_this_program() {
    let mut commands = BTreeSet::new();
    for (_, text) in runbooks() {
        let of_blocks = block(&text, "sh").into_iter().map(str::to_owned);
        let of_prose = text.split('`').skip(1).step_by(2).map(str::to_owned);
        commands.extend(of_blocks.chain(of_prose).filter(|command| command.starts_with("rollcall ")));
    }
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        // Help is the last word, so all that comes before it must make sense.
        let words = command.split_whitespace().skip(1).chain(["--help"]);
        let said = Command::new(env!("CARGO_BIN_EXE_rollcall")).args(words).output().expect("it runs");
        assert!(said.status.success(), "{command}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

#[tokio::test]
async fn the_server_shows_a_runbook_and_says_which_it_has_not() {
    let server = Server::start(crate::support::MOCKS);
    let shown = server.send(Request::new(Method::GET, "/runbooks/RollcallQueueStalled")).await;
    assert_eq!(
        (shown.status.as_u16(), &shown.headers["content-type"]),
        (200, &"text/plain; charset=utf-8".parse().expect("a header"))
    );
    assert!(shown.body.starts_with(b"# RollcallQueueStalled\n"));
    let unknown = server.send(Request::new(Method::GET, "/runbooks/RollcallNothing")).await;
    let problem: serde_json::Value = serde_json::from_slice(&unknown.body).expect("a problem");
    assert_eq!((unknown.status.as_u16(), &problem["code"]), (404, &"no_such_runbook".into()), "{problem}");
}

#[test]
fn the_program_writes_the_files_that_fit_it() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let export = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
        command.args(["monitoring", "export", "--dir"]).arg(folder.path()).args(more);
        command.output().expect("it runs")
    };
    let said = export(&[]);
    assert!(said.status.success(), "{said:?}");
    for path in [
        "monitoring/rules/rollcall.yaml",
        "monitoring/compose.yaml",
        "grafana/dashboards/rollcall-overview.json",
    ] {
        let ours = std::fs::read(super::bundle::root().join(path)).expect(path);
        assert_eq!(std::fs::read(folder.path().join(path)).expect(path), ours, "{path}");
    }
    let said =
        export(&["--server-url", "https://rollcall.example", "--grafana-url", "https://grafana.example"]);
    assert!(said.status.success(), "{said:?}");
    let at = |path: &str| folder.path().join("monitoring").join(path).display().to_string();
    says("promtool", &["check", "config", "--lint=all", "--lint-fatal", &at("prometheus.yml")]);
    says("promtool", &["test", "rules", &at("tests/tasks.yaml"), &at("tests/internals.yaml")]);
    let wrong = export(&["--server-url", "rollcall.example"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
