//! What config.yaml may say: every section, field, type, default and meaning, in one place. The
//! readers, the schema and the errors are all made from these descriptions.

use serde_json::{Value as Json, json};

use super::node::{At, Node};
use super::pool_model::Pools;
use super::reader::{List, Located, Reader, Value, section};
use super::tls_model::{ClientTls, Secret, WorkersListen};
use super::values::{Hundredths, Share, Size, Span, Text, Whole, words};
use super::worker_values::{
    Capabilities, Collector, Command, Endpoint, Labels, Loopback, Variables, Weights,
};
use super::{LogFormat, LogLevel, MAX_WORKERS, StoreKind};
use crate::fleet::{InterfaceKind, WorkerName};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

section! {
    /// The fleet that a Rollcall server runs, and the numbers that it runs it by.
    struct Document {
        /// How the server listens and where it keeps things.
        server: Server = Server::default();
        /// Where tasks are kept.
        store: Store = Store::default();
        /// How the server logs.
        telemetry: Telemetry = Telemetry::default();
        /// How both sides of a connection know that the other one lives.
        heartbeat: Heartbeat = Heartbeat::default();
        /// How a lost worker is dialled again.
        reconnect: Reconnect = Reconnect::default();
        /// What a reload of this file may do.
        reload: Reload = Reload::default();
        /// When a worker that fails is taken out for a while.
        health: Health = Health::default();
        /// How much may wait, and how long.
        queue: Queue = Queue::default();
        /// How a failed task is tried again.
        retry: Retry = Retry::default();
        /// How long finished tasks are kept.
        retention: Retention = Retention::default();
        /// The workers; `[]` for none.
        workers: Workers;
        /// Workers that are made from templates, as many as there is work for.
        pools: Pools = Pools(Vec::new());
    }
    later ["access"]
}

section! {
    /// How the server listens and where it keeps things.
    struct Server {
        /// Where the API listens. Only loopback, for this version has no access control. Changing it takes a restart.
        listen: Located<Loopback> = Located::nowhere(Loopback(([127, 0, 0, 1], 7600).into()));
        /// Where the server keeps what it must find again; relative to this file. Changing it takes a restart.
        data_dir: Located<Text> = Located::nowhere(Text("./data".to_owned()));
        /// The largest request body.
        max_body: Size<1024, { 16 << 20 }> = Size(1 << 20);
        /// How long a stopping server waits for launched workers to finish.
        drain_timeout: Span<0, DAY> = Span::seconds(30);
        /// Host names that requests may bear beside those of loopback.
        allowed_hosts: List<Text, 100> = List(Vec::new());
        /// Origins, such as http://localhost:5173, whose web pages may call the API.
        allowed_origins: List<Text, 100> = List(Vec::new());
        /// Moves /metrics and /metrics/workers to an address of their own. Only loopback. Changing it takes a restart.
        metrics_listen: Option<Located<Loopback>> = None;
        /// A listener for workers that dial in, and for nothing else; they always show a token there. Its address alone, or `{ listen, tls }`. Changing it takes a restart; what its files hold does not.
        workers_listen: Option<Located<WorkersListen>> = None;
    }
    later ["tls", "behind_proxy"]
}

section! {
    /// Where tasks are kept.
    struct Store {
        /// `sqlite`: in a database in `server.data_dir`. `memory`: tasks are gone when the server stops. Omitted: sqlite; in memory for an agent inside another program. Changing it takes a restart.
        kind: Option<Located<StoreKind>> = None;
    }
    later ["durability"]
}

section! {
    /// How the server logs, and where it sends traces.
    struct Telemetry {
        /// `text` for people, `json` for programs. Changing it takes a restart.
        log: Located<LogFormat> = Located::nowhere(LogFormat::Text);
        /// The least severe lines that are written.
        level: LogLevel = LogLevel::Info;
        /// The OpenTelemetry collector that gets a span for each part of a task's life, by OTLP over HTTP; `/v1/traces` is put behind it. Omitted: none. Changing it takes a restart.
        otlp: Option<Located<Collector>> = None;
        /// How often a probe goes the whole way of a task, for each pool whose workers have a canary; `0s`: never. The alert wants one every two minutes.
        probe: Span<0, { 120 * SECOND }> = Span::seconds(60);
    }
    later []
}

section! {
    /// How both sides of a connection know that the other one lives. The four rise in this order.
    struct Heartbeat {
        /// How often both sides send a heartbeat.
        interval: Located<Span<10, HOUR>> = Located::nowhere(Span::seconds(30));
        /// Silence after which a worker gets no new work. Omitted: 1.5 intervals.
        suspect_after: Option<Located<Span<10, DAY>>> = None;
        /// Silence after which its connection is closed. Omitted: 2.5 intervals.
        timeout: Option<Located<Span<10, DAY>>> = None;
        /// Silence after which its tasks are taken for lost. Omitted: 4 intervals.
        lease: Option<Located<Span<10, DAY>>> = None;
    }
    later []
}

section! {
    /// How a lost worker is dialled again.
    struct Reconnect {
        /// The first wait.
        initial_backoff: Located<Span<1, HOUR>> = Located::nowhere(Span::millis(100));
        /// The longest wait.
        max_backoff: Located<Span<1, HOUR>> = Located::nowhere(Span::seconds(30));
        /// What the wait is multiplied by after each failure.
        multiplier: Hundredths<100, 1000> = Hundredths(200);
        /// How much of the wait is drawn at random; 1 is full jitter.
        jitter: Hundredths<0, 100> = Hundredths(100);
    }
    later []
}

section! {
    /// What a reload of this file may do.
    struct Reload {
        /// Whether it may remove more than half of the fleet (and at least five workers) unasked.
        allow_mass_removal: bool = false;
        /// How long a worker that was removed or moved may finish what it runs. Omitted: as long as its tasks' own limits allow.
        removal_grace: Option<Span<0, { 30 * DAY }>> = None;
    }
    later []
}

section! {
    /// When a worker that fails is taken out for a while. Only failures of the worker count, never those of the code that it was given.
    struct Health {
        /// Failures in a row that eject a worker.
        consecutive_failures: Whole<1, 1_000> = Whole(5);
        /// How long it is out, times how often it was ejected.
        base_ejection_time: Located<Span<1, DAY>> = Located::nowhere(Span::seconds(30));
        /// The longest that it is out.
        max_ejection_time: Located<Span<1, DAY>> = Located::nowhere(Span::seconds(300));
        /// How many percent of like workers may be out at once.
        max_ejection_percent: Whole<0, 100> = Whole(50);
    }
    later []
}

section! {
    /// How much may wait, and how long.
    struct Queue {
        /// Tasks that are not finished; more are refused with 429.
        max_depth: Whole<1, 10_000_000> = Whole(100_000);
        /// Bytes of their inputs; more are refused with 429.
        max_bytes: Size<1024, { 1 << 40 }> = Size(1 << 30);
        /// How long a task with a waiting caller may wait if it does not say so itself.
        queue_timeout: Span<1, { 30 * DAY }> = Span::seconds(300);
        /// Shares of the queue by fairness key; a key that is not named has 1.
        fairness_weights: Weights = Weights::default();
    }
    later []
}

section! {
    /// How a failed task is tried again, where that is safe.
    struct Retry {
        /// Attempts at most, the first one included.
        max_attempts: Whole<1, 100> = Whole(3);
        /// The first wait.
        initial_interval: Located<Span<1, DAY>> = Located::nowhere(Span::millis(200));
        /// What the wait is multiplied by after each attempt.
        backoff_coefficient: Hundredths<100, 1000> = Hundredths(200);
        /// The longest wait.
        max_interval: Located<Span<1, DAY>> = Located::nowhere(Span::seconds(30));
    }
    later []
}

section! {
    /// How long finished tasks are kept; whichever bound is reached first. The store in memory keeps no more than 10,000 and 64 MiB.
    struct Retention {
        /// At most so long.
        finished_tasks: Span<SECOND, { 3650 * DAY }> = Span::seconds(7 * 24 * 3_600);
        /// At most so many.
        max_tasks: Whole<1, 1_000_000_000> = Whole(1_000_000);
        /// At most so many bytes of them: inputs, outputs and what was shown meanwhile.
        max_bytes: Size<1024, { 1 << 40 }> = Size(10 << 30);
        /// Files that tasks made, or callers uploaded: at most so long.
        artifacts: Span<SECOND, { 3650 * DAY }> = Span::seconds(7 * 24 * 3_600);
    }
    later []
}

section! {
    /// One worker: an endpoint that runs tasks.
    struct Worker {
        /// Its identity: 1 to 63 characters from a-z, 0-9, `.`, `_` and `-`.
        name: Located<WorkerName>;
        /// The name that it had before; its connection carries over.
        formerly: Option<Located<WorkerName>> = None;
        /// `websocket`, or `mock` for a stand-in that needs no process.
        interface: Located<InterfaceKind> = Located::nowhere(InterfaceKind::Websocket);
        /// Where it listens, such as ws://127.0.0.1:3001 or wss://worker.example:3001. Omitted: it dials in.
        endpoint: Option<Located<Endpoint>> = None;
        /// What it may be asked for; `browser.*` covers all that begins with `browser.`. Omitted: all that it registers.
        capabilities: Option<Capabilities> = None;
        /// Tasks at once. Omitted: what it registers, else 4; where both speak, the smaller.
        slots: Option<Whole<1, 1_024>> = None;
        /// The longest that one attempt may run, unless its task sets a shorter time.
        timeout: Span<1, { 30 * DAY }> = Span::seconds(300);
        /// Words that tasks can ask for; they win over those that the worker registers.
        labels: Labels = Labels::default();
        /// A program that the server starts for it, watches, and stops.
        launch: Option<Located<Launch>> = None;
        /// How its mock twin behaves.
        mock: Mock = Mock::default();
        /// The secret of both: shown to a worker that is dialled, asked of one that dials in; by reference, such as "${WORKER_TOKEN}".
        token: Option<Located<Secret>> = None;
        /// Whom to believe, and what to show, where the endpoint is wss://.
        tls: Option<Located<ClientTls>> = None;
    }
    later ["sessions", "mcp", "pool"]
}

section! {
    /// A program that the server starts for a worker, watches, and stops.
    struct Launch {
        /// The program and its arguments. A bare name is looked for beside the server's own program, then on PATH; a relative path starts at this file's folder.
        command: Located<Command>;
        /// Environment beside the few names that every launched program gets.
        env: Variables = Variables::default();
    }
    later []
}

section! {
    /// How a mock worker behaves.
    struct Mock {
        /// How long a task takes.
        latency: Span<0, HOUR> = Span::millis(0);
        /// The share of tasks that fail, from 0 to 1; drawn from the seed, retryable, and the worker's fault.
        failure_rate: Share = Share(0);
        /// The seed of the draws.
        seed: Whole<0, { u64::MAX >> 1 }> = Whole(1);
    }
    later []
}

/// Sections without required fields have defaults: those of an empty mapping.
macro_rules! default_of_empty {
    ($($Section:ident),*) => {$(
        impl Default for $Section {
            fn default() -> Self {
                let empty = $crate::config::node::Node::of_json(&serde_json::Value::Null);
                let mut reader = $crate::config::reader::Reader::of_request();
                <Self as $crate::config::reader::Value>::read(&empty, &$crate::config::node::At::ROOT, &mut reader).expect("every field has a default")
            }
        }
    )*};
}
pub(super) use default_of_empty;

default_of_empty!(
    Server, Store, Telemetry, Heartbeat, Reconnect, Reload, Health, Queue, Retry, Retention, Mock
);

/// The entries under `workers:`, each with its place. Those that are wrong are left out.
#[derive(Debug, Clone)]
pub(super) struct Workers(pub(super) Vec<(usize, Located<Worker>)>);

impl Value for Workers {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let items = reader.list(node, at, MAX_WORKERS)?;
        let mut workers = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            workers.extend(Located::read(item, &at.index(n), reader).map(|worker| (n, worker)));
        }
        Some(Self(workers))
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": Worker::schema(), "maxItems": MAX_WORKERS })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

words! { LogFormat { "text" => Text, "json" => Json, } }
words! { LogLevel { "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace, } }

impl Value for StoreKind {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if node.word() == Some("nats") {
            let message = "`nats` is not supported by this version; write sqlite or memory, or leave it out";
            reader.problem(node.place, at, message);
            return None;
        }
        let kind = node.word().and_then(|word| Self::ALL.into_iter().find(|kind| kind.as_str() == word));
        reader.or_wanted(kind, node, at, || "one of sqlite, memory".to_owned())
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }

    fn written(&self) -> Option<Json> {
        Some(self.as_str().into())
    }
}

impl Value for InterfaceKind {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let kind = match node.word() {
            Some("websocket") => Some(Self::Websocket),
            Some("mock") => Some(Self::Mock),
            Some("mcp") => {
                reader.problem(node.place, at, "`mcp` is not supported by this version");
                return None;
            }
            _ => None,
        };
        reader.or_wanted(kind, node, at, || "one of websocket, mock".to_owned())
    }

    fn schema() -> Json {
        json!({ "enum": ["websocket", "mock"] })
    }

    fn written(&self) -> Option<Json> {
        Some(
            match self {
                Self::Websocket => "websocket",
                Self::Mock => "mock",
            }
            .into(),
        )
    }
}
