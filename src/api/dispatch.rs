//! The way of a request: who asks, what it is for, the handler, the numbers. One function, so that
//! nothing can be forgotten on the way to a new route.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::http::body::{Answer, Body, Reply};
use super::http::guard;
use super::http::problem::{self, Refused};
use super::http::pulse::Pulse;
use super::http::server::Face;
use super::routes::{Endpoint as E, Found, Route, find};
use super::{AppState, fleet, openapi, page, tasks};
use crate::telemetry::Rejected;

/// The longest URL, in bytes.
const MAX_URL: usize = 8 << 10;
/// What a request to no route is counted under.
const NO_ROUTE: &str = "none";

/// Answers a request, whatever it is.
pub(super) async fn answer(
    state: &AppState,
    face: Face,
    pulse: &Arc<Pulse>,
    request: Request<Incoming>,
) -> Answer {
    let began = Instant::now();
    pulse.request();
    let in_flight = state.metrics().http_in_flight();
    let method = request.method().clone();
    let (route, reply) = match admitted(state, face, &request) {
        Ok((route, parameter)) => {
            let reply = match route.endpoint {
                // The one route whose speed is measured goes without a box.
                E::SubmitTask => tasks::submit(state, request).await,
                _ => Box::pin(handled(state, route, parameter, pulse, request)).await,
            };
            (route.path, reply)
        }
        Err(refused) => (NO_ROUTE, Err(refused)),
    };
    let mut answer = reply.unwrap_or_else(|problem: Refused| Answer::from(*problem));
    let streams = answer.body().is_stream();
    if streams && method == Method::HEAD {
        *answer.body_mut() = Body::empty();
    } else if !streams {
        pulse.answered();
    }
    drop(in_flight);
    let took = (!streams).then(|| began.elapsed());
    state.metrics().http_request(method.as_str(), route, answer.status().as_u16(), took);
    answer
}

/// The route of a request that may be answered, with its parameter.
fn admitted(
    state: &AppState,
    face: Face,
    request: &Request<Incoming>,
) -> Result<(&'static Route, String), Refused> {
    let uri = request.uri();
    let config = state.config();
    if let Err(refused) = guard::check(uri, request.headers(), &config.server) {
        if refused.kind == problem::HOST_NOT_ALLOWED {
            state.metrics().http_rejected(Rejected::Host);
        } else if refused.kind == problem::ORIGIN_NOT_ALLOWED {
            state.metrics().http_rejected(Rejected::Origin);
        }
        return Err(refused);
    }
    if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URL {
        state.metrics().http_rejected(Rejected::TooLarge);
        return Err(problem::URL_TOO_LONG.with(format!("the URL is longer than {MAX_URL} bytes")).into());
    }
    match find(request.method(), uri.path()) {
        Found::Route(route, parameter) if serves(face, route.endpoint) => Ok((route, parameter.to_owned())),
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

/// Whether a listener serves an endpoint.
fn serves(face: Face, endpoint: E) -> bool {
    let is_metrics = matches!(endpoint, E::Metrics | E::MetricsOfWorkers);
    match face {
        Face::All => true,
        Face::AllButMetrics => !is_metrics,
        Face::MetricsOnly => is_metrics,
    }
}

async fn handled(
    state: &AppState,
    route: &'static Route,
    parameter: String,
    pulse: &Arc<Pulse>,
    request: Request<Incoming>,
) -> Reply {
    match route.endpoint {
        E::Healthz => Ok(fleet::health::healthz()),
        E::Readyz => Ok(fleet::health::readyz(state)),
        E::Metrics => fleet::metrics::page(state).await,
        E::MetricsOfWorkers => fleet::metrics::workers_page(state).await,
        E::Reload => fleet::topology::reload(state, &request).await,
        E::Page => Ok(page::page()),
        E::OpenApi => Ok(openapi::answer()),
        E::SubmitTask => tasks::submit(state, request).await,
        E::ListTasks => tasks::list(state, &request).await,
        E::GetTask => tasks::get(state, &parameter).await,
        E::TaskEvents => tasks::events::follow(state, &parameter, pulse, &request).await,
        E::ExplainTask => tasks::explain(state, &parameter).await,
        E::CancelTask => tasks::cancel(state, &parameter).await,
        E::RetryTask => tasks::retry(state, &parameter).await,
        E::ListWorkers => Ok(fleet::workers::list(state)),
        E::AddWorker => fleet::workers::add(state, request).await,
        E::ConnectWorker => fleet::connect::connect(state, request),
        E::GetWorker => fleet::workers::get(state, &parameter),
        E::RemoveWorker => fleet::workers::remove(state, &parameter).await,
        E::CordonWorker => fleet::workers::say(state, &parameter, crate::fleet::OperatorWord::Cordon).await,
        E::UncordonWorker => {
            fleet::workers::say(state, &parameter, crate::fleet::OperatorWord::Uncordon).await
        }
        E::DrainWorker => fleet::workers::say(state, &parameter, crate::fleet::OperatorWord::Drain).await,
        E::RestartWorker => fleet::workers::say(state, &parameter, crate::fleet::OperatorWord::Restart).await,
        E::ProbeWorker => fleet::workers::probe(state, &parameter).await,
        E::GetTopology => Ok(fleet::topology::get(state)),
        E::PlanTopology => fleet::topology::plan(state, request).await,
        E::FleetEvents => fleet::events::follow(state, pulse, &request),
        E::Status => fleet::status::get(state).await,
    }
}
