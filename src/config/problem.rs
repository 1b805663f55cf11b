//! What is wrong with a topology, said so that one look mends it: where, which field, what was
//! found and expected, and the line itself.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How many problems one reading keeps; the rest are counted. A broken template of a large fleet
/// repeats the same mistake thousands of times.
pub(super) const MAX_PROBLEMS: usize = 100;

/// How much of a long line is shown, in characters.
const SHOWN_WIDTH: usize = 120;

/// One thing that is wrong, or (as a warning) odd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, `environment`, or `request`.
    pub file: Arc<str>,
    /// From 1; 0 where there is no line.
    pub line: u32,
    /// In characters, from 1; 0 where there is no line.
    pub column: u32,
    /// The field, such as `workers[2].name`; empty for the whole document.
    pub path: String,
    /// What was wrong; what was expected.
    pub message: String,
    /// The line, and below it a caret.
    pub snippet: Option<String>,
}

impl Problem {
    /// A problem of a whole file, or of something that has no lines.
    pub fn of(file: impl Into<Arc<str>>, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            path: path.into(),
            message: message.into(),
            snippet: None,
        }
    }

    /// A problem at a place (line and column from 1) in a text.
    pub fn at(
        file: impl Into<Arc<str>>,
        (line, column): (u32, u32),
        path: impl Into<String>,
        message: impl Into<String>,
        shown: Option<&str>,
    ) -> Self {
        let snippet = shown.map(|text| snippet(line, column, text));
        Self { line, column, snippet, ..Self::of(file, path, message) }
    }

    /// The first line alone: `file:line:column: path: message`.
    pub fn headline(&self) -> impl fmt::Display + '_ {
        Headline(self)
    }
}

struct Headline<'a>(&'a Problem);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.0;
        f.write_str(&problem.file)?;
        if problem.line > 0 {
            write!(f, ":{}:{}", problem.line, problem.column)?;
        }
        if !problem.path.is_empty() {
            write!(f, ": {}", problem.path)?;
        }
        write!(f, ": {}", problem.message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.headline(), f)?;
        match &self.snippet {
            Some(snippet) => write!(f, "\n{snippet}"),
            None => Ok(()),
        }
    }
}

/// The line with its number, and a caret below the column.
fn snippet(line: u32, column: u32, text: &str) -> String {
    let at = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
    let width = text.chars().count();
    let from = if width <= SHOWN_WIDTH { 0 } else { at.saturating_sub(SHOWN_WIDTH / 2).min(width) };
    let shown: String = text.chars().skip(from).take(SHOWN_WIDTH).collect();
    // Tabs stay tabs below, so that the caret stands where the eye looks for it.
    let indent: String = shown
        .chars()
        .chain(std::iter::repeat(' '))
        .take(at.saturating_sub(from).min(SHOWN_WIDTH))
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let number = line.to_string();
    format!("{number:>5} | {}\n      | {indent}^", shown.trim_end())
}

/// Several problems as one text, one after another.
pub fn listed(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_and_points_at_the_column() {
        let problem = Problem::at(
            "config.yaml",
            (14, 11),
            "workers[2].name",
            "must not be empty",
            Some("  - name: \"\""),
        );
        assert_eq!(
            problem.to_string(),
            "config.yaml:14:11: workers[2].name: must not be empty\n   14 |   - name: \"\"\n      |           ^"
        );
    }

    #[test]
    fn a_long_line_is_shown_around_the_column() {
        let text = format!("{}x{}", "a".repeat(500), "b".repeat(500));
        let problem = Problem::at("f", (1, 501), "", "odd", Some(&text));
        let shown = problem.snippet.expect("there is a line");
        let (line, caret) = shown.split_once('\n').expect("two lines");
        assert!(line.len() < 140);
        assert_eq!(line.find('x'), caret.find('^'));
    }
}
