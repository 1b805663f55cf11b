//! A configuration that follows its files: read again when they change, and the old one kept as long
//! as the new files make no sense. What is connected stays connected; who comes next meets the new one.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::read::{Content, Fault, Part};

/// Files that make a configuration.
pub trait Files {
    /// What they make.
    type Config;

    /// The files, in the order in which [`Files::build`] wants them.
    fn paths(&self) -> Vec<&Path>;

    /// Makes it.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    #[doc(hidden)]
    fn build(&self, contents: &[Content]) -> Result<Built<Self::Config>, Vec<Fault>>;

    /// Reads the files and makes it. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    fn load(&self) -> Result<Arc<Self::Config>, Vec<Fault>> {
        self.build(&self.read()).map(|built| built.config)
    }

    #[doc(hidden)]
    fn read(&self) -> Vec<Content> {
        self.paths().into_iter().map(Content::of).collect()
    }
}

/// A configuration, and when its certificates end.
#[doc(hidden)]
pub struct Built<C> {
    pub(crate) config: Arc<C>,
    pub(crate) expiries: Vec<Expiry>,
}

/// When the first certificate of a file ends, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) part: Part,
    pub(crate) at: i64,
}

/// What a look at the files came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// They are as they were.
    Unchanged,
    /// There is a new configuration.
    Applied,
    /// They have changed and make no sense; told once. The old configuration stays.
    Invalid(Vec<Fault>),
}

/// A configuration that follows its files.
pub struct Kept<F: Files> {
    files: F,
    state: Mutex<State<F::Config>>,
}

struct State<C> {
    seen: Vec<Content>,
    built: Built<C>,
}

impl<F: Files> Kept<F> {
    /// Reads the files. Blocks for as long as that takes.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(files: F) -> Result<Self, Vec<Fault>> {
        let seen = files.read();
        let built = files.build(&seen)?;
        Ok(Self { files, state: Mutex::new(State { seen, built }) })
    }

    /// The files.
    pub fn files(&self) -> &F {
        &self.files
    }

    /// What holds now.
    pub fn config(&self) -> Arc<F::Config> {
        Arc::clone(&self.state().built.config)
    }

    /// When the first certificate of a file ends, in seconds since 1970.
    pub fn expiry(&self, part: Part) -> Option<i64> {
        self.state().built.expiries.iter().find(|expiry| expiry.part == part).map(|expiry| expiry.at)
    }

    /// Looks whether the files have changed. Blocks for as long as reading takes.
    pub fn renew(&self) -> Renewal {
        let now = self.files.read();
        if self.state().seen == now {
            return Renewal::Unchanged;
        }
        let built = self.files.build(&now);
        let mut state = self.state();
        state.seen = now;
        match built {
            Ok(built) => {
                state.built = built;
                Renewal::Applied
            }
            Err(faults) => Renewal::Invalid(faults),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<F::Config>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;
    use crate::files::{ClientFiles, Identity, ServerFiles};

    struct Place(TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            let path = self.path(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        }

        /// Puts a certificate of its own making, and its key.
        fn put(&self, end: i32) {
            let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
            params.not_after = date_time_ymd(end, 1, 1);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            self.write("cert.pem", &certificate.pem(), 0o644);
            self.write("key.pem", &key.serialize_pem(), 0o600);
        }

        fn files(&self) -> ServerFiles {
            let identity = Identity { cert: self.path("cert.pem"), key: self.path("key.pem") };
            ServerFiles { identity, client_ca: None }
        }

        fn faults(&self) -> Vec<String> {
            let faults = self.files().load().err().unwrap_or_default();
            faults.iter().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn what_is_wrong_is_said_of_each_file() {
        let place = Place::new();
        let faults = place.faults();
        assert!(faults[0].starts_with("cert cannot be read: No such file"), "{faults:?}");
        assert!(faults[1].starts_with("key cannot be read: No such file"), "{faults:?}");
        place.put(2050);
        assert_eq!(place.faults(), [""; 0]);
        let key = fs::read_to_string(place.path("key.pem")).expect("as written");
        place.write("key.pem", &key, 0o644);
        assert!(place.faults()[0].starts_with("key can be read by everybody on this machine (mode 644)"));
        place.write("key.pem", "nothing", 0o600);
        assert!(place.faults()[0].starts_with("key has no private key"), "{:?}", place.faults());
        let other = KeyPair::generate().expect("a key").serialize_pem();
        place.write("key.pem", &other, 0o600);
        assert!(place.faults()[0].starts_with("key is not the key of the certificate in "));
        place.put(2021);
        assert!(
            place.faults()[0].starts_with("cert expired on 2021-01-01T00:00:00Z"),
            "{:?}",
            place.faults()
        );
        place.write("cert.pem", "", 0o644);
        assert!(place.faults()[0].starts_with("cert has no certificate"));
    }

    #[test]
    fn half_written_files_change_nothing_until_they_are_whole() {
        let place = Place::new();
        place.put(2050);
        let Ok(kept) = Kept::load(place.files()) else { panic!("the files are good") };
        let first = kept.config();
        assert_eq!(kept.renew(), Renewal::Unchanged);
        let whole = fs::read_to_string(place.path("cert.pem")).expect("as written");
        place.write("cert.pem", &whole[..whole.len() / 2], 0o644);
        assert!(matches!(kept.renew(), Renewal::Invalid(_)));
        assert_eq!(kept.renew(), Renewal::Unchanged, "told once");
        assert!(Arc::ptr_eq(&first, &kept.config()));
        place.put(2051);
        assert_eq!(kept.renew(), Renewal::Applied);
        assert!(!Arc::ptr_eq(&first, &kept.config()));
        assert_eq!(kept.expiry(Part::Cert), Some(2_556_144_000));
    }

    #[test]
    fn a_client_may_bring_its_own_authority_and_identity() {
        let place = Place::new();
        place.put(2050);
        let identity = Identity { cert: place.path("cert.pem"), key: place.path("key.pem") };
        let mut files = ClientFiles { ca: Some(place.path("cert.pem")), identity: Some(identity) };
        assert!(files.load().is_ok());
        files.ca = Some(place.path("key.pem"));
        let faults = files.load().expect_err("a key is no authority");
        assert_eq!(faults[0].part, Part::Ca);
    }
}
