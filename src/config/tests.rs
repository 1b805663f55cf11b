//! What people write, and what they are told: every example is loaded, and every `invalid-*.yaml`
//! compared with the problems it must give.

mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::fleet::{Capability, InterfaceKind, Scaling};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn source(env: &[(&str, &str)]) -> Source {
    Source::new(root().join("config.yaml"), env.iter().copied().collect())
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    source(&[]).parse("config.yaml", text)
}

fn problems(text: &str) -> Vec<String> {
    let problems = parse(text).expect_err("something is wrong with it");
    problems.iter().map(|problem| problem.headline().to_string()).collect()
}

fn warnings(text: &str) -> Vec<String> {
    parse(text).expect("right").warnings.iter().map(|it| it.headline().to_string()).collect()
}

#[test]
fn the_file_that_a_newcomer_starts_with_is_right() {
    let loaded = source(&[]).load().expect("config.yaml is right");
    let workers = &loaded.config.topology.workers;
    let names: Vec<_> = workers.keys().map(WorkerName::as_str).collect();
    assert_eq!(names, ["browser", "figma", "python-sandbox"]);
    let python = &workers["python-sandbox"];
    assert_eq!(python.interface, InterfaceKind::Websocket);
    assert_eq!(python.slots, Some(5));
    let launch = python.launch.as_ref().expect("it is launched");
    assert_eq!(launch.command[1..], ["--listen", "127.0.0.1:3001"]);
    assert_eq!(workers["figma"].mock.latency, Duration::from_millis(100));
    assert_eq!(workers["browser"].capabilities, Some(vec![Capability::from("browser.*")]));
}

/// Every commented default in config.yaml is really the default, and every field is explained there.
#[test]
fn what_config_yaml_shows_in_comments_is_the_default() {
    let text = std::fs::read_to_string(root().join("config.yaml")).expect("it is there");
    let field = |line: &str| {
        let rest = line.trim_start().strip_prefix("# ")?;
        let (name, value) = rest.trim_start().split_once(':')?;
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        (plain && !name.is_empty() && (value.is_empty() || value.starts_with(' ')))
            .then(|| line.replacen("# ", "", 1))
    };
    // Prose does not begin with a known field's name and a colon.
    let known = ["formerly", "env", "token", "tls"];
    // The example of a pool is a block of its own, up to the next empty line.
    let mut in_pools = false;
    let uncommented: String = text
        .lines()
        .map(|line| {
            in_pools = (in_pools || line == "# pools:") && !line.is_empty();
            if in_pools {
                return line.trim_start_matches('#').strip_prefix(' ').unwrap_or_default().to_owned() + "\n";
            }
            match field(line) {
                Some(field) if !known.iter().any(|known| field.trim_start().starts_with(known)) => {
                    field + "\n"
                }
                _ => line.to_owned() + "\n",
            }
        })
        .collect();
    let shown = parse(&uncommented).unwrap_or_else(|problems| panic!("{}\n{uncommented}", listed(&problems)));
    let pool = &shown.topology.pools["python"];
    let shows = Scaling { min: 1, max: 8, ..Scaling::default() };
    assert_eq!(pool.scaling, shows, "what the example shows beside `max` is the default");
    let bare = parse(&text).expect("right");
    let mut expected = bare.topology.settings.clone();
    // Two examples have no default to show.
    expected.removal_grace = Some(Duration::from_secs(600));
    expected.fairness_weights = [("agent-7".into(), 2)].into();
    assert_eq!(shown.topology.settings, expected);
    assert_eq!(shown.topology.workers, bare.topology.workers);
    let ServerConfig { metrics_listen, workers_listen, .. } = shown.server.clone();
    assert_eq!(shown.server, ServerConfig { metrics_listen, workers_listen, ..bare.server });
    assert_eq!(shown.retention, bare.retention);
    assert_eq!(shown.telemetry, TelemetryConfig { otlp: shown.telemetry.otlp.clone(), ..bare.telemetry });
}

#[test]
fn spans_go_to_a_collector_that_can_be_spoken_to() {
    let with = |url: &str| parse(&format!("telemetry: {{ otlp: \"{url}\" }}\nworkers: []"));
    for good in ["http://127.0.0.1:4318", "http://collector", "http://[::1]:4318/otlp"] {
        let config = with(good).unwrap_or_else(|problems| panic!("{}", listed(&problems)));
        assert_eq!(config.telemetry.otlp.as_deref(), Some(good));
    }
    let refused = |url: &str| listed(&with(url).map(|_| ()).expect_err("it is refused"));
    assert!(refused("https://collector").contains("not supported by this version; send to a collector on"));
    for wrong in ["collector:4318", "grpc://collector", "http://", "http://a:99999", "http://a/?b"] {
        assert!(refused(wrong).contains("http://127.0.0.1:4318"), "{wrong}: {}", refused(wrong));
    }
}

#[test]
fn an_almost_empty_file_has_the_defaults() {
    let config = parse("workers: []").expect("right");
    assert_eq!(config.topology.settings, crate::fleet::Settings::default());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:7600");
    assert_eq!(config.server.data_dir, root().join("data"));
    assert_eq!(config.server.max_body, 1 << 20);
    assert!(config.topology.workers.is_empty() && config.warnings.is_empty());
}

/// Run with `ROLLCALL_BLESS=1` to write the expected texts anew, and read the difference.
#[test]
fn each_invalid_file_gives_the_problems_that_stand_beside_it() {
    let folder = root().join("tests/config");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the fixtures are there") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("readable");
        let env = [("MAX_BODY", "hunter2"), ("WRONG", "")];
        let problems = source(&env).parse(&name, &text).expect_err(&name);
        let told = listed(&problems) + "\n";
        assert!(!told.contains("hunter2"), "a value from the environment is shown:\n{told}");
        let expected = path.with_extension("txt");
        if std::env::var_os("ROLLCALL_BLESS").is_some() {
            std::fs::write(&expected, &told).expect("writable");
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(told, expected, "{name}");
    }
    assert!(seen >= 7, "only {seen} fixtures");
}

#[test]
fn the_environment_completes_and_overrides_the_file() {
    let env = [
        ("PORT", "7777"),
        ("ROLLCALL_SERVER__MAX_BODY", "2MiB"),
        ("ROLLCALL_HEARTBEAT__INTERVAL", "10s"),
        ("ROLLCALL_SERVER", "http://elsewhere"),
    ];
    let text = "server: { listen: '127.0.0.1:${PORT}', max_body: 1KiB }\nworkers:\n  - { name: 'w-${WHERE:-here}' }\n";
    let config = source(&env).parse("c", text).expect("right");
    assert_eq!(config.server.listen.port(), 7777);
    assert_eq!(config.server.max_body, 2 << 20);
    assert_eq!(config.topology.settings.lease, Duration::from_secs(40));
    assert!(config.topology.workers.contains_key("w-here"));
}

#[test]
fn a_wrong_override_names_itself() {
    let env = [
        ("ROLLCALL_QUEUE__MAX_DEPT", "1"),
        ("ROLLCALL_HEALT__X", "1"),
        ("ROLLCALL_RETRY__MAX_ATTEMPTS", "many"),
    ];
    let problems = source(&env).parse("c", "workers: []").expect_err("wrong");
    let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        told,
        [
            "environment: healt: there is no section healt that ROLLCALL_HEALT__X could override; did you mean health?",
            "environment: queue.max_dept: there is no such field; did you mean `max_depth`?",
            "environment: retry.max_attempts: the value put in from outside is not a whole number from 1 to 100",
        ]
    );
}

#[test]
fn every_worker_becomes_its_mock_twin_on_request() {
    let text = "workers:\n  - { name: a, endpoint: 'ws://127.0.0.1:1', capabilities: [x], launch: { command: [none-such] } }\n";
    let config = source(&[("ROLLCALL_WORKER_INTERFACE", "mock")]).parse("c", text).expect("right");
    let worker = &config.topology.workers["a"];
    assert_eq!((worker.interface, &worker.launch), (InterfaceKind::Mock, &None));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let real = source(&[("ROLLCALL_WORKER_INTERFACE", "real")]).parse("c", text).expect("right");
    assert_eq!(real.topology.workers["a"].interface, InterfaceKind::Websocket);
    let wrong = source(&[("ROLLCALL_WORKER_INTERFACE", "fake")]).parse("c", text).expect_err("wrong");
    assert_eq!(
        wrong[0].to_string(),
        "environment: ROLLCALL_WORKER_INTERFACE: \"fake\" is not one of mock, real"
    );
}

#[test]
fn programs_are_found_by_path_and_missing_ones_are_warned_of() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("tool"), "").expect("writable");
    let path = folder.path().to_str().expect("unicode").to_owned();
    let source = Source::new(folder.path().join("config.yaml"), [("PATH", path)].into_iter().collect());
    let text = "workers:\n  - { name: a, launch: { command: [tool] } }\n  - { name: b, launch: { command: [./tool, x] } }\n  - { name: c, launch: { command: [none] } }\n";
    let config = source.parse("c", text).expect("right");
    let command =
        |name: &str| config.topology.workers[name].launch.as_ref().expect("launched").command.clone();
    let tool = folder.path().join("tool").display().to_string();
    assert_eq!(command("a"), [tool.as_str()]);
    assert_eq!(command("b"), [tool.as_str(), "x"]);
    assert_eq!(command("c"), ["none"]);
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn a_short_lease_and_a_useless_former_name_are_warned_of() {
    assert_eq!(
        warnings("heartbeat: { lease: 80s }\nworkers:\n  - name: a\n  - { name: b, formerly: a }\n"),
        [
            "config.yaml:1:21: heartbeat.lease: 80s is short: below 2.5 intervals and 15s (90s) a worker that only lost its connection may lose its tasks too",
            "config.yaml:4:26: workers[1].formerly: has no effect while workers[0] is still called \"a\"",
        ]
    );
}

#[test]
fn the_same_slip_everywhere_is_told_a_hundred_times_and_then_counted() {
    let text = "workers:\n".to_owned() + &"  - { nam: x }\n".repeat(1_000);
    let told = problems(&text);
    assert_eq!(told.len(), 101);
    assert_eq!(told[100], "config.yaml: has 1900 more problems; mend these first");
}

#[test]
fn the_hash_is_of_what_the_file_says_not_of_how() {
    let hash = |text: &str| parse(text).expect("right").hash;
    let plain = hash("workers:\n  - name: a\n    slots: 4\n");
    assert_eq!(plain, hash("# hello\nworkers: [{slots: 4, name: 'a'}]"));
    assert_ne!(plain, hash("workers:\n  - name: a\n    slots: 5\n"));
    assert_eq!(plain.len(), 12);
}

#[test]
fn the_fingerprint_covers_the_files_that_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
    write("config.yaml", "workers:\n  - { name: '${file:name.txt}' }\n");
    write("name.txt", "ann\n");
    let source = Source::new(folder.path().join("config.yaml"), Env::default());
    let first = source.load().expect("right");
    assert!(first.config.topology.workers.contains_key("ann"));
    assert_eq!(source.fingerprint(), first.fingerprint);
    write("name.txt", "bob\n");
    assert_ne!(source.fingerprint(), first.fingerprint);
    std::fs::remove_file(folder.path().join("config.yaml")).expect("removable");
    let gone = source.load().expect_err("it is gone");
    assert_eq!(gone.kind, LoadErrorKind::Unreadable);
    assert_eq!(source.fingerprint(), gone.fingerprint);
}

#[test]
fn a_worker_given_as_json_obeys_the_same_rules() {
    let read = |json| worker_from_json(&json, &Env::default());
    let (worker, _) =
        read(serde_json::json!({ "name": "a", "endpoint": "ws://127.0.0.1:1", "slots": 2 })).expect("right");
    assert_eq!((worker.origin, worker.slots), (Origin::Api, Some(2)));
    let told = |json| listed(&read(json).expect_err("wrong"));
    assert_eq!(told(serde_json::json!({ "name": "${HOME}" })).lines().count(), 1);
    assert_eq!(
        told(serde_json::json!({ "nme": 1, "slots": "x" })),
        "request: nme: there is no such field; did you mean `name`?\n\
         request: slots: \"x\" is not a whole number from 1 to 1024\n\
         request: name: is missing; it must be given"
    );
    assert_eq!(
        told(serde_json::json!({ "name": "a", "launch": { "command": ["sh"] } })),
        "request: launch: only the file may name programs to launch"
    );
    let (_, shown) = read(serde_json::json!({ "name": "a", "token": "0123456789abcdef" })).expect("right");
    assert_eq!(shown.token.map(|token| token.reveal().to_owned()).as_deref(), Some("0123456789abcdef"));
    let with_files =
        serde_json::json!({ "name": "a", "endpoint": "wss://b", "tls": { "ca": "/etc/shadow" } });
    assert_eq!(told(with_files), "request: tls: only the file may name certificates");
    assert_eq!(told(serde_json::json!([])), "request: a list is not a mapping, such as `field: value`");
}

#[test]
fn secrets_are_in_no_debug_output() {
    let env = [("TOKEN", "hunter2")];
    let text = "workers:\n  - { name: a, launch: { command: [sh], env: { TOKEN: '${TOKEN}' } } }\n";
    let source = source(&env);
    let config = source.parse("c", text).expect("right");
    assert_eq!(config.topology.workers["a"].launch.as_ref().expect("launched").env["TOKEN"], "hunter2");
    assert!(!format!("{config:?} {source:?}").contains("hunter2"));
}

/// Defaults in the schema are what an empty document gets, so each description is checked as well.
#[test]
fn the_schema_names_every_field_with_its_meaning() {
    fn walk(schema: &serde_json::Value, path: &str, seen: &mut usize) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(field["description"].as_str().is_some_and(|text| text.len() > 5), "{path}");
            *seen += 1;
            walk(field, &path, seen);
            walk(&field["items"], &path, seen);
        }
    }
    let schema = schema();
    let mut seen = 0;
    walk(&schema, "", &mut seen);
    assert!(seen > 50, "{seen}");
    assert_eq!(schema["properties"]["heartbeat"]["properties"]["interval"]["default"], "30s");
    assert_eq!(schema["properties"]["workers"]["items"]["required"], serde_json::json!(["name"]));
    assert_eq!(schema["required"], serde_json::json!(["workers"]));
}

/// About a quarter of a second in a release build, nearly all of it in the parser. The bound is
/// generous, for test machines are busy; it is there to catch what grows with the square.
#[test]
fn ten_thousand_workers_are_read_checked_and_compared() {
    let text = ten_thousand();
    let began = std::time::Instant::now();
    let config = parse(&text).expect("right");
    let mut changed = config.topology.clone();
    let mut one = (*changed.workers["worker-5000"]).clone();
    one.slots = Some(8);
    changed.workers.insert(one.name.clone(), Arc::new(one));
    let plan = plan(&config.topology, &changed, None);
    assert_eq!(plan.summary, "generation 1: ~worker-5000 slots 4→8, 9999 unchanged");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

fn ten_thousand() -> String {
    let mut text = "workers:\n".to_owned();
    for n in 0..10_000 {
        let (port, host) = (3000 + n % 1000, n / 1000 + 1);
        text.push_str(&format!(
            "  - name: worker-{n}\n    interface: websocket\n    endpoint: ws://127.0.0.{host}:{port}\n    capabilities: [python.execute, command.execute, \"files.*\"]\n    slots: 4\n    timeout: 300s\n    labels: {{ cloud: local, region: local, zone: a }}\n"
        ));
    }
    text
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let source = Source::new(Path::new("/etc/rollcall/config.yaml"), Env::default());
    let config = source.parse("c", "server: { data_dir: ./d }\nworkers: []").expect("right");
    assert_eq!(config.server.data_dir, Path::new("/etc/rollcall/d"));
    let config = source.parse("c", "server: { data_dir: /var/d }\nworkers: []").expect("right");
    assert_eq!(config.server.data_dir, Path::new("/var/d"));
}
