//! Certificates in files, made into what rustls needs, with errors that say which file is wrong and
//! why. Both ends of a connection use it: the server, and workers written in Rust.

mod certificate;
mod files;
mod kept;
mod read;

pub use certificate::{Validity, dns_names, validity};
pub use files::{ClientFiles, Identity, ServerFiles};
#[doc(hidden)]
pub use kept::Built;
pub use kept::{Files, Kept, Renewal};
#[doc(hidden)]
pub use read::Content;
pub use read::{Fault, Part};
pub use tokio_rustls::rustls::pki_types::ServerName;
pub use tokio_rustls::rustls::{ClientConfig, ServerConfig};
