//! The pages that Prometheus scrapes. What they show of the core is taken in one message; writing
//! them is left to another thread, so that a scrape never holds up a task.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use crate::api::AppState;
use crate::api::http::body::{Reply, answer};
use crate::api::http::problem;
use crate::config::StoreKind;
use crate::telemetry::{CONTENT_TYPE, Scrape};

/// How long the page waits for what the store has to be asked.
const PATIENCE: Duration = Duration::from_secs(1);

/// `GET /metrics`
pub(crate) async fn page(state: &AppState) -> Reply {
    let manager = state.manager();
    let stats = manager.stats().await?;
    // A store that cannot be read is told of elsewhere; it must not take the page with it.
    let counted = tokio::time::timeout(PATIENCE, manager.archive().dead_letters()).await;
    let dead_letters = counted.ok().and_then(Result::ok);
    let snapshot = manager.workers();
    let lifecycle = manager.lifecycle().as_str();
    let (metrics, desired) = (Arc::clone(state.metrics()), state.desired().clone());
    let modified = desired.file_modified().await;
    written(move || {
        let relaxed = desired.config().store.kind == Some(StoreKind::Memory);
        let config = desired.status().facts(modified, relaxed);
        metrics.render(&Scrape {
            stats: &stats,
            dead_letters: dead_letters.as_ref(),
            workers: &snapshot.workers,
            lifecycle,
            config: &config,
        })
    })
    .await
}

/// `GET /metrics/workers`
pub(crate) async fn workers_page(state: &AppState) -> Reply {
    let snapshot = state.manager().workers();
    let metrics = Arc::clone(state.metrics());
    written(move || metrics.render_workers(&snapshot.workers)).await
}

async fn written(write: impl FnOnce() -> String + Send + 'static) -> Reply {
    let page = tokio::task::spawn_blocking(write)
        .await
        .map_err(|error| problem::INTERNAL.with(format!("the page could not be written: {error}")))?;
    Ok(answer(StatusCode::OK, CONTENT_TYPE, page))
}
