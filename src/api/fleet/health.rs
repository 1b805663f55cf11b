//! Whether the server is alive, and whether it takes tasks.

use hyper::StatusCode;
use serde_json::json;

use crate::api::AppState;
use crate::api::http::body::{Answer, json_of};
use crate::fleet::WorkerState;
use crate::manager::Lifecycle;

/// `GET /healthz`: whoever answers is alive. The loop of the manager shares this thread.
pub(crate) fn healthz() -> Answer {
    json_of(StatusCode::OK, &json!({ "alive": true }))
}

/// `GET /readyz`: 503 only while no task is accepted, and why the store takes none. Missing workers are told, but do not count:
/// their tasks wait.
pub(crate) fn readyz(state: &AppState) -> Answer {
    let lifecycle = state.manager().lifecycle();
    let trouble = state.manager().store_trouble();
    let ready = match lifecycle {
        Lifecycle::Recovering | Lifecycle::Ready => trouble.is_none(),
        Lifecycle::Starting | Lifecycle::Draining => false,
    };
    let snapshot = state.manager().workers();
    let is_missing = |state| matches!(state, WorkerState::Disconnected | WorkerState::Connecting);
    let missing: Vec<_> = snapshot
        .workers
        .iter()
        .filter(|view| is_missing(view.state))
        .map(|view| view.name.as_str())
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let store = trouble.map_or_else(|| "ok".to_owned(), |why| why.to_string());
    json_of(
        status,
        &json!({
            "ready": ready,
            "lifecycle": lifecycle.as_str(),
            "store": store,
            "missing_workers": missing,
        }),
    )
}
