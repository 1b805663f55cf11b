//! The values that fields have: each type checks the rules of one value while it is read, and
//! describes them in the schema.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::node::{At, Node};
use super::reader::{Reader, Value};

/// A schema that also takes a text with a `${…}` in it, which becomes a value only when it is read.
fn or_put_in(schema: Json) -> Json {
    json!({ "anyOf": [schema, { "type": "string", "pattern": r"\$\{" }] })
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole<const LEAST: u64, const MOST: u64>(pub(super) u64);

impl<const LEAST: u64, const MOST: u64> Value for Whole<LEAST, MOST> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = node.word().and_then(|text| text.parse().ok());
        let number = number.filter(|number| (LEAST..=MOST).contains(number));
        reader.or_wanted(number, node, at, || format!("a whole number from {LEAST} to {MOST}")).map(Self)
    }

    fn schema() -> Json {
        or_put_in(json!({ "type": "integer", "minimum": LEAST, "maximum": MOST }))
    }

    fn written(&self) -> Option<Json> {
        Some(self.0.into())
    }
}

/// A number with at most two digits behind the point, kept in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hundredths<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<const LEAST: u32, const MOST: u32> Value for Hundredths<LEAST, MOST> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = node.word().and_then(|text| scaled(text, 2));
        let number = number.filter(|number| (LEAST..=MOST).contains(number));
        let expected = || {
            let (least, most) = (decimal(LEAST, 2), decimal(MOST, 2));
            format!("a number from {least} to {most} with at most two digits behind the point")
        };
        reader.or_wanted(number, node, at, expected).map(Self)
    }

    fn schema() -> Json {
        let bound = |hundredths| f64::from(hundredths) / 100.0;
        or_put_in(json!({ "type": "number", "minimum": bound(LEAST), "maximum": bound(MOST) }))
    }

    fn written(&self) -> Option<Json> {
        Some(if self.0.is_multiple_of(100) { json!(self.0 / 100) } else { json!(f64::from(self.0) / 100.0) })
    }
}

/// A share from 0 to 1, kept in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(pub(super) u32);

impl Value for Share {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = node.word().and_then(|text| scaled(text, 6)).filter(|number| *number <= 1_000_000);
        let expected = || "a number from 0 to 1 with at most six digits behind the point".to_owned();
        reader.or_wanted(number, node, at, expected).map(Self)
    }

    fn schema() -> Json {
        or_put_in(json!({ "type": "number", "minimum": 0, "maximum": 1 }))
    }

    fn written(&self) -> Option<Json> {
        Some(json!(f64::from(self.0) / 1e6))
    }
}

/// A decimal number times ten to the `digits`; `None` if it has more digits behind the point.
fn scaled(text: &str, digits: usize) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let numeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > digits || !numeric(whole) || !numeric(part) || text.ends_with('.') {
        return None;
    }
    format!("{whole}{part:0<digits$}").parse().ok()
}

/// The other way round.
fn decimal(scaled: u32, digits: u32) -> String {
    let (whole, part) = (scaled / 10_u32.pow(digits), scaled % 10_u32.pow(digits));
    let width = usize::try_from(digits).unwrap_or_default();
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:0width$}") }
}

/// A length of time from `LEAST` to `MOST` milliseconds, written `250ms`, `30s`, `5m`, `2h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span<const LEAST: u64, const MOST: u64>(pub(super) Duration);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl<const LEAST: u64, const MOST: u64> Span<LEAST, MOST> {
    /// So many milliseconds.
    pub(super) fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    pub(super) fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<const LEAST: u64, const MOST: u64> Value for Span<LEAST, MOST> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let millis = node.word().and_then(|text| with_unit(text, &UNITS));
        let millis = millis.filter(|millis| (LEAST..=MOST).contains(millis));
        let expected = || {
            let [least, most] = [LEAST, MOST].map(|millis| spelled(Duration::from_millis(millis)));
            format!("a duration from {least} to {most}, such as 250ms, 30s, 5m, 2h or 7d")
        };
        reader.or_wanted(millis, node, at, expected).map(Self::millis)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^[0-9]+(ms|s|m|h|d)$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some(spelled(self.0).into())
    }
}

/// Reads a duration as it is written everywhere: `250ms`, `30s`, `5m`, `2h`, `7d`.
pub fn duration(text: &str) -> Option<Duration> {
    with_unit(text, &UNITS).map(Duration::from_millis)
}

/// A duration in the largest unit that fits without a rest.
pub fn spelled(span: Duration) -> String {
    in_units(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), &UNITS, "0s")
}

/// A number of bytes from `LEAST` to `MOST`, written `64KiB`, `10MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size<const LEAST: u64, const MOST: u64>(pub(super) u64);

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl<const LEAST: u64, const MOST: u64> Value for Size<LEAST, MOST> {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let bytes = node.word().and_then(|text| with_unit(text, &SIZES));
        let bytes = bytes.filter(|bytes| (LEAST..=MOST).contains(bytes));
        let expected = || {
            let [least, most] = [LEAST, MOST].map(|bytes| in_units(bytes, &SIZES, "0B"));
            format!("a size from {least} to {most}, such as 64KiB, 10MiB or 1GiB")
        };
        reader.or_wanted(bytes, node, at, expected).map(Self)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^[0-9]+(B|KiB|MiB|GiB|TiB)$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some(in_units(self.0, &SIZES, "0B").into())
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn in_units(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fits = units.iter().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    fits.map_or_else(|| zero.to_owned(), |(unit, factor)| format!("{}{unit}", number / factor))
}

impl Value for bool {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let truth = match node.word() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        reader.or_wanted(truth, node, at, || "true or false".to_owned())
    }

    fn schema() -> Json {
        or_put_in(json!({ "type": "boolean" }))
    }

    fn written(&self) -> Option<Json> {
        Some((*self).into())
    }
}

/// Any text of 1 to 4,096 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl Text {
    const MOST: usize = 4_096;
}

impl Value for Text {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let fits =
            |text: &&str| !text.is_empty() && text.chars().count() <= Self::MOST && !text.contains('\0');
        let text = node.word().filter(fits).map(|text| Self(text.to_owned()));
        reader.or_wanted(text, node, at, || "a text of 1 to 4096 characters".to_owned())
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "maxLength": Self::MOST })
    }

    fn written(&self) -> Option<Json> {
        Some(self.0.as_str().into())
    }
}

/// Reads one of a few words into a public enum.
macro_rules! words {
    ($Name:ident { $( $word:literal => $variant:ident, )* }) => {
        impl $crate::config::reader::Value for $Name {
            fn read(
                node: &$crate::config::node::Node<'_>,
                at: &$crate::config::node::At<'_>,
                reader: &mut $crate::config::reader::Reader<'_>,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),*];
                let word = node.word();
                let value = match word {
                    $(Some($word) => Some(Self::$variant),)*
                    _ => None,
                };
                reader.or_wanted(value, node, at, || {
                    let near = word.and_then(|word| $crate::config::reader::nearest(word, WORDS.iter().copied()));
                    let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                    format!("one of {}{hint}", WORDS.join(", "))
                })
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),*] })
            }

            fn written(&self) -> Option<serde_json::Value> {
                Some(match self { $(Self::$variant => $word,)* }.into())
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_in_the_largest_unit_that_fits() {
        let shown = |millis| spelled(Duration::from_millis(millis));
        assert_eq!(
            [shown(0), shown(250), shown(90_000), shown(300_000), shown(604_800_000)],
            ["0s", "250ms", "90s", "5m", "7d"]
        );
    }

    #[test]
    fn durations_and_sizes_want_a_whole_number_and_a_unit() {
        assert_eq!(with_unit("5m", &UNITS), Some(300_000));
        assert_eq!(with_unit("64KiB", &SIZES), Some(65_536));
        for wrong in ["", "5", "m", "1.5s", "-1s", "5 m", "99999999999999999999d", "9999999999999999d"] {
            assert_eq!(with_unit(wrong, &UNITS), None, "{wrong}");
        }
        assert_eq!(with_unit("10MB", &SIZES), None);
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(scaled("2", 2), Some(200));
        assert_eq!(scaled("0.05", 2), Some(5));
        assert_eq!(scaled("1.5", 6), Some(1_500_000));
        for wrong in ["", ".5", "1.", "1.234", "1e3", "-1", "+1", "99999999999"] {
            assert_eq!(scaled(wrong, 2), None, "{wrong}");
        }
        assert_eq!([decimal(150, 2), decimal(1_000, 2), decimal(1, 2)], ["1.50", "10", "0.01"]);
    }
}
