//! Canaries, ejections and returns: who gets tasks by what it has shown.

use super::*;

/// Workers of one pool whose kind has a canary.
fn pool(names: &[&str]) -> Stage {
    let specs: Vec<WorkerSpec> =
        names.iter().map(|name| WorkerSpec { pool: Some("pool".into()), ..spec(name, 2) }).collect();
    let topology = Topology {
        generation: Generation(1),
        workers: specs.into_iter().map(|spec| (spec.name.clone(), Arc::new(spec))).collect(),
        ..Topology::default()
    };
    let fleet = Fleet::new(Term(1), 7, "store".into());
    let mut stage = Stage { fleet, now: Now::default(), seen: Vec::new(), topology, next_task: 1 };
    stage.tell(Event::Desired(Arc::new(stage.topology.clone())));
    stage.advance(Duration::ZERO);
    stage
}

/// The same, and each has passed its canary.
fn ready_pool(names: &[&str]) -> Stage {
    let mut stage = pool(names);
    for (name, number) in names.iter().zip(1u64..) {
        stage.join(name, number, "first");
        stage.ends_canary(number, true);
        assert_eq!(stage.state(name), Some(WorkerState::Ready));
    }
    stage
}

impl Stage {
    /// A worker with a canary registers.
    fn join(&mut self, name: &str, conn: u64, instance: &str) {
        self.join_with(name, conn, instance, Vec::new());
    }

    fn join_with(&mut self, name: &str, conn: u64, instance: &str, attempts: Vec<HeldAttempt>) {
        let offer = Offer { name: "echo".into(), description: None, input_schema: None, idempotent: true };
        let registration = Registration {
            worker: name.into(),
            dialled: true,
            instance: instance.into(),
            kind: "mock".into(),
            version: "1".into(),
            slots: None,
            labels: Default::default(),
            isolation: None,
            metrics: None,
            capabilities: vec![offer],
            attempts,
            sessions: None,
            features: Vec::new(),
            store: None,
        };
        self.tell(Event::LinkUp(ConnId(conn), Box::new(registration)));
    }

    /// The newest canary on a connection.
    fn canary(&self, conn: u64) -> Option<(TaskId, Epoch)> {
        self.seen.iter().rev().find_map(|effect| match effect {
            Effect::Order(on, Order::Execute(given)) if *on == ConnId(conn) && given.canary => {
                Some((given.task, given.epoch))
            }
            _ => None,
        })
    }

    fn canaries(&self, conn: u64) -> usize {
        let its = |effect: &&Effect| matches!(effect, Effect::Order(on, Order::Execute(given)) if *on == ConnId(conn) && given.canary);
        self.seen.iter().filter(its).count()
    }

    fn ends_canary(&mut self, conn: u64, well: bool) {
        let (task, epoch) = self.canary(conn).expect("it has a canary");
        if well {
            self.succeed(task, ConnId(conn), epoch);
        } else {
            self.fails(task, ConnId(conn), epoch, Fault::Worker);
        }
    }

    fn fails(&mut self, task: TaskId, conn: ConnId, epoch: Epoch, fault: Fault) {
        let result = ResultReport {
            task,
            epoch,
            status: AttemptOutcome::Failed,
            output: None,
            error: Some(TaskError::new("broken", "it is broken", fault)),
            usage: None,
            artifacts: Vec::new(),
            session_open: None,
        };
        self.tell(Event::Report(conn, Report::Result(Box::new(result))));
    }

    /// Tasks until one lands on that connection, which then fails; the others succeed.
    fn fails_one_on(&mut self, wanted: u64, fault: Fault) {
        for _ in 0..50 {
            let task = self.submit(Keep::Passing);
            let (conn, epoch) = self.accept(task);
            if conn == ConnId(wanted) {
                return self.fails(task, conn, epoch, fault);
            }
            self.succeed(task, conn, epoch);
        }
        panic!("no task went to connection {wanted}");
    }

    fn health(&self, worker: &str) -> HealthView {
        let of_it = |view: &WorkerView| view.name == WorkerName::from(worker);
        self.fleet.workers().into_iter().find(of_it).map(|view| view.health).expect("it is known")
    }

    fn told_of_health(&self) -> Vec<(String, &'static str)> {
        let of_health = |effect: &Effect| match effect {
            Effect::Note(Note::Health { worker, what, .. }) => Some((worker.to_string(), *what)),
            _ => None,
        };
        self.seen.iter().filter_map(of_health).collect()
    }

    /// Time passes while these connections show that they live.
    fn lives(&mut self, conns: &[u64], span: Duration) {
        for _ in 0..span.as_secs() / 10 {
            self.advance(Duration::from_secs(10));
            for conn in conns {
                self.tell(Event::Report(ConnId(*conn), Report::Alive));
            }
        }
    }
}

#[test]
fn a_new_worker_gets_its_canary_before_any_task() {
    let mut stage = pool(&["ann"]);
    let task = stage.submit(Keep::Passing);
    stage.join("ann", 1, "first");
    assert_eq!(stage.state("ann"), Some(WorkerState::Connecting));
    assert_eq!(stage.handed(task), None);
    let why = stage.fleet.explain(task).expect("it waits");
    assert!(why.summary.contains("must pass its canary first"), "{}", why.summary);
    stage.ends_canary(1, true);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ready));
    assert_eq!(stage.handed(task).map(|(conn, _)| conn), Some(ConnId(1)));
}

#[test]
fn a_canary_is_no_task() {
    let mut stage = pool(&["ann"]);
    stage.join("ann", 1, "first");
    let (task, epoch) = stage.canary(1).expect("it has a canary");
    let heartbeat = Report::Heartbeat { running: vec![(task, epoch)] };
    stage.tell(Event::Report(ConnId(1), heartbeat));
    stage.ends_canary(1, true);
    let of_it = |effect: &&Effect| {
        matches!(
            effect,
            Effect::Record(_, Record::Task(_))
                | Effect::Finish(..)
                | Effect::Publish(..)
                | Effect::Order(_, Order::Cancel { .. })
        )
    };
    assert_eq!(stage.seen.iter().filter(of_it).count(), 0);
    assert_eq!(stage.acks(task), [None], "the worker may forget it");
    assert!(stage.fleet.stats(stage.now).capabilities.is_empty());
}

#[test]
fn a_worker_that_fails_its_first_canary_is_ejected_and_asked_again() {
    let mut stage = pool(&["ann"]);
    let task = stage.submit(Keep::Passing);
    stage.join("ann", 1, "first");
    stage.ends_canary(1, false);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected));
    stage.lives(&[1], Duration::from_secs(40));
    assert_eq!(stage.canaries(1), 2, "its time out is over");
    assert_eq!(stage.handed(task), None);
    stage.ends_canary(1, true);
    assert!(stage.handed(task).is_some());
}

#[test]
fn a_canary_that_never_ends_is_a_failed_one() {
    let mut stage = pool(&["ann"]);
    stage.join("ann", 1, "first");
    let (task, epoch) = stage.canary(1).expect("it has a canary");
    stage.lives(&[1], Duration::from_secs(40));
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected));
    let view = stage.fleet.workers().remove(0);
    assert_eq!((view.slots_used, view.slots_unavailable), (0, 1), "it has not let go of it");
    stage.fails(task, ConnId(1), epoch, Fault::Worker);
    assert_eq!(stage.fleet.workers().remove(0).slots_unavailable, 0);
}

#[test]
fn a_process_that_has_passed_its_canary_needs_none_after_a_broken_connection() {
    let mut stage = ready_pool(&["ann"]);
    stage.tell(Event::LinkDown(ConnId(1), Why::Io));
    stage.join("ann", 9, "first");
    assert_eq!((stage.state("ann"), stage.canaries(9)), (Some(WorkerState::Ready), 0));
    stage.tell(Event::LinkDown(ConnId(9), Why::Io));
    stage.join("ann", 10, "second");
    assert_eq!((stage.state("ann"), stage.canaries(10)), (Some(WorkerState::Connecting), 1));
}

#[test]
fn a_worker_that_has_done_nothing_for_long_is_asked_whether_it_still_can() {
    let mut stage = ready_pool(&["ann", "bob"]);
    stage.lives(&[1, 2], Duration::from_secs(610));
    assert_eq!((stage.canaries(1), stage.canaries(2)), (2, 2));
    assert_eq!(stage.state("ann"), Some(WorkerState::Ready), "it may work meanwhile");
    stage.ends_canary(1, false);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected));
    stage.ends_canary(2, false);
    assert_eq!(stage.state("bob"), Some(WorkerState::Ready), "the last one stays");
    assert_eq!(stage.health("bob").held_back, Some("last_ready"));
}

#[test]
fn five_failures_in_a_row_eject_and_the_callers_own_never_do() {
    let mut stage = ready_pool(&["ann", "bob"]);
    for _ in 0..20 {
        stage.fails_one_on(1, Fault::Caller);
    }
    for _ in 0..4 {
        stage.fails_one_on(1, Fault::Worker);
    }
    assert_eq!(stage.state("ann"), Some(WorkerState::Ready));
    stage.fails_one_on(1, Fault::Worker);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected));
    assert_eq!(stage.told_of_health(), [("ann".to_owned(), "ejected")]);
    assert_eq!(stage.health("ann").ejected_until, Some(stage.now.wall + Duration::from_secs(30)));
}

#[test]
fn never_more_than_half_of_a_pool_and_never_the_last_for_something_is_ejected() {
    let mut stage = ready_pool(&["ann", "bob", "cid"]);
    for worker in [1, 2] {
        for _ in 0..5 {
            stage.fails_one_on(worker, Fault::Worker);
        }
    }
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected));
    assert_eq!(stage.state("bob"), Some(WorkerState::Ready), "half of three is one");
    assert_eq!(stage.health("bob").held_back, Some("pool_limit"));
    stage.tell(Event::LinkDown(ConnId(3), Why::Io));
    for _ in 0..2 {
        stage.fails_one_on(2, Fault::Worker);
    }
    assert_eq!(stage.health("bob").held_back, Some("last_ready"));
    let told = [("ann", "ejected"), ("bob", "pool_limit"), ("bob", "last_ready")];
    assert_eq!(stage.told_of_health(), told.map(|(worker, what)| (worker.to_owned(), what)));
}

#[test]
fn an_ejected_worker_comes_back_by_its_canary_and_slowly() {
    let mut stage = ready_pool(&["ann", "bob"]);
    for _ in 0..5 {
        stage.fails_one_on(1, Fault::Worker);
    }
    stage.lives(&[1, 2], Duration::from_secs(30));
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected), "until its canary is back");
    stage.ends_canary(1, true);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ready));
    assert_eq!(stage.health("ann").slots_open, 1, "of two");
    stage.tell(Event::LinkDown(ConnId(2), Why::Io));
    let (first, second) = (stage.submit(Keep::Passing), stage.submit(Keep::Passing));
    assert_eq!(stage.handed(second), None);
    let why = stage.fleet.explain(second).expect("it waits");
    assert!(why.summary.contains("back from an ejection: 1 of its 2 slots"), "{}", why.summary);
    let (conn, epoch) = stage.accept(first);
    stage.succeed(first, conn, epoch);
    assert!(stage.handed(second).is_some());
    assert_eq!(stage.health("ann").slots_open, 2);
}

#[test]
fn a_worker_that_fails_again_right_after_its_return_is_out_at_once_and_for_longer() {
    let mut stage = ready_pool(&["ann", "bob"]);
    for _ in 0..5 {
        stage.fails_one_on(1, Fault::Worker);
    }
    stage.lives(&[1, 2], Duration::from_secs(30));
    stage.ends_canary(1, true);
    stage.fails_one_on(1, Fault::Worker);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ejected));
    assert_eq!(stage.health("ann").ejected_until, Some(stage.now.wall + Duration::from_secs(60)));
}

#[test]
fn a_launched_worker_that_stays_sick_is_made_anew() {
    let launch = Some(LaunchSpec { command: vec!["worker".into()], env: Default::default() });
    let mut stage = Stage::with(&[]);
    for name in ["ann", "bob"] {
        let own = WorkerSpec { launch: launch.clone(), ..spec(name, 2) };
        stage.topology.workers.insert(name.into(), Arc::new(own));
    }
    stage.topology.generation = Generation(2);
    stage.tell(Event::Desired(Arc::new(stage.topology.clone())));
    stage.advance(Duration::ZERO);
    for (name, conn) in [("ann", 1), ("bob", 2)] {
        stage.join(name, conn, "first");
        stage.ends_canary(conn, true);
    }
    for _ in 0..5 {
        stage.fails_one_on(1, Fault::Worker);
    }
    assert!(!stage.seen.contains(&Effect::Halt("ann".into())));
    stage.lives(&[1, 2], Duration::from_secs(30));
    stage.ends_canary(1, false);
    assert!(stage.seen.contains(&Effect::Halt("ann".into())), "it failed again without a recovery between");
    stage.tell(Event::ProcessGone("ann".into()));
    stage.join("ann", 3, "second");
    assert_eq!(stage.state("ann"), Some(WorkerState::Connecting), "the new process begins anew");
    stage.ends_canary(3, true);
    assert_eq!((stage.state("ann"), stage.health("ann").slots_open), (Some(WorkerState::Ready), 1));
}

#[test]
fn a_worker_that_goes_on_with_its_work_after_a_restart_of_the_server_needs_no_canary() {
    let mut stage = ready_pool(&["ann"]);
    let task = stage.submit(Keep::Kept);
    let (_, epoch) = stage.accept(task);
    stage.restart(Term(2));
    let held = HeldAttempt { task, epoch, done: false };
    stage.join_with("ann", 5, "first", vec![held]);
    assert_eq!((stage.state("ann"), stage.canaries(5)), (Some(WorkerState::Ready), 0));
}
