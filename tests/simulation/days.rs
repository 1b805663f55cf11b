//! Whole days of pools in seconds: the real core, honest workers that take a while to start, and work
//! that comes as work does. The rules of scaling are checked after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::autoscaler::Reason;
use rollcall::fleet::*;

mod peers;
mod stories;

/// What one task takes.
const TASK: Duration = Duration::from_secs(1);

/// What happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Wake,
    /// A program has started and is dialled.
    Up(WorkerName),
    Down(WorkerName),
    Ends(ConnId, TaskId, Epoch),
    Answered(u64, bool),
    Beat(ConnId),
}

/// An instance, as the world sees it.
#[derive(Debug, Default)]
struct Machine {
    running: bool,
    conn: Option<ConnId>,
    holds: BTreeSet<(TaskId, Epoch)>,
}

/// A pool, its work, and whoever makes its instances.
struct Day {
    fleet: Fleet,
    now: Now,
    topology: Topology,
    queue: BTreeMap<(u64, u64), Next>,
    order: u64,
    machines: BTreeMap<WorkerName, Machine>,
    conns: BTreeMap<ConnId, WorkerName>,
    next_conn: u64,
    next_task: u128,
    submitted: BTreeMap<TaskId, u64>,
    waits: Vec<Duration>,
    finished: u64,
    /// How long a program takes until it is there.
    starts: Duration,
    /// What providers answer next; honest ones when it is empty.
    answers: VecDeque<Answer>,
    sizes: Vec<(u64, u32)>,
    decisions: Vec<Decision>,
    calls: u64,
    /// Nanoseconds of all instances together.
    instance_time: u128,
    last_step: u64,
}

/// What a provider does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Fails,
    /// It says that all is well and does nothing.
    Lies,
    Hangs(Duration),
}

const SECOND: u64 = 1_000_000_000;

fn secs(seconds: u64) -> u64 {
    seconds * SECOND
}

impl Day {
    fn new(scaling: Scaling) -> Self {
        let template = WorkerSpec {
            name: "template".into(),
            formerly: None,
            origin: Origin::Pool,
            pool: None,
            interface: InterfaceKind::Websocket,
            endpoint: Some("ws://127.0.0.1:{port}".into()),
            capabilities: Some(vec!["echo".into()]),
            slots: Some(4),
            timeout: Duration::from_secs(600),
            labels: BTreeMap::new(),
            launch: Some(LaunchSpec {
                command: vec!["worker".into(), "{port}".into()],
                env: BTreeMap::new(),
            }),
            mock: MockSpec::default(),
        };
        let pool = PoolSpec { name: "p".into(), formerly: None, template, scaling };
        let topology = Topology {
            generation: Generation(1),
            pools: BTreeMap::from([("p".into(), Arc::new(pool))]),
            ..Topology::default()
        };
        let mut day = Self {
            fleet: Fleet::new(Term(1), 7, "store".into()),
            now: Now { mono: Mono(0), wall: Wall(1_767_571_200_000) },
            topology: topology.clone(),
            queue: BTreeMap::new(),
            order: 0,
            machines: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            next_task: 1,
            submitted: BTreeMap::new(),
            waits: Vec::new(),
            finished: 0,
            starts: Duration::from_secs(2),
            answers: VecDeque::new(),
            sizes: vec![(0, 0)],
            decisions: Vec::new(),
            calls: 0,
            instance_time: 0,
            last_step: 0,
        };
        day.tell(Event::Desired(Arc::new(topology)));
        day
    }

    fn scaling(&self) -> &Scaling {
        &self.topology.pools[&PoolName::from("p")].scaling
    }

    fn edit(&mut self, change: impl FnOnce(&mut PoolSpec)) {
        let name = PoolName::from("p");
        let mut spec = PoolSpec::clone(&self.topology.pools[&name]);
        change(&mut spec);
        self.topology.pools.insert(name, Arc::new(spec));
        self.topology.generation.0 += 1;
        self.tell(Event::Desired(Arc::new(self.topology.clone())));
    }

    fn later(&mut self, wait: Duration, next: Next) {
        let at = self.now.mono.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX / 2));
        self.order += 1;
        self.queue.insert((at, self.order), next);
    }

    fn tell(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.fleet.handle(self.now, event, &mut effects);
        while let Some(up_to) = self.fleet.awaited() {
            self.fleet.handle(self.now, Event::Durable { up_to, taken: Vec::new() }, &mut effects);
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch(worker) => {
                self.machines.entry(worker.clone()).or_default().running = true;
                let wait = self.starts;
                self.later(wait, Next::Up(worker));
            }
            Effect::Halt(worker) => {
                let machine = self.machines.get(&worker).expect("it was launched");
                assert!(machine.holds.is_empty(), "{worker} is stopped while it runs {:?}", machine.holds);
                self.later(Duration::from_millis(300), Next::Down(worker));
            }
            Effect::Order(conn, Order::Execute(assignment)) => {
                let worker = self.conns.get(&conn).expect("an open connection").clone();
                let key = (assignment.task, assignment.epoch);
                self.machines.get_mut(&worker).expect("it runs").holds.insert(key);
                let since = self.submitted[&assignment.task];
                self.waits.push(Duration::from_nanos(self.now.mono.0 - since));
                self.tell(Event::Report(conn, Report::Accepted { task: key.0, epoch: key.1 }));
                self.later(TASK, Next::Ends(conn, key.0, key.1));
            }
            Effect::Close(conn, _) => {
                let worker = self.conns.remove(&conn).expect("an open connection");
                let machine = self.machines.get_mut(&worker).expect("it runs");
                assert!(machine.holds.is_empty(), "{worker} is sent away while it runs {:?}", machine.holds);
                machine.conn = None;
            }
            Effect::Provision(_, wanted) => {
                self.calls += 1;
                let (wait, ok) = match self.answers.pop_front() {
                    None => (Duration::from_millis(10), true),
                    Some(Answer::Fails) => (Duration::from_millis(10), false),
                    Some(Answer::Lies) => {
                        // The ports that it names are nobody's.
                        self.starts = Duration::MAX / 4;
                        (Duration::from_millis(10), true)
                    }
                    Some(Answer::Hangs(wait)) => (wait, false),
                };
                self.later(wait, Next::Answered(wanted.call, ok));
            }
            Effect::Note(Note::PoolDecided { decision, .. }) => self.decided(&decision),
            Effect::Finish(task, record) => {
                assert_eq!(record.state, TaskState::Succeeded, "{task}: {:?}", record.error);
                self.finished += 1;
            }
            _ => {}
        }
    }

    fn decided(&mut self, decision: &Decision) {
        let (min, max) = (self.scaling().min_at(self.now.wall), self.scaling().max);
        assert!((min..=max).contains(&decision.to), "{} is not within {min} and {max}", decision.to);
        if decision.direction != Direction::Hold {
            let at = self.now.mono.0 / SECOND;
            let last = self.decisions.iter().rev().find(|last| last.direction != Direction::Hold);
            if let Some(last) = last
                && last.direction == Direction::Up
                && decision.direction == Direction::Down
                && !matches!(decision.reason, Reason::Manual)
            {
                let since = Duration::from_millis((decision.at.0 - last.at.0).unsigned_abs());
                let delay = self.scaling().downscale_delay;
                assert!(
                    since >= delay,
                    "it turns back after {since:?} at {at} s, and the delay is {delay:?}"
                );
            }
            self.sizes.push((at, decision.to));
        }
        self.decisions.push(decision.clone());
    }

    /// Runs until then.
    fn until(&mut self, end: u64) {
        loop {
            let wake = self.fleet.next_wake().map_or(u64::MAX, |at| at.0.max(self.now.mono.0));
            let next = self.queue.keys().next().map_or(u64::MAX, |(at, _)| *at);
            let at = wake.min(next);
            if at > end {
                break self.move_to(end);
            }
            self.move_to(at);
            let next = if next <= wake { self.queue.pop_first().map(|(_, next)| next) } else { None };
            self.happen(next.unwrap_or(Next::Wake));
        }
    }

    fn move_to(&mut self, at: u64) {
        let running = self.machines.values().filter(|machine| machine.running).count();
        self.instance_time += running as u128 * u128::from(at - self.now.mono.0);
        let step = Duration::from_nanos(at - self.now.mono.0);
        self.last_step = at;
        self.now = Now { mono: Mono(at), wall: self.now.wall + step };
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Wake => self.tell(Event::Wake),
            Next::Up(worker) => {
                let Some(machine) = self.machines.get_mut(&worker).filter(|machine| machine.running) else {
                    return;
                };
                let conn = ConnId(self.next_conn);
                self.next_conn += 1;
                machine.conn = Some(conn);
                self.conns.insert(conn, worker.clone());
                let offer =
                    Offer { name: "echo".into(), description: None, input_schema: None, idempotent: true };
                let registration = Registration {
                    worker: worker.clone(),
                    dialled: true,
                    instance: format!("{worker}#{}", conn.0).as_str().into(),
                    kind: "day".into(),
                    version: "1".into(),
                    slots: Some(4),
                    labels: BTreeMap::new(),
                    isolation: None,
                    capabilities: vec![offer],
                    attempts: Vec::new(),
                    sessions: None,
                    features: Vec::new(),
                    metrics: None,
                    store: None,
                };
                self.tell(Event::LinkUp(conn, Box::new(registration)));
                self.later(Duration::from_secs(20), Next::Beat(conn));
            }
            Next::Beat(conn) => {
                if self.conns.contains_key(&conn) {
                    self.tell(Event::Report(conn, Report::Alive));
                    self.later(Duration::from_secs(20), Next::Beat(conn));
                }
            }
            Next::Down(worker) => {
                self.machines.remove(&worker);
                self.tell(Event::ProcessGone(worker));
            }
            Next::Ends(conn, task, epoch) => {
                let Some(worker) = self.conns.get(&conn).cloned() else { return };
                let machine = self.machines.get_mut(&worker).expect("it runs");
                if !machine.holds.remove(&(task, epoch)) {
                    return;
                }
                let result = ResultReport {
                    task,
                    epoch,
                    status: AttemptOutcome::Succeeded,
                    output: Some("1".into()),
                    error: None,
                    usage: None,
                    artifacts: Vec::new(),
                    session_open: None,
                };
                self.tell(Event::Report(conn, Report::Result(Box::new(result))));
            }
            Next::Answered(call, ok) => {
                let took = Duration::from_millis(10);
                let report = if ok {
                    let ports = (0..64).map(|at| 20_000 + at).collect();
                    ProviderReport::Done { ports, took }
                } else {
                    ProviderReport::Failed { timeout: false, message: "no".into(), took }
                };
                self.tell(Event::Provided("p".into(), call, report));
            }
        }
    }

    fn submit(&mut self) {
        let id = TaskId(self.next_task);
        self.next_task += 1;
        self.submitted.insert(id, self.now.mono.0);
        let submission = Submission {
            id,
            tenant: Tenant::default_tenant(),
            request: RequestId(u64::try_from(id.0).expect("small")),
            keep: Keep::Kept,
            source: Source::Rest,
            spec: Arc::new(TaskSpec::new("echo", "{}")),
            retry_of: None,
        };
        self.tell(Event::Submit(Box::new(submission)));
    }

    /// So many tasks a second for so many seconds, as a function of the second.
    fn load(&mut self, seconds: u64, rate: impl Fn(u64) -> f64) {
        let (mut owed, from) = (0.0, self.now.mono.0);
        for second in 0..seconds {
            owed += rate(second);
            while owed >= 1.0 {
                owed -= 1.0;
                self.submit();
            }
            self.until(from + secs(second + 1));
        }
    }

    fn desired(&self) -> u32 {
        self.fleet.pools()[0].desired
    }

    /// Instances that run.
    fn running(&self) -> usize {
        self.machines.values().filter(|machine| machine.running).count()
    }

    fn all_done(&self) {
        assert_eq!(self.finished, self.submitted.len() as u64, "tasks were lost");
    }
}
