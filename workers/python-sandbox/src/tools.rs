//! What the worker offers to a server: `python.execute` and `command.execute`, their inputs, and the
//! way from a sandbox's report to a task's end.

use std::sync::Arc;

use rollcall_worker_sdk::{
    CancelReason, Capability, Fault, Task, TaskContext, TaskEnd, TaskError, WorkerBuilder,
};
use serde::Deserialize;
use serde_json::json;

use crate::limits::DEFAULT_WALL;
use crate::metrics::Metrics;
use crate::outcome::{Outcome, Program, Report, Request};
use crate::profile::WORKSPACE;
use crate::result;
use crate::sandbox::Sandbox;

/// The kernel's limit for one argument, its final zero not counted.
const LONGEST_ARGUMENT: usize = 128 * 1024 - 1;

/// As many arguments as anybody needs; their sum stays below the kernel's limit.
const MOST_ARGUMENTS: usize = 1024;
const LONGEST_COMMAND: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PythonInput {
    code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandInput {
    argv: Option<Vec<String>>,
    shell: Option<String>,
    #[serde(default)]
    stdin: String,
    #[serde(default)]
    cwd: String,
}

/// Adds both capabilities to a worker.
pub fn offer(worker: WorkerBuilder, sandbox: &Sandbox, metrics: &Metrics) -> WorkerBuilder {
    // A run has no network and leaves nothing behind, so to run it again does no harm.
    let python = Capability::new("python.execute")
        .description(
            "Runs Python 3 code in a fresh sandbox without network. Standard output and error are \
             streamed; the value of a last expression is returned as text. Nothing is kept afterwards.",
        )
        .idempotent(true)
        .input_schema(&json!({
            "type": "object",
            "properties": { "code": { "type": "string", "description": "Python source" } },
            "required": ["code"],
            "additionalProperties": false
        }));
    let command = Capability::new("command.execute")
        .description(
            "Runs a program in a fresh sandbox without network: `argv` as it is, or `shell` by /bin/sh. \
             Nothing is kept afterwards.",
        )
        .idempotent(true)
        .input_schema(&json!({
            "type": "object",
            "properties": {
                "argv": {
                    "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MOST_ARGUMENTS,
                    "description": "the program's name and its arguments"
                },
                "shell": { "type": "string", "description": "a script for /bin/sh" },
                "stdin": { "type": "string", "description": "what the program reads" },
                "cwd": {
                    "type": "string",
                    "description": "where it starts, below /workspace or /tmp; made if it is not there"
                }
            },
            "oneOf": [{ "required": ["argv"] }, { "required": ["shell"] }],
            "additionalProperties": false
        }));
    worker
        .capability(python, handler(sandbox, metrics, python_program))
        .capability(command, handler(sandbox, metrics, command_program))
}

fn handler(
    sandbox: &Sandbox,
    metrics: &Metrics,
    read: fn(&str) -> Result<Program, String>,
) -> impl Fn(Task, TaskContext) -> rollcall_worker_sdk::BoxFuture<TaskEnd> + Send + Sync + 'static {
    let (sandbox, metrics) = (sandbox.clone(), metrics.clone());
    move |task, context| {
        let (sandbox, metrics) = (sandbox.clone(), metrics.clone());
        Box::pin(async move {
            if task.session.is_some() {
                return refused("sessions_unsupported", "this worker has no sessions; leave `session` out");
            }
            match read(task.input.get()) {
                Ok(program) => execute(&sandbox, &metrics, program, &task, context).await,
                Err(problem) => refused("invalid_input", &problem),
            }
        })
    }
}

async fn execute(
    sandbox: &Sandbox,
    metrics: &Metrics,
    program: Program,
    task: &Task,
    context: TaskContext,
) -> TaskEnd {
    let wall = if task.deadline.is_zero() { DEFAULT_WALL } else { task.deadline };
    let running = metrics.begin();
    let live = context.clone();
    let output = Arc::new(move |stream, bytes: &[u8]| live.output(stream, bytes));
    let mut report = sandbox.run(Request { program, wall }, output, context.cancellation()).await;
    drop(running);
    if report.outcome == Outcome::Cancelled && context.cancel_reason() == Some(CancelReason::Timeout) {
        // The same limit, seen by the server or the SDK a moment before us.
        report.outcome = Outcome::Timeout;
        report.message = "ran longer than its time limit".into();
    }
    metrics.ended(report.outcome, &report.usage);
    if report.outcome == Outcome::SandboxError {
        tracing::error!(task = task.id, epoch = task.epoch, problem = report.message, "the sandbox failed");
    }
    end(&report)
}

/// The task's end. What the code did is the caller's affair; only a sandbox that failed is ours, and
/// worth another try elsewhere.
fn end(report: &Report) -> TaskEnd {
    let ours = report.outcome == Outcome::SandboxError;
    let end = match report.outcome {
        Outcome::Ok => return result::fill(TaskEnd::succeeded(&()), report),
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
    result::fill(end, report)
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

fn python_program(input: &str) -> Result<Program, String> {
    let PythonInput { code } = serde_json::from_str(input).map_err(|problem| problem.to_string())?;
    Ok(Program::Python { code })
}

fn command_program(input: &str) -> Result<Program, String> {
    let input: CommandInput = serde_json::from_str(input).map_err(|problem| problem.to_string())?;
    let argv = match (input.argv, input.shell) {
        (Some(argv), None) => argv,
        (None, Some(script)) => vec!["/bin/sh".into(), "-c".into(), script],
        _ => return Err("one of `argv` and `shell` is needed, and not both".into()),
    };
    if argv.is_empty() || argv.len() > MOST_ARGUMENTS {
        return Err(format!("`argv` has {} words; it may have 1 to {MOST_ARGUMENTS}", argv.len()));
    }
    if argv.iter().any(|word| word.len() > LONGEST_ARGUMENT)
        || argv.iter().map(String::len).sum::<usize>() > LONGEST_COMMAND
    {
        return Err(format!(
            "an argument may have {LONGEST_ARGUMENT} bytes, all together {LONGEST_COMMAND}; \
             send more through `stdin`"
        ));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err("an argument cannot contain a zero byte".into());
    }
    Ok(Program::Command { argv, stdin: input.stdin, cwd: start_folder(&input.cwd)? })
}

/// An absolute path below a folder that can be written, or one relative to the workspace.
fn start_folder(cwd: &str) -> Result<String, String> {
    let path = if cwd.starts_with('/') { cwd.to_owned() } else { format!("{WORKSPACE}/{cwd}") };
    let allowed = [WORKSPACE, "/tmp"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if !allowed || path.split('/').any(|part| part == "..") || path.len() > 1024 || path.contains('\0') {
        return Err("`cwd` must be a path below /workspace or /tmp, without `..`".into());
    }
    Ok(path.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(input: &str) -> Vec<String> {
        match command_program(input) {
            Ok(Program::Command { argv, .. }) => argv,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_is_argv_or_a_script_and_nothing_else() {
        assert_eq!(argv(r#"{"argv":["ls","-l"]}"#), ["ls", "-l"]);
        assert_eq!(argv(r#"{"shell":"ls | wc"}"#), ["/bin/sh", "-c", "ls | wc"]);
        for wrong in [
            r"{}",
            r#"{"argv":["ls"],"shell":"ls"}"#,
            r#"{"argv":[]}"#,
            r#"{"argv":"ls"}"#,
            r#"{"argv":["a\u0000b"]}"#,
            r#"{"argv":["ls"],"env":{}}"#,
            "[]",
        ] {
            assert!(command_program(wrong).is_err(), "{wrong}");
        }
        let long = json!({ "argv": ["echo", "x".repeat(200_000)] }).to_string();
        assert!(command_program(&long).expect_err("too long for the kernel").contains("stdin"));
    }

    #[test]
    fn a_start_folder_stays_where_it_can_be_made() {
        assert_eq!(start_folder("").as_deref(), Ok("/workspace"));
        assert_eq!(start_folder("a/b/").as_deref(), Ok("/workspace/a/b"));
        assert_eq!(start_folder("/tmp").as_deref(), Ok("/tmp"));
        for wrong in ["..", "a/../..", "/etc", "/workspaces", "/tmp/../etc", "/", "a\0b"] {
            assert!(start_folder(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_failed_sandbox_is_the_workers_fault() {
        for outcome in Outcome::ALL {
            let report = Report { outcome, ..Report::failed("why") };
            let end = end(&report);
            let ours = outcome == Outcome::SandboxError;
            if let Some(error) = end.error {
                assert_eq!((error.retryable, error.fault == Fault::Worker), (ours, ours), "{outcome:?}");
                assert_eq!(error.code, outcome.as_str());
            }
        }
    }
}
