//! The rules that span fields and entries, and the way from the document's types to those of the
//! fleet. What leaves here has passed every check.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::model::{Document, Heartbeat, Launch, Server, Worker};
use super::node::{At, Place};
use super::pool_check::check_pools;
use super::reader::{Located, Reader};
use super::tls_model;
use super::tls_model::Certificates;
use super::values::spelled;
use super::{
    Config, Env, Fixed, ReloadConfig, RetentionConfig, ServerConfig, StoreConfig, StoreKind, TelemetryConfig,
    WorkersListen,
};
use crate::fleet::{InterfaceKind, LaunchSpec, MockSpec, Origin, Settings, Topology, WorkerName, WorkerSpec};
use crate::trust::{ClientFiles, Credential, Credentials};

/// How workers are made from their entries.
pub(super) struct Making<'e> {
    /// Whether every worker becomes its mock twin.
    pub(super) all_mock: bool,
    /// Where relative paths start.
    pub(super) folder: &'e Path,
    /// Where programs are looked for.
    pub(super) env: &'e Env,
}

impl<'e> Making<'e> {
    /// Reads `ROLLCALL_WORKER_INTERFACE`.
    pub(super) fn new(env: &'e Env, folder: &'e Path, reader: &mut Reader<'_>) -> Self {
        const NAME: &str = "ROLLCALL_WORKER_INTERFACE";
        let all_mock = match env.get(NAME) {
            Some("mock") => true,
            None | Some("real" | "") => false,
            Some(other) => {
                let message = format!("{other:?} is not one of mock, real");
                reader.problem(Place::default(), &At::ROOT.field(NAME), message);
                false
            }
        };
        Self { all_mock, folder, env }
    }

    /// The whole configuration. Problems are in `reader`; the result counts only without any.
    pub(super) fn config(&self, file: Arc<str>, document: Document, reader: &mut Reader<'_>) -> Config {
        self.check_workers(&document, reader);
        check_pools(&document, reader);
        let settings = settings(&document, reader);
        let fixed = self.fixed(&document, reader);
        let mut credentials = Credentials::default();
        let server = self.server(document.server, reader);
        let open = server.workers_listen.is_some();
        let mut programs = Programs::new(self);
        let mut lines = BTreeMap::new();
        let mut workers = BTreeMap::new();
        let all = At::ROOT.field("workers");
        for (n, entry) in document.workers.0 {
            lines.insert(entry.value.name.value.clone(), entry.place.line);
            let at = all.index(n);
            let (spec, credential) = self.worker(entry.value, Origin::File, &mut programs, &at, reader);
            check_token(open, &spec, &credential, (entry.place, &at), reader);
            credentials.worker(spec.name.clone(), credential);
            workers.insert(spec.name.clone(), Arc::new(spec));
        }
        let (pools, pool_lines) = self.pools(document.pools.0, open, &mut credentials, &mut programs, reader);
        Config {
            file,
            server,
            store: StoreConfig { kind: document.store.kind.as_ref().map(|kind| kind.value) },
            telemetry: TelemetryConfig {
                log: document.telemetry.log.value,
                level: document.telemetry.level,
                otlp: document.telemetry.otlp.map(|collector| collector.value.0),
                probe: document.telemetry.probe.0,
            },
            retention: RetentionConfig {
                finished_tasks: document.retention.finished_tasks.0,
                max_tasks: document.retention.max_tasks.0,
                max_bytes: document.retention.max_bytes.0,
                artifacts: document.retention.artifacts.0,
            },
            reload: ReloadConfig { allow_mass_removal: document.reload.allow_mass_removal },
            topology: Topology { workers, pools, settings, ..Topology::default() },
            credentials: Arc::new(credentials),
            lines,
            pool_lines,
            hash: "".into(),
            fixed,
            warnings: Vec::new(),
        }
    }

    fn server(&self, server: Server, reader: &mut Reader<'_>) -> ServerConfig {
        let workers_listen = server.workers_listen.map(|door| self.workers_listen(&door, reader));
        ServerConfig {
            listen: server.listen.value.0,
            data_dir: self.path(&server.data_dir.value.0),
            max_body: server.max_body.0,
            drain_timeout: server.drain_timeout.0,
            allowed_hosts: server.allowed_hosts.0.into_iter().map(|host| host.0).collect(),
            allowed_origins: server.allowed_origins.0.into_iter().map(|origin| origin.0).collect(),
            metrics_listen: server.metrics_listen.map(|address| address.value.0),
            workers_listen,
        }
    }

    /// The listener for workers: off loopback only with a certificate.
    fn workers_listen(
        &self,
        door: &Located<tls_model::WorkersListen>,
        reader: &mut Reader<'_>,
    ) -> WorkersListen {
        let section = At::ROOT.field("server");
        let at = section.field("workers_listen");
        let tls_model::WorkersListen(tls_model::WorkersDoor { listen, tls }) = &door.value;
        let tls =
            tls.as_ref().map(|tls| Certificates::new(self.folder).server(tls, &at.field("tls"), reader));
        let address = listen.value.0;
        if tls.is_none() && !address.ip().is_loopback() && !reader.is_wrong(&at.field("tls")) {
            let message = format!(
                "{address} lets other machines in, so it needs a certificate: \
                 `workers_listen: {{ listen: \"{address}\", tls: {{ cert: server.pem, key: server.key }} }}`"
            );
            reader.problem(listen.place, &at, message);
        }
        WorkersListen { listen: address, tls }
    }

    /// A relative path starts at the file's folder.
    fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path.strip_prefix("./").unwrap_or(path))
    }

    /// What takes a restart to change, always in this order.
    fn fixed(&self, document: &Document, reader: &Reader<'_>) -> Vec<Fixed> {
        let field = |path, place, value| Fixed { path, value, place: reader.placed(place, path) };
        let server = &document.server;
        let (metrics, telemetry) = (server.metrics_listen.as_ref(), &document.telemetry);
        vec![
            field("server.listen", server.listen.place, server.listen.value.0.to_string()),
            field(
                "server.metrics_listen",
                metrics.map_or(Place::default(), |it| it.place),
                metrics.map_or("nothing".to_owned(), |it| it.value.0.to_string()),
            ),
            field(
                "server.workers_listen",
                server.workers_listen.as_ref().map_or(Place::default(), |door| door.place),
                server.workers_listen.as_ref().map_or("nothing".to_owned(), |door| shown(&door.value)),
            ),
            field(
                "server.data_dir",
                server.data_dir.place,
                self.path(&server.data_dir.value.0).display().to_string(),
            ),
            field(
                "store.kind",
                document.store.kind.as_ref().map(|kind| kind.place).unwrap_or_default(),
                document.store.kind.as_ref().map_or(StoreKind::Sqlite, |kind| kind.value).as_str().to_owned(),
            ),
            field("telemetry.log", telemetry.log.place, telemetry.log.value.as_str().to_owned()),
            field(
                "telemetry.otlp",
                telemetry.otlp.as_ref().map(|collector| collector.place).unwrap_or_default(),
                telemetry.otlp.as_ref().map_or("nothing".to_owned(), |it| it.value.0.to_string()),
            ),
        ]
    }

    /// The rules between the entries: names, former names and endpoints differ.
    fn check_workers(&self, document: &Document, reader: &mut Reader<'_>) {
        let all = At::ROOT.field("workers");
        let mut names: HashMap<&WorkerName, usize> = HashMap::new();
        let mut formers: HashMap<&WorkerName, usize> = HashMap::new();
        let mut endpoints: HashMap<&str, usize> = HashMap::new();
        for (n, Located { value: worker, .. }) in &document.workers.0 {
            let at = all.index(*n);
            let name = &worker.name;
            if let Some(first) = names.insert(&name.value, *n) {
                let message = format!("\"{}\" is taken by workers[{first}]; names must differ", name.value);
                reader.problem(name.place, &at.field("name"), message);
            }
            if let Some(endpoint) = &worker.endpoint
                && let Some(first) = endpoints.insert(&endpoint.value.key, *n)
            {
                let message = format!(
                    "{} is the endpoint of workers[{first}]; endpoints must differ",
                    endpoint.value.url
                );
                reader.problem(endpoint.place, &at.field("endpoint"), message);
            }
            if let Some(former) = &worker.formerly
                && let Some(first) = formers.insert(&former.value, *n)
            {
                let message =
                    format!("\"{}\" is what workers[{first}] was; a worker becomes one other", former.value);
                reader.problem(former.place, &at.field("formerly"), message);
            }
        }
        for (n, Located { value: worker, .. }) in &document.workers.0 {
            if let Some(former) = &worker.formerly
                && let Some(holder) = names.get(&former.value)
            {
                let at = all.index(*n);
                let message =
                    format!("has no effect while workers[{holder}] is still called \"{}\"", former.value);
                reader.warning(former.place, &at.field("formerly"), message);
            }
        }
    }

    /// One worker, with the rules of its own fields.
    pub(super) fn worker(
        &self,
        entry: Worker,
        origin: Origin,
        programs: &mut Programs<'_>,
        at: &At<'_>,
        reader: &mut Reader<'_>,
    ) -> (WorkerSpec, Credential) {
        let place = entry.name.place;
        let real = entry.interface.value;
        if real == InterfaceKind::Mock && entry.capabilities.is_none() {
            let message = "is missing; a mock offers what its entry states, and nothing else";
            reader.problem(place, &at.field("capabilities"), message);
        } else if self.all_mock && entry.capabilities.is_none() {
            let message = "is missing, so its mock twin offers nothing";
            reader.warning(place, &at.field("capabilities"), message);
        }
        let interface = if self.all_mock { InterfaceKind::Mock } else { real };
        let credential = credential(&entry, (origin, interface), programs, at, reader);
        let launch = entry.launch.map(|launch| (launch.place, launch.value));
        let launch = launch.and_then(|(place, launch)| match (origin, interface) {
            (Origin::Api, _) => {
                let message = "only the file may name programs to launch";
                reader.problem(place, &at.field("launch"), message);
                None
            }
            (_, InterfaceKind::Mock) => None,
            (_, InterfaceKind::Websocket) => programs.launch(launch, &at.field("launch"), reader),
        });
        let spec = WorkerSpec {
            name: entry.name.value,
            formerly: entry.formerly.map(|former| former.value),
            origin,
            pool: None,
            interface,
            endpoint: entry.endpoint.map(|endpoint| endpoint.value.url),
            capabilities: entry.capabilities.map(|capabilities| capabilities.0),
            slots: entry.slots.map(|slots| narrow(slots.0)),
            timeout: entry.timeout.0,
            labels: entry.labels.0,
            launch,
            mock: MockSpec {
                latency: entry.mock.latency.0,
                failures_per_million: entry.mock.failure_rate.0,
                seed: entry.mock.seed.0,
            },
        };
        (spec, credential)
    }
}

/// How a listener is shown beside another one.
fn shown(door: &tls_model::WorkersListen) -> String {
    let tls_model::WorkersListen(tls_model::WorkersDoor { listen, tls }) = door;
    let Some(Located { value: tls, .. }) = tls else { return listen.value.0.to_string() };
    let ca = tls.client_ca.as_ref().map_or(String::new(), |ca| format!(", client_ca {}", ca.value.0));
    format!("{} with cert {}, key {}{ca}", listen.value.0, tls.cert.value.0, tls.key.value.0)
}

/// What a worker shows and is shown, with the rules of that.
fn credential(
    entry: &Worker,
    (origin, interface): (Origin, InterfaceKind),
    programs: &mut Programs<'_>,
    at: &At<'_>,
    reader: &mut Reader<'_>,
) -> Credential {
    let mut credential = Credential {
        token: entry.token.as_ref().map(|token| token.value.0.clone()),
        tls: ClientFiles::default(),
    };
    if interface == InterfaceKind::Mock {
        return credential;
    }
    if let (Some(token), Some(_)) = (&entry.token, &entry.launch) {
        let message = "has no use: a program that the server starts gets a fresh token each time";
        reader.problem(token.place, &at.field("token"), message);
    }
    let secure = entry.endpoint.as_ref().filter(|endpoint| endpoint.value.secure);
    match (&entry.tls, secure) {
        (Some(tls), _) if origin == Origin::Api => {
            let message = "only the file may name certificates";
            reader.problem(tls.place, &at.field("tls"), message);
        }
        (Some(tls), Some(_)) => credential.tls = programs.certificates.client(tls, &at.field("tls"), reader),
        (Some(tls), None) => {
            let message = match entry.endpoint {
                Some(_) => "has no use: the endpoint is ws://, without TLS; write wss://",
                None => "has no use: this worker dials in, and server.workers_listen.tls is for that",
            };
            reader.problem(tls.place, &at.field("tls"), message);
        }
        (None, Some(endpoint)) => programs.certificates.usual(endpoint.place, at, reader),
        (None, None) => {}
    }
    if let Some(endpoint) = entry.endpoint.as_ref().filter(|endpoint| !endpoint.value.loopback) {
        let message = match (endpoint.value.secure, &entry.token) {
            (true, Some(_)) => return credential,
            (true, None) => "leaves this machine without a token, which workers ask for there; set `token`",
            (false, Some(_)) => "leaves this machine unencrypted, the token too; use wss://",
            (false, None) => {
                "leaves this machine unencrypted and without a token; use wss://, and set `token`"
            }
        };
        reader.warning(endpoint.place, &at.field("endpoint"), message);
    }
    credential
}

/// Where other machines may come in, whoever dials in has a token.
pub(super) fn check_token(
    open: bool,
    spec: &WorkerSpec,
    credential: &Credential,
    (place, at): (Place, &At<'_>),
    reader: &mut Reader<'_>,
) {
    let dials_in =
        spec.interface == InterfaceKind::Websocket && spec.endpoint.is_none() && spec.launch.is_none();
    if open && dials_in && credential.token.is_none() {
        let message =
            "is missing; with server.workers_listen, every worker that dials in has one: token: \"${NAME}\"";
        reader.problem(place, &at.field("token"), message);
    }
}

/// What entries refer to outside of the document, each looked for once: programs and certificates.
pub(super) struct Programs<'e> {
    pub(super) certificates: Certificates<'e>,
    folder: &'e Path,
    folders: Vec<PathBuf>,
    found: HashMap<String, Option<PathBuf>>,
}

impl<'e> Programs<'e> {
    pub(super) fn new(making: &Making<'e>) -> Self {
        let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
        let path = making.env.get("PATH").unwrap_or_default();
        let folders = beside.into_iter().chain(std::env::split_paths(path)).collect();
        let certificates = Certificates::new(making.folder);
        Self { certificates, folder: making.folder, folders, found: HashMap::new() }
    }

    fn launch(&mut self, launch: Launch, at: &At<'_>, reader: &mut Reader<'_>) -> Option<LaunchSpec> {
        let at = at.field("command");
        let place = launch.command.place;
        let mut words = launch.command.value.0.into_iter().map(|word| word.0);
        let Some(program) = words.next() else {
            reader.problem(place, &at, "is empty; the first word is the program");
            return None;
        };
        let program = match self.find(&program) {
            Some(found) => found.display().to_string(),
            None => {
                let message = format!(
                    "there is no program {program:?} {}; the worker cannot start before there is",
                    if program.contains('/') {
                        "at that path"
                    } else {
                        "beside the server's own, nor on PATH"
                    }
                );
                reader.warning(place, &at, message);
                program
            }
        };
        Some(LaunchSpec { command: std::iter::once(program).chain(words).collect(), env: launch.env.0 })
    }

    /// Where a program is; `None` where it is not.
    pub(super) fn find(&mut self, program: &str) -> Option<PathBuf> {
        if let Some(found) = self.found.get(program) {
            return found.clone();
        }
        let found = if program.contains('/') {
            Some(self.folder.join(program.strip_prefix("./").unwrap_or(program)))
                .filter(|path| path.is_file())
        } else {
            self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
        };
        self.found.insert(program.to_owned(), found.clone());
        found
    }
}

fn settings(document: &Document, reader: &mut Reader<'_>) -> Settings {
    let Document { reconnect, reload, health, queue, retry, .. } = document;
    let [interval, suspect_after, timeout, lease] = heartbeat(&document.heartbeat, reader);
    let mut rise = |section: &str, low: (&str, Duration), high: (&str, Duration), place| {
        if high.1 < low.1 {
            let message = format!("{} is shorter than {} ({})", spelled(high.1), low.0, spelled(low.1));
            reader.problem(place, &At::ROOT.field(section).field(high.0), message);
        }
    };
    rise(
        "reconnect",
        ("initial_backoff", reconnect.initial_backoff.value.0),
        ("max_backoff", reconnect.max_backoff.value.0),
        later_of(reconnect.initial_backoff.place, reconnect.max_backoff.place),
    );
    rise(
        "health",
        ("base_ejection_time", health.base_ejection_time.value.0),
        ("max_ejection_time", health.max_ejection_time.value.0),
        later_of(health.base_ejection_time.place, health.max_ejection_time.place),
    );
    rise(
        "retry",
        ("initial_interval", retry.initial_interval.value.0),
        ("max_interval", retry.max_interval.value.0),
        later_of(retry.initial_interval.place, retry.max_interval.place),
    );
    Settings {
        heartbeat_interval: interval,
        suspect_after,
        heartbeat_timeout: timeout,
        lease,
        initial_backoff: reconnect.initial_backoff.value.0,
        max_backoff: reconnect.max_backoff.value.0,
        backoff_multiplier_percent: reconnect.multiplier.0,
        backoff_jitter_percent: reconnect.jitter.0,
        consecutive_failures: narrow(health.consecutive_failures.0),
        base_ejection: health.base_ejection_time.value.0,
        max_ejection: health.max_ejection_time.value.0,
        max_ejection_percent: narrow(health.max_ejection_percent.0),
        max_depth: queue.max_depth.0,
        max_bytes: queue.max_bytes.0,
        queue_timeout: queue.queue_timeout.0,
        fairness_weights: queue.fairness_weights.0.clone(),
        max_attempts: narrow(retry.max_attempts.0),
        retry_initial: retry.initial_interval.value.0,
        retry_coefficient_percent: retry.backoff_coefficient.0,
        retry_max: retry.max_interval.value.0,
        removal_grace: reload.removal_grace.map(|grace| grace.0),
        ..Settings::default()
    }
}

/// Interval, suspicion, timeout and lease: in rising order, the omitted ones from the interval.
fn heartbeat(heartbeat: &Heartbeat, reader: &mut Reader<'_>) -> [Duration; 4] {
    let interval = heartbeat.interval.value.0;
    let or = |field: &Option<Located<_>>, tenths: u32, value: fn(&_) -> Duration| {
        let written = field.as_ref().map(|field: &Located<_>| (value(&field.value), field.place));
        written.unwrap_or((interval * tenths / 10, heartbeat.interval.place))
    };
    let steps = [
        ("interval", (interval, heartbeat.interval.place)),
        ("suspect_after", or(&heartbeat.suspect_after, 15, |span| span.0)),
        ("timeout", or(&heartbeat.timeout, 25, |span| span.0)),
        ("lease", or(&heartbeat.lease, 40, |span| span.0)),
    ];
    let section = At::ROOT.field("heartbeat");
    for pair in steps.windows(2) {
        if let [(low, (least, before)), (high, (most, place))] = pair
            && most <= least
        {
            let message = format!(
                "{} is not above {low} ({}); interval, suspect_after, timeout and lease must rise in this order",
                spelled(*most),
                spelled(*least)
            );
            reader.problem(later_of(*place, *before), &section.field(high), message);
        }
    }
    let (lease, place) = steps[3].1;
    let enough = interval * 5 / 2 + Duration::from_secs(15);
    if heartbeat.lease.is_some() && lease < enough {
        let message = format!(
            "{} is short: below 2.5 intervals and 15s ({}) a worker that only lost its connection may lose its tasks too",
            spelled(lease),
            spelled(enough)
        );
        reader.warning(place, &section.field("lease"), message);
    }
    steps.map(|(_, (span, _))| span)
}

/// Of two places the later one that is there at all: a default has none.
fn later_of(one: Place, other: Place) -> Place {
    if (one.line, one.column) > (other.line, other.column) { one } else { other }
}

/// The readers' bounds are far below.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
