//! What only a store on disk must do: come back as it was, refuse what it must not touch, and find
//! what is not as it was written.

use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::fleet::{Hint, Overlay, Record, RosterEntry, Seq, TaskRecord, Tenant, Term};
use crate::store::tests::{batch, ended, small, task, with_input};
use crate::store::{Query, Retention};

mod copies;
mod faults;

fn reopened(folder: &Path) -> Opened {
    open(&small(folder)).unwrap_or_else(|error| panic!("{error}"))
}

fn raw(folder: &Path) -> Connection {
    Connection::open(place::database_in(folder)).expect("the database opens")
}

fn tasks_of(opened: &Opened) -> Vec<TaskRecord> {
    let tasks = opened.records.iter().filter_map(|record| match record {
        Record::Task(task) => Some(TaskRecord::clone(task)),
        Record::HandOver(_)
        | Record::Roster(_)
        | Record::Overlay(..)
        | Record::Pool(..)
        | Record::Session(..) => None,
    });
    tasks.collect()
}

#[test]
fn a_store_that_is_opened_again_has_what_was_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let large = with_input(&task(2), &format!("\"{}\"", "x".repeat(40_000)));
    let entry = RosterEntry {
        worker: "ann".into(),
        instance: "i-1".into(),
        endpoint: Some("ws://127.0.0.1:1".into()),
        launched: true,
        capabilities: Vec::new(),
        timeout: None,
    };
    let said = Overlay { cordoned: true, ..Overlay::default() };
    let mut first = reopened(folder.path());
    first.journal.commit(&batch([&task(1), &large, &ended(&task(3))])).expect("written");
    let others = vec![
        (Seq(4), Record::Roster(entry.clone())),
        (Seq(5), Record::Overlay("ann".into(), said.clone())),
        (Seq(6), Record::Overlay("bob".into(), said.clone())),
        (Seq(7), Record::Overlay("bob".into(), Overlay::default())),
    ];
    first.journal.commit(&others.into()).expect("written");
    let (id, term) = (first.id.clone(), first.term);
    drop(first);
    let again = reopened(folder.path());
    assert_eq!((again.id.clone(), again.term), (id, Term(term.0 + 1)));
    let lean = TaskRecord { spec: Arc::new(large.spec.without_input()), ..large.clone() };
    assert_eq!(
        tasks_of(&again),
        [task_like(&again, 1), lean],
        "a large input is not read before it is needed"
    );
    let input = again.archive.input(&large.tenant, large.id).expect("it can be read");
    assert_eq!(input.as_ref(), Some(&large.spec.input));
    assert_eq!(again.records[2..], [Record::Roster(entry), Record::Overlay("ann".into(), said)]);
}

/// The first task with the time at which the test made it.
fn task_like(opened: &Opened, id: u128) -> TaskRecord {
    let found = tasks_of(opened).into_iter().find(|task| task.id.0 == id).expect("it is there");
    TaskRecord { submitted_at: found.submitted_at, ..task(id) }
}

#[test]
fn an_older_term_writes_nothing_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut old = reopened(folder.path());
    // Another server came past the lock: somebody has deleted its file.
    std::fs::remove_file(folder.path().join("lock")).expect("it is there");
    let new = reopened(folder.path());
    let refused = old.journal.commit(&batch([&task(1)]));
    assert_eq!(refused, Err(StoreFault::Fenced { by: new.term }));
    drop((old, new));
    assert!(reopened(folder.path()).records.is_empty());
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = reopened(folder.path());
    let refused = open(&small(folder.path())).map(|_| ()).expect_err("it is held");
    assert!(matches!(refused, OpenError::Held { by: Some(_), .. }), "{refused}");
    drop(first);
    reopened(folder.path());
}

#[test]
fn a_newer_store_and_a_foreign_database_are_refused_untouched() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(reopened(folder.path()));
    raw(folder.path()).pragma_update(None, "user_version", 99).expect("written");
    let newer = open(&small(folder.path())).map(|_| ()).expect_err("it is newer");
    assert!(matches!(newer, OpenError::Newer { found: 99, .. }), "{newer}");

    let folder = tempfile::tempdir().expect("a folder");
    raw(folder.path()).execute_batch("CREATE TABLE theirs (x)").expect("written");
    let before = std::fs::read(place::database_in(folder.path())).expect("read");
    let foreign = open(&small(folder.path())).map(|_| ()).expect_err("it is foreign");
    assert!(matches!(foreign, OpenError::Foreign(_)), "{foreign}");
    assert_eq!(std::fs::read(place::database_in(folder.path())).expect("read"), before);
}

#[test]
fn an_older_store_is_copied_and_brought_forward() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, newest) = (&schema::STEPS[..1], schema::STEPS.len() as i64);
    let mut old = open::open(&small(folder.path()), first).unwrap_or_else(|error| panic!("{error}"));
    old.journal.commit(&batch([&task(1)])).expect("written");
    drop(old);
    // The first version's rows have checksums of another kind.
    let db = raw(folder.path());
    let (id, record): (Vec<u8>, Vec<u8>) = db
        .query_row("SELECT id, record FROM tasks", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a row");
    let sum = codec::first_checksum(&[b"task", &id, &task(1).version.to_be_bytes(), &record]);
    assert_eq!(db.execute("UPDATE tasks SET checksum = ?1", [sum]), Ok(1));
    drop(db);
    let new = reopened(folder.path());
    assert_eq!(tasks_of(&new).len(), 1);
    drop(new);
    let copy = Connection::open(folder.path().join("rollcall.db.version-1")).expect("it was made");
    assert_eq!(schema::version(&copy).expect("it has one"), 1);
    let tasks: i64 = copy.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).expect("it is whole");
    assert_eq!(tasks, 1);
    let back = open::open(&small(folder.path()), first).map(|_| ()).expect_err("there is no way back");
    assert!(matches!(back, OpenError::Newer { found, known: 1, .. } if found == newest), "{back}");
}

#[test]
fn a_step_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(reopened(folder.path()));
    let steps = [schema::STEPS, &["ALTER TABLE tasks ADD COLUMN colour TEXT; SELECT nonsense"]].concat();
    open::open(&small(folder.path()), &steps).map(|_| ()).expect_err("the step is wrong");
    reopened(folder.path());
}

#[test]
fn only_the_owner_may_look_at_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("data");
    let mut opened = reopened(&inner);
    opened.journal.commit(&batch([&task(1)])).expect("written");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&inner).expect("a folder") {
        let entry = entry.expect("a name");
        let mode = entry.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.file_name());
        names.push(entry.file_name().into_string().expect("UTF-8"));
    }
    names.sort();
    assert_eq!(names, ["ballast", "lock", "rollcall.db", "rollcall.db-shm", "rollcall.db-wal"]);
}

#[test]
fn a_row_that_was_changed_is_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut opened = reopened(folder.path());
    let tasks: Vec<_> = (1..=3).map(|id| ended(&task(id))).collect();
    opened.journal.commit(&batch(&tasks)).expect("written");
    raw(folder.path())
        .execute_batch(
            "UPDATE tasks SET record = CAST(replace(record, 'succeeded', 'cancelled') AS BLOB) WHERE id = (SELECT min(id) FROM tasks);
             UPDATE tasks SET state = 'failed' WHERE id = (SELECT max(id) FROM tasks);",
        )
        .expect("changed");
    let tenant = Tenant::default_tenant();
    for id in [1, 3] {
        let read = opened.archive.task(&tenant, TaskId(id));
        assert!(matches!(read, Err(crate::store::ReadFault::Damaged(_))), "{read:?}");
    }
    let page = opened.archive.list(&Query::newest(tenant, 2)).expect("the others can be read");
    assert_eq!(page.items.iter().map(|task| task.id.0).collect::<Vec<_>>(), [2]);
    assert_eq!(page.next, Some(TaskId(2)), "the next page goes on");
}

#[test]
fn a_task_that_is_damaged_or_missing_refuses_the_start() {
    for change in [
        "UPDATE tasks SET record = CAST(replace(record, 'echo', 'ecko') AS BLOB)",
        "DELETE FROM tasks",
        "UPDATE tasks SET finished_at = 1",
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut opened = reopened(folder.path());
        opened.journal.commit(&batch([&task(1)])).expect("written");
        drop(opened);
        raw(folder.path()).execute_batch(change).expect("changed");
        let refused = open(&small(folder.path())).map(|_| ()).expect_err(change);
        assert!(matches!(refused, OpenError::Damaged { .. }), "{change}: {refused}");
        assert!(refused.to_string().contains("rollcall repair"), "{refused}");
    }
}

#[test]
fn workers_of_long_ago_are_forgotten_unless_a_task_names_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut opened = reopened(folder.path());
    let entry = |name: &str| RosterEntry {
        worker: name.into(),
        instance: "i-1".into(),
        endpoint: None,
        launched: false,
        capabilities: Vec::new(),
        timeout: None,
    };
    let hint =
        Hint { worker: "ann".into(), instance: "i-1".into(), epoch: crate::fleet::Epoch(1), started: true };
    let hinted = TaskRecord { hint: Some(hint), ..task(1) };
    let records = vec![
        (Seq(1), Record::Roster(entry("ann"))),
        (Seq(2), Record::Roster(entry("bob"))),
        (Seq(3), Record::Task(Arc::new(hinted))),
    ];
    opened.journal.commit(&records.into()).expect("written");
    drop(opened);
    raw(folder.path()).execute("UPDATE roster SET seen_at = 0", []).expect("changed");
    let names = |opened: Opened| {
        let rosters = opened.records.into_iter().filter_map(|record| match record {
            Record::Roster(entry) => Some(entry.worker.to_string()),
            Record::Task(_)
            | Record::HandOver(_)
            | Record::Overlay(..)
            | Record::Pool(..)
            | Record::Session(..) => None,
        });
        rosters.collect::<Vec<_>>()
    };
    assert_eq!(names(reopened(folder.path())), ["ann"]);
}

#[test]
fn deleted_tasks_give_their_space_back_to_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Retention { max_tasks: 10, ..Retention::default() };
    let mut opened = open(&SqliteOptions { retention: Retention::default(), ..small(folder.path()) })
        .unwrap_or_else(|error| panic!("{error}"));
    let input = format!("\"{}\"", "x".repeat(30_000));
    let tasks: Vec<_> = (1..=600).map(|id| ended(&with_input(&task(id), &input))).collect();
    opened.journal.commit(&batch(&tasks)).expect("written");
    let size = |opened: &mut Opened| {
        drop(raw(folder.path()).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        opened.journal.size().expect("it has a size").db
    };
    let before = size(&mut opened);
    opened.limits.set(kept);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        opened.journal.tend().expect("it can tidy up");
        let after = size(&mut opened);
        // A few free pages stay for what comes next.
        if after < before / 3 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{before} bytes before, {after} after");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let page = opened.archive.list(&Query::newest(Tenant::default_tenant(), 100)).expect("it can be read");
    assert_eq!(page.items.len(), 10);
}

#[test]
fn what_the_first_version_wrote_of_workers_can_be_read_for_ever() {
    let text = r#"{"worker":"ann","instance":"i-1","endpoint":"ws://127.0.0.1:1","launched":true,
        "capabilities":[{"name":"echo","description":"d","input_schema":"{}","idempotent":true}]}"#;
    let entry: RosterEntry = codec::decoded(text.as_bytes()).unwrap_or_else(|damage| panic!("{damage}"));
    assert_eq!((entry.worker.as_str(), entry.capabilities.len()), ("ann", 1));
    let text = r#"{"cordoned":true,"draining":false}"#;
    let said: Overlay = codec::decoded(text.as_bytes()).unwrap_or_else(|damage| panic!("{damage}"));
    assert!(said.cordoned);
}

#[test]
fn a_record_of_the_first_version_can_be_read_for_ever() {
    let text = include_str!("record-1.json");
    let record =
        codec::decode(text.trim().as_bytes(), || Ok(None)).unwrap_or_else(|failed| panic!("{failed}"));
    assert_eq!((record.id.0, record.state.as_str()), (7, "succeeded"));
    let again = codec::encode(&record).unwrap_or_else(|failed| panic!("{failed}"));
    let (new, old): (serde_json::Value, serde_json::Value) =
        (serde_json::from_slice(&again.record).expect("JSON"), serde_json::from_str(text).expect("JSON"));
    for (field, value) in old.as_object().expect("an object") {
        assert_eq!(new.get(field), Some(value), "{field} is written otherwise now: readers need a default");
    }
}
