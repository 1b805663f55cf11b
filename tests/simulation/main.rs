//! The simulator of the core: one seed makes a fleet, a load and faults; the promises of the
//! documentation are checked after every step, and a failure says how to see it again.
//!
//! `ROLLCALL_SIM_SEED` runs that one seed, `ROLLCALL_SIM_SEEDS` so many, `ROLLCALL_SIM_STEPS` so many
//! steps of each. With `ROLLCALL_SIM_TRACE="word word"` a single seed prints what the core hears and
//! says where one of the words stands in it: a task's id, a worker's name, `LinkUp`.

mod callers;
#[cfg(test)]
mod days;
mod dice;
mod disk;
mod faults;
#[cfg(test)]
mod histories;
mod links;
mod observer;
mod plan;
#[cfg(debug_assertions)]
mod planted;
mod pools;
mod processes;
mod promises;
mod reconnects;
mod recorder;
mod reloads;
mod runs;
mod server;
mod workers;
mod world;
