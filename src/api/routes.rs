//! Every route of the API: one table, from which requests are routed, series are announced and the
//! API's description is made.

use hyper::Method;

use super::fleet::worker_list::QUERY as WORKERS_QUERY;
use crate::telemetry::{Metrics, RouteSeries};

/// What answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Healthz,
    Readyz,
    Metrics,
    MetricsOfWorkers,
    Reload,
    Page,
    Runbook,
    DiscoverTargets,
    OpenApi,
    SubmitTask,
    SubmitBatch,
    ListTasks,
    GetTask,
    TaskEvents,
    TaskArtifact,
    ExplainTask,
    CancelTask,
    RetryTask,
    GiveArtifact,
    GetArtifact,
    ListWorkers,
    AddWorker,
    ConnectWorker,
    GetWorker,
    RemoveWorker,
    CordonWorker,
    UncordonWorker,
    DrainWorker,
    RestartWorker,
    ProbeWorker,
    ListPools,
    GetPool,
    PoolDecisions,
    PoolDemand,
    SimulatePools,
    ScalePool,
    PausePool,
    ResumePool,
    ListSessions,
    EndSession,
    GetTopology,
    PlanTopology,
    FleetEvents,
    Status,
}

/// The methods that routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Delete,
}

impl Verb {
    /// The word of HTTP.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    /// `HEAD` is `GET` without the body, which hyper leaves out.
    fn fits(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
            Self::Delete => method == Method::DELETE,
        }
    }
}

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) verb: Verb,
    /// With at most two `{parameters}`.
    pub(super) path: &'static str,
    pub(super) endpoint: Endpoint,
    /// What it does, for people.
    pub(super) summary: &'static str,
    /// What it answers with when all is well.
    pub(super) success: &'static [u16],
    /// What it usually answers with else.
    pub(super) failure: &'static [u16],
    /// The parameters of its query.
    pub(super) query: &'static [&'static str],
}

const fn route(
    verb: Verb,
    path: &'static str,
    endpoint: Endpoint,
    success: &'static [u16],
    failure: &'static [u16],
    query: &'static [&'static str],
    summary: &'static str,
) -> Route {
    Route { verb, path, endpoint, summary, success, failure, query }
}

use Endpoint as E;
use Verb::{Delete, Get, Post};

/// The parameters of a list of tasks.
pub(super) const LIST_QUERY: &[&str] =
    &["state", "capability", "worker", "dead_letter", "output", "limit", "cursor"];

/// The table. A path is matched by its first fitting entry; what is asked most stands first.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    route(Post, "/v1/tasks", E::SubmitTask, &[200, 202], &[400, 413, 422, 429, 503], &["wait"], "Submit a task, and wait for its end or not"),
    route(Post, "/v1/tasks/batch", E::SubmitBatch, &[200], &[400, 413, 422, 503], &[], "Submit up to 1,000 tasks at once, each with an answer of its own"),
    route(Get, "/v1/tasks", E::ListTasks, &[200], &[422], LIST_QUERY, "List tasks, newest first, as they are now; where there is a `next_cursor` a page may be short"),
    route(Get, "/v1/tasks/{id}", E::GetTask, &[200], &[404], &[], "Show a task"),
    route(Get, "/v1/tasks/{id}/events", E::TaskEvents, &[200, 204], &[404, 503], &[], "Follow a task: states, output and progress as server-sent events"),
    route(Get, "/v1/tasks/{id}/artifacts/{name}", E::TaskArtifact, &[200, 206, 304], &[404, 410, 416, 503], &[], "Get a file that a task made"),
    route(Get, "/v1/tasks/{id}/explain", E::ExplainTask, &[200], &[404], &[], "Say why a task waits"),
    route(Post, "/v1/tasks/{id}/cancel", E::CancelTask, &[200, 202], &[404], &[], "Stop a task"),
    route(Post, "/v1/tasks/{id}/retry", E::RetryTask, &[202], &[404, 409, 429, 503], &[], "Submit a task that has ended once more"),
    route(Post, "/v1/artifacts", E::GiveArtifact, &[201], &[408, 413, 507], &[], "Upload a file that inputs can refer to"),
    route(Get, "/v1/artifacts/{sha256}", E::GetArtifact, &[200, 206, 304], &[404, 416, 503], &[], "Get a file by its SHA-256"),
    route(Get, "/v1/workers", E::ListWorkers, &[200], &[422], WORKERS_QUERY, "List the workers"),
    route(Post, "/v1/workers", E::AddWorker, &[201], &[400, 409, 422], &[], "Add a worker beside those of the file"),
    route(Get, "/v1/workers/connect", E::ConnectWorker, &[101], &[400, 401, 403, 426, 429], &[], "Dial in as a worker, over a WebSocket"),
    route(Get, "/v1/workers/{name}", E::GetWorker, &[200], &[404], &[], "Show a worker"),
    route(Delete, "/v1/workers/{name}", E::RemoveWorker, &[202], &[404, 409], &[], "Remove a worker that was added here: it drains first"),
    route(Post, "/v1/workers/{name}/cordon", E::CordonWorker, &[200], &[404], &[], "Give a worker no new tasks"),
    route(Post, "/v1/workers/{name}/uncordon", E::UncordonWorker, &[200], &[404], &[], "Give a worker tasks again"),
    route(Post, "/v1/workers/{name}/drain", E::DrainWorker, &[200], &[404], &[], "Let a worker finish what it runs, and give it nothing new"),
    route(Post, "/v1/workers/{name}/restart", E::RestartWorker, &[200], &[404], &[], "Drain a worker, then start or connect it anew"),
    route(Post, "/v1/workers/{name}/probe", E::ProbeWorker, &[200], &[404, 504], &[], "Measure one round trip to a worker"),
    route(Get, "/v1/pools", E::ListPools, &[200], &[], &[], "List the pools"),
    route(Post, "/v1/pools/simulate", E::SimulatePools, &[200], &[413, 422], &[], "Run what was recorded through the `scaling` of another file: cost and waits, old beside new"),
    route(Get, "/v1/pools/{name}", E::GetPool, &[200], &[404], &[], "Show a pool: `desired` is what an autoscaler of yours may follow"),
    route(Get, "/v1/pools/{name}/decisions", E::PoolDecisions, &[200], &[404], &[], "Say why a pool has its size, newest first"),
    route(Get, "/v1/pools/{name}/demand", E::PoolDemand, &[200], &[404], &[], "What a pool was asked for lately, to judge another policy by"),
    route(Post, "/v1/pools/{name}/scale", E::ScalePool, &[200], &[400, 404, 422], &[], "Give a pool a size now; the autoscaler goes on from there"),
    route(Post, "/v1/pools/{name}/pause", E::PausePool, &[200], &[404], &[], "Keep a pool's size as it is"),
    route(Post, "/v1/pools/{name}/resume", E::ResumePool, &[200], &[404], &[], "Scale a pool again"),
    route(Get, "/v1/sessions", E::ListSessions, &[200], &[], &[], "List sessions, lost ones too"),
    route(Delete, "/v1/sessions/{name}", E::EndSession, &[200], &[404], &[], "Delete a session, and stop the tasks in it"),
    route(Get, "/v1/topology", E::GetTopology, &[200], &[], &[], "Show the desired fleet"),
    route(Post, "/v1/topology/plan", E::PlanTopology, &[200], &[413, 422], &[], "Say what a file would change, without changing it"),
    route(Get, "/v1/events", E::FleetEvents, &[200], &[503], &[], "Follow what happens in the fleet as server-sent events"),
    route(Get, "/v1/status", E::Status, &[200], &[503], &[], "One look: life, pressure, queues, capacity"),
    route(Get, "/healthz", E::Healthz, &[200], &[], &[], "Say that the server is alive"),
    route(Get, "/readyz", E::Readyz, &[200], &[503], &[], "Say whether tasks are accepted, and which workers are missing"),
    route(Get, "/metrics", E::Metrics, &[200], &[503], &[], "The metrics, for Prometheus"),
    route(Get, "/metrics/workers", E::MetricsOfWorkers, &[200], &[503], &[], "The metrics of each worker, for Prometheus"),
    route(Get, "/v1/sd/prometheus", E::DiscoverTargets, &[200], &[503], &["pool"], "List where workers serve metrics of their own, for Prometheus's HTTP service discovery"),
    route(Get, "/runbooks/{alert}", E::Runbook, &[200], &[404], &[], "Say what an alert means and what to do"),
    route(Post, "/-/reload", E::Reload, &[200], &[422, 503], &["allow_mass_removal"], "Read config.yaml again"),
    route(Get, "/openapi.json", E::OpenApi, &[200], &[], &[], "This description"),
    route(Get, "/", E::Page, &[200], &[], &[], "The status board, for people"),
];

/// Where a request belongs.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// Here (by its place in the table), with the value of the path's parameter (empty where it has
    /// none; where it has two, the second stands behind what is between them in the path).
    Route(usize, &'a str),
    /// The path has other methods; they are named.
    WrongMethod(&'static str),
    /// There is no such path.
    Nowhere,
}

/// Finds the route of a request.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let mut known = None;
    for (at, route) in ROUTES.iter().enumerate() {
        // A path belongs to the first template that fits it, so `connect` is no worker's name here.
        if known.is_some_and(|known| known != route.path) {
            continue;
        }
        if let Some(parameter) = fit(route.path, path) {
            if route.verb.fits(method) {
                return Found::Route(at, parameter);
            }
            known = Some(route.path);
        }
    }
    known.map_or(Found::Nowhere, |path| Found::WrongMethod(allow(path)))
}

/// The parameter of `path`, if it has the form of `template`.
fn fit<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = template.split_once('{') else { return (template == path).then_some("") };
    let (_, after) = rest.split_once('}')?;
    let parameters = path.strip_prefix(before)?;
    if after.contains('{') {
        let (first, _) = parameters.split_once('/')?;
        fit(after, &parameters[first.len()..])?;
        return (!first.is_empty()).then_some(parameters);
    }
    let parameter = parameters.strip_suffix(after)?;
    (!parameter.is_empty() && !parameter.contains('/')).then_some(parameter)
}

/// The methods of a path, as the `Allow` header lists them.
fn allow(path: &str) -> &'static str {
    let has = |verb| ROUTES.iter().any(|route| route.path == path && route.verb == verb);
    match (has(Get), has(Post), has(Delete)) {
        (true, true, _) => "GET, HEAD, POST",
        (true, false, true) => "GET, HEAD, DELETE",
        (true, false, false) => "GET, HEAD",
        (false, true, _) => "POST",
        (false, false, _) => "DELETE",
    }
}

/// The series of each route, in the order of the table; there before the first request.
pub(super) fn announce(metrics: &Metrics) -> Vec<RouteSeries> {
    let series = |route: &Route| {
        let codes: Vec<u16> = route.success.iter().chain(route.failure).copied().collect();
        metrics.http_route(route.verb.as_str(), route.path, &codes)
    };
    ROUTES.iter().map(series).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Option<(Endpoint, &str)> {
        match find(&method, path) {
            Found::Route(at, parameter) => Some((ROUTES[at].endpoint, parameter)),
            Found::WrongMethod(_) | Found::Nowhere => None,
        }
    }

    #[test]
    fn requests_find_their_route() {
        assert_eq!(found(Method::POST, "/v1/tasks"), Some((E::SubmitTask, "")));
        assert_eq!(found(Method::POST, "/v1/tasks/batch"), Some((E::SubmitBatch, "")));
        assert_eq!(found(Method::HEAD, "/v1/tasks/x"), Some((E::GetTask, "x")));
        assert_eq!(found(Method::POST, "/v1/tasks/x/cancel"), Some((E::CancelTask, "x")));
        assert_eq!(found(Method::GET, "/v1/workers/connect"), Some((E::ConnectWorker, "")));
        assert_eq!(found(Method::GET, "/v1/workers/connector"), Some((E::GetWorker, "connector")));
        assert_eq!(found(Method::GET, "/"), Some((E::Page, "")));
        let artifact = found(Method::GET, "/v1/tasks/x/artifacts/a%2Fb");
        assert_eq!(artifact, Some((E::TaskArtifact, "x/artifacts/a%2Fb")));
    }

    #[test]
    fn what_is_not_there_is_nowhere() {
        for path in [
            "",
            "/v1",
            "/v1/tasks/",
            "/v1/tasks//cancel",
            "/v1/tasks/a/b/cancel",
            "/v1/tasks/a/artifacts/",
            "/v1/tasks/a/artifacts/b/c",
            "/v1/tasks//artifacts/b",
            "//",
            "/mcp",
        ] {
            assert!(matches!(find(&Method::GET, path), Found::Nowhere), "{path}");
        }
    }

    #[test]
    fn a_known_path_names_its_methods() {
        let allowed = |method: Method, path| match find(&method, path) {
            Found::WrongMethod(allowed) => allowed,
            Found::Route(..) | Found::Nowhere => "",
        };
        assert_eq!(allowed(Method::PUT, "/v1/tasks"), "GET, HEAD, POST");
        assert_eq!(allowed(Method::POST, "/v1/workers/x"), "GET, HEAD, DELETE");
        assert_eq!(allowed(Method::DELETE, "/v1/workers/connect"), "GET, HEAD");
        assert_eq!(allowed(Method::GET, "/-/reload"), "POST");
    }

    #[test]
    fn no_endpoint_has_two_routes() {
        for (at, route) in ROUTES.iter().enumerate() {
            assert!(
                ROUTES[..at].iter().all(|other| other.endpoint != route.endpoint),
                "{:?}",
                route.endpoint
            );
        }
    }
}
