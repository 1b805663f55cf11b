//! The pages as a whole: what is on them from the first scrape, what vanishes, and that Prometheus's
//! own tool has nothing to say about them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::catalogue::{self as c, FAMILIES, Kind, Values};
use super::*;
use crate::fleet::*;
use crate::interface::LinkMeter;

mod soak;

/// `/metrics` of a server without tasks and workers.
pub(super) fn page(metrics: &Metrics) -> String {
    page_of(metrics, &FleetStats::default(), &[])
}

fn page_of(metrics: &Metrics, stats: &FleetStats, workers: &[Arc<WorkerView>]) -> String {
    metrics.render(&Scrape {
        stats,
        dead_letters: Some(&BTreeMap::new()),
        workers,
        lifecycle: "ready",
        config: &ConfigFacts::default(),
    })
}

fn spec(name: &str, pool: Option<&str>, capabilities: &[&str]) -> (WorkerName, Arc<WorkerSpec>) {
    let spec = WorkerSpec {
        name: name.into(),
        formerly: None,
        origin: Origin::File,
        pool: pool.map(PoolName::from),
        interface: InterfaceKind::Mock,
        endpoint: None,
        capabilities: Some(capabilities.iter().copied().map(Capability::from).collect()),
        slots: Some(4),
        timeout: Duration::from_secs(60),
        labels: BTreeMap::new(),
        launch: None,
        mock: MockSpec::default(),
    };
    (name.into(), Arc::new(spec))
}

fn topology(workers: impl IntoIterator<Item = (WorkerName, Arc<WorkerSpec>)>) -> Topology {
    Topology { workers: workers.into_iter().collect(), ..Topology::default() }
}

fn view(name: &str, pool: Option<&str>) -> Arc<WorkerView> {
    Arc::new(WorkerView {
        name: name.into(),
        pool: pool.map(PoolName::from),
        origin: Origin::File,
        state: WorkerState::Ready,
        reason: None,
        endpoint: None,
        launched: false,
        mock: true,
        instance: None,
        connection: Some(ConnId(1)),
        kind: None,
        version: Some("1.2.3".into()),
        isolation: None,
        metrics: None,
        capabilities: Arc::from([]),
        has_registered: true,
        slots_total: 4,
        slots_used: 1,
        slots_unavailable: 1,
        labels: BTreeMap::from([(Arc::from("zone"), Arc::from("a\"b"))]),
        last_heartbeat: Some(Wall(1_700_000_000_500)),
        connected_at: Some(Wall(1_700_000_000_000)),
        reconnects: 2,
        next_attempt_at: None,
        last_error: None,
        health: HealthView::default(),
        attempts_ok: 7,
        attempts_error: 1,
    })
}

fn samples(page: &str) -> BTreeMap<&str, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            (series, value.parse().expect("a sample is a number"))
        })
        .collect()
}

fn submitted(capability: &str, outcome: &'static str) -> Note {
    Note::Submitted { capability: capability.into(), source: Source::Rest, outcome }
}

fn attempt(capability: &str, pool: &str) -> Note {
    Note::AttemptEnded {
        task: TaskId(1),
        capability: capability.into(),
        worker: "w".into(),
        pool: Some(pool.into()),
        outcome: AttemptOutcome::Succeeded,
        execution: Some(Duration::from_millis(30)),
    }
}

/// What Prometheus's own tool says about a page: nothing, if all is well.
fn promtool(page: &str) -> String {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing; `make setup` installs it (Debian's package `prometheus`)");
    tool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("promtool reads its input");
    let said = tool.wait_with_output().expect("promtool ends");
    format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr))
}

#[test]
fn promtool_finds_nothing_to_say_about_either_page() {
    let metrics = Metrics::default();
    metrics.topology_applied(&topology([
        spec("a", None, &["python.execute", "files.*"]),
        spec("p-1", Some("p"), &["browser.open"]),
    ]));
    metrics.http_route("GET", "/v1/tasks/{id}", &[200, 404]);
    metrics.http_request("POST", "/v1/tasks", 202, Some(Duration::from_millis(2)));
    metrics.note(&submitted("python.execute", "deduplicated"));
    metrics.note(&submitted("nobody.offers.this", "invalid"));
    metrics.note(&attempt("browser.open", "p"));
    metrics.message("in", "result", 200);
    metrics.rtt(&"a".into(), Duration::from_micros(300));
    let workers = [view("a", None), view("p-1", Some("p"))];
    let stats = FleetStats {
        capabilities: BTreeMap::from([(
            "files.read".into(),
            CapabilityStats { queued: 3, ..Default::default() },
        )]),
        ..FleetStats::default()
    };
    // Twice: the second page shows the cost of the first.
    for _ in 0..2 {
        assert_eq!(promtool(&page_of(&metrics, &stats, &workers)), "");
        assert_eq!(promtool(&metrics.render_workers(&workers)), "");
    }
}

#[test]
fn every_family_is_on_its_page_from_the_first_scrape_and_on_no_other() {
    let metrics = Metrics::default();
    let (tasks, workers) = (page(&metrics), metrics.render_workers(&[]));
    for family in FAMILIES {
        let head = format!("# TYPE {} {}\n", family.name, family.kind.as_str());
        let (own, other) = if family.is_per_worker() { (&workers, &tasks) } else { (&tasks, &workers) };
        assert_eq!(own.matches(&head).count(), 1, "{}", family.name);
        assert!(!other.contains(&head), "{}", family.name);
    }
    let heads = |page: &str| page.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(heads(&tasks) + heads(&workers), FAMILIES.len(), "a family that the catalogue lacks");
}

/// The page as its readers get it, to the letter: what changes here changes for everybody who scrapes.
#[test]
fn the_page_of_workers_is_what_it_was() {
    let metrics = Metrics::default();
    metrics.topology_applied(&topology([spec("p-1", Some("p"), &["browser.open"])]));
    let page = metrics.render_workers(&[view("p-1", Some("p"))]);
    let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with("# HELP")).collect();
    let expected = r#"# TYPE rollcall_worker_up gauge
rollcall_worker_up{worker="p-1",pool="p"} 1
# TYPE rollcall_worker_last_heartbeat_timestamp_seconds gauge
rollcall_worker_last_heartbeat_timestamp_seconds{worker="p-1",pool="p"} 1700000000.5
# TYPE rollcall_worker_running_tasks gauge
rollcall_worker_running_tasks{worker="p-1",pool="p"} 1
# TYPE rollcall_worker_capacity_slots gauge
rollcall_worker_capacity_slots{worker="p-1",pool="p"} 4
# TYPE rollcall_worker_reconnects_total counter
rollcall_worker_reconnects_total{worker="p-1",pool="p"} 2
# TYPE rollcall_worker_attempts_total counter
rollcall_worker_attempts_total{worker="p-1",pool="p",outcome="ok"} 7
rollcall_worker_attempts_total{worker="p-1",pool="p",outcome="error"} 1
# TYPE rollcall_worker_info gauge
rollcall_worker_info{worker="p-1",pool="p",version="1.2.3",protocol="mock",zone="a\"b"} 1"#;
    assert_eq!(samples.join("\n"), expected);
}

#[test]
fn names_follow_the_rules() {
    let mut seen = BTreeSet::new();
    for family in FAMILIES {
        let name = family.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.starts_with("rollcall_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
        assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{name}");
        if let Kind::Histogram(bounds) = family.kind {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{name}");
            let unit = ["_seconds", "_bytes", "_per_task", "_batch_tasks"];
            assert!(unit.iter().any(|unit| name.ends_with(unit)), "{name}");
        }
        for label in family.labels {
            assert!(
                !["task", "session", "url", "error", "le", "job", "instance"].contains(&label.name),
                "{name}"
            );
            assert!(label.name != "worker" || family.is_per_worker(), "{name}");
            if let Values::Words(words) = label.values {
                assert!(!words().is_empty(), "{name}");
            }
        }
    }
}

#[test]
fn what_the_topology_names_is_there_at_zero_and_vanishes_with_it() {
    let metrics = Metrics::default();
    let before = page(&metrics);
    let baseline: BTreeSet<&str> = samples(&before).into_keys().collect();

    metrics.topology_applied(&topology([
        spec("p-1", Some("p"), &["browser.open"]),
        spec("q-1", Some("q"), &["browser.open"]),
    ]));
    let with = page_of(&metrics, &FleetStats::default(), &[view("p-1", Some("p")), view("q-1", Some("q"))]);
    let with = samples(&with);
    assert!(!with.keys().any(|series| series.contains("static")), "there is no worker without a pool");
    for series in [
        "rollcall_task_submissions_total{capability=\"browser.open\",source=\"rest\",outcome=\"accepted\"}",
        "rollcall_tasks_completed_total{capability=\"browser.open\",outcome=\"succeeded\",fault=\"none\"}",
        "rollcall_task_attempts_total{capability=\"browser.open\",outcome=\"worker_lost\",pool=\"p\"}",
        "rollcall_task_latency_seconds_bucket{capability=\"browser.open\",le=\"+Inf\"}",
        "rollcall_queue_tasks{capability=\"browser.open\",state=\"delayed\"}",
        "rollcall_queue_oldest_age_seconds{capability=\"browser.open\"}",
        "rollcall_worker_connects_total{outcome=\"ok\",pool=\"q\"}",
        "rollcall_worker_heartbeat_lag_seconds_count{pool=\"q\"}",
        "rollcall_pool_reconnects_total{pool=\"p\"}",
    ] {
        assert_eq!(with.get(series), Some(&0.0), "{series}");
    }
    assert_eq!(with.get("rollcall_workers{pool=\"p\",state=\"ready\"}"), Some(&1.0));
    let slots =
        |state: &str| with.get(&*format!("rollcall_worker_slots{{pool=\"p\",state=\"{state}\"}}")).copied();
    assert_eq!([slots("used"), slots("free"), slots("unavailable")], [Some(1.0), Some(2.0), Some(1.0)]);

    // The pool goes while its worker still drains, and something is heard of it once more.
    metrics.note(&attempt("browser.open", "p"));
    metrics.topology_applied(&topology([spec("q-1", Some("q"), &["browser.open"])]));
    metrics.note(&attempt("browser.open", "p"));
    metrics.rtt(&"p-1".into(), Duration::from_millis(1));
    let views = [view("p-1", Some("p")), view("q-1", Some("q"))];
    for text in [page_of(&metrics, &FleetStats::default(), &views), metrics.render_workers(&views)] {
        assert!(!text.contains("pool=\"p\"") && !text.contains("p-1"), "a series of the removed pool");
        assert!(text.contains("pool=\"q\""));
    }

    metrics.topology_applied(&Topology::default());
    let after = page(&metrics);
    assert_eq!(samples(&after).into_keys().collect::<BTreeSet<_>>(), baseline);
}

#[test]
fn names_that_clients_send_make_no_series() {
    let metrics = Metrics::default();
    metrics.topology_applied(&topology([spec("a", None, &["python.execute"])]));
    let before = samples(&page(&metrics)).len();
    for n in 0..1_000 {
        metrics.note(&submitted(&format!("made.up.{n}"), "invalid"));
        metrics.note(&submitted(&format!("made.up.{n}"), "queue_full"));
        metrics.http_request(&format!("M{n}"), "(no route)", 404, None);
    }
    let page = page(&metrics);
    let after = samples(&page);
    assert!(after.len() < before + 150, "{} samples more", after.len() - before);
    let other = "rollcall_task_submissions_total{capability=\"other\",source=\"rest\",outcome=\"invalid\"}";
    assert_eq!(after.get(other), Some(&1_000.0));
    let overflow = "rollcall_metrics_label_overflow_total{metric=\"rollcall_task_submissions_total\"}";
    assert_eq!(after.get(overflow), Some(&2_000.0));
}

#[test]
fn beyond_two_hundred_names_the_rest_is_other_and_the_sums_stay_true() {
    let metrics = Metrics::default();
    metrics.topology_applied(&topology([spec("a", None, &["files.*"])]));
    let mut stats = FleetStats::default();
    for n in 0..1_000u64 {
        let name = Capability::from(format!("files.{n}"));
        metrics.note(&Note::Assigned { capability: name.clone(), wait: Duration::ZERO });
        let one = CapabilityStats {
            accepted: [n, 1, 0],
            completed: BTreeMap::from([((TaskState::Succeeded, Fault::None), n)]),
            running: 1,
            ..CapabilityStats::default()
        };
        stats.capabilities.insert(name, one);
    }
    let text = page_of(&metrics, &stats, &[]);
    assert_conserved(&text);
    let shown = samples(&text);
    assert_eq!(shown.get("rollcall_queue_tasks{capability=\"other\",state=\"running\"}"), Some(&800.0));
    let names = shown.keys().filter(|series| series.starts_with("rollcall_queue_oldest_age_seconds")).count();
    assert_eq!(names, 202, "and the probes have theirs");

    // The worker goes, and so do the names, but for one whose task still runs.
    metrics.topology_applied(&Topology::default());
    for (name, numbers) in &mut stats.capabilities {
        if name.as_str() != "files.7" {
            *numbers.completed.entry((TaskState::Lost, Fault::Worker)).or_default() += numbers.running;
            numbers.running = 0;
        }
    }
    let text = page_of(&metrics, &stats, &[]);
    assert_conserved(&text);
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("rollcall_queue_oldest_age_seconds{capability="))
        .collect();
    assert_eq!(names, ["\"_probe\"} 0", "\"files.7\"} 0", "\"other\"} 0"]);
}

/// Accepted less completed is what waits and runs.
fn assert_conserved(page: &str) {
    let sum = |name: &str, part: &str| -> f64 {
        let samples = samples(page);
        let series = samples.iter().filter(|(series, _)| series.starts_with(name) && series.contains(part));
        series.map(|(_, value)| value).sum()
    };
    let accepted = sum("rollcall_task_submissions_total", "outcome=\"accepted\"");
    let completed = sum("rollcall_tasks_completed_total", "");
    let alive = sum("rollcall_queue_tasks", "");
    assert!((accepted - completed - alive).abs() < 0.5, "{accepted} - {completed} != {alive}");
}

#[test]
fn ten_pools_and_twenty_capabilities_stay_within_the_budget() {
    let metrics = Metrics::default();
    let names: Vec<String> = (0..20).map(|n| format!("kind{n}.run")).collect();
    let workers = (0..100usize).map(|n| {
        let own = [names[n % 10 * 2].as_str(), names[n % 10 * 2 + 1].as_str()];
        spec(&format!("p{}-{n}", n % 10), Some(&format!("p{}", n % 10)), &own)
    });
    metrics.topology_applied(&topology(workers));
    for n in 0..30 {
        metrics.http_route("GET", &format!("/v1/route/{n}"), &[200, 404]);
    }
    let count = samples(&page(&metrics)).len();
    // The budget is about five thousand, and twice that must never be reached.
    assert!(count < 5_000, "{count} series");
}

#[test]
fn thresholds_that_promises_are_made_about_are_bucket_edges() {
    for (family, edge) in
        [(c::QUEUE_WAIT, 30.0), (c::HEARTBEAT_LAG, 30.0), (c::LATENCY, 30.0), (c::STORE_COMMIT, 0.1)]
    {
        let Kind::Histogram(bounds) = family.kind else { panic!("{} is a histogram", family.name) };
        assert!(bounds.contains(&edge), "{} has no bucket edge at {edge}", family.name);
    }
}

/// The page of ten thousand workers costs at most twice as much as writing its text.
#[test]
fn ten_thousand_workers_are_written_about_as_fast_as_text_can_be() {
    let metrics = Metrics::default();
    let names: Vec<String> = (0..10_000).map(|n| format!("worker-{n:05}")).collect();
    metrics.topology_applied(&topology(names.iter().map(|name| spec(name, Some("p"), &["a.b"]))));
    let views: Vec<_> = names.iter().map(|name| view(name, Some("p"))).collect();
    let page = metrics.render_workers(&views);
    assert_eq!(samples(&page).len(), 80_000);

    let plain = || plain_writing(&views, page.len());
    let ours = || metrics.render_workers(&views).len();
    // By the time that this thread was given, because the machine does other things too.
    let given = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("every Linux tells it");
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(u64::try_from(micros).expect("it does not run backwards"))
    };
    let timed = |run: &dyn Fn() -> usize| {
        let began = given();
        assert!(run() > 5_000_000);
        given() - began
    };
    let rounds: Vec<_> = (0..7).map(|_| (timed(&plain), timed(&ours))).collect();
    let plain = rounds.iter().map(|round| round.0).min().expect("rounds");
    let ours = rounds.iter().map(|round| round.1).min().expect("rounds");
    assert!(ours < plain * 2, "{ours:?} against {plain:?}");
}

/// The same samples, written in the plainest way there is.
fn plain_writing(views: &[Arc<WorkerView>], bytes: usize) -> usize {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes);
    for family in FAMILIES.iter().filter(|family| family.is_per_worker()) {
        let more: &[&str] = match family.name {
            "rollcall_worker_attempts_total" => &[",outcome=\"ok\"", ",outcome=\"error\""],
            "rollcall_worker_info" => &[",version=\"1.2.3\",protocol=\"mock\",zone=\"a\""],
            _ => &[""],
        };
        for view in views {
            for more in more {
                let (name, worker, value) = (family.name, &view.name, view.attempts_ok);
                writeln!(text, "{name}{{worker=\"{worker}\",pool=\"p\"{more}}} {value}").expect("a string");
            }
        }
    }
    text.len()
}
