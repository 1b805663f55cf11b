//! Stories about the whole inside, from the handle to mock workers and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::fleet::*;
use crate::interface::LinkLimits;
use crate::interface::factory::WorkerInterfaceFactory;
use crate::store::{Batch, Journal, MemoryStore, StoreFault};
use crate::telemetry::Metrics;

fn mock(name: &str, slots: u32, latency: Duration) -> Arc<WorkerSpec> {
    Arc::new(WorkerSpec {
        name: name.into(),
        formerly: None,
        origin: Origin::File,
        pool: None,
        interface: InterfaceKind::Mock,
        endpoint: None,
        capabilities: Some(vec!["echo".into()]),
        slots: Some(slots),
        timeout: Duration::from_secs(60),
        labels: BTreeMap::new(),
        launch: None,
        mock: MockSpec { latency, ..MockSpec::default() },
    })
}

fn topology(workers: &[Arc<WorkerSpec>]) -> Topology {
    Topology {
        workers: workers.iter().map(|spec| (spec.name.clone(), Arc::clone(spec))).collect(),
        ..Topology::default()
    }
}

async fn started(workers: &[Arc<WorkerSpec>]) -> (Manager, tokio::task::JoinHandle<()>) {
    started_with(workers, MemoryStore::default().open()).await
}

async fn started_with(
    workers: &[Arc<WorkerSpec>],
    opened: crate::store::Opened,
) -> (Manager, tokio::task::JoinHandle<()>) {
    let (manager, fleet) = start(parts_with(opened)).expect("threads are to be had");
    let run = tokio::spawn(fleet.run());
    manager.apply(topology(workers)).await.expect("it runs");
    (manager, run)
}

fn parts_with(opened: crate::store::Opened) -> Parts {
    Parts {
        traces: None,
        opened,
        metrics: Arc::new(Metrics::default()),
        factory: WorkerInterfaceFactory::new(),
        programs: crate::supervise::Options::default(),
        limits: LinkLimits::default(),
        seed: 1,
        record: None,
        data_dir: std::env::temp_dir().join(format!("rollcall-{:032x}", rand::random::<u128>())),
    }
}

fn ask(input: &str) -> Ask {
    Ask {
        tenant: Tenant::default_tenant(),
        source: Source::Library,
        key: None,
        spec: Arc::new(TaskSpec::new("echo", input)),
        retry_of: None,
    }
}

fn record_of(submitted: Submitted) -> Arc<TaskRecord> {
    let (Submitted::Finished(record) | Submitted::Accepted(record) | Submitted::Replayed(record)) = submitted;
    record
}

#[tokio::test]
async fn a_waiting_caller_gets_the_answer_and_a_patient_one_the_task() {
    let (manager, run) = started(&[mock("ann", 2, Duration::from_millis(20))]).await;
    let finished = manager.execute(ask("[1]"), Duration::from_secs(10)).await.expect("taken");
    let Submitted::Finished(record) = finished else { panic!("not finished: {finished:?}") };
    assert_eq!(record.output, Some("[1]".into()));

    let accepted = record_of(manager.submit(ask("[2]")).await.expect("taken"));
    let ended = manager.finished(accepted.id, Duration::from_secs(10)).await.expect("known");
    assert_eq!(ended.map(|record| record.state), Some(TaskState::Succeeded));
    manager.shutdown(Duration::from_secs(5)).await;
    run.await.expect("it ended in peace");
}

#[tokio::test]
async fn a_caller_whose_patience_ends_gets_an_id_and_the_task_goes_on() {
    let (manager, run) = started(&[mock("ann", 1, Duration::from_millis(300))]).await;
    let submitted = manager.execute(ask("1"), Duration::from_millis(20)).await.expect("taken");
    let Submitted::Accepted(record) = submitted else { panic!("already finished: {submitted:?}") };
    let ended = manager.finished(record.id, Duration::from_secs(10)).await.expect("known");
    assert!(ended.is_some_and(|record| record.state == TaskState::Succeeded && record.keep == Keep::Kept));
    manager.shutdown(Duration::from_secs(5)).await;
    run.await.expect("it ended in peace");
}

#[tokio::test]
async fn a_key_names_one_task_and_another_body_is_a_conflict() {
    let (manager, run) = started(&[mock("ann", 1, Duration::ZERO)]).await;
    let keyed = |body| Ask { key: Some(KeyHash { key: 7, body }), ..ask("1") };
    let first = record_of(manager.execute(keyed(1), Duration::from_secs(10)).await.expect("taken"));
    let again = manager.execute(keyed(1), Duration::from_secs(10)).await.expect("known");
    assert!(matches!(&again, Submitted::Replayed(record) if record.id == first.id));
    assert_eq!(manager.submit(keyed(2)).await.err(), Some(CallError::Refused(Refusal::KeyConflict)));
    manager.shutdown(Duration::from_secs(5)).await;
    run.await.expect("it ended in peace");
}

#[tokio::test]
async fn a_cancelled_task_ends_cancelled_and_its_slot_is_free_again() {
    let (manager, run) = started(&[mock("ann", 1, Duration::from_secs(60))]).await;
    let task = record_of(manager.submit(ask("1")).await.expect("taken")).id;
    while manager.task(&Tenant::default_tenant(), task).await.expect("known").state != TaskState::Running {
        manager.workers_changed().await;
    }
    manager.cancel(&Tenant::default_tenant(), task).await.expect("known");
    let ended = manager.finished(task, Duration::from_secs(10)).await.expect("known").expect("it ended");
    assert_eq!(ended.state, TaskState::Cancelled);
    manager.operator(OperatorWord::Cordon("ann".into()), None).await.expect("known");
    let view = manager.workers().worker("ann").cloned().expect("shown");
    assert_eq!((view.state, view.slots_used), (WorkerState::Cordoned, 0));
    manager.shutdown(Duration::from_secs(5)).await;
    run.await.expect("it ended in peace");
}

#[tokio::test]
async fn what_no_worker_could_ever_do_is_refused_at_once() {
    let (manager, run) = started(&[mock("ann", 1, Duration::ZERO)]).await;
    let mut wrong = ask("1");
    Arc::make_mut(&mut wrong.spec).capability = "ecko".into();
    let refused = manager.submit(wrong).await.err();
    let expected = Refusal::UnknownCapability { capability: "ecko".into(), nearest: Some("echo".into()) };
    assert_eq!(refused, Some(CallError::Refused(expected)));
    let stats = manager.stats().await.expect("it runs");
    assert_eq!(stats.depth, 0);
    manager.shutdown(Duration::from_secs(5)).await;
    run.await.expect("it ended in peace");
}

/// A journal on a thread of its own that tells how many new tasks each commit had.
struct Counted(Box<dyn Journal>, std::sync::mpsc::Sender<usize>);

impl Journal for Counted {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<KeyTaken>, StoreFault> {
        let new = |(_, record): &&(Seq, Record)| matches!(record, Record::Task(task) if task.version == 1);
        let _gone = self.1.send(batch.records.iter().filter(new).count());
        self.0.commit(batch)
    }
}

#[tokio::test]
async fn a_batch_is_one_commit_and_each_task_is_answered_in_order() {
    let (tell, commits) = std::sync::mpsc::channel();
    let mut opened = MemoryStore::default().open();
    opened.journal = Box::new(Counted(opened.journal, tell));
    let (manager, run) = started_with(&[mock("ann", 1, Duration::ZERO)], opened).await;
    let mut asks: Vec<Ask> = (0..1_000).map(|number| ask(&number.to_string())).collect();
    Arc::make_mut(&mut asks[500].spec).capability = "ecko".into();
    let answers = manager.submit_all(asks).await;
    assert!(matches!(&answers[500], Err(CallError::Refused(Refusal::UnknownCapability { .. }))));
    let inputs: Vec<String> =
        answers.into_iter().flatten().map(|taken| record_of(taken).spec.input.as_str().to_owned()).collect();
    let expected: Vec<String> = (0..1_000).filter(|n| *n != 500).map(|n: u32| n.to_string()).collect();
    assert_eq!(inputs, expected);
    let with_new: Vec<usize> = commits.try_iter().filter(|new| *new > 0).collect();
    assert_eq!(with_new, [999]);
    manager.shutdown(Duration::from_secs(5)).await;
    run.await.expect("it ended in peace");
}

#[tokio::test]
async fn a_caller_who_hangs_up_at_a_full_lane_is_not_counted_for_ever() {
    let parts = parts_with(MemoryStore::default().open());
    let (manager, _never_run) = start(parts).expect("threads are to be had");
    manager.0.admission.limit(1_025, u64::MAX);
    let mut callers: Vec<_> = (0..1_025).map(|_| Box::pin(manager.submit(ask("1")))).collect();
    for caller in &mut callers {
        assert!(futures_util::poll!(caller).is_pending());
    }
    assert_eq!(manager.0.calls.capacity(), 0, "the last one waits for a place");
    drop(callers.pop());
    assert_eq!(manager.0.admission.enter(0), Ok(()), "it has not taken the place of another");
}
