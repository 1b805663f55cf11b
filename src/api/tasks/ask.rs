//! Reads what a caller asks for, and checks every bound before the task goes any further. The input
//! itself is never parsed: it is checked to be JSON and passed on as the text that it is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_KEY, placement};
use crate::api::http::json::depth_within;
use crate::api::http::problem::{self, Problem, Refused};
use crate::api::http::query::{invalid, unknown};
use crate::config::duration;
use crate::data::artifacts::references;
use crate::fleet::{Deadline, FairnessKey, Payload, RetryWord, SessionName, TaskSpec, Wall, bounds};

/// Labels by name.
pub(super) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// How deep the JSON of a request may be nested.
pub(crate) const MAX_DEPTH: usize = 64;

const FIELDS: &[&str] = &[
    "capability",
    "input",
    "labels",
    "priority",
    "queue_timeout",
    "execution_timeout",
    "deadline",
    "max_attempts",
    "fairness_key",
    "retry",
    "session",
    "session_ttl",
    "placement",
    "idempotency_key",
];

/// Reads a task from the body of a request.
///
/// # Errors
/// 400 for what is not JSON or nested too deeply, 422 for a field that is unknown, wrong, or not
/// supported by this version.
pub(super) fn read(body: &[u8]) -> Result<TaskSpec, Refused> {
    let fields = fields(checked_text(body)?)?;
    if fields.raw("idempotency_key").is_some() {
        let problem = invalid("idempotency_key", "is a field of a batch's tasks only");
        return Err(problem.hint("send it as the header Idempotency-Key").into());
    }
    spec(&fields)
}

/// Reads one task of a batch, which bears its own `idempotency_key`.
///
/// # Errors
/// As [`read`].
pub(super) fn read_item(text: &str) -> Result<(TaskSpec, Option<String>), Refused> {
    let fields = fields(checked_text(text.as_bytes())?)?;
    let expected = "a text of 1 to 128 bytes";
    let key =
        fields.checked("idempotency_key", expected, |key: &String| (1..=MAX_KEY).contains(&key.len()))?;
    Ok((spec(&fields)?, key))
}

fn fields(text: &str) -> Result<Fields<'_>, Refused> {
    let mut from = serde_json::Deserializer::from_str(text);
    let fields = from.deserialize_any(Fields::default()).and_then(|fields| from.end().map(|()| fields));
    let fields = fields.map_err(|error| not_json(&error, TASK))?;
    match fields.wrong {
        Some(problem) => Err(problem),
        None => Ok(fields),
    }
}

/// The body as text that is not nested too deeply; whether it is JSON shows when it is read.
///
/// # Errors
/// 400.
pub(crate) fn checked_text(body: &[u8]) -> Result<&str, Refused> {
    text_within(body, MAX_DEPTH)
}

/// The same with another bound on its nesting.
///
/// # Errors
/// 400.
pub(super) fn text_within(body: &[u8], depth: usize) -> Result<&str, Refused> {
    if !depth_within(body, depth) {
        let message = format!("values may be nested {depth} deep at most");
        return Err(problem::TOO_DEEP.with(message).into());
    }
    std::str::from_utf8(body)
        .map_err(|error| problem::NOT_JSON.with(format!("it is no UTF-8: {error}")).into())
}

/// 400, with the place of the mistake.
pub(crate) fn not_json(error: &serde_json::Error, hint: &str) -> Refused {
    problem::NOT_JSON.with(error.to_string()).hint(hint).into()
}

/// What a task looks like.
const TASK: &str = r#"a task looks like {"capability":"python.execute","input":{"code":"print(6*7)"}}"#;

/// The fields of the body, unread, by their place in [`FIELDS`].
#[derive(Default)]
pub(super) struct Fields<'a> {
    found: [Option<&'a RawValue>; FIELDS.len()],
    /// The first thing that is wrong although it is JSON.
    wrong: Option<Refused>,
}

impl<'a> Visitor<'a> for Fields<'a> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a task's fields")
    }

    fn visit_map<M: MapAccess<'a>>(mut self, mut map: M) -> Result<Self, M::Error> {
        while let Some(name) = map.next_key::<Name<'a>>()? {
            let value = map.next_value::<&RawValue>()?;
            let known = FIELDS.iter().position(|field| *field == &*name.0);
            match known.map(|at| &mut self.found[at]) {
                Some(place @ None) => *place = Some(value),
                Some(Some(_)) => self.wrong_is(|| invalid(&name.0, "it stands twice")),
                None => self.wrong_is(|| unknown("field", &name.0, FIELDS)),
            }
        }
        Ok(self)
    }
}

impl<'a> Fields<'a> {
    fn wrong_is(&mut self, problem: impl FnOnce() -> Problem) {
        self.wrong.get_or_insert_with(|| Box::new(problem()));
    }

    /// The text of a field; `None` where it is absent or `null`.
    fn raw(&self, name: &str) -> Option<&'a str> {
        let at = FIELDS.iter().position(|field| *field == name)?;
        self.found[at].map(RawValue::get).filter(|text| *text != "null")
    }

    /// A field read as `T`.
    pub(super) fn value<T: DeserializeOwned>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Refused> {
        let Some(text) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| invalid(name, format!("must be {expected}")).into())
    }

    fn checked<T: DeserializeOwned>(
        &self,
        name: &str,
        expected: &str,
        fits: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, Refused> {
        match self.value(name, expected)? {
            Some(value) if !fits(&value) => Err(invalid(name, format!("must be {expected}")).into()),
            value => Ok(value),
        }
    }

    fn span(&self, name: &str) -> Result<Option<Duration>, Refused> {
        let expected = SPAN;
        let Some(text) = self.value::<String>(name, expected)? else { return Ok(None) };
        match span(&text) {
            Some(span) => Ok(Some(span)),
            None => Err(invalid(name, format!("must be {expected}")).into()),
        }
    }
}

/// What a duration looks like.
pub(super) const SPAN: &str = "a duration from 1ms to 30d, such as \"250ms\", \"30s\", \"5m\" or \"2h\"";

/// Reads a duration within its bounds.
pub(super) fn span(text: &str) -> Option<Duration> {
    duration(text).filter(|span| bounds::is_span(*span))
}

/// A field's name as JSON has it; borrowed unless it is escaped.
pub(super) struct Name<'a>(pub(super) std::borrow::Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(text.to_owned().into()))
            }
        }
        from.deserialize_str(Text)
    }
}

fn spec(fields: &Fields<'_>) -> Result<TaskSpec, Refused> {
    let named = "the name of a capability, such as \"python.execute\"";
    let Some(capability) =
        fields.checked("capability", named, |name: &String| bounds::is_capability(name))?
    else {
        return Err(invalid("capability", format!("is missing; it must be {named}")).into());
    };
    let (session, session_ttl) = session(fields)?;
    let key = "a text of 1 to 128 bytes";
    let fairness_key = fields.checked("fairness_key", key, |key: &String| bounds::is_name(key))?;
    let attempts = "a number from 1 to 100";
    let input = fields.raw("input").unwrap_or("{}");
    let artifacts = references(input).map_err(|problem| invalid("input", problem))?;
    let mut labels = labels(fields)?;
    let placement = placement::read(fields, &mut labels)?;
    Ok(TaskSpec {
        capability: capability.into(),
        input: Payload::from(input),
        labels,
        placement,
        stowed: 0,
        priority: fields
            .checked("priority", "a number from 1 (first) to 5", |number| {
                bounds::PRIORITIES.contains(number)
            })?
            .unwrap_or(TaskSpec::USUAL_PRIORITY),
        queue_timeout: fields.span("queue_timeout")?,
        execution_timeout: fields.span("execution_timeout")?,
        deadline: deadline(fields)?,
        max_attempts: fields.checked("max_attempts", attempts, |number| bounds::ATTEMPTS.contains(number))?,
        session,
        session_ttl,
        fairness_key: fairness_key.map(FairnessKey::from),
        retry: retry(fields)?,
        traceparent: None,
        artifacts,
    })
}

/// The session that the task runs in, and how long that lives unused.
fn session(fields: &Fields<'_>) -> Result<(Option<SessionName>, Option<Duration>), Refused> {
    let expected = "a name of 1 to 128 characters from A-Z, a-z, 0-9 and `.`, `_`, `:`, `@`, `-`";
    let name = fields.checked("session", expected, |name: &String| bounds::is_session(name))?;
    let ttl = fields.span("session_ttl")?;
    match (name, ttl) {
        (None, Some(_)) => Err(invalid("session_ttl", "is about a session, and `session` names none").into()),
        (name, ttl) => Ok((name.map(SessionName::from), ttl)),
    }
}

fn labels(fields: &Fields<'_>) -> Result<Labels, Refused> {
    let expected = "an object of at most 32 texts, each name and value of at most 128 bytes";
    Ok(fields.checked("labels", expected, bounds::are_labels)?.unwrap_or_default())
}

fn deadline(fields: &Fields<'_>) -> Result<Option<Deadline>, Refused> {
    let expected = "a duration from now, such as \"2m\", or a time as RFC 3339 writes it";
    let Some(text) = fields.value::<String>("deadline", expected)? else { return Ok(None) };
    if let Some(span) = span(&text) {
        return Ok(Some(Deadline::After(span)));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(Some(Deadline::At(Wall(time.as_millisecond())))),
        Err(_) => Err(invalid("deadline", format!("must be {expected}")).into()),
    }
}

fn retry(fields: &Fields<'_>) -> Result<RetryWord, Refused> {
    let expected = "\"safe\" or \"always\"";
    match fields.value::<String>("retry", expected)?.as_deref() {
        None | Some("safe") => Ok(RetryWord::Safe),
        Some("always") => Ok(RetryWord::Always),
        Some(_) => Err(invalid("retry", format!("must be {expected}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Placement;

    fn refused(body: &str) -> (u16, &'static str, String) {
        let problem = read(body.as_bytes()).expect_err(body);
        (problem.kind.status.as_u16(), problem.kind.code, format!("{problem:?}"))
    }

    #[test]
    fn the_example_of_the_documentation_is_a_task() {
        let body = r#"{"capability":"python.execute","input":{"code":"print(6*7)"},"labels":{"zone":"a"},"priority":2,
            "queue_timeout":"1m","execution_timeout":"30s","deadline":"2m","max_attempts":3,"session":null,
            "fairness_key":"agent-7","retry":"always"}"#;
        let spec = read(body.as_bytes()).expect("a task");
        assert_eq!(spec.capability.as_str(), "python.execute");
        assert_eq!(spec.input.as_str(), r#"{"code":"print(6*7)"}"#);
        assert_eq!(spec.labels.get("zone").map(|zone| &**zone), Some("a"));
        assert_eq!((spec.priority, spec.max_attempts, spec.retry), (2, Some(3), RetryWord::Always));
        assert_eq!(spec.queue_timeout, Some(Duration::from_secs(60)));
        assert_eq!(spec.deadline, Some(Deadline::After(Duration::from_secs(120))));
    }

    #[test]
    fn what_is_left_out_has_its_default_and_the_input_is_never_rewritten() {
        let spec = read(b"{ \"capability\" : \"a\", \"input\" : [1,  2.0e1, \"\\u00e4\"] }").expect("a task");
        assert_eq!(spec.input.as_str(), "[1,  2.0e1, \"\\u00e4\"]");
        assert_eq!((spec.priority, spec.retry, spec.deadline), (3, RetryWord::Safe, None));
        assert_eq!(read(br#"{"capability":"a"}"#).expect("a task").input.as_str(), "{}");
        let at = read(br#"{"capability":"a","deadline":"2030-01-02T03:04:05Z"}"#).expect("a task");
        assert_eq!(at.deadline, Some(Deadline::At(Wall(1_893_553_445_000))));
    }

    #[test]
    fn what_is_not_json_is_400() {
        for body in
            ["", "{", "nope", "{\"capability\":\"a\"} x", "{\"capability\":}", "{'a':1}", "\u{feff}{}"]
        {
            assert_eq!(refused(body).1, "not_json", "{body}");
        }
        assert_eq!(read(b"{\"capability\":\"\xff\"}").expect_err("no UTF-8").kind.code, "not_json");
        for body in ["[]", "1", "null", "\"task\""] {
            assert_eq!(refused(body).0, 400, "{body}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_at_once() {
        let body = format!(r#"{{"capability":"a","input":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(refused(&body).1, "too_deep");
        let fine = format!(r#"{{"capability":"a","input":{}{}}}"#, "[".repeat(63), "]".repeat(63));
        assert!(read(fine.as_bytes()).is_ok());
    }

    #[test]
    fn an_unknown_field_is_named_with_the_nearest_known_one() {
        let (status, code, shown) = refused(r#"{"capability":"a","prioritty":1}"#);
        assert_eq!((status, code), (422, "unknown_field"));
        assert!(shown.contains("prioritty") && shown.contains("did you mean \\\"priority\\\""), "{shown}");
        assert_eq!(refused(r#"{"capability":"a","capability":"b"}"#).1, "invalid_field");
    }

    #[test]
    fn every_bound_is_checked_and_the_field_named() {
        let long = "x".repeat(129);
        for (field, value) in [
            ("capability", "\"\""),
            ("capability", "7"),
            ("capability", "\"files.*\""),
            ("capability", "\"a b\""),
            ("priority", "0"),
            ("priority", "6"),
            ("priority", "\"1\""),
            ("priority", "1.5"),
            ("priority", "-1"),
            ("labels", "[]"),
            ("labels", "{\"a\":1}"),
            ("labels", "{\"\":\"x\"}"),
            ("queue_timeout", "\"0s\""),
            ("queue_timeout", "30"),
            ("execution_timeout", "\"31d\""),
            ("deadline", "\"tomorrow\""),
            ("deadline", "\"0s\""),
            ("max_attempts", "0"),
            ("max_attempts", "101"),
            ("fairness_key", "\"\""),
            ("retry", "\"never\""),
            ("retry", "true"),
        ] {
            let rest = if field == "capability" { "" } else { r#","capability":"a""# };
            let (status, code, shown) = refused(&format!(r#"{{"{field}":{value}{rest}}}"#));
            assert_eq!((status, code), (422, "invalid_field"), "{field} {value}");
            assert!(shown.contains(&format!("field: Some(\"{field}\")")), "{shown}");
        }
        assert_eq!(refused(&format!(r#"{{"capability":"{long}"}}"#)).1, "invalid_field");
        assert_eq!(refused(r#"{"input":1}"#).1, "invalid_field");
    }

    #[test]
    fn a_placement_says_what_must_be_and_what_should_be_and_for_how_long() {
        let body = r#"{"capability":"a","labels":{"gpu":"yes"},"placement":{"required":{"cloud":"here"},
            "preferred":{"region":"north","gpu":"yes"},"fallback_after":"10s"}}"#;
        let spec = read(body.as_bytes()).expect("a task");
        let labels: Vec<_> = spec.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(labels, ["cloud=here", "gpu=yes"]);
        let preferred = [("region".into(), "north".into())].into_iter().collect();
        let fallback_after = Some(Duration::from_secs(10));
        assert_eq!(spec.placement, Some(Placement { preferred, fallback_after }));
        for nothing in ["null", "{}", r#"{"required":{"a":"b"}}"#, r#"{"preferred":{}}"#] {
            let spec =
                read(format!(r#"{{"capability":"a","placement":{nothing}}}"#).as_bytes()).expect("a task");
            assert_eq!(spec.placement, None, "{nothing}");
        }
    }

    #[test]
    fn a_placement_that_contradicts_itself_is_refused() {
        for (placement, field) in [
            (r#""north""#, "placement"),
            (r#"{"prefered":{}}"#, "placement"),
            (r#"{"required":{"":"x"}}"#, "placement.required"),
            (r#"{"required":{"zone":"b"}}"#, "placement.required"),
            (r#"{"preferred":{"zone":"b"}}"#, "placement.preferred"),
            (r#"{"fallback_after":"10s"}"#, "placement.fallback_after"),
            (r#"{"preferred":{"region":"b"},"fallback_after":"0s"}"#, "placement.fallback_after"),
        ] {
            let (status, code, shown) =
                refused(&format!(r#"{{"capability":"a","labels":{{"zone":"a"}},"placement":{placement}}}"#));
            assert_eq!((status, code), (422, "invalid_field"), "{placement}");
            assert!(shown.contains(&format!("field: Some(\"{field}\")")), "{shown}");
        }
    }

    #[test]
    fn a_session_has_a_name_that_stands_in_a_path() {
        let task = read(br#"{"capability":"a","session":"me@box:1","session_ttl":"1m"}"#).expect("a session");
        assert_eq!(task.session.as_ref().map(SessionName::as_str), Some("me@box:1"));
        assert_eq!(task.session_ttl, Some(Duration::from_secs(60)));
        for wrong in [r#""session":"""#, r#""session":"a/b""#, r#""session":1"#, r#""session_ttl":"1m""#] {
            assert_eq!(refused(&format!(r#"{{"capability":"a",{wrong}}}"#)).0, 422, "{wrong}");
        }
    }
}
