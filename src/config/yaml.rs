//! Text to tree: the only module that names the YAML library. It takes the parser's events rather
//! than its serde values, because those forget what a good message needs: how a number was spelled,
//! whether a word was quoted, where a key stands, and every duplicate key but the first. A syntax
//! error ends the reading; all else is reported together.

use std::collections::{HashMap, HashSet};

use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle, Tag};

use super::node::{At, Key, Node, Place, Scalar, Value};
use super::parts::in_parts;
use super::problem::MAX_PROBLEMS;

/// The largest document, in bytes.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Lists and mappings within each other.
const MAX_DEPTH: usize = 32;
/// Values in a document.
const MAX_NODES: usize = 2_000_000;
/// Values that aliases (`*name`) may add: enough for a shared template in every worker's entry,
/// and far too few for aliases of aliases to blow up.
const MAX_ALIASED: usize = 500_000;
/// From so many entries on, a mapping's keys are kept in a set as well.
const FEW_KEYS: usize = 16;

/// What is wrong with a document as such.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) path: String,
    pub(super) message: String,
}

/// The tree of a text, and what is wrong with it; no tree if it could not be read to its end.
pub(super) fn parse(text: &str) -> (Option<Node<'_>>, Vec<Fault>) {
    match in_parts(text, &part) {
        Some(tree) => (Some(tree), Vec::new()),
        None => whole(text),
    }
}

/// A part of a document, after so many lines, if nothing at all is wrong with it.
pub(super) fn part(text: &str, lines: u32) -> Option<Node<'_>> {
    let (tree, faults) = Builder { lines, ..Builder::default() }.build(text);
    tree.filter(|_| faults.is_empty())
}

/// The same as [`parse`], never in parts.
pub(super) fn whole(text: &str) -> (Option<Node<'_>>, Vec<Fault>) {
    Builder::default().build(text)
}

/// The reading cannot go on.
struct Stop;

/// A list or mapping that is not closed yet.
struct Frame<'t> {
    place: Place,
    anchor: usize,
    open: Open<'t>,
}

enum Open<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<(Key<'t>, Node<'t>)>,
        /// The key whose value comes next.
        key: Option<Key<'t>>,
        /// The keys so far, once they are many.
        seen: HashSet<Box<str>>,
    },
}

#[derive(Default)]
struct Builder<'t> {
    frames: Vec<Frame<'t>>,
    anchors: HashMap<usize, Node<'t>>,
    root: Option<Node<'t>>,
    faults: Vec<Fault>,
    nodes: usize,
    aliased: usize,
    documents: usize,
    /// Lines before the text.
    lines: u32,
}

impl<'t> Builder<'t> {
    fn build(mut self, text: &'t str) -> (Option<Node<'t>>, Vec<Fault>) {
        if text.len() > MAX_BYTES {
            let message = format!("has {} bytes; at most {MAX_BYTES} are read", text.len());
            self.fault(Place::default(), message);
            return (None, self.faults);
        }
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        for next in Parser::new_from_str_with_options(text, options) {
            let taken = match next {
                Ok((event, span)) => {
                    let place = self.place(span.start);
                    self.take(event, place)
                }
                Err(error) => {
                    let message = format!("is not valid YAML: {}", error.info());
                    Err(self.fault(self.place(*error.marker()), message))
                }
            };
            if let Err(Stop) = taken {
                return (None, self.faults);
            }
        }
        let nothing = Scalar { text: "".into(), quoted: false, hidden: false };
        let empty = || Node { place: Place { line: 1, column: 1 }, value: Value::Scalar(nothing) };
        (Some(self.root.take().unwrap_or_else(empty)), self.faults)
    }

    fn place(&self, mark: granit_parser::Marker) -> Place {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place {
            line: number(mark.line()).saturating_add(self.lines),
            column: number(mark.col().saturating_add(1)),
        }
    }

    fn take(&mut self, event: Event<'t>, place: Place) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self.fault(place, "begins a second document; there must be one"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(place, 1)?;
                let quoted = self.quoted(style, tag.as_deref(), place);
                let value = Value::Scalar(Scalar { text, quoted, hidden: false });
                self.add(Node { place, value }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(place, anchor, Open::List(Vec::new()), tag.as_deref())?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let open = Open::Map { entries: Vec::new(), key: None, seen: HashSet::new() };
                self.open(place, anchor, open, tag.as_deref())?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.fault(place, "an alias must not stand within what it names"));
                };
                self.aliased += node.size();
                if self.aliased > MAX_ALIASED {
                    return Err(self.fault(place, format!("aliases add more than {MAX_ALIASED} values")));
                }
                self.add(node, 0);
            }
            // Nothing to build; the other kinds are switched off.
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, place: Place, more: usize) -> Result<(), Stop> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return Err(self.fault(place, format!("has more than {MAX_NODES} values")));
        }
        Ok(())
    }

    fn open(&mut self, place: Place, anchor: usize, open: Open<'t>, tag: Option<&Tag>) -> Result<(), Stop> {
        self.count(place, 1)?;
        if self.frames.len() >= MAX_DEPTH {
            return Err(self.fault(place, format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        self.quoted(ScalarStyle::Plain, tag, place);
        self.frames.push(Frame { place, anchor, open });
        Ok(())
    }

    fn close(&mut self) {
        let Some(Frame { place, anchor, open }) = self.frames.pop() else { return };
        let value = match open {
            Open::List(items) => Value::List(items),
            Open::Map { entries, .. } => Value::Map(self.merged(entries)),
        };
        self.add(Node { place, value }, anchor);
    }

    /// Whether a scalar is text and nothing else. A tag that would make it something of its own is a fault.
    fn quoted(&mut self, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> bool {
        match tag {
            None => style != ScalarStyle::Plain,
            Some(tag) if tag.is_yaml_core_schema() => {
                style != ScalarStyle::Plain || tag.is_yaml_core_schema_tag("str")
            }
            Some(tag) => {
                self.fault(place, format!("the tag {:?} means nothing here; leave it out", tag.original()));
                true
            }
        }
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, node: Node<'t>, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.frames.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key, seen }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => match node.value {
                    Value::Scalar(scalar) => {
                        let duplicate = is_taken(entries, seen, &scalar.text);
                        *key = Some(Key { text: scalar.text, place: node.place });
                        if let Some(first) = duplicate {
                            let shown = key.as_ref().map(|key| key.text.clone()).unwrap_or_default();
                            let message = format!(
                                "{shown:?} is written twice, first in line {first}; keys must differ"
                            );
                            self.fault(node.place, message);
                        }
                    }
                    Value::List(_) | Value::Map(_) | Value::Wrong => {
                        *key = Some(Key { text: "".into(), place: node.place });
                        self.fault(node.place, "a key must be one word, not a list or a mapping");
                    }
                },
            },
        }
    }

    /// Carries out merge keys: `<<: *template` gives a mapping the entries that it lacks.
    fn merged(&mut self, entries: Vec<(Key<'t>, Node<'t>)>) -> Vec<(Key<'t>, Node<'t>)> {
        if !entries.iter().any(|(key, _)| key.text == "<<") {
            return entries;
        }
        let (merges, mut entries): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(key, _)| key.text == "<<");
        for (key, node) in merges {
            let templates = match node.value {
                Value::List(items) => items,
                Value::Map(_) | Value::Scalar(_) | Value::Wrong => vec![node],
            };
            for template in templates {
                let Value::Map(lent) = template.value else {
                    self.fault(key.place, "<< takes a mapping, or a list of them");
                    continue;
                };
                let mut own: HashSet<String> = entries.iter().map(|(key, _)| key.text.to_string()).collect();
                entries.extend(lent.into_iter().filter(|(key, _)| own.insert(key.text.to_string())));
            }
        }
        entries
    }

    fn fault(&mut self, place: Place, message: impl Into<String>) -> Stop {
        // The same slip in every entry of a large file would take more memory than the file.
        if self.faults.len() <= MAX_PROBLEMS {
            let path = self.path();
            self.faults.push(Fault { place, path, message: message.into() });
        }
        Stop
    }

    /// The way to what is read at the moment.
    fn path(&self) -> String {
        fn walk(frames: &[Frame<'_>], at: &At<'_>) -> String {
            match frames.split_first() {
                None => at.to_string(),
                Some((frame, rest)) => match &frame.open {
                    Open::List(items) => walk(rest, &at.index(items.len())),
                    Open::Map { key: Some(key), .. } => walk(rest, &at.field(&key.text)),
                    Open::Map { key: None, .. } => at.to_string(),
                },
            }
        }
        walk(&self.frames, &At::ROOT)
    }
}

/// The line of the entry that has this key already. Looking through a short mapping is faster than
/// a set; a long one would take time that grows with its square.
fn is_taken(entries: &[(Key<'_>, Node<'_>)], seen: &mut HashSet<Box<str>>, text: &str) -> Option<u32> {
    let first = || entries.iter().find(|(key, _)| key.text == text).map(|(key, _)| key.place.line);
    if entries.len() < FEW_KEYS {
        return first();
    }
    if seen.is_empty() {
        seen.extend(entries.iter().map(|(key, _)| Box::from(&*key.text)));
    }
    if seen.insert(text.into()) { None } else { first() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        parse(text)
            .1
            .into_iter()
            .map(|it| format!("{}:{} {}: {}", it.place.line, it.place.column, it.path, it.message))
            .collect()
    }

    fn tree(text: &str) -> Node<'_> {
        let (node, faults) = parse(text);
        assert!(faults.is_empty(), "{faults:?}");
        node.expect("no faults, so a tree")
    }

    #[test]
    fn every_value_and_key_knows_its_place() {
        let Value::Map(entries) = tree("a: 1\nläb:\n  - x\n  - ' y'\n").value else { panic!("a mapping") };
        assert_eq!(entries[0].1.place, Place { line: 1, column: 4 });
        assert_eq!(entries[1].0.place, Place { line: 2, column: 1 });
        let Value::List(items) = &entries[1].1.value else { panic!("a list") };
        assert_eq!(items[1].place, Place { line: 4, column: 5 });
    }

    #[test]
    fn all_duplicate_keys_are_told_at_once() {
        assert_eq!(
            faults("a: 1\na: 2\nb:\n  - c: 1\n    c: 2\n"),
            [
                "2:1 a: \"a\" is written twice, first in line 1; keys must differ",
                "5:5 b[0].c: \"c\" is written twice, first in line 4; keys must differ",
            ]
        );
    }

    #[test]
    fn duplicates_are_found_in_long_mappings_too() {
        let mut text: String = (0..100).map(|n| format!("k{n}: 1\n")).collect();
        text.push_str("k7: 2\n");
        assert_eq!(faults(&text), ["101:1 k7: \"k7\" is written twice, first in line 8; keys must differ"]);
    }

    #[test]
    fn a_syntax_error_ends_the_reading_with_its_place() {
        let (node, faults) = parse("a: [1, 2\nb: 3\n");
        assert!(node.is_none());
        assert_eq!(faults.len(), 1);
        assert!(faults[0].message.starts_with("is not valid YAML"), "{faults:?}");
        assert!(faults[0].place.line >= 1);
    }

    #[test]
    fn a_template_fills_in_what_an_entry_lacks() {
        let Value::List(items) = tree("- &t {a: 1, b: 2}\n- {<<: *t, b: 3}\n").value else {
            panic!("a list")
        };
        let Value::Map(entries) = &items[1].value else { panic!("a mapping") };
        let shown: Vec<_> =
            entries.iter().map(|(key, node)| format!("{} {}", key.text, node.shown())).collect();
        assert_eq!(shown, ["b \"3\"", "a \"1\""]);
    }

    #[test]
    fn aliases_of_aliases_do_not_blow_up() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let last = n - 1;
            text.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{last}"); 10].join(", ")));
        }
        assert!(faults(&text)[0].contains("aliases add more than"), "{:?}", faults(&text));
    }

    #[test]
    fn what_names_itself_is_refused() {
        assert_eq!(faults("a: &a [*a]\n").len(), 1);
    }

    #[test]
    fn depth_is_bounded_in_both_styles() {
        assert_eq!(faults(&"[".repeat(10_000)).len(), 1);
        let block: String = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert_eq!(faults(&block).len(), 1);
    }

    #[test]
    fn one_document_only() {
        assert_eq!(faults("a: 1\n---\nb: 2\n"), ["2:1 : begins a second document; there must be one"]);
    }

    #[test]
    fn an_empty_text_is_nothing() {
        assert!(tree("# only a comment\n").is_null());
    }

    #[test]
    fn a_size_above_the_limit_is_refused_before_it_is_parsed() {
        assert!(faults(&"#".repeat(MAX_BYTES + 1))[0].contains("bytes"));
    }
}
