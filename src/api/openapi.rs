//! The API's description (OpenAPI 3.1), made from the table of routes: so it cannot tell of a route
//! that is not served, or leave one out.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::http::body::{Answer, json as json_answer};
use super::http::problem::KINDS;
use super::routes::{Endpoint as E, ROUTES, Route};
use super::tasks::batch::MAX_TASKS;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// `GET /openapi.json`
pub(super) fn answer() -> Answer {
    json_answer(StatusCode::OK, DOCUMENT.clone())
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.verb.as_str().to_lowercase()] = operation(route);
    }
    let codes: Vec<_> = KINDS.iter().map(|kind| kind.code).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rollcall",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The operations server for fleets of agent tool workers",
        },
        "paths": paths,
        "components": { "schemas": {
            "NewTask": new_task(),
            "BatchOfTasks": batch(),
            "BatchAnswer": batch_answer(),
            "Task": task(),
            "Explanation": explanation(),
            "Worker": worker(),
            "Pool": pool(),
            "Decision": decision(),
            "Session": session(),
            "Problem": problem(&codes),
        } },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for (name, _) in route.path.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
        parameters
            .push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    for name in route.query {
        parameters.push(json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
    }
    for (name, schema) in headers(route.endpoint) {
        parameters.push(json!({ "name": name, "in": "header", "schema": schema }));
    }
    let mut responses = Map::new();
    for code in route.success {
        responses.insert(code.to_string(), success(route.endpoint, *code));
    }
    for code in route.failure {
        let content = json!({ "application/problem+json": { "schema": reference("Problem") } });
        responses.insert(code.to_string(), json!({ "description": reason(*code), "content": content }));
    }
    let mut operation = json!({
        "operationId": operation_id(route.endpoint),
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = request_body(route.endpoint) {
        operation["requestBody"] = body;
    }
    operation
}

fn operation_id(endpoint: E) -> String {
    let name = format!("{endpoint:?}");
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// The headers that an endpoint reads.
fn headers(endpoint: E) -> Vec<(&'static str, Value)> {
    match endpoint {
        E::SubmitTask => vec![
            ("Idempotency-Key", json!({ "type": "string", "minLength": 1, "maxLength": 128 })),
            ("Prefer", json!({ "type": "string", "examples": ["wait=30"] })),
            ("traceparent", json!({ "type": "string" })),
        ],
        E::CordonWorker
        | E::UncordonWorker
        | E::DrainWorker
        | E::RestartWorker
        | E::ScalePool
        | E::PausePool
        | E::ResumePool => {
            vec![("Rollcall-Operator", json!({ "type": "string", "minLength": 1, "maxLength": 64 }))]
        }
        E::TaskArtifact | E::GetArtifact => {
            ["Range", "If-Range", "If-None-Match"].map(|name| (name, json!({ "type": "string" }))).into()
        }
        E::TaskEvents | E::FleetEvents => vec![("Last-Event-ID", json!({ "type": "string" }))],
        _ => Vec::new(),
    }
}

fn success(endpoint: E, code: u16) -> Value {
    let described = json!({ "description": reason(code) });
    let json_of = |schema: Value| json!({ "description": reason(code), "content": { "application/json": { "schema": schema } } });
    let list = |of: &str| {
        json!({
            "type": "object",
            "required": ["items", "next_cursor"],
            "properties": {
                "items": { "type": "array", "items": reference(of) },
                "next_cursor": { "type": ["string", "null"] },
            },
        })
    };
    if matches!(code, 101 | 204 | 304) {
        return described;
    }
    let text = |media_type: &str| json!({ "description": reason(code), "content": { media_type: { "schema": { "type": "string" } } } });
    let bytes = text("application/octet-stream");
    match endpoint {
        E::SubmitTask | E::GetTask | E::CancelTask | E::RetryTask => json_of(reference("Task")),
        E::SubmitBatch => json_of(reference("BatchAnswer")),
        E::ListTasks => json_of(list("Task")),
        E::ListWorkers => json_of(list("Worker")),
        E::ListPools => json_of(list("Pool")),
        E::PoolDecisions => json_of(list("Decision")),
        E::GetPool | E::ScalePool | E::PausePool | E::ResumePool => json_of(reference("Pool")),
        E::ListSessions => json_of(list("Session")),
        E::AddWorker
        | E::GetWorker
        | E::CordonWorker
        | E::UncordonWorker
        | E::DrainWorker
        | E::RestartWorker => json_of(reference("Worker")),
        E::ExplainTask => json_of(reference("Explanation")),
        E::TaskEvents | E::FleetEvents => text("text/event-stream"),
        E::Metrics | E::MetricsOfWorkers | E::Runbook => text("text/plain"),
        E::DiscoverTargets => json_of(json!({ "type": "array", "items": { "type": "object" } })),
        E::Page => text("text/html"),
        E::ConnectWorker => described,
        E::TaskArtifact | E::GetArtifact => bytes,
        E::Healthz
        | E::Readyz
        | E::Reload
        | E::OpenApi
        | E::GiveArtifact
        | E::RemoveWorker
        | E::EndSession
        | E::ProbeWorker
        | E::PoolDemand
        | E::SimulatePools
        | E::GetTopology
        | E::PlanTopology
        | E::Status => json_of(json!({ "type": "object" })),
    }
}

fn request_body(endpoint: E) -> Option<Value> {
    let (media_type, schema) = match endpoint {
        E::SubmitTask => ("application/json", reference("NewTask")),
        E::SubmitBatch => ("application/json", reference("BatchOfTasks")),
        E::AddWorker => ("application/json", json!({ "type": "object", "required": ["name"] })),
        E::ScalePool => (
            "application/json",
            json!({
                "type": "object",
                "required": ["to"],
                "additionalProperties": false,
                "properties": { "to": { "type": "integer", "minimum": 0 } },
            }),
        ),
        E::GiveArtifact => ("application/octet-stream", json!({ "type": "string" })),
        E::PlanTopology | E::SimulatePools => ("application/yaml", json!({ "type": "string" })),
        _ => return None,
    };
    Some(json!({ "required": true, "content": { media_type: { "schema": schema } } }))
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn reason(code: u16) -> &'static str {
    StatusCode::from_u16(code).ok().and_then(|code| code.canonical_reason()).unwrap_or_default()
}

fn new_task() -> Value {
    let duration = json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" });
    json!({
        "type": "object",
        "required": ["capability"],
        "additionalProperties": false,
        "properties": {
            "capability": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$" },
            "input": { "description": "any JSON; {} if left out" },
            "labels": { "type": "object", "additionalProperties": { "type": "string" }, "maxProperties": 32 },
            "priority": { "type": "integer", "minimum": 1, "maximum": 5, "default": 3 },
            "queue_timeout": duration,
            "execution_timeout": duration,
            "deadline": { "type": "string", "description": "a duration from acceptance, or an RFC 3339 time" },
            "max_attempts": { "type": "integer", "minimum": 1, "maximum": 100 },
            "fairness_key": { "type": "string", "minLength": 1, "maxLength": 128 },
            "session": { "type": "string", "pattern": "^[A-Za-z0-9._:@-]{1,128}$" },
            "session_ttl": duration,
            "retry": { "enum": ["safe", "always"], "default": "safe" },
            "placement": placement(),
        },
    })
}

fn placement() -> Value {
    let labels =
        json!({ "type": "object", "additionalProperties": { "type": "string" }, "maxProperties": 32 });
    let mut preferred = labels.clone();
    preferred["description"] = "of such workers a free one goes first".into();
    let mut required = labels;
    required["description"] = "the same as `labels`".into();
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "required": required,
            "preferred": preferred,
            "fallback_after": {
                "type": "string",
                "pattern": "^[0-9]+(ms|s|m|h|d)$",
                "description": "how long to wait for a preferred worker alone; not at all, if left out",
            },
        },
    })
}

fn session() -> Value {
    let time = json!({ "type": ["string", "null"], "format": "date-time" });
    json!({
        "type": "object",
        "required": ["name", "state", "worker", "lost", "tasks"],
        "properties": {
            "name": { "type": "string" },
            "state": { "enum": ["open", "recovering", "lost"], "description": "recovering: the server was started anew and waits for the worker that has it" },
            "worker": { "type": ["string", "null"] },
            "lost": { "type": ["string", "null"], "description": "what became of it" },
            "tasks": { "type": "integer", "description": "that run in it or wait for it" },
            "ttl_seconds": { "type": "number" },
            "began_at": time, "used_at": time, "expires_at": time,
        },
    })
}

/// A batch's tasks bear their keys themselves.
fn batch() -> Value {
    let mut task = new_task();
    task["properties"]["idempotency_key"] = json!({ "type": "string", "minLength": 1, "maxLength": 128 });
    json!({
        "type": "object",
        "required": ["tasks"],
        "additionalProperties": false,
        "properties": { "tasks": { "type": "array", "minItems": 1, "maxItems": MAX_TASKS, "items": task } },
    })
}

fn batch_answer() -> Value {
    let item = json!({
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": { "type": "integer", "description": "what the task alone would have been answered with" },
            "replayed": { "type": "boolean", "description": "the key names this task already" },
            "task": { "allOf": [reference("Task")], "description": "without `output`" },
            "problem": reference("Problem"),
        },
    });
    json!({
        "type": "object",
        "required": ["accepted", "refused", "items"],
        "properties": {
            "accepted": { "type": "integer", "description": "replayed ones too" },
            "refused": { "type": "integer" },
            "items": { "type": "array", "description": "in the order of the request", "items": item },
        },
    })
}

fn task() -> Value {
    let time = json!({ "type": ["string", "null"], "format": "date-time" });
    let text = json!({ "type": ["string", "null"] });
    let states = crate::fleet::TaskState::ALL.map(|state| state.as_str());
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string", "format": "uuid" },
            "state": { "enum": states },
            "capability": { "type": "string" },
            "output": { "description": "what the worker returned, of a failed attempt too" },
            "error": { "type": ["object", "null"] },
            "attempts": { "type": "array", "items": { "type": "object" } },
            "pending_reason": text,
            "submitted_at": { "type": "string", "format": "date-time" },
            "assigned_at": time, "started_at": time, "finished_at": time,
            "priority": { "type": "integer" },
            "labels": { "type": "object" },
            "placement": { "type": "object" },
            "dead_letter": { "type": "boolean" },
            "trace_id": text,
            "retry_of": text,
            "usage": { "type": ["object", "null"] },
            "artifacts": { "type": "array", "items": {
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "media_type": { "type": "string" },
                    "size": { "type": "integer" },
                    "sha256": { "type": "string" },
                },
            } },
        },
    })
}

fn explanation() -> Value {
    let waits = [
        "recording",
        "recovering",
        "backoff",
        "retry_budget",
        "session",
        "reading",
        "stopping",
        "preferred",
        "busy",
        "not_ready",
        "impossible",
    ];
    json!({
        "type": "object",
        "properties": {
            "task": { "type": "string", "format": "uuid" },
            "state": { "type": "string" },
            "wait": { "type": ["string", "null"], "examples": waits, "description": "null for a task that does not wait" },
            "summary": { "type": "string" },
            "workers": { "type": "array", "description": "groups of like workers", "items": {
                "type": "object",
                "properties": {
                    "worker": { "type": "string", "description": "its name; of many the first and the last" },
                    "count": { "type": "integer" },
                    "reason": { "type": "string" },
                },
            } },
            "fix": { "type": ["string", "null"], "description": "the least that a person can do" },
        },
    })
}

fn worker() -> Value {
    let mut states: Vec<_> = crate::fleet::WorkerState::SHOWN.iter().map(|state| state.as_str()).collect();
    states.push(crate::fleet::WorkerState::Removed.as_str());
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" },
            "state": { "enum": states },
            "pool": { "type": ["string", "null"] },
            "origin": { "enum": ["file", "api", "pool"] },
            "instance": { "type": ["string", "null"] },
            "connection": { "type": ["integer", "null"] },
            "capabilities": { "type": "array", "items": { "type": "string" } },
            "slots": { "type": "object" },
            "health": { "type": "object", "description": "what its own failures and its canaries have led to" },
            "labels": { "type": "object" },
            "last_heartbeat": { "type": ["string", "null"], "format": "date-time" },
            "reconnects": { "type": "integer" },
            "next_attempt_at": { "type": ["string", "null"], "format": "date-time" },
        },
    })
}

fn pool() -> Value {
    let count = json!({ "type": "integer" });
    let names = json!({ "type": "array", "items": { "type": "string" } });
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" },
            "provider": { "enum": crate::fleet::ProviderKind::ALL.map(|kind| kind.as_str()) },
            "desired": count, "instances": count, "ready": count, "draining": count,
            "min": count, "max": count, "outdated": count,
            "paused": { "type": "boolean" },
            "paused_by": { "type": ["string", "null"] },
            "missing": names, "unwanted": names,
            "hook": { "type": "object" },
            "last_decision": { "oneOf": [reference("Decision"), { "type": "null" }] },
            "scaling": { "type": "object", "description": "as in config.yaml, without the hook" },
        },
    })
}

fn decision() -> Value {
    use crate::fleet::autoscaler::{Direction, Reason};
    let count = json!({ "type": "integer" });
    json!({
        "type": "object",
        "properties": {
            "at": { "type": "string", "format": "date-time" },
            "from": count, "to": count, "wish": count, "min": count, "max": count,
            "direction": { "enum": Direction::ALL.map(Direction::as_str) },
            "reason": { "enum": Reason::ALL.map(Reason::as_str) },
            "limited_by": { "type": "array", "items": { "enum": ["min", "max", "cooldown", "rate"] } },
            "inputs": { "type": "object" },
            "wait_seconds": { "type": ["integer", "null"] },
            "formula": { "type": "string", "description": "the rule with its numbers" },
            "why": { "type": "string", "description": "one sentence" },
            "since": { "type": "string", "format": "date-time", "description": "the first of so many looks that said the same" },
            "looks": count,
            "hook": { "type": ["object", "null"] },
            "arrived": { "type": "integer", "description": "workers that were ready after it" },
            "time_to_capacity_seconds": { "type": ["number", "null"] },
        },
    })
}

fn problem(codes: &[&str]) -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "code", "retryable", "retry_after", "side_effects"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string", "examples": codes },
            "retryable": { "type": "boolean" },
            "retry_after": { "type": ["integer", "null"], "description": "seconds" },
            "side_effects": { "enum": ["none", "possible", "unknown"] },
            "hint": { "type": "string" },
            "field": { "type": "string" },
            "problems": { "type": "array", "items": { "type": "object" } },
            "errors": { "type": "array", "description": "what is wrong with an input", "items": {
                "type": "object",
                "properties": {
                    "pointer": { "type": "string", "description": "a JSON Pointer into the input" },
                    "message": { "type": "string" },
                },
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_described_and_nothing_else() {
        let document: Value = serde_json::from_slice(&DOCUMENT).expect("it is JSON");
        let paths = document["paths"].as_object().expect("there are paths");
        let described: usize = paths.values().filter_map(Value::as_object).map(Map::len).sum();
        assert_eq!(described, ROUTES.len());
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.verb.as_str().to_lowercase()];
            assert_eq!(operation["summary"], route.summary, "{}", route.path);
            let answers = operation["responses"].as_object().map_or(0, Map::len);
            assert_eq!(answers, route.success.len() + route.failure.len(), "{}", route.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let text = document().to_string();
        let document = document();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
