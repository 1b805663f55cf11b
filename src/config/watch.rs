//! Tells when the topology file may have changed: at once by the file system's word, and by a slow
//! timer for every word that was lost. Folders are watched rather than the file, since editors
//! replace files and Kubernetes swaps symlinks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

/// What asked for a reload; the words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// The server starts.
    Start,
    /// The file system told of a change.
    File,
    /// The slow timer found a change that nobody told of.
    Timer,
    /// The signal.
    Sighup,
    /// `POST /-/reload`, and workers added and removed by the API.
    Api,
}

impl Trigger {
    /// Every trigger, in label order.
    pub const ALL: [Self; 5] = [Self::Start, Self::File, Self::Timer, Self::Sighup, Self::Api];

    /// The word used in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Timer => "timer",
            Self::Sighup => "sighup",
            Self::Api => "api",
        }
    }
}

/// How patient a watcher is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long it must be quiet after a change: editors write in several steps.
    pub settle: Duration,
    /// How long a storm of changes may hold back the word of it.
    pub longest_burst: Duration,
    /// How often to look where the file system tells of changes.
    pub recheck: Duration,
    /// How often to look where it does not.
    pub poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(250),
            longest_burst: Duration::from_secs(2),
            recheck: Duration::from_secs(10),
            poll: Duration::from_secs(2),
        }
    }
}

/// Watches one file; see the module.
pub struct Watcher {
    path: PathBuf,
    timing: Timing,
    /// Woken by every event that concerns the file.
    woken: Arc<Notify>,
    /// What concerns the file, as the event thread knows it.
    concerns: Arc<ArcSwap<Concerns>>,
    /// `None` where the system has no file events to give.
    events: Option<RecommendedWatcher>,
    /// The folders that are watched, each with what tells it from another one of its name.
    watched: Vec<(PathBuf, FolderId)>,
    burst: Option<Burst>,
    next_look: Instant,
}

/// The device and number of a folder.
type FolderId = (u64, u64);

/// Changes that belong together.
#[derive(Clone, Copy)]
struct Burst {
    began: Instant,
    latest: Instant,
}

/// What an event must be about.
#[derive(Default)]
struct Concerns {
    /// The file's name, and that of the file that it is a link to.
    names: Vec<OsString>,
    folders: Vec<PathBuf>,
}

impl Concerns {
    fn include(&self, event: &notify::Event) -> bool {
        // Reading the file makes events as well, our own reading too.
        let written = match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        };
        let about = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            // Kubernetes swaps a link called `..data`, through which all its files go.
            let swapped = name.as_encoded_bytes().starts_with(b"..");
            swapped || self.names.iter().any(|known| known == name) || self.folders.contains(path)
        };
        written && (event.need_rescan() || event.paths.iter().any(about))
    }
}

impl Watcher {
    /// Watches `path`. A file, or a folder, that is not there yet is waited for.
    pub fn new(path: &Path) -> Self {
        Self::with_timing(path, Timing::default())
    }

    /// The same with other times.
    pub fn with_timing(path: &Path, timing: Timing) -> Self {
        let woken = Arc::new(Notify::new());
        let concerns = Arc::new(ArcSwap::from_pointee(Concerns::default()));
        let (wake, concerned) = (woken.clone(), concerns.clone());
        let events = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may have swallowed events: better one look too many.
            if event.map_or(true, |event| concerned.load().include(&event)) {
                wake.notify_one();
            }
        });
        let events = events
            .inspect_err(|error| {
                let every = timing.poll;
                warn!(%error, "no file events are to be had; looking at the topology every {every:?} instead");
            })
            .ok();
        let path = path.to_owned();
        let next_look = Instant::now();
        let mut watcher =
            Self { path, timing, woken, concerns, events, watched: Vec::new(), burst: None, next_look };
        watcher.aim();
        watcher
    }

    /// Waits until the file may have changed. Cancel-safe.
    pub async fn changed(&mut self) -> Trigger {
        loop {
            let settled = self.burst.map(|burst| {
                (burst.latest + self.timing.settle).min(burst.began + self.timing.longest_burst)
            });
            tokio::select! {
                biased; // A storm must not hold back the word of it for ever.
                () = tokio::time::sleep_until(settled.unwrap_or(self.next_look)), if settled.is_some() => {
                    self.burst = None;
                    self.aim();
                    return Trigger::File;
                }
                () = tokio::time::sleep_until(self.next_look) => {
                    self.aim();
                    return Trigger::Timer;
                }
                () = self.woken.notified() => {
                    let now = Instant::now();
                    let began = self.burst.map_or(now, |burst| burst.began);
                    self.burst = Some(Burst { began, latest: now });
                }
            }
        }
    }

    /// Watches the folders that matter now: the file's, and that of the file that it is a link to.
    /// Either may have been replaced since.
    fn aim(&mut self) {
        let target = self.path.canonicalize().ok();
        let files = [Some(&self.path), target.as_ref()].into_iter().flatten();
        let mut folders: Vec<PathBuf> = files.clone().map(|file| folder_of(file)).collect();
        folders.dedup();
        let names = files.filter_map(|file| file.file_name().map(OsString::from)).collect();
        self.concerns.store(Arc::new(Concerns { names, folders: folders.clone() }));
        let wanted: Vec<(PathBuf, FolderId)> =
            folders.iter().filter_map(|folder| Some((folder.clone(), id_of(folder)?))).collect();
        let mut all = wanted.len() == folders.len();
        match &mut self.events {
            Some(events) if wanted != self.watched => {
                for (folder, _) in self.watched.drain(..) {
                    // A folder that is gone has taken its watch along.
                    drop(events.unwatch(&folder));
                }
                for (folder, id) in wanted {
                    match events.watch(&folder, RecursiveMode::NonRecursive) {
                        Ok(()) => self.watched.push((folder, id)),
                        Err(error) => {
                            all = false;
                            warn!(%error, folder = %folder.display(), "cannot be told of changes in a folder");
                        }
                    }
                }
                info!(folders = self.watched.len(), "watching the topology file");
            }
            Some(_) => {}
            None => all = false,
        }
        self.next_look = Instant::now() + if all { self.timing.recheck } else { self.timing.poll };
    }
}

/// The folder of a file; a bare name lies in the working one.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn id_of(folder: &Path) -> Option<FolderId> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(folder).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The timer never comes, unless it is what is tested.
    const PROMPT: Timing = Timing {
        settle: Duration::from_millis(40),
        longest_burst: Duration::from_millis(400),
        recheck: Duration::from_secs(3_600),
        poll: Duration::from_millis(50),
    };

    struct Room {
        folder: tempfile::TempDir,
    }

    impl Room {
        fn new() -> Self {
            let room = Self { folder: tempfile::tempdir().expect("a folder") };
            room.write("config.yaml", "one");
            room
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).expect("writable");
        }

        fn watcher(&self) -> Watcher {
            Watcher::with_timing(&self.path("config.yaml"), PROMPT)
        }
    }

    async fn told(watcher: &mut Watcher) -> Trigger {
        tokio::time::timeout(Duration::from_secs(20), watcher.changed()).await.expect("a change is told")
    }

    async fn quiet(watcher: &mut Watcher) {
        let told = tokio::time::timeout(Duration::from_millis(300), watcher.changed()).await;
        assert!(told.is_err(), "{told:?} of nothing");
    }

    #[tokio::test]
    async fn a_file_that_is_written_in_place_is_told() {
        let room = Room::new();
        let mut watcher = room.watcher();
        room.write("config.yaml", "two");
        assert_eq!(told(&mut watcher).await, Trigger::File);
        quiet(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_file_that_an_editor_replaces_is_told_each_time() {
        let room = Room::new();
        let mut watcher = room.watcher();
        for text in ["two", "three"] {
            room.write(".config.yaml.swp", text);
            fs::rename(room.path(".config.yaml.swp"), room.path("config.yaml")).expect("renamed");
            assert_eq!(told(&mut watcher).await, Trigger::File);
        }
    }

    #[tokio::test]
    async fn a_link_that_kubernetes_swaps_is_told_each_time() {
        let room = Room::new();
        fs::remove_file(room.path("config.yaml")).expect("removed");
        let publish = |version: &str| {
            fs::create_dir(room.path(version)).expect("made");
            room.write(&format!("{version}/config.yaml"), version);
            symlink(version, room.path("..data_tmp")).expect("linked");
            fs::rename(room.path("..data_tmp"), room.path("..data")).expect("swapped");
        };
        publish("..1");
        symlink("..data/config.yaml", room.path("config.yaml")).expect("linked");
        let mut watcher = room.watcher();
        for version in ["..2", "..3"] {
            publish(version);
            assert_eq!(told(&mut watcher).await, Trigger::File);
        }
    }

    #[tokio::test]
    async fn a_file_behind_a_link_is_told_too() {
        let room = Room::new();
        let elsewhere = tempfile::tempdir().expect("a folder");
        fs::write(elsewhere.path().join("real.yaml"), "one").expect("written");
        fs::remove_file(room.path("config.yaml")).expect("removed");
        symlink(elsewhere.path().join("real.yaml"), room.path("config.yaml")).expect("linked");
        let mut watcher = room.watcher();
        fs::write(elsewhere.path().join("real.yaml"), "two").expect("written");
        assert_eq!(told(&mut watcher).await, Trigger::File);
    }

    #[tokio::test]
    async fn a_file_that_is_deleted_and_made_again_is_told() {
        let room = Room::new();
        let mut watcher = room.watcher();
        fs::remove_file(room.path("config.yaml")).expect("removed");
        assert_eq!(told(&mut watcher).await, Trigger::File);
        room.write("config.yaml", "two");
        assert_eq!(told(&mut watcher).await, Trigger::File);
    }

    #[tokio::test]
    async fn a_folder_that_is_replaced_is_watched_again() {
        let room = Room::new();
        let folder = room.path("etc");
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("config.yaml"), "one").expect("written");
        let mut watcher = Watcher::with_timing(&folder.join("config.yaml"), PROMPT);
        fs::rename(&folder, room.path("old")).expect("moved");
        assert_eq!(told(&mut watcher).await, Trigger::File);
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("config.yaml"), "two").expect("written");
        // Nobody tells of a folder that nobody watches; the timer finds it.
        while watcher.watched.is_empty() {
            assert_eq!(told(&mut watcher).await, Trigger::Timer);
        }
        fs::write(folder.join("config.yaml"), "three").expect("written");
        while told(&mut watcher).await != Trigger::File {}
    }

    #[tokio::test]
    async fn neither_reading_nor_a_neighbour_is_told() {
        let room = Room::new();
        let mut watcher = room.watcher();
        fs::read(room.path("config.yaml")).expect("readable");
        room.write("other.yaml", "x");
        quiet(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_burst_is_told_once_and_a_storm_all_the_same() {
        let room = Room::new();
        let mut watcher = room.watcher();
        for n in 0..10 {
            room.write("config.yaml", &n.to_string());
        }
        assert_eq!(told(&mut watcher).await, Trigger::File);
        quiet(&mut watcher).await;
        let path = room.path("config.yaml");
        let storm = tokio::spawn(async move {
            loop {
                fs::write(&path, "x").expect("writable");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert_eq!(told(&mut watcher).await, Trigger::File);
        storm.abort();
    }

    /// A word that a dropped wait has heard is not lost.
    #[tokio::test]
    async fn waiting_can_be_broken_off() {
        let room = Room::new();
        let mut watcher = room.watcher();
        room.write("config.yaml", "two");
        for _ in 0..3 {
            drop(tokio::time::timeout(Duration::from_millis(5), watcher.changed()).await);
        }
        if watcher.burst.is_some() {
            assert_eq!(told(&mut watcher).await, Trigger::File);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_looks_where_nobody_tells() {
        let room = Room::new();
        let mut watcher = Watcher::with_timing(&room.path("none/config.yaml"), Timing::default());
        let began = Instant::now();
        assert_eq!(watcher.changed().await, Trigger::Timer);
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
