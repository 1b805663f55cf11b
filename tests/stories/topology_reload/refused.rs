//! Files that a reload does not take, and how it says so.

use hyper::Method;
use rollcall::client::Request;
use serde_json::{Value, json};

use super::{entry, file, generation, link, reload_fails, rename_over};
use crate::support::Server;
use crate::support::counting::{CountingWorker, Runs};

#[tokio::test]
async fn a_mistake_is_answered_with_its_place() {
    let runs = Runs::new();
    let ann = CountingWorker::listen("ann", &runs).await;
    let text = file(&[entry("ann", &ann, 1)]);
    let server = Server::start(&text);
    server.worker_is("ann", "ready").await;
    let (before, ann_link) = (generation(&server).await, link(&server, "ann").await);
    let wrong = "workers:\n  - name: ann\n    slotz: 2\n  - name: ann\n    endpoint: http://nowhere\n";
    std::fs::write(server.config_file(), wrong).expect("it can be written");
    let (status, problem) = server.post("/-/reload", "").await;
    assert_eq!((status, &problem["code"]), (422, &json!("topology_invalid")), "{problem}");
    let told = problem["detail"].as_str().expect("text");
    let problems = problem["problems"].as_array().expect("a list");
    assert!(problems.len() >= 3, "all at once: {problem}");
    for (place, path) in [((3, 5), "workers[0].slotz"), ((5, 15), "workers[1].endpoint")] {
        let found = problems.iter().find(|found| found["path"] == path);
        let found = found.unwrap_or_else(|| panic!("{path} in {problem}"));
        assert_eq!((&found["line"], &found["column"]), (&json!(place.0), &json!(place.1)), "{found}");
        assert!(found["file"].as_str().is_some_and(|file| file.ends_with("config.yaml")), "{found}");
        assert!(told.contains(&format!("config.yaml:{}:{}: {path}", place.0, place.1)), "{told}");
        assert!(found["snippet"].as_str().is_some_and(|text| text.contains('^')), "{found}");
    }
    assert!(told.contains("slots"), "the nearest known name: {told}");
    assert_eq!((generation(&server).await, link(&server, "ann").await), (before, ann_link.clone()));

    std::fs::write(server.config_file(), text).expect("it can be written");
    let (status, answer) = server.post("/-/reload", "").await;
    assert_eq!((status, &answer["unchanged"]), (200, &json!(true)), "{answer}");
    assert_eq!((generation(&server).await, link(&server, "ann").await), (before, ann_link));
}

#[tokio::test]
async fn what_takes_a_restart_is_named_by_its_field() {
    let server = Server::start("server: { listen: 127.0.0.1:7600 }\nworkers: []\n");
    std::fs::write(server.config_file(), "server: { listen: 127.0.0.1:7666 }\nworkers: []\n")
        .expect("it can be written");
    let (status, problem) = server.post("/-/reload", "").await;
    assert_eq!((status, &problem["code"]), (422, &json!("topology_needs_restart")), "{problem}");
    let first = &problem["problems"][0];
    assert_eq!((&first["path"], &first["line"]), (&json!("server.listen"), &json!(1)), "{problem}");
}

#[tokio::test]
async fn a_file_that_removes_most_of_the_fleet_needs_a_word() {
    let entry = |name: &str| format!("  - {{ name: {name}, interface: mock, capabilities: [{name}] }}\n");
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let server = Server::start(&file(&names.map(entry)));
    for name in names {
        server.worker_is(name, "ready").await;
    }
    let (before, a_link) = (generation(&server).await, link(&server, "a").await);
    rename_over(&server, &file(&names[..3].iter().map(|name| entry(name)).collect::<Vec<_>>()));
    let problems = reload_fails(&server).await;
    assert!(problems.to_string().contains("removes 5 of 8 workers"), "{problems}");
    let (status, problem) = server.post("/-/reload", "").await;
    assert_eq!((status, &problem["code"]), (422, &json!("topology_mass_removal")), "{problem}");
    assert_eq!(generation(&server).await, before);
    for name in names {
        server.worker_is(name, "ready").await;
    }
    let (status, answer) = server.post("/-/reload?allow_mass_removal=true", "").await;
    assert_eq!((status, &answer["generation"]), (200, &json!(before + 1)), "{answer}");
    let removed = answer["diff"]["removed"].as_array().expect("a list");
    assert_eq!(removed.len(), 5, "{answer}");
    assert_eq!(link(&server, "a").await, a_link);
    let answer = server.send(Request::new(Method::GET, "/v1/topology")).await;
    let topology: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(topology["workers"].as_array().map(Vec::len), Some(3), "{topology}");
}
