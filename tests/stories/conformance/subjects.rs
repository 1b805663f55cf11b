//! The workers that are tried: the mock, and a real one that listens or dials in.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rollcall::fleet::*;
use rollcall::interface::factory::WorkerInterfaceFactory;
use rollcall::interface::websocket::{accept_response, serve_upgraded};
use rollcall::interface::{Ended, LinkIo, LinkLimits, Target, WorkerInterface};
use rollcall::trust::{ClientFiles, Pass, Tls};
use rollcall_worker_sdk as sdk;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::harness::{Core, ways, welcome, within};
use crate::support::python;

/// The kinds of worker that a test can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Mock,
    Dialled,
    DialsIn,
    PythonDialled,
    PythonDialsIn,
}

impl Kind {
    /// Whether it dials the server.
    pub(super) fn dials_in(self) -> bool {
        matches!(self, Self::DialsIn | Self::PythonDialsIn)
    }
}

/// A worker that answers `echo.*` with its input after a while.
pub(super) struct Subject {
    door: Door,
    /// Stops a real worker with the test.
    _stop: DropGuard,
    /// One that is a process of its own.
    _program: Option<python::Program>,
}

enum Door {
    Dial(Arc<dyn WorkerInterface>, Target),
    /// Upgraded connections of a worker that dials in.
    Accept(Mutex<mpsc::Receiver<TokioIo<hyper::upgrade::Upgraded>>>),
}

impl Subject {
    pub(super) async fn start(kind: Kind, latency: Duration) -> Self {
        let stop = CancellationToken::new();
        let mut program = None;
        let door = match kind {
            Kind::Mock => Door::dial(InterfaceKind::Mock, None, latency),
            Kind::Dialled => {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                let endpoint = format!("ws://{}", listener.local_addr().expect("its address"));
                let (worker, stop) = (real(latency), stop.clone());
                tokio::spawn(async move { worker.serve(listener, Default::default(), stop).await });
                Door::dial(InterfaceKind::Websocket, Some(endpoint), latency)
            }
            Kind::DialsIn => {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                let url = format!("ws://{}", listener.local_addr().expect("its address"));
                let (worker, stop) = (real(latency), stop.clone());
                let options = sdk::ConnectOptions {
                    initial_backoff: Duration::from_millis(5),
                    max_backoff: Duration::from_millis(50),
                    ..Default::default()
                };
                tokio::spawn(async move { worker.connect(&url, options, stop).await });
                Door::accept(listener)
            }
            Kind::PythonDialled => {
                let started = program.insert(in_python("listens", "127.0.0.1:0", latency));
                let endpoint = format!("ws://{}", started.address("listening on"));
                Door::dial(InterfaceKind::Websocket, Some(endpoint), latency)
            }
            Kind::PythonDialsIn => {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                let url = format!("ws://{}", listener.local_addr().expect("its address"));
                program = Some(in_python("dials", &url, latency));
                Door::accept(listener)
            }
        };
        Self { door, _stop: stop.drop_guard(), _program: program }
    }

    /// Connects, again and again while the worker has not noticed the end of the last connection.
    pub(super) async fn connect(&self, conn: u64) -> (Core, Registration) {
        loop {
            let (io, ways) = ways(conn, LinkLimits::default());
            let mut core = ways.core(tokio::spawn(self.door.run(io).await));
            match core.up().await {
                Ok(registration) => return (core, registration),
                Err(Ended::NotConnected(ConnectOutcome::Duplicate, _)) => {
                    tokio::time::sleep(Duration::from_millis(2)).await
                }
                Err(other) => panic!("not connected: {other:?}"),
            }
        }
    }

    /// Connects and registers, with nothing to reconcile.
    pub(super) async fn registered(&self, conn: u64) -> Core {
        let (core, _) = self.connect(conn).await;
        core.order(welcome(|_| {})).await;
        core
    }
}

impl Door {
    fn dial(kind: InterfaceKind, endpoint: Option<String>, latency: Duration) -> Self {
        let target = target(kind, endpoint, latency);
        Self::Dial(WorkerInterfaceFactory::new().interface(&target.spec), target)
    }

    /// Takes what dials this listener.
    fn accept(listener: TcpListener) -> Self {
        let (upgraded, accepted) = mpsc::channel(1);
        tokio::spawn(accept(listener, upgraded));
        Self::Accept(Mutex::new(accepted))
    }

    async fn run(&self, io: LinkIo) -> rollcall::interface::BoxFuture<Ended> {
        match self {
            Self::Dial(interface, target) => interface.run(target.clone(), io),
            Self::Accept(accepted) => {
                let stream = within(accepted.lock().await.recv()).await.expect("the worker dials again");
                Box::pin(serve_upgraded(stream, Vec::new(), Pass::default(), io))
            }
        }
    }
}

/// Whom to dial.
pub(super) fn target(interface: InterfaceKind, endpoint: Option<String>, latency: Duration) -> Target {
    let spec = WorkerSpec {
        name: "ann".into(),
        formerly: None,
        origin: Origin::File,
        pool: None,
        interface,
        endpoint: endpoint.map(Into::into),
        capabilities: Some(vec!["echo.*".into()]),
        slots: None,
        timeout: Duration::from_secs(300),
        labels: Default::default(),
        launch: None,
        mock: MockSpec { latency, ..MockSpec::default() },
    };
    Target {
        worker: "ann".into(),
        spec: Arc::new(spec),
        token: None,
        tls: Tls::default(),
        files: ClientFiles::default(),
    }
}

fn real(latency: Duration) -> sdk::Worker {
    let kept = Arc::new(std::sync::Mutex::new(BTreeSet::<String>::new()));
    let (told, ended) = (Arc::clone(&kept), Arc::clone(&kept));
    let echo = move |task: sdk::Task, context: sdk::TaskContext| {
        let kept = Arc::clone(&kept);
        async move {
            tokio::select! {
                () = tokio::time::sleep(latency) => {}
                _ = context.cancelled() => return sdk::TaskEnd::cancelled(),
            }
            kept.lock().expect("no panic").extend(task.session);
            sdk::TaskEnd::succeeded(&task.input)
        }
    };
    sdk::Worker::builder("echo")
        .name("ann")
        .capability(sdk::Capability::new("echo.*").idempotent(true), echo)
        .sessions(move || told.lock().expect("no panic").iter().cloned().collect())
        .on_session_end(move |name| {
            ended.lock().expect("no panic").remove(name);
        })
        .build()
}

/// The same with the Python SDK.
fn in_python(way: &str, place: &str, latency: Duration) -> python::Program {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories/conformance/echo.py");
    python::Program::start(&file, &[way, place, &latency.as_millis().to_string()])
}

/// What the server's API does at `/v1/workers/connect`.
async fn accept(listener: TcpListener, upgraded: mpsc::Sender<TokioIo<hyper::upgrade::Upgraded>>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Dropped with the runtime, as is everything of a test.
        drop(tokio::spawn(upgrade(stream, upgraded.clone())));
    }
}

async fn upgrade(stream: TcpStream, upgraded: mpsc::Sender<TokioIo<hyper::upgrade::Upgraded>>) {
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let response = accept_response(&request).expect("a worker").map(|()| Empty::<bytes::Bytes>::new());
        let (taken, upgraded) = (hyper::upgrade::on(&mut request), upgraded.clone());
        drop(tokio::spawn(async move {
            let stream = TokioIo::new(taken.await.expect("the upgrade"));
            // A test that is over takes no more.
            upgraded.send(stream).await.ok();
        }));
        async move { Ok::<_, Infallible>(response) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    server.serve_connection(TokioIo::new(stream), service).with_upgrades().await.expect("one request");
}
