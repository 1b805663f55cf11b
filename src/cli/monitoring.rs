//! `rollcall monitoring export`: the files that watch a server, written from this program.

use std::io::Write;
use std::path::PathBuf;

use super::failure::{Failure, Outcome};
use crate::telemetry::bundle::{self, Places};

/// What watches a server: scrape configuration, rules, alerts, runbooks and boards.
#[derive(Debug, clap::Args)]
pub(super) struct Monitoring {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Export(Export),
}

/// Writes the files for Prometheus, Alertmanager and Grafana that fit this version.
///
/// `monitoring/` has the configurations, rules with their tests, and runbooks; `grafana/` has the
/// provisioning and the boards. Files that are there are replaced, others are left alone.
#[derive(Debug, clap::Args)]
struct Export {
    /// Where to; made if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where Prometheus, and readers of runbooks, reach the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7600")]
    server_url: String,
    /// Where readers of alerts reach Grafana.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    grafana_url: String,
}

impl Monitoring {
    pub(super) fn run(&self) -> Outcome {
        match &self.verb {
            Verb::Export(export) => export.run(),
        }
    }
}

impl Export {
    fn run(&self) -> Outcome {
        let places = Places::new(&self.server_url, &self.grafana_url).map_err(Failure::usage)?;
        let mut written = 0;
        for (path, text) in bundle::files(&places) {
            let file = self.dir.join(path);
            let folder = file.parent().unwrap_or(&self.dir);
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(&file, text))
                .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
            written += 1;
        }
        let mut out = anstream::stdout().lock();
        writeln!(out, "{written} files under {}", self.dir.display())?;
        Ok(())
    }
}
