//! Traces: finished tasks, exported as spans to an OpenTelemetry collector by OTLP over HTTP. Never in
//! the way: a task's end costs one look at a bounded queue, everything else is on a thread of its own,
//! and what the collector does not take in time is dropped and counted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::client::{Client, Request};
use crate::fleet::{TaskRecord, TraceContext, Wall};
use spans::{Span, number_of, spans};

mod otlp;
mod spans;
#[cfg(test)]
mod tests;

/// Finished tasks that may wait for the collector.
const QUEUE: usize = 2_048;

/// Tasks in one request.
const BATCH: usize = 256;

/// A task waits so long for others to go with.
const LINGER: Duration = Duration::from_secs(1);

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A batch is tried again for so long, then dropped.
const TRIES_FOR: Duration = Duration::from_secs(30);

/// The rest between tries, doubled each time.
const REST: Duration = Duration::from_millis(500);

/// What is left when the server stops gets so long.
const LAST: Duration = Duration::from_secs(2);

/// Where finished tasks go to become spans. Cheap to clone.
#[derive(Clone)]
pub struct Traces {
    ended: mpsc::Sender<(Arc<TaskRecord>, Wall)>,
    metrics: Arc<Metrics>,
}

/// The thread that exports.
pub struct Exporter {
    stop: CancellationToken,
    done: oneshot::Receiver<()>,
}

impl Traces {
    /// Starts exporting to the collector at this URL; `/v1/traces` is put behind it. `instance` tells
    /// this server from others.
    ///
    /// # Errors
    /// When the URL is none that can be spoken to, or there is no thread to be had.
    pub fn start(url: &str, instance: &str, metrics: Arc<Metrics>) -> io::Result<(Self, Exporter)> {
        let client = Client::new(url).map_err(|error| io::Error::other(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, queue) = mpsc::channel(QUEUE);
        let (tell, done) = oneshot::channel();
        let stop = CancellationToken::new();
        let sending = Sending {
            client,
            instance: instance.to_owned(),
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
            failing: false,
        };
        std::thread::Builder::new().name("traces".into()).spawn(move || {
            runtime.block_on(sending.run(queue));
            // Nobody may be waiting for it.
            let _unheard = tell.send(());
        })?;
        Ok((Self { ended, metrics }, Exporter { stop, done }))
    }

    /// A task has ended, and its end is recorded. Tasks of traces that their callers do not record are
    /// left alone.
    pub fn ended(&self, record: &Arc<TaskRecord>, recorded: Wall) {
        if !context_of(record).sampled {
            return;
        }
        if self.ended.try_send((Arc::clone(record), recorded)).is_err() {
            self.metrics.spans_dropped("queue_full", number_of(record));
        }
    }
}

impl Exporter {
    /// Sends what has gathered, within a short time, and ends the thread.
    pub async fn stop(self) {
        self.stop.cancel();
        // It may have ended by itself.
        let _ended = self.done.await;
    }
}

fn context_of(record: &TaskRecord) -> TraceContext {
    TraceContext::of(record.id, record.spec.traceparent.as_deref())
}

struct Sending {
    client: Client,
    instance: String,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// The collector did not answer the last time; said once.
    failing: bool,
}

/// How a request to the collector ended.
enum Outcome {
    Taken,
    /// Another try would end the same.
    Refused(String),
    /// Another try may end better.
    Failed(String),
}

impl Sending {
    async fn run(mut self, mut queue: mpsc::Receiver<(Arc<TaskRecord>, Wall)>) {
        let mut ended = Vec::with_capacity(BATCH);
        while !self.stop.is_cancelled() {
            let stop = self.stop.clone();
            tokio::select! {
                () = stop.cancelled() => break,
                first = queue.recv() => match first {
                    Some(first) => ended.push(first),
                    None => return,
                },
            }
            let until = Instant::now() + LINGER;
            while ended.len() < BATCH {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep_until(until) => break,
                    next = queue.recv() => match next {
                        Some(next) => ended.push(next),
                        None => break,
                    },
                }
            }
            self.send(&mut ended).await;
        }
        let last = async {
            loop {
                while ended.len() < BATCH
                    && let Ok(next) = queue.try_recv()
                {
                    ended.push(next);
                }
                if ended.is_empty() {
                    return;
                }
                self.send(&mut ended).await;
            }
        };
        // What is not through by then is lost with the process, and nobody is left to count it.
        drop(timeout(LAST, last).await);
    }

    /// Sends a batch, after a failure again for a while.
    async fn send(&mut self, ended: &mut Vec<(Arc<TaskRecord>, Wall)>) {
        let tasks: Vec<(u128, Vec<Span>)> = ended
            .drain(..)
            .map(|(record, recorded)| {
                let context = context_of(&record);
                (context.trace, spans(&context, &record, recorded))
            })
            .collect();
        let number = tasks.iter().map(|(_, spans)| spans.len() as u64).sum();
        let body = bytes::Bytes::from(otlp::body(&self.instance, &tasks));
        let began = Instant::now();
        let mut rest = REST;
        loop {
            match self.post(body.clone()).await {
                Outcome::Taken => return self.well(),
                Outcome::Refused(why) => {
                    self.trouble(&why);
                    return self.metrics.spans_dropped("rejected", number);
                }
                Outcome::Failed(why) => {
                    self.trouble(&why);
                    if began.elapsed() + rest > TRIES_FOR || self.stop.is_cancelled() {
                        return self.metrics.spans_dropped("unreachable", number);
                    }
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(rest) => {}
            }
            rest *= 2;
        }
    }

    async fn post(&self, body: bytes::Bytes) -> Outcome {
        let request = Request::new(Method::POST, "/v1/traces")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body)
            .timeout(PATIENCE);
        match self.client.send(request).await {
            Err(error) => Outcome::Failed(error.to_string()),
            Ok(answer) if answer.status.is_success() => {
                let (refused, why) = otlp::refused(&answer.body);
                if refused > 0 {
                    tracing::warn!(refused, why, "the trace collector did not take all spans");
                    self.metrics.spans_dropped("rejected", refused);
                }
                Outcome::Taken
            }
            // Those that OTLP calls retryable (OTLP 1.x, "Failures").
            Ok(answer) => match answer.status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Outcome::Failed(format!("it answered {}", answer.status)),
                status => Outcome::Refused(format!("it answered {status}")),
            },
        }
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(collector = self.client.base(), "the trace collector takes spans again");
        }
    }

    /// Said once, until it works again.
    fn trouble(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                collector = self.client.base(),
                why,
                "spans cannot be sent to the trace collector"
            );
        }
    }
}
