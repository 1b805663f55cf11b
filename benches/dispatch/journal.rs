//! The raw limit of durable acknowledgements: SQLite with the settings of Rollcall's own store, rows
//! of a task's size, and a group commit of all that waits. Used alone, and before the bare proxy.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::Failure;

/// About what the record of a no-op task takes.
const ROW: usize = 640;

/// Rows of one transaction at most.
const BATCH: usize = 512;

/// A row to commit, and who waits for it.
pub(crate) type Wanted = oneshot::Sender<()>;

/// A database that forces every commit to the disk.
fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    let database = Connection::open(path)?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = 0;
         CREATE TABLE task (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
    )?;
    Ok(database)
}

fn commit(database: &mut Connection, rows: usize) -> Result<(), rusqlite::Error> {
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO task (body) VALUES (?1)")?;
        for _ in 0..rows {
            insert.execute([[7_u8; ROW].as_slice()])?;
        }
    }
    transaction.commit()
}

/// Rows per second of commits of so many rows each.
pub(crate) fn raw(folder: &Path, rows: usize, measured: Duration) -> Result<f64, Failure> {
    let path = folder.join("raw.db");
    let mut database = open(&path)?;
    let began = Instant::now();
    let mut commits = 0_u64;
    while began.elapsed() < measured {
        commit(&mut database, rows)?;
        commits += 1;
    }
    let per_second = commits as f64 * rows as f64 / began.elapsed().as_secs_f64();
    drop(database);
    std::fs::remove_file(&path)?;
    Ok(per_second)
}

/// A thread that commits all rows that wait together, then answers who sent them.
pub(crate) fn start(path: PathBuf) -> Result<mpsc::Sender<Wanted>, Failure> {
    let mut database = open(&path)?;
    let (wanted, rows) = mpsc::channel::<Wanted>();
    std::thread::spawn(move || {
        while let Ok(first) = rows.recv() {
            let mut waiting = vec![first];
            waiting.extend(rows.try_iter().take(BATCH - 1));
            if let Err(error) = commit(&mut database, waiting.len()) {
                eprintln!("bench: the proxy's journal failed: {error}");
                std::process::exit(1);
            }
            for caller in waiting {
                // A caller that hung up wants no answer.
                caller.send(()).ok();
            }
        }
    });
    Ok(wanted)
}
