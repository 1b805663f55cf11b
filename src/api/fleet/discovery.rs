//! `GET /v1/sd/prometheus`: where workers serve metrics of their own, in the form of Prometheus's HTTP
//! service discovery. The list is whole or there is none: Prometheus keeps the one that it has when it
//! gets a 503, and would drop the targets that a shorter list leaves out.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use crate::api::AppState;
use crate::api::http::body::{Reply, json_of};
use crate::api::http::problem;
use crate::api::http::query::Query;
use crate::config::Config;
use crate::fleet::WorkerView;
use crate::manager::{Lifecycle, Snapshot};

/// The pool that workers of none are told under, as in the metrics.
const STATIC: &str = "static";

/// The list; `?pool=` keeps the workers of one pool.
pub(crate) fn targets(state: &AppState, config: &Config, request: &Request<Incoming>) -> Reply {
    let query = Query::read(request.uri().query(), &["pool"])?;
    let snapshot = state.manager().workers();
    let young = state.age() < config.topology.settings.lease;
    if !is_sure(state.manager().lifecycle(), young, &snapshot) {
        let unsure = problem::TARGETS_UNSURE.with("not every worker has said yet where its metrics are");
        return Err(unsure.retry_after(5).hint("Prometheus keeps its last list meanwhile").into());
    }
    let wanted = query.get("pool");
    let shown = snapshot.workers.iter().filter(|worker| wanted.is_none_or(|pool| pool == pool_of(worker)));
    let list: Vec<Value> = shown.filter_map(|worker| target(worker)).collect();
    Ok(json_of(StatusCode::OK, &list))
}

/// Whether all is known that the list needs. A worker tells when it registers where its metrics are,
/// so a young server waits for each that it dials; one that stays away for a lease is not waited for.
fn is_sure(stage: Lifecycle, young: bool, snapshot: &Snapshot) -> bool {
    let silent = |worker: &WorkerView| worker.endpoint.is_some() && !worker.mock && worker.instance.is_none();
    match stage {
        Lifecycle::Starting | Lifecycle::Recovering => false,
        Lifecycle::Ready | Lifecycle::Draining => {
            !young || !snapshot.workers.iter().any(|worker| silent(worker))
        }
    }
}

/// A worker's entry. The host is the one that the configuration dials, never one that a worker names;
/// so a worker that dials in has none.
fn target(worker: &WorkerView) -> Option<Value> {
    let page = worker.metrics.as_ref()?;
    let (scheme, address) = worker.endpoint.as_deref()?.split_once("://")?;
    let host = host(address)?;
    let names: Vec<&str> = worker.capabilities.iter().map(|offer| offer.name.as_str()).collect();
    Some(json!({
        "targets": [format!("{host}:{}", page.port)],
        "labels": {
            "__meta_rollcall_worker": worker.name.as_str(),
            "__meta_rollcall_pool": pool_of(worker),
            "__meta_rollcall_zone": worker.labels.get("zone").map_or("", |zone| &**zone),
            "__meta_rollcall_version": worker.version.as_deref().unwrap_or_default(),
            // Between commas, so that a rule can match one of them whole.
            "__meta_rollcall_capabilities": format!(",{},", names.join(",")),
            "__metrics_path__": &*page.path,
            "__scheme__": if scheme == "wss" { "https" } else { "http" },
        },
    }))
}

/// The host of `host:port/path`, with the brackets of an IPv6 address.
fn host(address: &str) -> Option<&str> {
    let authority = address.split(['/', '?', '#']).next()?;
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    authority.get(..end).filter(|host| !host.is_empty())
}

fn pool_of(worker: &WorkerView) -> &str {
    worker.pool.as_ref().map_or(STATIC, |pool| pool.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_one_of_the_endpoint() {
        for (address, expected) in [
            ("127.0.0.1:3001", Some("127.0.0.1")),
            ("worker.internal", Some("worker.internal")),
            ("worker.internal:80/path", Some("worker.internal")),
            ("[::1]:3001/x", Some("[::1]")),
            ("[::1", None),
            (":3001", None),
        ] {
            assert_eq!(host(address), expected, "{address}");
        }
    }
}
