//! The way of a request: who asks, what it is for, the handler, the numbers. One function, so that
//! nothing can be forgotten on the way to a new route.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::http::body::{Answer, Body, Reply};
use super::http::guard;
use super::http::problem::{self, Kind, Refused};
use super::http::pulse::Pulse;
use super::http::server::Face;
use super::routes::{Endpoint as E, Found, ROUTES, find};
use super::{AppState, artifacts, fleet, openapi, page, tasks};
use crate::config::Config;
use crate::fleet::{OperatorWord, PoolWord};
use crate::telemetry::Rejected;

/// The longest URL, in bytes.
const MAX_URL: usize = 8 << 10;
/// Headers of one request at most. hyper would look too, but only up to its own bound (100) without
/// clearing room for them at every request.
const MAX_HEADERS: usize = 64;
/// What a request to no route is counted under.
const NO_ROUTE: &str = "(no route)";

/// Answers a request, whatever it is.
pub(super) async fn answer(
    state: &AppState,
    face: Face,
    pulse: &Arc<Pulse>,
    request: Request<Incoming>,
) -> Answer {
    let began = Instant::now();
    pulse.request(began);
    let in_flight = state.metrics().http_in_flight();
    let method = request.method().clone();
    let config = state.config();
    let admitted = admitted(face, &config, &request);
    let route = admitted.as_ref().ok().map(|(at, _)| *at);
    let reply = match admitted {
        // The one route whose speed is measured goes without a box.
        Ok((at, _)) if ROUTES[at].endpoint == E::SubmitTask => tasks::submit(state, &config, request).await,
        Ok((at, parameter)) => {
            let to = (ROUTES[at].endpoint, parameter);
            Box::pin(handled(state, &config, to, (face, pulse), request)).await
        }
        Err(refused) => Err(refused),
    };
    let mut answer = reply.unwrap_or_else(|refused: Refused| {
        if let Some(reason) = rejected(refused.kind) {
            state.metrics().http_rejected(reason);
        }
        Answer::from(*refused)
    });
    let streams = answer.body().is_stream();
    if streams && method == Method::HEAD {
        *answer.body_mut() = Body::empty();
    }
    drop(in_flight);
    let took = (!streams).then(|| {
        let now = Instant::now();
        pulse.answered(now);
        now.saturating_duration_since(began)
    });
    count(state, &method, route, answer.status().as_u16(), took);
    answer
}

fn count(state: &AppState, method: &Method, route: Option<usize>, code: u16, took: Option<Duration>) {
    if let Some(at) = route
        && method != Method::HEAD
        && state.0.routes[at].request(code, took)
    {
        return;
    }
    let path = route.map_or(NO_ROUTE, |at| ROUTES[at].path);
    state.metrics().http_request(method.as_str(), path, code, took);
}

/// The route of a request that may be answered (by its place in the table), with its parameter.
fn admitted(face: Face, config: &Config, request: &Request<Incoming>) -> Result<(usize, String), Refused> {
    let uri = request.uri();
    // No name of this listener needs to be known: pages of the web are refused there, and a token opens.
    if face != Face::Workers {
        guard::check(uri, request.headers(), &config.server)?;
    }
    if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URL {
        return Err(problem::URL_TOO_LONG.with(format!("the URL is longer than {MAX_URL} bytes")).into());
    }
    if request.headers().len() > MAX_HEADERS {
        let many = format!("the request has more than {MAX_HEADERS} headers");
        return Err(problem::TOO_MANY_HEADERS.with(many).into());
    }
    match find(request.method(), uri.path()) {
        Found::Route(at, parameter) if serves(face, ROUTES[at].endpoint) => Ok((at, parameter.to_owned())),
        Found::WrongMethod(methods) => {
            let wrong = problem::METHOD_NOT_ALLOWED.with(format!("the path knows {methods}"));
            Err(wrong.allow(methods).into())
        }
        Found::Route(..) | Found::Nowhere => {
            let nowhere = problem::NO_SUCH_ROUTE.with("no route of this version has this path");
            Err(nowhere.hint("GET /openapi.json lists the routes").into())
        }
    }
}

/// The word for a request that came to nothing before anything was asked of the fleet.
fn rejected(kind: Kind) -> Option<Rejected> {
    match kind {
        problem::HOST_NOT_ALLOWED => Some(Rejected::Host),
        problem::ORIGIN_NOT_ALLOWED => Some(Rejected::Origin),
        problem::BODY_TOO_LARGE | problem::URL_TOO_LONG | problem::TOO_MANY_HEADERS => {
            Some(Rejected::TooLarge)
        }
        problem::BODY_TIMEOUT => Some(Rejected::Timeout),
        problem::QUEUE_FULL => Some(Rejected::Overload),
        problem::TOO_MANY_FAILURES => Some(Rejected::RateLimit),
        _ => None,
    }
}

/// Whether a listener serves an endpoint.
fn serves(face: Face, endpoint: E) -> bool {
    let is_metrics = matches!(endpoint, E::Metrics | E::MetricsOfWorkers);
    match face {
        Face::All => true,
        Face::AllButMetrics => !is_metrics,
        Face::MetricsOnly => is_metrics,
        Face::Workers => endpoint == E::ConnectWorker,
    }
}

async fn handled(
    state: &AppState,
    config: &Config,
    (endpoint, parameter): (E, String),
    (face, pulse): (Face, &Arc<Pulse>),
    request: Request<Incoming>,
) -> Reply {
    match endpoint {
        E::Healthz => Ok(fleet::health::healthz()),
        E::Readyz => Ok(fleet::health::readyz(state)),
        E::Metrics => fleet::metrics::page(state).await,
        E::MetricsOfWorkers => fleet::metrics::workers_page(state).await,
        E::Reload => fleet::topology::reload(state, &request).await,
        E::Page => Ok(page::page()),
        E::Runbook => fleet::runbooks::get(&parameter),
        E::DiscoverTargets => fleet::discovery::targets(state, config, &request),
        E::OpenApi => Ok(openapi::answer()),
        E::SubmitTask => tasks::submit(state, config, request).await,
        E::SubmitBatch => tasks::batch::submit(state, config, request).await,
        E::ListTasks => tasks::list(state, &request).await,
        E::GetTask => tasks::get(state, &parameter).await,
        E::TaskEvents => tasks::events::follow(state, &parameter, pulse, &request).await,
        E::TaskArtifact => artifacts::of_task(state, &parameter, pulse, &request).await,
        E::GiveArtifact => artifacts::give(state, request).await,
        E::GetArtifact => artifacts::get(state, &parameter, pulse, &request).await,
        E::ExplainTask => tasks::explain(state, &parameter).await,
        E::CancelTask => tasks::cancel(state, &parameter).await,
        E::RetryTask => tasks::retry(state, &parameter).await,
        E::ListWorkers => fleet::worker_list::list(state, &request),
        E::AddWorker => fleet::workers::add(state, config, request).await,
        E::ConnectWorker => fleet::connect::connect(state, face, pulse, request),
        E::GetWorker => fleet::workers::get(state, &parameter),
        E::RemoveWorker => fleet::workers::remove(state, &parameter).await,
        E::CordonWorker => fleet::workers::say(state, &parameter, OperatorWord::Cordon, &request).await,
        E::UncordonWorker => fleet::workers::say(state, &parameter, OperatorWord::Uncordon, &request).await,
        E::DrainWorker => fleet::workers::say(state, &parameter, OperatorWord::Drain, &request).await,
        E::RestartWorker => fleet::workers::say(state, &parameter, OperatorWord::Restart, &request).await,
        E::ProbeWorker => fleet::workers::probe(state, &parameter).await,
        E::ListPools => Ok(fleet::pools::list(state)),
        E::GetPool => fleet::pools::get(state, &parameter),
        E::PoolDecisions => fleet::pools::decisions(state, &parameter),
        E::PoolDemand => fleet::pools::demand(state, &parameter),
        E::SimulatePools => fleet::forecast::simulate(state, request).await,
        E::ScalePool => fleet::pools::scale(state, config, &parameter, request).await,
        E::PausePool => fleet::pools::say(state, &parameter, PoolWord::Pause, &request).await,
        E::ResumePool => fleet::pools::say(state, &parameter, PoolWord::Resume, &request).await,
        E::ListSessions => fleet::sessions::list(state).await,
        E::EndSession => fleet::sessions::end(state, &parameter).await,
        E::GetTopology => Ok(fleet::topology::get(state, config)),
        E::PlanTopology => fleet::topology::plan(state, request).await,
        E::FleetEvents => fleet::events::follow(state, pulse, &request),
        E::Status => fleet::status::get(state).await,
    }
}
