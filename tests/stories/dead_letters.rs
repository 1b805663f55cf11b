//! Tasks that used up their attempts are set aside, and leave that place when somebody runs them
//! again.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::asking::path;
use crate::support::{Server, eventually};

/// One worker that fails each task, and one that does what it is asked.
const WORKERS: &str = "
retry: { max_attempts: 2, initial_interval: 10ms }
workers:
  - { name: bad, interface: mock, capabilities: [bad], mock: { failure_rate: 1.0 } }
  - { name: echo, interface: mock, capabilities: [echo] }
";

async fn dead_letters(server: &Server) -> Vec<Value> {
    let listed = server.get("/v1/tasks?dead_letter=true").await;
    listed["items"].as_array().expect("a list").iter().map(|task| task["id"].clone()).collect()
}

/// Waits until these, newest first, are the dead letters.
async fn dead_letters_are(server: &Server, expected: &[&Value]) {
    let expected: Vec<Value> = expected.iter().map(|task| task["id"].clone()).collect();
    eventually("the dead letters are listed", async || {
        let listed = dead_letters(server).await;
        if listed == expected { Ok(()) } else { Err(format!("{listed:?} instead of {expected:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_is_listed_until_it_is_retried() {
    let server = Server::start(WORKERS);
    let fine = server.submit("echo", json!(1)).await;
    let task = server.submit("bad", json!({ "n": 1 })).await;
    let ended = server.task_is(&task, "failed").await;
    assert_eq!((&ended["dead_letter"], ended["attempts"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    server.task_is(&fine, "succeeded").await;
    dead_letters_are(&server, &[&task]).await;

    let (status, again) = server.post(&format!("{}/retry", path(&task)), "").await;
    assert_eq!((status, &again["retry_of"]), (202, &task["id"]), "{again}");
    let old = server.task(&task).await;
    assert_eq!((&old["dead_letter"], &old["state"]), (&json!(false), &json!("failed")));
    assert_eq!(old["attempts"], ended["attempts"], "its story stays");
    server.task_is(&again, "failed").await;
    dead_letters_are(&server, &[&again]).await;
}

#[tokio::test]
async fn the_command_line_lists_shows_and_retries_dead_letters() {
    let server = Server::start(WORKERS);
    let (one, other) = (server.submit("bad", json!(1)).await, server.submit("bad", json!(2)).await);
    for task in [&one, &other] {
        server.task_is(task, "failed").await;
    }
    dead_letters_are(&server, &[&other, &one]).await;
    let rollcall = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
        command.args(arguments).args(["--server", server.base_url()]);
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let id = |task: &Value| task["id"].as_str().expect("an id").to_owned();
    let listed = rollcall(&["tasks", "ls", "--dead-letter"]).await;
    assert!(listed.contains(&id(&one)) && listed.contains(&id(&other)), "{listed}");
    let shown = rollcall(&["tasks", "get", &id(&one)]).await;
    let attempts = server.task(&one).await["attempts"].clone();
    for part in ["dead letter", "mock_failure", &attempts[1]["epoch"].to_string()] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let retried = rollcall(&["tasks", "retry", &id(&one), &id(&other)]).await;
    assert!(retried.contains(&id(&one)) && retried.contains(&id(&other)), "{retried}");
    eventually("two others are dead letters", async || {
        let listed = dead_letters(&server).await;
        let others = listed.len() == 2 && !listed.contains(&one["id"]) && !listed.contains(&other["id"]);
        if others { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
}
