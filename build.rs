//! Tells the program what it was built from, for `rollcall_build_info`, and gives it the files that
//! watch it, so that `rollcall monitoring export` fits the metrics of the same version.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What belongs to the files that watch a server; not what they are made with.
const BUNDLE: [&str; 8] = [
    "monitoring/prometheus.yml",
    "monitoring/alertmanager.yml",
    "monitoring/compose.yaml",
    "monitoring/rules",
    "monitoring/tests",
    "monitoring/runbooks",
    "grafana/provisioning",
    "grafana/dashboards",
];

fn main() {
    embed_bundle();
    println!("cargo:rerun-if-changed=build.rs");
    // The log of HEAD grows with each commit, in a linked worktree too; a source archive has none.
    if let Some(log) = output("git", &["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let revision = output("git", &["rev-parse", "--short=12", "HEAD"]);
    println!("cargo:rustc-env=ROLLCALL_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    let rustc = std::env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    let rustc = rustc.as_deref().and_then(|line| line.split_whitespace().nth(1));
    println!("cargo:rustc-env=ROLLCALL_RUSTC={}", rustc.unwrap_or("unknown"));
}

/// Writes the list of `src/telemetry/bundle.rs`: each file's path in the repository, and its text.
fn embed_bundle() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut files = Vec::new();
    for part in BUNDLE {
        println!("cargo:rerun-if-changed={part}");
        collect(&root.join(part), &mut files);
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root).expect("found under the root").display().to_string();
        writeln!(list, "    ({name:?}, include_str!({:?})),", file.display().to_string()).expect("a string");
    }
    list.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("bundle.rs"), list).expect("cargo's folder for us can be written");
}

/// Every file at or under a path.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for entry in entries {
            collect(&entry.expect("a readable entry").path(), files);
        }
    } else {
        files.push(path.to_owned());
    }
}

/// What a program prints, where it can be run and says something.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
