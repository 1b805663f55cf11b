//! How connections begin and end, in the words that metrics and logs use.

use serde::{Deserialize, Serialize};

/// Why a connection ended, or was never made. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Why {
    /// Nothing was heard for `heartbeat.timeout`.
    HeartbeatTimeout,
    /// The worker closed it.
    PeerClosed,
    /// The socket broke.
    Io,
    /// The worker broke the protocol.
    Protocol,
    /// The worker did not read.
    SlowConsumer,
    /// Another connection of the same worker took its place.
    Superseded,
    /// A cancelled attempt did not stop in time.
    CancelTimeout,
    /// The worker left the topology.
    RemovedFromConfig,
    /// Its endpoint changed.
    Moved,
    /// The autoscaler let it go.
    ScaledIn,
    /// A person drained it, or it said goodbye.
    Drained,
    /// This server stops.
    ServerShutdown,
}

impl Why {
    /// Every reason, in label order.
    pub const ALL: [Self; 12] = [
        Self::HeartbeatTimeout,
        Self::PeerClosed,
        Self::Io,
        Self::Protocol,
        Self::SlowConsumer,
        Self::Superseded,
        Self::CancelTimeout,
        Self::RemovedFromConfig,
        Self::Moved,
        Self::ScaledIn,
        Self::Drained,
        Self::ServerShutdown,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::PeerClosed => "peer_closed",
            Self::Io => "io",
            Self::Protocol => "protocol",
            Self::SlowConsumer => "slow_consumer",
            Self::Superseded => "superseded",
            Self::CancelTimeout => "cancel_timeout",
            Self::RemovedFromConfig => "removed_from_config",
            Self::Moved => "moved",
            Self::ScaledIn => "scaled_in",
            Self::Drained => "drained",
            Self::ServerShutdown => "server_shutdown",
        }
    }

    /// Whether somebody wanted it so.
    pub fn is_planned(self) -> bool {
        match self {
            Self::RemovedFromConfig | Self::Moved | Self::ScaledIn | Self::Drained | Self::ServerShutdown => {
                true
            }
            Self::HeartbeatTimeout
            | Self::PeerClosed
            | Self::Io
            | Self::Protocol
            | Self::SlowConsumer
            | Self::Superseded
            | Self::CancelTimeout => false,
        }
    }
}

/// How a try to connect ended. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConnectOutcome {
    /// Registered.
    Ok,
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// The name has no address.
    Dns,
    /// TLS failed.
    Tls,
    /// The worker, or the server, refused the token.
    Auth,
    /// The WebSocket handshake or the registration failed.
    Handshake,
    /// The peer speaks another protocol version.
    Version,
    /// A worker of that name is connected.
    Duplicate,
}

impl ConnectOutcome {
    /// Every outcome, in label order.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Refused,
        Self::Timeout,
        Self::Dns,
        Self::Tls,
        Self::Auth,
        Self::Handshake,
        Self::Version,
        Self::Duplicate,
    ];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Handshake => "handshake",
            Self::Version => "version",
            Self::Duplicate => "duplicate",
        }
    }
}
