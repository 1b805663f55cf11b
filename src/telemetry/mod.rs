//! Metrics, logs and traces: one catalogue, and the one place where what happens is counted.

mod access;
mod build;
pub mod bundle;
pub mod catalogue;
mod http;
mod labels;
pub mod logs;
mod metrics;
mod names;
mod notes;
mod page;
mod panics;
mod pools;
mod probe;
mod process;
mod reference;
mod render;
mod store;
#[cfg(test)]
mod tests;
mod traces;
mod traffic;

pub use access::Auth;
pub use http::{Eviction, InFlight, Rejected, RouteSeries, SseStream};
pub use metrics::{Loop, Metrics};
pub use panics::count_panics;
pub use probe::run as probe_runtime;
pub use reference::reference_page;
pub use render::{ConfigFacts, Scrape};
pub use store::{StoreCall, StoreStep};
pub use traces::{Exporter, Traces};

/// The media type of both pages.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
