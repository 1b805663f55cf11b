//! How long a caller is willing to wait for a task's end: `Prefer: wait=30` (RFC 7240) or
//! `?wait=30s`.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};

use super::MAX_WAIT;
use crate::api::http::problem::Refused;
use crate::api::http::query::{Query, invalid};
use crate::config::duration;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The caller's patience; `None` when it does not wait. The query wins over the header.
///
/// # Errors
/// 422 for a query that is no duration up to five minutes. A preference that cannot be read is
/// ignored, and one that is too long cut: that is what preferences are (RFC 7240, section 2).
pub(super) fn patience(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Duration>, Refused> {
    let query = Query::read(query, &["wait"])?;
    let patience = match query.get("wait") {
        Some(text) => Some(
            duration(text)
                .filter(|wait| *wait <= MAX_WAIT)
                .ok_or_else(|| invalid("wait", "must be a duration up to 5m, such as 30s"))?,
        ),
        None => preferred(headers).map(|wait| wait.min(MAX_WAIT)),
    };
    Ok(patience.filter(|wait| !wait.is_zero()))
}

fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split(','));
    preferences.find_map(|preference| {
        let (name, seconds) = preference.split(';').next()?.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: Option<&str>, prefer: &[&str]) -> Option<u64> {
        let values = prefer.iter().map(|value| (PREFER, value.parse().expect("a header")));
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(name, value);
        }
        patience(query, &headers).expect("it can be read").map(|wait| wait.as_secs())
    }

    #[test]
    fn both_spellings_are_read() {
        assert_eq!(asked(None, &[]), None);
        assert_eq!(asked(Some("wait=30s"), &[]), Some(30));
        assert_eq!(asked(None, &["wait=30"]), Some(30));
        assert_eq!(asked(None, &["respond-async, Wait = 10; x=y"]), Some(10));
        assert_eq!(asked(None, &["respond-async", "wait=10"]), Some(10));
        assert_eq!(asked(Some("wait=1s"), &["wait=10"]), Some(1));
        assert_eq!(asked(Some("wait=0s"), &["wait=10"]), None, "not at all");
    }

    #[test]
    fn a_preference_is_cut_or_ignored_and_a_query_refused() {
        assert_eq!(asked(None, &["wait=86400"]), Some(300));
        assert_eq!(asked(None, &["wait=soon"]), None);
        for query in ["wait=301s", "wait=soon", "wait=30", "wait="] {
            assert!(patience(Some(query), &HeaderMap::new()).is_err(), "{query}");
        }
    }
}
