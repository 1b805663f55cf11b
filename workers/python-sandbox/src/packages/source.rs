//! Where packages may come from, and which: a folder of wheels, or an index as far as the operator allows.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Which packages may be installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Those of the folder of wheels: no network at all.
    #[default]
    Offline,
    /// Those that are listed, also of an index; what they need must be listed, too.
    Allowlist,
    /// Whatever the index has.
    Open,
}

/// `packages:` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackagesSection {
    /// Which packages may be installed.
    pub mode: Mode,
    /// A folder of wheels.
    pub wheels: Option<PathBuf>,
    /// Where installed packages are kept.
    pub home: Option<PathBuf>,
    /// The index's URL; absent: what pip's own configuration says.
    pub index: Option<String>,
    /// Where the index's files lie, as `host` or `host:port`, where that is not the index's own host.
    pub hosts: Vec<String>,
    /// The names that may be installed; in the mode `open`, names that others may be mistaken for.
    pub allow: Vec<String>,
    /// The certificates to trust, as one file; absent: what pip's own configuration says, else the system's.
    pub certificates: Option<PathBuf>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    /// Reads `host:port`; `port` is taken where none is named.
    pub(super) fn read(text: &str, port: Option<u16>) -> Option<Self> {
        let (host, named) = match text.rsplit_once(':') {
            Some((host, named)) if !named.contains(']') => (host, Some(named)),
            _ => (text, None),
        };
        let port = match named {
            Some(named) => named.parse().ok()?,
            None => port?,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        (!host.is_empty() && host.chars().all(plain)).then_some(Self { host, port })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An index, and all the places that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) url: String,
    pub(super) places: BTreeSet<Place>,
    pub(super) certificates: Option<PathBuf>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) wheels: Option<PathBuf>,
    pub(super) index: Option<Index>,
    mode: Mode,
    /// In the form in which names are compared.
    allow: BTreeSet<String>,
}

/// What pip would do by itself.
#[derive(Debug, Deserialize)]
struct OfPip {
    index: String,
    /// Where the files of pip's own default index lie.
    files: Option<String>,
    certificates: Option<PathBuf>,
}

/// Asks pip what it would do without options: its configuration, its environment, its default.
const ASK_PIP: &str = r"
import json
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
configured = Configuration(isolated=False)
configured.load()
said = dict(configured.items())
def one(name):
    return next((said[key] for key in (f':env:.{name}', f'install.{name}', f'global.{name}') if key in said), None)
index = one('index-url') or PyPI.simple_url
files = PyPI.file_storage_domain if index == PyPI.simple_url else None
print(json.dumps({'index': index, 'files': files, 'certificates': one('cert')}))
";

/// The system's certificates, where Debian and its kin have them.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

impl PackagesSection {
    /// Whether anything can be installed.
    pub fn offers(&self) -> bool {
        self.wheels.is_some() || self.mode != Mode::Offline
    }

    /// Rules that span fields.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.mode == Mode::Allowlist && self.allow.is_empty() {
            return Err(
                "packages.allow is empty; in the mode allowlist it names what may be installed".into()
            );
        }
        if self.mode == Mode::Offline && (self.index.is_some() || !self.hosts.is_empty()) {
            return Err("packages.index and packages.hosts are for the modes allowlist and open".into());
        }
        for name in &self.allow {
            if !crate::inputs::is_name(name) {
                return Err(format!("packages.allow has {name:?}, which is no name of a package"));
            }
        }
        match self.hosts.iter().find(|host| Place::read(host, Some(443)).is_none()) {
            Some(wrong) => Err(format!("packages.hosts has {wrong:?}, which is no host")),
            None => Ok(()),
        }
    }
}

impl Source {
    /// Works out where packages come from. `python` is asked what its pip would do, where the operator says
    /// nothing about the index.
    ///
    /// # Errors
    /// What is wrong or missing.
    pub(super) fn new(section: &PackagesSection, python: &Path) -> Result<Self, String> {
        section.check()?;
        let wheels = section.wheels.as_ref().map(|wheels| {
            wheels
                .canonicalize()
                .map_err(|problem| format!("packages.wheels: {}: {problem}", wheels.display()))
        });
        let index = match section.mode {
            Mode::Offline => None,
            Mode::Allowlist | Mode::Open => Some(index(section, python)?),
        };
        let allow = section.allow.iter().map(|name| normalized(name)).collect();
        Ok(Self { wheels: wheels.transpose()?, index, mode: section.mode, allow })
    }

    /// Whether packages of these names may be asked for.
    ///
    /// # Errors
    /// A sentence for the caller.
    pub(super) fn check_names<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
        for name in names {
            let plain = normalized(name);
            if self.mode == Mode::Offline || self.allow.contains(&plain) {
                continue;
            }
            let meant = self.allow.iter().find(|known| is_slip(&plain, known));
            match (self.mode, meant) {
                (_, Some(known)) => {
                    return Err(format!(
                        "{name:?} is one letter away from {known:?}, and nobody has allowed it; did you mean that?"
                    ));
                }
                (Mode::Allowlist, None) => {
                    return Err(format!("{name:?} is not among the packages that this worker may install"));
                }
                (Mode::Offline | Mode::Open, None) => {}
            }
        }
        Ok(())
    }
}

fn index(section: &PackagesSection, python: &Path) -> Result<Index, String> {
    let asked = ask_pip(python);
    let (url, files) = match (&section.index, &asked) {
        (Some(url), _) => (url.clone(), None),
        (None, Ok(said)) => (said.index.clone(), said.files.clone()),
        (None, Err(problem)) => {
            return Err(format!("packages.index is not set, and pip does not tell its own: {problem}"));
        }
    };
    let wrong = || format!("packages.index {url:?} is no URL of the form https://host/path");
    let (rest, port) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (None, Some(rest)) => (rest, 80),
        (None, None) => return Err(wrong()),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    // A user and a password may stand before the host.
    let own = Place::read(authority.rsplit('@').next().unwrap_or_default(), Some(port)).ok_or_else(wrong)?;
    let files = section.hosts.iter().chain(&files).filter_map(|host| Place::read(host, Some(443)));
    let places = std::iter::once(own).chain(files).collect();
    let told = section.certificates.clone().or(asked.ok().and_then(|said| said.certificates));
    let certificates = told.or_else(|| Some(SYSTEM_CERTIFICATES.into())).filter(|file| file.is_file());
    Ok(Index { url, places, certificates })
}

fn ask_pip(python: &Path) -> Result<OfPip, String> {
    let asked = Command::new(python).args(["-I", "-c", ASK_PIP]).stdin(Stdio::null()).output();
    let answer = asked.map_err(|problem| problem.to_string())?;
    if !answer.status.success() {
        let told = String::from_utf8_lossy(&answer.stderr);
        return Err(told.trim().lines().last().unwrap_or("it failed").to_owned());
    }
    serde_json::from_slice(&answer.stdout).map_err(|problem| problem.to_string())
}

/// A name in the form in which names are compared (PEP 503).
pub(super) fn normalized(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if plain.ends_with('-') => {}
            '-' | '_' | '.' => plain.push('-'),
            c => plain.push(c.to_ascii_lowercase()),
        }
    }
    plain
}

/// Whether one is the other with one letter more, less, wrong, or in the wrong place.
fn is_slip(one: &str, other: &str) -> bool {
    let (mut one, mut other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    while one.last().is_some_and(|last| other.last() == Some(last)) {
        one.pop();
        other.pop();
    }
    let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[same..], &other[same..]);
    match (one, other) {
        ([_], []) | ([], [_]) | ([_], [_]) => true,
        ([a, b], [c, d]) => (a, b) == (d, c),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(section: PackagesSection) -> Source {
        let section = PackagesSection { index: Some("http://127.0.0.1:8/simple".into()), ..section };
        Source::new(&section, Path::new("/usr/bin/python3")).expect("it is whole")
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_are_compared_as_an_index_compares_them() {
        for (name, plain) in [("Zope.Interface", "zope-interface"), ("a__b-.c", "a-b-c"), ("six", "six")] {
            assert_eq!(normalized(name), plain);
        }
    }

    #[test]
    fn only_what_is_listed_may_be_asked_for_and_a_slip_is_said_to_be_one() {
        let listed = PackagesSection {
            mode: Mode::Allowlist,
            allow: names(&["NumPy", "zope.interface"]),
            ..PackagesSection::default()
        };
        let source = source(listed);
        assert_eq!(source.check_names(["numpy", "Zope_Interface"].into_iter()), Ok(()));
        let told = |name: &str| source.check_names(std::iter::once(name)).expect_err("not listed");
        for slip in ["nunpy", "numpi", "numppy", "nmpy", "unmpy"] {
            assert!(told(slip).contains("did you mean"), "{slip}: {}", told(slip));
        }
        for stranger in ["pandas", "numpyyy", "pynum"] {
            assert!(told(stranger).contains("not among"), "{stranger}: {}", told(stranger));
        }
    }

    #[test]
    fn an_open_worker_refuses_only_what_looks_like_a_known_name() {
        let open =
            PackagesSection { mode: Mode::Open, allow: names(&["requests"]), ..PackagesSection::default() };
        let source = source(open);
        assert_eq!(source.check_names(["requests", "pandas"].into_iter()), Ok(()));
        assert!(source.check_names(std::iter::once("reqests")).is_err());
    }

    #[test]
    fn an_index_has_its_own_place_and_those_of_its_files() {
        let section = PackagesSection {
            mode: Mode::Open,
            index: Some("https://me:secret@index.example/simple".into()),
            hosts: names(&["files.example", "other.example:8443"]),
            ..PackagesSection::default()
        };
        let index = index(&section, Path::new("/usr/bin/python3")).expect("an index");
        let places: Vec<String> = index.places.iter().map(Place::to_string).collect();
        assert_eq!(places, ["files.example:443", "index.example:443", "other.example:8443"]);
        for wrong in ["ftp://x/", "https:///simple", "simple"] {
            let section =
                PackagesSection { index: Some(wrong.into()), mode: Mode::Open, ..PackagesSection::default() };
            assert!(Source::new(&section, Path::new("/usr/bin/python3")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pip_tells_its_own_index() {
        let said = ask_pip(Path::new("/usr/bin/python3")).expect("pip is there");
        assert!(said.index.starts_with("http"), "{}", said.index);
    }

    #[test]
    fn fields_that_contradict_each_other_are_refused() {
        let section = |text: &str| serde_json::from_str::<PackagesSection>(text).expect("known fields");
        for wrong in [
            r#"{"mode":"allowlist"}"#,
            r#"{"index":"https://x/simple"}"#,
            r#"{"mode":"open","hosts":["a b"]}"#,
            r#"{"mode":"open","allow":["-r"]}"#,
        ] {
            assert!(section(wrong).check().is_err(), "{wrong}");
        }
        assert!(!section("{}").offers() && section(r#"{"mode":"open"}"#).offers());
    }
}
