//! Stories about the core alone: a scripted fleet, no simulator.
#![expect(clippy::wildcard_enum_match_arm, reason = "a story looks for one kind of effect among all")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;

mod health;
mod inputs;
mod placement;
mod probe;
mod reconnect;
mod retries;
mod waits;

/// A fleet with a clock and a journal that says yes at once.
struct Stage {
    fleet: Fleet,
    now: Now,
    seen: Vec<Effect>,
    topology: Topology,
    next_task: u128,
}

fn spec(name: &str, slots: u32) -> WorkerSpec {
    WorkerSpec {
        name: name.into(),
        formerly: None,
        origin: Origin::File,
        pool: None,
        interface: InterfaceKind::Websocket,
        endpoint: Some("ws://127.0.0.1:1".into()),
        capabilities: Some(vec!["echo".into()]),
        slots: Some(slots),
        timeout: Duration::from_secs(600),
        labels: Default::default(),
        launch: None,
        mock: MockSpec::default(),
    }
}

impl Stage {
    fn with(workers: &[WorkerSpec]) -> Self {
        let topology = Topology {
            generation: Generation(1),
            workers: workers.iter().map(|spec| (spec.name.clone(), Arc::new(spec.clone()))).collect(),
            ..Topology::default()
        };
        let fleet = Fleet::new(Term(1), 7, "store".into());
        let mut stage = Self { fleet, now: Now::default(), seen: Vec::new(), topology, next_task: 1 };
        stage.tell(Event::Desired(Arc::new(stage.topology.clone())));
        stage.advance(Duration::ZERO);
        for (number, spec) in workers.iter().enumerate() {
            stage.connect(spec.name.as_str(), number as u64 + 1, "first", Vec::new());
        }
        stage
    }

    fn tell(&mut self, event: Event) {
        self.fleet.handle(self.now, event, &mut self.seen);
        while let Some(up_to) = self.fleet.awaited() {
            self.fleet.handle(self.now, Event::Durable { up_to, taken: Vec::new() }, &mut self.seen);
        }
        self.fleet.check().expect("invariants hold");
    }

    fn advance(&mut self, span: Duration) {
        let end = self.now.mono + span;
        while let Some(at) = self.fleet.next_wake().filter(|at| *at <= end) {
            let step = at.since(self.now.mono);
            self.now = Now { mono: at.max(self.now.mono), wall: self.now.wall + step };
            self.tell(Event::Wake);
        }
        self.now = Now { mono: end, wall: self.now.wall + end.since(self.now.mono) };
    }

    /// Lets time pass while one connection keeps reporting.
    fn advance_with(&mut self, conn: ConnId, span: Duration) {
        for _ in 0..span.as_secs() / 10 + 1 {
            self.advance(Duration::from_secs(10));
            self.tell(Event::Report(conn, Report::Alive));
        }
    }

    /// The newest record of each task.
    fn journal(&self) -> BTreeMap<TaskId, Arc<TaskRecord>> {
        let mut tasks: BTreeMap<TaskId, Arc<TaskRecord>> = BTreeMap::new();
        for effect in &self.seen {
            if let Effect::Record(_, Record::Task(record) | Record::HandOver(record)) = effect
                && tasks.get(&record.id).is_none_or(|known| known.version < record.version)
            {
                tasks.insert(record.id, Arc::clone(record));
            }
        }
        tasks
    }

    /// The server ends at once, and another one begins with what the journal has.
    fn restart(&mut self, term: Term) {
        let record = |effect: &Effect| match effect {
            Effect::Record(_, record) => Some(record.clone()),
            _ => None,
        };
        let records: Vec<Record> = self.seen.iter().filter_map(record).collect();
        self.fleet = Fleet::recover(term, 7, "store".into(), self.now, records);
        self.tell(Event::Desired(Arc::new(self.topology.clone())));
        self.advance(Duration::ZERO);
    }

    fn connect(&mut self, name: &str, conn: u64, instance: &str, attempts: Vec<HeldAttempt>) {
        let offer = Offer { name: "echo".into(), description: None, input_schema: None, idempotent: false };
        self.connect_as(name, conn, instance, vec![offer], attempts);
    }

    fn connect_as(
        &mut self,
        name: &str,
        conn: u64,
        instance: &str,
        capabilities: Vec<Offer>,
        attempts: Vec<HeldAttempt>,
    ) {
        self.tell(Event::LinkUp(
            ConnId(conn),
            Box::new(Registration {
                worker: name.into(),
                dialled: true,
                instance: instance.into(),
                kind: "test".into(),
                version: "1".into(),
                slots: None,
                labels: Default::default(),
                isolation: None,
                metrics: None,
                capabilities,
                attempts,
                sessions: None,
                features: Vec::new(),
                store: None,
            }),
        ));
    }

    fn submit(&mut self, keep: Keep) -> TaskId {
        let submission = Submission { keep, ..self.submission("echo") };
        let id = submission.id;
        self.tell(Event::Submit(Box::new(submission)));
        id
    }

    fn submission(&mut self, capability: &str) -> Submission {
        let id = TaskId(self.next_task);
        self.next_task += 1;
        let spec = TaskSpec::new(capability, "{}");
        Submission {
            id,
            tenant: Tenant::default_tenant(),
            request: RequestId(u64::try_from(id.0).expect("small")),
            keep: Keep::Passing,
            source: Source::Rest,
            spec: Arc::new(spec),
            retry_of: None,
        }
    }

    /// The last hand-over of a task.
    fn handed(&self, task: TaskId) -> Option<(ConnId, Epoch)> {
        self.seen.iter().rev().find_map(|effect| match effect {
            Effect::Order(conn, Order::Execute(assignment)) if assignment.task == task => {
                Some((*conn, assignment.epoch))
            }
            _ => None,
        })
    }

    fn accept(&mut self, task: TaskId) -> (ConnId, Epoch) {
        let (conn, epoch) = self.handed(task).expect("it was handed over");
        self.tell(Event::Report(conn, Report::Accepted { task, epoch }));
        (conn, epoch)
    }

    fn succeed(&mut self, task: TaskId, conn: ConnId, epoch: Epoch) {
        self.tell(Event::Report(
            conn,
            Report::Result(Box::new(ResultReport {
                task,
                epoch,
                status: AttemptOutcome::Succeeded,
                output: Some("1".into()),
                error: None,
                usage: None,
                artifacts: Vec::new(),
                session_open: None,
            })),
        ));
    }

    fn finals(&self, task: TaskId) -> Vec<TaskState> {
        let of_task = |effect: &Effect| match effect {
            Effect::Finish(id, record) if *id == task => Some(record.state),
            _ => None,
        };
        self.seen.iter().filter_map(of_task).collect()
    }

    fn acks(&self, task: TaskId) -> Vec<Option<Discard>> {
        let of_task = |effect: &Effect| match effect {
            Effect::Order(_, Order::Ack { task: id, discarded, .. }) if *id == task => Some(*discarded),
            _ => None,
        };
        self.seen.iter().filter_map(of_task).collect()
    }

    fn state(&self, worker: &str) -> Option<WorkerState> {
        self.fleet.workers().iter().find(|view| view.name.as_str() == worker).map(|view| view.state)
    }
}

/// The lines of an explanation.
fn told(why: &Explanation) -> Vec<(String, usize, String)> {
    why.workers.iter().map(|group| (group.workers.clone(), group.count, group.reason.clone())).collect()
}

#[test]
fn a_task_goes_to_a_free_worker_and_its_result_is_told_once() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(task);
    stage.succeed(task, conn, epoch);
    stage.succeed(task, conn, epoch);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
    assert_eq!(stage.acks(task), [None, Some(Discard::Duplicate)]);
}

#[test]
fn a_full_worker_gets_the_next_task_when_a_slot_is_free() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let first = stage.submit(Keep::Passing);
    let second = stage.submit(Keep::Passing);
    assert_eq!(stage.handed(second), None);
    let why = stage.fleet.explain(second).expect("it waits");
    assert_eq!(
        (why.wait, told(&why)),
        (Wait::Busy, vec![("ann".to_owned(), 1, "slots 1/1 in use".to_owned())])
    );
    let (conn, epoch) = stage.accept(first);
    stage.succeed(first, conn, epoch);
    assert!(stage.handed(second).is_some());
}

#[test]
fn a_late_result_of_an_older_attempt_is_fenced() {
    let mut stage = Stage::with(&[spec("ann", 1), spec("bob", 1)]);
    let task = stage.submit(Keep::Passing);
    let (old_conn, old_epoch) = stage.handed(task).expect("handed over, never accepted");
    stage.tell(Event::LinkDown(old_conn, Why::Io));
    let other = ConnId(3 - old_conn.0);
    stage.advance_with(other, Duration::from_secs(121));
    let (conn, epoch) = stage.accept(task);
    assert!(epoch > old_epoch && conn != old_conn);
    let name = if old_conn == ConnId(1) { "ann" } else { "bob" };
    stage.connect(name, 9, "first", vec![HeldAttempt { task, epoch: old_epoch, done: true }]);
    stage.succeed(task, ConnId(9), old_epoch);
    stage.succeed(task, conn, epoch);
    assert_eq!(stage.acks(task), [Some(Discard::StaleEpoch), None]);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
}

#[test]
fn a_running_attempt_goes_on_over_a_lost_connection() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Kept);
    let (conn, epoch) = stage.accept(task);
    stage.tell(Event::LinkDown(conn, Why::PeerClosed));
    stage.connect("ann", 2, "first", vec![HeldAttempt { task, epoch, done: false }]);
    stage.succeed(task, ConnId(2), epoch);
    let record = stage.fleet.task(task).expect("it is known");
    assert_eq!((record.state, record.attempts.len()), (TaskState::Succeeded, 1));
}

#[test]
fn work_that_may_have_had_effects_is_not_repeated_unless_that_is_safe() {
    let mut stage = Stage::with(&[spec("ann", 1), spec("bob", 1)]);
    let task = stage.submit(Keep::Passing);
    let (conn, _) = stage.accept(task);
    stage.tell(Event::LinkDown(conn, Why::Io));
    stage.advance(Duration::from_secs(121));
    assert_eq!(stage.finals(task), [TaskState::Lost]);
    let record = stage.fleet.task(task).expect("it is known");
    assert_eq!(record.error.as_ref().map(|error| error.side_effects), Some(SideEffects::Possible));
}

#[test]
fn a_silent_worker_is_suspect_and_then_disconnected() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    stage.advance(Duration::from_secs(46));
    assert_eq!(stage.state("ann"), Some(WorkerState::Suspect));
    let task = stage.submit(Keep::Passing);
    assert_eq!(stage.handed(task), None);
    stage.advance(Duration::from_secs(30));
    assert_ne!(stage.state("ann"), Some(WorkerState::Suspect));
    assert!(stage.seen.contains(&Effect::Close(ConnId(1), Why::HeartbeatTimeout)));
}

#[test]
fn a_cancel_takes_the_slot_until_the_worker_confirms() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(task);
    stage.tell(Event::Cancel(task, RequestId(99)));
    let next = stage.submit(Keep::Passing);
    assert_eq!(stage.handed(next), None);
    stage.tell(Event::Report(
        conn,
        Report::Result(Box::new(ResultReport {
            task,
            epoch,
            status: AttemptOutcome::Cancelled,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            session_open: None,
        })),
    ));
    assert_eq!(stage.finals(task), [TaskState::Cancelled]);
    assert!(stage.handed(next).is_some());
}

#[test]
fn a_worker_that_ignores_a_cancel_keeps_its_slot_taken_and_is_made_to_come_back() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(task);
    stage.tell(Event::Cancel(task, RequestId(99)));
    stage.advance_with(conn, Duration::from_secs(30));
    assert_eq!(stage.finals(task), [TaskState::Cancelled]);
    assert!(stage.seen.contains(&Effect::Close(conn, Why::CancelTimeout)));
    stage.connect("ann", 2, "first", vec![HeldAttempt { task, epoch, done: false }]);
    let next = stage.submit(Keep::Passing);
    assert_eq!(stage.handed(next), None, "the slot is not free");
    stage.tell(Event::Report(ConnId(2), Report::Heartbeat { running: Vec::new() }));
    assert!(stage.handed(next).is_some(), "the worker let go of it");
}

#[test]
fn a_removed_worker_finishes_what_it_runs_and_one_taken_back_keeps_its_connection() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(task);
    let full = stage.topology.clone();
    stage.tell(Event::Desired(Arc::new(Topology { generation: Generation(2), ..Topology::default() })));
    assert_eq!(stage.state("ann"), Some(WorkerState::Draining));
    stage.tell(Event::Desired(Arc::new(Topology { generation: Generation(3), ..full })));
    assert_eq!(stage.state("ann"), Some(WorkerState::Ready));
    stage.succeed(task, conn, epoch);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
    assert!(!stage.seen.iter().any(|effect| matches!(effect, Effect::Close(..))));
}

#[test]
fn a_removed_worker_is_sent_away_when_its_last_task_has_ended() {
    let ends: [fn(&mut Stage, TaskId, ConnId, Epoch); 3] = [
        |stage, task, conn, epoch| stage.succeed(task, conn, epoch),
        |stage, task, conn, epoch| {
            let reason = "no".into();
            stage.tell(Event::Report(conn, Report::Rejected { task, epoch, reason, retryable: true }));
        },
        |stage, _, conn, _| {
            for _ in 0..3 {
                stage.advance(Duration::from_secs(20));
                stage.tell(Event::Report(conn, Report::Heartbeat { running: Vec::new() }));
            }
        },
    ];
    for end in ends {
        let mut stage = Stage::with(&[spec("ann", 2)]);
        let (first, last) = (stage.submit(Keep::Passing), stage.submit(Keep::Passing));
        let (conn, epoch) = stage.accept(first);
        let (_, last_epoch) = stage.handed(last).expect("it was handed over");
        stage.tell(Event::Desired(Arc::new(Topology { generation: Generation(2), ..Topology::default() })));
        let gone = Effect::Close(conn, Why::RemovedFromConfig);
        stage.succeed(first, conn, epoch);
        assert!(!stage.seen.contains(&gone), "it has one more to finish");
        let shown = stage.fleet.take_changes();
        assert!(matches!(&shown[..], [(_, Some(ann))] if ann.state == WorkerState::Draining), "{shown:?}");
        end(&mut stage, last, conn, last_epoch);
        assert_eq!(stage.seen.iter().filter(|effect| **effect == gone).count(), 1);
        assert_eq!(stage.fleet.take_changes(), [("ann".into(), None)]);
    }
}

#[test]
fn a_busy_program_is_made_anew_when_its_last_task_has_ended() {
    let launch = |word: &str| Some(LaunchSpec { command: vec![word.to_owned()], env: Default::default() });
    let old = WorkerSpec { launch: launch("old"), ..spec("ann", 1) };
    let new = WorkerSpec { launch: launch("new"), ..spec("ann", 1) };
    let mut stage = Stage::with(&[old]);
    let task = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(task);
    let (halt, launched) = (Effect::Halt("ann".into()), Effect::Launch("ann".into()));
    let workers = [(new.name.clone(), Arc::new(new))].into();
    let topology = Topology { generation: Generation(2), workers, ..Topology::default() };
    stage.tell(Event::Desired(Arc::new(topology)));
    assert!(!stage.seen.contains(&halt), "it has a task to finish");
    stage.succeed(task, conn, epoch);
    assert!(stage.seen.contains(&halt));
    stage.tell(Event::ProcessGone("ann".into()));
    assert_eq!(stage.seen.iter().filter(|effect| **effect == launched).count(), 2);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
}

#[test]
fn nothing_that_shows_a_durable_fact_leaves_before_the_journal_has_it() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let (now, mut out) = (stage.now, Vec::new());
    let submission = Submission {
        id: TaskId(77),
        tenant: Tenant::default_tenant(),
        request: RequestId(5),
        keep: Keep::Kept,
        source: Source::Rest,
        spec: {
            let task = stage.submit(Keep::Passing);
            let (conn, epoch) = stage.accept(task);
            stage.succeed(task, conn, epoch);
            stage.fleet.task(task).expect("it is known").spec.clone()
        },
        retry_of: None,
    };
    stage.fleet.handle(now, Event::Submit(Box::new(submission)), &mut out);
    let answered =
        |out: &[Effect]| out.iter().any(|effect| matches!(effect, Effect::Answer(RequestId(5), _)));
    assert!(!answered(&out));
    let up_to = stage.fleet.awaited().expect("an answer waits");
    stage.fleet.handle(now, Event::Durable { up_to, taken: Vec::new() }, &mut out);
    assert!(answered(&out));
}

#[test]
fn a_gap_of_the_server_itself_costs_no_worker_its_lease() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Passing);
    let (conn, epoch) = stage.accept(task);
    stage.now.mono = stage.now.mono + Duration::from_secs(600);
    stage.tell(Event::Wake);
    assert_eq!(stage.state("ann"), Some(WorkerState::Ready));
    // The attempt's own limit is over all the same.
    assert_eq!(stage.finals(task), []);
    stage.succeed(task, conn, epoch);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
}

#[test]
fn what_workers_offered_is_known_after_a_restart_before_they_are_back() {
    let mut stage = Stage::with(&[WorkerSpec { capabilities: None, ..spec("ann", 1) }]);
    let schema = Some(Payload::from(r#"{"type":"object"}"#));
    let offer = Offer { name: "echo".into(), description: None, input_schema: schema, idempotent: true };
    stage.tell(Event::LinkDown(ConnId(1), Why::Io));
    stage.connect_as("ann", 2, "first", vec![offer.clone()], Vec::new());
    stage.restart(Term(2));
    let view = stage.fleet.workers().remove(0);
    assert_eq!((&view.capabilities[..], view.has_registered), (&[offer][..], true));
    assert_eq!(view.state, WorkerState::Connecting);
    let other = stage.submission("secret");
    stage.tell(Event::Submit(Box::new(other)));
    let refused = |effect: &Effect| {
        matches!(effect, Effect::Answer(_, Answer::Refused(Refusal::UnknownCapability { .. })))
    };
    assert!(stage.seen.iter().any(refused), "it offers what it last registered, and nothing else");
}

#[test]
fn a_kept_task_survives_a_crash_and_its_worker_goes_on_with_it() {
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Kept);
    let (_, epoch) = stage.accept(task);
    stage.restart(Term(2));
    stage.connect("ann", 2, "first", vec![HeldAttempt { task, epoch, done: false }]);
    stage.succeed(task, ConnId(2), epoch);
    assert_eq!(stage.finals(task), [TaskState::Succeeded]);
    let next = stage.submit(Keep::Passing);
    assert!(stage.handed(next).expect("handed over").1 > epoch);
}

#[test]
fn a_cancelled_task_tells_how_it_was_stopped_and_how_long_that_took() {
    let told = |stage: &Stage, task: TaskId| {
        let record = &stage.journal()[&task];
        let error = record.error.clone().expect("why it ended");
        assert_eq!((record.state, &*error.code), (TaskState::Cancelled, "cancelled"));
        error.details.expect("how").as_str().to_owned()
    };
    // Its worker stops it by itself, ends it by force, or says nothing at all.
    for (code, how) in [(None, "graceful"), (Some("killed"), "killed")] {
        let mut stage = Stage::with(&[spec("ann", 1)]);
        let task = stage.submit(Keep::Passing);
        let (conn, epoch) = stage.accept(task);
        stage.tell(Event::Cancel(task, RequestId(99)));
        stage.advance(Duration::from_millis(1_500));
        let error = code.map(|code: &str| TaskError::new(code, "stopped", Fault::Caller));
        let status = AttemptOutcome::Cancelled;
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
        assert_eq!(told(&stage, task), format!(r#"{{"stopped":"{how}","took_ms":1500}}"#));
    }
    let mut stage = Stage::with(&[spec("ann", 1)]);
    let task = stage.submit(Keep::Passing);
    stage.accept(task);
    let waiting = stage.submit(Keep::Kept);
    stage.tell(Event::Cancel(waiting, RequestId(98)));
    assert_eq!(told(&stage, waiting), r#"{"stopped":"never_started","took_ms":0}"#);
    stage.tell(Event::Cancel(task, RequestId(99)));
    stage.advance_with(ConnId(1), Duration::from_secs(40));
    assert_eq!(told(&stage, task), r#"{"stopped":"unconfirmed","took_ms":30000}"#);
}
