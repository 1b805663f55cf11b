//! Who may speak to whom, and under which lock: the tokens of workers, their certificates, and the
//! thread that shakes hands. It decides nothing about the fleet, and the core never sees a secret.

mod credentials;
mod hands;
mod pass;
mod socket;
mod token;

use std::sync::Arc;

use arc_swap::ArcSwap;
pub use rollcall_tls::{ClientFiles, Fault, Identity, Part, ServerFiles};

pub use credentials::{Credential, Credentials, pool_of};
pub use hands::{Certificate, Door, NoTls, Tls, TlsMeter};
pub use pass::Pass;
pub use socket::TlsSocket;
pub use token::{Digest, Token};

/// What the rest of the server needs of all this. Clone it freely.
#[derive(Clone, Default)]
pub struct Trust {
    credentials: Arc<ArcSwap<Credentials>>,
    /// The thread that shakes hands.
    pub tls: Tls,
}

impl Trust {
    /// Counts what certificates do in `meter`.
    pub fn new(meter: Arc<dyn TlsMeter>) -> Self {
        Self { credentials: Arc::default(), tls: Tls::new(meter) }
    }

    /// What workers show, and are shown, at the moment.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.load_full()
    }

    /// Puts others in force; what is connected stays connected.
    pub fn believe(&self, credentials: Arc<Credentials>) {
        self.credentials.store(credentials);
    }
}
