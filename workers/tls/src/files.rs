//! The files of a server and of a client, and what rustls needs of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};

use crate::certificate::validity;
use crate::kept::{Built, Expiry, Files};
use crate::read::{Content, Fault, Part};

/// What a listener shows, and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerFiles {
    /// Its certificate and key.
    pub identity: Identity,
    /// The authorities of its clients' certificates; absent: clients show none.
    pub client_ca: Option<PathBuf>,
}

/// Whom a client believes, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientFiles {
    /// The authorities that are believed; absent: those of the operating system.
    pub ca: Option<PathBuf>,
    /// What is shown to a server that asks for it.
    pub identity: Option<Identity>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// PEM: the certificate first, then those between it and its authority.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

impl Files for ServerFiles {
    type Config = ServerConfig;

    fn paths(&self) -> Vec<&Path> {
        let identity = [self.identity.cert.as_path(), self.identity.key.as_path()];
        identity.into_iter().chain(self.client_ca.as_deref()).collect()
    }

    fn build(&self, contents: &[Content]) -> Result<Built<ServerConfig>, Vec<Fault>> {
        let (mut faults, mut expiries) = (Vec::new(), Vec::new());
        let key = identity(contents, &self.identity, &mut expiries, &mut faults);
        let roots = contents
            .get(2)
            .and_then(|content| authorities(content, Part::ClientCa, &mut expiries, &mut faults));
        let Some(key) = key.filter(|_| faults.is_empty()) else { return Err(faults) };
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| vec![unusable(Part::Cert, &error)])?;
        let builder = match roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                let verifier = verifier.map_err(|error| {
                    vec![Fault { part: Part::ClientCa, message: format!("cannot be used: {error}") }]
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        // Workers stay connected: a session to resume would only be remembered for nothing.
        config.send_tls13_tickets = 0;
        Ok(Built { config: Arc::new(config), expiries })
    }
}

impl Files for ClientFiles {
    type Config = ClientConfig;

    fn paths(&self) -> Vec<&Path> {
        let identity =
            self.identity.iter().flat_map(|identity| [identity.cert.as_path(), identity.key.as_path()]);
        self.ca.as_deref().into_iter().chain(identity).collect()
    }

    fn build(&self, contents: &[Content]) -> Result<Built<ClientConfig>, Vec<Fault>> {
        let (mut faults, mut expiries) = (Vec::new(), Vec::new());
        let (ca, rest) = contents.split_at(usize::from(self.ca.is_some()).min(contents.len()));
        let roots = match ca {
            [content, ..] => authorities(content, Part::Ca, &mut expiries, &mut faults),
            [] => system_roots(&mut faults),
        };
        let key = match &self.identity {
            None => None,
            Some(files) => identity(rest, files, &mut expiries, &mut faults),
        };
        let Some(roots) = roots.filter(|_| faults.is_empty()) else { return Err(faults) };
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder =
            builder.map_err(|error| vec![unusable(Part::Ca, &error)])?.with_root_certificates(roots);
        let config = match key {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        };
        Ok(Built { config: Arc::new(config), expiries })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unusable(part: Part, error: &Error) -> Fault {
    Fault { part, message: format!("cannot be used: {error}") }
}

/// The certificate and key, which are the first two contents.
fn identity(
    contents: &[Content],
    files: &Identity,
    expiries: &mut Vec<Expiry>,
    faults: &mut Vec<Fault>,
) -> Option<CertifiedKey> {
    let [cert, key, ..] = contents else { return None };
    let chain = cert.certificates(Part::Cert).and_then(|chain| in_time(chain, Part::Cert, expiries));
    let chain = chain.map_err(|fault| faults.push(fault)).ok();
    let key = key.key().map_err(|fault| faults.push(fault)).ok();
    match CertifiedKey::from_der(chain?, key?, &provider()) {
        Ok(key) => Some(key),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let message = format!("is not the key of the certificate in {}", files.cert.display());
            faults.push(Fault { part: Part::Key, message });
            None
        }
        Err(error) => {
            faults.push(unusable(Part::Key, &error));
            None
        }
    }
}

fn authorities(
    content: &Content,
    part: Part,
    expiries: &mut Vec<Expiry>,
    faults: &mut Vec<Fault>,
) -> Option<RootCertStore> {
    let read = content.roots(part).and_then(|(roots, all)| in_time(all, part, expiries).map(|_| roots));
    read.map_err(|fault| faults.push(fault)).ok()
}

/// Certificates that hold now; the earliest end is noted.
fn in_time(
    chain: Vec<CertificateDer<'static>>,
    part: Part,
    expiries: &mut Vec<Expiry>,
) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let shown = |seconds: i64| {
        jiff::Timestamp::from_second(seconds).map_or_else(|_| "ever".to_owned(), |time| time.to_string())
    };
    let dates = || chain.iter().filter_map(validity);
    let ends = dates().map(|dates| dates.not_after).min().unwrap_or(i64::MAX);
    let begins = dates().map(|dates| dates.not_before).max().unwrap_or(i64::MIN);
    if ends <= now {
        return Err(Fault {
            part,
            message: format!("expired on {}; put a new certificate there", shown(ends)),
        });
    }
    if begins > now {
        let message = format!("holds only from {} on; is this machine's clock right?", shown(begins));
        return Err(Fault { part, message });
    }
    expiries.push(Expiry { part, at: ends });
    Ok(chain)
}

/// What the operating system believes.
fn system_roots(faults: &mut Vec<Fault>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let message = "is missing, and this machine has no authorities of its own (Debian: the package ca-certificates)";
        faults.push(Fault { part: Part::Ca, message: message.to_owned() });
        return None;
    }
    Some(roots)
}
