//! The log: lines for people or JSON for machines, on standard error, each counted by its level.

use std::io::IsTerminal;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use super::metrics::{CountLines, Metrics};
use crate::config::{LogFormat, LogLevel, TelemetryConfig};

/// Changes the level of a log that was set up.
pub struct LevelSwitch(reload::Handle<LevelFilter, Registry>);

impl LevelSwitch {
    /// From now on lines below this level are left out.
    pub fn set(&self, level: LogLevel) {
        // It fails only when the log itself is gone.
        drop(self.0.reload(filter(level)));
    }
}

/// Sets up this process's log, once. Lines below the level are neither written nor counted. Colours
/// are for a terminal, unless `NO_COLOR` is set.
///
/// # Errors
/// Something else has set up the log of this process before.
pub fn init(config: &TelemetryConfig, metrics: Arc<Metrics>) -> Result<LevelSwitch, TryInitError> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !plain && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let lines = match config.log {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (level, switch) = reload::Layer::new(filter(config.level));
    let lines = lines.and_then(CountLines(metrics)).with_filter(level);
    tracing_subscriber::registry().with(lines).try_init()?;
    Ok(LevelSwitch(switch))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_counts_once_under_its_level() {
        let metrics = Arc::new(Metrics::default());
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
        let log = tracing_subscriber::registry()
            .with(lines.and_then(CountLines(metrics.clone())).with_filter(filter(LogLevel::Info)));
        tracing::subscriber::with_default(log, || {
            tracing::warn!("one");
            tracing::error!("two");
            tracing::error!("three");
            tracing::debug!("below the level");
        });
        let page = super::super::tests::page(&metrics);
        for line in ["{level=\"error\"} 2", "{level=\"warn\"} 1", "{level=\"info\"} 0", "{level=\"debug\"} 0"]
        {
            assert!(page.contains(&format!("rollcall_log_events_total{line}\n")), "{line}");
        }
    }
}
