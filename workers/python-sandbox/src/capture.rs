//! Keeps the head and the tail of a stream that may have no end, in memory that has one.

use std::collections::VecDeque;

/// What is kept while a stream is read.
#[derive(Debug)]
pub(crate) struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_limit: usize,
    tail_limit: usize,
    total: u64,
}

/// What was kept of a stream that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes that the stream had in all.
    pub total: u64,
}

/// A stream as text for a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Head, a line that tells what is missing, tail; or all of it.
    pub text: String,
    /// Bytes of the stream that are not in `text`.
    pub dropped: u64,
}

impl Capture {
    /// Keeps three quarters of `limit` from the start of the stream and one from its end.
    pub(crate) fn new(limit: usize) -> Self {
        let tail_limit = limit / 4;
        let head_limit = limit - tail_limit;
        Self { head: Vec::new(), tail: VecDeque::new(), head_limit, tail_limit, total: 0 }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.head_limit - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let overflow = (self.tail.len() + rest.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..overflow);
        self.tail.extend(rest);
    }

    /// Bytes seen up to now.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The stream has ended.
    pub(crate) fn finish(self) -> Captured {
        Captured { head: self.head, tail: self.tail.into(), total: self.total }
    }
}

impl Captured {
    /// The stream as text whose JSON form stays below about `budget` bytes. Bytes that are not
    /// UTF-8 become U+FFFD.
    pub fn shown(&self, budget: usize) -> Shown {
        let kept = (self.head.len() + self.tail.len()) as u64;
        if kept == self.total {
            let mut whole = self.head.clone();
            whole.extend_from_slice(&self.tail);
            let text = String::from_utf8_lossy(&whole);
            if json_len(&text) <= budget {
                return Shown { text: text.into_owned(), dropped: 0 };
            }
            return Self::cut(&whole, &whole, self.total, budget);
        }
        Self::cut(&self.head, &self.tail, self.total, budget)
    }

    fn cut(head: &[u8], tail: &[u8], total: u64, budget: usize) -> Shown {
        let head = prefix(head, budget / 4 * 3);
        let tail = suffix(tail, budget / 4);
        let dropped = total.saturating_sub((head.len() + tail.len()) as u64);
        let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
        Shown { text: format!("{head}\n[{dropped} bytes left out]\n{tail}"), dropped }
    }
}

/// The bytes that a text takes inside a JSON string.
pub fn json_len(text: &str) -> usize {
    text.bytes().map(json_cost).sum()
}

/// What one byte costs in a JSON string; a byte that is not UTF-8 may cost three.
fn json_cost(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        0x20..0x80 => 1,
        0x80.. => 1,
    }
}

/// Like [`json_cost`] for a byte that may turn into U+FFFD.
fn raw_cost(byte: u8) -> usize {
    if byte < 0x80 { json_cost(byte) } else { 3 }
}

/// As many bytes from the start as the budget pays for, not ending inside a character.
fn prefix(bytes: &[u8], budget: usize) -> &[u8] {
    let mut end = paid(bytes.iter(), budget);
    // A cut before a continuation byte would split a character; at most three bytes back it begins.
    let floor = end.saturating_sub(3);
    while end > floor && bytes.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    &bytes[..end]
}

/// As many bytes from the end as the budget pays for, not beginning inside a character.
fn suffix(bytes: &[u8], budget: usize) -> &[u8] {
    let mut start = bytes.len() - paid(bytes.iter().rev(), budget);
    let ceiling = bytes.len().min(start + 3);
    while start < ceiling && bytes[start] & 0xC0 == 0x80 {
        start += 1;
    }
    &bytes[start..]
}

fn paid<'a>(bytes: impl Iterator<Item = &'a u8>, budget: usize) -> usize {
    let mut spent = 0;
    bytes
        .take_while(|byte| {
            spent += raw_cost(**byte);
            spent <= budget
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(limit: usize, pieces: &[&[u8]]) -> Captured {
        let mut capture = Capture::new(limit);
        for piece in pieces {
            capture.push(piece);
        }
        capture.finish()
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        let shown = capture(100, &[b"hello ", b"world"]).shown(1000);
        assert_eq!(shown, Shown { text: "hello world".into(), dropped: 0 });
    }

    #[test]
    fn a_stream_of_exactly_the_limit_is_kept_whole() {
        let shown = capture(8, &[b"01234", b"567"]).shown(1000);
        assert_eq!(shown, Shown { text: "01234567".into(), dropped: 0 });
    }

    #[test]
    fn a_long_stream_keeps_its_head_and_its_tail_and_counts_the_rest() {
        let shown = capture(8, &[b"abcdefgh", b"ijklm", b"nopqrstuvwxyz"]).shown(1000);
        assert_eq!(shown.text, "abcdef\n[18 bytes left out]\nyz");
        assert_eq!(shown.dropped, 18);
    }

    #[test]
    fn memory_stays_within_the_limit() {
        let mut capture = Capture::new(1000);
        for _ in 0..1000 {
            capture.push(&[b'x'; 5000]);
        }
        assert!(capture.head.capacity() + capture.tail.capacity() <= 16 * 1024);
        assert_eq!(capture.finish().total, 5_000_000);
    }

    #[test]
    fn control_characters_do_not_swell_a_result_past_its_budget() {
        let shown = capture(100_000, &[&[0x1b; 90_000]]).shown(60_000);
        assert!(json_len(&shown.text) <= 60_100, "{}", json_len(&shown.text));
        assert_eq!(shown.dropped, 80_000);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let euros = "€".repeat(1000);
        for budget in 100..112 {
            let shown = capture(10_000, &[euros.as_bytes()]).shown(budget);
            assert!(!shown.text.contains('\u{FFFD}'), "{}", shown.text);
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced() {
        let garbage = vec![0xFF; 10_000];
        let shown = capture(100_000, &[&garbage]).shown(6_000);
        assert!(json_len(&shown.text) <= 6_100);
        assert!(shown.text.starts_with('\u{FFFD}'));
    }
}
