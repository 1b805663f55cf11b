//! The wire messages of `rollcall.v1`, shared by the server and its workers. No I/O: a message goes
//! in and text comes out, or the other way round. `docs/protocol.md` is the same in prose.

mod chunk;
mod decode;
pub mod encode;
mod messages;

pub use chunk::{CHUNK_BYTES, chunk, read_chunk};
pub use decode::{DecodeError, FromServer, FromWorker};
pub use messages::*;

/// The WebSocket subprotocol that both sides name in the opening handshake.
pub const SUBPROTOCOL: &str = "rollcall.v1";

/// The path on a server at which a worker dials in.
pub const CONNECT_PATH: &str = "/v1/workers/connect";

/// The first frame (`register`) must arrive within this time after the opening handshake.
pub const FIRST_FRAME_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What a peer allows on top of `server.max_body` for one message, in bytes, so that a task of the
/// largest accepted size still fits with its envelope.
pub const ENVELOPE_BYTES: usize = 64 * 1024;

/// The longest `output` of a result, in bytes of JSON: what is longer becomes an artifact.
pub const INLINE_BYTES: usize = 256 * 1024;

/// The feature names this version knows; what both sides name in `register` and `registered` is on.
pub mod features {
    /// The worker answers `cancel` with exactly one `result`.
    pub const CANCEL: &str = "cancel";
    /// The worker keeps results until `result_ack` and reports its attempts in `register`.
    pub const RESUME: &str = "resume";
    /// The worker sends `output` and `progress` while a task runs.
    pub const OUTPUT: &str = "output";
    /// The worker sends files, and obeys `credit`.
    pub const ARTIFACTS: &str = "artifacts";
}
