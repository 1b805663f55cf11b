//! The house's walls, held by reading the source: imports point downward, the core knows no I/O,
//! each crate that may be exchanged is named in one file, and what stands behind the project is
//! licensed as `deny.toml` allows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms of `src/`, from the ground up. A file may use its own room and those of lower floors.
const FLOORS: [&[&str]; 9] = [
    &["fleet"],
    &["trust"],
    &["client", "config", "interface"],
    &["telemetry"],
    &["provider", "schemas", "store", "supervise"],
    &["data"],
    &["manager"],
    &["agent", "api"],
    &["cli"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a readable source");
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources under {}", folder.display());
    found
}

/// A source's lines without comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
}

/// The names that follow `prefix` in a line, also those in `prefix{a, b::c}` on the same line.
fn named_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let word = |text: &'a str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    };
    let mut names = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let rest = &line[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split(',').map(|item| word(item.trim_start()))),
            None => names.push(word(rest)),
        }
    }
    names
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_point_downward() {
    let src = root().join("src");
    let mut wrong = Vec::new();
    for (path, text) in sources(&src) {
        let inside = path.strip_prefix(&src).expect("found under src");
        let room =
            inside.iter().next().and_then(|name| name.to_str()).expect("UTF-8").trim_end_matches(".rs");
        if matches!(room, "lib" | "main") {
            continue;
        }
        let floor = floor_of(room).unwrap_or_else(|| panic!("src/{room} has no floor in this test"));
        for (line, text) in code(&text) {
            for other in named_after(text, "crate::") {
                let allowed = other == room || floor_of(other).is_none_or(|below| below < floor);
                if !allowed {
                    wrong.push(format!("{}:{line}: {room} uses {other}", inside.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point upward or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn the_core_knows_no_crate_but_serde_and_a_seeded_generator() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("our own manifest");
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").expect("a list of dependencies");
    let crates: BTreeSet<String> = dependencies
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !matches!(*name, "serde" | "rand"))
        .map(|name| name.replace('-', "_"))
        .collect();
    assert!(crates.contains("tokio"), "the list of dependencies was not found");
    // Time, chance, I/O and threads of the standard library; clippy.toml says the same to clippy.
    let std_words = ["std::net", "std::fs", "std::io", "std::thread", "std::process", "std::env"];
    let words = ["HashMap", "HashSet", "Instant::", "SystemTime", "rand::rng(", "ThreadRng", "async "];
    for (path, text) in sources(&root().join("src/fleet")) {
        for (line, text) in code(&text) {
            let at = || format!("{}:{line}: {}", path.display(), text.trim());
            for name in &crates {
                let inline = text.match_indices(&format!("{name}::")).any(|(start, _)| {
                    !text[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
                });
                let imported = text.trim_start().starts_with(&format!("use {name};"));
                assert!(!inline && !imported, "the core uses {name}: {}", at());
            }
            for word in std_words.iter().chain(&words) {
                assert!(!text.contains(word), "the core uses {word}: {}", at());
            }
        }
    }
}

#[test]
fn only_one_file_names_the_yaml_reader() {
    for (path, text) in sources(&root().join("src")) {
        let names_it = code(&text).any(|(_, line)| line.contains("serde_yaml"));
        assert!(!names_it || path.ends_with("config/yaml.rs"), "{} names serde_yaml", path.display());
    }
}

#[test]
fn a_log_line_names_only_alerts_that_exist_and_have_a_runbook() {
    let rules = root().join("monitoring/rules/rollcall.yaml");
    let rules = std::fs::read_to_string(rules).expect("the rules");
    let mut named = BTreeSet::new();
    for (path, text) in sources(&root().join("src")) {
        for (line, text) in code(&text) {
            for (at, _) in text.match_indices("alert = \"") {
                let name = text[at..].split('"').nth(1).unwrap_or_default().to_owned();
                let place = format!("{}:{line}", path.display());
                assert!(rules.contains(&format!("alert: {name}\n")), "{place}: no alert {name}");
                let runbook = root().join(format!("monitoring/runbooks/{name}.md"));
                assert!(runbook.exists(), "{place}: no {}", runbook.display());
                named.insert(name);
            }
        }
    }
    assert!(named.len() > 5, "the lines were not found: {named:?}");
}

#[test]
fn every_file_says_first_why_it_exists() {
    for folder in ["src", "workers", "benches", "tests"] {
        for (path, text) in sources(&root().join(folder)) {
            assert!(text.starts_with("//! "), "{} does not begin with a //! line", path.display());
        }
    }
}

/// What stands behind the binaries on this platform, as cargo knows it: name and licence.
fn licences() -> Vec<(String, String)> {
    let host = Command::new(env!("CARGO")).args(["-vV"]).output().expect("cargo runs");
    let host = String::from_utf8(host.stdout).expect("UTF-8");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo tells its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo's JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    packages.iter().map(|package| (text(&package["name"]), text(&package["license"]))).collect()
}

#[test]
fn every_licence_behind_us_is_allowed() {
    let deny = std::fs::read_to_string(root().join("deny.toml")).expect("our own deny.toml");
    let (_, list) = deny.split_once("\nallow = [").expect("a list of licences");
    let allowed: BTreeSet<&str> =
        list.split(']').next().expect("a list that ends").split('"').skip(1).step_by(2).collect();
    assert!(allowed.contains("Apache-2.0"), "the list of licences was not found");
    for (name, licence) in licences() {
        // `(A OR B) AND C`: one of each group must be allowed. An old spelling writes OR as a slash.
        let expression = licence.replace(" / ", " OR ").replace('/', " OR ").replace(['(', ')'], "");
        let fits = expression
            .split(" AND ")
            .all(|group| group.split(" OR ").any(|one| allowed.contains(one.trim())));
        assert!(fits, "{name} is licensed as {licence:?}, which deny.toml does not allow");
    }
}
