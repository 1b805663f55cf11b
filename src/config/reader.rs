//! From tree to types. One description per section says which fields there are, of which type, what
//! they default to and what they mean; the reader and the JSON Schema are both made from it, so they
//! cannot drift apart. Every problem is noted and the reading goes on: one edit can mend them all.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::node::{At, Key, Node, Place, Value as Tree};
use super::problem::{MAX_PROBLEMS, Problem};
use super::yaml::Fault;

/// What a document's fields are read into.
pub(super) trait Value: Sized {
    /// Reads it. `None`: a problem has been noted.
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self>;

    /// Its JSON Schema.
    fn schema() -> Json;

    /// How it is written, for the schema's default; `None` where nothing is written.
    fn written(&self) -> Option<Json>;
}

/// Collects what is wrong with one document.
pub(super) struct Reader<'d> {
    file: Arc<str>,
    /// What a problem without a place is said to be in.
    elsewhere: &'static str,
    lines: Vec<&'d str>,
    problems: Vec<Problem>,
    /// Problems beyond those that are kept.
    dropped: usize,
    warnings: Vec<Problem>,
}

impl<'d> Reader<'d> {
    /// For a file's text.
    pub(super) fn of_file(file: Arc<str>, text: &'d str) -> Self {
        let lines = text.lines().collect();
        Self { file, elsewhere: "environment", lines, problems: Vec::new(), dropped: 0, warnings: Vec::new() }
    }

    /// For a request's body, whose values have no places.
    pub(super) fn of_request() -> Self {
        Self { elsewhere: "request", ..Self::of_file("request".into(), "") }
    }

    /// Whether something at or below that field was wrong, so that nothing more should be said of it.
    pub(super) fn is_wrong(&self, at: &At<'_>) -> bool {
        let path = at.to_string();
        self.problems.iter().any(|problem| problem.path.starts_with(&path))
    }

    /// Whether a file is read, in which secrets do not belong.
    pub(super) fn is_of_file(&self) -> bool {
        self.elsewhere == "environment"
    }

    /// Notes that something is wrong.
    pub(super) fn problem(&mut self, place: Place, at: &At<'_>, message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            let problem = self.made(place, at.to_string(), message.into());
            self.problems.push(problem);
        } else {
            self.dropped += 1;
        }
    }

    /// Notes that something is odd, but works.
    pub(super) fn warning(&mut self, place: Place, at: &At<'_>, message: impl Into<String>) {
        if self.warnings.len() < MAX_PROBLEMS {
            let warning = self.made(place, at.to_string(), message.into());
            self.warnings.push(warning);
        }
    }

    /// Takes over what parsing found.
    pub(super) fn faults(&mut self, faults: Vec<Fault>) {
        for fault in faults {
            let problem = self.made(fault.place, fault.path, fault.message);
            self.problems.push(problem);
        }
    }

    /// A problem with an empty message, for a rule that is judged later.
    pub(super) fn placed(&self, place: Place, path: &str) -> Problem {
        if place == Place::default() {
            // Nothing is written: the default holds.
            return Problem::of(self.file.clone(), path, "");
        }
        self.made(place, path.to_owned(), String::new())
    }

    fn made(&self, Place { line, column }: Place, path: String, message: String) -> Problem {
        if line == 0 {
            return Problem::of(self.elsewhere, path, message);
        }
        let at = usize::try_from(line).unwrap_or(usize::MAX) - 1;
        Problem::at(self.file.clone(), (line, column), path, message, self.lines.get(at).copied())
    }

    /// The problems in the file's order; if there are none, the warnings.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Vec<Problem>> {
        if self.problems.is_empty() {
            self.warnings.sort_by_key(|warning| (warning.line, warning.column));
            return Ok(self.warnings);
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        if self.dropped > 0 {
            let message = format!("has {} more problems; mend these first", self.dropped);
            self.problems.push(Problem::of(self.file, "", message));
        }
        Err(self.problems)
    }

    /// The entries of a mapping. Nothing at all counts as an empty one, so that a section whose
    /// fields are all commented out is right.
    pub(super) fn mapping<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        at: &At<'_>,
    ) -> Option<&'n [(Key<'t>, Node<'t>)]> {
        match &node.value {
            Tree::Map(entries) => Some(entries),
            Tree::Scalar(_) if node.is_null() => Some(&[]),
            Tree::Scalar(_) | Tree::List(_) | Tree::Wrong => {
                self.wanted(node, at, "a mapping, such as `field: value`");
                None
            }
        }
    }

    /// The items of a list, at most `most`.
    pub(super) fn list<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        at: &At<'_>,
        most: usize,
    ) -> Option<&'n [Node<'t>]> {
        match &node.value {
            Tree::List(items) if items.len() <= most => Some(items),
            Tree::List(items) => {
                self.problem(node.place, at, format!("has {} items; at most {most} are taken", items.len()));
                None
            }
            Tree::Scalar(_) | Tree::Map(_) | Tree::Wrong => {
                self.wanted(node, at, "a list, such as `[a, b]`");
                None
            }
        }
    }

    /// A value that was read from a node; if there is none, notes what was expected.
    pub(super) fn or_wanted<T>(
        &mut self,
        value: Option<T>,
        node: &Node<'_>,
        at: &At<'_>,
        expected: impl FnOnce() -> String,
    ) -> Option<T> {
        if value.is_none() {
            self.wanted(node, at, &expected());
        }
        value
    }

    /// Notes that something else was expected.
    pub(super) fn wanted(&mut self, node: &Node<'_>, at: &At<'_>, expected: &str) {
        if !matches!(node.value, Tree::Wrong) {
            self.problem(node.place, at, format!("{} is not {expected}", node.shown()));
        }
    }

    /// Notes a field that there is not.
    pub(super) fn unknown(&mut self, key: &Key<'_>, at: &At<'_>, known: &[&str], later: &[&str]) {
        let name = &*key.text;
        if later.contains(&name) {
            return self.problem(key.place, at, format!("`{name}` is not supported by this version"));
        }
        let message = match nearest(name, known.iter().copied()) {
            Some(near) => format!("there is no such field; did you mean `{near}`?"),
            None => format!("there is no such field; known here: {}", known.join(", ")),
        };
        self.problem(key.place, at, message);
    }
}

/// The known word that a mistyped one most likely meant.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const LONGEST: usize = 40;
    if word.len() > LONGEST {
        return None;
    }
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word.to_lowercase(), known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// A value with the place where it stands; nowhere, where it is a default.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T> Located<T> {
    /// A default.
    pub(super) fn nowhere(value: T) -> Self {
        Self { value, place: Place::default() }
    }
}

impl<T: Value> Value for Located<T> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { value: T::read(node, at, reader)?, place: node.place })
    }

    fn schema() -> Json {
        T::schema()
    }

    fn written(&self) -> Option<Json> {
        self.value.written()
    }
}

impl<T: Value> Value for Option<T> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        T::read(node, at, reader).map(Some)
    }

    fn schema() -> Json {
        T::schema()
    }

    fn written(&self) -> Option<Json> {
        self.as_ref().and_then(T::written)
    }
}

/// At most `MOST` values of one type. Those that are wrong are left out.
#[derive(Debug, Clone)]
pub(super) struct List<T, const MOST: usize>(pub(super) Vec<T>);

impl<T: Value, const MOST: usize> Value for List<T, MOST> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let items = reader.list(node, at, MOST)?;
        let read = |(n, item): (usize, &Node<'_>)| T::read(item, &at.index(n), reader);
        Some(Self(items.iter().enumerate().filter_map(read).collect()))
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema(), "maxItems": MOST })
    }

    fn written(&self) -> Option<Json> {
        (!self.0.is_empty()).then(|| self.0.iter().filter_map(T::written).collect())
    }
}

/// A field's part of a section's schema.
pub(super) fn described(mut schema: Json, about: &[&str], default: Option<Json>) -> Json {
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("description".to_owned(), joined(about).into());
        if let Some(default) = default {
            fields.insert("default".to_owned(), default);
        }
    }
    schema
}

/// The lines of a doc comment as one text.
pub(super) fn joined(about: &[&str]) -> String {
    about.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Describes a section: a struct whose doc comments are its documentation, each field with its type
/// and, behind `=`, its default; a field without one is required. `later` names fields that
/// belong to the design but not to this version.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        struct $Name:ident {
            $( $(#[doc = $doc:literal])* $field:ident : $ty:ty $(= $default:expr)? ; )*
        }
        later [ $( $later:literal ),* ]
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone)]
        pub(super) struct $Name {
            $( $(#[doc = $doc])* pub(super) $field: $ty, )*
        }

        impl $Name {
            const FIELDS: &[&str] = &[$(stringify!($field)),*];
            const LATER: &[&str] = &[$($later),*];
        }

        impl $crate::config::reader::Value for $Name {
            fn read(
                node: &$crate::config::node::Node<'_>,
                at: &$crate::config::node::At<'_>,
                reader: &mut $crate::config::reader::Reader<'_>,
            ) -> Option<Self> {
                // `None`: not written. `Some(None)`: written, but wrong.
                $( let mut $field: Option<Option<$ty>> = None; )*
                for (key, value) in reader.mapping(node, at)? {
                    let at = at.field(&key.text);
                    match &*key.text {
                        // `field:` with nothing behind it says as much as no line at all.
                        $(stringify!($field) if value.is_null() => {})*
                        $(stringify!($field) => {
                            $field = Some(<$ty as $crate::config::reader::Value>::read(value, &at, reader));
                        })*
                        _ => reader.unknown(key, &at, Self::FIELDS, Self::LATER),
                    }
                }
                $( section!(@fill $field, at, node, reader $(, $default)?); )*
                Some(Self { $( $field: $field.flatten()?, )* })
            }

            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                let required = [$( section!(@required $field $(, $default)?) ),*];
                let required: Vec<&str> = required.into_iter().flatten().collect();
                $(
                    let default: Option<serde_json::Value> = section!(@written $ty $(, $default)?);
                    let schema = $crate::config::reader::described(
                        <$ty as $crate::config::reader::Value>::schema(), &[$($doc),*], default);
                    properties.insert(stringify!($field).to_owned(), schema);
                )*
                serde_json::json!({
                    "type": "object",
                    "description": $crate::config::reader::joined(&[$($about),*]),
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                })
            }

            fn written(&self) -> Option<serde_json::Value> {
                None
            }
        }
    };
    (@fill $field:ident, $at:ident, $node:ident, $reader:ident, $default:expr) => {
        // A value that could not be read has its problem; the default only lets the reading go on.
        let $field = Some($field.flatten().or_else(|| Some($default)));
    };
    (@fill $field:ident, $at:ident, $node:ident, $reader:ident) => {
        if $field.is_none() {
            $reader.problem($node.place, &$at.field(stringify!($field)), "is missing; it must be given");
        }
    };
    (@required $field:ident, $default:expr) => { None };
    (@required $field:ident) => { Some(stringify!($field)) };
    (@written $ty:ty, $default:expr) => {{
        let default: $ty = $default;
        $crate::config::reader::Value::written(&default)
    }};
    (@written $ty:ty) => { None };
}
pub(super) use section;
