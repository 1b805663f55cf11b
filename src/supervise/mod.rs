//! Child processes: starts, watches, restarts and stops the programs of `launch` blocks.
