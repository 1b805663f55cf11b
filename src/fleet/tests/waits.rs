//! What is said of tasks that wait, and of those that a limit ended.

use super::*;

#[test]
fn like_workers_share_a_line_and_the_nearest_comes_first() {
    let labelled = |name: String, zone: &str| WorkerSpec {
        labels: [("zone".into(), zone.into())].into(),
        ..spec(&name, 4)
    };
    let mut fleet: Vec<WorkerSpec> = (100..400).map(|n| labelled(format!("b-{n}"), "b")).collect();
    fleet.push(labelled("ann".to_owned(), "a"));
    fleet.push(labelled("bob".to_owned(), "a"));
    fleet.push(WorkerSpec { capabilities: Some(vec!["other".into()]), ..spec("cat", 1) });
    let mut stage = Stage::with(&fleet);
    stage.now.wall = Wall((10 * 60 + 2) * 60_000);
    stage.tell(Event::Operator(OperatorWord::Cordon("ann".into()), Some("eve".into()), RequestId(900)));
    stage.tell(Event::LinkDown(ConnId(302), Why::Io));
    let mut submission = stage.submission("echo");
    Arc::make_mut(&mut submission.spec).labels = [("zone".into(), "a".into())].into();
    let task = submission.id;
    stage.tell(Event::Submit(Box::new(submission)));
    let why = stage.fleet.explain(task).expect("it waits");
    let expected = [
        ("bob", 1, "disconnected (io)"),
        ("ann", 1, "cordoned by eve 10:02 UTC"),
        ("b-100 … b-399", 300, "label zone=a missing"),
        ("cat", 1, "does not offer echo"),
    ];
    let expected = expected.map(|(names, count, reason)| (names.to_owned(), count, reason.to_owned()));
    assert_eq!((why.wait, told(&why)), (Wait::NotReady, expected.to_vec()));
    assert_eq!(why.fix.as_deref(), Some("rollcall workers uncordon ann"));
    let shown = stage.fleet.task(task).and_then(|task| task.pending_reason.clone());
    assert_eq!(shown.as_deref(), Some(&*why.summary));
    stage.tell(Event::Operator(OperatorWord::Uncordon("ann".into()), None, RequestId(901)));
    assert!(stage.handed(task).is_some(), "and that is all it takes");
}

#[test]
fn what_nobody_can_ever_run_is_told_apart_from_what_is_only_busy() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let mut submission = stage.submission("echo");
    Arc::make_mut(&mut submission.spec).labels = [("gpu".into(), "true".into())].into();
    let task = submission.id;
    stage.tell(Event::Submit(Box::new(submission)));
    let why = stage.fleet.explain(task).expect("it waits");
    assert_eq!(why.wait, Wait::Impossible);
    assert_eq!(why.fix.as_deref(), Some("give ann the labels gpu=true, or add a worker that has them"));
    let busy = (stage.submit(Keep::Passing), stage.submit(Keep::Passing)).1;
    let why = stage.fleet.explain(busy).expect("it waits");
    assert_eq!((why.wait, why.fix.as_deref()), (Wait::Busy, Some("wait, or add workers or slots")));
}

#[test]
fn an_explanation_of_a_motley_fleet_is_short() {
    let fleet: Vec<WorkerSpec> = (0..60).map(|n| spec(&format!("w-{n:03}"), 1)).collect();
    let mut stage = Stage::with(&fleet);
    for (number, worker) in (0u32..).zip(&fleet) {
        // Each was cordoned in another minute.
        stage.now.wall = Wall(i64::from(number) * 60_000);
        let word = OperatorWord::Cordon(worker.name.clone());
        stage.tell(Event::Operator(word, None, RequestId(u64::from(number) + 900)));
    }
    let task = stage.submit(Keep::Passing);
    let why = stage.fleet.explain(task).expect("it waits");
    assert_eq!(why.workers.len(), 21);
    assert_eq!(why.workers.iter().map(|group| group.count).sum::<usize>(), 60);
    assert_eq!(why.workers[0].reason, "cordoned 00:00 UTC");
}

/// Sets a limit of a task.
type Set = fn(&mut TaskSpec);

#[test]
fn each_limit_is_named_with_its_value_when_it_fires() {
    let limits: [(Set, &str, &str); 3] = [
        (
            |spec| spec.execution_timeout = Some(Duration::from_secs(7)),
            "timeout",
            "it ran longer than its execution_timeout of 7s",
        ),
        (|_| {}, "timeout", "it ran longer than the timeout of its worker, 600s"),
        (
            |spec| spec.deadline = Some(Deadline::After(Duration::from_secs(9))),
            "deadline",
            "its deadline, 9s after it was accepted, passed while it ran",
        ),
    ];
    for (set, code, message) in limits {
        let mut stage = Stage::with(&[spec("ann", 1)]);
        let mut submission = stage.submission("echo");
        set(Arc::make_mut(&mut submission.spec));
        let task = submission.id;
        stage.tell(Event::Submit(Box::new(submission)));
        let (conn, epoch) = stage.accept(task);
        let (status, output, usage) = (AttemptOutcome::TimedOut, None, None);
        let report = ResultReport {
            task,
            epoch,
            status,
            output,
            error: None,
            usage,
            artifacts: Vec::new(),
            session_open: None,
        };
        stage.tell(Event::Report(conn, Report::Result(Box::new(report))));
        let record = stage.fleet.task(task).expect("it is known");
        let error = record.error.clone().expect("it says why");
        assert_eq!((record.state, &*error.code, &*error.message), (TaskState::TimedOut, code, message));
    }
    let waits: [(Set, &str, &str); 2] = [
        (
            |spec| spec.queue_timeout = Some(Duration::from_secs(5)),
            "queue_timeout",
            "waited longer than its queue_timeout of 5s: the one worker that offers it had no free slot, or was away",
        ),
        (
            |spec| spec.deadline = Some(Deadline::After(Duration::from_secs(6))),
            "deadline",
            "its deadline, 6s after it was accepted, passed before a worker could start it",
        ),
    ];
    for (set, code, message) in waits {
        let mut stage = Stage::with(&[spec("ann", 1)]);
        stage.submit(Keep::Passing);
        let mut submission = stage.submission("echo");
        set(Arc::make_mut(&mut submission.spec));
        let task = submission.id;
        stage.tell(Event::Submit(Box::new(submission)));
        stage.advance(Duration::from_secs(6));
        let record = stage.fleet.task(task).expect("it is known");
        let error = record.error.clone().expect("it says why");
        assert_eq!((record.state, &*error.code, &*error.message), (TaskState::Expired, code, message));
    }
}
