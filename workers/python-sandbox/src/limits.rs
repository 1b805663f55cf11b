//! What one sandbox may use, each with a default and a maximum, and how sizes are written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// How long a run may take when the server names no time.
pub const DEFAULT_WALL: Duration = Duration::from_secs(30);

/// The longest that a run may take, whatever the server names.
pub const MAX_WALL: Duration = Duration::from_secs(600);

/// How long a program has between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// A stream that has grown to this many times what is kept ends the run with `output_limit`: a
/// program that prints without end would otherwise burn its CPU share up to the time limit.
pub(crate) const OUTPUT_KILL_FACTOR: u64 = 64;

/// bwrap's own two processes, its monitor outside and the reaper inside: the code does not pay for
/// them.
pub(crate) const OWN_PROCESSES: u64 = 2;

/// What one sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Memory of all its processes and of its tmpfs files together, in bytes.
    pub memory: u64,
    /// Processes and threads at once.
    pub processes: u64,
    /// CPU cores.
    pub cpus: f64,
    /// What is kept of each stream, in bytes: three quarters of its head and one of its tail.
    pub output: usize,
    /// The size of `/workspace`; `/tmp` and `/dev/shm` have a quarter of it. In bytes.
    pub workspace: u64,
    /// Open files of each process.
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            processes: 64,
            cpus: 1.0,
            output: 1 << 20,
            workspace: 256 << 20,
            open_files: 256,
        }
    }
}

impl Limits {
    /// The most that a task may ask for where the operator names nothing else.
    pub const MOST: Self = Self {
        memory: 2 << 30,
        processes: 256,
        cpus: 1.0,
        output: 1 << 20,
        workspace: 256 << 20,
        open_files: 256,
    };

    /// Whether a sandbox that was made with these limits can be given those: its mounts and the limits
    /// of its processes stay as they were made.
    pub(crate) fn can_become(&self, other: &Self) -> bool {
        self.workspace == other.workspace && self.open_files == other.open_files
    }
}

/// What a task asks for; what it leaves out is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    memory: Option<Size>,
    processes: Option<u64>,
    cpus: Option<f64>,
    output: Option<Size>,
    workspace: Option<Size>,
    open_files: Option<u64>,
}

impl Asked {
    /// Whether it asks for nothing in particular.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The limits to run with.
    ///
    /// # Errors
    /// Which limit is beyond its maximum, or too small to run anything.
    pub fn within(&self, default: &Limits, most: &Limits) -> Result<Limits, String> {
        let size = |asked: Option<Size>| asked.map(|Size(bytes)| bytes);
        Ok(Limits {
            memory: pick("memory", size(self.memory), default.memory, LEAST_MEMORY, most.memory)?,
            processes: pick("processes", self.processes, default.processes, LEAST_PROCESSES, most.processes)?,
            cpus: pick("cpus", self.cpus, default.cpus, LEAST_CPUS, most.cpus)?,
            output: pick(
                "output",
                size(self.output).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
                default.output,
                LEAST_OUTPUT,
                most.output,
            )?,
            workspace: pick(
                "workspace",
                size(self.workspace),
                default.workspace,
                LEAST_WORKSPACE,
                most.workspace,
            )?,
            open_files: pick(
                "open_files",
                self.open_files,
                default.open_files,
                LEAST_FILES,
                most.open_files,
            )?,
        })
    }
}

/// Below these not even an interpreter starts.
pub(crate) const LEAST_MEMORY: u64 = 32 << 20;
pub(crate) const LEAST_PROCESSES: u64 = 4;
pub(crate) const LEAST_CPUS: f64 = 0.05;
pub(crate) const LEAST_OUTPUT: usize = 1 << 10;
pub(crate) const LEAST_WORKSPACE: u64 = 1 << 20;
pub(crate) const LEAST_FILES: u64 = 32;

fn pick<T: PartialOrd + fmt::Display>(
    name: &str,
    asked: Option<T>,
    default: T,
    least: T,
    most: T,
) -> Result<T, String> {
    match asked {
        None => Ok(default),
        // Written so that a number that is none (NaN) is refused, too.
        Some(asked) if asked >= least && asked <= most => Ok(asked),
        Some(asked) => Err(format!("`limits.{name}` is {asked}; this worker allows {least} to {most}")),
    }
}

/// A size as people write it, such as `512MiB`, or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Spelled")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Spelled {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Spelled> for Size {
    type Error = String;

    fn try_from(spelled: Spelled) -> Result<Self, String> {
        match spelled {
            Spelled::Bytes(bytes) => Ok(Self(bytes)),
            Spelled::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", bytes >> shift);
            }
        }
        write!(f, "{bytes}B")
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor: u64 = match &text[digits.len()..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            unit => return Err(format!("unit {unit:?} is not one of B, KiB, MiB, GiB")),
        };
        let number: u64 = digits.parse().map_err(|_| String::from("not a size such as 512MiB"))?;
        number.checked_mul(factor).map(Self).ok_or_else(|| String::from("too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_are_written() {
        for text in ["512MiB", "2GiB", "1KiB", "1000B", "0B"] {
            assert_eq!(text.parse::<Size>().expect("a size").to_string(), text);
        }
        assert_eq!("1024MiB".parse::<Size>().expect("a size").to_string(), "1GiB");
    }

    #[test]
    fn a_task_may_ask_for_what_lies_within_the_operators_bounds() {
        let ask = |text: &str| serde_json::from_str::<Asked>(text).expect("an object");
        let within = |text: &str| ask(text).within(&Limits::default(), &Limits::MOST);
        assert_eq!(within("{}"), Ok(Limits::default()));
        let limits = within(r#"{"memory":"64MiB","processes":8,"cpus":0.5}"#).expect("less is allowed");
        assert_eq!((limits.memory, limits.processes, limits.cpus), (64 << 20, 8, 0.5));
        assert_eq!(within(r#"{"memory":1073741824}"#).expect("up to the maximum").memory, 1 << 30);
        for wrong in [
            r#"{"memory":"4GiB"}"#,
            r#"{"memory":"1MiB"}"#,
            r#"{"processes":1000}"#,
            r#"{"cpus":1.5}"#,
            r#"{"open_files":1}"#,
        ] {
            assert!(within(wrong).expect_err(wrong).contains("this worker allows"));
        }
        assert!(serde_json::from_str::<Asked>(r#"{"disk":1}"#).is_err());
    }

    #[test]
    fn a_size_that_is_none_says_why() {
        for text in ["", "MiB", "5MB", "-1MiB", "99999999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
