//! Traces: what a collector gets of a task, that a worker's own spans belong under it, and that a
//! collector that fails is in nobody's way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use rollcall::client::{Client, Request};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::python::interpreter;
use crate::support::scripted::{Scripted, about};
use crate::support::{Server, eventually, program};

/// A collector that keeps what it is sent, and answers the first requests as it is told to.
#[derive(Clone, Default)]
struct Collector {
    bodies: Arc<Mutex<Vec<Bytes>>>,
    answers: Arc<Mutex<Vec<StatusCode>>>,
}

impl Collector {
    /// Listens; the URL is what `telemetry.otlp` says.
    async fn listen(answers: &[StatusCode]) -> (Self, String) {
        let collector = Self { answers: Arc::new(Mutex::new(answers.to_vec())), ..Self::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/otlp", listener.local_addr().expect("it is bound"));
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let each = serving.clone();
                let service = service_fn(move |request| each.clone().take(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (collector, url)
    }

    async fn take(self, request: HttpRequest<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!(request.uri().path(), "/otlp/v1/traces");
        assert_eq!(request.headers()["content-type"], "application/json");
        let body = request.into_body().collect().await?.to_bytes();
        let next = self.answers.lock().expect("no panic").pop();
        let status = next.unwrap_or(StatusCode::OK);
        if status.is_success() {
            self.bodies.lock().expect("no panic").push(body);
        }
        let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
        *answer.status_mut() = status;
        Ok(answer)
    }

    /// Every span so far.
    fn spans(&self) -> Vec<Value> {
        let bodies = self.bodies.lock().expect("no panic").clone();
        let spans = |body: &Bytes| {
            let body: Value = serde_json::from_slice(body).expect("JSON");
            body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("a list").clone()
        };
        bodies.iter().flat_map(spans).collect()
    }

    /// The spans of a task, once they are here.
    async fn spans_of(&self, task: &Value) -> Vec<Value> {
        let trace = &task["trace_id"];
        eventually("the spans", async || {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span["traceId"] == *trace).collect();
            if spans.is_empty() { Err(format!("none of {trace}")) } else { Ok(spans) }
        })
        .await
    }
}

fn config(url: &str, workers: &str) -> String {
    format!("telemetry: {{ otlp: \"{url}\" }}\nstore: {{ kind: memory }}\nworkers:\n{workers}")
}

const ECHO: &str = "  - { name: ann, interface: mock, capabilities: [echo] }\n";

#[tokio::test]
async fn a_callers_trace_goes_on_through_the_server_to_the_worker() {
    let (collector, url) = Collector::listen(&[]).await;
    let server = Server::start(&config(&url, "  - { name: ann, interface: websocket }\n"));
    let (mut ann, _) = Scripted::register(&server, "ann", "1", json!([])).await;
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = json!({ "capability": "once" }).to_string();
    let request = Request::new(Method::POST, "/v1/tasks")
        .body(body)
        .header(HeaderName::from_static("traceparent"), HeaderValue::from_static(context));
    let task: Value = server.send(request).await.json().expect("it is taken");
    assert_eq!(task["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let execute = ann.hear("execute").await;
    ann.say(about(&execute, json!({ "type": "accepted" }))).await;
    ann.say(about(&execute, json!({ "type": "result", "status": "succeeded", "output": 1 }))).await;
    server.task_is(&task, "succeeded").await;

    let spans = collector.spans_of(&task).await;
    let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["once", "accept", "queue", "dispatch", "execution", "record"]);
    assert_eq!(spans[0]["parentSpanId"], "00f067aa0ba902b7", "under the caller's own span");
    for span in &spans[1..] {
        assert_eq!(span["parentSpanId"], spans[0]["spanId"], "{span}");
    }
    let handed = execute["traceparent"].as_str().expect("a context");
    let under = spans[4]["spanId"].as_str().expect("an id");
    assert_eq!(handed, format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{under}-01"));
}

#[tokio::test]
async fn a_task_without_a_trace_begins_one_and_opentelemetrys_own_reader_reads_it() {
    let (collector, url) = Collector::listen(&[]).await;
    let server = Server::start(&config(&url, ECHO));
    let task = server.run("echo", json!("hello")).await;
    let id = task["id"].as_str().expect("an id").replace('-', "");
    assert_eq!(task["trace_id"], id);
    collector.spans_of(&task).await;
    let body = collector.bodies.lock().expect("no panic")[0].clone();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("body.json");
    std::fs::write(&file, body).expect("written");
    // proto3's JSON has bytes in base64, OTLP's has ids in hexadecimal digits.
    let program = "
import base64, json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
body = json.load(open(sys.argv[1]))
for span in body['resourceSpans'][0]['scopeSpans'][0]['spans']:
    for name in ('traceId', 'spanId', 'parentSpanId'):
        if name in span:
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
request = json_format.ParseDict(body, ExportTraceServiceRequest())
[resource] = request.resource_spans
[scope] = resource.scope_spans
said = {each.key: each.value.string_value for each in resource.resource.attributes}
assert said['service.name'] == 'rollcall', said
for span in scope.spans:
    assert len(span.trace_id) == 16 and len(span.span_id) == 8, span
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
print(' '.join(span.name for span in scope.spans))
";
    let read = std::process::Command::new(interpreter()).args(["-c", program]).arg(&file).output();
    let read = read.expect("python runs");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let names = String::from_utf8_lossy(&read.stdout);
    assert_eq!(names.trim(), "echo accept queue dispatch execution record");
}

#[tokio::test]
async fn what_a_collector_puts_off_comes_later_and_what_its_caller_does_not_record_never() {
    let (collector, url) = Collector::listen(&[StatusCode::SERVICE_UNAVAILABLE]).await;
    let server = Server::start(&config(&url, ECHO));
    let unrecorded = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let request = Request::new(Method::POST, "/v1/tasks?wait=20s")
        .body(json!({ "capability": "echo" }).to_string())
        .header(HeaderName::from_static("traceparent"), HeaderValue::from_static(unrecorded));
    assert_eq!(server.send(request).await.status, 200);
    let task = server.run("echo", json!(1)).await;
    collector.spans_of(&task).await;
    assert!(collector.spans().iter().all(|span| span["traceId"] == task["trace_id"]));
    assert_eq!(server.metric("rollcall_trace_spans_dropped_total", &[]).await, Some(0.0));
}

#[tokio::test]
async fn a_collector_that_refuses_costs_spans_and_nothing_else() {
    let (_collector, url) = Collector::listen(&[StatusCode::BAD_REQUEST; 2]).await;
    let server = Server::start(&config(&url, ECHO));
    assert_eq!(server.run("echo", json!(1)).await["state"], "succeeded");
    let rejected = [r#"reason="rejected""#];
    server.metric_reaches("rollcall_trace_spans_dropped_total", &rejected, 6.0).await;
    assert_eq!(server.run("echo", json!(2)).await["state"], "succeeded");
}

#[tokio::test]
async fn what_has_gathered_is_sent_when_the_server_stops() {
    let (collector, url) = Collector::listen(&[]).await;
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let mut server = program::Server::start_in(&folder, &config(&url, ECHO), &[]);
    let client = Client::new(server.base()).expect("an address");
    let task = json!({ "capability": "echo" });
    let task: Value = client.post("/v1/tasks?wait=20s", &task).await.expect("it ends");
    server.signal(Signal::SIGTERM);
    let ended = tokio::task::spawn_blocking(move || server.ended());
    // The collector answers on this very runtime.
    let code = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("in time");
    assert_eq!(code.expect("it was waited for"), Some(0));
    assert!(collector.spans().iter().any(|span| span["traceId"] == task["trace_id"]));
}

#[test]
fn the_level_of_the_log_follows_the_file() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
    let nobody = "workers:\n  - { name: ann, interface: websocket, endpoint: \"ws://127.0.0.1:1\" }\n";
    let server = program::Server::start_in(&folder, nobody, &[]);
    let config = std::fs::read_to_string(server.config()).expect("it is there");
    std::fs::write(server.config(), format!("telemetry: {{ level: debug }}\n{config}")).expect("written");
    let line = server.logs("cannot connect to worker");
    assert!(line.contains("DEBUG") && line.contains("worker=ann"), "{line}");
}
