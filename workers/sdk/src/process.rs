//! What the operating system says of a worker's process, in the words that the server uses for its own,
//! so that one board shows both.

use std::fmt::Write;
use std::fs;

/// Clock ticks a second in `/proc`: 100 on every Linux that Rust runs on (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The families in the Prometheus text format; what cannot be read is left out.
pub(crate) fn page() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // The program's name stands in parentheses and may hold anything; the fields come after it.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let kib = |field: &str| number_after(&status, field).map(|kib| kib * 1024.0);
    let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1));
    let mut page = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}").expect("a string");
        }
    };
    let cpu = ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    family("process_cpu_seconds_total", "counter", "User and system CPU time, in seconds.", cpu);
    family("process_resident_memory_bytes", "gauge", "Resident memory.", kib("VmRSS:"));
    family("process_virtual_memory_bytes", "gauge", "Virtual memory.", kib("VmSize:"));
    family("process_threads", "gauge", "Threads.", number_after(&status, "Threads:"));
    let open = open.ok().and_then(|open| u32::try_from(open).ok()).map(f64::from);
    family("process_open_fds", "gauge", "Open file descriptors.", open);
    let most = number_after(&limits, "Max open files");
    family("process_max_fds", "gauge", "Most file descriptors that may be open.", most);
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| number_after(&text, "btime"));
    let start = boot.zip(ticks(19)).map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND);
    family("process_start_time_seconds", "gauge", "When the process began, in Unix time.", start);
    page
}

fn number_after(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_there_and_plausible() {
        let page = page();
        let value = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name}: {page}")).parse().expect(name)
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_threads") >= 1.0 && value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1.6e9);
    }
}
