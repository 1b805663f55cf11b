//! The one table of every metric: name, type, labels, help and buckets. What is counted, what a
//! scrape shows and the reference page (`docs/metrics.md`) all come from it.

use crate::fleet::autoscaler::{Direction, Reason};
use crate::fleet::{AttemptOutcome, ConnectOutcome, Discard, Fault, Source, TaskState, Why, WorkerState};

/// One family of series.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Where it stands in the reference.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [Label],
    /// One sentence for people; also the text of `# HELP`.
    pub help: &'static str,
}

/// A family's type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// May fall.
    Gauge,
    /// Counts by these upper bounds, in seconds or bytes.
    Histogram(&'static [f64]),
}

/// A label.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Where its values come from; never from what a client sends.
    pub values: Values,
}

/// Where a label's values come from.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// A closed set.
    Words(fn() -> Vec<&'static str>),
    /// The names in the topology, bounded, the rest folded into `other`.
    Topology,
    /// The program itself: its build, its routes, the hash of its configuration.
    Program,
}

impl Kind {
    /// The word of `# TYPE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

impl Family {
    /// Whether it is shown on `/metrics/workers` and nowhere else.
    pub fn is_per_worker(&self) -> bool {
        self.section == PER_WORKER
    }

    /// Every combination of label values, where all of them come from closed sets; else none.
    pub fn combinations(&self) -> Vec<Vec<&'static str>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let Values::Words(words) = label.values else { return Vec::new() };
            let words = words();
            all = all
                .iter()
                .flat_map(|head| {
                    words.iter().map(move |word| head.iter().copied().chain([*word]).collect::<Vec<_>>())
                })
                .collect();
        }
        all
    }
}

/// 100 µs to 10 s.
pub const FAST: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// 500 µs to 10 s, coarser than [`FAST`]: there is one of these for each route, and each pool.
pub const COARSE: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];
/// 10 ms to 1 min, coarse: a program is started for each, so there are few, and none is quicker.
pub const HOOK: &[f64] = &[0.01, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// 100 ms to 1 h, coarse: of what happens to a pool a few times a day.
pub const RARE: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// 500 µs to 15 min.
pub const WIDE: &[f64] =
    &[0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];
/// 10 ms to 1 h.
pub const EXEC: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
    3600.0,
];
/// Fractions and multiples of the 30 s heartbeat interval.
pub const LATE: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 45.0, 60.0, 90.0, 120.0];
/// 256 bytes to 16 MiB.
pub const SIZE: &[f64] =
    &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// Attempts of one task.
pub const ATTEMPTS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 13.0];
/// Rows of one commit.
pub const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];

const AUTOSCALER: &str = "Autoscaler";
const PER_WORKER: &str = "Per worker (only on /metrics/workers)";

const CAPABILITY: Label = Label { name: "capability", values: Values::Topology };
const POOL: Label = Label { name: "pool", values: Values::Topology };
const WORKER: Label = Label { name: "worker", values: Values::Topology };

const fn program(name: &'static str) -> Label {
    Label { name, values: Values::Program }
}

/// A label whose values are the words given, or those of an enum.
macro_rules! label {
    ($name:literal = $($word:literal)+) => {
        Label { name: $name, values: Values::Words(|| vec![$($word),+]) }
    };
    ($name:literal = $all:expr, $word:path) => {
        Label { name: $name, values: Values::Words(|| $all.iter().copied().map($word).collect()) }
    };
}

/// The final states of a task.
fn final_states() -> Vec<&'static str> {
    TaskState::ALL.into_iter().filter(|state| state.is_final()).map(TaskState::as_str).collect()
}

/// The other states of a task, with the queued ones told apart.
fn queue_states() -> Vec<&'static str> {
    vec!["queued", "delayed", "assigned", "running", "cancelling"]
}

/// The families with a label that may be folded into `other`.
fn folding() -> Vec<&'static str> {
    let folds = |label: &Label| matches!(label.name, "capability" | "pool" | "route");
    // A pool that is scaled has series of its own, always: no more of them are taken.
    let families = FAMILIES.iter().filter(|family| !family.is_per_worker() && family.section != AUTOSCALER);
    families.filter(|family| family.labels.iter().any(folds)).map(|family| family.name).collect()
}

macro_rules! families {
    ($($section:expr => { $($id:ident: $kind:expr, $name:literal, [$($label:expr),*], $help:literal;)* })*) => {
        $($(
            #[doc = $help]
            pub const $id: Family =
                Family { section: $section, name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )*)*
        /// Every family, in the order of the reference.
        pub const FAMILIES: &[Family] = &[$($($id,)*)*];
    };
}

use Kind::{Counter, Gauge, Histogram};

families! {
    "Identity and process" => {
        BUILD_INFO: Gauge, "rollcall_build_info",
            [program("version"), program("revision"), program("rustc"), program("profile")],
            "Always 1; the labels say what runs.";
        PROCESS_CPU: Counter, "process_cpu_seconds_total", [], "User and system CPU time, in seconds.";
        PROCESS_RESIDENT: Gauge, "process_resident_memory_bytes", [], "Resident memory.";
        PROCESS_VIRTUAL: Gauge, "process_virtual_memory_bytes", [], "Virtual memory.";
        PROCESS_OPEN_FDS: Gauge, "process_open_fds", [], "Open file descriptors.";
        PROCESS_MAX_FDS: Gauge, "process_max_fds", [], "Most file descriptors that may be open.";
        PROCESS_THREADS: Gauge, "process_threads", [], "Threads.";
        PROCESS_START: Gauge, "process_start_time_seconds", [], "When the process began, in Unix time.";
        LIFECYCLE: Gauge, "rollcall_lifecycle",
            [label!("state" = "starting" "recovering" "ready" "draining")],
            "1 for the stage of its life that the server is in.";
        LOOP_LAST_TICK: Gauge, "rollcall_loop_last_tick_timestamp_seconds",
            [label!("loop" = super::metrics::Loop::ALL, super::metrics::Loop::as_str)],
            "When each loop last completed a pass; each passes at least once a minute.";
        LOOP_LATENESS: Histogram(&FAST), "rollcall_loop_lateness_seconds",
            [label!("loop" = super::metrics::Loop::ALL, super::metrics::Loop::as_str)],
            "How much later than planned a pass began.";
        RUNTIME_LAG: Histogram(&FAST), "rollcall_runtime_lag_seconds", [],
            "How much longer than asked a sleep of 100 ms took: the event loop's saturation.";
        RUNTIME_BUSY: Counter, "rollcall_runtime_busy_seconds_total", [],
            "Time that the runtime's threads spent working; its rate by rollcall_runtime_workers is the utilisation.";
        RUNTIME_WORKERS: Gauge, "rollcall_runtime_workers", [], "Threads of the runtime.";
        RUNTIME_ALIVE_TASKS: Gauge, "rollcall_runtime_alive_tasks", [], "Async tasks that are alive.";
        RUNTIME_QUEUE_DEPTH: Gauge, "rollcall_runtime_queue_depth", [],
            "Async tasks in the runtime's shared queue.";
        PANICS: Counter, "rollcall_panics_total", [], "Panics; each is a bug.";
        LOG_EVENTS: Counter, "rollcall_log_events_total",
            [label!("level" = "error" "warn" "info" "debug" "trace")], "Lines logged.";
        TRACE_SPANS_DROPPED: Counter, "rollcall_trace_spans_dropped_total",
            [label!("reason" = "queue_full" "rejected" "unreachable")],
            "Spans that the trace collector did not get.";
    }
    "Tasks" => {
        TASK_SUBMISSIONS: Counter, "rollcall_task_submissions_total",
            [CAPABILITY, label!("source" = Source::ALL, Source::as_str),
             label!("outcome" = "accepted" "deduplicated" "conflict" "invalid" "queue_full" "draining" "unavailable")],
            "Submissions by outcome, counted when answered; other sources than rest are there once used.";
        TASKS_COMPLETED: Counter, "rollcall_tasks_completed_total",
            [CAPABILITY, Label { name: "outcome", values: Values::Words(final_states) },
             label!("fault" = Fault::ALL, Fault::as_str)],
            "Tasks that became final, exactly once each; fault says whose, none for succeeded and cancelled.";
        TASK_ATTEMPTS: Counter, "rollcall_task_attempts_total",
            [CAPABILITY, POOL, label!("outcome" = AttemptOutcome::ALL, AttemptOutcome::as_str)],
            "Attempts that ended.";
        TASK_RETRIES: Counter, "rollcall_task_retries_total",
            [CAPABILITY, label!("reason" = "failed" "timed_out" "worker_lost" "rejected")],
            "Tasks put back into the queue for another attempt.";
        TASK_RETRIES_HELD: Counter, "rollcall_task_retry_budget_exhausted_total", [CAPABILITY],
            "Retries that had to wait, because the budget was used up: a fifth of the first attempts and ten a second.";
        TASK_DEAD_LETTERS: Counter, "rollcall_task_dead_letters_total",
            [CAPABILITY, label!("cause" = "poison" "max_attempts")],
            "Tasks set aside: they took workers down (poison) or used up their attempts.";
        DEAD_LETTERS: Gauge, "rollcall_dead_letter_tasks", [CAPABILITY],
            "Tasks that are set aside now, and kept.";
        RESULTS_DISCARDED: Counter, "rollcall_task_results_discarded_total",
            [label!("reason" = Discard::ALL, Discard::as_str)], "Results that were fenced off.";
        RECONCILIATIONS: Counter, "rollcall_task_reconciliations_total",
            [label!("decision" = "resumed" "adopted" "rerun" "aborted" "result_accepted" "result_discarded")],
            "Decisions about the attempts that a reconnecting worker reports.";
        QUEUE_WAIT: Histogram(WIDE), "rollcall_task_queue_wait_seconds", [CAPABILITY],
            "From eligible to assigned; delays and backoff do not count.";
        DISPATCH: Histogram(&FAST), "rollcall_task_dispatch_seconds", [],
            "From the decision to the frame written.";
        START_ACK: Histogram(&FAST), "rollcall_task_start_ack_seconds", [POOL],
            "From the hand-over to the worker's acknowledgement.";
        EXECUTION: Histogram(EXEC), "rollcall_task_execution_seconds", [CAPABILITY],
            "From the acknowledgement to the result, by the server's clock.";
        LATENCY: Histogram(WIDE), "rollcall_task_latency_seconds", [CAPABILITY],
            "From accepted to final, with all attempts.";
        ATTEMPTS_PER_TASK: Histogram(ATTEMPTS), "rollcall_task_attempts_per_task", [CAPABILITY],
            "Attempts that a task had used when it became final.";
        PAYLOAD: Histogram(SIZE), "rollcall_task_payload_bytes",
            [label!("direction" = "request" "result")], "Sizes of inputs and outputs of finished tasks.";
    }
    "Queue" => {
        QUEUE_TASKS: Gauge, "rollcall_queue_tasks",
            [CAPABILITY, Label { name: "state", values: Values::Words(queue_states) }],
            "Tasks that are not final; delayed ones are queued but may not start yet. The sum is the backlog.";
        QUEUE_OLDEST_AGE: Gauge, "rollcall_queue_oldest_age_seconds", [CAPABILITY],
            "How long the oldest queued task has been eligible; 0 when none waits.";
        UNROUTABLE: Gauge, "rollcall_unroutable_tasks", [CAPABILITY],
            "Queued tasks that no connected worker can take.";
        QUEUE_BYTES: Gauge, "rollcall_queue_bytes", [], "Bytes of the inputs of tasks that are not final.";
        QUEUE_CAPACITY_BYTES: Gauge, "rollcall_queue_capacity_bytes", [], "The limit of those bytes.";
        QUEUE_CAPACITY_TASKS: Gauge, "rollcall_queue_capacity_tasks", [],
            "The limit of tasks that are not final.";
        DISPATCH_BLOCKED: Counter, "rollcall_dispatch_blocked_total",
            [label!("reason" = "no_slot" "no_worker" "store")],
            "Why a pass ended with tasks left that could have run.";
    }
    "Workers, by pool" => {
        WORKERS: Gauge, "rollcall_workers", [POOL, label!("state" = WorkerState::SHOWN, WorkerState::as_str)],
            "Configured workers, each in exactly one state.";
        WORKER_SLOTS: Gauge, "rollcall_worker_slots", [POOL, label!("state" = "used" "free" "unavailable")],
            "Slots; free ones are on ready workers only, utilisation is used by used and free.";
        CONNECTS: Counter, "rollcall_worker_connects_total",
            [POOL, label!("outcome" = ConnectOutcome::ALL, ConnectOutcome::as_str)],
            "Tries to connect; outcomes of dialling are there for pools that are dialled.";
        CONNECT_SECONDS: Histogram(COARSE), "rollcall_worker_connect_seconds", [POOL],
            "From dialling to registered, for pools that are dialled.";
        DISCONNECTS: Counter, "rollcall_worker_disconnects_total",
            [POOL, label!("reason" = Why::ALL, Why::as_str)],
            "Connections that ended; the last five reasons are planned.";
        POOL_RECONNECTS: Counter, "rollcall_pool_reconnects_total", [POOL],
            "Connections made again after a loss.";
        CANARIES: Counter, "rollcall_worker_canaries_total", [POOL, label!("outcome" = "passed" "failed")],
            "Canary tasks that ended: of new workers, ejected ones and such as had long done nothing.";
        EJECTIONS: Counter, "rollcall_worker_ejections_total",
            [POOL, label!("outcome" = "ejected" "pool_limit" "last_ready")],
            "Workers that failed by their own fault often enough to be ejected: they were, or what held it back.";
        DOWNTIME: Histogram(RARE), "rollcall_worker_downtime_seconds", [POOL],
            "From disconnected to registered again.";
        HEARTBEATS: Counter, "rollcall_worker_heartbeats_total",
            [POOL, label!("outcome" = "on_time" "late" "missed")],
            "Heartbeats; late is over 1.1 intervals, missed over 2.";
        HEARTBEAT_RTT: Histogram(&FAST), "rollcall_worker_heartbeat_rtt_seconds", [POOL],
            "From a WebSocket ping, sent beside each heartbeat, to its pong.";
        HEARTBEAT_LAG: Histogram(LATE), "rollcall_worker_heartbeat_lag_seconds", [POOL],
            "The gap between two heartbeats, less the interval.";
        HEARTBEAT_OLDEST: Gauge, "rollcall_worker_heartbeat_oldest_age_seconds", [POOL],
            "The age of the oldest last heartbeat among connected workers.";
        WS_MESSAGES: Counter, "rollcall_ws_messages_total", [DIRECTION, FRAME_TYPE],
            "Frames between the server and workers.";
        WS_BYTES: Counter, "rollcall_ws_bytes_total", [DIRECTION, FRAME_TYPE], "Bytes of those frames.";
        WS_PROTOCOL_ERRORS: Counter, "rollcall_ws_protocol_errors_total",
            [label!("kind" = "too_big" "bad_json" "bad_type" "bad_utf8" "rate" "unexpected")],
            "Frames that break the protocol.";
        WS_SEND_QUEUE_FULL: Counter, "rollcall_ws_send_queue_full_total", [POOL],
            "Times that a worker did not read what was sent to it.";
    }
    AUTOSCALER => {
        AUTOSCALER_DESIRED: Gauge, "rollcall_autoscaler_desired_workers", [POOL],
            "Workers that a pool ought to have; those that it has are in rollcall_workers.";
        AUTOSCALER_MIN: Gauge, "rollcall_autoscaler_min_workers", [POOL],
            "Workers that it has at least at this time, the schedule included.";
        AUTOSCALER_MAX: Gauge, "rollcall_autoscaler_max_workers", [POOL], "Workers that it has at most.";
        AUTOSCALER_ENABLED: Gauge, "rollcall_autoscaler_enabled", [POOL],
            "0 while a person, or the file, keeps its size as it is.";
        AUTOSCALER_LIMITED: Gauge, "rollcall_autoscaler_limited",
            [POOL, label!("limit" = "min" "max" "cooldown" "rate")], "1 where the last look's wish was cut.";
        AUTOSCALER_DECISIONS: Counter, "rollcall_autoscaler_decisions_total",
            [POOL, label!("direction" = Direction::ALL, Direction::as_str),
             label!("reason" = Reason::ALL, Reason::as_str)],
            "Looks at a pool, and what came of each.";
        AUTOSCALER_HOOK_CALLS: Counter, "rollcall_autoscaler_hook_calls_total",
            [POOL, label!("outcome" = "ok" "error" "timeout")], "Calls of a pool's provider.";
        AUTOSCALER_HOOK_SECONDS: Histogram(HOOK), "rollcall_autoscaler_hook_seconds", [POOL],
            "How long they took.";
        AUTOSCALER_TIME_TO_CAPACITY: Histogram(RARE), "rollcall_autoscaler_time_to_capacity_seconds", [POOL],
            "From the decision to a worker that takes tasks.";
    }
    PER_WORKER => {
        WORKER_UP: Gauge, "rollcall_worker_up", [WORKER, POOL],
            "1 when ready, or connected and held back by a person.";
        WORKER_LAST_HEARTBEAT: Gauge, "rollcall_worker_last_heartbeat_timestamp_seconds", [WORKER, POOL],
            "When its last frame arrived, in Unix time; 0 before the first.";
        WORKER_RUNNING: Gauge, "rollcall_worker_running_tasks", [WORKER, POOL], "Slots that hold an attempt.";
        WORKER_CAPACITY: Gauge, "rollcall_worker_capacity_slots", [WORKER, POOL], "Its slots.";
        WORKER_RECONNECTS: Counter, "rollcall_worker_reconnects_total", [WORKER, POOL],
            "Connections made again after a loss, since it was configured.";
        WORKER_ATTEMPTS: Counter, "rollcall_worker_attempts_total",
            [WORKER, POOL, label!("outcome" = "ok" "error")], "Attempts that ended there.";
        WORKER_INFO: Gauge, "rollcall_worker_info",
            [WORKER, POOL, program("version"), program("protocol"), program("zone")],
            "Always 1; join with * on (worker) group_left (version).";
    }
    "Configuration" => {
        CONFIG_SUCCESSFUL: Gauge, "rollcall_config_last_reload_successful", [],
            "1 when the last try to load the configuration was applied, or found nothing new.";
        CONFIG_SUCCESS_TIME: Gauge, "rollcall_config_last_reload_success_timestamp_seconds", [],
            "When a try last ended so, in Unix time.";
        CONFIG_MODIFIED: Gauge, "rollcall_config_file_modified_timestamp_seconds", [],
            "When the file was last changed; later than the last success means that nobody took it up.";
        CONFIG_RELOADS: Counter, "rollcall_config_reloads_total",
            [label!("trigger" = "start" "file" "timer" "sighup" "api"),
             label!("outcome" = "applied" "unchanged" "unreadable" "invalid" "rolled_back")],
            "Tries to load the configuration.";
        CONFIG_INFO: Gauge, "rollcall_config_info",
            [program("hash"), label!("durability" = "full" "relaxed")],
            "Always 1; hash is the beginning of the configuration's SHA-256.";
        CONFIG_GENERATION: Gauge, "rollcall_config_generation", [],
            "The generation in force; goes up by one with each applied change.";
        CONFIG_APPLY: Histogram(&FAST), "rollcall_config_apply_seconds", [],
            "From reading the file to the generation in force.";
        CONFIG_CHANGES: Counter, "rollcall_config_worker_changes_total",
            [label!("change" = "added" "updated" "removed")], "Workers that applied generations changed.";
    }
    "Store" => {
        STORE_OPERATION: Histogram(&FAST), "rollcall_store_operation_seconds",
            [label!("op" = super::store::StoreCall::ALL, super::store::StoreCall::as_str)],
            "Calls of the store beside its commits: reads of one record, scans of many, and the housekeeping that deletes.";
        STORE_COMMIT: Histogram(&FAST), "rollcall_store_commit_seconds", [],
            "Commits of the journal, with the sync to disk where there is one.";
        STORE_BATCH: Histogram(ROWS), "rollcall_store_batch_tasks", [], "Records of one commit.";
        STORE_ERRORS: Counter, "rollcall_store_errors_total",
            [label!("op" = super::store::StoreStep::ALL, super::store::StoreStep::as_str),
             label!("kind" = "busy" "io" "full" "corrupt" "conflict")],
            "Steps of the store that failed.";
        STORE_WRITABLE: Gauge, "rollcall_store_writable", [],
            "0 while the journal refuses writes, or has room only for results.";
        STORE_SIZE: Gauge, "rollcall_store_size_bytes", [label!("file" = "db" "wal")],
            "Sizes of the store's files; 0 for one that has none.";
        STORE_FREE: Gauge, "rollcall_store_free_bytes", [],
            "What the store's disk has left; NaN for a store without one.";
    }
    "API" => {
        HTTP_REQUESTS: Counter, "rollcall_http_requests_total",
            [METHOD, program("route"), program("code")], "Requests answered.";
        HTTP_DURATION: Histogram(COARSE), "rollcall_http_request_duration_seconds", [METHOD, program("route")],
            "From the request's head to the answer; streams of events do not count.";
        HTTP_IN_FLIGHT: Gauge, "rollcall_http_requests_in_flight", [], "Requests that are being answered.";
        HTTP_REJECTED: Counter, "rollcall_http_rejected_total",
            [label!("reason" = super::http::Rejected::ALL, super::http::Rejected::as_str)],
            "Requests refused before a handler saw them.";
        SSE_STREAMS: Gauge, "rollcall_sse_streams", [], "Open streams of events.";
        SSE_EVENTS: Counter, "rollcall_sse_events_total", [], "Events sent on them.";
        SSE_EVICTIONS: Counter, "rollcall_sse_evictions_total",
            [label!("reason" = super::http::Eviction::ALL, super::http::Eviction::as_str)],
            "Streams that the server closed.";
        AUTH_ATTEMPTS: Counter, "rollcall_auth_attempts_total",
            [label!("plane" = super::access::PLANES, std::convert::identity),
             label!("outcome" = super::access::Auth::ALL, super::access::Auth::as_str)],
            "What was shown at a door, and what came of it.";
        TLS_EXPIRY: Gauge, "rollcall_tls_certificate_expiry_timestamp_seconds",
            [label!("cert" = crate::trust::Certificate::ALL, crate::trust::Certificate::as_str)],
            "When the first certificate of that use ends.";
        TLS_RELOADS: Counter, "rollcall_tls_reloads_total", [label!("outcome" = "applied" "unchanged" "invalid")],
            "Looks at the files of certificates.";
    }
    "Self cost" => {
        COLLECT_SECONDS: Gauge, "rollcall_metrics_collect_seconds", [PAGE],
            "How long the page's last collection took.";
        COLLECT_SERIES: Gauge, "rollcall_metrics_series", [PAGE], "Samples in that collection.";
        LABEL_OVERFLOW: Counter, "rollcall_metrics_label_overflow_total",
            [Label { name: "metric", values: Values::Words(folding) }],
            "Observations counted under other because a label had too many values.";
    }
}

const METHOD: Label = label!("method" = super::http::METHODS, std::convert::identity);
const PAGE: Label = label!("page" = "metrics" "workers");
const DIRECTION: Label = label!("direction" = "in" "out");
const FRAME_TYPE: Label = label!("type" = super::traffic::FRAME_TYPES, std::convert::identity);
