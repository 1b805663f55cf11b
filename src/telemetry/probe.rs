//! Measures the event loop's saturation: a short sleep that ends late had to wait for other work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// How long the probe sleeps; the overshoot is what is measured.
const SLEEP: Duration = Duration::from_millis(100);

/// Measures the runtime that it is spawned on until `stop` is cancelled.
pub async fn run(metrics: Arc<Metrics>, stop: CancellationToken) {
    metrics.watch_runtime(tokio::runtime::Handle::current());
    loop {
        let due = Instant::now() + SLEEP;
        tokio::select! {
            biased; // A late sleep must not hold back the stop.
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => metrics.runtime_lag(due.elapsed()),
        }
    }
}
