//! What a run is asked and what it answers, in the words that users see.

use std::time::Duration;

use serde::Serialize;

use crate::capture::Captured;

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
    },
}

/// One run.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to run.
    pub program: Program,
    /// How long it may take, set-up included.
    pub wall: Duration,
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
    /// `repr` of the last expression of Python code, if it has one that is not `None`.
    pub last_value: Option<String>,
    /// It did not stop by itself.
    pub killed: bool,
    /// What it used.
    pub usage: Usage,
}
