//! The beginning: the core takes up what the store had. A record that makes it fail is found at the
//! second start and set aside, so that one task never keeps all others from going on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fleet::{Fleet, Record, TaskId, Tenant};
use crate::store::Journal;

/// Makes the core from its records.
///
/// # Errors
/// When a record made it fail for the first time, or the store takes no writes.
pub(super) fn recover(
    journal: &mut dyn Journal,
    failed_before: u32,
    mut records: Vec<Record>,
    begin: impl Fn(Vec<Record>) -> Fleet,
) -> io::Result<Fleet> {
    // Whatever the core was when it failed is dropped with it.
    let tried = |records: Vec<Record>| catch_unwind(AssertUnwindSafe(|| begin(records))).ok();
    let wrote = |fault| io::Error::other(format!("the store takes no writes: {fault}"));
    if failed_before > 0 {
        let aside = failing(&records, |records| tried(records).is_none());
        if !aside.is_empty() {
            for (_, task) in &aside {
                tracing::error!(%task, "a task made two starts fail and is set aside; `rollcall repair` shows it");
            }
            journal.set_aside(&aside, "recovery failed with it").map_err(wrote)?;
            records.retain(|record| match record {
                Record::Task(task) | Record::HandOver(task) => !aside.iter().any(|(_, id)| *id == task.id),
                Record::Roster(_) | Record::Overlay(..) | Record::Pool(..) | Record::Session(..) => true,
            });
        }
    }
    let Some(fleet) = tried(records) else {
        return Err(io::Error::other(
            "a stored task makes the start fail, which is a bug in Rollcall; the next start finds it and sets it aside",
        ));
    };
    journal.recovered().map_err(wrote)?;
    Ok(fleet)
}

/// The tasks with which alone, beside rosters and overlays, it fails.
fn failing(records: &[Record], fails: impl Fn(Vec<Record>) -> bool) -> Vec<(Tenant, TaskId)> {
    let others: Vec<Record> = records
        .iter()
        .filter(|record| !matches!(record, Record::Task(_) | Record::HandOver(_)))
        .cloned()
        .collect();
    let alone = |record: &Record| others.iter().chain([record]).cloned().collect();
    let tasks = records.iter().filter_map(|record| match record {
        Record::Task(task) | Record::HandOver(task) if fails(alone(record)) => {
            Some((task.tenant.clone(), task.id))
        }
        Record::Task(_)
        | Record::HandOver(_)
        | Record::Roster(_)
        | Record::Overlay(..)
        | Record::Pool(..)
        | Record::Session(..) => None,
    });
    tasks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{KeyTaken, Now, StoreId, TaskRecord, TaskSpec, TaskState, Term, Wall};
    use crate::store::{Batch, StoreFault};

    /// What the journal is told about recoveries.
    #[derive(Default)]
    struct Noted {
        aside: Vec<TaskId>,
        recovered: bool,
    }

    impl Journal for Noted {
        fn commit(&mut self, _: &Batch) -> Result<Vec<KeyTaken>, StoreFault> {
            Ok(Vec::new())
        }

        fn recovered(&mut self) -> Result<(), StoreFault> {
            self.recovered = true;
            Ok(())
        }

        fn set_aside(&mut self, tasks: &[(Tenant, TaskId)], _: &str) -> Result<(), StoreFault> {
            self.aside.extend(tasks.iter().map(|(_, task)| *task));
            Ok(())
        }
    }

    fn queued(id: u128) -> Record {
        let spec = TaskSpec::new("echo", "{}");
        let task = TaskRecord::in_state(TaskId(id), spec, TaskState::Queued, Wall::default());
        Record::Task(std::sync::Arc::new(task))
    }

    /// A core with a bug: it cannot stand the second task.
    fn buggy(records: Vec<Record>) -> Fleet {
        let is_second = |record: &Record| matches!(record, Record::Task(task) if task.id == TaskId(2));
        assert!(!records.iter().any(is_second), "a bug");
        Fleet::recover(Term(1), 1, StoreId::from("s"), Now::default(), records)
    }

    #[test]
    fn a_task_that_makes_two_starts_fail_is_set_aside_and_the_others_go_on() {
        let records: Vec<_> = (1..=3).map(queued).collect();
        let mut journal = Noted::default();
        let first = recover(&mut journal, 0, records.clone(), buggy).map(|_| ());
        assert!(first.is_err_and(|error| error.to_string().contains("the next start")));
        assert!(!journal.recovered && journal.aside.is_empty());
        let fleet = recover(&mut journal, 1, records, buggy).expect("the others are well");
        assert!(journal.recovered);
        assert_eq!(journal.aside, [TaskId(2)]);
        assert_eq!(fleet.stats(Now::default()).depth, 2);
    }
}
