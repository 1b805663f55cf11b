//! Workers that crash, stall, lie or babble: what becomes of their tasks is decided by what may be
//! repeated, never by chance, and nobody else's tasks are touched.

mod crash;
mod cut;
mod dialling_in;
mod lies;
mod names;
mod sick;
mod silence;

/// Short times, so that silence is found in seconds. They leave room for a machine that is busy with
/// all the other stories: only a worker that is truly silent goes past the lease.
const IMPATIENT: &str = "
heartbeat: { interval: 400ms, suspect_after: 1s, timeout: 2s, lease: 4s }
reconnect: { initial_backoff: 20ms, max_backoff: 200ms }
";

/// A fleet of these entries (`name` and, where it is dialled, `endpoint`), with short times.
fn fleet(workers: &[(&str, Option<String>)]) -> String {
    let entries = workers.iter().map(|(name, endpoint)| match endpoint {
        Some(endpoint) => format!("  - {{ name: {name}, endpoint: \"{endpoint}\", slots: 4 }}\n"),
        None => format!("  - {{ name: {name}, slots: 4 }}\n"),
    });
    format!("{IMPATIENT}workers:\n{}", entries.collect::<String>())
}
