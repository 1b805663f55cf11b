//! The agent with mock workers.

use serde_json::json;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn mock(name: &str, rest: &str) -> String {
    format!("workers:\n  - name: {name}\n    interface: mock\n    capabilities: [echo]\n{rest}")
}

async fn ready(yaml: String) -> ExecutorAgent {
    let agent = ExecutorAgent::from_yaml(yaml).await.expect("it starts");
    agent.ready(PATIENCE).await.expect("mocks are ready soon");
    agent
}

#[tokio::test]
async fn a_task_comes_back_with_what_its_worker_returned() {
    let agent = ready(mock("ann", "")).await;
    let outcome = agent.execute(Task::new("echo").input(json!({"n": 7}))).await.expect("it succeeds");
    assert_eq!((outcome.state, outcome.worker.as_deref()), (TaskState::Succeeded, Some("ann")));
    assert_eq!(
        outcome.output_as::<std::collections::BTreeMap<String, u8>>().ok(),
        Some([("n".into(), 7)].into())
    );
    assert_eq!(agent.workers().len(), 1);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_task_that_fails_is_an_error_with_its_outcome() {
    let agent = ready(mock("ann", "    mock: {failure_rate: 1.0}\n")).await;
    let failed = agent.execute(Task::new("echo").max_attempts(1)).await;
    let Err(ExecuteError::Failed(outcome)) = failed else { panic!("{failed:?}") };
    assert_eq!((outcome.state, outcome.attempts), (TaskState::Failed, 1));
    assert!(outcome.error.is_some());
    agent.shutdown().await;
}

#[tokio::test]
async fn a_capability_that_nobody_offers_is_refused_at_once() {
    let agent = ready(mock("ann", "")).await;
    let refused = agent.execute(Task::new("ecko")).await.map_err(|error| error.to_string());
    assert_eq!(refused, Err("no worker could ever offer ecko; did you mean echo?".to_owned()));
    agent.shutdown().await;
}

#[tokio::test]
async fn all_that_is_wrong_with_the_text_is_told() {
    let refused = ExecutorAgent::from_yaml("workers:\n  - nam: x\n    interface: mokc\n").await;
    let Err(StartError::Config(problems)) = refused else { panic!("{refused:?}") };
    assert!(problems.len() >= 2, "{problems:?}");
}

#[tokio::test]
async fn a_worker_that_does_not_come_is_named() {
    let yaml = "workers:\n  - name: ann\n    interface: websocket\n    endpoint: ws://127.0.0.1:9\n";
    let agent = ExecutorAgent::from_yaml(yaml).await.expect("it starts");
    let missing = agent.ready(Duration::from_millis(50)).await.expect_err("nobody listens there");
    assert!(missing.to_string().contains("ann is "), "{missing}");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_real_worker_becomes_its_mock_by_one_variable() {
    let yaml = "workers:\n  - name: ann\n    interface: websocket\n    endpoint: ws://127.0.0.1:9\n    \
                capabilities: [echo]\n";
    let builder = ExecutorAgent::builder_of_yaml(yaml).env([("ROLLCALL_WORKER_INTERFACE", "mock")]);
    let agent = builder.start().await.expect("it starts");
    agent.ready(PATIENCE).await.expect("mocks are ready soon");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_worker_added_to_the_file_takes_tasks() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, mock("ann", "")).expect("the folder can be written");
    let agent = ExecutorAgent::from_config_file(&file).await.expect("it starts");
    let more = "  - name: bob\n    interface: mock\n    capabilities: [other]\n";
    std::fs::write(&file, mock("ann", more)).expect("the folder can be written");
    let began = std::time::Instant::now();
    while agent.workers().len() < 2 {
        assert!(began.elapsed() < PATIENCE, "the file's change was not seen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.ready(PATIENCE).await.expect("mocks are ready soon");
    assert!(agent.execute(Task::new("other")).await.is_ok());
    agent.shutdown().await;
}
