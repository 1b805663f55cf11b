//! A disk that is full, that fails, that forgets, and one whose bits flip.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::fleet::{Keep, KeyHash, TaskSpec};
use crate::store::{Archive as _, Batch, Journal as _, ReadFault, TaskLog};

fn opened(folder: &Path) -> open::Parts {
    open::parts(&small(folder), schema::STEPS).unwrap_or_else(|error| panic!("{error}"))
}

fn set_max_pages(parts: &open::Parts, pages: i64) {
    let db = parts.journal.db.as_ref().expect("it is open");
    db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("set");
}

#[test]
fn a_full_disk_takes_nothing_of_a_batch_and_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = opened(folder.path());
    parts.journal.commit(&batch([&task(1)])).expect("written");
    set_max_pages(&parts, 40);
    let large = with_input(&task(2), &format!("\"{}\"", "x".repeat(1 << 20)));
    let full = parts.journal.commit(&batch([&task(3), &large]));
    assert!(matches!(full, Err(StoreFault::Full(_))), "{full:?}");
    let tenant = Tenant::default_tenant();
    assert_eq!(parts.archive.task(&tenant, TaskId(3)), Ok(None), "all of it or nothing");
    assert_eq!(parts.journal.scarce(), None);
    assert!(parts.journal.make_room());
    assert!(matches!(parts.journal.scarce(), Some(StoreFault::Full(_))));
    assert!(!parts.journal.make_room(), "there is only one ballast");
    // What the ballast had is room for results.
    set_max_pages(&parts, 1 << 20);
    parts.journal.commit(&batch([&task(3), &large])).expect("written");
    let until = Instant::now() + Duration::from_secs(60);
    while parts.journal.scarce().is_some() {
        parts.journal.tend().expect("it can tidy up");
        assert!(Instant::now() < until, "the ballast does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(folder.path().join("ballast").exists());
}

/// A failure that closes the connection, as one of the disk does.
fn fail(parts: &mut open::Parts) {
    parts.journal.db = None;
}

#[test]
fn after_a_failure_nothing_is_written_until_it_was_revived_and_what_was_confirmed_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = opened(folder.path());
    parts.journal.commit(&batch([&task(1)])).expect("written");
    fail(&mut parts);
    assert!(matches!(parts.journal.commit(&batch([&task(2)])), Err(StoreFault::Io(_))));
    parts.journal.revive().expect("the disk is well");
    parts.journal.commit(&batch([&task(2)])).expect("written");
    assert_eq!(parts.journal.counts.live, 2);
    let page = parts.archive.list(&Query::newest(Tenant::default_tenant(), 10)).expect("it can be read");
    assert_eq!(page.items.len(), 2);
}

#[test]
fn a_disk_that_forgot_what_it_confirmed_is_not_served() {
    for forget in ["DELETE FROM tasks", "UPDATE tasks SET version = 1"] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut parts = opened(folder.path());
        let first = task(1);
        parts.journal.commit(&batch([&first])).expect("written");
        parts.journal.commit(&batch([&ended(&first)])).expect("written");
        raw(folder.path()).execute_batch(forget).expect("changed");
        fail(&mut parts);
        let revived = parts.journal.revive();
        assert!(matches!(revived, Err(StoreFault::Lost(_))), "{forget}: {revived:?}");
        assert!(parts.journal.commit(&batch([&task(2)])).is_err(), "nothing is written to it any more");
    }
}

#[test]
fn a_task_that_was_swept_is_not_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = opened(folder.path());
    parts.limits.set(Retention { max_tasks: 1, ..Retention::default() });
    parts.journal.commit(&batch([&ended(&task(1)), &ended(&task(2))])).expect("written");
    parts.journal.tend().expect("it can tidy up");
    assert_eq!(parts.archive.task(&Tenant::default_tenant(), TaskId(1)), Ok(None));
    fail(&mut parts);
    parts.journal.revive().expect("nothing is missing");
}

#[test]
fn a_file_that_is_cut_short_while_it_is_used_is_never_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = opened(folder.path());
    let tasks: Vec<_> = (1..=200).map(task).collect();
    parts.journal.commit(&batch(&tasks)).expect("written");
    raw(folder.path()).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("copied");
    let file = std::fs::OpenOptions::new().write(true).open(place::database_in(folder.path()));
    file.and_then(|file| file.set_len(3 * 4_096)).expect("cut");
    fail(&mut parts);
    let revived = parts.journal.revive();
    assert!(matches!(revived, Err(StoreFault::Lost(_))), "{revived:?}");
}

#[test]
fn a_thousand_pages_are_copied_and_a_large_log_is_cut_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = opened(folder.path());
    let log = folder.path().join("rollcall.db-wal");
    let input = format!("\"{}\"", "x".repeat(2 << 20));
    for id in 1..=40 {
        parts.journal.commit(&batch([&ended(&with_input(&task(id), &input))])).expect("written");
        parts.journal.tend().expect("it can tidy up");
        let length = log.metadata().expect("it is there").len();
        assert!(length < 70 << 20, "the log has {length} bytes");
    }
    let size = parts.journal.size().expect("it has a size");
    assert!(size.db > 70 << 20, "the database has what the log had: {size:?}");
}

/// Everything that a store was given.
fn written(folder: &Path) -> Vec<TaskRecord> {
    let mut parts = opened(folder);
    let mut tasks: Vec<_> = (1..=40)
        .map(|id| {
            let keep = Keep::ByKey(KeyHash { key: id, body: id });
            let kept = TaskRecord { keep: if id % 3 == 0 { keep } else { Keep::Kept }, ..task(id) };
            let sized = if id % 5 == 0 { with_input(&kept, &"7".repeat(20_000)) } else { kept };
            if id % 2 == 0 { ended(&sized) } else { sized }
        })
        .collect();
    parts.journal.commit(&batch(&tasks)).expect("written");
    let logs = tasks.iter().map(|task| TaskLog {
        tenant: task.tenant.clone(),
        task: task.id,
        log: format!("log of {}", task.id).into(),
    });
    let logs = Batch { records: Vec::new(), logs: logs.collect() };
    parts.journal.commit(&logs).expect("written");
    tasks.sort_by_key(|task| task.id);
    tasks
}

/// A start holds no large input; whether it is what was written shows where it is read.
fn as_it_is_found(task: &TaskRecord) -> TaskRecord {
    let large = task.spec.input.as_str().len() > TaskSpec::LARGE_INPUT;
    let spec = if large { Arc::new(task.spec.without_input()) } else { Arc::clone(&task.spec) };
    TaskRecord { spec, ..task.clone() }
}

/// Each task once as it is and once in a list: as it was written, or refused.
fn every_answer_is_true(parts: &open::Parts, tasks: &[TaskRecord], what: &str) {
    let tenant = Tenant::default_tenant();
    for task in tasks {
        match parts.archive.task(&tenant, task.id) {
            Ok(Some(read)) => assert_eq!(&*read, task, "{what}"),
            Ok(None) => panic!("{what}: task {} is said not to be there", task.id),
            Err(ReadFault::Damaged(_) | ReadFault::Io(_)) => {}
            Err(ReadFault::Busy) => panic!("{what}: nobody else reads"),
        }
        if let Ok(Some(log)) = parts.archive.log(&tenant, task.id) {
            assert_eq!(log, format!("log of {}", task.id), "{what}");
        }
    }
    let page = parts.archive.list(&Query::newest(tenant, 100)).map(|page| page.items).unwrap_or_default();
    for read in page {
        assert!(tasks.contains(&read), "{what}: a list shows {read:?}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_harmless_but_never_an_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let tasks = written(folder.path());
    let whole = std::fs::read(place::database_in(folder.path())).expect("read");
    let (mut refused, mut served) = (0, 0);
    for seed in 0..500 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut bytes = whole.clone();
        let at = dice.random_range(0..bytes.len());
        bytes[at] ^= 1 << dice.random_range(0..8);
        let what = format!("seed {seed}, byte {at}");
        let copy = tempfile::tempdir().expect("a folder");
        std::fs::write(place::database_in(copy.path()), &bytes).expect("written");
        let options = SqliteOptions { ballast: 4_096, ..small(copy.path()) };
        match open::parts(&options, schema::STEPS) {
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty(), "{what}");
            }
            Ok(parts) => {
                served += 1;
                let live: Vec<_> = parts
                    .records
                    .iter()
                    .filter_map(|record| match record {
                        Record::Task(task) => Some(TaskRecord::clone(task)),
                        Record::HandOver(_)
                        | Record::Roster(_)
                        | Record::Overlay(..)
                        | Record::Pool(..)
                        | Record::Session(..) => None,
                    })
                    .collect();
                let live_ones = tasks.iter().filter(|task| !task.state.is_final());
                let expected: Vec<_> = live_ones.map(as_it_is_found).collect();
                assert_eq!(live, expected, "{what}");
                every_answer_is_true(&parts, &tasks, &what);
            }
        }
    }
    assert!(refused > 50 && served > 50, "{refused} refused, {served} served");
}

#[test]
fn a_log_that_is_cut_short_or_flipped_costs_its_end_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = opened(folder.path());
    let tasks: Vec<_> = (1..=30).map(|id| ended(&task(id))).collect();
    for task in &tasks {
        parts.journal.commit(&batch([task])).expect("written");
    }
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("read");
    let (database, log) = (read("rollcall.db"), read("rollcall.db-wal"));
    for seed in 0..60 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut bytes = log.clone();
        let at = dice.random_range(0..bytes.len());
        if seed % 2 == 0 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 1 << dice.random_range(0..8)
        }
        let copy = tempfile::tempdir().expect("a folder");
        std::fs::write(copy.path().join("rollcall.db"), &database).expect("written");
        std::fs::write(copy.path().join("rollcall.db-wal"), &bytes).expect("written");
        let options = SqliteOptions { ballast: 4_096, ..small(copy.path()) };
        let Ok(parts) = open::parts(&options, schema::STEPS) else { continue };
        let page = parts.archive.list(&Query::newest(Tenant::default_tenant(), 100)).expect("it is whole");
        for (read, task) in page.items.iter().rev().zip(&tasks) {
            assert_eq!(&**read, task, "seed {seed}: the first of them, in order");
        }
    }
}
