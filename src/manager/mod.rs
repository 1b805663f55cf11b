//! The WorkerManager: owns the core on one task, feeds it events in batches, and hands each effect
//! to the one room that carries it out.

mod admission;
mod clock;
pub mod desired;
mod handle;
mod ring;

pub use clock::{Clock, wall_of};
pub use handle::{Applied, Ask, CallError, Lifecycle, Manager, Snapshot, Submitted};
pub use ring::{EventRing, RingEvent, RingRead};
