//! The query of a URL: known parameters by name, each at most once.

use std::borrow::Cow;

use super::problem::{self, Problem, Refused};

/// The parameters of one request.
#[derive(Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads `text` (what follows the question mark), which may name only `known` parameters.
    ///
    /// # Errors
    /// 422 for an unknown parameter, one that stands twice, or one that is no UTF-8.
    pub(crate) fn read(text: Option<&'a str>, known: &[&str]) -> Result<Self, Refused> {
        let mut read = Self::default();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(problem::BAD_REQUEST.with("the query is no UTF-8 once it is decoded").into());
            };
            if !known.contains(&&*name) {
                return Err(unknown("parameter", &name, known).into());
            }
            if read.get(&name).is_some() {
                return Err(invalid(&name, "it stands twice").into());
            }
            read.0.push((name, value));
        }
        Ok(read)
    }

    /// The value of a parameter; empty where it has none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter, read by its type's own rule.
    ///
    /// # Errors
    /// 422 with `expected`, where it does not fit.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Refused> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(name, format!("must be {expected}")).into())
    }
}

/// 422: nobody knows a field or parameter of this name.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> Problem {
    let name: String = name.chars().take(80).collect();
    let problem = problem::UNKNOWN_FIELD.with(format!("unknown {what} {name:?}")).field(name.as_str());
    let near = |known: &&str| (strsim::damerau_levenshtein(&name, known), known.len());
    let nearest = known.iter().copied().min_by_key(near);
    match nearest.filter(|nearest| strsim::damerau_levenshtein(&name, nearest) <= 1 + nearest.len() / 3) {
        Some(nearest) => problem.hint(format!("did you mean {nearest:?}?")),
        None => problem.hint(format!("known are {}", known.join(", "))),
    }
}

/// 422: a field or parameter has a value that it cannot have.
pub(crate) fn invalid(name: &str, wrong: impl std::fmt::Display) -> Problem {
    problem::INVALID_FIELD.with(format!("{name}: {wrong}")).field(name)
}

/// Percent-decoding as forms do it, where `+` is a space.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return percent_decoded(text);
    }
    percent_decoded(&text.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
}

/// Percent-decoding as paths have it; `None` for what is not UTF-8 then.
pub(crate) fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query =
            Query::read(Some("state=a%20b+c&wait=&cursor"), &["state", "wait", "cursor"]).expect("fine");
        assert_eq!(query.get("state"), Some("a b c"));
        assert_eq!((query.get("wait"), query.get("cursor"), query.get("limit")), (Some(""), Some(""), None));
    }

    #[test]
    fn what_is_unknown_double_or_broken_is_refused() {
        for (text, code) in [
            ("stat=1", "unknown_field"),
            ("state=1&state=2", "invalid_field"),
            ("state=%zz", "bad_request"),
            ("state=%ff", "bad_request"),
            ("state=%4", "bad_request"),
        ] {
            let problem = Query::read(Some(text), &["state"]).expect_err(text);
            assert_eq!(problem.kind.code, code, "{text}");
        }
    }
}
