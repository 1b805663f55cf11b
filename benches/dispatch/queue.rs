//! What the core itself takes for one task, whatever waits beside it and however many workers there
//! are: no socket, no store, one thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall::fleet::*;

use crate::Failure;
use crate::report::{CoreCost, Report};

/// Tasks that are timed for each size.
const TASKS: usize = 20_000;

/// Workers and waiting tasks.
const SIZES: [(usize, usize); 4] = [(1, 0), (1, 100_000), (10_000, 0), (10_000, 100_000)];

/// Times the whole life of a task in the core for each size.
pub(crate) fn core(report: &mut Report) -> Result<(), Failure> {
    for (workers, waiting) in SIZES {
        eprintln!("bench: the core with {workers} workers and {waiting} tasks waiting");
        let mut stage = Stage::new(workers, waiting)?;
        let nanos = stage.time(waiting > 0)?;
        report.core.push(CoreCost { workers, waiting, nanos });
    }
    Ok(())
}

struct Stage {
    fleet: Fleet,
    now: Now,
    effects: Vec<Effect>,
    next: u64,
    /// Attempts that run, oldest first.
    running: std::collections::VecDeque<(ConnId, TaskId, Epoch)>,
    /// What it told for metrics and logs, where somebody asked to know.
    notes: Option<Vec<Note>>,
}

/// A worker of one slot.
pub(crate) fn spec(name: &WorkerName) -> WorkerSpec {
    WorkerSpec {
        name: name.clone(),
        formerly: None,
        origin: Origin::File,
        pool: None,
        interface: InterfaceKind::Websocket,
        endpoint: Some("ws://127.0.0.1:1".into()),
        capabilities: Some(vec!["echo".into()]),
        slots: Some(1),
        timeout: Duration::from_secs(600),
        labels: BTreeMap::new(),
        launch: None,
        mock: MockSpec::default(),
    }
}

/// What the core tells of so many tasks that all go well, for metrics and logs.
pub(crate) fn notes_of(tasks: usize) -> Result<Vec<Note>, Failure> {
    let mut stage = Stage::new(1, 0)?;
    stage.notes = Some(Vec::new());
    stage.run(tasks)?;
    stage.notes.take().filter(|notes| notes.len() >= tasks).ok_or_else(|| "the core told nothing".into())
}

impl Stage {
    /// Workers of one slot each that are all ready, and so many tasks that wait behind busy ones.
    fn new(workers: usize, waiting: usize) -> Result<Self, Failure> {
        let names: Vec<WorkerName> = (1..=workers).map(|n| WorkerName::from(format!("worker-{n}"))).collect();
        let settings = Settings { max_depth: 1_000_000, ..Settings::default() };
        let topology = Topology {
            generation: Generation(1),
            workers: names.iter().map(|name| (name.clone(), Arc::new(spec(name)))).collect(),
            settings,
            ..Topology::default()
        };
        let mut stage = Self {
            fleet: Fleet::new(Term(1), 7, "bench".into()),
            now: Now::default(),
            effects: Vec::new(),
            next: 1,
            running: Default::default(),
            notes: None,
        };
        stage.tell(Event::Desired(Arc::new(topology)));
        for (number, name) in names.iter().enumerate() {
            let offer =
                Offer { name: "echo".into(), description: None, input_schema: None, idempotent: true };
            let registration = Registration {
                worker: name.clone(),
                dialled: true,
                instance: "first".into(),
                kind: "bench".into(),
                version: "1".into(),
                slots: None,
                labels: BTreeMap::new(),
                isolation: None,
                metrics: None,
                capabilities: vec![offer],
                attempts: Vec::new(),
                sessions: None,
                features: Vec::new(),
                store: None,
            };
            stage.tell(Event::LinkUp(ConnId(number as u64 + 1), Box::new(registration)));
        }
        if waiting > 0 {
            for _ in 0..workers + waiting {
                stage.submit();
            }
            if stage.running.len() != workers {
                return Err(format!("{} of {workers} workers have work", stage.running.len()).into());
            }
        }
        Ok(stage)
    }

    /// Nanoseconds that a task takes: submitted, handed over, begun, ended.
    fn time(&mut self, backlog: bool) -> Result<f64, Failure> {
        let began = Instant::now();
        self.run(TASKS)?;
        let nanos = began.elapsed().as_nanos() as f64 / TASKS as f64;
        if self.running.is_empty() == backlog {
            return Err("the core did not hand over what waits".into());
        }
        Ok(nanos)
    }

    /// So many tasks, one after another.
    fn run(&mut self, tasks: usize) -> Result<(), Failure> {
        for _ in 0..tasks {
            // With a backlog the new one waits at the end, and the end of another lets one go.
            self.submit();
            let (conn, task, epoch) = self.running.pop_front().ok_or("no task runs")?;
            self.now.mono = self.now.mono + Duration::from_micros(10);
            self.tell(Event::Report(conn, rollcall::fleet::Report::Accepted { task, epoch }));
            let result = ResultReport {
                task,
                epoch,
                status: AttemptOutcome::Succeeded,
                output: Some("{}".into()),
                error: None,
                usage: None,
                artifacts: Vec::new(),
                session_open: None,
            };
            self.tell(Event::Report(conn, rollcall::fleet::Report::Result(Box::new(result))));
        }
        Ok(())
    }

    fn submit(&mut self) {
        let spec = TaskSpec::new("echo", "{}");
        let number = self.next;
        self.next += 1;
        self.tell(Event::Submit(Box::new(Submission {
            id: TaskId(number.into()),
            tenant: Tenant::default_tenant(),
            request: RequestId(number),
            keep: Keep::Passing,
            source: Source::Library,
            spec: Arc::new(spec),
            retry_of: None,
        })));
    }

    fn tell(&mut self, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.fleet.handle(self.now, event, &mut effects);
        let mut up_to = None;
        for effect in effects.drain(..) {
            match effect {
                Effect::Order(conn, Order::Execute(assignment)) => {
                    self.running.push_back((conn, assignment.task, assignment.epoch));
                }
                // The roster must be durable before the first hand-over.
                Effect::Record(seq, _) if self.fleet.awaited().is_some() => up_to = Some(seq),
                Effect::Note(note) => {
                    if let Some(notes) = &mut self.notes {
                        notes.push(note);
                    }
                }
                _ => {}
            }
        }
        self.effects = effects;
        if let Some(up_to) = up_to {
            self.tell(Event::Durable { up_to, taken: Vec::new() });
        }
    }
}
