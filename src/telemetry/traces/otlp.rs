//! Spans in the JSON form of OTLP (opentelemetry-proto 1.x, `ExportTraceServiceRequest`): ids in
//! hexadecimal digits, times as strings of nanoseconds.

use serde::{Deserialize, Serialize};

use super::spans::{Said, Span};

/// `SpanKind`s.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// `StatusCode`'s error.
const ERROR: u8 = 2;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: [Attribute<'a>; 3],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<SpanJson<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'a str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue<'a> {
    StringValue(&'a str),
    /// A string, as proto3's JSON has 64-bit numbers.
    IntValue(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
}

#[derive(Serialize)]
struct Status<'a> {
    code: u8,
    message: &'a str,
}

/// The body of one export. Each trace comes with its spans, the first of which is the task's own.
pub(super) fn body(instance: &str, tasks: &[(u128, Vec<Span>)]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let text = |key, value| Attribute { key, value: AnyValue::StringValue(value) };
    let resource = Resource {
        attributes: [
            text("service.name", "rollcall"),
            text("service.version", version),
            text("service.instance.id", instance),
        ],
    };
    let spans = tasks.iter().flat_map(|(trace, spans)| {
        spans.iter().enumerate().map(|(n, span)| shown(*trace, span, if n == 0 { SERVER } else { INTERNAL }))
    });
    let scope = Scope { name: "rollcall", version };
    let request = Request {
        resource_spans: [ResourceSpans {
            resource,
            scope_spans: [ScopeSpans { scope, spans: spans.collect() }],
        }],
    };
    serde_json::to_vec(&request).unwrap_or_default()
}

fn shown(trace: u128, span: &Span, kind: u8) -> SpanJson<'_> {
    // A time before 1970 has no form here.
    let nanos = |wall: crate::fleet::Wall| format!("{}000000", wall.0.max(0));
    SpanJson {
        trace_id: format!("{trace:032x}"),
        span_id: format!("{:016x}", span.id),
        parent_span_id: span.parent.map(|parent| format!("{parent:016x}")),
        name: &span.name,
        kind,
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes.iter().map(|(key, said)| Attribute { key, value: value(said) }).collect(),
        status: span.error.as_deref().map(|message| Status { code: ERROR, message }),
    }
}

fn value(said: &Said) -> AnyValue<'_> {
    match said {
        Said::Text(text) => AnyValue::StringValue(text),
        Said::Number(number) => AnyValue::IntValue(number.to_string()),
    }
}

/// What a collector answers: how many spans it did not take, though it took the request.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Taken {
    partial_success: Partial,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Partial {
    rejected_spans: Number,
    error_message: String,
}

/// A 64-bit number, which collectors write as a string or as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Plain(u64),
}

impl Default for Number {
    fn default() -> Self {
        Self::Plain(0)
    }
}

/// How many spans an answer refuses, and why. What cannot be read refuses none: it was a success.
pub(super) fn refused(answer: &[u8]) -> (u64, String) {
    let taken: Taken = serde_json::from_slice(answer).unwrap_or_default();
    let number = match taken.partial_success.rejected_spans {
        Number::Text(text) => text.parse().unwrap_or(0),
        Number::Plain(number) => number,
    };
    (number, taken.partial_success.error_message)
}
