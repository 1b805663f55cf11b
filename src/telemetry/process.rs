//! What the operating system says of this process, read at each scrape. The metrics crate's own
//! collector knows CPU time only in whole seconds, which makes steps of every rate.

use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use super::catalogue as c;
use super::page::Page;

/// Clock ticks a second in `/proc`: 100 on every Linux that Rust runs on (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes the process's families; what cannot be read is left out, with its name still shown.
pub(super) fn write(page: &mut Page) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let cpu = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        page.single(&c::PROCESS_CPU, cpu.as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (family, field, unit) in [
        (&c::PROCESS_RESIDENT, "VmRSS:", 1024),
        (&c::PROCESS_VIRTUAL, "VmSize:", 1024),
        (&c::PROCESS_THREADS, "Threads:", 1),
    ] {
        if let Some(value) = number_after(&status, field) {
            page.single(family, value * unit);
        }
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // The directory itself is one of them while it is read.
        page.single(&c::PROCESS_OPEN_FDS, entries.count().saturating_sub(1));
    }
    if let Ok((soft, _hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        page.single(&c::PROCESS_MAX_FDS, soft);
    }
    if let Some(start) = start_time() {
        page.single(&c::PROCESS_START, start);
    }
}

fn number_after(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When the process began, in Unix time: its ticks since boot, and when the machine booted.
fn start_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name stands in parentheses and may hold anything; the fields come after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_has_fractions_of_seconds_and_the_start_lies_in_the_past() {
        let mut page = Page::default();
        write(&mut page);
        let value = |name: &str| -> f64 {
            let line = page.text().lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.expect(name).parse().expect(name)
        };
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0 && value("process_threads") >= 1.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        let age = super::super::metrics::unix_now() - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "the process began {age} s ago");
    }
}
