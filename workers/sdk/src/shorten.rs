//! Makes a long output short: its longest texts become files, and references stand in their place.

use rollcall_protocol::{INLINE_BYTES, TaskError};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::task::error;
use crate::{Fault, TaskContext};

/// A text that is shorter is not worth a file.
const WORTH_A_FILE: usize = 4 * 1024;

/// Files that one output becomes at most.
const MAX_FILES: usize = 16;

/// Longest name of such a file, in characters.
const MAX_NAME: usize = 60;

/// The output with its longest texts sent as files, the longest first, until it is short enough; sent
/// as one file where that does not help.
pub(crate) async fn shorten(context: &TaskContext, output: &RawValue) -> Result<Box<RawValue>, TaskError> {
    let unreadable =
        |problem| error("bad_output", &format!("the output is not JSON: {problem}"), Fault::Worker);
    let mut value: Value = serde_json::from_str(output.get()).map_err(unreadable)?;
    for _ in 0..MAX_FILES {
        let Some((path, text)) = longest(&value) else { break };
        let name = format!("{}.txt", name(&path));
        let stored = context.artifact(&name, "text/plain; charset=utf-8", text.to_owned()).await?;
        if let Some(place) = value.pointer_mut(&path) {
            *place = serde_json::to_value(&stored).map_err(unreadable)?;
        }
        let shorter = to_raw_value(&value).map_err(unreadable)?;
        if shorter.get().len() <= INLINE_BYTES {
            return Ok(shorter);
        }
    }
    let stored = context.artifact("output.json", "application/json", output.get().to_owned()).await?;
    to_raw_value(&stored).map_err(unreadable)
}

/// The longest text worth a file, with its path as RFC 6901 writes it.
fn longest(value: &Value) -> Option<(String, &str)> {
    let mut found: Option<(String, &str)> = None;
    let mut left = vec![(String::new(), value)];
    while let Some((path, value)) = left.pop() {
        match value {
            Value::String(text) if text.len() >= WORTH_A_FILE => {
                if found.as_ref().is_none_or(|(_, longest)| longest.len() < text.len()) {
                    found = Some((path, text));
                }
            }
            Value::Array(items) => {
                left.extend(items.iter().enumerate().map(|(at, item)| (format!("{path}/{at}"), item)));
            }
            Value::Object(fields) => {
                let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
                left.extend(fields.iter().map(|(name, item)| (format!("{path}/{}", escaped(name)), item)));
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}

/// `/results/0/text` is `output.results.0.text`; paths differ, so names do unless they are very long.
fn name(path: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "_-".contains(c) { c } else { '.' };
    let shown: String = path.chars().map(plain).collect();
    let skipped = shown.chars().count().saturating_sub(MAX_NAME);
    format!("output{}", shown.chars().skip(skipped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_text_is_found_by_its_path() {
        let (long, longer) = ("a".repeat(WORTH_A_FILE), "b".repeat(WORTH_A_FILE + 1));
        let value = serde_json::json!({ "x": long, "a/b": [1, { "~": longer }], "short": "c" });
        let (path, text) = longest(&value).expect("there is one");
        assert_eq!((path.as_str(), text), ("/a~1b/1/~0", longer.as_str()));
        assert_eq!(value.pointer(&path).and_then(Value::as_str), Some(longer.as_str()));
        assert_eq!(longest(&serde_json::json!(["short"])), None);
    }

    #[test]
    fn a_file_is_named_after_its_place() {
        assert_eq!(name("/stdout"), "output.stdout");
        assert_eq!(name("/results/0/text"), "output.results.0.text");
        assert_eq!(name(""), "output");
        assert!(name(&"/é".repeat(500)).chars().count() <= MAX_NAME + 6);
    }
}
