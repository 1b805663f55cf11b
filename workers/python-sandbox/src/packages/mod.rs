//! Packages for sessions. An installer's sandbox, whose only network is a proxy to the configured index if
//! there is one, puts wheels into a folder of its own; what came of it is sealed, named by what is in it, and from then on seen read-only by every sandbox. So a session can use
//! it at once, and the next one that asks for the same finds it there.

mod proxy;
mod source;

pub use source::{Mode, PackagesSection};

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::outcome::{ErrorReport, Outcome, Program, Report, Request};
use crate::profile::{PACKAGES, Shown};
use crate::sandbox::Sandbox;
use proxy::Proxy;
use source::{Index, Source};

/// What the packages of one session may take, and one installation.
const MOST_BYTES: u64 = 200 << 20;
const MOST_TIME: Duration = Duration::from_secs(60);

/// What all installations may take together.
const CACHE_BYTES: u64 = 4 << 30;

/// How often an installation's size is looked at while it runs.
const SIZE_CHECK: Duration = Duration::from_millis(200);

/// Where the installer's sandbox shows the wheels and what it fills.
const WHEELS: &str = "/wheels";
const STAGING: &str = "/staging";

/// Where it shows the way to the index, and the certificates to trust there.
const PROXY: &str = "/run/rollcall/proxy";
const CERTIFICATES: &str = "/run/rollcall/certificates";

/// Files that a package may have; beyond that somebody means harm.
const MOST_FILES: usize = 50_000;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// See the module.
#[derive(Debug)]
pub struct Packages {
    source: Source,
    /// What sandboxes see.
    sets: PathBuf,
    /// Where installers write.
    staging: PathBuf,
    /// Where the sockets of proxies are.
    doors: PathBuf,
}

/// Installed packages, named by what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    name: String,
    /// In bytes.
    pub(crate) size: u64,
}

impl Set {
    /// What a session's runner is to do with it.
    pub(crate) fn use_it(&self) -> Program {
        let Self { name, .. } = self;
        let arguments = json!({ "folder": format!("{PACKAGES}/{name}") });
        Program::Tool { name: "packages.add", arguments }
    }
}

impl Packages {
    /// Installs from where a section of the configuration says, and keeps what it installs below `home`.
    /// `python` is the interpreter whose pip is asked for its index, where the section names none.
    ///
    /// # Errors
    /// When one of the folders cannot be used, or there is no index.
    pub fn new(section: &PackagesSection, home: &Path, python: &Path) -> io::Result<Self> {
        let source = Source::new(section, python).map_err(io::Error::other)?;
        let (sets, staging, doors) = (home.join("sets"), home.join("staging"), home.join("doors"));
        // Sandboxes reach the sets, under uids of their own; nobody may list what is being installed.
        own_folder(home, 0o711)?;
        own_folder(&sets, 0o755)?;
        for folder in [&staging, &doors] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            own_folder(folder, 0o711)?;
        }
        Ok(Self { source, sets, staging, doors })
    }

    /// What every sandbox is to show at `/packages`.
    pub fn folder(&self) -> &Path {
        &self.sets
    }

    /// Installs packages in a sandbox made for that. The report tells what was installed; with it comes the
    /// set, unless that failed. `used` bytes of packages the session has already.
    pub(crate) async fn install(
        &self,
        sandbox: &Sandbox,
        packages: Vec<String>,
        used: u64,
        wall: Duration,
        cancel: &CancellationToken,
    ) -> (Report, Option<Set>) {
        let named = packages.iter().map(|text| crate::inputs::name_in(text));
        if let Err(problem) = self.source.check_names(named) {
            return (refused("NotAllowed", problem), None);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = self.staging.join(format!("{}.{number}", std::process::id()));
        let made = own_folder(&folder, 0o700);
        let done = match made {
            Ok(()) => self.install_into(&folder, sandbox, packages, used, wall, cancel).await,
            Err(problem) => (Report::failed(format!("{}: {problem}", folder.display())), None),
        };
        // Where there was no index, there was no door.
        drop(fs::remove_file(self.doors.join(folder.file_name().unwrap_or_default())));
        if folder.exists()
            && let Err(problem) = fs::remove_dir_all(&folder)
        {
            tracing::warn!(%problem, folder = %folder.display(), "an installation's folder stays");
        }
        done
    }

    async fn install_into(
        &self,
        folder: &Path,
        sandbox: &Sandbox,
        packages: Vec<String>,
        used: u64,
        wall: Duration,
        cancel: &CancellationToken,
    ) -> (Report, Option<Set>) {
        if measured(&self.sets).is_none_or(|(bytes, _)| bytes > CACHE_BYTES) {
            let folder = self.sets.display();
            return (
                too_large(&format!("the worker's packages fill {folder}; somebody must clear it")),
                None,
            );
        }
        let mut arguments = json!({ "target": STAGING, "packages": packages });
        let mut shown = vec![Shown { host: folder.to_owned(), inside: STAGING, writable: true }];
        let mut show = |host: PathBuf, inside| shown.push(Shown { host, inside, writable: false });
        if let Some(wheels) = &self.source.wheels {
            arguments["source"] = json!(WHEELS);
            show(wheels.clone(), WHEELS);
        }
        let mut proxy = None;
        if let Some(Index { url, places, certificates }) = &self.source.index {
            let door = self.doors.join(folder.file_name().unwrap_or_default());
            match Proxy::serve(&door, places.clone()) {
                Ok(serving) => proxy = Some(serving),
                Err(problem) => return (Report::failed(format!("{}: {problem}", door.display())), None),
            }
            (arguments["index"], arguments["proxy"]) = (json!(url), json!(PROXY));
            show(door, PROXY);
            if let Some(file) = certificates {
                arguments["certificates"] = json!(CERTIFICATES);
                show(file.clone(), CERTIFICATES);
            }
        }
        let request = Request {
            program: Program::Tool { name: "packages.install", arguments },
            inputs: Vec::new(),
            outputs: Vec::new(),
            limits: *sandbox.limits(),
            wall: wall.min(MOST_TIME),
        };
        let full = cancel.child_token();
        let run = sandbox.run_showing(request, Arc::new(|_, _| {}), &full, &shown);
        tokio::pin!(run);
        let mut report = loop {
            tokio::select! {
                report = &mut run => break report,
                () = sleep(SIZE_CHECK), if !full.is_cancelled() => {
                    if !fits(folder, used) {
                        full.cancel();
                    }
                }
            }
        };
        if cancel.is_cancelled() || (report.outcome != Outcome::Ok && !full.is_cancelled()) {
            let elsewhere = proxy.map(|proxy| proxy.refused()).unwrap_or_default();
            if let (Some(error), false) = (&mut report.error, elsewhere.is_empty()) {
                let places = elsewhere.join(", ");
                error.message.push_str(&format!(
                    "\nthe index refers to {places}, which packages.hosts of the worker does not name"
                ));
            }
            return (report, None);
        }
        if full.is_cancelled() || !fits(folder, used) {
            let most = MOST_BYTES >> 20;
            return (
                too_large(&format!(
                    "the session's packages take more than {most} MiB, or these more than {MOST_FILES} files"
                )),
                None,
            );
        }
        let installed = report.output.as_ref().and_then(|told| told["installed"].as_array());
        let names = installed.into_iter().flatten().filter_map(|one| one["name"].as_str());
        if let Err(problem) = self.source.check_names(names) {
            return (
                refused("NotAllowed", format!("what was asked for needs another package: {problem}")),
                None,
            );
        }
        match self.keep(folder, report.output.as_ref()) {
            Ok(set) => (report, Some(set)),
            Err(problem) => (Report::failed(format!("the packages cannot be kept: {problem}")), None),
        }
    }

    /// Seals what was installed and gives it its name.
    fn keep(&self, folder: &Path, told: Option<&Value>) -> io::Result<Set> {
        let name = name_of(told.unwrap_or(&Value::Null));
        let size = measured(folder).map_or(0, |(bytes, _)| bytes);
        let place = self.sets.join(&name);
        if !place.exists() {
            seal(folder)?;
            match fs::rename(folder, &place) {
                // Another installation of the same was faster.
                Err(problem) if !place.exists() => return Err(problem),
                _ => {}
            }
        }
        Ok(Set { name, size })
    }
}

fn refused(kind: &str, message: String) -> Report {
    let error = ErrorReport { kind: kind.into(), message: message.clone(), traceback: None };
    Report { error: Some(error), ..Report::unstarted(Outcome::Error, message) }
}

fn too_large(message: &str) -> Report {
    let error = ErrorReport { kind: "TooLarge".into(), message: message.into(), traceback: None };
    Report { error: Some(error), ..Report::unstarted(Outcome::DiskFull, message) }
}

/// The same packages have the same name: a hash over names, versions and the hashes of the wheels.
fn name_of(told: &Value) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(told["installed"].to_string());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn fits(folder: &Path, used: u64) -> bool {
    let fits = |(bytes, files)| bytes + used <= MOST_BYTES && files <= MOST_FILES;
    measured(folder).is_some_and(fits)
}

/// Bytes and files below a folder; links are not followed. `None` when it cannot be told.
fn measured(folder: &Path) -> Option<(u64, usize)> {
    let (mut bytes, mut files) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes away meanwhile is none: pip unpacks, moves and removes while this looks.
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        for entry in entries.flatten() {
            let Ok(about) = entry.metadata() else { continue };
            files += 1;
            bytes += about.blocks() * 512;
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some((bytes, files))
}

/// Takes every right to write, and ownership; what is neither file nor folder has no place in a package.
fn seal(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            if about.is_dir() {
                folders.push(path);
            } else if about.is_file() {
                let runs = about.permissions().mode() & 0o111 != 0;
                own(&path, if runs { 0o555 } else { 0o444 })?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        own(&folder, 0o755)?;
    }
    Ok(())
}

fn own(path: &Path, mode: u32) -> io::Result<()> {
    if Uid::effective().is_root() {
        nix::unistd::chown(path, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Makes a folder, or makes sure that it is ours: in a folder that everybody may write to, somebody else
/// may have been there before.
fn own_folder(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(problem) if problem.kind() != io::ErrorKind::AlreadyExists => return Err(problem),
        _ => {}
    }
    let about = fs::symlink_metadata(path)?;
    if !about.is_dir() || about.uid() != Uid::effective().as_raw() {
        return Err(io::Error::other(format!("{} is not a folder of this user", path.display())));
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_can_be_read_and_run_and_not_written() {
        let home = tempfile::tempdir().expect("a folder");
        let inner = home.path().join("a/b");
        fs::create_dir_all(&inner).expect("folders");
        fs::write(inner.join("run"), "x").expect("a file");
        fs::set_permissions(inner.join("run"), Permissions::from_mode(0o4777)).expect("its mode");
        fs::write(inner.join("read"), "x").expect("a file");
        std::os::unix::fs::symlink("/etc/shadow", inner.join("link")).expect("a link");
        seal(home.path()).expect("all of it");
        let mode = |name: &str| fs::symlink_metadata(inner.join(name)).map(|about| about.mode() & 0o7777);
        assert_eq!((mode("run").ok(), mode("read").ok()), (Some(0o555), Some(0o444)));
        assert!(mode("link").is_err(), "a link is no part of a package");
    }

    #[test]
    fn the_same_packages_have_the_same_name() {
        let one = json!({ "installed": [{ "name": "a", "version": "1", "sha256": "00" }] });
        let other = json!({ "installed": [{ "name": "a", "version": "1", "sha256": "01" }] });
        assert_eq!(name_of(&one), name_of(&one.clone()));
        assert_ne!(name_of(&one), name_of(&other));
    }
}
