//! The WorkerManager: owns the core on one task, feeds it events in batches, and hands each effect
//! to the one room that carries it out.

mod admission;
mod callers;
mod clock;
pub mod desired;
mod handle;
mod links;
mod listing;
mod narrate;
mod patience;
pub mod pools;
mod prober;
mod recorder;
mod recovering;
mod ring;
mod run;
mod submit;
#[cfg(test)]
mod tests;
mod views;

pub use clock::{Clock, wall_of};
pub use handle::{Applied, Ask, CallError, Lifecycle, Manager, Snapshot, Submitted};
pub use prober::Prober;
pub use ring::{EventRing, RingEvent, RingRead};
pub use run::{FleetLoop, Parts, start};
