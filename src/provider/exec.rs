//! A command that is told how many instances there ought to be: no shell, a clean environment, the
//! document on standard input, its output in the log, and its whole group killed when it takes too
//! long.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Document, HookFault, Instances, Provider};
use crate::fleet::{PoolName, PoolSpec, Wanted};
use crate::interface::BoxFuture;

/// What a hook gets of the server's own environment; the rest may hold secrets.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// Bytes of output that are logged, of each stream; what comes after is read and forgotten.
const MAX_LOGGED: usize = 16 << 10;
/// How long the last output may take to be read once the command has ended.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The provider `exec`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exec;

impl Provider for Exec {
    fn reconcile(&self, pool: Arc<PoolSpec>, wanted: Arc<Wanted>) -> BoxFuture<Result<Instances, HookFault>> {
        Box::pin(async move { run(&pool, &wanted).await })
    }
}

/// Kills the whole group when it is dropped: a hook leaves nothing behind.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // A group that has ended by itself is what is wanted.
            let _ended = killpg(group, Signal::SIGKILL);
        }
    }
}

async fn run(pool: &PoolSpec, wanted: &Wanted) -> Result<Instances, HookFault> {
    let Some((program, hook)) =
        pool.scaling.hook.as_ref().and_then(|hook| Some((hook.command.first()?, hook)))
    else {
        return Err(HookFault::Failed("the pool has no command".to_owned()));
    };
    let failed = |error: std::io::Error| HookFault::Failed(format!("cannot run {program}: {error}"));
    let mut child = Command::new(program)
        .args(&hook.command[1..])
        .env_clear()
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs(&hook.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let document = Document::of(pool, wanted).bytes();
    let output = tokio::spawn(log_both(pool.name.clone(), stdout, stderr));
    let exchange = async {
        if let Some(mut stdin) = stdin {
            // A hook that does not read what it is told still ends with a status.
            drop(stdin.write_all(&document).await);
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(hook.timeout, exchange).await;
    drop(group);
    let last_line = tokio::time::timeout(LAST_LINES, output).await.ok().and_then(Result::ok).flatten();
    let status = ended.map_err(|_| HookFault::Timeout(hook.timeout))?.map_err(failed)?;
    if status.success() {
        return Ok(Instances::default());
    }
    let said = last_line.map_or_else(String::new, |line| format!("; its last line: {line}"));
    Err(HookFault::Failed(format!("{program} ended with {status}{said}")))
}

async fn log_both(
    pool: PoolName,
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
) -> Option<String> {
    let (_, last) = tokio::join!(log(&pool, "stdout", stdout), log(&pool, "stderr", stderr));
    last
}

/// Logs the lines of one stream; the last one is the answer. Control characters are escaped.
async fn log(pool: &PoolName, stream: &'static str, pipe: Option<impl AsyncRead + Unpin>) -> Option<String> {
    let mut pipe = pipe?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4_096]);
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_LOGGED.saturating_sub(text.len());
        text.extend_from_slice(&buffer[..read.min(room)]);
    }
    let text = String::from_utf8_lossy(&text);
    let mut last = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let line = line.escape_debug().to_string();
        tracing::info!(%pool, stream, line, "scaling hook");
        last = Some(line);
    }
    last
}
