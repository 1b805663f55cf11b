//! What one sandbox may use, each with a default and a maximum, and how sizes are written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a run may take when the server names no time.
pub const DEFAULT_WALL: Duration = Duration::from_secs(30);

/// The longest that a run may take, whatever the server names.
pub const MAX_WALL: Duration = Duration::from_secs(600);

/// How long a program has between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// A stream that has grown to this many times what is kept ends the run with `output_limit`: a
/// program that prints without end would otherwise burn its CPU share up to the time limit.
pub(crate) const OUTPUT_KILL_FACTOR: u64 = 64;

/// Open files of each process.
pub(crate) const OPEN_FILES: u64 = 256;

/// bwrap's own two processes, its monitor outside and the reaper inside: the code does not pay for
/// them.
pub(crate) const OWN_PROCESSES: u64 = 2;

/// What one sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Memory of all its processes and of its tmpfs files together, in bytes.
    pub memory: u64,
    /// Processes and threads at once.
    pub pids: u64,
    /// CPU cores.
    pub cpus: f64,
    /// What is kept of each stream, in bytes: three quarters of its head and one of its tail.
    pub output: usize,
    /// The size of `/workspace`; `/tmp` and `/dev/shm` have a quarter of it. In bytes.
    pub workspace: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 512 << 20, pids: 64, cpus: 1.0, output: 1 << 20, workspace: 256 << 20 }
    }
}

/// A size on the command line, such as `512MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

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
    fn a_size_that_is_none_says_why() {
        for text in ["", "MiB", "5MB", "-1MiB", "99999999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
