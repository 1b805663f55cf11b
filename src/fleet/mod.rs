//! The core: one state machine that makes every decision and does nothing itself. It is told what
//! happened and when, and answers with effects for the shell to carry out. No I/O, no clock, no
//! thread, no randomness but from its seed, no iteration in random order: so the same inputs
//! always make the same outputs, and whole fleets can be simulated.
#![deny(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::iter_over_hash_type,
    clippy::wildcard_enum_match_arm
)]

mod ids;
mod task;
mod time;
mod topology;
mod view;
mod words;

pub use ids::*;
pub use task::*;
pub use time::*;
pub use topology::*;
pub use view::*;
pub use words::*;
