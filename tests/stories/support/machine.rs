//! What some stories need of the machine beside its cargo: system calls that can be traced, file
//! systems that can be mounted. Where that is missing they say so; `ROLLCALL_REQUIRE_ALL=1` makes it
//! a failure.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use super::program::word;

/// Skips a story with the reason, unless every story was asked for.
pub(crate) fn skip(why: &str) {
    let all = std::env::var("ROLLCALL_REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(!all, "ROLLCALL_REQUIRE_ALL=1, but this story cannot be told: {why}");
    eprintln!("skipped: {why}");
}

/// Runs a program; the last line of what it complained about, if it failed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), told.trim().lines().last().unwrap_or_default()))
}

/// Fails, with what to do, where nothing can be traced.
fn must_trace() {
    if let Err(why) = run("strace", &["-f", "-o", "/dev/null", "true"]) {
        panic!(
            "this story needs strace and the right to trace processes: {why}. `make setup` installs it; \
             a container needs the capability SYS_PTRACE"
        );
    }
}

/// The words that run a program under strace with these options. The process that they start is the
/// program itself, and strace stands aside. Fails where nothing can be traced.
pub(crate) fn strace(options: &[&str], into: &Path) -> Vec<String> {
    must_trace();
    let mut words: Vec<String> = ["strace", "-D", "-f", "-q", "-o", word(into)].map(Into::into).to_vec();
    words.extend(options.iter().map(|&option| option.to_owned()));
    words
}

/// strace on all threads of a process that runs already. It is killed when dropped.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Returns when it traces. Fails where nothing can be traced.
    pub(crate) fn attach(pid: u32, options: &[&str], into: &Path) -> Self {
        must_trace();
        let child = Command::new("strace")
            .args(["-f", "-p", &pid.to_string(), "-o", word(into)])
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut tracer = Self(child.expect("strace was there a moment ago"));
        let mut told = String::new();
        let stderr = tracer.0.stderr.as_mut().expect("it was asked for");
        // The few lines that follow, one for each new thread, fit in the pipe.
        BufReader::new(stderr).read_line(&mut told).expect("strace speaks UTF-8");
        assert!(told.contains(" attached"), "strace cannot trace the server: {told}");
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Errors mean that it has ended, as it does with the server.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A number that decides what chance decides: of the environment's `ROLLCALL_SEED`, else a new one.
/// It is printed, so that it shows when the story fails.
pub(crate) fn dice() -> SmallRng {
    let given = std::env::var("ROLLCALL_SEED").ok();
    let seed = given.map_or_else(rand::random, |given| given.parse().expect("ROLLCALL_SEED is a number"));
    eprintln!("ROLLCALL_SEED={seed} decides the same again");
    SmallRng::seed_from_u64(seed)
}

/// How much is done, of the environment or by default.
pub(crate) fn amount(name: &str, default: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(default, |given| given.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A moment from this range of milliseconds.
pub(crate) fn moment(dice: &mut SmallRng, millis: std::ops::Range<u64>) -> std::time::Duration {
    std::time::Duration::from_millis(dice.random_range(millis))
}

/// A file system of the story's own, unmounted at the end whatever happens.
pub(crate) struct Mounted {
    at: TempDir,
    mounted: bool,
}

impl Mounted {
    /// One in memory.
    pub(crate) fn in_memory(size: &str) -> Result<Self, String> {
        Self::mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    /// The one that is in this image, written to the image only when somebody asks for a sync.
    pub(crate) fn image(image: &Path) -> Result<Self, String> {
        Self::mount(&["-t", "ext4", "-o", "loop,commit=300", word(image)])
    }

    fn mount(what: &[&str]) -> Result<Self, String> {
        let mut mounted = Self { at: tempfile::tempdir().expect("a folder can be made"), mounted: false };
        run("mount", &[what, &[word(mounted.at.path())]].concat())?;
        mounted.mounted = true;
        Ok(mounted)
    }

    /// Its root.
    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazy: a process that still ends may have files there.
        if self.mounted
            && let Err(why) = run("umount", &["--lazy", word(self.path())])
        {
            eprintln!("left mounted: {why}");
        }
    }
}

/// An image with an empty file system in it.
pub(crate) fn empty_image(folder: &Path, bytes: u64) -> Result<PathBuf, String> {
    let image = folder.join("disk.img");
    let made = std::fs::File::create(&image).and_then(|file| file.set_len(bytes));
    made.map_err(|error| format!("no image can be made: {error}"))?;
    run("mkfs.ext4", &["-q", "-F", word(&image)])?;
    Ok(image)
}
