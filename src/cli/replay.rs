//! `rollcall replay FILE`: runs a recording of the core's inputs (`rollcall serve --record FILE`)
//! again, which makes the same decisions, and shows them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use super::check::counted;
use super::failure::{Failure, Outcome};
use super::live::note;
use crate::fleet::replay::{Input, Line, replay};
use crate::supervise::printable;

/// Runs a recording of the core again, shows each decision, and checks the core's invariants.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// What `rollcall serve --record` has written.
    file: PathBuf,
    /// Say only how it ended.
    #[arg(short, long)]
    quiet: bool,
}

impl Replay {
    pub(super) fn run(&self) -> Outcome {
        let shown = self.file.display();
        let file =
            File::open(&self.file).map_err(|error| Failure::new(format!("cannot read {shown}: {error}")))?;
        let mut lines = BufReader::new(file).lines().map_while(Result::ok);
        let first = lines.next().and_then(|line| serde_json::from_str(&line).ok());
        let Some(Line::Start(start)) = first else {
            return Err(Failure::new(format!(
                "{shown} is no recording: its first line does not tell a beginning"
            )));
        };
        let (mut broken, mut written, mut told, mut decided) = (false, Ok(()), 0, 0);
        let inputs = lines.map_while(|line| match serde_json::from_str(&line) {
            Ok(Line::Input(input)) => Some::<Input>(input),
            // A server that was killed leaves its last line half written.
            Ok(Line::Start(_)) | Err(_) => {
                broken = true;
                None
            }
        });
        let mut out = anstream::stdout().lock();
        let mut violation = None;
        let fleet = replay(&start, inputs, |fleet, now, effects| {
            told += 1;
            decided += effects.len();
            if violation.is_none()
                && let Err(found) = fleet.check()
            {
                violation = Some((told, found));
            }
            for effect in effects.iter().filter(|_| !self.quiet) {
                if written.is_ok() {
                    let at = std::time::Duration::from_nanos(now.mono.0);
                    written = writeln!(out, "{told} {at:.6?} {}", printable(&format!("{effect:?}")));
                }
            }
        });
        written?;
        if broken {
            note(&format!("line {} is not whole: the recording ends before it", told + 2))?;
        }
        writeln!(out, "{}, {}", counted(told, "input"), counted(decided, "decision"))?;
        match violation.or_else(|| fleet.check().err().map(|found| (told, found))) {
            None => Ok(()),
            Some((at, found)) => {
                Err(Failure::new(format!("after input {at} an invariant does not hold: {found}")))
            }
        }
    }
}
