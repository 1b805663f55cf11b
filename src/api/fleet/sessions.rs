//! The routes about sessions: which there are, where, and that one is no longer wanted.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::api::AppState;
use crate::api::http::body::{Reply, json_of};
use crate::api::http::json::time_text;
use crate::fleet::{SessionName, SessionView, Tenant};

/// `GET /v1/sessions`
pub(crate) async fn list(state: &AppState) -> Reply {
    let sessions = state.manager().sessions(Tenant::default_tenant()).await?;
    let items: Vec<Value> = sessions.iter().map(form).collect();
    Ok(json_of(StatusCode::OK, &json!({ "items": items, "next_cursor": null })))
}

/// `DELETE /v1/sessions/{name}`
pub(crate) async fn end(state: &AppState, name: &str) -> Reply {
    state.manager().end_session(Tenant::default_tenant(), SessionName::from(name)).await?;
    Ok(json_of(StatusCode::OK, &json!({ "name": name, "deleted": true })))
}

fn form(session: &SessionView) -> Value {
    let state = match (&session.lost, session.away) {
        (Some(_), _) => "lost",
        (None, true) => "recovering",
        (None, false) => "open",
    };
    json!({
        "name": session.name.as_str(),
        "state": state,
        "worker": session.worker.as_ref().map(|worker| worker.as_str()),
        "lost": session.lost,
        "tasks": session.tasks,
        "ttl_seconds": session.ttl.as_secs_f64(),
        "began_at": time_text(session.began),
        "used_at": time_text(session.used),
        "expires_at": session.expires.map(time_text),
    })
}
