//! Whether somebody who dials in may try: the token in the request. Under which name it is good is
//! seen when the worker says its name.

use std::time::Instant;

use hyper::header::{AUTHORIZATION, HeaderMap};

use crate::api::AppState;
use crate::api::http::problem::{self, Problem, Refused};
use crate::api::http::pulse::Caller;
use crate::api::http::server::Face;
use crate::telemetry::Auth;
use crate::trust::{Digest, Pass};

/// What stands in the header.
enum Shown {
    Nothing,
    Odd,
    Token(Digest),
}

/// What was shown, if somebody has that.
///
/// # Errors
/// 401 for a token that is missing or nobody's, 429 after too many of those.
pub(super) fn pass(
    state: &AppState,
    face: Face,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Pass, Refused> {
    let token_needed = face == Face::Workers;
    let shown = shown(headers);
    let credentials = state.manager().trust().credentials();
    let pass =
        |shown| Pass { shown, names: caller.names.clone(), token_needed, credentials: credentials.clone() };
    if matches!(shown, Shown::Nothing) && !token_needed {
        return Ok(pass(None));
    }
    let now = Instant::now();
    let digest = match &shown {
        Shown::Token(digest) => Some(*digest),
        Shown::Nothing | Shown::Odd => None,
    };
    if let Some(wait) = state.strikes().wait(caller.address, digest.as_ref(), now) {
        state.metrics().worker_auth(Auth::Throttled);
        let told =
            problem::TOO_MANY_FAILURES.with("wait before the next try, and look at the token meanwhile");
        return Err(told.retry_after(wait.as_secs().max(1)).into());
    }
    let wrong = match (&shown, digest) {
        (_, Some(digest)) if credentials.know(&digest) || state.manager().launched_with(&digest) => {
            state.metrics().worker_auth(Auth::Ok);
            state.strikes().right(caller.address, digest, now);
            return Ok(pass(Some(digest)));
        }
        (Shown::Token(_), _) => Auth::Unknown,
        (Shown::Odd, _) => Auth::Malformed,
        (Shown::Nothing, _) => Auth::Missing,
    };
    state.metrics().worker_auth(wrong);
    state.strikes().wrong(caller.address, now);
    Err(refusal(wrong).into())
}

fn refusal(wrong: Auth) -> Problem {
    let hint = "the worker's token file (or ROLLCALL_TOKEN) must hold what `token` of its entry, or of its pool's \
                `worker`, refers to";
    match wrong {
        Auth::Missing => {
            problem::TOKEN_MISSING.with("the request has no `Authorization: Bearer` header").hint(hint)
        }
        Auth::Malformed => {
            problem::TOKEN_MISSING.with("the Authorization header is no bearer token").hint(hint)
        }
        _ => problem::TOKEN_UNKNOWN
            .with("no worker and no pool of the configuration has this token")
            .hint(hint),
    }
}

fn shown(headers: &HeaderMap) -> Shown {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), more) = (all.next(), all.next()) else { return Shown::Nothing };
    match header.as_bytes().split_at_checked(7) {
        Some((scheme, secret))
            if more.is_none() && !secret.is_empty() && scheme.eq_ignore_ascii_case(b"bearer ") =>
        {
            Shown::Token(Digest::of(secret))
        }
        Some(_) | None => Shown::Odd,
    }
}
