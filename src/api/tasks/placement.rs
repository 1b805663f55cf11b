//! A task's `placement`: what its worker must have, what it should have, and how long to wait for that.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::ask::{Fields, Labels, SPAN, span};
use crate::api::http::problem::Refused;
use crate::api::http::query::invalid;
use crate::fleet::{Placement, bounds};

/// The field as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    required: Labels,
    #[serde(default)]
    preferred: Labels,
    #[serde(default)]
    fallback_after: Option<Arc<str>>,
}

/// Reads it. What it requires comes to the labels, which mean the same.
///
/// # Errors
/// 422 for what is unknown, out of bounds, or contradicts itself.
pub(super) fn read(fields: &Fields<'_>, labels: &mut Labels) -> Result<Option<Placement>, Refused> {
    let expected =
        "an object of `required` and `preferred` (objects of labels) and `fallback_after` (a duration)";
    let Some(written) = fields.value::<Written>("placement", expected)? else { return Ok(None) };
    let Written { required, preferred, fallback_after } = written;
    for (name, set) in [("placement.required", &required), ("placement.preferred", &preferred)] {
        if !bounds::are_labels(set) {
            let bounds = "must have at most 32 texts, each name and value of at most 128 bytes";
            return Err(invalid(name, bounds).into());
        }
    }
    for (name, value) in required {
        if let Some(other) = labels.get(&name).filter(|other| **other != value) {
            let message = format!("wants {name}={value}, and `labels` want {name}={other}");
            return Err(invalid("placement.required", message).into());
        }
        labels.insert(name, value);
    }
    if !bounds::are_labels(labels) {
        return Err(invalid("placement.required", "makes more than 32 labels together with `labels`").into());
    }
    let fallback_after = match fallback_after.as_deref().map(|text| (text, span(text))) {
        None => None,
        Some((_, Some(span))) => Some(span),
        Some((_, None)) => return Err(invalid("placement.fallback_after", format!("must be {SPAN}")).into()),
    };
    finish(preferred, fallback_after, labels)
}

fn finish(
    mut preferred: Labels,
    fallback_after: Option<Duration>,
    labels: &Labels,
) -> Result<Option<Placement>, Refused> {
    if let Some((name, value)) =
        preferred.iter().find(|(name, value)| labels.get(*name).is_some_and(|must| must != *value))
    {
        let message = format!("prefers {name}={value}, which no worker that it may have can have");
        return Err(invalid("placement.preferred", message).into());
    }
    // What is required anyway is no preference.
    preferred.retain(|name, _| !labels.contains_key(name));
    match (preferred.is_empty(), fallback_after) {
        (true, Some(_)) => {
            let message = "is about a preference, and `preferred` names none beside what is required";
            Err(invalid("placement.fallback_after", message).into())
        }
        (true, None) => Ok(None),
        (false, fallback_after) => Ok(Some(Placement { preferred, fallback_after })),
    }
}
