//! Retries: what they may cost, and dead letters that get another chance.
#![expect(clippy::wildcard_enum_match_arm, reason = "a story looks for one kind of effect among all")]

use super::*;

#[test]
fn retries_beyond_the_budget_wait_and_say_so() {
    let mut stage = Stage::with(&[spec("ann", 130)]);
    let mut tasks = Vec::new();
    for _ in 0..130 {
        let mut submission = stage.submission("echo");
        Arc::make_mut(&mut submission.spec).retry = RetryWord::Always;
        tasks.push(submission.id);
        stage.tell(Event::Submit(Box::new(submission)));
    }
    for task in &tasks {
        stage.accept(*task);
    }
    // What the first attempts brought in is gone; the reserve of a hundred is there.
    stage.advance_with(ConnId(1), Duration::from_secs(20));
    stage.tell(Event::LinkDown(ConnId(1), Why::Io));
    stage.connect("ann", 2, "second", Vec::new());
    let waiting = |stage: &Stage| {
        let waits =
            |task: &&TaskId| stage.fleet.explain(**task).is_some_and(|why| why.wait == Wait::RetryBudget);
        tasks.iter().filter(waits).count()
    };
    assert_eq!(waiting(&stage), 30);
    let held = stage.seen.iter().filter(|effect| matches!(effect, Effect::Note(Note::RetryHeld { .. })));
    assert_eq!(held.count(), 30);
    let last = stage.fleet.task(tasks[129]).expect("it is known");
    assert_eq!(last.state, TaskState::Queued);
    assert!(last.pending_reason.as_deref().is_some_and(|reason| reason.contains("budget")), "{last:?}");
    stage.tell(Event::Cancel(tasks[129], RequestId(900)));
    assert_eq!((stage.finals(tasks[129]), waiting(&stage)), (vec![TaskState::Cancelled], 29));
    stage.advance(Duration::from_secs(10));
    assert_eq!(waiting(&stage), 0);
    assert!(tasks[..129].iter().all(|task| stage.fleet.task(*task).is_some_and(|r| r.attempts.len() == 2)));
}

#[test]
fn what_never_began_is_offered_again_at_no_cost() {
    let mut stage = Stage::with(&[spec("ann", 150)]);
    let tasks: Vec<TaskId> = (0..150).map(|_| stage.submit(Keep::Passing)).collect();
    stage.advance_with(ConnId(1), Duration::ZERO);
    stage.tell(Event::LinkDown(ConnId(1), Why::Io));
    stage.connect("ann", 2, "first", Vec::new());
    assert!(tasks.iter().all(|task| stage.handed(*task).is_some_and(|(conn, _)| conn == ConnId(2))));
}

/// A task that a worker failed as often as it may be tried.
fn dead_letter(stage: &mut Stage) -> TaskId {
    let submission = stage.submission("echo");
    let spec = Arc::new(TaskSpec { max_attempts: Some(1), ..TaskSpec::clone(&submission.spec) });
    let task = submission.id;
    stage.tell(Event::Submit(Box::new(Submission { keep: Keep::Kept, spec, ..submission })));
    let (conn, epoch) = stage.accept(task);
    let error = TaskError { retryable: true, ..TaskError::new("no", "no", Fault::Caller) };
    let (status, error) = (AttemptOutcome::Failed, Some(error));
    let report = ResultReport {
        task,
        epoch,
        status,
        output: None,
        error,
        usage: None,
        artifacts: Vec::new(),
        session_open: None,
    };
    stage.tell(Event::Report(conn, Report::Result(Box::new(report))));
    assert!(stage.fleet.task(task).is_some_and(|record| record.dead_letter));
    task
}

#[test]
fn a_retried_dead_letter_is_none_any_more_also_after_a_restart() {
    let in_memory_still = |_: &mut Stage| {};
    let only_in_the_archive = |stage: &mut Stage| stage.restart(Term(2));
    for known in [in_memory_still, only_in_the_archive] {
        let mut stage = Stage::with(&[spec("ann", 1)]);
        let old = dead_letter(&mut stage);
        let record = stage.fleet.task(old).expect("it is known");
        known(&mut stage);
        let submission = stage.submission("echo");
        let (new, request) = (submission.id, submission.request);
        let again = Submission { keep: Keep::Kept, retry_of: Some(record), ..submission };
        let from = stage.seen.len();
        let now = stage.now;
        stage.fleet.handle(now, Event::Submit(Box::new(again)), &mut stage.seen);
        let is_answer = |effect: &Effect| matches!(effect, Effect::Answer(asked, _) if *asked == request);
        assert!(!stage.seen[from..].iter().any(is_answer), "nothing is durable yet");
        let written: Vec<(TaskId, bool)> = stage.seen[from..]
            .iter()
            .filter_map(|effect| match effect {
                Effect::Record(_, Record::Task(record)) => Some((record.id, record.dead_letter)),
                _ => None,
            })
            .collect();
        assert_eq!(written[..2], [(new, false), (old, false)], "its successor is written first");
        stage.tell(Event::Wake);
        assert!(stage.seen[from..].iter().any(is_answer));
        assert_eq!(stage.journal()[&old].state, TaskState::Failed);
        assert!(!stage.journal()[&old].dead_letter);
        assert_eq!(stage.journal()[&new].retry_of, Some(old));
    }
}
