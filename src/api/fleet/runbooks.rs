//! What to do about an alert: the runbooks of this version, as text that every browser shows.

use hyper::StatusCode;

use crate::api::http::body::{Reply, answer};
use crate::api::http::problem;
use crate::telemetry::bundle;

/// `GET /runbooks/{alert}`
pub(crate) fn get(alert: &str) -> Reply {
    let Some(text) = bundle::runbook(alert) else {
        let unknown = problem::NO_SUCH_RUNBOOK.with("no alert of this version has this name");
        return Err(unknown
            .hint("names are like RollcallQueueStalled; monitoring/runbooks has them all")
            .into());
    };
    Ok(answer(StatusCode::OK, "text/plain; charset=utf-8", text))
}
