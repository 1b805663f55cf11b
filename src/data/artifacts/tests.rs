//! The rules of keeping files, without a server or a worker.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::sweep::Sweep;
use super::*;
use crate::fleet::*;
use crate::interface::UploadNews;
use crate::store::{Batch, Journal, MemoryStore, Retention};

const CONN: ConnId = ConnId(7);
const TASK: TaskId = TaskId(0x0192_f0c1_2345_7abc_8def_0123_4567_89ab);
const EPOCH: Epoch = Epoch(1 << 32 | 1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Artifacts in a folder of their own, and what they say.
struct Room {
    artifacts: Artifacts,
    store: MemoryStore,
    folder: TempDir,
    tell: mpsc::UnboundedSender<UploadNews>,
    news: mpsc::UnboundedReceiver<UploadNews>,
}

impl Room {
    fn new() -> Self {
        Self::over(tempfile::tempdir().expect("a folder can be made"), &[])
    }

    fn over(folder: TempDir, records: &[Record]) -> Self {
        let store = MemoryStore::new(Retention::default());
        let archive = Arc::new(store.clone());
        let logs = Arc::new(TaskLogs::new(Term(1)));
        let limits = Arc::new(Limits::new(Retention { artifacts: HOUR, ..Retention::default() }));
        let artifacts = Artifacts::start(folder.path(), limits, records, archive, logs).expect("a thread");
        let (tell, news) = mpsc::unbounded_channel();
        Self { artifacts, store, folder, tell, news }
    }

    /// The same folder, and a new server.
    async fn restarted(self, records: &[Record]) -> Self {
        self.artifacts.close().await;
        Self::over(self.folder, records)
    }

    fn to(&self, number: u64) -> UploadTo {
        UploadTo { conn: CONN, task: TASK, epoch: EPOCH, number, tell: self.tell.clone() }
    }

    fn keep(&self, number: u64, name: &str, bytes: &'static [u8]) {
        let kept = self.artifacts.keep(self.to(number), name, "text/plain", Bytes::from_static(bytes));
        kept.expect("it is within the limits");
    }

    async fn next(&mut self) -> UploadNews {
        let next = tokio::time::timeout(Duration::from_secs(20), self.news.recv()).await;
        next.expect("some news").expect("the sender is here")
    }

    async fn stored(&mut self) -> Artifact {
        match self.next().await {
            UploadNews::Stored { artifact, .. } => artifact,
            other => panic!("not stored: {other:?}"),
        }
    }

    async fn refused(&mut self) -> Arc<str> {
        match self.next().await {
            UploadNews::Refused { error, .. } => error.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn credit(&mut self) -> u64 {
        match self.next().await {
            UploadNews::Credit { bytes, .. } => bytes,
            other => panic!("no credit: {other:?}"),
        }
    }

    /// The files of a kind.
    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.artifacts.shared.files.folder(kind)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("readable").path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }

    /// Makes room as if it were so much later.
    fn sweep_in(&self, later: Duration) {
        let mut sweep = Sweep::new(SystemTime::now() + later, HOUR);
        while !sweep.step(&self.artifacts.shared, &self.store).expect("the disk is well") {}
    }

    /// The task ends with these, and the store knows it. Waits for the note.
    async fn finish(&mut self, artifacts: Vec<Artifact>) -> TaskRecord {
        let record = TaskRecord { artifacts, ..record(TaskState::Succeeded) };
        let kept = record.artifacts.len().min(1);
        let batch = Batch::from(vec![(Seq(1), Record::Task(Arc::new(record.clone())))]);
        self.store.commit(&batch).expect("memory takes all");
        self.artifacts.finish(TASK, &record);
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !self.files("open").is_empty() || self.files("kept").len() < kept {
            assert!(std::time::Instant::now() < until, "the note is not written");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        record
    }
}

fn record(state: TaskState) -> TaskRecord {
    TaskRecord::in_state(TASK, TaskSpec::new("echo", "{}"), state, Wall(1_000))
}

fn hash(bytes: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(bytes).into())
}

fn announced(bytes: &[u8]) -> Artifact {
    let (name, media_type) = ("a.bin".into(), "application/x-test".into());
    Artifact { name, media_type, size: bytes.len() as u64, sha256: hash(bytes) }
}

#[tokio::test]
async fn the_same_bytes_are_kept_once_and_for_nobody_else_to_read() {
    let mut room = Room::new();
    room.keep(1, "a.txt", b"hello");
    room.keep(2, "../../etc/passwd", b"hello");
    assert_eq!((room.stored().await.sha256, room.stored().await.sha256), (hash(b"hello"), hash(b"hello")));
    let contents = room.files("content");
    assert_eq!(contents.len(), 1);
    let mode = std::fs::metadata(&contents[0]).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(contents[0].ends_with(hash(b"hello").to_string()), "named by its hash alone");
    assert_eq!(room.files("tmp"), Vec::<PathBuf>::new());
    let names: Vec<_> = room.artifacts.of(TASK, EPOCH).into_iter().map(|it| it.name.to_string()).collect();
    assert_eq!(names, ["a.txt", "../../etc/passwd"]);
    assert_eq!(room.artifacts.of(TASK, Epoch(EPOCH.0 + 1)), []);
}

#[tokio::test]
async fn a_later_file_takes_the_place_of_the_former_of_its_name() {
    let mut room = Room::new();
    room.keep(1, "a.txt", b"old");
    room.keep(2, "a.txt", b"new");
    room.stored().await;
    let new = room.stored().await;
    assert_eq!(room.artifacts.of(TASK, EPOCH), [new]);
}

#[tokio::test]
async fn a_worker_gets_credit_as_its_bytes_reach_the_disk_and_never_beyond_the_size() {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut room = Room::new();
    let mut upload = room.artifacts.upload(room.to(1), announced(&bytes)).expect("within the limits");
    let (mut open, mut granted, mut rest) = (0, 0, Bytes::from(bytes.clone()));
    while !rest.is_empty() {
        if open == 0 {
            let more = room.credit().await;
            (open, granted) = (open + more, granted + more);
            assert!(open <= 256 << 10, "{open}");
        }
        let piece = rest.split_to(rest.len().min(64 << 10).min(usize::try_from(open).expect("small")));
        open -= piece.len() as u64;
        upload.write(piece);
    }
    while let Ok(news) = room.news.try_recv() {
        assert!(matches!(news, UploadNews::Stored { .. }), "{news:?}");
    }
    drop(upload);
    assert_eq!(granted, bytes.len() as u64);
}

#[tokio::test]
async fn other_bytes_than_announced_are_refused_and_leave_nothing() {
    let mut room = Room::new();
    let mut upload = room.artifacts.upload(room.to(1), announced(b"hello")).expect("within the limits");
    assert_eq!(room.credit().await, 5);
    upload.write(Bytes::from_static(b"jello"));
    assert_eq!(&*room.refused().await, "artifact_corrupt");
    assert_eq!((room.files("content"), room.files("tmp")), (Vec::new(), Vec::new()));
    assert_eq!(room.artifacts.of(TASK, EPOCH), []);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_and_gives_its_place_back() {
    let mut room = Room::new();
    let half = Artifact { size: MAX_ATTEMPT_BYTES / 4, ..announced(b"hello") };
    for number in 0..8 {
        let mut upload = room.artifacts.upload(room.to(number), half.clone()).expect("place is given back");
        room.credit().await;
        upload.write(Bytes::from_static(b"half"));
        drop(upload);
        // The next one is written by the same thread, after that one was given up.
        room.keep(100, "a.txt", b"");
        room.stored().await;
    }
    assert_eq!(room.files("tmp"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_attempt_makes_no_more_than_so_many_and_so_much() {
    let room = Room::new();
    let refused =
        |artifact| room.artifacts.upload(room.to(1), artifact).err().map(|error| error.code.to_string());
    let of = |size| Artifact { size, ..announced(b"") };
    assert_eq!(refused(of(MAX_BYTES + 1)).as_deref(), Some("artifact_too_large"));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(room.artifacts.upload(room.to(1), of(MAX_BYTES)).expect("within the limits"));
    }
    assert_eq!(refused(of(1)).as_deref(), Some("too_many_artifacts"));
    let named = |name: &str| Artifact { name: name.into(), ..of(0) };
    assert_eq!(refused(named("")).as_deref(), Some("artifact_bad_name"));
    assert_eq!(refused(named("a\r\nb")).as_deref(), Some("artifact_bad_name"));
    assert_eq!(refused(named(&"x".repeat(256))).as_deref(), Some("artifact_bad_name"));
    let typed = Artifact { media_type: "text/html\r\nx: y".into(), ..of(0) };
    assert_eq!(refused(typed).as_deref(), Some("artifact_bad_type"));
    let empty = (held.len()..MAX_NUMBER).map(|number| named(&number.to_string()));
    for artifact in empty {
        held.push(room.artifacts.upload(room.to(1), artifact).expect("within the limits"));
    }
    assert_eq!(refused(named("one more")).as_deref(), Some("too_many_artifacts"));
}

#[tokio::test]
async fn a_disk_that_fails_is_the_error_of_that_file_alone() {
    let mut room = Room::new();
    std::fs::write(room.folder.path().join("artifacts"), b"in the way").expect("it can be written");
    room.keep(1, "a.txt", b"hello");
    assert_eq!(&*room.refused().await, "artifact_store_failed");
    std::fs::remove_file(room.folder.path().join("artifacts")).expect("it is there");
    room.keep(2, "a.txt", b"hello");
    room.stored().await;
}

#[tokio::test]
async fn a_restarted_server_knows_what_running_attempts_have_made() {
    let mut room = Room::new();
    room.keep(1, "a.txt", b"hello");
    let made = room.stored().await;
    let mut room = room.restarted(&[Record::Task(Arc::new(record(TaskState::Running)))]).await;
    assert_eq!(room.artifacts.of(TASK, EPOCH), std::slice::from_ref(&made));

    // The server dies within the next note: half a line says nothing, and a whole one may follow.
    let note = &room.files("open")[0];
    let mut text = std::fs::read(note).expect("it is there");
    text.extend_from_slice(b"{\"epoch\":42949");
    std::fs::write(note, text).expect("it can be written");
    room = room.restarted(&[Record::Task(Arc::new(record(TaskState::Running)))]).await;
    room.keep(2, "b.txt", b"again");
    let again = room.stored().await;
    room = room.restarted(&[Record::Task(Arc::new(record(TaskState::Running)))]).await;
    assert_eq!(room.artifacts.of(TASK, EPOCH), [made, again]);
}

#[tokio::test]
async fn what_a_task_of_a_lost_store_had_made_goes_and_the_disk_is_free_again() {
    let mut room = Room::new();
    room.keep(1, "a.txt", b"hello");
    room.stored().await;
    let room = room.restarted(&[]).await;
    room.artifacts.close().await;
    assert_eq!(room.files("open"), Vec::<PathBuf>::new());
    room.sweep_in(Duration::ZERO);
    assert_eq!(room.files("content").len(), 1, "its task may be on its way");
    room.sweep_in(Duration::from_secs(700));
    assert_eq!(room.files("content"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_a_finished_task_shows_stays_until_it_is_old_and_nothing_else_of_it() {
    let mut room = Room::new();
    room.keep(1, "shown.txt", b"shown");
    room.keep(2, "other.txt", b"not shown");
    let shown = room.stored().await;
    room.stored().await;
    room.sweep_in(50 * HOUR);
    assert_eq!(room.files("content").len(), 2, "an unfinished task may show both");
    room.finish(vec![shown.clone()]).await;
    room.sweep_in(Duration::from_secs(700));
    assert!(room.artifacts.open(&shown.sha256).expect("readable").is_some());
    assert_eq!(room.files("content").len(), 1);
    room.sweep_in(HOUR + Duration::from_secs(1));
    assert_eq!((room.files("content"), room.files("kept")), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn what_a_task_showed_goes_once_the_store_has_forgotten_it() {
    let mut room = Room::new();
    room.keep(1, "a.txt", b"hello");
    let shown = room.stored().await;
    room.finish(vec![shown]).await;
    room.store = MemoryStore::new(Retention::default());
    room.sweep_in(Duration::from_secs(700));
    assert_eq!((room.files("content"), room.files("kept")), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn what_a_caller_uploads_stays_for_its_time_and_longer_where_a_task_refers_to_it() {
    let room = Room::new();
    let give = |bytes: &[u8]| {
        let mut gift = room.artifacts.receive().expect("there is room");
        gift.write(bytes).expect("there is room");
        gift.keep().expect("there is room").0
    };
    let (used, unused) = (give(b"used"), give(b"unused"));
    assert_eq!(room.artifacts.missing(&[used, unused]).expect("readable"), None);
    assert_eq!(room.artifacts.missing(&[hash(b"never")]).expect("readable"), Some(hash(b"never")));
    room.sweep_in(HOUR / 2);
    assert_eq!(room.files("content").len(), 2);
    room.artifacts.pin(TASK, &[used]);
    room.sweep_in(2 * HOUR);
    assert_eq!(room.artifacts.missing(&[used, unused]).expect("readable"), Some(unused));
    room.artifacts.unpin(TASK);
    room.sweep_in(2 * HOUR);
    assert_eq!((room.files("content"), room.files("given")), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_gift_that_breaks_off_leaves_nothing() {
    let room = Room::new();
    let mut gift = room.artifacts.receive().expect("there is room");
    gift.write(b"half").expect("there is room");
    assert_eq!(room.files("tmp").len(), 1);
    drop(gift);
    assert_eq!((room.files("tmp"), room.files("content")), (Vec::new(), Vec::new()));
}
