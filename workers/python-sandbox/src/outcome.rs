//! What a run is asked and what it answers, in the words that users see.

use std::sync::Arc;
use std::time::Duration;

use rollcall_worker_sdk::Stream;
use serde::Serialize;
use serde_json::{Value, json};

use crate::capture::Captured;
use crate::frame::MadeFile;
use crate::limits::Limits;

/// Hands live output on; must not wait.
pub type Output = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// What to run.
#[derive(Debug, Clone)]
pub enum Program {
    /// Python source, run by the runner inside the sandbox.
    Python {
        /// The source text.
        code: String,
    },
    /// A program with its arguments.
    Command {
        /// The program's name or path, then its arguments.
        argv: Vec<String>,
        /// What the program reads; nothing when empty.
        stdin: String,
        /// Where it starts, under `/workspace` or `/tmp`; made if it is not there.
        cwd: String,
        /// Names beside those of every sandbox's environment.
        env: serde_json::Map<String, Value>,
    },
    /// Anything else that the runner can do.
    Tool {
        /// Its name there.
        name: &'static str,
        /// What it is given.
        arguments: Value,
    },
}

/// One run.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to run.
    pub program: Program,
    /// Files to put into the workspace before, each with `path` and `text` or `base64`.
    pub inputs: Vec<Value>,
    /// Files of the workspace to bring out afterwards, as paths or patterns.
    pub outputs: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// How long it may take, set-up included.
    pub wall: Duration,
}

impl Request {
    /// As the runner reads it.
    pub(crate) fn asked(&self) -> Value {
        let (inputs, outputs) = (&self.inputs, &self.outputs);
        match &self.program {
            Program::Python { code } => {
                json!({ "op": "python", "code": code, "inputs": inputs, "outputs": outputs })
            }
            Program::Command { argv, stdin, cwd, env } => json!({
                "op": "command", "argv": argv, "stdin": stdin, "cwd": cwd, "env": env,
                "inputs": inputs, "outputs": outputs
            }),
            Program::Tool { name, arguments } => {
                let mut asked = arguments.clone();
                if let Value::Object(fields) = &mut asked {
                    fields.insert("op".into(), json!(name));
                }
                asked
            }
        }
    }
}

/// How a run ended. The word is part of the result and a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ended by itself with exit code 0.
    Ok,
    /// Python raised an exception, or the program could not be started as asked.
    Error,
    /// It ended with another exit code.
    Exit,
    /// A signal ended it.
    Signal,
    /// It ran longer than it may.
    Timeout,
    /// It was stopped because the caller asked.
    Cancelled,
    /// The kernel killed some process of it for memory.
    OutOfMemory,
    /// It wrote far more than is kept.
    OutputLimit,
    /// It filled its workspace.
    DiskFull,
    /// The sandbox itself failed; nothing is known about the code.
    SandboxError,
}

impl Outcome {
    /// Every outcome, for metrics that show zero before the first run.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Error,
        Self::Exit,
        Self::Signal,
        Self::Timeout,
        Self::Cancelled,
        Self::OutOfMemory,
        Self::OutputLimit,
        Self::DiskFull,
        Self::SandboxError,
    ];

    /// The word on the wire, in metrics and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::OutOfMemory => "out_of_memory",
            Self::OutputLimit => "output_limit",
            Self::DiskFull => "disk_full",
            Self::SandboxError => "sandbox_error",
        }
    }
}

/// An exception, as Python told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// The class, such as `ValueError`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The exception's own text.
    pub message: String,
    /// The stack, as Python prints it; absent where no Python ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
}

/// What a run used, as far as the isolation level tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Wall time, set-up and clearing away included.
    pub wall: Duration,
    /// CPU time of all its processes.
    pub cpu: Option<Duration>,
    /// The most memory at once, in bytes.
    pub peak_memory: Option<u64>,
    /// The most processes and threads at once.
    pub processes: Option<u64>,
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// A sentence for people when `outcome` is not `ok`.
    pub message: String,
    /// What it wrote to standard output.
    pub stdout: Captured,
    /// What it wrote to standard error.
    pub stderr: Captured,
    /// The exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The exception, or why the program could not be started.
    pub error: Option<ErrorReport>,
    /// What the last expression, and what was shown before it, look like.
    pub results: Vec<Value>,
    /// What a tool answered.
    pub output: Option<Value>,
    /// The files that it made for the caller; `{"$file": n}` in the two above is the one at `n`.
    pub files: Vec<MadeFile>,
    /// It did not stop by itself.
    pub killed: bool,
    /// Its session ended with it.
    pub session_lost: bool,
    /// `none` where nothing held it.
    pub isolation: Option<&'static str>,
    /// What it used.
    pub usage: Usage,
}

impl Report {
    /// The last value that the code showed, as text.
    pub fn last_value(&self) -> Option<&str> {
        self.results.last()?["text"].as_str()
    }

    /// The sandbox itself failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::unstarted(Outcome::SandboxError, message)
    }

    /// It ended before it began.
    pub(crate) fn unstarted(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
            stdout: Captured::default(),
            stderr: Captured::default(),
            exit_code: None,
            signal: None,
            error: None,
            results: Vec::new(),
            output: None,
            files: Vec::new(),
            killed: false,
            session_lost: false,
            isolation: None,
            usage: Usage::default(),
        }
    }
}
