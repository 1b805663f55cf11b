//! The mock twin: a worker in memory that behaves like a real one. It answers each task with its
//! input after `mock.latency`, fails as often as `mock.failure_rate` says (drawn from `mock.seed`,
//! so the n-th task of a worker always fares alike), honours cancels and time limits, and, as real
//! workers do, outlives its connections with all that it holds.
//!
//! An input with `mock_artifacts` makes files: `[{"name": …, "media_type": …, "text": …}]`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Mutex as Seat, mpsc};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Abilities, BoxFuture, Ended, LinkCommand, LinkIo, Target, UploadNews, UploadTo, WorkerInterface,
};
use crate::fleet::*;

/// Unacknowledged results of one worker; the oldest is given up beyond.
const MAX_UNACKNOWLEDGED: usize = 4_096;

/// A time that never comes in practice: what the timer is set to when nothing is due.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// The interface for mock workers. Each worker has one seat, which its connection holds.
#[derive(Default)]
pub struct MockInterface {
    workers: Arc<Mutex<HashMap<WorkerName, Arc<Seat<MockWorker>>>>>,
}

impl WorkerInterface for MockInterface {
    fn abilities(&self) -> Abilities {
        Abilities { resumes: true, confirms_cancel: true }
    }

    fn run(&self, target: Target, io: LinkIo) -> BoxFuture<Ended> {
        let workers = Arc::clone(&self.workers);
        Box::pin(async move {
            let name = target.worker.clone();
            let seat = {
                let mut workers = workers.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(
                    workers.entry(name.clone()).or_insert_with(|| Arc::new(Seat::new(MockWorker::new()))),
                )
            };
            let Ok(mut worker) = seat.try_lock_owned() else {
                let detail = "another connection holds this mock worker".to_owned();
                return Ended::NotConnected(ConnectOutcome::Duplicate, detail);
            };
            let why = worker.carry(&target, io).await;
            // Gone on purpose with nothing left to tell: the process, so to speak, ends.
            if why.is_planned() && worker.running.is_empty() && worker.done.is_empty() {
                workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            }
            Ended::Down(why)
        })
    }
}

/// One mock worker.
struct MockWorker {
    instance: Instance,
    store: Option<StoreId>,
    /// Tasks begun so far; numbers the draws.
    begun: u64,
    running: Vec<Attempt>,
    done: VecDeque<ResultReport>,
    /// Files made so far; numbers them.
    made: u64,
    tell: mpsc::UnboundedSender<UploadNews>,
    news: mpsc::UnboundedReceiver<UploadNews>,
}

/// A task that "runs": how it will end, and when.
struct Attempt {
    ends_at: Instant,
    end: ResultReport,
    /// Files of it that are not settled yet.
    files: Vec<u64>,
}

/// What an input may ask of a mock.
#[derive(Deserialize)]
struct Script {
    mock_artifacts: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    media_type: String,
    text: String,
}

impl MockWorker {
    fn new() -> Self {
        let (tell, news) = mpsc::unbounded_channel();
        Self {
            made: 0,
            tell,
            news,
            instance: Instance::from(format!("mock-{:016x}", rand::random::<u64>())),
            store: None,
            begun: 0,
            running: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// Carries one connection to its end.
    async fn carry(&mut self, target: &Target, mut io: LinkIo) -> Why {
        // What ended while nobody was connected.
        drop(self.finish_due());
        if !io.up(self.registration(target)).await {
            return Why::ServerShutdown;
        }
        let mut welcomed = None;
        let mut heartbeat_due = Instant::now() + LONG;
        let mut timer = Box::pin(sleep_until(heartbeat_due));
        loop {
            self.set(&mut timer, heartbeat_due);
            let said = tokio::select! {
                biased;
                command = io.commands.recv() => match command {
                    None => return Why::ServerShutdown,
                    Some(LinkCommand::Close(why)) => return why,
                    Some(LinkCommand::Probe(answer)) => {
                        // Who asked may have given up.
                        answer.send(Duration::ZERO).ok();
                        continue;
                    }
                    Some(LinkCommand::Order(order, decided)) => {
                        if let Order::Registered(welcome) = &order {
                            welcomed = Some(welcome.heartbeat_interval);
                            heartbeat_due = Instant::now() + welcome.heartbeat_interval;
                        }
                        if matches!(order, Order::Execute(_)) {
                            io.meter.dispatched(decided.elapsed());
                        }
                        self.obey(order, target, &io)
                    }
                },
                Some(news) = self.news.recv() => {
                    self.settled(news);
                    Vec::new()
                }
                () = &mut timer => match welcomed {
                    Some(interval) if Instant::now() >= heartbeat_due => {
                        heartbeat_due = Instant::now() + interval;
                        vec![Report::Heartbeat { running: self.listed() }]
                    }
                    Some(_) | None => Vec::new(),
                },
            };
            let ended = if welcomed.is_some() { self.finish_due() } else { Vec::new() };
            for report in said.into_iter().chain(ended) {
                if !io.report(report).await {
                    return Why::ServerShutdown;
                }
            }
        }
    }

    fn registration(&self, target: &Target) -> Registration {
        let spec = &target.spec;
        let offered = spec.capabilities.clone().unwrap_or_else(|| vec![Capability::from("*")]);
        // It does nothing to the world, so a repeat does no harm.
        let offer = |name| Offer { name, description: None, input_schema: None, idempotent: true };
        let running = self.running.iter().map(|attempt| (&attempt.end, false));
        let held = running.chain(self.done.iter().map(|end| (end, true)));
        Registration {
            worker: target.worker.clone(),
            dialled: true,
            instance: self.instance.clone(),
            kind: "mock".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            slots: None,
            labels: Default::default(),
            isolation: None,
            metrics: None,
            capabilities: offered.into_iter().map(offer).collect(),
            attempts: held
                .map(|(end, done)| HeldAttempt { task: end.task, epoch: end.epoch, done })
                .collect(),
            sessions: None,
            features: vec!["cancel".into(), "resume".into(), "artifacts".into()],
            store: self.store.clone(),
        }
    }

    /// Carries out an order; returns what there is to say.
    fn obey(&mut self, order: Order, target: &Target, io: &LinkIo) -> Vec<Report> {
        match order {
            Order::Registered(welcome) => {
                self.store = Some(welcome.store);
                for key in &welcome.drop {
                    self.forget(*key);
                }
                let again = |end: &&ResultReport| welcome.resend.contains(&(end.task, end.epoch));
                self.done.iter().filter(again).map(|end| Report::Result(Box::new(end.clone()))).collect()
            }
            Order::Execute(assignment) => self.begin(&assignment, &target.spec.mock, io),
            Order::Cancel { task, epoch, .. } => self.cancel(task, epoch),
            Order::Ack { task, epoch, .. } => {
                self.done.retain(|end| (end.task, end.epoch) != (task, epoch));
                Vec::new()
            }
            Order::Refused { .. }
            | Order::Drain { .. }
            | Order::EndSession { .. }
            | Order::Goodbye { .. } => Vec::new(),
        }
    }

    fn begin(&mut self, assignment: &Assignment, mock: &MockSpec, io: &LinkIo) -> Vec<Report> {
        let (task, epoch) = (assignment.task, assignment.epoch);
        if self.listed().contains(&(task, epoch)) {
            return Vec::new();
        }
        // A canary asks whether the twin is there, which it is: it takes no time and no draw.
        let canary = assignment.canary;
        let fails = !canary && fails(mock, self.begun);
        self.begun += u64::from(!canary);
        let latency = if canary { Duration::ZERO } else { mock.latency };
        let mut end = ResultReport {
            task,
            epoch,
            status: AttemptOutcome::Succeeded,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            session_open: None,
        };
        let takes = if latency > assignment.limit {
            end.status = AttemptOutcome::TimedOut;
            end.error = Some(error("timeout", "ran longer than its time limit", false, Fault::Caller));
            assignment.limit
        } else if fails {
            end.status = AttemptOutcome::Failed;
            end.error =
                Some(error("mock_failure", "failed as its mock's failure_rate wants", true, Fault::Worker));
            latency
        } else {
            end.output = Some(assignment.spec.input.clone());
            latency
        };
        let wall_ms = u64::try_from(takes.as_millis()).ok();
        end.usage = Some(Usage { wall_ms, ..Usage::default() });
        let files = self.make_files(&mut end, assignment.spec.input.as_str(), io);
        self.running.push(Attempt { ends_at: Instant::now() + takes, end, files });
        vec![Report::Accepted { task, epoch }]
    }

    /// Makes the files that the input asks for; the numbers of those under way.
    fn make_files(&mut self, end: &mut ResultReport, input: &str, io: &LinkIo) -> Vec<u64> {
        if !input.contains("\"mock_artifacts\"") {
            return Vec::new();
        }
        let Ok(Script { mock_artifacts }) = serde_json::from_str(input) else { return Vec::new() };
        let mut files = Vec::new();
        for File { name, media_type, text } in mock_artifacts {
            self.made += 1;
            let (number, tell) = (self.made, self.tell.clone());
            let to = UploadTo { conn: io.conn, task: end.task, epoch: end.epoch, number, tell };
            match io.door.keep(to, &name, &media_type, text.into()) {
                Ok(()) => files.push(number),
                Err(error) => fail(end, error),
            }
        }
        files
    }

    /// A file is stored, or is not.
    fn settled(&mut self, news: UploadNews) {
        let (number, error) = match news {
            UploadNews::Credit { .. } => return,
            UploadNews::Stored { number, .. } => (number, None),
            UploadNews::Refused { number, error } => (number, Some(error)),
        };
        let its = |attempt: &&mut Attempt| attempt.files.contains(&number);
        let Some(attempt) = self.running.iter_mut().find(its) else { return };
        attempt.files.retain(|other| *other != number);
        if let Some(error) = error {
            fail(&mut attempt.end, error);
        }
    }

    /// Stops an attempt. One that never came here is answered too, one that has ended has been.
    fn cancel(&mut self, task: TaskId, epoch: Epoch) -> Vec<Report> {
        if self.done.iter().any(|end| (end.task, end.epoch) == (task, epoch)) {
            return Vec::new();
        }
        self.running.retain(|attempt| (attempt.end.task, attempt.end.epoch) != (task, epoch));
        let status = AttemptOutcome::Cancelled;
        vec![self.ended(ResultReport {
            task,
            epoch,
            status,
            output: None,
            error: None,
            usage: None,
            artifacts: Vec::new(),
            session_open: None,
        })]
    }

    /// Ends what is due.
    fn finish_due(&mut self) -> Vec<Report> {
        if self.running.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut reports = Vec::new();
        while let Some(at) =
            self.running.iter().position(|attempt| attempt.files.is_empty() && attempt.ends_at <= now)
        {
            let attempt = self.running.remove(at);
            reports.push(self.ended(attempt.end));
        }
        reports
    }

    fn ended(&mut self, end: ResultReport) -> Report {
        if self.done.len() == MAX_UNACKNOWLEDGED {
            self.done.pop_front();
        }
        self.done.push_back(end.clone());
        Report::Result(Box::new(end))
    }

    fn forget(&mut self, (task, epoch): (TaskId, Epoch)) {
        self.running.retain(|attempt| (attempt.end.task, attempt.end.epoch) != (task, epoch));
        self.done.retain(|end| (end.task, end.epoch) != (task, epoch));
    }

    /// What it answers for: what runs and what is not acknowledged.
    fn listed(&self) -> Vec<(TaskId, Epoch)> {
        let running = self.running.iter().map(|attempt| &attempt.end);
        running.chain(&self.done).map(|end| (end.task, end.epoch)).collect()
    }

    fn set(&self, timer: &mut std::pin::Pin<Box<Sleep>>, heartbeat_due: Instant) {
        let may_end = self.running.iter().filter(|attempt| attempt.files.is_empty());
        let next = may_end.map(|attempt| attempt.ends_at).min();
        let due = next.map_or(heartbeat_due, |ends_at| ends_at.min(heartbeat_due));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
    }
}

fn error(code: &str, message: &str, retryable: bool, fault: Fault) -> TaskError {
    TaskError { retryable, side_effects: SideEffects::None, ..TaskError::new(code, message, fault) }
}

/// What lacks a file has not succeeded.
fn fail(end: &mut ResultReport, error: TaskError) {
    if end.status == AttemptOutcome::Succeeded {
        end.status = AttemptOutcome::Failed;
        end.error = Some(error);
    }
}

/// Whether the n-th task fails: a hash of seed and number (splitmix64), so that it depends on
/// nothing else and a reconnect or another worker changes no draw.
fn fails(mock: &MockSpec, number: u64) -> bool {
    let mut z = mock.seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % 1_000_000 < u64::from(mock.failures_per_million)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_fails_the_same_tasks_as_often_as_asked() {
        let mock = |seed| MockSpec { latency: Duration::ZERO, failures_per_million: 100_000, seed };
        let drawn = |seed| (0..10_000).filter(|n| fails(&mock(seed), *n)).collect::<Vec<_>>();
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert!((900..1_100).contains(&drawn(1).len()), "{}", drawn(1).len());
        assert!((0..1_000).all(|n| !fails(&MockSpec::default(), n)));
    }
}
