//! What the writer does with a journal that fails.

use std::sync::mpsc;

use super::*;
use crate::fleet::{Overlay, TaskSpec, TaskState, Wall, WorkerName};

/// A journal whose next answers are told beforehand; after that all goes well.
struct Scripted {
    faults: VecDeque<StoreFault>,
    /// What is held back for the worst moment is gone.
    scarce: bool,
    /// What happened, in order.
    tell: mpsc::Sender<String>,
}

impl Scripted {
    fn failing(faults: impl IntoIterator<Item = StoreFault>) -> (Box<Self>, mpsc::Receiver<String>) {
        let (tell, told) = mpsc::channel();
        (Box::new(Self { faults: faults.into_iter().collect(), scarce: false, tell }), told)
    }
}

impl Journal for Scripted {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<KeyTaken>, StoreFault> {
        if let Some(fault) = self.faults.pop_front() {
            return Err(fault);
        }
        let rows: Vec<u64> = batch.records.iter().map(|(seq, _)| seq.0).collect();
        drop(self.tell.send(format!("{rows:?}")));
        Ok(Vec::new())
    }

    fn revive(&mut self) -> Result<(), StoreFault> {
        drop(self.tell.send("revived".to_owned()));
        Ok(())
    }

    fn make_room(&mut self) -> bool {
        !std::mem::replace(&mut self.scarce, true)
    }

    fn scarce(&self) -> Option<StoreFault> {
        self.scarce.then(|| StoreFault::Full("only results".to_owned()))
    }

    fn tend(&mut self) -> Result<(), StoreFault> {
        // There is room again as soon as somebody looks.
        if std::mem::take(&mut self.scarce) {
            drop(self.tell.send("room".to_owned()));
        }
        Ok(())
    }
}

fn record() -> Record {
    Record::Overlay(WorkerName::from("ann"), Overlay::default())
}

fn start(journal: Box<Scripted>) -> Writer {
    Writer::start(journal, Arc::new(Metrics::default())).expect("a thread")
}

fn committed(up_to: u64) -> Option<Told> {
    Some(Told::Committed { up_to: Some(Seq(up_to)), taken: Vec::new() })
}

#[tokio::test]
async fn after_a_failing_disk_nothing_is_written_before_the_journal_was_revived() {
    let (journal, told) = Scripted::failing([StoreFault::Io("EIO".into())]);
    let mut writer = start(journal);
    writer.push(Seq(1), record());
    writer.settle(Some(Seq(1)));
    assert_eq!(writer.told().await, Some(Told::Trouble(StoreFault::Io("EIO".into()))));
    writer.push(Seq(2), record());
    writer.settle(Some(Seq(2)));
    assert_eq!(writer.told().await, committed(1));
    assert_eq!(writer.told().await, Some(Told::Well));
    assert_eq!(writer.told().await, committed(2));
    writer.close().await;
    assert_eq!(told.iter().collect::<Vec<_>>(), ["revived", "[1]", "[2]"]);
}

#[tokio::test]
async fn a_full_disk_lets_go_of_what_was_held_back_and_says_when_there_is_room_again() {
    let (journal, told) = Scripted::failing([StoreFault::Full("ENOSPC".into())]);
    let mut writer = start(journal);
    writer.push(Seq(1), record());
    writer.settle(Some(Seq(1)));
    assert_eq!(writer.told().await, Some(Told::Trouble(StoreFault::Full("ENOSPC".into()))));
    assert_eq!(writer.told().await, committed(1), "what had come is recorded at once");
    assert_eq!(writer.told().await, Some(Told::Well));
    writer.close().await;
    assert_eq!(told.iter().collect::<Vec<_>>(), ["[1]", "room"]);
}

#[tokio::test]
async fn what_is_lost_for_good_ends_the_thread() {
    let (journal, told) = Scripted::failing([StoreFault::Lost("task 7".into())]);
    let mut writer = start(journal);
    writer.push(Seq(1), record());
    writer.settle(Some(Seq(1)));
    assert_eq!(writer.told().await, Some(Told::Trouble(StoreFault::Lost("task 7".into()))));
    assert_eq!(writer.told().await, None);
    writer.close().await;
    assert_eq!(told.iter().count(), 0);
}

fn task(id: u128, version: u64, state: TaskState) -> Arc<TaskRecord> {
    let record = TaskRecord::in_state(TaskId(id), TaskSpec::new("echo", "{}"), state, Wall(0));
    Arc::new(TaskRecord { version, ..record })
}

#[tokio::test]
async fn a_hand_over_lingers_while_others_are_committed_and_is_not_written_behind_its_tasks_end() {
    let (journal, told) = Scripted::failing([]);
    let mut writer = start(journal);
    writer.push(Seq(1), Record::Task(task(7, 1, TaskState::Queued)));
    writer.push(Seq(2), Record::HandOver(task(7, 2, TaskState::Assigned)));
    writer.push(Seq(3), Record::Task(task(8, 1, TaskState::Queued)));
    writer.push(Seq(4), Record::HandOver(task(8, 2, TaskState::Assigned)));
    writer.settle(Some(Seq(3)));
    assert_eq!(writer.told().await, committed(3));
    assert!(writer.lingers());
    writer.push(Seq(5), Record::Task(task(7, 3, TaskState::Succeeded)));
    writer.settle(Some(Seq(5)));
    assert_eq!(writer.told().await, committed(5));
    writer.push(Seq(6), record());
    writer.flush();
    assert_eq!(writer.told().await, committed(6));
    assert!(!writer.lingers());
    writer.close().await;
    assert_eq!(told.iter().collect::<Vec<_>>(), ["[1, 3]", "[5]", "[4, 6]"]);
}
