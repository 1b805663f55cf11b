//! JSON values as YAML, in the smallest part of it that every reader takes alike: block style, and
//! any text in doubt in double quotes, where YAML reads JSON's own escapes.

use serde_json::Value;

use super::show::harmless;

/// Words that some reader takes for something else than text.
const TAKEN: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// A whole document.
pub(super) fn of(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => block(value, 0, &mut text),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut text),
        scalar => {
            text.push_str(&flow(scalar));
            text.push('\n');
        }
    }
    text
}

fn block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                text.push_str(&indent);
                text.push_str(&string(name));
                text.push(':');
                nested(value, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                match item {
                    Value::Object(fields) if !fields.is_empty() => block(item, depth + 1, &mut inner),
                    Value::Array(items) if !items.is_empty() => block(item, depth + 1, &mut inner),
                    scalar => inner = format!("{indent}  {}\n", flow(scalar)),
                }
                // The dash takes the place of the first line's last indent.
                text.push_str(&indent);
                text.push_str("- ");
                text.push_str(&inner[indent.len() + 2..]);
            }
        }
        scalar => text.push_str(&flow(scalar)),
    }
}

/// What stands behind a name's colon.
fn nested(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        scalar => {
            text.push(' ');
            text.push_str(&flow(scalar));
            text.push('\n');
        }
    }
}

fn flow(value: &Value) -> String {
    match value.as_str() {
        Some(text) => string(text),
        None => value.to_string(),
    }
}

fn string(text: &str) -> String {
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on_well = text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
    if begins_well && goes_on_well && !TAKEN.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    harmless(&Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_values_are_blocks_and_doubtful_text_is_quoted() {
        let value = json!({
            "items": [{"name": "py-1", "slots": {"total": 5}, "labels": {}, "on": "yes"}, [1, [2]], "a: b"],
            "next_cursor": null
        });
        let expected = "\
items:
  - name: py-1
    slots:
      total: 5
    labels: {}
    \"on\": \"yes\"
  - - 1
    - - 2
  - \"a: b\"
next_cursor: null
";
        assert_eq!(of(&value), expected);
        assert_eq!(of(&json!([])), "[]\n");
        assert_eq!(of(&json!("1.5")), "\"1.5\"\n");
    }
}
