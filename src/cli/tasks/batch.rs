//! `rollcall tasks batch FILE|-`: many tasks, one JSON object a line. Whole lines are gathered into
//! batches, so that a file of any length takes little memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use hyper::Method;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::live::note;
use crate::cli::show::cell;
use crate::client::{Client, Request};
use crate::supervise::printable;

/// Tasks sent at once; the server takes no more.
const TASKS: usize = 1_000;
/// Bytes sent at once, if that is more than one task: any server takes as much.
const BYTES: usize = 1 << 20;
/// Bytes of a line at most; no server takes a larger task.
const MAX_LINE: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Batch {
    /// The file with one task a line, such as `{"capability":"python.execute","input":{…}}`; `-` for
    /// standard input. An `idempotency_key` in a line makes sending it twice harmless.
    #[arg(value_name = "FILE|-")]
    file: String,
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    refused: usize,
}

/// Lines that are sent together, each with its number.
#[derive(Default)]
struct Lines {
    tasks: Vec<Box<RawValue>>,
    numbers: Vec<usize>,
    bytes: usize,
}

impl Batch {
    pub(super) async fn run(&self, client: &Client) -> Outcome {
        let mut input: Box<dyn BufRead> = match self.file.as_str() {
            "-" => Box::new(io::stdin().lock()),
            file => Box::new(BufReader::new(File::open(file).map_err(|error| self.unreadable(&error))?)),
        };
        let (mut tally, mut lines, mut number) = (Tally::default(), Lines::default(), 0);
        while let Some(line) = self.line(&mut *input)? {
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            if lines.tasks.len() >= TASKS || (lines.bytes + line.len() > BYTES && lines.bytes > 0) {
                send(client, std::mem::take(&mut lines), &mut tally).await?;
            }
            match serde_json::from_str(&line) {
                Ok(task) => lines.add(task, number),
                Err(error) => tally.refuse(number, &format!("it is not JSON: {error}"))?,
            }
        }
        send(client, lines, &mut tally).await?;
        if tally.refused > 0 {
            let Tally { accepted, refused } = tally;
            return Err(Failure::new(format!("{refused} of {} tasks were refused", accepted + refused)));
        }
        Ok(())
    }

    /// The next line; `None` at the end.
    fn line(&self, input: &mut dyn BufRead) -> Result<Option<String>, Failure> {
        let mut line = String::new();
        let read = input.take(MAX_LINE).read_line(&mut line).map_err(|error| self.unreadable(&error))?;
        if read as u64 >= MAX_LINE {
            return Err(Failure::new(format!("{} has a line of over {MAX_LINE} bytes", self.file)));
        }
        Ok((read > 0).then_some(line))
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::new(format!("cannot read {}: {error}", self.file))
    }
}

impl Lines {
    fn add(&mut self, task: Box<RawValue>, number: usize) {
        self.bytes += task.get().len();
        self.tasks.push(task);
        self.numbers.push(number);
    }
}

impl Tally {
    fn refuse(&mut self, line: usize, why: &str) -> io::Result<()> {
        self.refused += 1;
        note(&format!("line {line}: {}", printable(why)))
    }
}

/// Sends what has gathered: the ids of the accepted go to standard output, in the lines' order.
async fn send(client: &Client, lines: Lines, tally: &mut Tally) -> Outcome {
    let Lines { tasks, numbers, .. } = lines;
    if tasks.is_empty() {
        return Ok(());
    }
    let request =
        Request::new(Method::POST, "/v1/tasks/batch").json(&serde_json::json!({ "tasks": tasks }))?;
    let sent = client.send(request).await.and_then(|answer| answer.json::<Value>());
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => {
            let (first, last) = (numbers.first().unwrap_or(&0), numbers.last().unwrap_or(&0));
            note(&format!("lines {first} to {last} were not taken, or it is not known; those before were"))?;
            return Err(error.into());
        }
    };
    let mut out = anstream::stdout().lock();
    for (item, number) in answer["items"].as_array().into_iter().flatten().zip(numbers) {
        match item["task"]["id"].as_str() {
            Some(id) => {
                tally.accepted += 1;
                writeln!(out, "{}", printable(id))?;
            }
            None => {
                let why = format!("{} ({})", cell(item, "problem.detail"), cell(item, "problem.code"));
                tally.refuse(number, &why)?;
            }
        }
    }
    Ok(out.flush()?)
}
