//! An authority of a story's own, and the certificates that it issues, in files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority whose certificates are in a folder: `ca.pem`, and two files for each name.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one in this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::create_dir_all(folder).expect("a folder can be made");
        std::fs::write(folder.join("ca.pem"), certificate.pem()).expect("a file can be written");
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// What is to be believed.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for these names or addresses, in `<file>.pem` and `<file>.key`; a new one if there
    /// was one.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_until(file, names, 2_099)
    }

    /// The same, ending with the beginning of a year.
    pub(crate) fn issue_until(&self, file: &str, names: &[&str], year: i32) -> Pair {
        let since = date_time_ymd(year, 1, 1) - date_time_ymd(1_970, 1, 1);
        self.issue_to(file, names, since.try_into().expect("after 1970"))
    }

    /// The same, ending so long after the beginning of 1970.
    pub(crate) fn issue_to(&self, file: &str, names: &[&str], end: Duration) -> Pair {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params.not_before = date_time_ymd(2_020, 1, 1);
        params.not_after = date_time_ymd(1_970, 1, 1) + end;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        put(&pair.key, &key.serialize_pem(), 0o600);
        put(&pair.cert, &certificate.pem(), 0o644);
        pair
    }
}

/// The files of a certificate and of its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Puts a file in the place of another one in one step, as programs that renew certificates do.
pub(crate) fn put(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file can be written");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
    std::fs::rename(&new, path).expect("a file can be renamed");
}
