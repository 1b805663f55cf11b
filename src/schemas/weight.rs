//! What a schema costs, found out before it is compiled. References are followed as the check
//! follows them, so that what would grow without bound (a schema that refers to itself, or doubles
//! itself level by level) is seen to, and left to the worker.

use std::fmt;

use serde_json::Value;

/// Values of a schema at most, with every reference counted as what it stands for.
const MAX_VALUES: usize = 4_096;
/// Levels of nesting at most, counted the same way; what recurs has no end.
const MAX_DEPTH: usize = 100;
/// Regular expressions at most.
const MAX_PATTERNS: usize = 32;
/// `unevaluatedProperties` and `unevaluatedItems` look at everything beside them once more, and within
/// each other again: more of them double the work each time.
const MAX_UNEVALUATED: usize = 2;

/// The drafts whose keywords are known here.
const DRAFTS: [&str; 4] = [
    "json-schema.org/draft-06/schema",
    "json-schema.org/draft-07/schema",
    "json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft/2020-12/schema",
];

/// What a schema costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    values: usize,
    patterns: usize,
    unevaluated: usize,
}

/// Why a schema is not checked here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It has so many bytes.
    TooLong(usize),
    /// It is none.
    Invalid(String),
    /// It has, or stands for, too much.
    TooLarge,
    /// It is nested too deeply, or refers to itself.
    TooDeep,
    /// It has more regular expressions than can be afforded.
    TooManyPatterns,
    /// It uses something that cannot be followed here.
    Unfollowed(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => write!(f, "is of {bytes} bytes"),
            Self::Invalid(why) => write!(f, "is not valid: {why}"),
            Self::TooLarge => write!(f, "stands for more than {MAX_VALUES} values"),
            Self::TooDeep => f.write_str("is nested too deeply, or refers to itself"),
            Self::TooManyPatterns => write!(f, "has more than {MAX_PATTERNS} regular expressions"),
            Self::Unfollowed(what) => write!(f, "uses {what}"),
        }
    }
}

impl Weight {
    /// The cost of a schema.
    pub(super) fn of(schema: &Value) -> Result<Self, Unfit> {
        if let Some(draft) = schema.get("$schema").and_then(Value::as_str) {
            let name = draft.trim_end_matches('#').split_once("://").map_or(draft, |(_, name)| name);
            if !DRAFTS.contains(&name) {
                return Err(Unfit::Unfollowed(format!("the dialect {draft:?}")));
            }
        }
        let mut weight = Self::default();
        weight.walk(schema, schema, 0)?;
        Ok(weight)
    }

    fn walk(&mut self, root: &Value, value: &Value, depth: usize) -> Result<(), Unfit> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Unfit::TooLarge);
        }
        if depth > MAX_DEPTH {
            return Err(Unfit::TooDeep);
        }
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.walk(root, item, depth + 1)),
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                self.keyword(root, name, value, depth)?;
                self.walk(root, value, depth + 1)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    /// Counts what a keyword brings along. A property of the same name has a schema and not a text, so
    /// that it is not taken for the keyword; a value in `const` or `default` may be, which only makes
    /// the schema seem dearer.
    fn keyword(&mut self, root: &Value, name: &str, value: &Value, depth: usize) -> Result<(), Unfit> {
        let unfollowed = || Err(Unfit::Unfollowed(format!("{name:?}")));
        match (name, value) {
            ("$ref", Value::String(reference)) => {
                let target = local(reference).and_then(|pointer| root.pointer(pointer));
                let Some(target) = target else {
                    return Err(Unfit::Unfollowed(format!("the reference {reference:.80?}")));
                };
                self.walk(root, target, depth + 1)
            }
            ("$dynamicRef" | "$recursiveRef", Value::String(_)) => unfollowed(),
            ("$id" | "$schema", Value::String(_)) if depth > 0 => unfollowed(),
            ("pattern", Value::String(_)) => self.patterns(1),
            ("patternProperties", Value::Object(patterns)) => self.patterns(patterns.len()),
            ("unevaluatedProperties" | "unevaluatedItems", _) => {
                self.unevaluated += 1;
                if self.unevaluated > MAX_UNEVALUATED { unfollowed() } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn patterns(&mut self, more: usize) -> Result<(), Unfit> {
        self.patterns += more;
        if self.patterns > MAX_PATTERNS { Err(Unfit::TooManyPatterns) } else { Ok(()) }
    }

    /// Steps that each byte of an input may take at most, more or less.
    pub(super) fn steps(self) -> usize {
        self.values + 64 * self.patterns
    }

    /// How much memory the compiled schema may take, in about 200 bytes.
    pub(super) fn size(self) -> usize {
        self.values + 1_024 * self.patterns
    }
}

/// The pointer of a reference within the schema, if it is so plain that everybody reads it alike.
fn local(reference: &str) -> Option<&str> {
    let pointer = reference.strip_prefix('#')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_$./~-".contains(&byte);
    (pointer.is_empty() || (pointer.starts_with('/') && pointer.bytes().all(plain))).then_some(pointer)
}
