//! Writes JSON by hand where it matters: the task object is written for each task, and what the
//! worker returned goes into it as the text that it is.

use std::cell::Cell;

use serde::Serialize;

use crate::fleet::Wall;

/// A JSON object that is being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Ends the object.
    pub(crate) fn end(self) {
        self.out.push(b'}');
    }

    /// Writes a field's name; its value must follow. Names are plain words, never escaped.
    #[inline]
    pub(crate) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.reserve(name.len() + 4);
        self.out.extend_from_slice(if self.empty { b"\"" } else { b",\"" });
        self.empty = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        let out = self.name(name);
        write_text(out, text);
        self
    }

    /// A text, or `null`.
    pub(crate) fn maybe_text(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(name, text),
            None => self.raw(name, "null"),
        }
    }

    /// JSON as it is.
    pub(crate) fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.name(name).extend_from_slice(json.as_bytes());
        self
    }

    /// A number, a list, or anything else that serde writes.
    pub(crate) fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> &mut Self {
        let out = self.name(name);
        write_value(out, value);
        self
    }

    /// A time, or `null`.
    pub(crate) fn time(&mut self, name: &str, at: Option<Wall>) -> &mut Self {
        let out = self.name(name);
        match at {
            None => out.extend_from_slice(b"null"),
            Some(at) => {
                out.push(b'"');
                write_time(out, at);
                out.push(b'"');
            }
        }
        self
    }

    /// A list, each item written by `item`.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        item: impl FnMut(&mut Vec<u8>, T),
    ) -> &mut Self {
        let out = self.name(name);
        write_list(out, items, item);
        self
    }
}

/// Writes a list, each item by `item`.
pub(crate) fn write_list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut item: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, it) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        item(out, it);
    }
    out.push(b']');
}

/// Writes a value as serde does. Only for values whose JSON form cannot fail.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let begin = out.len();
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        tracing::error!(%error, "a value has no JSON form");
        out.truncate(begin);
        out.extend_from_slice(b"null");
    }
}

/// Writes a text, quoted and escaped.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        write_value(out, text);
    }
}

/// A time in digits.
pub(crate) type TimeText = [u8; 24];

thread_local! {
    /// The second that was written last, in milliseconds, and its text.
    static SECOND: Cell<(i64, TimeText)> = const { Cell::new((i64::MIN, [0; 24])) };
}

/// RFC 3339, UTC, with milliseconds. Digit by digit: a task has seven times, and the library's own
/// way of writing them took 3 us of the 35 that a whole task may cost. Most are of the same second.
pub(crate) fn time_digits(at: Wall) -> TimeText {
    let millis = at.0.rem_euclid(1_000);
    let second = at.0 - millis;
    let (mut known, mut text) = SECOND.get();
    if known != second {
        (known, text) = whole_second(second);
        SECOND.set((known, text));
    }
    if known == second {
        digits(&mut text[20..23], i16::try_from(millis).unwrap_or(0));
    }
    text
}

/// Writes a time, without quotes.
fn write_time(out: &mut Vec<u8>, at: Wall) {
    out.extend_from_slice(&time_digits(at));
}

/// A whole second's milliseconds and text; the epoch's for one that is beyond all calendars.
fn whole_second(second: i64) -> (i64, TimeText) {
    let known = jiff::Timestamp::from_millisecond(second);
    let (second, time) = known.map_or((0, jiff::Timestamp::UNIX_EPOCH), |time| (second, time));
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    // No task was submitted before the year 0, so years need no sign.
    digits(&mut text[0..4], time.year());
    digits(&mut text[5..7], time.month().into());
    digits(&mut text[8..10], time.day().into());
    digits(&mut text[11..13], time.hour().into());
    digits(&mut text[14..16], time.minute().into());
    digits(&mut text[17..19], time.second().into());
    (second, text)
}

fn digits(places: &mut [u8], number: i16) {
    let mut number = number.unsigned_abs();
    for place in places.iter_mut().rev() {
        *place = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

/// The same as a text.
pub(crate) fn time_text(at: Wall) -> String {
    let mut out = Vec::with_capacity(24);
    write_time(&mut out, at);
    String::from_utf8(out).unwrap_or_default()
}

/// Whether no value in this JSON text is nested deeper than `limit`. Looks at brackets alone, so it
/// holds for text that is no JSON too.
pub(crate) fn depth_within(text: &[u8], limit: usize) -> bool {
    // Each level takes two brackets.
    if text.len() < 2 * limit {
        return true;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json() {
        let mut out = Vec::new();
        let mut object = Object::new(&mut out);
        object.text("a", "x\"\n\u{1f}ä").maybe_text("b", None).raw("c", "[1, 2]").value("d", &7);
        object.time("e", Some(Wall(1_700_000_000_123))).time("f", None);
        object.list("g", [1, 2], |out, item| write_value(out, &item));
        object.end();
        let value: serde_json::Value = serde_json::from_slice(&out).expect("it is JSON");
        let expected = serde_json::json!({
            "a": "x\"\n\u{1f}ä", "b": null, "c": [1, 2], "d": 7,
            "e": "2023-11-14T22:13:20.123Z", "f": null, "g": [1, 2],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn times_always_have_milliseconds() {
        assert_eq!(time_text(Wall(0)), "1970-01-01T00:00:00.000Z");
        for millis in [1_i64, 951_782_399_999, 951_868_799_001, 1_709_164_800_000, 253_402_207_199_999] {
            let library = jiff::Timestamp::from_millisecond(millis).expect("a time");
            assert_eq!(time_text(Wall(millis)), format!("{library:.3}"));
        }
        assert_eq!(time_text(Wall(253_402_207_199_001)), "9999-12-30T21:59:59.001Z", "of the last second");
        assert_eq!(time_text(Wall(i64::MAX)), "1970-01-01T00:00:00.000Z", "beyond all calendars");
        assert_eq!(time_text(Wall(7)), "1970-01-01T00:00:00.007Z");
    }

    #[test]
    fn depth_is_counted_outside_texts() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(depth_within(nested(64).as_bytes(), 64));
        assert!(!depth_within(nested(65).as_bytes(), 64));
        assert!(!depth_within("[".repeat(1_000_000).as_bytes(), 64));
        let quoted = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(1_000));
        assert!(depth_within(quoted.as_bytes(), 64));
    }
}
