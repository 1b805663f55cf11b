//! Runs Python and commands for agents, each in a sandbox of its own: bubblewrap's namespaces, a
//! seccomp allow-list, a control group, a uid of its own, an empty environment and no network.
//!
//! Threat model: the kernel is shared. This holds buggy and curious code of an agent, bounds what it
//! uses, and keeps secrets from it. It is no boundary between hostile tenants: for that, run each
//! worker in a virtual machine.

mod bare;
mod capture;
mod cgroup;
mod cli;
mod frame;
mod inputs;
mod launch;
mod limits;
mod live;
mod metrics;
mod outcome;
mod packages;
mod pool;
mod probe;
mod profile;
mod python;
mod result;
mod sandbox;
mod schemas;
mod seats;
mod seccomp;
mod sessions;
mod spawn;
mod tools;
mod verdict;

pub use capture::{Captured, Shown, json_len};
pub use cli::{Arguments, LogFormat, Settings};
pub use frame::MadeFile;
pub use limits::{Asked, DEFAULT_WALL, GRACE, Limits, MAX_WALL, Size};
pub use metrics::{Metrics, Running};
pub use outcome::{ErrorReport, Outcome, Output, Program, Report, Request, Usage};
pub use packages::{Mode, Packages, PackagesSection};
pub use probe::{Config, Isolation, Level, Missing, open};
pub use sandbox::Sandbox;
pub use sessions::{NoSession, Opening};
pub use tools::{Offer, offer};
