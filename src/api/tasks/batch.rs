//! `POST /v1/tasks/batch`: many tasks in one request and one commit, each with an answer of its own.
//! The request is answered with 200 once every task has its answer, whatever those say: `refused`
//! counts the ones that a caller has to look at.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{IDEMPOTENCY_KEY, aside, ask, digest, json_form, traceparent};
use crate::api::AppState;
use crate::api::http::body::{self, Reply, json};
use crate::api::http::json::{Object, write_list};
use crate::api::http::problem::{self, Problem, Refused};
use crate::api::http::query::{Query, invalid, unknown};
use crate::config::Config;
use crate::fleet::{KeyHash, Source, TaskRecord, Tenant};
use crate::manager::{Ask, CallError, Submitted};

/// Tasks in one batch at most.
pub(crate) const MAX_TASKS: usize = 1_000;
/// A batch may be so many times as large as a request with one task.
const BODY_FACTOR: u64 = 16;
/// The batch itself is two levels of nesting around its tasks.
const ENVELOPE_DEPTH: usize = 2;
/// What a batch looks like.
const BATCH: &str = r#"a batch looks like {"tasks":[{"capability":"python.execute","input":{}}]}"#;

/// `POST /v1/tasks/batch`
pub(crate) async fn submit(state: &AppState, config: &Config, request: Request<Incoming>) -> Reply {
    Query::read(request.uri().query(), &[])?;
    if request.headers().contains_key(IDEMPOTENCY_KEY) {
        let problem = invalid("Idempotency-Key", "a batch has no key of its own");
        return Err(problem.hint("give each task its `idempotency_key`").into());
    }
    let traceparent = traceparent(request.headers());
    let max_task = config.server.max_body;
    let body = body::read(request.into_body(), max_task.saturating_mul(BODY_FACTOR)).await?;
    let asks = aside(body.len(), move || read(&body, max_task, traceparent.as_ref())).await??;
    let mut good = Vec::with_capacity(asks.len());
    let refused: Vec<Option<Refused>> =
        asks.into_iter().map(|ask| ask.map(|ask| good.push(ask)).err()).collect();
    let mut submitted = state.manager().submit_all(good).await.into_iter();
    let answers: Vec<_> = refused
        .into_iter()
        .map(|refused| match refused {
            Some(problem) => Err(problem),
            None => submitted.next().unwrap_or(Err(CallError::Stopped)).map_err(Refused::from),
        })
        .collect();
    Ok(answer(&answers))
}

/// Reads every task of a batch; one that is wrong leaves the others alone.
fn read(
    body: &Bytes,
    max_task: u64,
    traceparent: Option<&Arc<str>>,
) -> Result<Vec<Result<Ask, Refused>>, Refused> {
    let text = ask::text_within(body, ask::MAX_DEPTH + ENVELOPE_DEPTH)?;
    let mut from = serde_json::Deserializer::from_str(text);
    let batch = from.deserialize_any(Batch::default()).and_then(|batch| from.end().map(|()| batch));
    let batch = batch.map_err(|error| ask::not_json(&error, BATCH))?;
    if let Some(problem) = batch.wrong {
        return Err(problem);
    }
    let tasks = batch.tasks.ok_or_else(|| invalid("tasks", "is missing").hint(BATCH))?;
    if tasks.count == 0 || tasks.count > MAX_TASKS {
        return Err(invalid(
            "tasks",
            format!("{} are too few or too many: send 1 to {MAX_TASKS}", tasks.count),
        )
        .into());
    }
    Ok(tasks.first.iter().map(|task| one(task.get(), max_task, traceparent)).collect())
}

fn one(text: &str, max_task: u64, traceparent: Option<&Arc<str>>) -> Result<Ask, Refused> {
    if text.len() as u64 > max_task {
        let problem = problem::BODY_TOO_LARGE.with(format!("the task is larger than {max_task} bytes"));
        return Err(problem.hint("send less, or raise `server.max_body` in config.yaml").into());
    }
    let (mut spec, key) = ask::read_item(text)?;
    spec.traceparent = traceparent.cloned();
    Ok(Ask {
        tenant: Tenant::default_tenant(),
        source: Source::Rest,
        key: key.map(|key| KeyHash { key: digest(key.as_bytes()), body: digest(text.as_bytes()) }),
        spec: Arc::new(spec),
        retry_of: None,
    })
}

fn answer(answers: &[Result<Submitted, Refused>]) -> body::Answer {
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    let mut out = Vec::with_capacity(64 + 640 * answers.len());
    let mut object = Object::new(&mut out);
    object.value("accepted", &accepted).value("refused", &(answers.len() - accepted));
    write_list(object.name("items"), answers, |out, answer| match answer {
        Ok(Submitted::Accepted(task) | Submitted::Finished(task)) => {
            taken(out, StatusCode::ACCEPTED, task, false);
        }
        Ok(Submitted::Replayed(task)) => taken(out, StatusCode::OK, task, true),
        Err(problem) => refused(out, problem),
    });
    object.end();
    json(StatusCode::OK, out)
}

fn taken(out: &mut Vec<u8>, status: StatusCode, task: &TaskRecord, replayed: bool) {
    let mut item = Object::new(out);
    item.value("status", &status.as_u16()).value("replayed", &replayed);
    json_form::write_outline(item.name("task"), task);
    item.end();
}

fn refused(out: &mut Vec<u8>, problem: &Problem) {
    let mut item = Object::new(out);
    item.value("status", &problem.kind.status.as_u16()).value("problem", &problem.shown());
    item.end();
}

/// The body, its tasks unread.
#[derive(Default)]
struct Batch<'a> {
    tasks: Option<Tasks<'a>>,
    /// The first thing that is wrong although it is JSON.
    wrong: Option<Refused>,
}

impl<'a> Visitor<'a> for Batch<'a> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list of tasks")
    }

    fn visit_map<M: MapAccess<'a>>(mut self, mut map: M) -> Result<Self, M::Error> {
        while let Some(name) = map.next_key::<ask::Name<'a>>()? {
            if name.0 == "tasks" && self.tasks.is_none() {
                self.tasks = Some(map.next_value()?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            self.wrong.get_or_insert_with(|| {
                Box::new(match &*name.0 {
                    "tasks" => invalid("tasks", "it stands twice"),
                    other => unknown("field", other, &["tasks"]),
                })
            });
        }
        Ok(self)
    }
}

/// As many tasks as a batch may have, and how many there were: so the memory that a long list takes
/// is bounded.
struct Tasks<'a> {
    first: Vec<&'a RawValue>,
    count: usize,
}

impl<'de> Deserialize<'de> for Tasks<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Tasks<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tasks")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Tasks<'de>, S::Error> {
                let mut tasks = Tasks { first: Vec::new(), count: 0 };
                while let Some(task) = list.next_element::<&RawValue>()? {
                    tasks.count += 1;
                    if tasks.count <= MAX_TASKS {
                        tasks.first.push(task);
                    }
                }
                Ok(tasks)
            }
        }
        from.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(body: &str) -> Result<Vec<Result<Ask, Refused>>, Refused> {
        read(&Bytes::copy_from_slice(body.as_bytes()), 1_000, None)
    }

    #[test]
    fn a_wrong_task_leaves_the_others_alone() {
        let long = "x".repeat(2_000);
        let body = format!(
            r#"{{"tasks":[{{"capability":"a","idempotency_key":"k"}},{{"capability":"b","priority":9}},7,{{"capability":"c","input":"{long}"}},{{"capability":"d"}}]}}"#
        );
        let asks = asks(&body).expect("it is a batch");
        let codes: Vec<_> =
            asks.iter().map(|ask| ask.as_ref().err().map_or("", |problem| problem.kind.code)).collect();
        assert_eq!(codes, ["", "invalid_field", "not_json", "body_too_large", ""]);
        let keys: Vec<_> = asks.iter().flatten().map(|ask| ask.key.is_some()).collect();
        assert_eq!(keys, [true, false]);
    }

    #[test]
    fn the_same_task_has_the_same_hash_and_another_one_another() {
        let ask = |input: u32| {
            let body = format!(r#"{{"tasks":[{{"capability":"a","input":{input},"idempotency_key":"k"}}]}}"#);
            let mut asks = asks(&body).expect("it is a batch");
            asks.remove(0).expect("it is a task").key.expect("it has a key")
        };
        assert_eq!(ask(1), ask(1));
        assert_eq!((ask(1).key, ask(1).body == ask(2).body), (ask(2).key, false));
    }

    #[test]
    fn what_is_no_batch_is_refused_whole() {
        let many = format!(r#"{{"tasks":[{}]}}"#, vec!["1"; MAX_TASKS + 1].join(","));
        for (body, code) in [
            ("[", "not_json"),
            ("[]", "not_json"),
            (r#"{"tasks":{}}"#, "not_json"),
            ("{}", "invalid_field"),
            (r#"{"tasks":[]}"#, "invalid_field"),
            (r#"{"tasks":[1],"tasks":[1]}"#, "invalid_field"),
            (r#"{"task":[]}"#, "unknown_field"),
            (&many, "invalid_field"),
        ] {
            assert_eq!(asks(body).expect_err(body).kind.code, code, "{body:.40}");
        }
        let deep = format!(r#"{{"tasks":[{}{}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(asks(&deep).expect_err("deep").kind.code, "too_deep");
    }
}
