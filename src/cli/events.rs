//! `rollcall events`: what happens in the fleet, one line each.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::failure::Outcome;
use super::server::Server;
use super::show::plain;
use crate::supervise::printable;

/// How long the stream may be silent before all that is there has been read.
const SILENCE: Duration = Duration::from_millis(500);

/// Shows what has happened in the fleet lately, one line each.
#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// Go on with what happens from now.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    server: Server,
}

impl Events {
    pub(super) async fn run(&self) -> Outcome {
        let client = self.server.client()?;
        let mut events = client.events("/v1/events", None).await?;
        loop {
            let next = if self.follow {
                events.next().await?
            } else {
                match timeout(SILENCE, events.next()).await {
                    Ok(next) => next?,
                    Err(_) => return Ok(()),
                }
            };
            let Some(event) = next else { return Ok(()) };
            let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
            let mut out = anstream::stdout().lock();
            writeln!(out, "{} {}", printable(&event.event), line(&data))?;
            out.flush()?;
        }
    }
}

/// An object's fields as `name=value`.
fn line(data: &Value) -> String {
    let Some(fields) = data.as_object() else { return plain(data).into_owned() };
    let pairs: Vec<_> = fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{}={}", printable(name), plain(value)))
        .collect();
    pairs.join(" ")
}
