//! A document as a tree in which every value knows where it stands: what parsing leaves behind and
//! what the typed readers read. Text is borrowed from the document wherever it can be.

use std::borrow::Cow;
use std::fmt;

/// A place in the document: line and column from 1, in characters. Zero: it has none, for it came
/// from the environment or from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// One value.
#[derive(Debug, Clone)]
pub(super) struct Node<'t> {
    pub(super) place: Place,
    pub(super) value: Value<'t>,
}

/// What a value is, before anybody asks for a type.
#[derive(Debug, Clone)]
pub(super) enum Value<'t> {
    Scalar(Scalar<'t>),
    List(Vec<Node<'t>>),
    Map(Vec<(Key<'t>, Node<'t>)>),
    /// A value that could not be made; its problem has been noted, and no reader adds another.
    Wrong,
}

/// A single value as text: numbers keep the spelling of the document.
#[derive(Clone)]
pub(super) struct Scalar<'t> {
    pub(super) text: Cow<'t, str>,
    /// Quoted text is never a number, a boolean or nothing.
    pub(super) quoted: bool,
    /// Part of it came from the environment or a file: it may be a secret and is never shown.
    pub(super) hidden: bool,
}

/// A field's name, or a label's.
#[derive(Debug, Clone)]
pub(super) struct Key<'t> {
    pub(super) text: Cow<'t, str>,
    pub(super) place: Place,
}

impl fmt::Debug for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Scalar<'_> {
    /// The text as a message may show it: in quotes, short, and never a secret.
    pub(super) fn shown(&self) -> String {
        const LONGEST: usize = 60;
        if self.hidden {
            return "the value put in from outside".to_owned();
        }
        match self.text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{:?}…", &self.text[..end]),
            None => format!("{:?}", self.text),
        }
    }
}

impl<'t> Node<'t> {
    /// Whether nothing is written here: `field:` alone, `null` or `~`.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar(scalar) => {
                !scalar.quoted && matches!(&*scalar.text, "" | "~" | "null" | "Null" | "NULL")
            }
            Value::List(_) | Value::Map(_) | Value::Wrong => false,
        }
    }

    /// The text of a single value; `None` where nothing is written.
    pub(super) fn word(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if !self.is_null() => Some(&scalar.text),
            Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Wrong => None,
        }
    }

    /// What this is, for a message that wanted something else.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Scalar(_) if self.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => scalar.shown(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Wrong => "a wrong value".to_owned(),
        }
    }

    /// How many values there are in it, itself included.
    pub(super) fn size(&self) -> usize {
        match &self.value {
            Value::Scalar(_) | Value::Wrong => 1,
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| node.size()).sum::<usize>(),
        }
    }

    /// A text from outside the document.
    pub(super) fn text(text: impl Into<Cow<'t, str>>) -> Self {
        let scalar = Scalar { text: text.into(), quoted: false, hidden: true };
        Self { place: Place::default(), value: Value::Scalar(scalar) }
    }

    /// A JSON value as a tree without places.
    pub(super) fn of_json(json: &'t serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let scalar = |text: Cow<'t, str>, quoted| Value::Scalar(Scalar { text, quoted, hidden: false });
        let value = match json {
            Json::Null => scalar("null".into(), false),
            Json::Bool(truth) => scalar(if *truth { "true" } else { "false" }.into(), false),
            Json::Number(number) => scalar(number.to_string().into(), false),
            Json::String(text) => scalar(text.as_str().into(), true),
            Json::Array(items) => Value::List(items.iter().map(Self::of_json).collect()),
            Json::Object(fields) => Value::Map(
                fields
                    .iter()
                    .map(|(name, field)| {
                        (Key { text: name.as_str().into(), place: Place::default() }, Self::of_json(field))
                    })
                    .collect(),
            ),
        };
        Self { place: Place::default(), value }
    }
}

/// The way to a value, such as `workers[2].name`; a chain on the stack, written out only for a problem.
#[derive(Clone, Copy)]
pub(super) struct At<'p> {
    up: Option<&'p At<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
}

impl At<'_> {
    /// The whole document.
    pub(super) const ROOT: At<'static> = At { up: None, step: Step::Root };

    /// A field of it.
    pub(super) fn field<'a>(&'a self, name: &'a str) -> At<'a> {
        At { up: Some(self), step: Step::Field(name) }
    }

    /// An item of it, from 0.
    pub(super) fn index(&self, index: usize) -> At<'_> {
        At { up: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut inner = false;
        if let Some(up) = self.up {
            fmt::Display::fmt(up, f)?;
            inner = !matches!(up.step, Step::Root);
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if inner => write!(f, ".{}", short(name)),
            Step::Field(name) => f.write_str(&short(name)),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A key may be megabytes long; a path is for reading.
fn short(name: &str) -> Cow<'_, str> {
    const LONGEST: usize = 80;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_people_write_it() {
        let workers = At::ROOT.field("workers");
        let third = workers.index(2);
        assert_eq!(third.field("name").to_string(), "workers[2].name");
        assert_eq!(At::ROOT.to_string(), "");
    }

    #[test]
    fn what_came_from_outside_is_never_shown() {
        let node = Node::text("hunter2");
        assert!(!format!("{node:?} {}", node.shown()).contains("hunter2"));
    }
}
