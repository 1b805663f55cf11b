//! A worker written from docs/protocol.md alone registers and runs tasks.
