//! Every input of the core, as JSON lines: the last ones are kept for a panic, and with a file given
//! all of them, so that `rollcall replay FILE` can run them again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::fleet::replay::{Input, Line, Recovered, Start};
use crate::fleet::{Event, Now, Record, StoreId, Term};

/// See the module.
pub(super) struct Recorder {
    file: Option<BufWriter<File>>,
}

impl Recorder {
    /// Opens the file, if one is given, and writes what the core begins from.
    pub(super) fn open(
        path: Option<&Path>,
        term: Term,
        seed: u64,
        store: &StoreId,
        now: Now,
        records: &[Record],
    ) -> std::io::Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        let mut file = BufWriter::new(File::create(path)?);
        let recovered = Some(Recovered { now, records: records.to_vec() });
        let start = Line::Start(Box::new(Start { term, seed, store: store.clone(), recovered }));
        serde_json::to_writer(&mut file, &start)?;
        file.write_all(b"\n")?;
        tracing::warn!(path = %path.display(), "every input of the core is recorded; tasks' inputs are in it");
        Ok(Self { file: Some(file) })
    }

    pub(super) fn input(&mut self, now: Now, event: &Event) {
        let Some(file) = &mut self.file else { return };
        let line = Line::Input(Input { now, event: event.clone() });
        let written = serde_json::to_writer(&mut *file, &line).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|()| file.write_all(b"\n")) {
            tracing::error!(%error, "cannot record the core's inputs any longer");
            self.file = None;
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.flush()
        {
            tracing::error!(%error, "cannot record the core's inputs any longer");
            self.file = None;
        }
    }
}
