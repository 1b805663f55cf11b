//! `rollcall repair`: looks at every record of a store that no server uses, and makes a whole one of
//! what can be saved.

use std::io::Write;
use std::path::PathBuf;

use super::failure::{Failure, Outcome};
use super::store_place::StorePlace;
use crate::store::sqlite::{self, RepairError, Report};
use crate::supervise::printable;

/// Looks at every record of a stopped server's store: says what is damaged and what was set aside.
///
/// Without a flag nothing is changed, and the exit code is 4 unless all is whole.
#[derive(Debug, clap::Args)]
pub(super) struct Repair {
    #[command(flatten)]
    store: StorePlace,
    /// Write what is whole to a new file; the store stays as it is.
    #[arg(long, value_name = "FILE")]
    salvage: Option<PathBuf>,
    /// Let go of what is damaged or set aside; the old file is kept under another name.
    #[arg(long, conflicts_with = "salvage")]
    drop: bool,
}

impl Repair {
    pub(super) fn run(&self) -> Outcome {
        let folder = self.store.folder()?;
        let failed = |error: RepairError| Failure::Store(error.to_string());
        if let Some(file) = &self.salvage {
            let report = sqlite::salvage(&folder, file).map_err(failed)?;
            show(&report)?;
            writeln!(anstream::stdout(), "{} has what is whole", file.display())?;
            return Ok(());
        }
        if self.drop {
            let (report, kept) = sqlite::drop_damaged(&folder).map_err(failed)?;
            show(&report)?;
            writeln!(anstream::stdout(), "the store has what is whole; the old one is {}", kept.display())?;
            return Ok(());
        }
        let report = sqlite::inspect(&folder).map_err(failed)?;
        show(&report)?;
        if report.is_whole() {
            return Ok(());
        }
        Err(Failure::Store(
            "`rollcall repair --salvage FILE` writes what is whole to a new file, `--drop` goes on with it"
                .to_owned(),
        ))
    }
}

fn show(report: &Report) -> Outcome {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{} tasks are as they were written", report.tasks)?;
    for damage in &report.damages {
        writeln!(out, "damaged: {}", printable(damage))?;
    }
    let told = report.damages.len() as u64;
    if report.damaged > told {
        writeln!(out, "damaged: {} more", report.damaged - told)?;
    }
    for aside in &report.aside {
        writeln!(out, "set aside: {}", printable(aside))?;
    }
    Ok(())
}
