//! What the worker offers to a server, and the way from a task to a sandbox, and from a sandbox's report to
//! the task's end.

use std::sync::Arc;
use std::time::Duration;

use rollcall_worker_sdk::{
    BoxFuture, CancelReason, Capability, Fault, StoredArtifact, Task, TaskContext, TaskEnd, TaskError,
    WorkerBuilder,
};

use crate::frame::MadeFile;
use crate::inputs::{self, Wanted};
use crate::limits::{DEFAULT_WALL, Limits};
use crate::metrics::Metrics;
use crate::outcome::{Outcome, Program, Report, Request};
use crate::packages::Packages;
use crate::sandbox::Sandbox;
use crate::sessions::{NoSession, Opening};
use crate::{result, schemas};

/// How long a session lives unused when the server says nothing.
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);

/// What is offered, and within which bounds. Cheap to clone.
#[derive(Clone)]
pub struct Offer {
    /// Where tasks run.
    pub sandbox: Sandbox,
    /// What counts them.
    pub metrics: Metrics,
    /// The most that a task may ask for.
    pub most: Limits,
    /// Whether and how packages can be installed.
    pub packages: Option<Arc<Packages>>,
}

/// What a capability is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A sandbox of its own, or a session if the task names one.
    Anywhere,
    /// Only a session has what it is about.
    Session,
    /// A session, which begins with this call whether or not there was one.
    FreshSession,
}

type Read = fn(&str) -> Result<Wanted, String>;

/// Adds all capabilities to a worker.
pub fn offer(worker: WorkerBuilder, offer: &Offer) -> WorkerBuilder {
    let [read, write, list, delete, stat] = schemas::files();
    let all: [(Capability, Place, Read); 10] = [
        (schemas::python_execute(), Place::Anywhere, inputs::python),
        (schemas::python_reset(), Place::FreshSession, inputs::reset),
        (schemas::command_execute(), Place::Anywhere, inputs::command),
        (read, Place::Session, inputs::files_read),
        (write, Place::Session, inputs::files_write),
        (list, Place::Session, inputs::files_list),
        (delete, Place::Session, inputs::files_delete),
        (stat, Place::Session, inputs::files_stat),
        (schemas::package_list(), Place::Anywhere, inputs::package_list),
        (schemas::code_analyze(), Place::Anywhere, inputs::analyze),
    ];
    let sandbox = offer.sandbox.clone();
    let held = sandbox.clone();
    let worker = worker.sessions(move || held.session_names()).on_session_end(move |session| {
        // One that has ended already is no event.
        sandbox.end_session(session);
    });
    let worker = all.into_iter().fold(worker, |worker, (capability, place, read)| {
        worker.capability(capability, offer.handler(place, read))
    });
    match &offer.packages {
        None => worker,
        Some(packages) => worker.capability(schemas::package_install(), offer.installer(packages)),
    }
}

impl Offer {
    fn handler(
        &self,
        place: Place,
        read: Read,
    ) -> impl Fn(Task, TaskContext) -> BoxFuture<TaskEnd> + Send + Sync + 'static {
        let offer = self.clone();
        move |task, context| {
            let offer = offer.clone();
            Box::pin(async move {
                let end = match offer.request(place, read, &task) {
                    Ok(mut request) => match fetch(&mut request.inputs, &context).await {
                        Ok(()) => offer.execute(place, request, &task, &context).await,
                        Err(problem) => TaskEnd::failed(*problem),
                    },
                    Err(end) => *end,
                };
                offer.with_session(end, &task)
            })
        }
    }

    fn installer(
        &self,
        packages: &Arc<Packages>,
    ) -> impl Fn(Task, TaskContext) -> BoxFuture<TaskEnd> + Send + Sync + 'static {
        let (offer, packages) = (self.clone(), Arc::clone(packages));
        move |task, context| {
            let (offer, packages) = (offer.clone(), Arc::clone(&packages));
            Box::pin(async move {
                let Some(session) = task.session.clone() else { return *needs_session(&task) };
                let names = match inputs::packages(task.input.get()) {
                    Ok(names) => names,
                    Err(problem) => {
                        return offer.with_session(refused("invalid_input", &problem), &task);
                    }
                };
                let has = offer.sandbox.packages_of(&session, 0);
                let running = offer.metrics.begin();
                let installed =
                    packages.install(&offer.sandbox, names, has, wall(&task), context.cancellation());
                let (report, set) = installed.await;
                drop(running);
                let Some(set) = set else {
                    return offer.with_session(offer.end(report, &context).await, &task);
                };
                let request = offer.plain(set.use_it(), &task);
                let used = offer.execute(Place::Session, request, &task, &context).await;
                let succeeded = used.status == rollcall_worker_sdk::Status::Succeeded;
                if succeeded {
                    offer.sandbox.packages_of(&session, set.size);
                }
                let end = if succeeded { offer.end(report, &context).await } else { used };
                offer.with_session(end, &task)
            })
        }
    }

    /// What a task asks for, or why it cannot be had.
    fn request(&self, place: Place, read: Read, task: &Task) -> Result<Request, Box<TaskEnd>> {
        if place != Place::Anywhere && task.session.is_none() {
            return Err(needs_session(task));
        }
        let wrong = |problem: String| Box::new(refused("invalid_input", &problem));
        let wanted = read(task.input.get()).map_err(wrong)?;
        let limits = wanted.limits.within(self.sandbox.limits(), &self.most).map_err(wrong)?;
        if let Some(session) = &task.session
            && !wanted.limits.is_nothing()
            && opening(task) != Opening::New
            && self.sandbox.has_session(session)
        {
            let problem =
                "`limits` are set by the call that begins a session; leave them out, or begin another";
            return Err(wrong(problem.into()));
        }
        let Wanted { program, inputs, outputs, .. } = wanted;
        Ok(Request { program, inputs, outputs, limits, wall: wall(task) })
    }

    /// Tells the server whether the task's session is there after it.
    fn with_session(&self, end: TaskEnd, task: &Task) -> TaskEnd {
        match &task.session {
            None => end,
            Some(session) => end.with_session_open(self.sandbox.has_session(session)),
        }
    }

    fn plain(&self, program: Program, task: &Task) -> Request {
        let (inputs, outputs) = (Vec::new(), Vec::new());
        Request { program, inputs, outputs, limits: *self.sandbox.limits(), wall: wall(task) }
    }

    async fn execute(&self, place: Place, request: Request, task: &Task, context: &TaskContext) -> TaskEnd {
        let running = self.metrics.begin();
        let live = context.clone();
        let output = Arc::new(move |stream, bytes: &[u8]| live.output(stream, bytes));
        let cancel = context.cancellation();
        let report = match &task.session {
            None => self.sandbox.run(request, output, cancel).await,
            Some(session) => {
                let fresh = place == Place::FreshSession;
                let opening = if fresh { Opening::New } else { opening(task) };
                let ttl = ttl(task);
                match self.sandbox.call(session, opening, ttl, request, output, cancel).await {
                    Ok(report) => report,
                    Err(problem) => return no_session(session, problem),
                }
            }
        };
        drop(running);
        if report.outcome == Outcome::SandboxError {
            tracing::error!(
                task = task.id,
                epoch = task.epoch,
                problem = report.message,
                "the sandbox failed"
            );
        }
        self.end(report, context).await
    }

    /// Sends the files, and makes the report the task's end.
    async fn end(&self, mut report: Report, context: &TaskContext) -> TaskEnd {
        if report.outcome == Outcome::Cancelled && context.cancel_reason() == Some(CancelReason::Timeout) {
            // The same limit, seen by the server or the SDK a moment before us.
            report.outcome = Outcome::Timeout;
            report.message = "ran longer than its time limit".into();
        }
        self.metrics.ended(report.outcome, &report.usage);
        let files = std::mem::take(&mut report.files);
        let stored = tokio::select! {
            stored = upload(files, context) => stored,
            _ = context.cancelled() => Ok(Vec::new()),
        };
        match stored {
            Ok(stored) => end(&report, &stored),
            Err(problem) => TaskEnd::failed(*problem),
        }
    }
}

/// Whether the task begins its session.
fn opening(task: &Task) -> Opening {
    match task.session_new {
        Some(true) => Opening::New,
        Some(false) => Opening::Known,
        None => Opening::Either,
    }
}

fn ttl(task: &Task) -> Duration {
    task.session_ttl.unwrap_or(DEFAULT_TTL)
}

fn wall(task: &Task) -> Duration {
    if task.deadline.is_zero() { DEFAULT_WALL } else { task.deadline }
}

/// Fetches the files that inputs refer to.
async fn fetch(files: &mut [serde_json::Value], context: &TaskContext) -> Result<(), Box<TaskError>> {
    let mut left = inputs::FETCHED_ALL;
    for (input, reference) in inputs::to_fetch(files) {
        let bytes = context.fetch(&reference, inputs::FETCHED_MOST.min(left)).await.map_err(Box::new)?;
        left -= bytes.len();
        inputs::fetched(input, &bytes);
    }
    Ok(())
}

/// Hands files to the server, under names of which each is used once.
async fn upload(files: Vec<MadeFile>, context: &TaskContext) -> Result<Vec<StoredArtifact>, Box<TaskError>> {
    let mut stored: Vec<StoredArtifact> = Vec::new();
    for MadeFile { name, media_type, bytes } in files {
        let name = unused(&tidy(&name), &stored);
        let sent = context.artifact(&name, &media_type_of(&media_type), bytes).await;
        stored.push(sent.map_err(Box::new)?);
    }
    Ok(stored)
}

/// What comes from inside a sandbox may be anything; a name is a short text.
fn tidy(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    if name.trim().is_empty() { "file".into() } else { name }
}

fn unused(name: &str, stored: &[StoredArtifact]) -> String {
    let taken = |name: &str| stored.iter().any(|file| file.name == name);
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let numbered = |number: u32| match ending {
        "" => format!("{stem}-{number}"),
        ending => format!("{stem}-{number}.{ending}"),
    };
    let mut names = std::iter::once(name.to_owned()).chain((2..).map(numbered));
    names.find(|name| !taken(name)).unwrap_or_default()
}

fn media_type_of(told: &str) -> String {
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 60
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-'))
    };
    let good = told.split_once('/').is_some_and(|(kind, form)| plain(kind) && plain(form));
    if good { told.to_owned() } else { "application/octet-stream".into() }
}

/// The task's end. What the code did is the caller's affair; only a sandbox that failed is ours, and
/// worth another try elsewhere.
fn end(report: &Report, stored: &[StoredArtifact]) -> TaskEnd {
    let ours = report.outcome == Outcome::SandboxError;
    let end = match report.outcome {
        Outcome::Ok => TaskEnd::succeeded(&()),
        Outcome::Timeout => TaskEnd::timed_out(),
        Outcome::Cancelled if report.killed => TaskEnd::killed(),
        Outcome::Cancelled => TaskEnd::cancelled(),
        Outcome::Error
        | Outcome::Exit
        | Outcome::Signal
        | Outcome::OutOfMemory
        | Outcome::OutputLimit
        | Outcome::DiskFull
        | Outcome::SandboxError => TaskEnd::failed(TaskError {
            code: report.outcome.as_str().into(),
            message: result::sentence(&report.message),
            retryable: ours,
            fault: if ours { Fault::Worker } else { Fault::Caller },
            details: None,
        }),
    };
    match report.output {
        Some(_) => result::fill_answer(end, report, stored),
        None => result::fill(end, report, stored),
    }
}

fn needs_session(task: &Task) -> Box<TaskEnd> {
    let what = &task.capability;
    let message =
        format!("{what} is about the files and packages of a session; name one in the task's `session`");
    Box::new(refused("session_required", &message))
}

fn no_session(session: &str, problem: NoSession) -> TaskEnd {
    match problem {
        NoSession::Lost => refused(
            "session_lost",
            &format!(
                "the worker has no session {session:?} any more: nobody used it for its ttl, it ended with a call \
                 that had to be killed, or the worker was started anew; delete it and begin another"
            ),
        ),
        NoSession::TooMany(most) => TaskEnd::failed(TaskError {
            code: "too_many_sessions".into(),
            message: format!("the worker holds {most} sessions, as many as it may; delete one, or ask later"),
            retryable: true,
            fault: Fault::Caller,
            details: None,
        }),
    }
}

fn refused(code: &str, message: &str) -> TaskEnd {
    TaskEnd::failed(TaskError {
        code: code.into(),
        message: message.into(),
        retryable: false,
        fault: Fault::Caller,
        details: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_sandbox_is_the_workers_fault() {
        for outcome in Outcome::ALL {
            let report = Report { outcome, ..Report::failed("why") };
            let end = end(&report, &[]);
            let ours = outcome == Outcome::SandboxError;
            if let Some(error) = end.error {
                assert_eq!((error.retryable, error.fault == Fault::Worker), (ours, ours), "{outcome:?}");
                assert_eq!(error.code, outcome.as_str());
            }
        }
    }

    #[test]
    fn what_a_sandbox_says_of_a_file_is_made_fit_for_a_server() {
        assert_eq!(tidy("a\u{1b}[31m\n.txt"), "a[31m.txt");
        assert_eq!(tidy(" \0"), "file");
        assert_eq!(media_type_of("image/svg+xml"), "image/svg+xml");
        for wrong in ["", "text", "text/", "a/b/c", "text/html; x", "\u{1b}/x"] {
            assert_eq!(media_type_of(wrong), "application/octet-stream", "{wrong:?}");
        }
        let stored = |name: &str| StoredArtifact {
            name: name.into(),
            media_type: String::new(),
            size: 0,
            sha256: String::new(),
        };
        assert_eq!(unused("a.png", &[]), "a.png");
        assert_eq!(unused("a.png", &[stored("a.png"), stored("a-2.png")]), "a-3.png");
        assert_eq!(unused("a", &[stored("a")]), "a-2");
    }
}
