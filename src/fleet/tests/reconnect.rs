//! What becomes of attempts when their worker comes back: every pair of what the server and the worker
//! may think of one.
#![expect(clippy::wildcard_enum_match_arm, reason = "a story looks for one kind of effect among all")]

use super::*;

/// What both sides agreed on when a connection was made.
fn welcome(stage: &Stage, conn: u64) -> [Vec<(TaskId, Epoch)>; 3] {
    let welcome = stage.seen.iter().find_map(|effect| match effect {
        Effect::Order(to, Order::Registered(welcome)) if *to == ConnId(conn) => Some(welcome),
        _ => None,
    });
    let welcome = welcome.expect("it was welcomed");
    [welcome.keep.clone(), welcome.resend.clone(), welcome.drop.clone()]
}

/// What a reconnecting worker says of an attempt.
fn held(task: TaskId, epoch: Epoch, done: bool) -> Vec<HeldAttempt> {
    vec![HeldAttempt { task, epoch, done }]
}

/// A task that Ann runs, whose connection is then cut.
fn cut_off() -> (Stage, TaskId, Epoch) {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let mut submission = stage.submission("echo");
    Arc::make_mut(&mut submission.spec).retry = RetryWord::Always;
    let task = submission.id;
    stage.tell(Event::Submit(Box::new(Submission { keep: Keep::Kept, ..submission })));
    let (conn, epoch) = stage.accept(task);
    stage.tell(Event::LinkDown(conn, Why::Io));
    (stage, task, epoch)
}

/// How a task's attempts ended so far, and what it was charged.
fn story(stage: &Stage, task: TaskId) -> (TaskState, Vec<Option<AttemptOutcome>>, u32, u32) {
    let record = stage.fleet.task(task).expect("it is known");
    let outcomes = record.attempts.iter().map(|attempt| attempt.outcome).collect();
    (record.state, outcomes, record.charged, record.deaths)
}

#[test]
fn what_still_runs_is_resumed() {
    let (mut stage, task, epoch) = cut_off();
    stage.connect("ann", 2, "first", held(task, epoch, false));
    assert_eq!(welcome(&stage, 2), [vec![(task, epoch)], vec![], vec![]]);
    assert_eq!(story(&stage, task), (TaskState::Running, vec![None], 0, 0));
}

#[test]
fn what_has_ended_is_sent_again_and_recorded() {
    let (mut stage, task, epoch) = cut_off();
    stage.connect("ann", 2, "first", held(task, epoch, true));
    assert_eq!(welcome(&stage, 2), [vec![], vec![(task, epoch)], vec![]]);
    stage.succeed(task, ConnId(2), epoch);
    assert_eq!((stage.finals(task), stage.acks(task)), (vec![TaskState::Succeeded], vec![None]));
}

#[test]
fn an_assignment_lost_on_the_way_is_offered_again_at_once_and_not_charged() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Kept);
    let (conn, first) = stage.handed(task).expect("handed over, and never accepted");
    stage.tell(Event::LinkDown(conn, Why::Io));
    stage.connect("ann", 2, "first", Vec::new());
    let (conn, second) = stage.handed(task).expect("it is handed over again");
    assert!(conn == ConnId(2) && second > first);
    let lost = Some(AttemptOutcome::WorkerLost);
    assert_eq!(story(&stage, task), (TaskState::Assigned, vec![lost, None], 0, 0));
}

#[test]
fn a_new_process_means_that_the_one_before_died_with_what_it_ran() {
    let (mut stage, task, _) = cut_off();
    stage.connect("ann", 2, "second", Vec::new());
    let lost = Some(AttemptOutcome::WorkerLost);
    assert_eq!(story(&stage, task), (TaskState::Assigned, vec![lost, None], 1, 1));
    // And once more: a task that takes workers down is set aside.
    let (conn, _) = stage.accept(task);
    stage.tell(Event::LinkDown(conn, Why::Io));
    stage.connect("ann", 3, "third", Vec::new());
    assert_eq!(story(&stage, task), (TaskState::Lost, vec![lost, lost], 2, 2));
    let record = stage.fleet.task(task).expect("it is known");
    assert_eq!(
        (record.dead_letter, record.error.as_ref().map(|e| e.code.to_string())),
        (true, Some("poison".into()))
    );
}

#[test]
fn a_launched_process_that_has_ended_is_not_waited_for() {
    let launch = Some(LaunchSpec { command: vec!["ann".to_owned()], env: Default::default() });
    let mut stage = Stage::with(&[WorkerSpec { launch, ..spec("ann", 1) }, spec("bob", 1)]);
    let mut submission = stage.submission("echo");
    Arc::make_mut(&mut submission.spec).retry = RetryWord::Always;
    let task = submission.id;
    stage.tell(Event::Operator(OperatorWord::Cordon("bob".into()), None, RequestId(900)));
    stage.tell(Event::Submit(Box::new(submission)));
    stage.accept(task);
    stage.tell(Event::Operator(OperatorWord::Uncordon("bob".into()), None, RequestId(901)));
    stage.tell(Event::ProcessGone("ann".into()));
    assert_eq!(stage.handed(task).map(|(conn, _)| conn), Some(ConnId(2)));
    assert_eq!(story(&stage, task).3, 1);
}

#[test]
fn what_was_given_up_too_early_is_adopted_while_nobody_else_has_it() {
    let (mut stage, task, epoch) = cut_off();
    stage.advance(Duration::from_secs(121));
    let lost = Some(AttemptOutcome::WorkerLost);
    assert_eq!(story(&stage, task), (TaskState::Queued, vec![lost], 1, 0));
    stage.connect("ann", 2, "first", held(task, epoch, false));
    assert_eq!(welcome(&stage, 2), [vec![(task, epoch)], vec![], vec![]]);
    assert_eq!(story(&stage, task), (TaskState::Running, vec![None], 0, 0), "the charge is given back");
    stage.succeed(task, ConnId(2), epoch);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
}

#[test]
fn a_result_of_what_was_given_up_too_early_is_accepted_while_nobody_else_has_it() {
    let (mut stage, task, epoch) = cut_off();
    stage.advance(Duration::from_secs(121));
    stage.connect("ann", 2, "first", held(task, epoch, true));
    assert_eq!(welcome(&stage, 2), [vec![], vec![(task, epoch)], vec![]]);
    stage.succeed(task, ConnId(2), epoch);
    assert_eq!((stage.finals(task), stage.acks(task)), (vec![TaskState::Succeeded], vec![None]));
}

#[test]
fn what_another_worker_has_by_now_is_aborted_and_its_late_result_superseded() {
    let (lost, superseded) = (Some(AttemptOutcome::WorkerLost), Some(AttemptOutcome::Superseded));
    for (done, late, outcome) in [(false, false, lost), (false, true, superseded), (true, false, superseded)]
    {
        let mut stage = Stage::with(&[spec("ann", 1)]);
        let topology = Topology {
            generation: Generation(2),
            workers: [spec("ann", 1), spec("bob", 1)].map(|spec| (spec.name.clone(), Arc::new(spec))).into(),
            ..Topology::default()
        };
        let mut submission = stage.submission("echo");
        Arc::make_mut(&mut submission.spec).retry = RetryWord::Always;
        let task = submission.id;
        stage.tell(Event::Submit(Box::new(Submission { keep: Keep::Kept, ..submission })));
        let (conn, epoch) = stage.accept(task);
        stage.tell(Event::LinkDown(conn, Why::Io));
        stage.tell(Event::Desired(Arc::new(topology)));
        stage.connect("bob", 2, "other", Vec::new());
        stage.advance_with(ConnId(2), Duration::from_secs(121));
        let (conn, newer) = stage.accept(task);
        assert!(conn == ConnId(2) && newer > epoch);
        stage.connect("ann", 3, "first", held(task, epoch, done));
        assert_eq!(welcome(&stage, 3), [vec![], vec![], vec![(task, epoch)]]);
        if late {
            stage.succeed(task, ConnId(3), epoch);
        }
        assert_eq!(story(&stage, task), (TaskState::Running, vec![outcome, None], 1, 0));
        assert_eq!(stage.journal()[&task].attempts[0].outcome, outcome, "and so it is recorded");
        stage.succeed(task, ConnId(2), newer);
        assert_eq!(stage.finals(task), [TaskState::Succeeded]);
    }
}

#[test]
fn attempts_of_tasks_that_have_ended_or_never_were_are_dropped_and_counted() {
    let mut stage = Stage::with(&[spec("ann", 2)]);
    let task = stage.submit(Keep::Kept);
    let (conn, epoch) = stage.accept(task);
    stage.tell(Event::LinkDown(conn, Why::Io));
    stage.advance(Duration::from_secs(121));
    assert_eq!(stage.finals(task), [TaskState::Lost]);
    let (nobodys, before) = (TaskId(4_711), stage.fleet.task(task));
    for (conn, done) in [(2, true), (3, false)] {
        let attempts = [held(task, epoch, done), held(nobodys, Epoch(1), done)].concat();
        stage.connect("ann", conn, "first", attempts);
        assert_eq!(welcome(&stage, conn), [vec![], vec![], vec![(task, epoch), (nobodys, Epoch(1))]]);
        stage.tell(Event::LinkDown(ConnId(conn), Why::Io));
    }
    let discarded: Vec<Discard> = stage
        .seen
        .iter()
        .filter_map(|effect| match effect {
            Effect::Note(Note::Discarded { reason, .. }) => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(discarded, [Discard::AfterTerminal, Discard::UnknownTask]);
    assert_eq!(stage.fleet.task(task), before, "what is final stays as it is");
}

#[test]
fn a_restarted_server_knows_how_many_workers_died_with_a_task() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let mut submission = stage.submission("echo");
    Arc::make_mut(&mut submission.spec).retry = RetryWord::Always;
    let task = submission.id;
    stage.tell(Event::Submit(Box::new(Submission { keep: Keep::Kept, ..submission })));
    let (conn, _) = stage.accept(task);
    stage.tell(Event::LinkDown(conn, Why::Io));
    stage.connect("ann", 2, "second", Vec::new());
    stage.advance(Duration::from_secs(1));
    assert_eq!(stage.accept(task).0, ConnId(2), "one death is no reason to give it up");
    stage.restart(Term(2));
    stage.connect("ann", 3, "third", Vec::new());
    assert_eq!(stage.finals(task), [TaskState::Lost]);
    let record = stage.fleet.task(task).expect("it is known");
    assert_eq!(record.error.as_ref().map(|error| &*error.code), Some("poison"));
}

/// Submits a task of the session `s` that somebody waits for.
fn in_session(stage: &mut Stage) -> TaskId {
    let mut submission = stage.submission("echo");
    Arc::make_mut(&mut submission.spec).session = Some("s".into());
    let task = submission.id;
    stage.tell(Event::Submit(Box::new(submission)));
    task
}

/// A session on one of two workers, whose server was started anew; and where it was.
fn session_over_a_restart() -> (Stage, &'static str) {
    let mut stage = Stage::with(&[spec("ann", 2), spec("bob", 2)]);
    let task = in_session(&mut stage);
    let (conn, epoch) = stage.accept(task);
    stage.succeed(task, conn, epoch);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
    stage.restart(Term(2));
    (stage, if conn == ConnId(1) { "ann" } else { "bob" })
}

#[test]
fn nobody_hears_of_a_session_before_the_disk_knows_of_it() {
    let mut stage = Stage::with(&[spec("ann", 2)]);
    let (first, second) = (in_session(&mut stage), in_session(&mut stage));
    for task in [first, second] {
        let (conn, epoch) = stage.handed(task).expect("it has its turn");
        let result = ResultReport {
            task,
            epoch,
            status: AttemptOutcome::Succeeded,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            session_open: Some(true),
        };
        // The disk is slow.
        stage.fleet.handle(stage.now, Event::Report(conn, Report::Result(Box::new(result))), &mut stage.seen);
        assert_eq!(stage.finals(task), []);
    }
    stage.tell(Event::Wake);
    assert_eq!([first, second].map(|task| stage.finals(task).len()), [1, 1]);
}

#[test]
fn a_session_goes_on_after_a_restart_with_the_process_that_has_it() {
    let (mut stage, home) = session_over_a_restart();
    let task = in_session(&mut stage);
    stage.connect(if home == "ann" { "bob" } else { "ann" }, 7, "other", Vec::new());
    stage.advance(Duration::from_secs(3));
    assert_eq!(stage.handed(task), None, "nobody else has its state");
    let why = stage.fleet.explain(task).expect("it waits");
    assert_eq!(why.wait, Wait::Recovering, "{why:?}");
    stage.connect(home, 8, "first", Vec::new());
    assert_eq!(stage.handed(task).map(|(conn, _)| conn), Some(ConnId(8)));
}

#[test]
fn a_session_whose_process_does_not_come_back_after_a_restart_is_lost_aloud() {
    for returns in [true, false] {
        let (mut stage, home) = session_over_a_restart();
        let task = in_session(&mut stage);
        if returns {
            stage.connect(home, 8, "another", Vec::new());
        } else {
            stage.advance(Duration::from_secs(121));
        }
        assert_eq!(stage.finals(task), [TaskState::Failed]);
        let record = stage.fleet.task(task).expect("it is known");
        assert_eq!(record.error.as_ref().map(|error| &*error.code), Some("session_lost"));
        let listed = stage.fleet.sessions(&Tenant::default_tenant());
        assert!(listed[0].lost.is_some(), "{listed:?}");
    }
}

/// How often a worker is dialled.
fn dials(stage: &Stage, name: &str) -> usize {
    stage
        .seen
        .iter()
        .filter(|effect| matches!(effect, Effect::Dial(worker) if worker.as_str() == name))
        .count()
}

#[test]
fn a_worker_that_left_the_configuration_while_the_server_was_down_finishes_what_it_runs() {
    let mut stage = Stage::with(&[spec("ann", 2)]);
    let (task, other) = (stage.submit(Keep::Kept), stage.submit(Keep::Kept));
    let ((_, epoch), (_, second)) = (stage.accept(task), stage.accept(other));
    stage.topology.workers.clear();
    let before = dials(&stage, "ann");
    stage.restart(Term(2));
    assert_eq!(dials(&stage, "ann"), before + 1, "only the roster knows where it is");
    stage.connect("ann", 2, "first", [held(task, epoch, false), held(other, second, true)].concat());
    assert_eq!(welcome(&stage, 2), [vec![(task, epoch)], vec![(other, second)], vec![]]);
    assert_eq!(stage.state("ann"), Some(WorkerState::Draining));
    stage.succeed(other, ConnId(2), second);
    // A broken connection is no reason to leave it alone.
    stage.tell(Event::LinkDown(ConnId(2), Why::Io));
    stage.advance(Duration::from_secs(1));
    assert_eq!(dials(&stage, "ann"), before + 2);
    stage.connect("ann", 3, "first", held(task, epoch, false));
    stage.succeed(task, ConnId(3), epoch);
    let succeeded = [TaskState::Succeeded];
    assert_eq!((stage.finals(task), stage.finals(other)), (succeeded.to_vec(), succeeded.to_vec()));
    assert_eq!(stage.state("ann"), None, "it has left");
}

#[test]
fn a_worker_that_left_and_does_not_come_back_is_waited_for_no_longer_than_its_lease() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Kept);
    stage.accept(task);
    stage.topology.workers.clear();
    stage.restart(Term(2));
    for _ in 0..119 {
        stage.tell(Event::DialFailed("ann".into(), ConnectOutcome::Refused, "for this story".into()));
        stage.advance(Duration::from_secs(1));
    }
    let waits_for = |stage: &Stage| stage.fleet.explain(task).map(|why| why.wait);
    assert_eq!((waits_for(&stage), stage.state("ann").is_some()), (Some(Wait::Recovering), true));
    stage.advance(Duration::from_secs(2));
    assert_eq!((waits_for(&stage), stage.state("ann")), (Some(Wait::Impossible), None));
}

#[test]
fn a_worker_that_left_with_nothing_to_finish_is_not_dialled() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Kept);
    let (conn, epoch) = stage.accept(task);
    stage.succeed(task, conn, epoch);
    stage.topology.workers.clear();
    let before = dials(&stage, "ann");
    stage.restart(Term(2));
    stage.advance(Duration::from_secs(60));
    assert_eq!((dials(&stage, "ann"), stage.state("ann")), (before, None));
}

#[test]
fn a_name_that_has_a_new_holder_is_not_dialled_for_the_one_before() {
    let (mut stage, task, epoch) = cut_off();
    stage.topology.workers.clear();
    stage.tell(Event::Desired(Arc::new(Topology { generation: Generation(2), ..stage.topology.clone() })));
    stage.advance(Duration::from_secs(1));
    let gone = dials(&stage, "ann");
    assert!(gone > 1, "it has something to finish");
    let elsewhere = WorkerSpec { endpoint: Some("ws://127.0.0.1:2".into()), ..spec("ann", 1) };
    let workers = [("ann".into(), Arc::new(elsewhere))].into();
    stage.tell(Event::Desired(Arc::new(Topology {
        generation: Generation(3),
        workers,
        ..stage.topology.clone()
    })));
    stage.advance(Duration::ZERO);
    let hung_up =
        stage.seen.iter().any(|effect| matches!(effect, Effect::HangUp(worker) if worker.as_str() == "ann"));
    assert!(hung_up && dials(&stage, "ann") == gone + 1);
    // The process speaks from its new place, and has what it had.
    stage.connect("ann", 2, "first", held(task, epoch, false));
    assert_eq!(welcome(&stage, 2), [vec![(task, epoch)], vec![], vec![]]);
}
