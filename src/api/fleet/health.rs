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

/// `GET /readyz`: 503 only while no task is accepted. Missing workers are told, but do not count:
/// their tasks wait.
pub(crate) fn readyz(state: &AppState) -> Answer {
    let lifecycle = state.manager().lifecycle();
    let ready = match lifecycle {
        Lifecycle::Recovering | Lifecycle::Ready => true,
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
    json_of(status, &json!({ "ready": ready, "lifecycle": lifecycle.as_str(), "missing_workers": missing }))
}
