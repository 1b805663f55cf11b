//! Finds out, before anything is offered, how well this machine can hold a sandbox. Nothing is
//! assumed from versions or flags: the last probes run real programs in a real sandbox.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bare::Bare;
use crate::cgroup::Cgroups;
use crate::limits::Limits;
use crate::outcome::{Outcome, Program, Report, Request};
use crate::profile::{PACKAGES, Shown, WORKSPACE};
use crate::sandbox::{Parts, Sandbox};
use crate::spawn::Spawner;
use crate::{python, seccomp};

/// How long a trial program may take, on a machine that is busy.
const TRIAL_TIME: Duration = Duration::from_secs(20);

/// `--disable-userns` came with this version.
const OLDEST_BWRAP: [u32; 2] = [0, 8];

/// Checks from inside what the sandbox promises, and tells Python's version.
const TRIAL: &str = r#"
import os, platform, socket
assert os.getuid() == 1000, f"uid {os.getuid()}"
assert os.environ["HOME"] == "/workspace" and "ROLLCALL_TOKEN" not in os.environ, "environment"
for family in (socket.AF_NETLINK, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
    except PermissionError:
        continue
    raise AssertionError(f"socket family {family} is open: the seccomp filter is not in force")
try:
    open("/usr/.probe", "w")
except OSError:
    print(platform.python_version())
else:
    raise AssertionError("/usr can be written")
"#;

/// What sandboxes are to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// The interpreter; the usual places are tried when absent.
    pub python: Option<PathBuf>,
    /// What a sandbox may use of which nothing else is said.
    pub limits: Limits,
    /// The level below which nothing is offered.
    pub minimum: Level,
    /// How many sandboxes to keep ready.
    pub warm: usize,
    /// Modules that a sandbox loads while it is made ready; what is not there is passed over.
    pub imports: Vec<String>,
    /// The most sessions at once.
    pub sessions: usize,
    /// Where installed packages are kept, for every sandbox to read.
    pub packages: Option<PathBuf>,
    /// No sandboxes at all: tasks are plain processes of this machine.
    pub no_isolation: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            python: None,
            limits: Limits::default(),
            minimum: Level::default(),
            warm: 0,
            imports: Vec::new(),
            sessions: 16,
            packages: None,
            no_isolation: false,
        }
    }
}

/// How well sandboxes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing holds the code. Never accepted as a minimum; whoever wants it types it out.
    None,
    /// Namespaces, seccomp, a uid of its own under root, and rlimits in place of control groups:
    /// memory is bounded for each process only, and CPU time not at all.
    NoCgroup,
    /// Namespaces, seccomp and control groups.
    #[default]
    Full,
}

impl Level {
    /// The word in flags, logs and the registration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoCgroup => "no-cgroup",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Full, Self::NoCgroup]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not one of full, no-cgroup"))
    }
}

/// What the probes found.
#[derive(Debug, Clone)]
pub struct Isolation {
    /// The level reached.
    pub level: Level,
    /// One line for each probe that passed.
    pub findings: Vec<String>,
}

/// A probe that failed, and the cure. Its text is one line.
#[derive(Debug)]
pub struct Missing {
    /// Which probe.
    pub probe: &'static str,
    /// What it found.
    pub found: String,
    /// What the operator can do.
    pub cure: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found: Vec<&str> = self.found.split_whitespace().collect();
        write!(f, "isolation probe {:?} failed: {}; cure: {}", self.probe, found.join(" "), self.cure)
    }
}

impl std::error::Error for Missing {}

/// Probes the machine, and makes sandboxes available if it is good enough. Must be called in a
/// runtime.
///
/// # Errors
/// The first probe that failed.
pub async fn open(config: Config) -> Result<(Sandbox, Isolation), Missing> {
    if config.no_isolation {
        return open_bare(config).await;
    }
    let (bwrap, version) = find_bwrap().await?;
    let mut findings = vec![format!("bubblewrap {version} at {}", bwrap.display())];
    let python = python::find(config.python.as_deref()).map_err(|found| Missing {
        probe: "python",
        found,
        cure: "install it (on Debian: apt install python3) or name one with --python",
    })?;
    let cgroups = find_cgroups(&config, &mut findings)?;
    let level = if cgroups.is_some() { Level::Full } else { Level::NoCgroup };
    let filters = seccomp::filters().map_err(|problem| Missing {
        probe: "seccomp",
        found: problem.to_string(),
        cure: "run the worker on x86-64 or aarch64",
    })?;
    let spawner = Spawner::start().map_err(|problem| Missing {
        probe: "spawner",
        found: problem.to_string(),
        cure: "let the worker start a thread",
    })?;
    let shown = config.packages.map(|host| Shown { host, inside: PACKAGES, writable: false });
    let parts = Parts {
        bwrap,
        python: python.clone(),
        imports: config.imports,
        limits: config.limits,
        filters,
        shown: shown.into_iter().collect(),
        cgroups,
        spawner,
        bare: None,
    };
    let sandbox = Sandbox::new(parts, config.warm, config.sessions);
    match try_out(&sandbox, &python).await {
        Ok(found) => {
            findings.extend(found);
            sandbox.warm_up();
            Ok((sandbox, Isolation { level, findings }))
        }
        Err(missing) => {
            sandbox.close().await;
            Err(missing)
        }
    }
}

/// Starts without any sandbox: nothing is probed but that Python runs.
async fn open_bare(config: Config) -> Result<(Sandbox, Isolation), Missing> {
    let cure = "let the worker start programs, and write to the folder for temporary files";
    let missing = |probe, found| Missing { probe, found, cure };
    let python = python::find(config.python.as_deref()).map_err(|found| missing("python", found))?;
    let bare = Bare::new().map_err(|problem| missing("temporary files", problem.to_string()))?;
    let spawner = Spawner::start().map_err(|problem| missing("spawner", problem.to_string()))?;
    let parts = Parts {
        bwrap: PathBuf::new(),
        python: python.clone(),
        imports: config.imports,
        limits: config.limits,
        filters: [Vec::new(), Vec::new()],
        shown: Vec::new(),
        cgroups: None,
        spawner,
        bare: Some(bare),
    };
    let sandbox = Sandbox::new(parts, config.warm, config.sessions);
    let report =
        trial(&sandbox, Program::Python { code: "import platform\nprint(platform.python_version())".into() })
            .await;
    if report.outcome != Outcome::Ok {
        sandbox.close().await;
        return Err(missing("python", format!("{} {}", report.message, report.stderr.shown(2048).text)));
    }
    sandbox.warm_up();
    let findings = vec![format!("Python {} at {}", report.stdout.shown(64).text.trim(), python.display())];
    Ok((sandbox, Isolation { level: Level::None, findings }))
}

/// Finds bwrap on `PATH`, recent enough.
async fn find_bwrap() -> Result<(PathBuf, String), Missing> {
    let missing = |found: String| Missing {
        probe: "bubblewrap",
        found,
        cure: "install bubblewrap 0.8 or newer (on Debian: apt install bubblewrap)",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bwrap = std::env::split_paths(&path)
        .map(|folder| folder.join("bwrap"))
        .find(|file| file.is_file())
        .ok_or_else(|| missing("there is no bwrap on PATH".into()))?;
    let shown = bwrap.display();
    let answer = tokio::process::Command::new(&bwrap).arg("--version").kill_on_drop(true).output();
    let answer = answer.await.map_err(|problem| missing(format!("{shown}: {problem}")))?;
    let answer = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    let version = answer.rsplit(' ').next().unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if [parts.next().unwrap_or(0), parts.next().unwrap_or(0)] < OLDEST_BWRAP {
        return Err(missing(format!("{shown} says it is {answer:?}")));
    }
    Ok((bwrap, version.to_owned()))
}

/// Control groups that take the limits, or none where the operator allows that.
fn find_cgroups(config: &Config, findings: &mut Vec<String>) -> Result<Option<Cgroups>, Missing> {
    let found = Cgroups::open().map_err(|problem| problem.to_string());
    let found = found.and_then(|cgroups| {
        let trial = cgroups.create(&config.limits).and_then(|group| {
            group
                .entrances()
                .and_then(|_| group.remove_now().map_err(|_| std::io::ErrorKind::ResourceBusy.into()))
        });
        trial.map(|()| cgroups).map_err(|problem| problem.to_string())
    });
    match found {
        Ok(cgroups) => {
            findings.push(format!("control groups {} with memory, pids, cpu", cgroups.version()));
            Ok(Some(cgroups))
        }
        Err(problem) if config.minimum <= Level::NoCgroup => {
            findings.push(format!("no control groups ({problem}); limits are by rlimits only"));
            Ok(None)
        }
        Err(found) => Err(Missing {
            probe: "control groups",
            found,
            cure: "run as root, or delegate a group (systemd: Delegate=yes), or accept weaker limits with \
                   --isolation-minimum no-cgroup",
        }),
    }
}

/// Runs real programs in a real sandbox.
async fn try_out(sandbox: &Sandbox, python: &Path) -> Result<Vec<String>, Missing> {
    let command = Program::Command {
        argv: vec!["true".into()],
        stdin: String::new(),
        cwd: WORKSPACE.into(),
        env: serde_json::Map::new(),
    };
    let report = trial(sandbox, command).await;
    if report.outcome != Outcome::Ok {
        return Err(Missing {
            probe: "namespaces",
            found: report.message,
            cure: "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1 or \
                   kernel.apparmor_restrict_unprivileged_userns=0; in a container also \
                   --security-opt seccomp=unconfined)",
        });
    }
    let report = trial(sandbox, Program::Python { code: TRIAL.into() }).await;
    let stderr = report.stderr.shown(2048).text;
    if report.outcome != Outcome::Ok {
        return Err(Missing {
            probe: "python in the sandbox",
            found: format!("{} {stderr}", report.message),
            cure: "check that the interpreter runs, and that the kernel has seccomp filters",
        });
    }
    let version = report.stdout.shown(64).text;
    Ok(vec![
        String::from("namespaces: user, pid, mount, network, ipc, uts"),
        String::from("seccomp allow-list in force"),
        format!("Python {} at {}", version.trim(), python.display()),
    ])
}

async fn trial(sandbox: &Sandbox, program: Program) -> Report {
    let (inputs, outputs) = (Vec::new(), Vec::new());
    let request = Request { program, inputs, outputs, limits: *sandbox.limits(), wall: TRIAL_TIME };
    sandbox.run(request, Arc::new(|_, _| {}), &CancellationToken::new()).await
}
