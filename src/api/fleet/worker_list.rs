//! `GET /v1/workers`: all of them, or a page of those that are asked for, by name.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::worker_form::write;
use super::workers::program;
use crate::api::AppState;
use crate::api::http::body::{Reply, json};
use crate::api::http::json::{Object, write_list};
use crate::api::http::problem::Refused;
use crate::api::http::query::{Query, invalid};
use crate::fleet::{WorkerState, WorkerView};

/// The parameters of the list.
pub(crate) const QUERY: &[&str] = &["state", "pool", "name", "limit", "cursor"];

/// Workers on a page at most. Without `limit` there is one page, with all.
const MAX_PAGE: usize = 1_000;

/// Lists them.
pub(crate) fn list(state: &AppState, request: &Request<Incoming>) -> Reply {
    let query = Query::read(request.uri().query(), QUERY)?;
    let (wanted, limit) = (Wanted::read(&query)?, limit(&query)?);
    let snapshot = state.manager().workers();
    let mut found = wanted.among(&snapshot.workers);
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let next = found.next().and(page.last()).map(|last| last.name.as_str());
    let mut out = Vec::with_capacity(64 + 768 * page.len());
    let mut object = Object::new(&mut out);
    write_list(object.name("items"), &page, |out, worker| {
        write(out, worker, program(state, worker), false);
    });
    object.maybe_text("next_cursor", next);
    object.end();
    Ok(json(StatusCode::OK, out))
}

/// Which workers are asked for.
#[derive(Debug, Default)]
struct Wanted<'a> {
    /// Any of these; empty: in any state.
    states: Vec<WorkerState>,
    pool: Option<&'a str>,
    /// A part of the name.
    name: &'a str,
    /// After this name.
    cursor: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn read(query: &'a Query<'_>) -> Result<Self, Refused> {
        let named = |word: &str| WorkerState::SHOWN.into_iter().find(|state| state.as_str() == word);
        let state = |word: &str| {
            named(word).ok_or_else(|| {
                let words = WorkerState::SHOWN.map(WorkerState::as_str).join(", ");
                Refused::new(invalid("state", format!("must be some of {words}, with commas between")))
            })
        };
        let words = query.get("state").into_iter().flat_map(|words| words.split(','));
        Ok(Self {
            states: words.map(state).collect::<Result<_, _>>()?,
            pool: query.get("pool"),
            name: query.get("name").unwrap_or_default(),
            cursor: query.get("cursor"),
        })
    }

    /// Those that fit, in the order of their names. `workers` is sorted by them.
    fn among<'w, W: AsRef<WorkerView>>(&self, workers: &'w [W]) -> impl Iterator<Item = &'w W> {
        let after = |cursor: &str| workers.partition_point(|view| view.as_ref().name.as_str() <= cursor);
        let from = self.cursor.map_or(0, after);
        workers[from..].iter().filter(|view| self.fits((*view).as_ref()))
    }

    fn fits(&self, view: &WorkerView) -> bool {
        (self.states.is_empty() || self.states.contains(&view.state))
            && self.pool.is_none_or(|pool| view.pool.as_ref().is_some_and(|of| of.as_str() == pool))
            && view.name.as_str().contains(self.name)
    }
}

fn limit(query: &Query<'_>) -> Result<usize, Refused> {
    let expected = "a number from 1 to 1000";
    match query.parsed::<usize>("limit", expected)? {
        None => Ok(usize::MAX),
        Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        Some(_) => Err(invalid("limit", format!("must be {expected}")).into()),
    }
}
