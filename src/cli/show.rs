//! How values look: tables, JSON and YAML on standard output; times as people say them; foreign
//! text with nothing in it that a terminal would obey.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;

use super::failure::Outcome;
use super::yaml;
use crate::supervise::printable;

/// How a verb prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// The API's own answer.
    Json,
    /// The same, as YAML.
    Yaml,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Output {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) output: Format,
}

impl Output {
    /// Whether people read it.
    pub(super) fn is_table(self) -> bool {
        self.output == Format::Table
    }

    /// Prints the value itself, or what `table` writes of it.
    pub(super) fn print(
        self,
        value: &Value,
        table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Outcome {
        let mut out = anstream::stdout().lock();
        match self.output {
            Format::Table => table(&mut out)?,
            Format::Json => writeln!(out, "{}", json(value))?,
            Format::Yaml => write!(out, "{}", yaml::of(value))?,
        }
        Ok(out.flush()?)
    }
}

/// Pretty JSON in which every harmful character is an escape.
pub(super) fn json(value: &Value) -> String {
    harmless(&format!("{value:#}"))
}

/// JSON text in which characters that a terminal may obey are `\u` escapes; they can only stand
/// within strings, where both forms mean the same.
pub(super) fn harmless(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        let direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n') || direction {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A field of a value by its path (`slots.used`), as a cell shows it; `-` where there is none.
pub(super) fn cell(value: &Value, path: &str) -> String {
    match path.split('.').try_fold(value, |value, name| value.get(name)) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text).into_owned(),
        Some(Value::Array(items)) => list(items),
        Some(Value::Object(fields)) if fields.is_empty() => "-".to_owned(),
        Some(Value::Object(fields)) => {
            let pairs: Vec<_> =
                fields.iter().map(|(name, value)| format!("{}={}", printable(name), plain(value))).collect();
            pairs.join(",")
        }
        Some(other) => other.to_string(),
    }
}

/// Several things in one cell: their names, where they have one.
fn list(items: &[Value]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    let names: Vec<_> = items.iter().map(|item| plain(item.get("name").unwrap_or(item))).collect();
    names.join(",")
}

/// A value on one line, a text without quotes.
pub(super) fn plain(value: &Value) -> Cow<'_, str> {
    match value.as_str() {
        Some(text) => printable(text),
        None => Cow::Owned(harmless(&value.to_string())),
    }
}

/// How long ago a time of the API was, or in how long it will be; `-` where there is none.
pub(super) fn when(value: &Value, path: &str) -> String {
    let text = cell(value, path);
    let Ok(at) = text.parse::<Timestamp>() else { return text };
    let seconds = Timestamp::now().as_second() - at.as_second();
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{} ago", span(seconds)),
        _ => format!("in {}", span(-seconds)),
    }
}

/// A number of seconds in the largest unit that says it well.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A number of seconds as a person would say it.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0}ms", seconds * 1e3),
        1.0..120.0 => format!("{seconds:.1}s"),
        _ => span(Duration::try_from_secs_f64(seconds).map_or(0, |span| span.as_secs().cast_signed())),
    }
}

/// The time between two times of an object, as a person would say it.
pub(super) fn between(value: &Value, from: &str, to: &str) -> String {
    let time = |path: &str| cell(value, path).parse::<Timestamp>().ok();
    let (Some(from), Some(to)) = (time(from), time(to)) else { return "-".to_owned() };
    seconds(to.duration_since(from).as_secs_f64())
}

/// The colour of a state's word.
pub(super) fn tone(word: &str) -> Style {
    let colour = match word {
        "ready" | "succeeded" | "ok" | "running" | "true" => AnsiColor::Green,
        "failed" | "timed_out" | "lost" | "expired" | "disconnected" | "ejected" | "removed" => {
            AnsiColor::Red
        }
        "suspect" | "draining" | "cordoned" | "connecting" | "cancelling" | "cancelled" | "worker_lost"
        | "rejected" => AnsiColor::Yellow,
        _ => return Style::new(),
    };
    Style::new().fg_color(Some(colour.into()))
}

/// Columns that are as wide as their widest cell.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: impl Into<Vec<&'static str>>) -> Self {
        Self { head: head.into(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.head.len()).map(width).collect();
        let bold = Style::new().bold();
        let head: Vec<_> = self.head.iter().map(|name| (*name).to_owned()).collect();
        line(out, &head, &widths, |_| bold)?;
        self.rows.iter().try_for_each(|row| line(out, row, &widths, tone))
    }
}

fn line(
    out: &mut dyn Write,
    cells: &[String],
    widths: &[usize],
    style: impl Fn(&str) -> Style,
) -> io::Result<()> {
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let style = style(cell);
        write!(out, "{style}{cell}{style:#}")?;
        if at + 1 < cells.len() {
            let gap = width - cell.chars().count() + 2;
            write!(out, "{:gap$}", "")?;
        }
    }
    writeln!(out)
}

/// A name and what it is, one a line, for the verbs that show one thing.
pub(super) fn fact(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    if value == "-" {
        return Ok(());
    }
    let (bold, style) = (Style::new().bold(), tone(value));
    writeln!(out, "{bold}{:<16}{bold:#} {style}{value}{style:#}", format!("{name}:"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_under_their_heads() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["a-long-name".to_owned(), "x".to_owned()]);
        table.row(["é".to_owned(), "y".to_owned()]);
        let mut out = Vec::new();
        table.write(&mut out).expect("a vector takes all");
        let shown = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(String::from_utf8_lossy(&shown), "NAME         STATE\na-long-name  x\né            y\n");
    }

    #[test]
    fn cells_show_what_is_there_and_nothing_that_a_terminal_obeys() {
        let worker = json!({
            "name": "a\u{1b}[2J", "slots": {"used": 1}, "labels": {"zone": "a"}, "pool": null,
            "capabilities": [{"name": "x.y"}, "z"]
        });
        assert_eq!(cell(&worker, "name"), "a\\u{1b}[2J");
        assert_eq!(cell(&worker, "slots.used"), "1");
        assert_eq!(cell(&worker, "labels"), "zone=a");
        assert_eq!(cell(&worker, "capabilities"), "x.y,z");
        assert_eq!((cell(&worker, "pool"), cell(&worker, "none.here")), ("-".into(), "-".into()));
    }

    #[test]
    fn times_are_said_as_people_do() {
        let ago = |seconds: i64| {
            let at = Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
            when(&json!({ "at": at.to_string() }), "at")
        };
        assert_eq!([ago(5), ago(300), ago(10_000), ago(200_000)], ["5s ago", "5m ago", "2h ago", "2d ago"]);
        assert!(ago(-90).starts_with("in "));
        let task = json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:01.5Z"});
        assert_eq!(between(&task, "from", "to"), "1.5s");
    }

    #[test]
    fn json_keeps_its_meaning_without_harm() {
        let value = json!({"text": "\u{9b}2J\u{202e}\u{7f}\u{1b}"});
        let shown = json(&value);
        assert!(shown.chars().all(|c| !c.is_control() || c == '\n'));
        assert_eq!(serde_json::from_str::<Value>(&shown).ok(), Some(value));
    }
}
