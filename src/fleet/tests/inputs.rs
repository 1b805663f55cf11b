//! Inputs that are too large to be held in memory while their tasks wait.
#![expect(clippy::wildcard_enum_match_arm, reason = "a story looks for one kind of effect among all")]

use super::*;

fn large() -> Payload {
    Payload::from(format!("\"{}\"", "x".repeat(TaskSpec::LARGE_INPUT)))
}

/// A kept task with a large input.
fn submit_large(stage: &mut Stage, keep: Keep) -> TaskId {
    let submission = stage.submission("echo");
    let spec = Arc::new(submission.spec.with_input(large()));
    let id = submission.id;
    stage.tell(Event::Submit(Box::new(Submission { keep, spec, ..submission })));
    id
}

/// A busy worker, and a task that waits for it.
fn busy(keep: Keep) -> (Stage, (TaskId, ConnId, Epoch), TaskId) {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let first = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(first);
    let waiting = submit_large(&mut stage, keep);
    (stage, (first, conn, epoch), waiting)
}

fn is_stowed(stage: &Stage, task: TaskId) -> bool {
    stage.fleet.task(task).expect("it is known").spec.is_stowed()
}

/// How often its input was asked for.
fn fetches(stage: &Stage, task: TaskId) -> usize {
    stage.seen.iter().filter(|effect| matches!(effect, Effect::Fetch(_, id) if *id == task)).count()
}

/// The input of the last hand-over.
fn input(stage: &Stage, task: TaskId) -> Option<Payload> {
    stage.seen.iter().rev().find_map(|effect| match effect {
        Effect::Order(_, Order::Execute(assignment)) if assignment.task == task => {
            Some(assignment.spec.input.clone())
        }
        _ => None,
    })
}

fn fails(stage: &mut Stage, task: TaskId, fault: fn(Arc<str>) -> InputFault) {
    stage.tell(Event::Fetched(task, Err(fault("for this story".into()))));
}

#[test]
fn a_large_input_leaves_memory_with_its_commit_and_is_read_again_for_its_hand_over() {
    for keep in [Keep::Kept, Keep::ByKey(KeyHash { key: 1, body: 1 })] {
        let (mut stage, (first, conn, epoch), task) = busy(keep);
        assert!(is_stowed(&stage, task));
        let whole = stage.journal().remove(&task).map(|record| record.spec.input.clone());
        assert_eq!(whole, Some(large()), "the journal has it");
        let bytes = stage.fleet.stats(stage.now).bytes;
        assert_eq!(bytes, large().as_str().len() as u64 + 2, "it counts, wherever it is");

        stage.succeed(first, conn, epoch);
        assert_eq!((fetches(&stage, task), stage.handed(task)), (1, None));
        let why = stage.fleet.explain(task).expect("it waits");
        assert_eq!(
            (why.wait, &*why.summary),
            (Wait::Reading, "its input is being read from the store, for ann")
        );
        stage.tell(Event::Fetched(task, Ok(large())));
        assert_eq!(input(&stage, task), Some(large()));
        assert!(is_stowed(&stage, task), "and leaves again");
        let (conn, epoch) = stage.accept(task);
        stage.succeed(task, conn, epoch);
        assert_eq!(stage.finals(task), [TaskState::Succeeded]);
    }
}

#[test]
fn nothing_holds_a_large_input_once_it_is_recorded() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let first = stage.submit(Keep::Passing);
    stage.accept(first);
    let submission = stage.submission("echo");
    let spec = Arc::new(submission.spec.with_input(large()));
    let watched = Arc::downgrade(&spec);
    stage.tell(Event::Submit(Box::new(Submission { keep: Keep::Kept, spec, ..submission })));
    stage.seen.clear();
    assert!(watched.upgrade().is_none());
}

#[test]
fn a_passing_task_and_one_that_is_handed_over_at_once_need_no_reading() {
    let (stage, _, task) = busy(Keep::Passing);
    assert!(!is_stowed(&stage, task));
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = submit_large(&mut stage, Keep::Kept);
    assert_eq!((fetches(&stage, task), input(&stage, task)), (0, Some(large())));
    assert!(is_stowed(&stage, task));
}

#[test]
fn a_slot_is_kept_free_while_an_input_is_read_for_it() {
    let (mut stage, (first, conn, epoch), task) = busy(Keep::Kept);
    stage.succeed(first, conn, epoch);
    let other = stage.submit(Keep::Passing);
    assert_eq!(stage.handed(other), None, "it came later");
    stage.tell(Event::Cancel(task, RequestId(900)));
    assert_eq!(stage.finals(task), [TaskState::Cancelled]);
    assert!(stage.handed(other).is_some(), "the slot is another's now");
    stage.tell(Event::Fetched(task, Ok(large())));
    assert_eq!(stage.handed(task), None, "nobody needs it any more");
}

#[test]
fn a_worker_that_goes_while_an_input_is_read_for_it_leaves_the_task_in_its_place() {
    let (mut stage, (first, conn, epoch), task) = busy(Keep::Kept);
    let other = stage.submit(Keep::Kept);
    stage.succeed(first, conn, epoch);
    stage.tell(Event::LinkDown(conn, Why::Io));
    assert_eq!(stage.fleet.explain(task).map(|why| why.wait), Some(Wait::NotReady));
    stage.connect("ann", 2, "first", Vec::new());
    assert_eq!((fetches(&stage, task), stage.handed(other)), (2, None));
    stage.tell(Event::Fetched(task, Ok(large())));
    stage.tell(Event::Fetched(task, Ok(large())));
    assert_eq!(stage.handed(task).map(|(conn, _)| conn), Some(ConnId(2)));
}

#[test]
fn a_task_whose_input_cannot_be_read_for_a_while_is_offered_again_uncharged() {
    let (mut stage, (first, conn, epoch), task) = busy(Keep::Kept);
    stage.succeed(first, conn, epoch);
    for tries in 1..=30 {
        assert_eq!(fetches(&stage, task), tries);
        fails(&mut stage, task, InputFault::Unread);
        assert_eq!(stage.fleet.explain(task).map(|why| why.wait), Some(Wait::Backoff));
        stage.advance_with(conn, Duration::from_secs(30));
    }
    let other = stage.submit(Keep::Passing);
    fails(&mut stage, task, InputFault::Unread);
    let (conn, epoch) = stage.accept(other);
    stage.succeed(other, conn, epoch);
    stage.advance_with(conn, Duration::from_secs(30));
    stage.tell(Event::Fetched(task, Ok(large())));
    stage.accept(task);
    let record = stage.fleet.task(task).expect("it is known");
    assert_eq!((record.attempts.len(), record.charged), (1, 0));
}

#[test]
fn a_task_whose_input_is_damaged_ends_and_says_so() {
    let (mut stage, (first, conn, epoch), task) = busy(Keep::Kept);
    stage.succeed(first, conn, epoch);
    fails(&mut stage, task, InputFault::Damaged);
    assert_eq!(stage.finals(task), [TaskState::Failed]);
    let record = stage.fleet.task(task).expect("it is known");
    let error = record.error.clone().expect("it says why");
    assert_eq!(
        (&*error.code, error.fault, error.side_effects),
        ("store_damaged", Fault::Rollcall, SideEffects::None)
    );
    assert!(record.dead_letter, "people must see it");
    let next = stage.submit(Keep::Passing);
    assert!(stage.handed(next).is_some(), "the slot is another's now");
}

#[test]
fn a_restarted_server_reads_inputs_only_when_it_hands_them_over() {
    let (mut stage, _, task) = busy(Keep::Kept);
    stage.restart(Term(2));
    assert!(is_stowed(&stage, task));
    stage.connect("ann", 2, "second", Vec::new());
    stage.advance_with(ConnId(2), Duration::from_secs(2));
    assert_eq!(fetches(&stage, task), 1);
    stage.tell(Event::Fetched(task, Ok(large())));
    assert_eq!(input(&stage, task), Some(large()));
}

#[test]
fn a_task_whose_preferred_worker_goes_while_its_input_is_read_takes_another() {
    let labelled = |name: &str, region: &str| WorkerSpec {
        labels: [("region".into(), region.into())].into_iter().collect(),
        ..spec(name, 1)
    };
    let mut stage = Stage::with(&[labelled("ann", "north"), labelled("bob", "south")]);
    let submission = stage.submission("echo");
    let task = submission.id;
    let preferred = [("region".into(), "north".into())].into_iter().collect();
    let placement = Some(Placement { preferred, fallback_after: None });
    let spec = Arc::new(TaskSpec { placement, ..submission.spec.with_input(large()) });
    stage.tell(Event::Submit(Box::new(Submission { keep: Keep::Kept, spec, ..submission })));
    let (conn, epoch) = stage.handed(task).expect("ann is free");
    assert_eq!(conn, ConnId(1));
    let reason = "for this story".into();
    stage.tell(Event::Report(conn, Report::Rejected { task, epoch, reason, retryable: true }));
    stage.advance(Duration::from_secs(5));
    assert_eq!(fetches(&stage, task), 1, "it is to go to ann again");
    stage.tell(Event::LinkDown(conn, Why::Io));
    assert_eq!(fetches(&stage, task), 2, "bob will do, who is free");
    stage.tell(Event::Fetched(task, Ok(large())));
    assert_eq!(stage.handed(task).map(|(conn, _)| conn), Some(ConnId(2)));
}
