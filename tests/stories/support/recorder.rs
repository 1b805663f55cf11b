//! A client that remembers, apart from the server, everything that it was told: which submissions
//! were acknowledged, under which ids, and with which results; and that holds the server to it.
//! What it was not told is indeterminate: by key it is asked for again, without one it is let be.

use std::collections::BTreeMap;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rollcall::client::{Client, ClientError, Request};
use serde_json::{Value, json};

use super::eventually;
use super::noting::NotingWorker;

/// A submission, known by the number in its input.
#[derive(Debug, Default)]
struct Asked {
    millis: u64,
    keyed: bool,
    /// What the server acknowledged.
    id: Option<String>,
    /// The final task as it was shown first.
    ended: Option<Value>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was acknowledged.
    Accepted,
    /// The server said that it did not take it.
    Refused,
    /// There is no answer.
    Nothing,
}

/// One client and its memory.
pub(crate) struct Recorder {
    asked: BTreeMap<u64, Asked>,
    next: u64,
    dice: SmallRng,
}

impl Recorder {
    /// One whose numbers begin there, and differ from those of others.
    pub(crate) fn new(first: u64, dice: SmallRng) -> Self {
        Self { asked: BTreeMap::new(), next: first, dice }
    }

    /// Asks for what was left open, then for new tasks, until an answer is lost.
    pub(crate) async fn submit_until_silence(&mut self, client: &Client) {
        if self.ask_again(client).await == Told::Nothing {
            return;
        }
        while self.submit(client).await != Told::Nothing {}
    }

    /// Asks once more for each keyed submission that has no answer.
    pub(crate) async fn ask_again(&mut self, client: &Client) -> Told {
        let open = self.asked.iter().filter(|(_, asked)| asked.keyed && asked.id.is_none());
        for number in open.map(|(number, _)| *number).collect::<Vec<_>>() {
            let told = self.ask(client, number, false).await;
            if told != Told::Accepted {
                return told;
            }
        }
        Told::Accepted
    }

    /// Submits a task: a kept one, a keyed one, a keyed one whose result is waited for, or one that
    /// was asked for before.
    pub(crate) async fn submit(&mut self, client: &Client) -> Told {
        let mut known = self.asked.iter().filter(|(_, asked)| asked.keyed && asked.id.is_some());
        let (number, wait) = match self.dice.random_range(0..10) {
            0 => match known.next_back().map(|(number, _)| *number) {
                Some(number) => (number, false),
                None => (self.add(true), false),
            },
            1 => (self.add(true), true),
            2..6 => (self.add(true), false),
            _ => (self.add(false), false),
        };
        self.ask(client, number, wait).await
    }

    fn add(&mut self, keyed: bool) -> u64 {
        let (number, millis) = (self.next, self.dice.random_range(0..20));
        self.next += 1;
        self.asked.insert(number, Asked { millis, keyed, ..Asked::default() });
        number
    }

    async fn ask(&mut self, client: &Client, number: u64, wait: bool) -> Told {
        let asked = self.asked.get_mut(&number).expect("it was added");
        let body = json!({ "capability": "note", "input": { "number": number, "millis": asked.millis } });
        let path = if wait { "/v1/tasks?wait=10s" } else { "/v1/tasks" };
        let mut request = Request::new(Method::POST, path).body(body.to_string());
        if asked.keyed {
            let key = HeaderValue::from_str(&format!("key-{number}")).expect("a header");
            request = request.header(HeaderName::from_static("idempotency-key"), key);
        }
        let answer = match client.send(request).await {
            Ok(answer) => answer,
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) => return Told::Nothing,
            Err(error) => panic!("no answer to {number}: {error}"),
        };
        let task: Value = serde_json::from_slice(&answer.body).expect("JSON");
        match answer.status.as_u16() {
            200 | 202 => {}
            503 => return Told::Refused,
            _ => panic!("an odd answer to {number}: {answer:?}"),
        }
        let id = task["id"].as_str().unwrap_or_else(|| panic!("no id: {task}"));
        if let Some(before) = &asked.id {
            assert_eq!((before.as_str(), answer.status.as_u16()), (id, 200), "a key names one task");
        }
        asked.id = Some(id.to_owned());
        asked.saw(&task);
        Told::Accepted
    }

    /// How many submissions were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.asked.values().filter(|asked| asked.id.is_some()).count()
    }

    /// Every acknowledged task is there, with the result that it was shown with, if it was.
    pub(crate) async fn finds_everything(&mut self, client: &Client) {
        for (number, asked) in &mut self.asked {
            let Some(id) = &asked.id else { continue };
            let task = client.get::<Value>(&format!("/v1/tasks/{id}")).await;
            let task =
                task.unwrap_or_else(|error| panic!("{number}, acknowledged as {id}, is gone: {error}"));
            asked.saw(&task);
        }
    }

    /// Every acknowledged task ends, with the result of one of its starts, and with the same one
    /// however often it is looked at.
    pub(crate) async fn sees_everything_end(&mut self, client: &Client, worker: &NotingWorker) {
        for (number, asked) in &mut self.asked {
            let Some(id) = asked.id.clone() else { continue };
            let path = format!("/v1/tasks/{id}");
            let task = eventually(&format!("the end of {number}, {id}"), async || {
                let task = client.get::<Value>(&path).await.map_err(|error| error.to_string())?;
                if task["finished_at"].is_null() { Err(task.to_string()) } else { Ok(task) }
            })
            .await;
            asked.saw(&task);
            assert_eq!(
                (&task["state"], &task["output"]["number"]),
                (&json!("succeeded"), &json!(number)),
                "{task}"
            );
            let start = task["output"]["start"].as_u64().and_then(|start| usize::try_from(start).ok());
            let starts = worker.starts();
            let (started, _) = &starts[start.expect("the worker says which start it was")];
            assert_eq!(*started, id, "{number} has another task's result: {task}");
        }
    }

    /// Whether this number was asked for, with or without an answer.
    pub(crate) fn asked_for(&self, number: u64) -> bool {
        self.asked.contains_key(&number)
    }
}

impl Asked {
    /// A final state never changes.
    fn saw(&mut self, task: &Value) {
        let Some(ended) = &self.ended else {
            if !task["finished_at"].is_null() {
                self.ended = Some(task.clone());
            }
            return;
        };
        for field in ["id", "state", "output", "error", "finished_at"] {
            assert_eq!(ended[field], task[field], "{field} changed: {ended} is now {task}");
        }
    }
}

/// No task came from nowhere, and none twice: lists every task that the server has.
pub(crate) async fn no_submission_made_two_tasks(client: &Client, recorders: &[Recorder]) {
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    let mut path = "/v1/tasks?limit=100".to_owned();
    loop {
        let page: Value = client.get(&path).await.expect("a list");
        for task in page["items"].as_array().expect("items") {
            let id = task["id"].as_str().expect("an id").to_owned();
            // The list need not show outputs; the task does.
            let task: Value = client.get(&format!("/v1/tasks/{id}")).await.expect("it is listed");
            let Some(number) = task["output"]["number"].as_u64() else { continue };
            assert!(recorders.iter().any(|it| it.asked_for(number)), "nobody asked for {task}");
            if let Some(other) = seen.insert(number, id.clone()) {
                panic!("{number} was asked for once, and made the tasks {other} and {id}");
            }
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/tasks?limit=100&cursor={cursor}");
    }
    let acknowledged = recorders.iter().map(Recorder::acknowledged).sum::<usize>();
    assert!(seen.len() >= acknowledged, "{} of {acknowledged} acknowledged tasks are listed", seen.len());
}
