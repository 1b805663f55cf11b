//! Files with certificates and keys: read once, bounded, and judged with words that help.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::validity;

/// The largest file that is read; a store of all public authorities has about 250 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Whether everybody may read or write a file.
const FOR_EVERYBODY: u32 = 0o006;

/// The field that names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A certificate, with those between it and its authority.
    Cert,
    /// Its private key.
    Key,
    /// The authorities of those who call.
    ClientCa,
    /// The authorities of those who are called.
    Ca,
}

impl Part {
    /// The field's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Key => "key",
            Self::ClientCa => "client_ca",
            Self::Ca => "ca",
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub part: Part,
    /// A sentence without a subject, such as `cannot be read: …`.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.part.as_str(), self.message)
    }
}

impl std::error::Error for Fault {}

/// A file as it was at one moment.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    bytes: Result<Vec<u8>, String>,
    mode: u32,
}

impl Content {
    pub(crate) fn of(path: &Path) -> Self {
        let read = || {
            let file = File::open(path)?;
            let mode = file.metadata()?.mode();
            let mut bytes = Vec::new();
            file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>((bytes, mode))
        };
        match read() {
            Ok((bytes, mode)) if bytes.len() as u64 <= MAX_FILE => Self { bytes: Ok(bytes), mode },
            Ok((_, mode)) => Self { bytes: Err(format!("is larger than {MAX_FILE} bytes")), mode },
            Err(error) => Self { bytes: Err(format!("cannot be read: {error}")), mode: 0 },
        }
    }

    /// All certificates in it, at least one.
    pub(crate) fn certificates(&self, part: Part) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let fault = |message: String| Fault { part, message };
        let bytes = self.bytes.as_ref().map_err(|why| fault(why.clone()))?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        let all = all.map_err(|error| fault(format!("is not PEM: {error}")))?;
        match all.as_slice() {
            [] => Err(fault("has no certificate (no `-----BEGIN CERTIFICATE-----`)".to_owned())),
            all if all.iter().any(|one| validity(one).is_none()) => {
                Err(fault("has something that is no certificate".to_owned()))
            }
            _ => Ok(all),
        }
    }

    /// The private key in it, which nobody else may read.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, Fault> {
        let fault = |message: String| Fault { part: Part::Key, message };
        let bytes = self.bytes.as_ref().map_err(|why| fault(why.clone()))?;
        if self.mode & FOR_EVERYBODY != 0 {
            let mode = self.mode & 0o777;
            return Err(fault(format!(
                "can be read by everybody on this machine (mode {mode:o}); `chmod 600` it, and take a new key if others were here"
            )));
        }
        PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
            fault(
                "has no private key that can be used (PEM, not encrypted: PKCS#8, SEC1 or PKCS#1)".to_owned(),
            )
        })
    }

    /// The authorities in it.
    pub(crate) fn roots(&self, part: Part) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Fault> {
        let certificates = self.certificates(part)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| Fault {
                part,
                message: format!("has a certificate that cannot be an authority: {error}"),
            })?;
        }
        Ok((roots, certificates))
    }
}
