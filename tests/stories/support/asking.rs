//! What stories ask a server again and again: tasks by their state, numbers of a scrape, and streams
//! of events read to their end.

use hyper::Method;
use rollcall::client::{Events, Request, ServerEvent};
use serde_json::{Value, json};

use super::{PATIENCE, Server, eventually};

impl Server {
    /// Submits a task without waiting for it.
    pub(crate) async fn submit(&self, capability: &str, input: Value) -> Value {
        self.submit_as(json!({ "capability": capability, "input": input })).await
    }

    /// The same, with everything that a task may say.
    pub(crate) async fn submit_as(&self, body: Value) -> Value {
        let (status, task) = self.post("/v1/tasks", body.to_string()).await;
        assert_eq!(status, 202, "{task}");
        task
    }

    /// The task as it is now.
    pub(crate) async fn task(&self, task: &Value) -> Value {
        self.get(&path(task)).await
    }

    /// Waits until a task shows this state.
    pub(crate) async fn task_is(&self, task: &Value, state: &str) -> Value {
        eventually(&format!("a task is {state}"), async || {
            let task = self.task(task).await;
            if task["state"] == state { Ok(task) } else { Err(task.to_string()) }
        })
        .await
    }

    /// Everything that is told of a task from now to its end.
    pub(crate) async fn story_of(&self, task: &Value) -> Vec<ServerEvent> {
        let path = format!("{}/events", path(task));
        rest(&mut self.client().events(&path, None).await.expect("a stream")).await
    }

    /// The sum of the samples of `/metrics` with this name and all of these labels; `None` when there
    /// is no such sample.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let answer = self.send(Request::new(Method::GET, "/metrics")).await;
        let page = String::from_utf8_lossy(&answer.body).into_owned();
        let samples = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, its_labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = found == name && labels.iter().all(|label| its_labels.contains(label));
            fits.then(|| value.parse::<f64>().expect("a sample is a number"))
        });
        samples.reduce(|sum, value| sum + value)
    }

    /// Waits until such a sum is at least this much.
    pub(crate) async fn metric_reaches(&self, name: &str, labels: &[&str], least: f64) {
        eventually(&format!("{name} {labels:?} is at least {least}"), async || {
            match self.metric(name, labels).await {
                Some(value) if value >= least => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await;
    }
}

/// Where a task is.
pub(crate) fn path(task: &Value) -> String {
    format!("/v1/tasks/{}", task["id"].as_str().expect("a task has an id"))
}

/// An event's data.
pub(crate) fn data(event: &ServerEvent) -> Value {
    serde_json::from_str(&event.data).expect("an event's data is JSON")
}

/// The next event.
pub(crate) async fn next(events: &mut Events) -> Option<ServerEvent> {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream is whole")
}

/// Every event until the stream ends.
pub(crate) async fn rest(events: &mut Events) -> Vec<ServerEvent> {
    let mut all = Vec::new();
    while let Some(event) = next(events).await {
        all.push(event);
    }
    all
}

/// The states that a stream of a task's events tells, in order.
pub(crate) fn states(events: &[ServerEvent]) -> Vec<String> {
    let states = events.iter().filter(|event| event.event == "state").map(data);
    states.map(|data| data["state"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The outcomes of a task's attempts, in order.
pub(crate) fn outcomes(task: &Value) -> Vec<&str> {
    let attempts = task["attempts"].as_array().expect("a list");
    attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap_or("none")).collect()
}
