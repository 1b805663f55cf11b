//! Decides how a run ended from what was seen of it. Pure: no process, no clock.

use crate::frame::{Forged, Frame};
use crate::outcome::{ErrorReport, Outcome};

/// Why the worker stopped waiting for the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It ended by itself.
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

/// What was seen of a run.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) end: End,
    /// Processes that the kernel killed for memory.
    pub(crate) oom_kills: u64,
    /// As bwrap told it; absent when the code was never started or was killed from outside.
    pub(crate) exit_code: Option<i32>,
    /// What the runner told.
    pub(crate) frame: Result<Option<Frame>, Forged>,
    /// The beginning of standard error, where bwrap's own complaints are.
    pub(crate) complaint: &'a str,
}

/// How a run ended, in all the fields of a report that depend on it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) message: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) error: Option<ErrorReport>,
    pub(crate) last_value: Option<String>,
}

impl Verdict {
    fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { outcome, message, exit_code: None, signal: None, error: None, last_value: None }
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
        End::Timeout | End::OutOfMemory | End::Exited => {}
    }
    if seen.oom_kills > 0 {
        let killed = format!("the kernel killed {} of its processes for memory", seen.oom_kills);
        return Verdict { exit_code: seen.exit_code, ..Verdict::new(Outcome::OutOfMemory, killed) };
    }
    match seen.exit_code {
        None => Verdict::new(
            Outcome::SandboxError,
            format!("the sandbox did not start: {}", seen.complaint.trim()),
        ),
        Some(code) => exited(code, seen.frame),
    }
}

fn exited(code: i32, frame: Result<Option<Frame>, Forged>) -> Verdict {
    let ended =
        |outcome, message: String| Verdict { exit_code: Some(code), ..Verdict::new(outcome, message) };
    match frame {
        Err(Forged) => {
            let message = "the code wrote to the runner's own pipe";
            let error = ErrorReport { kind: "ForgedFrame".into(), message: message.into(), traceback: None };
            Verdict { error: Some(error), ..ended(Outcome::Error, message.into()) }
        }
        Ok(Some(Frame::Error(raised))) => {
            let outcome = if raised.is_disk_full() { Outcome::DiskFull } else { Outcome::Error };
            let error = ErrorReport::from(raised);
            let message = format!("{}: {}", error.kind, error.message);
            Verdict { error: Some(error), ..ended(outcome, message) }
        }
        // The code's own word: 137 here is an exit code and no signal.
        Ok(Some(Frame::Exit(told))) if i32::from(told) == code && code != 0 => {
            ended(Outcome::Exit, format!("exit code {code}"))
        }
        Ok(Some(Frame::Value(value))) if code == 0 => {
            Verdict { last_value: Some(value), ..ended(Outcome::Ok, String::new()) }
        }
        Ok(_) => by_code(code),
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

    fn seen(end: End, oom_kills: u64, exit_code: Option<i32>, frame: Option<Frame>) -> Verdict {
        judge(Seen { end, oom_kills, exit_code, frame: Ok(frame), complaint: "bwrap: no" })
    }

    fn outcome(end: End, oom_kills: u64, exit_code: Option<i32>, frame: Option<Frame>) -> Outcome {
        seen(end, oom_kills, exit_code, frame).outcome
    }

    #[test]
    fn each_end_has_its_word() {
        assert_eq!(outcome(End::Exited, 0, Some(0), None), Outcome::Ok);
        assert_eq!(outcome(End::Exited, 0, Some(3), None), Outcome::Exit);
        assert_eq!(outcome(End::Exited, 0, Some(139), None), Outcome::Signal);
        assert_eq!(outcome(End::Exited, 0, None, None), Outcome::SandboxError);
        assert_eq!(outcome(End::Timeout, 0, None, None), Outcome::Timeout);
        assert_eq!(outcome(End::Cancelled, 0, None, None), Outcome::Cancelled);
        assert_eq!(outcome(End::OutputLimit, 0, None, None), Outcome::OutputLimit);
        assert_eq!(outcome(End::OutOfMemory, 1, None, None), Outcome::OutOfMemory);
    }

    #[test]
    fn a_parent_that_ends_well_after_its_children_were_killed_is_out_of_memory() {
        assert_eq!(outcome(End::Exited, 6, Some(0), None), Outcome::OutOfMemory);
    }

    #[test]
    fn a_cancel_that_meets_a_memory_kill_stays_a_cancel() {
        assert_eq!(outcome(End::Cancelled, 1, None, None), Outcome::Cancelled);
    }

    #[test]
    fn an_exit_code_that_python_told_is_no_signal() {
        let told = seen(End::Exited, 0, Some(137), Some(Frame::Exit(137)));
        assert_eq!((told.outcome, told.exit_code, told.signal), (Outcome::Exit, Some(137), None));
        let not_told = seen(End::Exited, 0, Some(137), None);
        assert_eq!((not_told.outcome, not_told.exit_code, not_told.signal), (Outcome::Signal, None, Some(9)));
        assert_eq!(not_told.message, "ended by SIGKILL");
    }

    #[test]
    fn a_forged_frame_is_the_codes_own_failure() {
        let verdict = judge(Seen {
            end: End::Exited,
            oom_kills: 0,
            exit_code: Some(0),
            frame: Err(Forged),
            complaint: "",
        });
        assert_eq!(verdict.outcome, Outcome::Error);
    }

    #[test]
    fn a_value_that_is_told_before_a_crash_is_no_success() {
        assert_eq!(outcome(End::Exited, 0, Some(139), Some(Frame::Value("1".into()))), Outcome::Signal);
    }

    #[test]
    fn the_exit_code_is_read_from_the_status_lines() {
        assert_eq!(exit_code("{ \"child-pid\": 7, \"net-namespace\": 1 }\n{ \"exit-code\": 3 }\n"), Some(3));
        assert_eq!(exit_code("{ \"child-pid\": 7 }\n{ \"exit-"), None);
    }
}
