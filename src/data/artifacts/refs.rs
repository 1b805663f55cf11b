//! Finds what a task's input refers to: `{"$artifact": "sha256:…"}`, anywhere in it.

use serde_json::Value;

use crate::fleet::ContentHash;

/// References in one input at most.
const MAX_REFERENCES: usize = 256;

/// Why an input cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadReference {
    /// What stands there.
    NotAHash(String),
    /// More than so many.
    TooMany(usize),
}

impl std::fmt::Display for BadReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAHash(found) => {
                write!(
                    f,
                    "$artifact must be \"sha256:\" and 64 hexadecimal digits from 0-9 and a-f, not {found}"
                )
            }
            Self::TooMany(most) => write!(f, "an input refers to {most} artifacts at most"),
        }
    }
}

impl std::error::Error for BadReference {}

/// The contents that an input (JSON) refers to, each once.
///
/// # Errors
/// [`BadReference`].
pub fn references(input: &str) -> Result<Vec<ContentHash>, BadReference> {
    // Nearly every input has none, and is not read: a `$` may be written as an escape.
    if !input.contains("$artifact") && !input.contains("\\u0024") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    match serde_json::from_str(input) {
        Ok(value) => collect(&value, &mut found)?,
        // The core carries it as it is; whoever reads it will say what is wrong.
        Err(_) => return Ok(Vec::new()),
    }
    found.sort_unstable();
    found.dedup();
    if found.len() > MAX_REFERENCES {
        return Err(BadReference::TooMany(MAX_REFERENCES));
    }
    Ok(found)
}

/// As deep as the API lets an input be.
fn collect(value: &Value, found: &mut Vec<ContentHash>) -> Result<(), BadReference> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "$artifact" {
                    let hash = value.as_str().and_then(|text| text.strip_prefix("sha256:")?.parse().ok());
                    let shown = || value.to_string().chars().take(100).collect();
                    found.push(hash.ok_or_else(|| BadReference::NotAHash(shown()))?);
                } else {
                    collect(value, found)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| collect(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand_and_however_they_are_written() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let input = format!(
            r#"{{"data":{{"$artifact":"sha256:{b}"}},"more":[{{"\u0024artifact":"sha256:{a}","name":"x"}},{{"$artifact":"sha256:{b}"}}]}}"#
        );
        let found: Vec<String> = references(&input).expect("two").iter().map(ToString::to_string).collect();
        assert_eq!(found, [a, b]);
    }

    #[test]
    fn what_only_looks_like_a_reference_is_none_and_a_broken_one_is_told() {
        assert_eq!(references(r#"{"code":"print('$artifact')","price":"\u0024 5"}"#), Ok(Vec::new()));
        for bad in [r#"{"$artifact":1}"#, r#"[{"$artifact":"sha256:AA"}]"#, r#"{"$artifact":"aa"}"#] {
            assert!(matches!(references(bad), Err(BadReference::NotAHash(_))), "{bad}");
        }
        let many: Vec<String> = (0..257).map(|n| format!(r#"{{"$artifact":"sha256:{n:064x}"}}"#)).collect();
        assert_eq!(references(&format!("[{}]", many.join(","))), Err(BadReference::TooMany(256)));
    }
}
