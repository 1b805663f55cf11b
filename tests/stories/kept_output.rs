//! What tasks said and made is there after their end, and after the server's.

use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rollcall::client::{Client, Request, ServerEvent};
use rollcall_worker_sdk as sdk;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::asking::{data, rest, states};
use crate::support::eventually;
use crate::support::program::Server;

/// A worker on the story's own runtime, which outlives servers.
struct Talker {
    endpoint: String,
    /// Lets those end that wait for it.
    gate: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Talker {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = format!("ws://{}", listener.local_addr().expect("it is bound"));
        let (gate, opened) = watch::channel(false);
        let worker = sdk::Worker::builder("talker")
            .capability(sdk::Capability::new("talk"), move |task, context| {
                talk(task, context, opened.clone())
            })
            .build();
        let stop = CancellationToken::new();
        let until = stop.clone();
        // Ends by its guard, at the latest with the runtime.
        drop(tokio::spawn(async move { worker.serve(listener, Default::default(), until).await }));
        Self { endpoint, gate, _stop: stop.drop_guard() }
    }

    fn fleet(&self) -> String {
        format!("workers: [{{ name: ann, endpoint: \"{}\" }}]\n", self.endpoint)
    }
}

async fn talk(task: sdk::Task, context: sdk::TaskContext, mut gate: watch::Receiver<bool>) -> sdk::TaskEnd {
    let input: Value = serde_json::from_str(task.input.get()).expect("JSON");
    for word in input["say"].as_array().into_iter().flatten() {
        context.output(sdk::Stream::Stdout, word.as_str().unwrap_or_default());
    }
    if let Some(text) = input["make"].as_str()
        && let Err(error) = context.artifact("made.txt", "text/plain", text.to_owned()).await
    {
        return sdk::TaskEnd::failed(error);
    }
    if input["hold"] == true {
        tokio::select! {
            // Closed only with the story.
            _ = gate.wait_for(|open| *open) => {}
            reason = context.cancelled() => return match reason {
                sdk::CancelReason::Timeout => sdk::TaskEnd::timed_out(),
                _ => sdk::TaskEnd::cancelled(),
            },
        }
    }
    sdk::TaskEnd::succeeded(&())
}

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a folder can be made"))
}

fn client(server: &Server) -> Client {
    Client::new(server.base()).expect("an address")
}

async fn submit(client: &Client, task: Value) -> String {
    let request = Request::new(hyper::Method::POST, "/v1/tasks").body(task.to_string());
    let task: Value = client.send(request).await.expect("an answer").json().expect("accepted");
    task["id"].as_str().expect("an id").to_owned()
}

async fn is(client: &Client, id: &str, state: &str) -> Value {
    eventually(&format!("{id} is {state}"), async || {
        let task: Value = client.get(&format!("/v1/tasks/{id}")).await.map_err(|error| error.to_string())?;
        if task["state"] == state { Ok(task) } else { Err(task.to_string()) }
    })
    .await
}

async fn story(client: &Client, id: &str, last: Option<&str>) -> Vec<ServerEvent> {
    let events = client.events(&format!("/v1/tasks/{id}/events"), last).await;
    rest(&mut events.expect("a stream")).await
}

fn said(events: &[ServerEvent]) -> String {
    let output = events.iter().filter(|event| event.event == "output").map(data);
    output.map(|data| data["data"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Id, kind and data of each.
fn told(events: &[ServerEvent]) -> Vec<(Option<&str>, &str, Value)> {
    events.iter().map(|event| (event.id.as_deref(), event.event.as_str(), data(event))).collect()
}

#[tokio::test]
async fn a_killed_server_tells_the_same_story_again_from_wherever_a_watcher_was() {
    let (talker, folder) = (Talker::listen().await, folder());
    let mut first = Server::start_in(&folder, &talker.fleet(), &[]);
    let asked = client(&first);
    let task = json!({ "capability": "talk", "input": { "say": ["one\n", "two\n"], "hold": true } });
    let id = submit(&asked, task).await;
    is(&asked, &id, "running").await;
    let live = client(&first);
    let watcher = tokio::spawn({
        let id = id.clone();
        async move { story(&live, &id, None).await }
    });
    talker.gate.send_replace(true);
    let before = watcher.await.expect("it is told to the end");
    assert_eq!(states(&before).last().map(String::as_str), Some("succeeded"));
    assert_eq!(said(&before), "one\ntwo\n");
    is(&asked, &id, "succeeded").await;
    first.signal(Signal::SIGKILL);
    first.ended();

    let second = Server::start_in(&folder, &talker.fleet(), &[]);
    let asked = client(&second);
    let again = story(&asked, &id, None).await;
    assert_eq!(told(&again), told(&before));
    let middle = before[1].id.as_deref();
    assert_eq!(told(&story(&asked, &id, middle).await), told(&before[2..]));
    let foreign = story(&asked, &id, Some("77-1")).await;
    assert_eq!((foreign[0].event.as_str(), &data(&foreign[0])["state"]), ("reset", &json!("succeeded")));
    assert_eq!(told(&foreign[1..]), told(&before));
    assert_eq!(second.says(&["tasks", "logs", &id]), "one\ntwo\n");
}

#[tokio::test]
async fn what_a_stopped_task_had_said_is_kept() {
    let (talker, folder) = (Talker::listen().await, folder());
    let mut first = Server::start_in(&folder, &talker.fleet(), &[]);
    let asked = client(&first);
    let holds = |say: &str| json!({ "say": [say], "hold": true });
    let cancelled = submit(&asked, json!({ "capability": "talk", "input": holds("until cancelled") })).await;
    let late =
        json!({ "capability": "talk", "input": holds("until it was late"), "execution_timeout": "300ms" });
    let late = submit(&asked, late).await;
    is(&asked, &late, "timed_out").await;
    is(&asked, &cancelled, "running").await;
    let cancel = Request::new(hyper::Method::POST, format!("/v1/tasks/{cancelled}/cancel"));
    asked.send(cancel).await.expect("an answer");
    is(&asked, &cancelled, "cancelled").await;
    first.signal(Signal::SIGKILL);
    first.ended();

    let second = Server::start_in(&folder, &talker.fleet(), &[]);
    let asked = client(&second);
    for (id, text, end) in
        [(&cancelled, "until cancelled", "cancelled"), (&late, "until it was late", "timed_out")]
    {
        let story = story(&asked, id, None).await;
        assert_eq!((said(&story).as_str(), states(&story).last().map(String::as_str)), (text, Some(end)));
    }
}

#[tokio::test]
async fn a_file_made_before_the_server_was_killed_is_in_the_result_after() {
    let (talker, folder) = (Talker::listen().await, folder());
    let mut first = Server::start_in(&folder, &talker.fleet(), &[]);
    let asked = client(&first);
    let task = json!({ "capability": "talk", "input": { "make": "some text", "hold": true } });
    let id = submit(&asked, task).await;
    let note = first.data().join("artifacts/default/open").join(&id);
    eventually("the file is stored", async || {
        if Path::new(&note).exists() { Ok(()) } else { Err(format!("no {}", note.display())) }
    })
    .await;
    first.signal(Signal::SIGKILL);
    first.ended();

    let second = Server::start_in(&folder, &talker.fleet(), &[]);
    let asked = client(&second);
    is(&asked, &id, "running").await;
    talker.gate.send_replace(true);
    let ended = is(&asked, &id, "succeeded").await;
    assert_eq!(ended["artifacts"][0]["name"], "made.txt", "{ended}");
    assert_eq!(ended["attempts"].as_array().map(Vec::len), Some(1), "{ended}");
    let made = Request::new(hyper::Method::GET, format!("/v1/tasks/{id}/artifacts/made.txt"));
    assert_eq!(asked.send(made).await.expect("an answer").body, "some text");
}
