//! The processes of the bench: starting them, knowing when they are ready, what they cost, and that
//! none outlives the bench.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child process, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: Option<PathBuf>,
}

impl Process {
    /// Starts this program in another role and gives the one line that it tells.
    pub(crate) fn role(role: &str, arguments: &[&str]) -> Result<(Self, String), Failure> {
        let mut process = Self::quiet_role(role, arguments)?;
        let output = process.child.stdout.take().expect("piped above");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let line = line.trim();
        if line.is_empty() {
            return Err(format!("the {role} process ended before it could tell anything").into());
        }
        Ok((process, line.to_owned()))
    }

    /// Starts this program in another role that has nothing to tell.
    pub(crate) fn quiet_role(role: &str, arguments: &[&str]) -> Result<Self, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .arg(format!("role:{role}"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child, log: None })
    }

    /// Starts the Rollcall server with its log in a file.
    pub(crate) fn rollcall(config: &Path) -> Result<Self, Failure> {
        let log = config.with_extension("log");
        let file = File::create(&log)?;
        let child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, log: Some(log) })
    }

    /// Waits until `GET /readyz` answers 200, and gives the time since `began`.
    pub(crate) fn ready(&mut self, address: &str, began: Instant) -> Result<Duration, Failure> {
        loop {
            if get(address, "/readyz").is_ok_and(|(status, _)| status == 200) {
                return Ok(began.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the server ended with {status}\n{}", self.log_tail()).into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the server did not become ready\n{}", self.log_tail()).into());
            }
            // Short beside what is measured: a start takes tens of milliseconds.
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// CPU time that the process has used, user and system, of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field is the program's name in brackets and may hold spaces; utime and stime
        // are the 14th and 15th field (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let mut ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let (Some(Ok(user)), Some(Ok(system))) = (ticks.next(), ticks.next()) else {
            return Err("cannot read the server's CPU time".into());
        };
        // Linux shows ticks of 1/100 s to programs on every architecture this runs on.
        Ok(Duration::from_millis((user + system) * 10))
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .map(|kibibytes| kibibytes * 1024)
            .ok_or_else(|| "cannot read the server's memory".into())
    }

    /// The end of the server's log, for a message about its failure.
    fn log_tail(&self) -> String {
        let log = self.log.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone afterwards.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).to_owned()
}

/// A port that was free a moment ago. The server's start is timed, so its port must be known before.
pub(crate) fn free_address() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// One `GET` on a connection of its own: the status and the body's bytes as they came.
pub(crate) fn get(address: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    request(address, "GET", path, "")
}

/// One request on a connection of its own.
pub(crate) fn request(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let status = answer
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| std::io::Error::other("not an HTTP/1.1 answer"))?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    Ok((status, answer.split_off(body)))
}

/// Ends this process when its parent closes the pipe, or has ended in whatever way.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let mut byte = [0];
        // Anything but a blocked read means that the parent is done with this process.
        drop(std::io::stdin().read(&mut byte));
        std::process::exit(0);
    });
}

/// Tells the parent one line.
pub(crate) fn tell(line: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// Sends each small write at once, on every connection of the bench alike.
pub(crate) fn set_nodelay(stream: &mut tokio::net::TcpStream) {
    // Only a socket that is closed already refuses, and its next use tells.
    drop(stream.set_nodelay(true));
}

/// Thousands of idle connections need as many file descriptors, here and in the children.
pub(crate) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        eprintln!("bench: the limit of open files stays as it is: {error}");
    }
}
