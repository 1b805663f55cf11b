//! How long `print(1)` takes through the whole server, from the request to its answer: in a sandbox made
//! for it, in one that was ready, and in a session; beside a bare interpreter in the same run, in turns, so
//! that a busy machine is as busy for each. A report, not a test: it fails only when it could not measure.
#![expect(clippy::print_stdout, reason = "a report is printed")]

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use rollcall::client::{Client, Request};
use serde_json::{Value, json};

/// Calls of each kind.
const FULL: usize = 60;
const QUICK: usize = 15;

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sandboxes that the warm worker keeps ready.
const WARM: usize = 2;

/// What is wanted: a warm call at most this part of a bare interpreter's start, and a session's call.
const WARM_GOAL: f64 = 1.0;
const SESSION_GOAL: f64 = 0.33;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let quick = std::env::args().any(|word| word == "--quick");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(compare(if quick { QUICK } else { FULL }))
}

/// A server that is killed, and with it its workers, when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn compare(rounds: usize) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let [address, warm_at, cold_at] = [free()?, free()?, free()?];
    let _server = start(folder.path(), address, warm_at, cold_at)?;
    let client = Client::new(&format!("http://{address}"))?;
    for name in ["warm", "cold"] {
        until(name, async || {
            let worker = client.get::<Value>(&format!("/v1/workers/{name}")).await;
            worker.is_ok_and(|worker| worker["state"] == "ready")
        })
        .await?;
    }
    let warm_worker = Client::new(&format!("http://{warm_at}"))?;
    let is_warm = || until("warm sandboxes", async || shows_warm(&warm_worker).await);
    let [mut bare, mut cold, mut warm, mut session] = [const { Vec::new() }; 4];
    run(&client, "warm", Some("bench")).await?;
    for _ in 0..rounds {
        is_warm().await?;
        bare.push(interpreter()?);
        cold.push(run(&client, "cold", None).await?);
        warm.push(run(&client, "warm", None).await?);
        // The one that took its place is being made now; it must not stand beside what is measured next.
        is_warm().await?;
        session.push(run(&client, "warm", Some("bench")).await?);
    }
    println!("print(1) through the whole server, {rounds} times each, in milliseconds");
    let base = middle(&mut bare);
    let rows = [
        ("python3 -I -c", bare, None),
        ("cold", cold, None),
        ("warm", warm, Some(WARM_GOAL)),
        ("session", session, Some(SESSION_GOAL)),
    ];
    for (name, mut times, goal) in rows {
        let (p50, p95) = (middle(&mut times), times[times.len() * 95 / 100]);
        let ratio = p50.as_secs_f64() / base.as_secs_f64();
        let judged = goal.map_or_else(String::new, |goal| {
            let word = if ratio <= goal { "met" } else { "missed" };
            format!("  goal <= {goal:.2}: {word}")
        });
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{name:<14} p50 {:7.1}  p95 {:7.1}  x {ratio:.2}{judged}", millis(p50), millis(p95));
    }
    Ok(())
}

fn start(folder: &Path, address: SocketAddr, warm: SocketAddr, cold: SocketAddr) -> Result<Server, Failure> {
    let program = Path::new(env!("CARGO_BIN_EXE_rollcall")).with_file_name("rollcall-python-sandbox");
    if !program.exists() {
        return Err(format!("{} is missing: `make bench` builds it first", program.display()).into());
    }
    let worker = |name: &str, at: SocketAddr, ready: usize| {
        json!({
            "name": name, "endpoint": format!("ws://{at}"), "slots": 4, "labels": { "start": name },
            "launch": { "command": [program, "--listen", at.to_string(), "--warm", ready.to_string()] },
        })
    };
    let config = json!({
        "server": { "listen": address.to_string(), "data_dir": folder.join("data") },
        "workers": [worker("warm", warm, WARM), worker("cold", cold, 0)],
    });
    // JSON is YAML.
    let file = folder.join("config.yaml");
    std::fs::write(&file, config.to_string())?;
    let log = std::fs::File::create(folder.join("log"))?;
    let child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(Server(child))
}

/// A port of loopback that nobody has now.
fn free() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), Failure> {
    let begun = Instant::now();
    while !holds().await {
        if begun.elapsed() > PATIENCE {
            return Err(format!("waited in vain for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn shows_warm(worker: &Client) -> bool {
    let page = worker.send(Request::new(Method::GET, "/metrics")).await;
    let wanted = format!("rollcall_sandbox_warm {WARM}\n");
    page.is_ok_and(|page| String::from_utf8_lossy(&page.body).contains(&wanted))
}

async fn run(client: &Client, start: &str, session: Option<&str>) -> Result<Duration, Failure> {
    let task = json!({
        "capability": "python.execute", "input": { "code": "print(1)" }, "session": session,
        "labels": { "start": start },
    });
    let request = Request::new(Method::POST, "/v1/tasks?wait=30s").body(task.to_string());
    let begun = Instant::now();
    let answer = client.send(request).await?;
    let took = begun.elapsed();
    let task: Value = serde_json::from_slice(&answer.body)?;
    if task["output"]["stdout"] == "1\n" { Ok(took) } else { Err(format!("{task}").into()) }
}

fn interpreter() -> Result<Duration, Failure> {
    let begun = Instant::now();
    let done =
        Command::new("/usr/bin/python3").args(["-I", "-c", "print(1)"]).stdin(Stdio::null()).output()?;
    let took = begun.elapsed();
    if done.stdout == b"1\n" { Ok(took) } else { Err("the interpreter failed".into()) }
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
