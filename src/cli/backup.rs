//! `rollcall backup FILE`: a copy of the store, also of one that a server is using.

use std::io::Write;
use std::path::PathBuf;

use super::failure::{Failure, Outcome};
use super::store_place::StorePlace;
use crate::store::sqlite;

/// Copies the store to a file, while the server runs or not.
///
/// The copy is one moment of the store, checked, and readable by its owner alone; nothing is ever
/// replaced. To go back to it: stop the server, move `rollcall.db*` out of its data_dir, put the copy
/// there under the name rollcall.db, and start the server.
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// The copy.
    file: PathBuf,
    #[command(flatten)]
    store: StorePlace,
}

impl Backup {
    pub(super) fn run(&self) -> Outcome {
        let copied = sqlite::backup(&self.store.folder()?, &self.file).map_err(Failure::new)?;
        let mut out = anstream::stdout().lock();
        writeln!(out, "{}: {} tasks, {} bytes", self.file.display(), copied.tasks, copied.bytes)?;
        Ok(())
    }
}
