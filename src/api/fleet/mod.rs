//! The routes about the fleet and the server itself.

pub(super) mod connect;
mod decision_form;
pub(super) mod discovery;
mod entry;
mod event_form;
pub(super) mod events;
pub(super) mod forecast;
pub(super) mod health;
pub(super) mod metrics;
pub(super) mod pools;
pub(super) mod runbooks;
pub(super) mod sessions;
pub(super) mod status;
pub(super) mod topology;
mod worker_form;
pub(crate) mod worker_list;
pub(super) mod workers;
