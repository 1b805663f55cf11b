//! Counts panics, each of which is a bug: a supervised task that panics is an event its owner
//! handles, and this is how somebody hears of it.

use std::sync::Arc;

use super::metrics::Metrics;

/// Counts every panic of the process from now on, before the hook that was there prints it. For the
/// program's start: a second call counts for both.
pub fn count_panics(metrics: Arc<Metrics>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        metrics.panicked();
        before(info);
    }));
}
