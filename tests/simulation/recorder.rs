//! Keeps what the core was told since its process began, so that a failed run leaves a file from
//! which the core's part of it can be replayed without the simulator.

use std::io::Write;
use std::path::{Path, PathBuf};

use rollcall::fleet::replay::{Input, Line, Start};
use rollcall::fleet::{Event, Now};

/// The recording of one life of the server.
#[derive(Default)]
pub(crate) struct Recorder {
    start: Option<Box<Start>>,
    inputs: Vec<Input>,
}

impl Recorder {
    /// A core begins; what its predecessor heard is forgotten, for its records stand in `start`.
    pub(crate) fn begins(&mut self, start: Start) {
        self.start = Some(Box::new(start));
        self.inputs.clear();
    }

    /// The core is about to be told something.
    pub(crate) fn told(&mut self, now: Now, event: &Event) {
        self.inputs.push(Input { now, event: event.clone() });
    }

    /// How the core began, and what it was told since.
    pub(crate) fn recording(&self) -> Option<(&Start, &[Input])> {
        Some((self.start.as_deref()?, &self.inputs))
    }

    /// Writes the recording as JSON, one line each.
    pub(crate) fn write(&self, seed: u64) -> std::io::Result<Option<PathBuf>> {
        let Some(start) = &self.start else { return Ok(None) };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("simulation-{seed}.jsonl"));
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        serde_json::to_writer(&mut file, &Line::Start(start.clone()))?;
        writeln!(file)?;
        for input in &self.inputs {
            serde_json::to_writer(&mut file, &Line::Input(input.clone()))?;
            writeln!(file)?;
        }
        file.flush()?;
        Ok(Some(path))
    }
}
