//! Reads a large document in several parts at once. The parser is by far the longest step of a
//! reload, and a fleet's file is one long list: it is cut between two workers, and the parts are
//! parsed side by side. Every part must be whole by itself; if anything about that is in doubt,
//! there is no result, and the document is parsed in one piece.

use std::ops::Range;

use super::node::{Node, Value};

/// The list that is worth cutting.
const LIST: &str = "workers";
/// Smaller documents are parsed as fast in one piece.
const LARGE: usize = 128 << 10;
/// More parts than this bring nothing.
const MOST_PARTS: usize = 8;

/// How one part is parsed: the text and the lines before it to a tree without any fault.
pub(super) trait Parse: Fn(&str, u32) -> Option<Node<'_>> + Sync {}
impl<F: Fn(&str, u32) -> Option<Node<'_>> + Sync> Parse for F {}

/// The tree of a large document; `None` where it must be parsed in one piece.
pub(super) fn in_parts<'t>(text: &'t str, parse: &impl Parse) -> Option<Node<'t>> {
    if text.len() < LARGE {
        return None;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    cut_in(text, threads.min(MOST_PARTS), parse)
}

fn cut_in<'t>(text: &'t str, parts: usize, parse: &impl Parse) -> Option<Node<'t>> {
    if parts < 2 {
        return None;
    }
    let list = list_of(text)?;
    let cuts = cuts_in(text, list.clone(), parts)?;
    let ends = cuts.iter().skip(1).copied().chain([list.end]);
    let ranges: Vec<Range<usize>> = cuts.iter().copied().zip(ends).map(|(from, to)| from..to).collect();
    // What follows the list; mostly nothing.
    let tail = list.end..text.len();
    let lines = |at: usize| u32::try_from(text[..at].bytes().filter(|byte| *byte == b'\n').count()).ok();
    let read = |range: Range<usize>| parse(&text[range.clone()], lines(range.start)?);
    let lists: Vec<Option<Node<'t>>> = std::thread::scope(|scope| {
        let (last, others) = ranges.split_last()?;
        let others: Vec<_> = others.iter().map(|range| scope.spawn(|| read(range.clone()))).collect();
        let last = read(last.clone());
        Some(others.into_iter().map(|part| part.join().ok().flatten()).chain([last]).collect())
    })?;
    let mut items = Vec::new();
    for list in lists {
        let Value::List(part) = list?.value else { return None };
        items.extend(part);
    }
    let mut root = read(0..cuts[0])?;
    let Value::Map(entries) = &mut root.value else { return None };
    let (key, empty) = entries.last_mut()?;
    if key.text != LIST || !empty.is_null() {
        return None;
    }
    *empty = Node { place: key.place, value: Value::List(items) };
    if !text[tail.clone()].trim().is_empty() {
        let Value::Map(more) = read(tail)?.value else { return None };
        // Keys on both sides of the list may be the same; one piece finds that out.
        if more
            .iter()
            .any(|(key, _)| entries.iter().any(|(other, _)| other.text == key.text) || key.text == "<<")
        {
            return None;
        }
        entries.extend(more);
    }
    Some(root)
}

/// Where the lines of the list's items are.
fn list_of(text: &str) -> Option<Range<usize>> {
    let mut start = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begins = at;
        at += line.len();
        let first = line.bytes().next().unwrap_or(b'\n');
        if matches!(first, b' ' | b'#' | b'\n' | b'\r') {
            continue;
        }
        // Another document, a directive, or an item at the very edge: not worth the doubt.
        if matches!(first, b'%' | b'-' | b'.' | b'\t') {
            return None;
        }
        if let Some(start) = start {
            return Some(start..begins);
        }
        if line.trim_end() == "workers:" {
            start = Some(at);
        }
    }
    start.map(|start| start..text.len())
}

/// The beginnings of about equally long parts, the first one that of the first item.
fn cuts_in(text: &str, list: Range<usize>, parts: usize) -> Option<Vec<usize>> {
    let body = &text[list.clone()];
    let first = body
        .split_inclusive('\n')
        .find(|line| !line.trim_start().is_empty() && !line.trim_start().starts_with('#'))?;
    let indent = first.len() - first.trim_start_matches(' ').len();
    let mark = format!("{}- ", " ".repeat(indent));
    if indent == 0 || !first.starts_with(&mark) {
        return None;
    }
    let item_from = |from: usize| {
        let found = body.get(from..)?.find(&format!("\n{mark}"))?;
        Some(from + found + 1)
    };
    let mut cuts = vec![if body.starts_with(&mark) { 0 } else { item_from(0)? }];
    for n in 1..parts {
        let mut near = body.len() * n / parts;
        while !body.is_char_boundary(near) {
            near += 1;
        }
        cuts.extend(item_from(near).filter(|cut| cuts.last() != Some(cut)));
    }
    Some(cuts.into_iter().map(|cut| list.start + cut).collect())
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    /// Everything about a tree: values, spellings and places.
    fn all(node: &Node<'_>) -> String {
        format!("{node:?}")
    }

    /// How many parts were read, if the document could be cut at all; compared with one piece.
    fn cut(text: &str, parts: usize) -> Option<Node<'_>> {
        let (whole, faults) = yaml::whole(text);
        let cut = cut_in(text, parts, &yaml::part);
        if let Some(cut) = &cut {
            assert!(faults.is_empty(), "cut, although wrong: {faults:?}\n{text}");
            // The list begins at its key when it was cut, and at its first item when it was not.
            let strip = |node: &Node<'_>| {
                let mut node = node.clone();
                if let Value::Map(entries) = &mut node.value {
                    entries
                        .iter_mut()
                        .filter(|(key, _)| key.text == LIST)
                        .for_each(|(key, list)| list.place = key.place);
                }
                all(&node)
            };
            assert_eq!(strip(cut), strip(&whole.expect("no faults, so a tree")), "{text}");
        }
        cut
    }

    fn items(count: usize, of: impl Fn(usize) -> String) -> String {
        (0..count).map(|n| format!("  {}\n", of(n))).collect()
    }

    #[test]
    fn a_cut_document_reads_like_a_whole_one() {
        let head = "# head\nserver: { max_body: 1MiB }\nworkers:\n  # first\n";
        let plain =
            items(20, |n| format!("- name: w{n}\n    slots: {n} # some\n\n    labels: {{ zone: 'a' }}"));
        for tail in ["", "queue:\n  max_depth: 5\n", "\n# only a comment"] {
            for parts in 2..6 {
                assert!(cut(&format!("{head}{plain}{tail}"), parts).is_some(), "{parts} {tail}");
            }
        }
    }

    #[test]
    fn what_reaches_over_a_cut_is_read_in_one_piece_or_the_same() {
        let odd = [
            items(9, |n| format!("- name: \"w{n}\n\n  - x: not an item\"")),
            items(9, |n| {
                format!("- name: |\n      w{n}\n      - x\n    other: >-\n     folded\n\n     more")
            }),
            items(9, |n| format!("- [w{n},\n  - x, y]")),
            items(9, |n| if n == 0 { "- &t { a: 1 }".to_owned() } else { format!("- {{ <<: *t, n: {n} }}") }),
            items(9, |n| format!("- &t{n} {{ a: 1 }}\n  - *t{n}")),
            items(9, |n| format!("- name: w{n}\n    name: twice")),
            items(9, |n| format!("-   - nested\n      - {n}")),
            items(9, |_| "- # nothing".to_owned()),
            items(9, |n| format!("- name: w{n}\n ...\n")),
            items(9, |n| format!("- plain\n    text - {n}\n    goes on")),
            items(9, |n| format!("- läbel: wörter {n} 𝄞")),
        ];
        for text in odd {
            for head in ["workers:\n", "a: 1\nworkers: # all\n\n", "<<: {b: 1}\nworkers:\n"] {
                for tail in [
                    "",
                    "a: 2\n",
                    "---\nb: 1\n",
                    "workers: []\n",
                    "z: *t\n",
                    "]\n",
                    "  - late\n",
                    "\tx: 1\n",
                    "%YAML 1.2\n",
                ] {
                    for parts in [2, 3, 7] {
                        cut(&format!("{head}{text}{tail}"), parts);
                    }
                }
            }
        }
    }

    #[test]
    fn small_and_other_documents_are_left_alone() {
        assert!(in_parts("workers:\n  - name: a\n  - name: b\n", &yaml::part).is_none());
        for text in [
            "workers: []",
            "workers:\n- name: a\n- name: b\n",
            "a: 1\n",
            "workers:\n",
            "workers:\n  x: 1\n",
            "",
        ] {
            assert!(cut(text, 2).is_none(), "{text}");
        }
    }
}
