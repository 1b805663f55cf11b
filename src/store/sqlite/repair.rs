//! The way out of a damaged store.
