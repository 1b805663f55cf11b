//! The two sides that are compared: a server and its worker each.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::load::{Order, Seen};
use crate::process::{self, Process};
use crate::worker::CAPABILITY;

/// One server with its no-op worker.
pub(crate) struct Side {
    /// The server.
    pub(crate) server: Process,
    /// Where it listens.
    pub(crate) address: String,
    /// How long it took from its start until it was ready.
    pub(crate) ready: Duration,
    // Held for its end: a worker that is dropped is killed.
    _worker: Process,
}

impl Side {
    /// The bare proxy.
    pub(crate) fn proxy() -> Result<Self, Failure> {
        let (worker, port) = Process::role("worker", &[])?;
        let address = process::free_address()?;
        let began = Instant::now();
        let mut server = Process::quiet_role("proxy", &[&address, &format!("127.0.0.1:{port}")])?;
        let ready = server.ready(&address, began)?;
        Ok(Self { server, address, ready, _worker: worker })
    }

    /// The bare proxy with a journal before it: a task is dispatched once it is on the disk.
    pub(crate) fn proxy_with_journal(folder: &Path) -> Result<Self, Failure> {
        let (worker, port) = Process::role("worker", &[])?;
        let address = process::free_address()?;
        let began = Instant::now();
        let journal = folder.join("proxy.db").display().to_string();
        let mut server = Process::quiet_role("proxy", &[&address, &format!("127.0.0.1:{port}"), &journal])?;
        let ready = server.ready(&address, began)?;
        Ok(Self { server, address, ready, _worker: worker })
    }

    /// Rollcall with `workers` connections to one worker process.
    pub(crate) fn rollcall(workers: usize) -> Result<Self, Failure> {
        Self::rollcall_with(workers, "store: { kind: memory }")
    }

    /// Rollcall with one worker, and its store on the disk.
    pub(crate) fn rollcall_with_disk(folder: &Path) -> Result<Self, Failure> {
        let data = folder.join("data");
        Self::rollcall_with(1, &format!("store: {{ kind: sqlite }}\ndata_dir: {}", data.display()))
    }

    fn rollcall_with(workers: usize, store: &str) -> Result<Self, Failure> {
        let (worker, port) = Process::role("worker", &[])?;
        let address = process::free_address()?;
        let entries: String = (1..=workers)
            .map(|n| {
                format!(
                    "  - {{ name: noop-{n}, interface: websocket, endpoint: \"ws://127.0.0.1:{port}/{n}\", \
                     capabilities: [{CAPABILITY}], slots: 256 }}\n"
                )
            })
            .collect();
        let config = write_config(&address, store, &entries)?;
        let began = Instant::now();
        let mut server = Process::rollcall(&config)?;
        let ready = server.ready(&address, began)?;
        let side = Self { server, address, ready, _worker: worker };
        side.wait_for(workers)?;
        Ok(side)
    }

    /// Waits until so many workers are ready.
    fn wait_for(&self, workers: usize) -> Result<(), Failure> {
        let wanted = format!("rollcall_workers{{pool=\"static\",state=\"ready\"}} {workers}\n");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let (_, page) = process::get(&self.address, "/metrics")?;
            if String::from_utf8_lossy(&page).contains(&wanted) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{workers} workers did not become ready within a minute").into())
    }

    /// Puts one cell's load on the server: what the client saw, and the server's CPU time per task.
    pub(crate) fn load(&self, cell: &Cell) -> Result<(Seen, f64), Failure> {
        let order = Order {
            address: self.address.clone(),
            target: if cell.answer == Answer::Accepted { "/v1/tasks" } else { "/v1/tasks?wait=30s" }
                .to_owned(),
            body: body(),
            status: if cell.answer == Answer::Accepted { 202 } else { 200 },
            keyed: cell.answer == Answer::FinishedByKey,
            concurrency: cell.concurrency,
            measured: cell.measured,
        };
        let before = self.server.cpu()?;
        let (_client, seen) = Process::role("load", &[&serde_json::to_string(&order)?])?;
        let seen: Seen = serde_json::from_str(&seen)?;
        if cell.answer == Answer::Accepted {
            self.drained()?;
        }
        let used = self.server.cpu()?.saturating_sub(before);
        let per_task = used.as_secs_f64() * 1e6 / seen.answers_in_all as f64;
        Ok((seen, per_task))
    }

    /// Waits until every task that was accepted before has ended: one that waits behind them has.
    fn drained(&self) -> Result<(), Failure> {
        let (status, answer) = process::request(&self.address, "POST", "/v1/tasks?wait=30s", &body())?;
        if status != 200 {
            return Err(format!("status {status}: {}", String::from_utf8_lossy(&answer)).into());
        }
        Ok(())
    }
}

/// How long a server takes from its start until it is ready, with so many tasks waiting in its store.
/// The one before it is killed.
pub(crate) fn restart_with(folder: &Path, tasks: usize) -> Result<Duration, Failure> {
    let address = process::free_address()?;
    let store = format!("store: {{ kind: sqlite }}\ndata_dir: {}", folder.join("stored").display());
    let nobody = format!("  - {{ name: nobody, interface: websocket, capabilities: [{CAPABILITY}] }}\n");
    let config = write_config(&address, &store, &nobody)?;
    let mut first = Process::rollcall(&config)?;
    first.ready(&address, Instant::now())?;
    for sent in (0..tasks).step_by(BATCH) {
        let batch = vec![body(); BATCH.min(tasks - sent)].join(",");
        let batch = format!(r#"{{"tasks":[{batch}]}}"#);
        let (status, answer) = process::request(&address, "POST", "/v1/tasks/batch", &batch)?;
        if status != 200 || !answer.windows(12).any(|part| part == br#""refused":0,"#) {
            let end = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
            return Err(format!("a batch was not taken whole: status {status}: {end}").into());
        }
    }
    drop(first);
    let began = Instant::now();
    let mut second = Process::rollcall(&config)?;
    let ready = second.ready(&address, began)?;
    let (_, page) = process::get(&address, "/v1/status")?;
    let waiting = format!(r#""tasks":{tasks}"#);
    if !String::from_utf8_lossy(&page).contains(&waiting) {
        return Err(format!("not all are there again: {}", String::from_utf8_lossy(&page)).into());
    }
    Ok(ready)
}

/// Tasks of one request.
const BATCH: usize = 1_000;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The task's end.
    Finished,
    /// The same, of a task that a key names.
    FinishedByKey,
    /// That it is accepted.
    Accepted,
}

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    /// What callers wait for.
    pub(crate) answer: Answer,
    /// How many callers.
    pub(crate) concurrency: usize,
    /// For how long.
    pub(crate) measured: Duration,
}

/// A small task: about 90 bytes.
fn body() -> String {
    format!(
        r#"{{"capability":"{CAPABILITY}","input":{{"text":"small things are many, here is one of them"}}}}"#
    )
}

/// A scratch folder of this process.
pub(crate) fn scratch(name: &str) -> Result<PathBuf, Failure> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Writes a topology into a scratch folder of its own.
pub(crate) fn write_config(address: &str, store: &str, entries: &str) -> Result<PathBuf, Failure> {
    let port = address.rsplit_once(':').map_or("0", |(_, port)| port);
    let path = scratch(port)?.join("config.yaml");
    let (store, data) = store.split_once('\n').unwrap_or((store, ""));
    let comma = if data.is_empty() { "" } else { ", " };
    std::fs::write(
        &path,
        format!("server: {{ listen: {address}{comma}{data} }}\n{store}\nworkers:\n{entries}"),
    )?;
    Ok(path)
}
