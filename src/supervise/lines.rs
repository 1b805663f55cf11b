//! What a program writes, in our log under its worker's name: bounded in length and in rate, with
//! nothing in it that a terminal would obey.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::{info, warn};

use crate::fleet::WorkerName;

/// Bytes of a line that are kept; the rest of it is dropped.
const LINE_BYTES: usize = 8 << 10;
/// Lines a second, over both streams of a program, that reach the log in the long run.
const LINES_PER_SECOND: u32 = 200;
/// Lines that may come at once.
const BURST: u32 = 1_000;
/// How often dropped lines are told of.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The log of one process: both of its streams write to it.
#[derive(Clone)]
pub(super) struct ProcessLog {
    worker: WorkerName,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    limit: Limit,
    last_error_line: Option<Arc<str>>,
}

impl ProcessLog {
    pub(super) fn new(worker: WorkerName) -> Self {
        let inner = Inner { limit: Limit::new(Instant::now()), last_error_line: None };
        Self { worker, inner: Arc::new(Mutex::new(inner)) }
    }

    /// The last line that the process wrote to its standard error.
    pub(super) fn last_error_line(&self) -> Option<Arc<str>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).last_error_line.clone()
    }

    /// Copies a stream to the log until it ends.
    pub(super) async fn copy(self, stream: &'static str, mut from: impl AsyncRead + Unpin) {
        let mut lines = Lines::default();
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            lines.feed(&chunk[..count], |line| self.line(stream, line));
        }
        lines.finish(|line| self.line(stream, line));
        self.tell_dropped(true);
    }

    fn line(&self, stream: &'static str, line: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = inner.limit.allow(Instant::now());
        if !allowed && stream != "stderr" {
            drop(inner);
            return self.tell_dropped(false);
        }
        let text = String::from_utf8_lossy(line);
        let text = printable(text.trim_end());
        if stream == "stderr" && !text.is_empty() {
            inner.last_error_line = Some(text.as_ref().into());
        }
        drop(inner);
        self.tell_dropped(false);
        if allowed {
            info!(target: "worker", worker = %self.worker, stream, "{text}");
        }
    }

    fn tell_dropped(&self, at_end: bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = inner.limit.dropped_to_tell(Instant::now(), at_end);
        drop(inner);
        if dropped > 0 {
            warn!(target: "worker", worker = %self.worker, dropped, "the program writes faster than the log takes; lines were dropped");
        }
    }
}

/// A bucket of tokens, one a line, and the count of those that found it empty.
struct Limit {
    tokens: f64,
    filled: Instant,
    dropped: u64,
    told: Instant,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { tokens: f64::from(BURST), filled: now, dropped: 0, told: now }
    }

    fn allow(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs_f64() * f64::from(LINES_PER_SECOND);
        self.tokens = (self.tokens + gained).min(f64::from(BURST));
        self.filled = now;
        if self.tokens < 1.0 {
            self.dropped += 1;
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// The lines dropped since this was last answered; 0 while it is too early to tell again.
    fn dropped_to_tell(&mut self, now: Instant, at_end: bool) -> u64 {
        if self.dropped == 0 || (!at_end && now.duration_since(self.told) < TELL_EVERY) {
            return 0;
        }
        self.told = now;
        std::mem::take(&mut self.dropped)
    }
}

/// Cuts a stream of bytes into lines of at most [`LINE_BYTES`].
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            self.give(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            self.give(&mut line);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.begun.len();
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.too_long |= bytes.len() > room;
    }

    fn give(&mut self, line: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.too_long) {
            self.begun.extend_from_slice(" … (the line goes on)".as_bytes());
        }
        line(&self.begun);
        self.begun.clear();
    }
}

/// The text with control characters written as escapes (tabs stay), so that foreign text cannot
/// move the cursor, recolour the terminal or forge a second line. Characters that turn the
/// direction of writing are escaped too.
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        (c.is_control() && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |line| seen.push(String::from_utf8_lossy(line).into_owned()));
        }
        lines.finish(|line| seen.push(String::from_utf8_lossy(line).into_owned()));
        seen
    }

    #[test]
    fn lines_are_cut_where_they_end_and_not_where_the_pipe_did() {
        assert_eq!(cut(&[b"one\ntw", b"o\n", b"\nrest"]), ["one", "two", "", "rest"]);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let seen = cut(&[&[b'x'; 5_000], &[b'x'; 5_000], b"\nnext\n"]);
        assert!(seen[0].starts_with("xxx") && seen[0].ends_with("(the line goes on)"));
        assert!(seen[0].len() < LINE_BYTES + 64);
        assert_eq!(seen[1], "next");
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let passed = (0..5_000).filter(|_| limit.allow(start)).count();
        assert_eq!(passed, 1_000);
        assert_eq!(limit.dropped_to_tell(start, false), 0);
        assert_eq!(limit.dropped_to_tell(start + TELL_EVERY, false), 4_000);
        assert_eq!(limit.dropped_to_tell(start + TELL_EVERY, true), 0);
        assert!(limit.allow(start + Duration::from_secs(1)));
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("\u{1b}[31mred\r\n"), "\\u{1b}[31mred\\r\\n");
        assert_eq!(printable("plain\ttext é"), "plain\ttext é");
        assert_eq!(printable("a\u{202e}b\u{9b}2J"), "a\\u{202e}b\\u{9b}2J");
    }
}
