//! The bounds of what a caller may ask for, the same at every door by which tasks come in.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a name (of a capability, a session, a fairness key, a label) and of a label's value at most.
pub const MAX_NAME: usize = 128;

/// Labels of a task at most.
pub const MAX_LABELS: usize = 32;

/// 1 goes first.
pub const PRIORITIES: RangeInclusive<u8> = 1..=5;

/// Attempts that a task may ask for.
pub const ATTEMPTS: RangeInclusive<u32> = 1..=100;

/// The longest that a task may ask to wait or to run.
pub const MAX_SPAN: Duration = Duration::from_secs(30 * 86_400);

/// Names that workers can register, but no patterns; not the one that probes are counted under.
pub fn is_capability(name: &str) -> bool {
    is_name(name)
        && name != super::PROBE
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Names that stand in a path as they are.
pub fn is_session(name: &str) -> bool {
    is_name(name) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte))
}

/// Any text that is neither empty nor long.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
}

/// Few, each with a name, none long.
pub fn are_labels(labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
    labels.len() <= MAX_LABELS && labels.iter().all(|(name, value)| is_name(name) && value.len() <= MAX_NAME)
}

/// Some time, and not too much of it.
pub fn is_span(span: Duration) -> bool {
    !span.is_zero() && span <= MAX_SPAN
}
