//! What a refused request is told: RFC 9457 problem details, with a stable code, whether and when to
//! try again, what may have happened, and what to do. Every code of the API stands in this file.

use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;

use super::body::{Answer, json_of};
use crate::fleet::{Refusal, SideEffects};
use crate::manager::CallError;
use crate::schemas::InputError;
use crate::store::ReadFault;

/// A problem on its way out of a handler; boxed, so that the good way stays small.
pub(crate) type Refused = Box<Problem>;

/// A kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// A short, stable word.
    pub(crate) code: &'static str,
    /// What is wrong, in general.
    pub(crate) title: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $status:ident, $code:literal, $title:literal;)*) => {
        $(pub(crate) const $name: Kind = Kind { status: StatusCode::$status, code: $code, title: $title };)*

        /// Every kind, for the API's description.
        pub(crate) const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    BAD_REQUEST = BAD_REQUEST, "bad_request", "The request cannot be read";
    NOT_JSON = BAD_REQUEST, "not_json", "The body is not JSON";
    TOO_DEEP = BAD_REQUEST, "too_deep", "The body is nested too deeply";
    TOKEN_MISSING = UNAUTHORIZED, "token_missing", "A worker has to show a token here";
    TOKEN_UNKNOWN = UNAUTHORIZED, "token_unknown", "Nobody has this token";
    HOST_NOT_ALLOWED = FORBIDDEN, "host_not_allowed", "The server does not answer to this host name";
    ORIGIN_NOT_ALLOWED = FORBIDDEN, "origin_not_allowed", "Web pages of this origin may not call the server";
    NO_SUCH_ROUTE = NOT_FOUND, "no_such_route", "There is nothing at this path";
    NO_SUCH_TASK = NOT_FOUND, "no_such_task", "There is no such task";
    NO_SUCH_ARTIFACT = NOT_FOUND, "no_such_artifact", "There is no such file";
    ARTIFACT_EXPIRED = GONE, "artifact_expired", "The file is not kept any more";
    NO_SUCH_WORKER = NOT_FOUND, "no_such_worker", "There is no such worker";
    NO_SUCH_SESSION = NOT_FOUND, "no_such_session", "There is no such session";
    SESSION_LOST = CONFLICT, "session_lost", "The session's state is gone";
    NO_SUCH_RUNBOOK = NOT_FOUND, "no_such_runbook", "There is no such runbook";
    NO_SUCH_POOL = NOT_FOUND, "no_such_pool", "There is no such pool";
    SIZE_OUT_OF_BOUNDS = UNPROCESSABLE_ENTITY, "size_out_of_bounds", "The pool may not have that size";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method_not_allowed", "The path does not know this method";
    BODY_TIMEOUT = REQUEST_TIMEOUT, "body_timeout", "The body came too slowly";
    NOT_FINAL = CONFLICT, "task_not_final", "The task has not ended yet";
    NAME_TAKEN = CONFLICT, "name_taken", "There is a worker of this name already";
    ENDPOINT_TAKEN = CONFLICT, "endpoint_taken", "Another worker has this endpoint";
    WORKER_IN_FILE = CONFLICT, "worker_in_file", "The worker is an entry of the file";
    TOO_MANY_WORKERS = CONFLICT, "too_many_workers", "There are as many workers as one server takes";
    BODY_TOO_LARGE = PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large";
    URL_TOO_LONG = URI_TOO_LONG, "url_too_long", "The URL is too long";
    TOO_MANY_HEADERS = REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", "The request has too many headers";
    RANGE_NOT_SATISFIABLE = RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "The file has no such part";
    UNKNOWN_ARTIFACT = UNPROCESSABLE_ENTITY, "unknown_artifact", "The input refers to a file that is not here";
    ARTIFACT_STORE_FULL = INSUFFICIENT_STORAGE, "artifact_store_full", "The disk has no room for the file";
    UNKNOWN_FIELD = UNPROCESSABLE_ENTITY, "unknown_field", "The request has a field that nobody knows";
    INVALID_FIELD = UNPROCESSABLE_ENTITY, "invalid_field", "A field has a value that it cannot have";
    UNKNOWN_CAPABILITY = UNPROCESSABLE_ENTITY, "unknown_capability", "No worker could ever do that";
    INVALID_INPUT = UNPROCESSABLE_ENTITY, "invalid_input", "The input is not what the capability takes";
    KEY_REUSED = UNPROCESSABLE_ENTITY, "idempotency_key_reused", "The key was used with another body";
    CONFIG_REJECTED = UNPROCESSABLE_ENTITY, "topology_invalid", "The topology was not taken";
    UPGRADE_REQUIRED = UPGRADE_REQUIRED, "upgrade_required", "Only a WebSocket may connect here";
    QUEUE_FULL = TOO_MANY_REQUESTS, "queue_full", "The queue is full";
    TOO_MANY_FAILURES = TOO_MANY_REQUESTS, "too_many_failures", "Too many wrong tokens came from this address";
    TOO_MANY_KINDS = TOO_MANY_REQUESTS, "too_many_kinds", "Too many different kinds of tasks wait at once";
    TOO_MANY_STREAMS = SERVICE_UNAVAILABLE, "too_many_streams", "As many streams are open as may be";
    TARGETS_UNSURE = SERVICE_UNAVAILABLE, "targets_unsure", "The list of targets is not known yet";
    DRAINING = SERVICE_UNAVAILABLE, "draining", "The server is stopping";
    STOPPED = SERVICE_UNAVAILABLE, "stopped", "The server stopped before there was an answer";
    STORE_BUSY = SERVICE_UNAVAILABLE, "store_busy", "The store is busy with other reads";
    STORE_DAMAGED = INTERNAL_SERVER_ERROR, "store_damaged", "A stored record is damaged";
    STORE_UNREADABLE = SERVICE_UNAVAILABLE, "store_unreadable", "The store cannot be read";
    STORE_UNAVAILABLE = SERVICE_UNAVAILABLE, "store_unavailable", "The store takes no writes";
    NO_ANSWER = GATEWAY_TIMEOUT, "no_answer", "The worker did not answer";
    INTERNAL = INTERNAL_SERVER_ERROR, "internal", "Rollcall made a mistake";
}

impl Kind {
    /// A problem of this kind, with what is wrong here.
    pub(crate) fn with(self, detail: impl Into<String>) -> Problem {
        Problem {
            kind: self,
            code: self.code,
            detail: detail.into(),
            retryable: false,
            retry_after: None,
            side_effects: SideEffects::None,
            hint: None,
            field: None,
            problems: Vec::new(),
            errors: Vec::new(),
            allow: None,
        }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    code: &'static str,
    detail: String,
    retryable: bool,
    retry_after: Option<u64>,
    side_effects: SideEffects,
    hint: Option<String>,
    field: Option<String>,
    problems: Vec<crate::config::Problem>,
    errors: Vec<InputError>,
    allow: Option<&'static str>,
}

impl Problem {
    /// What the caller can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The field that it is about.
    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// A finer word than the kind's.
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// The same request may do better after so many seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retryable = true;
        self.retry_after = Some(seconds);
        self
    }

    /// What may have happened nevertheless.
    pub(crate) fn side_effects(mut self, side_effects: SideEffects) -> Self {
        self.side_effects = side_effects;
        self
    }

    /// All that is wrong with a topology.
    pub(crate) fn problems(mut self, problems: &[crate::config::Problem]) -> Self {
        self.problems = problems.to_vec();
        self
    }

    /// The methods that the path knows.
    pub(crate) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut answer = json_of(self.kind.status, &self.shown());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        answer
    }

    /// What is said of it, as JSON; an answer about many things tells several of them.
    pub(crate) fn shown(&self) -> impl Serialize + '_ {
        Shown {
            kind: format!("urn:rollcall:problem:{}", self.code),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            retryable: self.retryable,
            retry_after: self.retry_after,
            side_effects: self.side_effects,
            hint: self.hint.as_deref(),
            field: self.field.as_deref(),
            problems: &self.problems,
            errors: &self.errors,
        }
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
    retry_after: Option<u64>,
    side_effects: SideEffects,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [crate::config::Problem],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [InputError],
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::QueueFull { depth } => QUEUE_FULL
                .with(format!("{depth} tasks are not finished yet, or their inputs take up all room"))
                .hint("send fewer at a time, add workers, or raise `queue.max_depth` and `queue.max_bytes`")
                .retry_after(1),
            Refusal::TooManyKinds { what } => TOO_MANY_KINDS
                .with(format!("as many different {what} wait as the server tells apart"))
                .hint("use fewer combinations of capability and labels, and fewer fairness keys, at once")
                .retry_after(1),
            Refusal::UnknownCapability { capability, nearest } => {
                let problem = UNKNOWN_CAPABILITY
                    .with(format!("no worker of the topology could ever offer {capability:?}"))
                    .field("capability");
                problem.hint(match nearest {
                    Some(nearest) => format!("the nearest that is offered is {nearest:?}"),
                    None => "GET /v1/workers shows what is offered".to_owned(),
                })
            }
            Refusal::KeyConflict => KEY_REUSED
                .with("this Idempotency-Key came with another body before")
                .hint("a new task needs a new key"),
            Refusal::Draining => {
                DRAINING.with("the server finishes what it has and takes nothing new").retry_after(5)
            }
            Refusal::StoreUnavailable => STORE_UNAVAILABLE
                .with("what must be kept cannot be written at the moment")
                .hint("look for `store` in the server's log: the disk may be full")
                .retry_after(5),
            Refusal::NoSuchTask => {
                NO_SUCH_TASK.with("no task has this id, or it ended so long ago that it was forgotten")
            }
            Refusal::NoSuchWorker => NO_SUCH_WORKER
                .with("no worker of the topology has this name")
                .hint("GET /v1/workers lists them"),
            Refusal::NoSuchPool => {
                NO_SUCH_POOL.with("no pool of the topology has this name").hint("GET /v1/pools lists them")
            }
            Refusal::SizeOutOfBounds { min, max } => SIZE_OUT_OF_BOUNDS
                .with(format!("it may have {min} to {max} instances at this time"))
                .field("to")
                .hint("change `scaling.min` or `scaling.max` in the file"),
            Refusal::NoSuchSession => NO_SUCH_SESSION
                .with("no session has this name, or it was forgotten")
                .hint("GET /v1/sessions lists them"),
            Refusal::SessionLost { session, why } => SESSION_LOST
                .with(format!("what was in session {session:?} is gone: {why}"))
                .hint(
                    "DELETE /v1/sessions/{name}, then begin anew: the next task of that name has a fresh one",
                )
                .field("session"),
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => refusal.into(),
            CallError::Invalid(invalid) => {
                let hint = format!(
                    "GET /v1/workers shows the `input_schema` of {} with its workers",
                    invalid.capability
                );
                let mut problem = INVALID_INPUT.with(invalid.to_string()).field("input").hint(hint);
                problem.errors = invalid.errors;
                problem
            }
            CallError::UnknownArtifact(hash) => {
                let unknown = UNKNOWN_ARTIFACT.with(format!("no file has the SHA-256 {hash}"));
                unknown.field("input").hint("send its bytes to POST /v1/artifacts first")
            }
            CallError::Disk(error) => {
                INTERNAL.with(format!("the disk under `server.data_dir` failed: {error}"))
            }
            CallError::Stopped => STOPPED
                .with("the server stopped; whether a task of this request began is not known")
                .hint("send it again with an Idempotency-Key once the server is back")
                .side_effects(SideEffects::Unknown)
                .retry_after(5),
            CallError::Unread(fault) => fault.into(),
        }
    }
}

impl From<ReadFault> for Problem {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Damaged(what) => STORE_DAMAGED
                .with(what)
                .hint("the record is on the disk, and is not what was written: see `rollcall repair`"),
            ReadFault::Busy => STORE_BUSY
                .with("too many reads are under way, or this one took too long")
                .hint("ask for less: a smaller page, or fewer filters at once")
                .retry_after(1),
            ReadFault::Io(why) => {
                STORE_UNREADABLE.with(why).hint("look for `store` in the server's log").retry_after(5)
            }
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.into())
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self::new(error.into())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn shown(problem: Problem) -> (Answer, serde_json::Value) {
        let mut answer = problem.into_answer();
        let body = answer.body_mut().collect().await.expect("a body cannot fail").to_bytes();
        (answer, serde_json::from_slice(&body).expect("it is JSON"))
    }

    #[tokio::test]
    async fn a_full_queue_says_when_to_come_back() {
        let (answer, body) = shown(Refusal::QueueFull { depth: 7 }.into()).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers()[RETRY_AFTER], "1");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(body["code"], "queue_full");
        assert_eq!(body["type"], "urn:rollcall:problem:queue_full");
        assert_eq!((&body["retryable"], &body["retry_after"]), (&true.into(), &1.into()));
        assert_eq!(body["side_effects"], "none");
        assert!(body["hint"].as_str().is_some_and(|hint| hint.contains("max_depth")));
    }

    #[tokio::test]
    async fn a_server_that_stopped_does_not_claim_that_nothing_happened() {
        let (answer, body) = shown(CallError::Stopped.into()).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["side_effects"], "unknown");
    }

    #[test]
    fn codes_differ() {
        let codes: std::collections::BTreeSet<_> = KINDS.iter().map(|kind| kind.code).collect();
        assert_eq!(codes.len(), KINDS.len());
    }
}
