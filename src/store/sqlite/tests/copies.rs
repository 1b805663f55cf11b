//! Backups, repairs, and records that are set aside.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::fleet::{Keep, KeyHash};

fn filled(folder: &Path, count: u128) -> Opened {
    let mut opened = reopened(folder);
    let tasks: Vec<_> = (1..=count)
        .map(|id| TaskRecord { keep: Keep::ByKey(KeyHash { key: id, body: 1 }), ..task(id) })
        .map(|task| if task.id.0 % 2 == 0 { ended(&task) } else { task })
        .collect();
    opened.journal.commit(&batch(&tasks)).expect("written");
    opened
}

fn ids(opened: &Opened) -> Vec<u128> {
    let page = opened.archive.list(&Query::newest(Tenant::default_tenant(), 100)).expect("it can be read");
    page.items.iter().map(|task| task.id.0).collect()
}

#[test]
fn a_backup_of_a_store_in_use_is_whole_private_and_replaces_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = filled(folder.path(), 9);
    let copies = tempfile::tempdir().expect("a folder");
    let file = copies.path().join("rollcall.db");
    let copied = backup(folder.path(), &file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(copied.tasks, 9);
    let mode = file.metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = backup(folder.path(), &file).expect_err("it is there already");
    assert!(matches!(again, BackupError::Exists(_)), "{again}");
    let left: Vec<_> = std::fs::read_dir(copies.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "nothing but the copy: {left:?}");
    assert_eq!(ids(&reopened(copies.path())), ids(&opened));
    let none = backup(copies.path().join("elsewhere").as_path(), &file).expect_err("no store");
    assert!(matches!(none, BackupError::NoStore(_)), "{none}");
}

/// The store as a server leaves it that is killed: what it had open is beside it.
fn killed(folder: &Path, beside: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["rollcall.db".to_owned(), format!("rollcall.db{beside}")] {
        let length = std::fs::copy(folder.join(&name), copy.path().join(&name)).expect("it is there");
        assert!(length > 0, "{name} has something in it");
    }
    copy
}

/// What a copy, a look and a start find in a store that was left like that.
fn everything_is_found(leave: impl Fn() -> tempfile::TempDir, count: u64) {
    let folder = leave();
    let copies = tempfile::tempdir().expect("a folder");
    let file = copies.path().join("rollcall.db");
    let copied = backup(folder.path(), &file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(copied.tasks, count);
    assert_eq!(ids(&reopened(copies.path())).len() as u64, count);
    let folder = leave();
    let report = inspect(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.is_whole() && report.tasks == count, "{report:?}");
    assert_eq!(ids(&reopened(leave().path())).len() as u64, count);
}

#[test]
fn what_a_killed_server_had_only_in_its_log_is_copied_and_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let _open = filled(folder.path(), 9);
    everything_is_found(|| killed(folder.path(), "-wal"), 9);
}

#[test]
fn what_a_killed_server_had_begun_without_a_log_is_undone_by_a_copy_and_a_look() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(filled(folder.path(), 9));
    let db = raw(folder.path());
    db.execute_batch(
        "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN IMMEDIATE;
         UPDATE tasks SET record = zeroblob(100000);",
    )
    .expect("begun");
    everything_is_found(|| killed(folder.path(), "-journal"), 9);
}

#[test]
fn a_store_in_use_is_not_repaired() {
    let folder = tempfile::tempdir().expect("a folder");
    let _opened = filled(folder.path(), 1);
    let refused = inspect(folder.path()).expect_err("a server has it");
    assert!(matches!(refused, RepairError::Open(OpenError::Held { .. })), "{refused}");
}

#[test]
fn a_repair_names_what_is_damaged_and_goes_on_with_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = filled(folder.path(), 9);
    let (id, term) = (before.id.clone(), before.term);
    drop(before);
    assert!(inspect(folder.path()).expect("it can be looked at").is_whole());
    raw(folder.path())
        .execute_batch(
            "UPDATE tasks SET record = CAST(replace(record, 'echo', 'ecko') AS BLOB)
                 WHERE id = (SELECT min(id) FROM tasks);
             DELETE FROM tasks WHERE id = (SELECT max(id) FROM tasks);",
        )
        .expect("changed");
    open(&small(folder.path())).map(|_| ()).expect_err("it is damaged");
    let report = inspect(folder.path()).expect("it can be looked at");
    assert_eq!((report.tasks, report.damaged, report.aside.len()), (7, 2, 0), "{report:?}");
    assert!(report.damages[0].contains("00000000-0000-0000-0000-000000000001"), "{report:?}");

    let file = folder.path().join("saved.db");
    assert_eq!(salvage(folder.path(), &file).expect("saved"), report);
    open(&small(folder.path())).map(|_| ()).expect_err("the store is as it was");

    let (dropped, kept) = drop_damaged(folder.path()).expect("dropped");
    assert_eq!(dropped, report);
    assert!(kept.exists());
    let mut after = reopened(folder.path());
    assert_eq!(ids(&after), [8, 7, 6, 5, 4, 3, 2]);
    assert_eq!((after.id.clone(), after.term), (id, Term(term.0 + 1)), "epochs go on from where they were");
    // The keys of lost tasks still make no second task.
    let second = TaskRecord { keep: Keep::ByKey(KeyHash { key: 9, body: 1 }), ..task(20) };
    assert_eq!(after.journal.commit(&batch([&second])).expect("written").len(), 1);
}

#[test]
fn what_can_be_read_of_a_broken_file_is_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut opened = reopened(folder.path());
    let tasks: Vec<_> = (1..=400).map(task).collect();
    opened.journal.commit(&batch(&tasks)).expect("written");
    drop(opened);
    let database = place::database_in(folder.path());
    let mut bytes = std::fs::read(&database).expect("read");
    // One page of many, beyond those that say what is where.
    let page = bytes.len() / 4_096 / 2 * 4_096;
    bytes[page..page + 4_096].fill(0x55);
    std::fs::write(&database, &bytes).expect("written");
    let file = folder.path().join("saved.db");
    let report = salvage(folder.path(), &file).expect("saved");
    assert!(report.damaged > 0 && report.tasks > 300, "{report:?}");
    let copies = tempfile::tempdir().expect("a folder");
    std::fs::rename(&file, place::database_in(copies.path())).expect("moved");
    let saved = reopened(copies.path());
    assert_eq!(saved.records.len() as u64, report.tasks);
    for record in &saved.records {
        let Record::Task(saved) = record else { panic!("only tasks were written") };
        assert!(tasks.contains(saved), "{saved:?}");
    }
}

#[test]
fn a_task_that_was_set_aside_is_out_of_the_way_and_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = filled(folder.path(), 3);
    assert_eq!(first.failed_recoveries, 0);
    first.journal.recovered().expect("noted");
    drop(first);
    assert_eq!(reopened(folder.path()).failed_recoveries, 0);
    let mut third = reopened(folder.path());
    assert_eq!(third.failed_recoveries, 1, "the one before did not come through");
    third.journal.set_aside(&[(Tenant::default_tenant(), TaskId(3))], "it fails").expect("moved");
    third.journal.recovered().expect("noted");
    drop(third);
    assert_eq!(ids(&reopened(folder.path())), [2, 1]);
    let report = inspect(folder.path()).expect("it can be looked at");
    assert_eq!(report.aside, ["task 00000000-0000-0000-0000-000000000003: it fails"]);
    assert_eq!(report.damaged, 0, "{report:?}");
}
