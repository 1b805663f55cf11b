//! The providers of the simulated pools.

use rollcall::fleet::*;

use super::world::World;

impl World {
    /// A pool's provider is asked.
    pub(crate) fn provision(&mut self, _pool: &PoolSpec, _wanted: &Wanted) {}
}
