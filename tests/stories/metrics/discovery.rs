//! Where workers serve metrics of their own: what the server tells Prometheus, and what it does not.

use hyper::Method;
use rollcall::client::Request;
use rollcall_worker_sdk::{Capability, ServeOptions, TaskEnd, Worker};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::scripted::{Scripted, introduction};
use crate::support::{Server, eventually};

async fn list(server: &Server, query: &str) -> (u16, Value) {
    let answer = server.send(Request::new(Method::GET, format!("/v1/sd/prometheus{query}"))).await;
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).expect("JSON"))
}

/// A worker that listens and serves metrics, until it is dropped.
struct Listening {
    port: u16,
    stop: CancellationToken,
}

impl Listening {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let stop = CancellationToken::new();
        let worker = Worker::builder("test")
            .version("1.2")
            .capability(Capability::new("zone.echo"), async |_, _| TaskEnd::succeeded(&json!({})));
        let (worker, stopped) = (worker.build(), stop.clone());
        let options = ServeOptions { metrics: Some(Arc::new(String::new)), ..ServeOptions::default() };
        tokio::spawn(async move { worker.serve(listener, options, stopped).await });
        Self { port, stop }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_worker_that_serves_metrics_is_found_at_the_configured_host() {
    let worker = Listening::start().await;
    let config = format!(
        "workers:\n  - name: far\n    endpoint: ws://localhost:{}\n    labels: {{ zone: b }}\n  - name: in\n    capabilities: [again, once]\n",
        worker.port
    );
    let server = Server::start(&config);
    server.worker_is("far", "ready").await;
    // One that dials in has no address in the configuration, whatever it says of itself.
    let mut words = introduction("in", "i", json!([]));
    words["metrics"] = json!({ "port": 9 });
    let mut inside = Scripted::dial(&server).await;
    inside.say(words).await;
    inside.hear("registered").await;

    let found = eventually("a list", async || {
        let (status, list) = list(&server, "").await;
        if status == 200 { Ok(list) } else { Err(list.to_string()) }
    })
    .await;
    let expected = json!([{
        "targets": [format!("localhost:{}", worker.port)],
        "labels": {
            "__meta_rollcall_worker": "far",
            "__meta_rollcall_pool": "static",
            "__meta_rollcall_zone": "b",
            "__meta_rollcall_version": "1.2",
            "__meta_rollcall_capabilities": ",zone.echo,",
            "__metrics_path__": "/metrics",
            "__scheme__": "http",
        },
    }]);
    assert_eq!(found, expected);
    assert_eq!(list(&server, "?pool=static").await, (200, expected));
    assert_eq!(list(&server, "?pool=other").await, (200, json!([])));
    let (status, problem) = list(&server, "?poool=x").await;
    assert_eq!((status, &problem["code"]), (422, &json!("unknown_field")));
}

#[tokio::test]
async fn no_list_is_better_than_a_wrong_one() {
    // Nothing listens there, so the server cannot know yet where that worker's metrics are.
    let server =
        Server::start("workers:\n  - name: away\n    endpoint: ws://127.0.0.1:1\n    capabilities: [x]\n");
    let (status, problem) = list(&server, "").await;
    assert_eq!((status, &problem["code"]), (503, &json!("targets_unsure")), "{problem}");

    // After a lease it is known that the worker is away.
    let hurried = "heartbeat: { interval: 100ms, lease: 400ms }\nworkers:\n  - name: away\n    endpoint: ws://127.0.0.1:1\n    capabilities: [x]\n";
    let server = Server::start(hurried);
    eventually("an empty list", async || match list(&server, "").await {
        (200, list) if list == json!([]) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
