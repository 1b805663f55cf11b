//! What every store must do, told once and held for each kind; and records to tell it with.

use super::sqlite::SqliteOptions;
use super::*;
use crate::fleet::{
    AttemptOutcome, AttemptRecord, Epoch, Keep, KeyHash, Overlay, Payload, RosterEntry, TaskSpec, Wall,
};

/// A kept task that waits.
pub(super) fn task(id: u128) -> TaskRecord {
    let spec = TaskSpec::new("echo", format!("{{\"n\":{id}}}"));
    TaskRecord::in_state(TaskId(id), spec, TaskState::Queued, now())
}

pub(super) fn now() -> Wall {
    Wall(sqlite::now())
}

/// The same task once it has ended.
pub(super) fn ended(task: &TaskRecord) -> TaskRecord {
    let attempt = AttemptRecord {
        number: 1,
        epoch: Epoch(1 << 32),
        worker: "ann".into(),
        instance: "i-1".into(),
        outcome: Some(AttemptOutcome::Succeeded),
        error: None,
        assigned_at: now(),
        started_at: Some(now()),
        finished_at: Some(now()),
    };
    TaskRecord {
        version: task.version + 1,
        state: TaskState::Succeeded,
        attempts: vec![attempt],
        output: Some(Payload::from("\"done\"")),
        finished_at: Some(now()),
        ..task.clone()
    }
}

pub(super) fn with_input(task: &TaskRecord, input: &str) -> TaskRecord {
    let spec = TaskSpec { input: Payload::from(input), ..TaskSpec::clone(&task.spec) };
    TaskRecord { spec: Arc::new(spec), ..task.clone() }
}

/// Records in a batch, numbered from 1.
pub(super) fn batch<'a>(records: impl IntoIterator<Item = &'a TaskRecord>) -> Batch {
    let numbered = records.into_iter().zip(1..);
    numbered.map(|(task, seq)| (Seq(seq), Record::Task(Arc::new(task.clone())))).collect::<Vec<_>>().into()
}

pub(super) fn small(folder: &std::path::Path) -> SqliteOptions {
    SqliteOptions { ballast: 1 << 20, ..SqliteOptions::new(folder, Retention::default()) }
}

/// Opens an empty store of each kind, with such a retention.
fn each_kind(retention: Retention, story: impl Fn(Opened)) {
    story(MemoryStore::new(retention).open());
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions { retention, ..small(folder.path()) };
    story(sqlite::open(&options).expect("an empty store opens"));
}

fn whole(opened: &Opened, id: u128) -> Option<TaskRecord> {
    let found = opened.archive.task(&Tenant::default_tenant(), TaskId(id)).expect("it can be read");
    found.map(|found| TaskRecord::clone(&found))
}

fn listed(opened: &Opened, query: &Query) -> Vec<u128> {
    let page = opened.archive.list(query).expect("it can be read");
    page.items.iter().map(|task| task.id.0).collect()
}

fn everything() -> Query {
    Query::newest(Tenant::default_tenant(), 100)
}

#[test]
fn the_last_version_of_a_record_wins_whatever_the_order() {
    each_kind(Retention::default(), |mut opened| {
        let (first, last) = (task(1), ended(&task(1)));
        opened.journal.commit(&batch([&last, &first])).expect("written");
        assert_eq!(whole(&opened, 1), Some(last.clone()));
        opened.journal.commit(&batch([&first])).expect("written");
        assert_eq!(whole(&opened, 1), Some(last));
        assert_eq!(whole(&opened, 2), None);
    });
}

#[test]
fn a_large_input_comes_back_as_it_went() {
    each_kind(Retention::default(), |mut opened| {
        let large = with_input(&task(1), &format!("\"{}\"", "ä".repeat(100_000)));
        let empty = with_input(&task(2), "");
        opened.journal.commit(&batch([&large, &empty])).expect("written");
        let end = ended(&large);
        opened.journal.commit(&batch([&end])).expect("written");
        assert_eq!((whole(&opened, 1), whole(&opened, 2)), (Some(end), Some(empty)));
    });
}

#[test]
fn an_input_that_later_records_do_not_have_any_more_stays() {
    each_kind(Retention::default(), |mut opened| {
        let text = format!("\"{}\"", "ä".repeat(TaskSpec::LARGE_INPUT));
        let (large, small) = (with_input(&task(1), &text), task(2));
        opened.journal.commit(&batch([&large, &small])).expect("written");
        let stowed = |record: &TaskRecord| TaskRecord {
            spec: Arc::new(record.spec.without_input()),
            ..record.clone()
        };
        let dead = TaskRecord { dead_letter: true, ..ended(&stowed(&large)) };
        let retried = TaskRecord { dead_letter: false, version: dead.version + 1, ..dead.clone() };
        for record in [&dead, &retried] {
            opened.journal.commit(&batch([record])).expect("written");
            let whole = TaskRecord { spec: Arc::clone(&large.spec), ..record.clone() };
            assert_eq!(self::whole(&opened, 1), Some(whole));
        }
        let input = |opened: &Opened, tenant: &str, id| {
            opened.archive.input(&tenant.into(), TaskId(id)).expect("it can be read")
        };
        assert_eq!(input(&opened, "default", 1).as_ref().map(Payload::as_str), Some(text.as_str()));
        assert_eq!((input(&opened, "other", 1), input(&opened, "default", 3)), (None, None));
        opened.limits.set(Retention { max_tasks: 0, ..Retention::default() });
        opened.journal.commit(&batch([&ended(&small)])).expect("written");
        tend(&mut opened);
        assert_eq!(input(&opened, "default", 1), None, "it is deleted with its task");
    });
}

#[test]
fn dead_letters_are_counted_by_capability_until_they_are_retried_or_forgotten() {
    each_kind(Retention { max_tasks: 3, ..Retention::default() }, |mut opened| {
        let dead = |id| TaskRecord { dead_letter: true, state: TaskState::Lost, ..ended(&task(id)) };
        opened.journal.commit(&batch([&dead(1), &dead(2), &ended(&task(3))])).expect("written");
        let count = |opened: &Opened| opened.archive.dead_letters().expect("it can be read").remove("echo");
        assert_eq!(count(&opened), Some(2));
        let retried = TaskRecord { version: 9, dead_letter: false, ..dead(1) };
        opened.journal.commit(&batch([&retried])).expect("written");
        assert_eq!(count(&opened), Some(1));
        let newer: Vec<_> = (4..=6).map(|id| ended(&task(id))).collect();
        opened.journal.commit(&batch(&newer)).expect("written");
        while count(&opened).is_some() {
            opened.journal.tend().expect("the housekeeping goes well");
        }
    });
}

#[test]
fn lists_are_newest_first_filtered_and_paged() {
    each_kind(Retention::default(), |mut opened| {
        let mut tasks: Vec<_> = (1..=6).map(task).collect();
        tasks[1] = ended(&tasks[1]);
        tasks[2] = TaskRecord { dead_letter: true, state: TaskState::Lost, ..ended(&tasks[2]) };
        tasks[5].tenant = "other".into();
        opened.journal.commit(&batch(&tasks)).expect("written");
        assert_eq!(listed(&opened, &everything()), [5, 4, 3, 2, 1]);
        let lost = Query { state: Some(TaskState::Lost), ..everything() };
        assert_eq!(listed(&opened, &lost), [3]);
        assert_eq!(listed(&opened, &Query { dead_letter: Some(true), ..everything() }), [3]);
        assert_eq!(listed(&opened, &Query { dead_letter: Some(false), ..everything() }), [5, 4, 2, 1]);
        assert_eq!(listed(&opened, &Query { worker: Some("ann".into()), ..everything() }), [3, 2]);
        let both = Query { worker: Some("ann".into()), state: Some(TaskState::Succeeded), ..everything() };
        assert_eq!(listed(&opened, &both), [2]);
        assert!(listed(&opened, &Query { capability: Some("x".into()), ..everything() }).is_empty());
        let first = opened.archive.list(&Query { limit: 2, ..everything() }).expect("it can be read");
        assert_eq!((first.items.len(), first.next), (2, Some(TaskId(4))));
        let rest = opened
            .archive
            .list(&Query { limit: 3, before: first.next, ..everything() })
            .expect("it can be read");
        assert_eq!((rest.items.len(), rest.next), (3, None));
        assert_eq!(opened.archive.task(&"other".into(), TaskId(1)), Ok(None), "another tenant's task");
    });
}

#[test]
fn a_key_that_is_taken_keeps_its_task_and_names_it() {
    each_kind(Retention::default(), |mut opened| {
        let keyed = |id, key, body| TaskRecord { keep: Keep::ByKey(KeyHash { key, body }), ..task(id) };
        let taken = opened.journal.commit(&batch([&keyed(1, 7, 70)])).expect("written");
        assert_eq!(taken, []);
        let end = ended(&keyed(1, 7, 70));
        assert_eq!(opened.journal.commit(&batch([&end])), Ok(vec![]), "its own key is free for it");
        let second = keyed(2, 7, 71);
        let later = [&task(3), &second, &ended(&second), &keyed(4, 8, 70)];
        let taken = opened.journal.commit(&batch(later)).expect("written");
        let named = |seq| KeyTaken { seq: Seq(seq), task: TaskId(1), body: 70 };
        assert_eq!(taken, [named(2), named(3)]);
        assert_eq!(whole(&opened, 2), None, "it was not written");
        assert_eq!(listed(&opened, &everything()), [4, 3, 1]);
        let other = TaskRecord { tenant: "other".into(), ..keyed(5, 7, 71) };
        assert_eq!(opened.journal.commit(&batch([&other])), Ok(vec![]), "another tenant's key");
    });
}

#[test]
fn a_log_is_kept_with_its_finished_task_and_once() {
    each_kind(Retention::default(), |mut opened| {
        let log = |id, text: &'static str| TaskLog {
            tenant: Tenant::default_tenant(),
            task: TaskId(id),
            log: Bytes::from_static(text.as_bytes()),
        };
        let mut finished = batch([&ended(&task(1)), &task(2)]);
        finished.logs = vec![log(1, "one"), log(1, "again"), log(2, "too early"), log(3, "of nobody")];
        opened.journal.commit(&finished).expect("written");
        let read = |id| opened.archive.log(&Tenant::default_tenant(), TaskId(id)).expect("it can be read");
        assert_eq!(read(1), Some(Bytes::from_static(b"one")));
        assert_eq!((read(2), read(3)), (None, None));
        assert_eq!(opened.archive.log(&"other".into(), TaskId(1)), Ok(None), "another tenant's task");
    });
}

#[test]
fn a_dead_letter_that_was_retried_is_listed_as_such_no_more_and_takes_room_once() {
    each_kind(Retention { max_tasks: 2, ..Retention::default() }, |mut opened| {
        let dead = TaskRecord { dead_letter: true, state: TaskState::Lost, ..ended(&task(1)) };
        let retried = TaskRecord { dead_letter: false, version: dead.version + 1, ..dead.clone() };
        for record in [&dead, &retried, &dead, &ended(&task(2))] {
            opened.journal.commit(&batch([record])).expect("written");
        }
        tend(&mut opened);
        assert_eq!(listed(&opened, &everything()), [2, 1]);
        assert!(listed(&opened, &Query { dead_letter: Some(true), ..everything() }).is_empty());
    });
}

/// Lets a store delete what it must not keep.
fn tend(opened: &mut Opened) {
    std::thread::sleep(Duration::from_millis(1_100));
    for _ in 0..8 {
        opened.journal.tend().expect("it can tidy up");
    }
}

#[test]
fn finished_tasks_go_by_number_by_size_and_by_age_the_oldest_first() {
    let day = Duration::from_secs(24 * 3600);
    let few = Retention { max_tasks: 2, ..Retention::default() };
    let little = Retention { max_bytes: 27_000, ..Retention::default() };
    let young = Retention { max_age: day, ..Retention::default() };
    for kept in [few, little, young] {
        each_kind(kept, |mut opened| {
            let mut tasks: Vec<_> = (1..=4).map(|id| ended(&task(id))).collect();
            for (task, age) in tasks.iter_mut().zip([50, 40, 2, 1]) {
                task.finished_at = Some(Wall(now().0 - age * 3_600_000));
                task.output = Some(Payload::from(format!("\"{}\"", "x".repeat(10_000))));
            }
            tasks.push(task(9));
            opened.journal.commit(&batch(&tasks)).expect("written");
            tend(&mut opened);
            let left = listed(&opened, &everything());
            assert!(left == [9, 4, 3], "{kept:?} leaves {left:?}");
        });
    }
}

#[test]
fn a_retention_that_is_changed_holds_from_then_on() {
    each_kind(Retention::default(), |mut opened| {
        let tasks: Vec<_> = (1..=4).map(|id| ended(&task(id))).collect();
        opened.journal.commit(&batch(&tasks)).expect("written");
        opened.limits.set(Retention { max_tasks: 1, ..Retention::default() });
        opened.journal.commit(&batch([&ended(&task(5))])).expect("written");
        tend(&mut opened);
        assert_eq!(listed(&opened, &everything()), [5]);
    });
}

#[test]
fn rosters_and_overlays_are_taken_by_every_store() {
    each_kind(Retention::default(), |mut opened| {
        let entry = RosterEntry {
            worker: "ann".into(),
            instance: "i-1".into(),
            endpoint: None,
            launched: false,
            capabilities: Vec::new(),
            timeout: None,
        };
        let said = Overlay { cordoned: true, ..Overlay::default() };
        let records = vec![(Seq(1), Record::Roster(entry)), (Seq(2), Record::Overlay("ann".into(), said))];
        assert_eq!(opened.journal.commit(&records.into()), Ok(vec![]));
    });
}
