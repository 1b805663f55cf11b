//! What is put into a document from outside: `${NAME}`, `${NAME:-default}` and `${file:/path}` in
//! its values, and `ROLLCALL_SECTION__FIELD` over its fixed sections. Done on the tree, before any
//! value has a type.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Env;
use super::node::{At, Key, Node, Place, Scalar, Value};
use super::reader::{Reader, nearest};

/// The largest file that a value is read from.
const MAX_FILE: u64 = 64 << 10;
/// The longest that a value may become.
const MAX_VALUE: usize = 1 << 20;
/// Sections whose single values the environment may override.
const FIXED: [&str; 10] = [
    "server",
    "store",
    "telemetry",
    "heartbeat",
    "reconnect",
    "reload",
    "health",
    "queue",
    "retry",
    "retention",
];

/// Replaces every `${…}` in the values of a tree. `folder` is where relative paths start.
pub(super) fn replace(node: &mut Node<'_>, env: &Env, folder: &Path, reader: &mut Reader<'_>) {
    walk(node, &At::ROOT, &Outside { env, folder }, reader);
}

struct Outside<'e> {
    env: &'e Env,
    folder: &'e Path,
}

fn walk(node: &mut Node<'_>, at: &At<'_>, outside: &Outside<'_>, reader: &mut Reader<'_>) {
    match &mut node.value {
        Value::List(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                walk(item, &at.index(n), outside, reader);
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                walk(value, &at.field(&key.text), outside, reader);
            }
        }
        Value::Scalar(scalar) if scalar.text.contains('$') => match outside.replaced(&scalar.text) {
            Ok((text, hidden)) => {
                *scalar = Scalar { text: text.into(), quoted: scalar.quoted, hidden };
            }
            Err(message) => {
                reader.problem(node.place, at, message);
                node.value = Value::Wrong;
            }
        },
        Value::Scalar(_) | Value::Wrong => {}
    }
}

impl Outside<'_> {
    /// The text with everything put in, and whether anything was.
    fn replaced(&self, text: &str) -> Result<(String, bool), String> {
        let mut result = String::with_capacity(text.len());
        let mut hidden = false;
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            result.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                result.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let end = after.find('}').ok_or("`${` is not closed; write `$$` for a plain `$`")?;
                result.push_str(&self.value(&after[..end])?);
                hidden = true;
                rest = &after[end + 1..];
            } else {
                result.push('$');
            }
            if result.len() > MAX_VALUE {
                return Err(format!("becomes longer than {MAX_VALUE} bytes"));
            }
        }
        result.push_str(rest);
        Ok((result, hidden))
    }

    /// What stands for the text between `${` and `}`.
    fn value(&self, reference: &str) -> Result<String, String> {
        if let Some(path) = reference.strip_prefix("file:") {
            return self.file(path);
        }
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !named {
            return Err(format!(
                "`${{{reference}}}` is not ${{NAME}}, ${{NAME:-default}} or ${{file:/path}}; write `$$` for a plain `$`"
            ));
        }
        // As in a shell, an empty value counts as none where there is a default.
        match (self.env.get(name), default) {
            (Some(value), None) => Ok(value.to_owned()),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value.to_owned()),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => {
                Err(format!("the environment has no {name}; set it, or write ${{{name}:-default}}"))
            }
        }
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let text =
            read_small(&self.folder.join(path)).map_err(|error| format!("the file {path:?} {error}"))?;
        // Editors end a file with a line feed, which is no part of a secret.
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

fn read_small(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > MAX_FILE {
        return Err(format!("has {size} bytes; at most {MAX_FILE} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

/// The files that a text names by `${file:…}`, found without parsing it.
pub(super) fn files_named(text: &str, folder: &Path) -> BTreeSet<PathBuf> {
    text.match_indices("${file:")
        .filter_map(|(at, start)| text[at + start.len()..].split_once('}'))
        .map(|(path, _)| folder.join(path))
        .collect()
}

/// Puts the values of `ROLLCALL_SECTION__FIELD` over the document's own.
pub(super) fn override_fixed(root: &mut Node<'_>, env: &Env, reader: &mut Reader<'_>) {
    for (name, value) in env.iter() {
        let Some((section, field)) = name.strip_prefix("ROLLCALL_").and_then(|rest| rest.split_once("__"))
        else {
            continue;
        };
        let (section, field) = (section.to_lowercase(), field.to_lowercase());
        if !FIXED.contains(&&*section) {
            let hint = match nearest(&section, FIXED) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("these are: {}", FIXED.join(", ")),
            };
            let message = format!("there is no section {section} that {name} could override; {hint}");
            reader.problem(Place::default(), &At::ROOT.field(&section), message);
            continue;
        }
        if root.is_null() {
            // An empty file stays an empty file, and is told as one.
            return;
        }
        let Value::Map(sections) = &mut root.value else { return };
        let section = entry(sections, section);
        if section.is_null() {
            section.value = Value::Map(Vec::new());
        }
        if let Value::Map(fields) = &mut section.value {
            *entry(fields, field) = Node::text(value.to_owned());
        }
    }
}

/// The entry of that name; a new one if there is none.
fn entry<'n, 't>(entries: &'n mut Vec<(Key<'t>, Node<'t>)>, name: String) -> &'n mut Node<'t> {
    let at = entries.iter().position(|(key, _)| *key.text == *name).unwrap_or_else(|| {
        let key = Key { text: name.into(), place: Place::default() };
        entries.push((key, Node { place: Place::default(), value: Value::Map(Vec::new()) }));
        entries.len() - 1
    });
    &mut entries[at].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<(String, bool), String> {
        let env: Env = [("NAME", "ann"), ("EMPTY", "")].into_iter().collect();
        Outside { env: &env, folder: Path::new("/nowhere") }.replaced(text)
    }

    #[test]
    fn names_defaults_and_escapes_are_replaced() {
        let text = |text| replaced(text).map(|(text, _)| text);
        assert_eq!(text("hi ${NAME}, ${OTHER:-bob}!"), Ok("hi ann, bob!".to_owned()));
        assert_eq!(text("${EMPTY}|${EMPTY:-x}|${OTHER:-}"), Ok("|x|".to_owned()));
        assert_eq!(text("$$ $${NAME} a$ $5"), Ok("$ ${NAME} a$ $5".to_owned()));
    }

    #[test]
    fn what_came_from_outside_is_marked() {
        assert_eq!(replaced("${NAME}").map(|(_, hidden)| hidden), Ok(true));
        assert_eq!(replaced("$$5").map(|(_, hidden)| hidden), Ok(false));
    }

    #[test]
    fn a_name_that_is_not_set_is_told() {
        assert!(replaced("${OTHER}").unwrap_err().contains("no OTHER"));
        assert!(replaced("${NAME").unwrap_err().contains("not closed"));
        assert!(replaced("${a b}").unwrap_err().contains("not ${NAME}"));
        assert!(replaced("${file:none}").unwrap_err().contains("\"none\" cannot be read"));
    }
}
