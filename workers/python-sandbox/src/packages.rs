//! Packages for sessions. An installer's sandbox puts wheels into a folder of its own; what came of it is
//! sealed, named by what is in it, and from then on seen read-only by every sandbox. So a session can use
//! it at once, and the next one that asks for the same finds it there.

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

/// What one installation may take.
const MOST_BYTES: u64 = 200 << 20;
const MOST_TIME: Duration = Duration::from_secs(60);

/// What all installations may take together.
const CACHE_BYTES: u64 = 4 << 30;

/// How often an installation's size is looked at while it runs.
const SIZE_CHECK: Duration = Duration::from_millis(200);

/// Where the installer's sandbox shows the wheels and what it fills.
const WHEELS: &str = "/wheels";
const STAGING: &str = "/staging";

/// Files that a package may have; beyond that somebody means harm.
const MOST_FILES: usize = 50_000;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// See the module.
#[derive(Debug)]
pub struct Packages {
    wheels: PathBuf,
    /// What sandboxes see.
    sets: PathBuf,
    /// Where installers write.
    staging: PathBuf,
}

/// Installed packages, named by what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set(String);

impl Set {
    /// What a session's runner is to do with it.
    pub(crate) fn use_it(&self) -> Program {
        let Self(name) = self;
        let arguments = json!({ "folder": format!("{PACKAGES}/{name}") });
        Program::Tool { name: "packages.add", arguments }
    }
}

impl Packages {
    /// Installs from a folder of wheels, and keeps what it installs below `home`.
    ///
    /// # Errors
    /// When one of the folders cannot be used.
    pub fn new(wheels: &Path, home: &Path) -> io::Result<Self> {
        let wheels = wheels.canonicalize()?;
        let (sets, staging) = (home.join("sets"), home.join("staging"));
        // Sandboxes reach the sets, under uids of their own; nobody may list what is being installed.
        own_folder(home, 0o711)?;
        own_folder(&sets, 0o755)?;
        if staging.exists() {
            fs::remove_dir_all(&staging)?;
        }
        own_folder(&staging, 0o711)?;
        Ok(Self { wheels, sets, staging })
    }

    /// What every sandbox is to show at `/packages`.
    pub fn folder(&self) -> &Path {
        &self.sets
    }

    /// Installs packages in a sandbox made for that. The report tells what was installed; with it comes the
    /// set, unless that failed.
    pub(crate) async fn install(
        &self,
        sandbox: &Sandbox,
        packages: Vec<String>,
        wall: Duration,
        cancel: &CancellationToken,
    ) -> (Report, Option<Set>) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = self.staging.join(format!("{}.{number}", std::process::id()));
        let made = own_folder(&folder, 0o700);
        let done = match made {
            Ok(()) => self.install_into(&folder, sandbox, packages, wall, cancel).await,
            Err(problem) => (Report::failed(format!("{}: {problem}", folder.display())), None),
        };
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
        let arguments = json!({ "target": STAGING, "source": WHEELS, "packages": packages });
        let request = Request {
            program: Program::Tool { name: "packages.install", arguments },
            inputs: Vec::new(),
            outputs: Vec::new(),
            limits: *sandbox.limits(),
            wall: wall.min(MOST_TIME),
        };
        let shown = [
            Shown { host: self.wheels.clone(), inside: WHEELS, writable: false },
            Shown { host: folder.to_owned(), inside: STAGING, writable: true },
        ];
        let full = cancel.child_token();
        let run = sandbox.run_showing(request, Arc::new(|_, _| {}), &full, &shown);
        tokio::pin!(run);
        let report = loop {
            tokio::select! {
                report = &mut run => break report,
                () = sleep(SIZE_CHECK), if !full.is_cancelled() => {
                    if !fits(folder) {
                        full.cancel();
                    }
                }
            }
        };
        if cancel.is_cancelled() || (report.outcome != Outcome::Ok && !full.is_cancelled()) {
            return (report, None);
        }
        if full.is_cancelled() || !fits(folder) {
            let most = MOST_BYTES >> 20;
            return (
                too_large(&format!("the packages take more than {most} MiB, or {MOST_FILES} files")),
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
        let place = self.sets.join(&name);
        if !place.exists() {
            seal(folder)?;
            match fs::rename(folder, &place) {
                // Another installation of the same was faster.
                Err(problem) if !place.exists() => return Err(problem),
                _ => {}
            }
        }
        Ok(Set(name))
    }
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

fn fits(folder: &Path) -> bool {
    measured(folder).is_some_and(|(bytes, files)| bytes <= MOST_BYTES && files <= MOST_FILES)
}

/// Bytes and files below a folder; links are not followed. `None` when it cannot be told.
fn measured(folder: &Path) -> Option<(u64, usize)> {
    let (mut bytes, mut files) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A file that goes away meanwhile is none.
        for entry in fs::read_dir(&folder).ok()?.flatten() {
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
