//! A task's events as they come: output to our own standard output and error, the rest as short
//! notes for whoever watches.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde_json::Value;
use tokio::time::timeout;

use super::failure::{Failure, Outcome};
use super::show::{cell, plain};
use crate::client::{Client, ClientError, ServerEvent, encoded};
use crate::supervise::printable;

/// How long a stream that nobody follows may be silent before all that is there has been read.
const SILENCE: Duration = Duration::from_millis(500);
/// How long to wait before a broken stream is taken up again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often in a row that is tried.
const TRIES: u32 = 20;

/// Which of a task's events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shown {
    /// None.
    Nothing,
    /// What the task writes.
    Output,
    /// That, and on standard error its states and progress.
    Everything,
}

/// Writes a task's events.
pub(super) struct Live {
    shown: Shown,
    /// Whether the task has written anything.
    pub(super) any_output: bool,
}

impl Live {
    pub(super) fn new(shown: Shown) -> Self {
        Self { shown, any_output: false }
    }

    /// Follows a task to its end, over lost connections; without `follow` only what is there.
    pub(super) async fn task(&mut self, client: &Client, id: &str, follow: bool) -> Outcome {
        let path = format!("/v1/tasks/{}/events", encoded(id));
        let mut last_id: Option<String> = None;
        let mut failures = 0;
        loop {
            match self.stream(client, &path, &mut last_id, follow).await {
                Ok(()) => return Ok(()),
                // The server was there: it may be again, and has kept the task.
                Err(Failure::Silent) if failures < TRIES => failures += 1,
                Err(Failure::Silent) => {
                    return Err(Failure::new(format!(
                        "{} is gone; the task may go on: `rollcall tasks get {id}`",
                        client.base()
                    )));
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// One connection's worth of events; `Silent` means that it is worth another.
    async fn stream(
        &mut self,
        client: &Client,
        path: &str,
        last_id: &mut Option<String>,
        follow: bool,
    ) -> Outcome {
        let lost = |error: ClientError| match error {
            ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Timeout { .. }
                if last_id.is_some() =>
            {
                Failure::Silent
            }
            other => other.into(),
        };
        let mut events = client.events(path, last_id.as_deref()).await.map_err(lost)?;
        loop {
            let next = if follow {
                events.next().await
            } else {
                match timeout(SILENCE, events.next()).await {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                }
            };
            match next {
                Ok(Some(event)) => {
                    self.show(&event)?;
                    if let Some(id) = event.id {
                        *last_id = Some(id);
                    }
                }
                Ok(None) => return Ok(()),
                Err(ClientError::Broken { .. } | ClientError::Timeout { .. }) if follow => {
                    return Err(Failure::Silent);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn show(&mut self, event: &ServerEvent) -> io::Result<()> {
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
        match event.event.as_str() {
            _ if self.shown == Shown::Nothing => Ok(()),
            "output" => {
                self.any_output = true;
                let text = data["data"].as_str().unwrap_or_default();
                match data["stream"].as_str() {
                    Some("stderr") => raw(&mut anstream::stderr().lock(), text, io::stderr().is_terminal()),
                    _ => raw(&mut anstream::stdout().lock(), text, io::stdout().is_terminal()),
                }
            }
            _ if self.shown < Shown::Everything => Ok(()),
            "state" => {
                let mut words = vec![cell(&data, "state")];
                let from = [("worker", "on "), ("reason", "")];
                words.extend(
                    from.iter()
                        .filter(|(name, _)| cell(&data, name) != "-")
                        .map(|(name, before)| format!("{before}{}", cell(&data, name))),
                );
                note(&words.join(", "))
            }
            "progress" => {
                let percent = data["fraction"].as_f64().map(|part| format!("{:.0} %", part * 100.0));
                let words: Vec<_> =
                    percent.into_iter().chain(data["message"].as_str().map(str::to_owned)).collect();
                note(&printable(&words.join(", ")))
            }
            "artifact" => note(&format!(
                "made {} ({}, {} bytes)",
                printable(&cell(&data, "name")),
                printable(&cell(&data, "media_type")),
                cell(&data, "size")
            )),
            "reset" => note("some of the output is gone; going on from here"),
            other => note(&format!("{}: {}", printable(other), plain(&data))),
        }
    }
}

/// Writes a program's output: unchanged into a file or a pipe, harmless to a terminal.
fn raw(out: &mut dyn Write, text: &str, terminal: bool) -> io::Result<()> {
    if !terminal {
        out.write_all(text.as_bytes())?;
        return out.flush();
    }
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let line = line.strip_suffix('\r').unwrap_or(line);
        write!(out, "{}{end}", printable(line))?;
    }
    out.flush()
}

/// A short, dimmed line on standard error.
pub(super) fn note(text: &str) -> io::Result<()> {
    let dim = Style::new().fg_color(Some(AnsiColor::BrightBlack.into()));
    writeln!(anstream::stderr().lock(), "{dim}{text}{dim:#}")
}
