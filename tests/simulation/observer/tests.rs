//! Histories that break one invariant each: the observer must see every one of them.

use super::super::histories::*;
use super::*;

/// An observer of a fleet with two workers, both welcome, and one kept task that was accepted.
fn fleet() -> Observer {
    let mut observer = Observer::default();
    let mut topology = Topology { generation: Generation(1), ..Topology::default() };
    for name in ["ann", "bob"] {
        let spec = WorkerSpec {
            name: name.into(),
            formerly: None,
            origin: Origin::File,
            pool: None,
            interface: InterfaceKind::Websocket,
            endpoint: Some(format!("ws://{name}").into()),
            capabilities: None,
            slots: Some(1),
            timeout: Duration::from_secs(60),
            labels: BTreeMap::new(),
            launch: None,
            mock: MockSpec::default(),
        };
        topology.workers.insert(name.into(), Arc::new(spec));
    }
    tell(&mut observer, 0, &Event::Desired(Arc::new(topology)));
    for (conn, instance) in [(1, "ann#1"), (2, "bob#1")] {
        tell(&mut observer, 0, &link_up(conn, instance, 1, &[]));
        see(&mut observer, 0, &welcome(conn, instance));
        let entry = RosterEntry {
            worker: instance.split('#').next().unwrap_or("").into(),
            instance: instance.into(),
            endpoint: None,
            launched: false,
            capabilities: Vec::new(),
            timeout: None,
        };
        see(&mut observer, 0, &Effect::Record(Seq(conn), Record::Roster(entry)));
    }
    tell(&mut observer, 0, &submit(3, Keep::Kept));
    see(&mut observer, 0, &record(3, 1, TaskState::Queued));
    tell(&mut observer, 0, &durable(3));
    see(&mut observer, 0, &accepted(3));
    observer
}

fn welcome(conn: u64, instance: &str) -> Effect {
    let welcome = Welcome {
        worker: instance.split('#').next().unwrap_or("").into(),
        slots: 1,
        heartbeat_interval: Duration::from_secs(30),
        lease: Duration::from_secs(120),
        store: "store-1".into(),
        features: Vec::new(),
        keep: Vec::new(),
        resend: Vec::new(),
        drop: Vec::new(),
    };
    Effect::Order(ConnId(conn), Order::Registered(Box::new(welcome)))
}

/// An attempt at "ann"; the first has epoch 100.
fn attempt(number: u32, outcome: AttemptOutcome) -> AttemptRecord {
    AttemptRecord {
        number,
        epoch: Epoch(u64::from(number) + 99),
        worker: "ann".into(),
        instance: "ann#1".into(),
        outcome: Some(outcome),
        error: None,
        assigned_at: Wall(0),
        started_at: None,
        finished_at: None,
    }
}

fn tell(observer: &mut Observer, seconds: u64, event: &Event) {
    observer.told(second(seconds), event).expect("the history is possible");
}

fn see(observer: &mut Observer, seconds: u64, effect: &Effect) {
    observer.saw(second(seconds), effect).expect("so far nothing is wrong");
}

fn problem(observer: &mut Observer, seconds: u64, effect: &Effect) -> String {
    observer.saw(second(seconds), effect).expect_err("the checker must see it")
}

#[test]
fn an_honest_hand_over_breaks_nothing() {
    see(&mut fleet(), 1, &execute(1, 3, 100));
}

#[test]
fn i1_an_answer_before_the_record_is_durable_is_seen() {
    let mut observer = fleet();
    tell(&mut observer, 1, &submit(4, Keep::Kept));
    see(&mut observer, 1, &record(4, 1, TaskState::Queued));
    assert!(problem(&mut observer, 1, &accepted(4)).contains("before it was durable"));
}

#[test]
fn i1_a_second_answer_is_seen() {
    assert!(problem(&mut fleet(), 1, &accepted(3)).contains("answered twice"));
}

#[test]
fn i1_a_request_without_an_answer_is_seen() {
    let mut observer = fleet();
    tell(&mut observer, 1, &Event::Operator(OperatorWord::Cordon("ann".into()), None, RequestId(9)));
    observer.tasks = Tasks::default();
    assert!(observer.settled(None).expect_err("nobody answered").contains("never answered"));
}

#[test]
fn i2_an_end_before_it_is_durable_and_a_second_end_are_seen() {
    let mut observer = fleet();
    see(&mut observer, 1, &execute(1, 3, 100));
    let cancelled = Effect::Record(Seq(4), Record::Task(Arc::new(picture(3, 2, TaskState::Cancelled))));
    see(&mut observer, 1, &cancelled);
    let end = finish(3, TaskState::Cancelled);
    assert!(problem(&mut observer, 1, &end).contains("before that is durable"));
    tell(&mut observer, 1, &durable(4));
    see(&mut observer, 1, &end);
    assert!(problem(&mut observer, 1, &end).contains("final twice"));
}

#[test]
fn i2_a_final_record_that_changes_is_seen() {
    let mut observer = fleet();
    see(
        &mut observer,
        1,
        &Effect::Record(Seq(4), Record::Task(Arc::new(picture(3, 2, TaskState::Cancelled)))),
    );
    let other = Effect::Record(Seq(5), Record::Task(Arc::new(picture(3, 3, TaskState::Succeeded))));
    assert!(problem(&mut observer, 1, &other).contains("changes"));
}

#[test]
fn i3_an_epoch_that_does_not_rise_is_seen() {
    let mut observer = fleet();
    see(&mut observer, 1, &execute(1, 3, 100));
    tell(&mut observer, 1, &submit(4, Keep::Passing));
    assert!(problem(&mut observer, 1, &execute(2, 4, 100)).contains("I3"));
}

#[test]
fn i4_a_second_lease_without_a_reason_is_seen_and_with_one_it_is_not() {
    let mut observer = fleet();
    see(&mut observer, 1, &execute(1, 3, 100));
    let again = execute(2, 3, 101);
    assert!(problem(&mut observer, 2, &again).contains("still has it"));

    let mut observer = fleet();
    see(&mut observer, 1, &execute(1, 3, 100));
    tell(&mut observer, 2, &Event::LinkDown(ConnId(1), Why::Io));
    tell(&mut observer, 3, &link_up(3, "ann#2", 1, &[]));
    see(&mut observer, 3, &again);
}

#[test]
fn i6_too_many_attempts_are_seen() {
    let mut observer = fleet();
    let attempts = (1..=4).map(|number| attempt(number, AttemptOutcome::WorkerLost)).collect();
    let lost = TaskRecord { charged: 4, attempts, ..picture(3, 2, TaskState::Lost) };
    see(&mut observer, 1, &Effect::Record(Seq(4), Record::Task(Arc::new(lost.clone()))));
    tell(&mut observer, 1, &durable(4));
    assert!(
        problem(&mut observer, 1, &Effect::Finish(TaskId(3), Arc::new(lost))).contains("4 attempts of 3")
    );
}

#[test]
fn i6_a_charge_without_an_attempt_is_seen() {
    let twice = TaskRecord { charged: 1, ..picture(3, 2, TaskState::Queued) };
    let record = Effect::Record(Seq(4), Record::Task(Arc::new(twice)));
    assert!(problem(&mut fleet(), 1, &record).contains("charged for more"));
}

#[test]
fn i7_more_than_the_slots_is_seen() {
    let mut observer = fleet();
    see(&mut observer, 1, &execute(1, 3, 100));
    tell(&mut observer, 1, &submit(4, Keep::Passing));
    assert!(problem(&mut observer, 1, &execute(1, 4, 101)).contains("I7"));
}

#[test]
fn i8_work_for_a_worker_that_must_not_have_it_is_seen() {
    assert!(problem(&mut fleet(), 1, &execute_of(1, 3, 100, "figma.get")).contains("offered false"));
    assert!(problem(&mut fleet(), 60, &execute(1, 3, 100)).contains("silence"));

    let mut observer = fleet();
    tell(&mut observer, 1, &Event::Operator(OperatorWord::Cordon("ann".into()), None, RequestId(9)));
    assert!(problem(&mut observer, 1, &execute(1, 3, 100)).contains("a person said no"));

    let mut observer = fleet();
    tell(&mut observer, 1, &Event::Desired(Arc::default()));
    assert!(problem(&mut observer, 1, &execute(1, 3, 100)).contains("not in the topology"));

    let mut observer = fleet();
    tell(&mut observer, 1, &Event::LinkDown(ConnId(1), Why::Io));
    assert!(problem(&mut observer, 1, &execute(1, 3, 100)).contains("which is over"));

    let mut observer = fleet();
    tell(&mut observer, 1, &Event::LinkDown(ConnId(1), Why::Io));
    tell(&mut observer, 2, &link_up(3, "ann#2", 1, &[]));
    see(&mut observer, 2, &welcome(3, "ann#2"));
    assert!(problem(&mut observer, 2, &execute(3, 3, 100)).contains("on the roster"));
}

#[test]
fn i9_a_task_that_never_ends_is_seen() {
    assert!(fleet().settled(None).expect_err("it never ended").contains("I9"));
}

#[test]
fn i10_a_lost_count_is_seen() {
    let observer = fleet();
    let mut stats = FleetStats { depth: 1, ..FleetStats::default() };
    let capability = stats.capabilities.entry("python.execute".into()).or_default();
    capability.accepted[0] = 1;
    assert!(observer.conserved(&stats).expect_err("one is missing").contains("I10"));
}

#[test]
fn an_acknowledgement_before_the_result_is_durable_is_seen() {
    let mut observer = fleet();
    see(&mut observer, 1, &execute(1, 3, 100));
    tell(&mut observer, 2, &result(1, 3, 100));
    let attempts = vec![attempt(1, AttemptOutcome::Succeeded)];
    let done = TaskRecord { attempts, ..picture(3, 2, TaskState::Succeeded) };
    see(&mut observer, 2, &Effect::Record(Seq(4), Record::Task(Arc::new(done))));
    let ack = Effect::Order(ConnId(1), Order::Ack { task: TaskId(3), epoch: Epoch(100), discarded: None });
    assert!(problem(&mut observer, 2, &ack).contains("before it is durable"));
    tell(&mut observer, 2, &durable(4));
    see(&mut observer, 2, &ack);
}
