//! The ground under the routes: connections and their limits, bodies, problems, JSON text, streams
//! of events. Nothing in here knows what a task is.

pub(super) mod body;
pub(super) mod guard;
pub(super) mod json;
pub(super) mod problem;
pub(super) mod pulse;
pub(super) mod query;
pub(super) mod server;
pub(super) mod sse;
pub(super) mod strikes;
pub(super) mod workers_door;
