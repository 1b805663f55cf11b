//! Makes room: notes that are too old or whose task is forgotten go, then contents that no note, no
//! upload and no unfinished task refers to. Mark and sweep, a folder at a time. A crash in between
//! leaves garbage for the next sweep, never a note without its content.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tracing::info;

use super::Shared;
use super::files::{entries, hashes_in, task_of};
use crate::fleet::{ContentHash, Tenant};
use crate::store::Archive;

/// Nothing that was written or asked for so lately is removed: its note, or its task, may be on its
/// way.
const GRACE: Duration = Duration::from_secs(600);

/// See the module. Each content that is referred to takes 32 bytes while it runs.
#[derive(Debug)]
pub(super) struct Sweep {
    now: SystemTime,
    keep_for: Duration,
    stage: Stage,
    marked: HashSet<ContentHash>,
    removed: u64,
}

/// Which folder is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Kept(u8),
    Given(u8),
    Content(u8),
}

impl Sweep {
    pub(super) fn new(now: SystemTime, keep_for: Duration) -> Self {
        Self { now, keep_for, stage: Stage::Open, marked: HashSet::new(), removed: 0 }
    }

    /// Looks at one folder; true after the last.
    ///
    /// # Errors
    /// When the disk fails. The sweep must not go on then: something may not be marked.
    pub(super) fn step(&mut self, shared: &Shared, archive: &dyn Archive) -> io::Result<bool> {
        let folder = |kind: &str, part: u8| shared.files.folder(kind).join(format!("{part:02x}"));
        let next = |part: u8, stage: fn(u8) -> Stage| part.checked_add(1).map(stage);
        let next = match self.stage {
            Stage::Open => {
                for note in entries(&shared.files.folder("open"))? {
                    // One that a task's end has removed meanwhile has its kept note by now.
                    self.mark(hashes_in(&note))?;
                }
                Some(Stage::Kept(0))
            }
            Stage::Kept(part) => {
                for note in entries(&folder("kept", part))? {
                    self.kept(&note, archive)?;
                }
                next(part, Stage::Kept).or(Some(Stage::Given(0)))
            }
            Stage::Given(part) => {
                for marker in entries(&folder("given", part))? {
                    self.given(&marker)?;
                }
                next(part, Stage::Given).or(Some(Stage::Content(0)))
            }
            Stage::Content(part) => {
                if part == 0 {
                    // As late as can be: tasks that came meanwhile count.
                    self.marked.extend(shared.pins().values().flatten());
                }
                for content in entries(&folder("content", part))? {
                    self.content(&content, shared)?;
                }
                next(part, Stage::Content)
            }
        };
        match next {
            Some(stage) => self.stage = stage,
            None if self.removed > 0 => info!(removed = self.removed, "removed old artifacts"),
            None => {}
        }
        Ok(next.is_none())
    }

    fn kept(&mut self, note: &Path, archive: &dyn Archive) -> io::Result<()> {
        let Some(age) = self.age(note)? else { return Ok(()) };
        // What cannot be looked up now may be there.
        let is_known = |task| !matches!(archive.task(&Tenant::default_tenant(), task), Ok(None));
        let known = || task_of(note).is_some_and(is_known);
        if age > self.keep_for || (age > GRACE && !known()) {
            return gone(std::fs::remove_file(note)).map(drop);
        }
        self.mark(hashes_in(note))
    }

    fn given(&mut self, marker: &Path) -> io::Result<()> {
        let Some(age) = self.age(marker)? else { return Ok(()) };
        if age > self.keep_for {
            return gone(std::fs::remove_file(marker)).map(drop);
        }
        self.marked.extend(hash_of(marker));
        Ok(())
    }

    fn content(&mut self, content: &Path, shared: &Shared) -> io::Result<()> {
        if hash_of(content).is_some_and(|hash| self.marked.contains(&hash)) {
            return Ok(());
        }
        let Some(before) = self.now.checked_sub(GRACE) else { return Ok(()) };
        if gone(shared.files.remove_content(content, before))? == Some(true) {
            self.removed += 1;
        }
        Ok(())
    }

    fn mark(&mut self, hashes: io::Result<Vec<ContentHash>>) -> io::Result<()> {
        self.marked.extend(gone(hashes)?.unwrap_or_default());
        Ok(())
    }

    /// How long ago a file was last written; `None` when it is gone.
    fn age(&self, path: &Path) -> io::Result<Option<Duration>> {
        let Some(about) = gone(std::fs::metadata(path))? else { return Ok(None) };
        Ok(Some(self.now.duration_since(about.modified()?).unwrap_or_default()))
    }
}

fn hash_of(path: &Path) -> Option<ContentHash> {
    path.file_name()?.to_str()?.parse().ok()
}

/// What is not there any more is no failure.
fn gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}
