//! Decides how a run ended from what was seen of it. Pure: no process, no clock.

use serde_json::Value;

use crate::frame::{Done, Forged};
use crate::outcome::{ErrorReport, Outcome};

/// Why the worker stopped waiting for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The runner told that it is over.
    Done,
    /// The sandbox ended by itself.
    Exited,
    /// The time limit was reached.
    Timeout,
    /// The caller, or the worker's own stop, asked for it.
    Cancelled,
    /// It wrote too much.
    OutputLimit,
    /// The kernel killed a process of it for memory.
    OutOfMemory,
}

/// What was seen of a call.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) end: End,
    /// Processes that the kernel killed for memory.
    pub(crate) oom_kills: u64,
    /// As bwrap told it; absent when the code was never started or was killed from outside.
    pub(crate) exit_code: Option<i32>,
    /// What the runner told.
    pub(crate) done: Result<Option<Done>, Forged>,
    /// The beginning of standard error, where bwrap's own complaints are.
    pub(crate) complaint: &'a str,
}

/// How a call ended, in all the fields of a report that depend on it.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) message: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) error: Option<ErrorReport>,
    pub(crate) results: Vec<Value>,
    pub(crate) output: Option<Value>,
}

impl Verdict {
    fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
            exit_code: None,
            signal: None,
            error: None,
            results: Vec::new(),
            output: None,
        }
    }
}

/// The worker's own stop wins, then memory, then what the code itself did.
pub(crate) fn judge(seen: Seen<'_>) -> Verdict {
    match seen.end {
        End::Cancelled => return Verdict::new(Outcome::Cancelled, "stopped because it was asked for"),
        End::OutputLimit => return Verdict::new(Outcome::OutputLimit, "wrote far more output than is kept"),
        End::Timeout if seen.oom_kills == 0 => {
            return Verdict::new(Outcome::Timeout, "ran longer than its time limit");
        }
        End::Timeout | End::OutOfMemory | End::Exited | End::Done => {}
    }
    if seen.oom_kills > 0 {
        let killed = format!("the kernel killed {} of its processes for memory", seen.oom_kills);
        return Verdict { exit_code: seen.exit_code, ..Verdict::new(Outcome::OutOfMemory, killed) };
    }
    match (seen.done, seen.exit_code) {
        (Err(Forged), exit_code) => {
            let message = "the code wrote to the runner's own pipe";
            let error = ErrorReport { kind: "ForgedFrame".into(), message: message.into(), traceback: None };
            Verdict { error: Some(error), exit_code, ..Verdict::new(Outcome::Error, message) }
        }
        (Ok(Some(done)), _) => told(done),
        (Ok(None), Some(code)) => by_code(code),
        (Ok(None), None) => Verdict::new(
            Outcome::SandboxError,
            format!("the sandbox ended, nobody knows why: {}", seen.complaint.trim()),
        ),
    }
}

fn told(done: Done) -> Verdict {
    let Done { exit, signal, error, results, output, .. } = done;
    let verdict = |outcome, message: String| Verdict { results, output, ..Verdict::new(outcome, message) };
    match (error, exit, signal) {
        (Some(raised), ..) => {
            let outcome = if raised.is_disk_full() { Outcome::DiskFull } else { Outcome::Error };
            let error = ErrorReport::from(raised);
            let message = format!("{}: {}", error.kind, error.message);
            // What an interpreter ends with after an exception; what was only refused ended with nothing.
            let exit_code = error.traceback.is_some().then_some(1);
            Verdict { error: Some(error), exit_code, ..verdict(outcome, message) }
        }
        // The code's own word: 137 here is an exit code and no signal.
        (None, Some(code @ 1..), _) => {
            Verdict { exit_code: Some(code.into()), ..verdict(Outcome::Exit, format!("exit code {code}")) }
        }
        (None, _, Some(signal)) => {
            let message = format!("ended by {}", signal_name(signal.into()));
            Verdict { signal: Some(signal.into()), ..verdict(Outcome::Signal, message) }
        }
        (None, _, None) => Verdict { exit_code: Some(0), ..verdict(Outcome::Ok, String::new()) },
    }
}

/// bwrap tells a death by signal as shells do, as 128 and the signal's number.
fn by_code(code: i32) -> Verdict {
    let signal = (129..=192).contains(&code).then(|| code - 128);
    let (outcome, message) = match (code, signal) {
        (0, _) => (Outcome::Ok, String::new()),
        (_, Some(signal)) => (Outcome::Signal, format!("ended by {}", signal_name(signal))),
        (_, None) => (Outcome::Exit, format!("exit code {code}")),
    };
    let exit_code = signal.is_none().then_some(code);
    Verdict { exit_code, signal, ..Verdict::new(outcome, message) }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// The sandbox's first process, as bwrap told it.
pub(crate) fn child_pid(status: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(rename = "child-pid")]
        child_pid: Option<i32>,
    }
    status.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()).find_map(|line| line.child_pid)
}

/// The exit code in what bwrap wrote to `--json-status-fd`: one JSON object a line.
pub(crate) fn exit_code(status: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(rename = "exit-code")]
        exit_code: Option<i32>,
    }
    status.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()).find_map(|line| line.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(end: End, oom_kills: u64, exit_code: Option<i32>, done: Option<Done>) -> Verdict {
        judge(Seen { end, oom_kills, exit_code, done: Ok(done), complaint: "bwrap: no" })
    }

    fn outcome(end: End, oom_kills: u64, exit_code: Option<i32>) -> Outcome {
        seen(end, oom_kills, exit_code, None).outcome
    }

    #[test]
    fn each_end_has_its_word() {
        assert_eq!(outcome(End::Exited, 0, Some(0)), Outcome::Ok);
        assert_eq!(outcome(End::Exited, 0, Some(3)), Outcome::Exit);
        assert_eq!(outcome(End::Exited, 0, Some(139)), Outcome::Signal);
        assert_eq!(outcome(End::Exited, 0, None), Outcome::SandboxError);
        assert_eq!(outcome(End::Timeout, 0, None), Outcome::Timeout);
        assert_eq!(outcome(End::Cancelled, 0, None), Outcome::Cancelled);
        assert_eq!(outcome(End::OutputLimit, 0, None), Outcome::OutputLimit);
        assert_eq!(outcome(End::OutOfMemory, 1, None), Outcome::OutOfMemory);
    }

    #[test]
    fn a_parent_that_ends_well_after_its_children_were_killed_is_out_of_memory() {
        assert_eq!(outcome(End::Exited, 6, Some(0)), Outcome::OutOfMemory);
        assert_eq!(seen(End::Done, 6, None, Some(Done::default())).outcome, Outcome::OutOfMemory);
    }

    #[test]
    fn a_cancel_that_meets_a_memory_kill_or_a_good_end_stays_a_cancel() {
        assert_eq!(outcome(End::Cancelled, 1, None), Outcome::Cancelled);
        assert_eq!(seen(End::Cancelled, 0, None, Some(Done::default())).outcome, Outcome::Cancelled);
    }

    #[test]
    fn an_exit_code_that_python_told_is_no_signal() {
        let told = seen(End::Done, 0, None, Some(Done { exit: Some(137), ..Done::default() }));
        assert_eq!((told.outcome, told.exit_code, told.signal), (Outcome::Exit, Some(137), None));
        let not_told = seen(End::Exited, 0, Some(137), None);
        assert_eq!((not_told.outcome, not_told.exit_code, not_told.signal), (Outcome::Signal, None, Some(9)));
        assert_eq!(not_told.message, "ended by SIGKILL");
        let child = seen(End::Done, 0, None, Some(Done { signal: Some(15), ..Done::default() }));
        assert_eq!((child.outcome, child.signal), (Outcome::Signal, Some(15)));
    }

    #[test]
    fn a_forged_frame_is_the_codes_own_failure() {
        for exit_code in [Some(0), None] {
            let seen = Seen { end: End::Exited, oom_kills: 0, exit_code, done: Err(Forged), complaint: "" };
            assert_eq!(judge(seen).outcome, Outcome::Error);
        }
    }

    #[test]
    fn the_status_lines_tell_the_first_process_and_the_exit_code() {
        let whole = "{ \"child-pid\": 7, \"net-namespace\": 1 }\n{ \"exit-code\": 3 }\n";
        assert_eq!((child_pid(whole), exit_code(whole)), (Some(7), Some(3)));
        assert_eq!(exit_code("{ \"child-pid\": 7 }\n{ \"exit-"), None);
    }
}
