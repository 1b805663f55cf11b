//! Between the frames of `rollcall.v1` and the core's words. What a worker says is checked here:
//! past this file, ids are ids, texts have bounds and numbers are finite.

use std::sync::Arc;
use std::time::Duration;

use rollcall_protocol::encode::{self, ExecuteText, SessionText};
use rollcall_protocol::{self as wire, AttemptRef, FromServer, HeldPhase};

use crate::fleet::*;
use crate::interface::OutputStream;

/// Bounds of what a worker says of itself; a registration beyond them is refused.
const MAX_CAPABILITIES: usize = 1_024;
const MAX_LABELS: usize = 64;
const MAX_SESSIONS: usize = 10_000;
const MAX_SCHEMA: usize = 64 * 1024;
const MAX_NAME: usize = 128;
const MAX_DESCRIPTION: usize = 4 * 1024;
/// Sentences are cut to this, in bytes.
const MAX_SENTENCE: usize = 4 * 1024;

/// An attempt's name.
pub(super) fn attempt(task: &str, epoch: u64) -> Result<(TaskId, Epoch), NotATaskId> {
    Ok((task.parse()?, Epoch(epoch)))
}

/// What a worker says of itself; the sentence says what is wrong with it.
pub(super) fn registration(
    frame: wire::Register,
    dialled: Option<WorkerName>,
) -> Result<Registration, String> {
    let bounded = |what: &str, text: &str, most: usize| {
        let plain = !text.chars().any(char::is_control);
        if text.len() <= most && plain {
            Ok(())
        } else {
            Err(format!("{what} is longer than {most} bytes or not plain text"))
        }
    };
    for (what, text) in [("instance", &frame.instance), ("kind", &frame.kind), ("version", &frame.version)] {
        bounded(what, text, MAX_NAME)?;
    }
    if frame.instance.is_empty() {
        return Err("instance is empty; it tells a reconnect from a restart".into());
    }
    if frame.labels.len() > MAX_LABELS || frame.capabilities.len() > MAX_CAPABILITIES {
        return Err(format!("more than {MAX_LABELS} labels or {MAX_CAPABILITIES} capabilities"));
    }
    for (key, value) in &frame.labels {
        bounded("a label", key, MAX_NAME)?;
        bounded("a label", value, MAX_NAME)?;
    }
    let mut capabilities = Vec::with_capacity(frame.capabilities.len());
    for offer in frame.capabilities {
        bounded("a capability", &offer.name, MAX_NAME)?;
        if offer.name.is_empty() {
            return Err("a capability has no name".into());
        }
        let schema = offer.input_schema.map(|raw| Payload::from(raw.0.get()));
        if schema.as_ref().is_some_and(|schema| schema.as_str().len() > MAX_SCHEMA) {
            return Err(format!("the input schema of {} is larger than 64 KiB", offer.name));
        }
        capabilities.push(Offer {
            name: Capability::from(offer.name),
            description: offer.description.map(|text| cut(text, MAX_DESCRIPTION)),
            input_schema: schema,
            idempotent: offer.idempotent,
        });
    }
    let mut attempts = Vec::with_capacity(frame.attempts.len());
    for held in frame.attempts {
        // An id that this server cannot have issued: there is nothing to agree on.
        let Ok((task, epoch)) = attempt(&held.task, held.epoch) else { continue };
        attempts.push(HeldAttempt { task, epoch, done: held.phase == HeldPhase::Done });
    }
    let sessions = frame.sessions.map(|names| {
        // A name that no task can have had is none of ours.
        let possible = names.into_iter().filter(|name| name.len() <= MAX_NAME).take(MAX_SESSIONS);
        possible.map(SessionName::from).collect()
    });
    let worker = match &dialled {
        // The entry that was dialled says who it is; a worker's own name may be from before a rename.
        Some(name) => name.clone(),
        None if is_name(&frame.name) => WorkerName::from(frame.name),
        None => return Err("name is not of the form [a-z0-9][a-z0-9._-]{0,62}".into()),
    };
    Ok(Registration {
        worker,
        dialled: dialled.is_some(),
        instance: Instance::from(frame.instance),
        kind: frame.kind.into(),
        version: frame.version.into(),
        slots: frame.slots,
        labels: frame.labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        isolation: frame.isolation.map(|level| cut(level, MAX_NAME)),
        metrics: frame.metrics.map(metrics_page).transpose()?,
        capabilities,
        attempts,
        sessions,
        features: frame.features.into_iter().take(MAX_LABELS).map(|name| cut(name, MAX_NAME)).collect(),
        store: frame.store_id.map(StoreId::from),
    })
}

/// Where a worker serves its metrics. The path becomes part of a URL that Prometheus asks for.
fn metrics_page(page: wire::MetricsPage) -> Result<MetricsPage, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._~-".contains(c);
    if page.port == 0
        || page.path.len() > MAX_NAME
        || !page.path.starts_with('/')
        || !page.path.chars().all(plain)
    {
        return Err("metrics is not a port and a plain path such as /metrics".into());
    }
    Ok(MetricsPage { port: page.port, path: page.path.into() })
}

/// How an attempt ended.
pub(super) fn result(frame: wire::TaskResult<'_>) -> Result<Box<ResultReport>, NotATaskId> {
    let (task, epoch) = attempt(&frame.task, frame.epoch)?;
    let status = match frame.status {
        wire::Status::Succeeded => AttemptOutcome::Succeeded,
        wire::Status::Failed => AttemptOutcome::Failed,
        wire::Status::TimedOut => AttemptOutcome::TimedOut,
        wire::Status::Cancelled => AttemptOutcome::Cancelled,
    };
    let usage = frame.usage.map(|usage| Usage {
        wall_ms: usage.wall_ms,
        cpu_ms: usage.cpu_ms,
        peak_memory_bytes: usage.peak_memory_bytes,
        processes: usage.processes,
    });
    let output = frame.output.map(|raw| Payload::from(raw.get()));
    let error = frame.error.map(task_error);
    Ok(Box::new(ResultReport {
        task,
        epoch,
        status,
        output,
        error,
        usage,
        // What is stored is known to the server alone.
        artifacts: Vec::new(),
        session_open: frame.session_open,
    }))
}

fn task_error(error: wire::TaskError) -> TaskError {
    TaskError {
        code: cut(error.code, MAX_NAME),
        message: cut(error.message, MAX_SENTENCE),
        retryable: error.retryable,
        fault: match error.fault {
            wire::Fault::Caller => Fault::Caller,
            wire::Fault::Worker => Fault::Worker,
            wire::Fault::Rollcall => Fault::Rollcall,
        },
        // It ran: whatever it does to the world may have been done.
        side_effects: SideEffects::Possible,
        details: error.details.map(|raw| Payload::from(raw.0.get())),
    }
}

/// A file that follows, and whose it is. Name, type and size are judged where files are kept.
pub(super) fn artifact(frame: wire::Artifact) -> Result<(TaskId, Epoch, Artifact), String> {
    let (task, epoch) = attempt(&frame.task, frame.epoch).map_err(|problem| problem.to_string())?;
    let sha256 = frame.sha256.parse().map_err(|problem: NotAHash| problem.to_string())?;
    let (name, media_type) = (frame.name.into(), frame.media_type.into());
    Ok((task, epoch, Artifact { name, media_type, size: frame.size, sha256 }))
}

/// What a worker is told of an upload.
pub(super) fn refusal(number: u32, error: &TaskError) -> wire::Credit {
    let error = wire::TaskError {
        code: error.code.to_string(),
        message: error.message.to_string(),
        retryable: error.retryable,
        fault: match error.fault {
            Fault::None | Fault::Caller => wire::Fault::Caller,
            Fault::Worker => wire::Fault::Worker,
            Fault::Rollcall => wire::Fault::Rollcall,
        },
        details: None,
    };
    wire::Credit { number, error: Some(error), ..wire::Credit::default() }
}

/// The word that an attempt was not started.
pub(super) fn rejected(frame: wire::Rejected) -> Result<Report, NotATaskId> {
    let (task, epoch) = attempt(&frame.task, frame.epoch)?;
    let reason = cut(frame.reason, MAX_SENTENCE);
    Ok(Report::Rejected { task, epoch, reason, retryable: frame.retryable })
}

/// What runs on a worker. Ids that are none are left out: they cannot be attempts of ours.
pub(super) fn heartbeat(frame: &wire::WorkerHeartbeat) -> Report {
    let known = |held: &AttemptRef| attempt(&held.task, held.epoch).ok();
    Report::Heartbeat { running: frame.running.iter().filter_map(known).collect() }
}

/// The worker's farewell.
pub(super) fn goodbye(frame: wire::Goodbye) -> Report {
    Report::Goodbye {
        reason: cut(frame.reason, MAX_SENTENCE),
        retry_after: frame.retry_after_ms.map(Duration::from_millis),
    }
}

/// The stream's name in the core's words.
pub(super) fn stream(stream: wire::Stream) -> OutputStream {
    match stream {
        wire::Stream::Stdout => OutputStream::Stdout,
        wire::Stream::Stderr => OutputStream::Stderr,
    }
}

/// A fraction from 0 to 1, or none.
pub(super) fn fraction(fraction: Option<f64>) -> Option<f64> {
    fraction.filter(|part| part.is_finite()).map(|part| part.clamp(0.0, 1.0))
}

/// A sentence within its bound.
pub(super) fn sentence(text: &str) -> &str {
    &text[..boundary(text, MAX_SENTENCE)]
}

/// An order as one text message, and its frame's type. Inputs are JSON, or the edge would have
/// refused them.
///
/// # Errors
/// Never in practice: everything else is plain data.
pub(super) fn order(order: Order, conn: ConnId) -> Result<(&'static str, String), serde_json::Error> {
    let text = |frame: FromServer<'_>| Ok((frame.kind(), frame.encode()?));
    match order {
        Order::Execute(assignment) => Ok(("execute", execute(&assignment, conn))),
        Order::Ack { task, epoch, discarded } => {
            let refused = discarded.map(Discard::as_str);
            Ok(("result_ack", encode::result_ack(task.hyphenated(&mut [0; 36]), epoch.0, refused)))
        }
        Order::Cancel { task, epoch, reason } => {
            text(wire::Cancel { task: task.to_string(), epoch: epoch.0, reason: reason.to_owned() }.into())
        }
        Order::Registered(welcome) => text(Box::new(registered(*welcome, conn)).into()),
        Order::Refused { code, message } => {
            text(wire::ErrorFrame { code: code.to_string(), message: message.to_string() }.into())
        }
        Order::Drain { reason } => text(wire::Drain { reason: reason.to_owned() }.into()),
        Order::EndSession { session } => text(wire::EndSession { session: session.to_string() }.into()),
        Order::Goodbye { reason, retry_after } => text(
            wire::Goodbye { reason: reason.as_str().to_owned(), retry_after_ms: retry_after.map(millis) }
                .into(),
        ),
    }
}

fn execute(assignment: &Assignment, conn: ConnId) -> String {
    let spec = &*assignment.spec;
    let trace = TraceContext::of(assignment.task, spec.traceparent.as_deref());
    encode::execute(&ExecuteText {
        task: assignment.task.hyphenated(&mut [0; 36]),
        epoch: assignment.epoch.0,
        connection: conn.0,
        attempt: assignment.number,
        capability: spec.capability.as_str(),
        input: spec.input.as_str(),
        deadline_ms: millis(assignment.limit),
        session: spec.session.as_ref().zip(assignment.session).map(|(name, lease)| SessionText {
            name: name.as_str(),
            new: lease.new,
            ttl_ms: millis(lease.ttl),
        }),
        traceparent: Some(trace.traceparent(assignment.epoch, &mut [0; 55])),
    })
}

fn registered(welcome: Welcome, conn: ConnId) -> wire::Registered {
    let attempts = |attempts: Vec<(TaskId, Epoch)>| {
        let named = |(task, epoch): (TaskId, Epoch)| AttemptRef { task: task.to_string(), epoch: epoch.0 };
        attempts.into_iter().map(named).collect()
    };
    wire::Registered {
        name: welcome.worker.to_string(),
        connection: conn.0,
        slots: welcome.slots,
        heartbeat_interval_ms: millis(welcome.heartbeat_interval),
        lease_ms: millis(welcome.lease),
        store_id: welcome.store.to_string(),
        features: welcome.features.iter().map(ToString::to_string).collect(),
        keep: attempts(welcome.keep),
        resend: attempts(welcome.resend),
        drop: attempts(welcome.drop),
    }
}

/// Whole milliseconds, rounded up: a limit of half of one is not none.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = text.bytes();
    text.len() <= 63
        && bytes.next().is_some_and(plain)
        && bytes.all(|byte| plain(byte) || b"._-".contains(&byte))
}

fn cut(text: String, most: usize) -> Arc<str> {
    text[..boundary(&text, most)].into()
}

/// The last place between two characters up to `most` bytes.
fn boundary(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(name: &str) -> wire::Register {
        wire::Register { name: name.into(), instance: "i".into(), ..wire::Register::default() }
    }

    #[test]
    fn a_dialled_worker_bears_the_name_of_its_entry() {
        let registration = registration(register("its-own"), Some("ann".into())).expect("a good one");
        assert_eq!((registration.worker.as_str(), registration.dialled), ("ann", true));
    }

    #[test]
    fn a_worker_that_dials_in_needs_a_good_name() {
        assert!(registration(register("python-1"), None).is_ok());
        for bad in ["", "Ann", "-a", "a/b", "a\nb", &"a".repeat(64)] {
            assert!(registration(register(bad), None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_registration_beyond_its_bounds_is_refused() {
        let mut long = register("ann");
        long.kind = "k".repeat(MAX_NAME + 1);
        assert!(registration(long, None).is_err());
        let mut control = register("ann");
        control.version = "1\x1b[2J".into();
        assert!(registration(control, None).is_err());
        let mut many = register("ann");
        many.capabilities = vec![wire::CapabilityOffer { name: "a.b".into(), ..Default::default() }; 1_025];
        assert!(registration(many, None).is_err());
        for path in ["metrics", "/a b", "/m?x=1", "/\u{e9}", &format!("/{}", "m".repeat(MAX_NAME))] {
            let mut lost = register("ann");
            lost.metrics = Some(wire::MetricsPage { port: 3001, path: path.into() });
            assert!(registration(lost, None).is_err(), "{path:?}");
        }
        let mut strange = register("ann");
        strange.attempts =
            vec![wire::HeldAttempt { task: "not ours".into(), epoch: 1, phase: HeldPhase::Running }];
        assert_eq!(registration(strange, None).expect("a good one").attempts, []);
    }

    #[test]
    fn a_limit_below_a_millisecond_is_not_none() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_millis(7)), 7);
    }

    #[test]
    fn sentences_are_cut_between_characters() {
        assert_eq!(boundary("aé", 2), 1);
        assert_eq!(boundary("aé", 3), 3);
    }
}
