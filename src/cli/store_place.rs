//! Where the store is that a verb works on: where the configuration says, or a folder.

use std::path::PathBuf;

use super::check::print_problems;
use super::failure::Failure;
use crate::config::{Env, Source};

/// Which store.
#[derive(Debug, clap::Args)]
pub(super) struct StorePlace {
    /// The configuration whose `server.data_dir` it is in.
    #[arg(short, long, value_name = "FILE", default_value = "config.yaml")]
    config: PathBuf,
    /// The folder itself; no configuration is read.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl StorePlace {
    pub(super) fn folder(&self) -> Result<PathBuf, Failure> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        let loaded = Source::new(&self.config, Env::of_process()).load();
        let config = loaded.map_err(|failed| match print_problems("error", &failed.problems) {
            Ok(()) => Failure::new(
                "the store cannot be found without its configuration; name its folder with --data-dir",
            ),
            Err(failure) => failure,
        })?;
        Ok(config.config.server.data_dir)
    }
}
