//! Programs that the server starts, watches and stops.
