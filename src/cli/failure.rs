//! Why a verb failed, and the exit code that says so.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use crate::client::{ClientError, Problem};
use crate::supervise::printable;

/// Something did not work.
const FAILED: u8 = 1;
/// A store must not be served.
const STORE: u8 = 4;
/// The command line makes no sense; clap exits with the same.
const USAGE: u8 = 2;

/// Why a verb failed. What is said is what a person can act on.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is said here.
    Said(String),
    /// A store must not be served as it is.
    Store(String),
    /// The command line makes no sense.
    Usage(String),
    /// All has been said already.
    Silent,
    /// Whoever read our output has left (`rollcall … | head`): nothing is wrong.
    ReaderLeft,
}

pub(super) type Outcome = Result<(), Failure>;

impl Failure {
    pub(super) fn new(message: impl Display) -> Self {
        Self::Said(message.to_string())
    }

    pub(super) fn usage(message: impl Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// Says what is left to say, on standard error.
    pub(super) fn tell(&self) -> ExitCode {
        match self {
            Self::Said(message) => say(message),
            Self::Usage(message) => {
                say(message);
                return ExitCode::from(USAGE);
            }
            Self::Store(message) => {
                say(message);
                return ExitCode::from(STORE);
            }
            Self::Silent => {}
            Self::ReaderLeft => return ExitCode::SUCCESS,
        }
        ExitCode::from(FAILED)
    }
}

/// Writes `error: message`; what cannot be written is not worth a second failure.
fn say(message: &str) {
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let lines: Vec<_> = message.lines().map(printable).collect();
    let mut err = anstream::stderr().lock();
    drop(io::Write::write_fmt(&mut err, format_args!("{red}error:{red:#} {}\n", lines.join("\n"))));
}

impl From<io::Error> for Failure {
    /// From writing our own output.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderLeft;
        }
        Self::Said(format!("cannot write the output: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Address { .. } => Self::Usage(error.to_string()),
            ClientError::Problem(ref problem) => Self::Said(refusal(problem)),
            ClientError::Request(_)
            | ClientError::Unreachable { .. }
            | ClientError::Broken { .. }
            | ClientError::Timeout { .. }
            | ClientError::Answer(_) => Self::Said(error.to_string()),
        }
    }
}

/// A refusal in words. One that lists problems, as a refused topology does, is told by these.
fn refusal(problem: &Problem) -> String {
    let list = problem.more.get("problems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return wrong_input(problem).unwrap_or_else(|| problem.to_string());
    }
    let mut lines = vec![format!("{} ({})", problem.title, problem.code)];
    lines.extend(list.iter().map(one_problem));
    lines.extend(problem.hint.clone());
    lines.join("\n")
}

/// What is wrong with an input, place by place.
fn wrong_input(problem: &Problem) -> Option<String> {
    let errors = problem.more.get("errors")?.as_array().filter(|errors| !errors.is_empty())?;
    let mut lines = vec![format!("{} ({})", problem.title, problem.code)];
    lines.extend(errors.iter().map(|error| {
        let text = |name: &str| error[name].as_str().unwrap_or_default();
        let place = if text("pointer").is_empty() { "the input" } else { text("pointer") };
        format!("{place}: {}", text("message"))
    }));
    lines.extend(problem.hint.clone());
    Some(lines.join("\n"))
}

/// One entry of a refusal's `problems`: `file:line:column: path: message`, and the line itself.
pub(super) fn one_problem(item: &Value) -> String {
    let text = |name: &str| item[name].as_str().unwrap_or_default();
    let mut place = text("file").to_owned();
    if let (Some(line @ 1..), Some(column)) = (item["line"].as_u64(), item["column"].as_u64()) {
        place.push_str(&format!(":{line}:{column}"));
    }
    let parts: Vec<_> =
        [place.as_str(), text("path"), text("message")].into_iter().filter(|part| !part.is_empty()).collect();
    let mut said = if parts.is_empty() { item.to_string() } else { parts.join(": ") };
    if let Some(snippet) = item["snippet"].as_str() {
        said.push('\n');
        said.push_str(snippet);
    }
    said
}
