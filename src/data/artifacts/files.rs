//! The files under `data_dir/artifacts/TENANT`: contents by their hash, and small notes of who refers
//! to them. A content appears whole or not at all, however the server ends; what a crash leaves
//! behind is garbage that the next sweep takes. Nothing here is named by what a worker says.
//!
//! ```text
//! tmp/…              being written; emptied at the start
//! content/ab/abcd…   bytes by their SHA-256
//! given/ab/abcd…     empty: a caller uploaded it; it stays for `retention.artifacts`
//! open/TASK          what the attempts of an unfinished task have made, one JSON line each
//! kept/ef/TASK       what a finished task has made
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fleet::{Artifact, ContentHash, Epoch, TaskId};

/// See the module.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Held while a content is found to be unused and removed, or found to be there and used: never
    /// between the two.
    use_or_remove: Mutex<()>,
}

/// A content that is being written. Dropping it removes what there is.
#[derive(Debug)]
pub(super) struct Writing {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    written: u64,
    moved: bool,
}

/// A line of a note.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    epoch: Epoch,
    #[serde(flatten)]
    artifact: Artifact,
}

impl Files {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, use_or_remove: Mutex::new(()) }
    }

    /// A folder of this kind.
    pub(super) fn folder(&self, kind: &str) -> PathBuf {
        self.root.join(kind)
    }

    fn content(&self, hash: &ContentHash) -> PathBuf {
        by_hash(self.folder("content"), hash)
    }

    fn given(&self, hash: &ContentHash) -> PathBuf {
        by_hash(self.folder("given"), hash)
    }

    fn open_note(&self, task: TaskId) -> PathBuf {
        self.folder("open").join(task.to_string())
    }

    fn kept_note(&self, task: TaskId) -> PathBuf {
        // A UUIDv7 begins with the time; its last digits are spread evenly.
        self.folder("kept").join(format!("{:02x}", task.0 & 0xff)).join(task.to_string())
    }

    /// Removes what an earlier server did not finish writing.
    pub(super) fn clean(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.folder("tmp")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes that the disk has room for; `None` where that cannot be known.
    pub(super) fn room(&self) -> Option<u64> {
        let found = nix::sys::statvfs::statvfs(&self.root).ok()?;
        Some(found.blocks_available() * found.fragment_size())
    }

    /// Begins a content.
    pub(super) fn begin(&self) -> io::Result<Writing> {
        let folder = self.folder("tmp");
        make_folder(&folder)?;
        let path = folder.join(format!("{:032x}", rand::random::<u128>()));
        let file = private().write(true).create_new(true).open(&path)?;
        Ok(Writing { file, path, hasher: Sha256::new(), written: 0, moved: false })
    }

    /// Puts a content in its place, durable when this returns.
    pub(super) fn put(&self, mut writing: Writing, hash: &ContentHash) -> io::Result<()> {
        let target = self.content(hash);
        writing.file.sync_all()?;
        let _guard = self.guard();
        if touch(&target)? {
            return Ok(());
        }
        let folder = parent(&target)?;
        make_folder(folder)?;
        std::fs::rename(&writing.path, &target)?;
        writing.moved = true;
        sync_folder(folder)
    }

    /// A content and its size.
    pub(super) fn open(&self, hash: &ContentHash) -> io::Result<Option<(File, u64)>> {
        match File::open(self.content(hash)) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that a content is about to be used: no sweep takes it in the next minutes. False when it
    /// is not there.
    pub(super) fn is_used(&self, hash: &ContentHash) -> io::Result<bool> {
        let _guard = self.guard();
        let there = touch(&self.content(hash))?;
        if there {
            touch(&self.given(hash))?;
        }
        Ok(there)
    }

    /// Marks a content as uploaded by a caller.
    pub(super) fn give(&self, hash: &ContentHash) -> io::Result<()> {
        let marker = self.given(hash);
        if touch(&marker)? {
            return Ok(());
        }
        let folder = parent(&marker)?;
        make_folder(folder)?;
        private().write(true).create(true).truncate(false).open(&marker)?;
        sync_folder(folder)
    }

    /// Removes a content, unless it was used since `before`. Returns whether it is gone.
    pub(super) fn remove_content(&self, path: &Path, before: SystemTime) -> io::Result<bool> {
        let _guard = self.guard();
        let unused = std::fs::metadata(path)?.modified()? < before;
        if unused {
            std::fs::remove_file(path)?;
        }
        Ok(unused)
    }

    /// Notes what an attempt has made; durable when this returns.
    pub(super) fn note(&self, task: TaskId, epoch: Epoch, artifact: &Artifact) -> io::Result<()> {
        let path = self.open_note(task);
        let folder = parent(&path)?;
        make_folder(folder)?;
        let new = !path.exists();
        let mut file = private().append(true).create(true).open(&path)?;
        file.write_all(&line(epoch, artifact)?)?;
        file.sync_all()?;
        if new { sync_folder(folder) } else { Ok(()) }
    }

    /// The tasks that have a note of what their attempts have made.
    pub(super) fn open_notes(&self) -> io::Result<Vec<TaskId>> {
        Ok(entries(&self.folder("open"))?.filter_map(|path| task_of(&path)).collect())
    }

    /// What the newest attempt of a task has made, by its note.
    pub(super) fn newest_of(&self, task: TaskId) -> io::Result<Option<(Epoch, Vec<Artifact>)>> {
        let path = self.open_note(task);
        let bytes = std::fs::read(&path)?;
        let (lines, whole) = lines(&bytes);
        if whole < bytes.len() {
            // The last server ended within this line; a whole one must not follow half a one.
            OpenOptions::new().write(true).open(&path)?.set_len(whole as u64)?;
        }
        let Some(epoch) = lines.iter().map(|noted| noted.epoch).max() else { return Ok(None) };
        let newest = lines.into_iter().filter(|noted| noted.epoch == epoch);
        Ok(Some((epoch, newest.map(|noted| noted.artifact).collect())))
    }

    /// A task has ended with these artifacts: what else its attempts have made is not referred to
    /// any more.
    pub(super) fn settle(&self, task: TaskId, artifacts: &[Artifact]) -> io::Result<()> {
        let open = self.open_note(task);
        if !artifacts.is_empty() {
            let kept = self.kept_note(task);
            let folder = parent(&kept)?;
            make_folder(folder)?;
            let mut text = Vec::new();
            for artifact in artifacts {
                text.extend(line(Epoch(0), artifact)?);
            }
            let mut writing = self.begin()?;
            writing.write(&text)?;
            writing.file.sync_all()?;
            std::fs::rename(&writing.path, &kept)?;
            writing.moved = true;
            sync_folder(folder)?;
        }
        match std::fs::remove_file(open) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.use_or_remove.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    /// Appends.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The hash of the bytes so far.
    pub(super) fn hash(&self) -> ContentHash {
        ContentHash(self.hasher.clone().finalize().into())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.moved {
            // What cannot be removed now is removed at the next start.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// The hashes that a note names.
pub(super) fn hashes_in(note: &Path) -> io::Result<Vec<ContentHash>> {
    let mut bytes = Vec::new();
    File::open(note)?.read_to_end(&mut bytes)?;
    Ok(lines(&bytes).0.into_iter().map(|noted| noted.artifact.sha256).collect())
}

/// The task that a note is about.
pub(super) fn task_of(note: &Path) -> Option<TaskId> {
    note.file_name()?.to_str()?.parse().ok()
}

/// What is in a folder; nothing where there is none.
pub(super) fn entries(folder: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let found = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        found => Some(found?),
    };
    Ok(found.into_iter().flatten().filter_map(|entry| entry.ok().map(|entry| entry.path())))
}

fn by_hash(folder: PathBuf, hash: &ContentHash) -> PathBuf {
    let text = hash.to_string();
    folder.join(&text[..2]).join(text)
}

fn line(epoch: Epoch, artifact: &Artifact) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Noted { epoch, artifact: artifact.clone() })?;
    line.push(b'\n');
    Ok(line)
}

/// The whole lines of a note, and how many bytes they take.
fn lines(bytes: &[u8]) -> (Vec<Noted>, usize) {
    let mut whole = 0;
    let mut found = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(noted) if line.ends_with(b"\n") => found.push(noted),
            Ok(_) | Err(_) => break,
        }
        whole += line.len();
    }
    (found, whole)
}

/// Sets a file's time to now. False when there is none.
fn touch(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => file.set_modified(SystemTime::now()).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Files that nobody but the server's own user may read: they are what tasks made.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // The new folder's own name must be durable, and perhaps its parent's.
    for folder in path.ancestors().skip(1).take(2) {
        sync_folder(folder)?;
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("a path without a folder"))
}
