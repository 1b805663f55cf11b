//! The operations server for fleets of agent tool workers; see ARCHITECTURE.md for the map.

pub mod agent;
pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod data;
pub mod fleet;
pub mod interface;
pub mod manager;
pub mod provider;
pub mod schemas;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod trust;
