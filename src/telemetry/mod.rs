//! Metrics and logs: one catalogue, and the one place where what the core notes is counted.

/// Every metric of the server.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Counts what the core noted.
    pub fn note(&self, _note: &crate::fleet::Note) {}
}
