//! Programs that nobody here wrote: a public set of exercises (the package `algorithms`), whose solutions
//! have their tests beside them. Each part of it runs as a task of the worker, and does inside exactly what
//! it does outside, failures included.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::link::Worker;
use rollcall_protocol::Status;
use serde_json::{Value, json};

/// Runs the examples; see the words of it.
const RUN: &str = include_str!("exercises.py");

/// Modules whose examples show the order of a set, which differs from run to run.
const OF_NO_ORDER: [&str; 1] = ["algorithms.graph.find_all_cliques"];

/// The set as one file to import from.
const PACK: &str = "
import importlib.util, os, sys, zipfile
home = os.path.dirname(importlib.util.find_spec('algorithms').origin)
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as packed:
    for folder, _, names in os.walk(home):
        for name in names:
            if name.endswith('.py'):
                path = os.path.join(folder, name)
                packed.write(path, os.path.relpath(path, os.path.dirname(home)))
print(*sorted(name for name in os.listdir(home) if os.path.isfile(f'{home}/{name}/__init__.py')))
";

/// What came of each module.
type Told = BTreeMap<String, Value>;

#[tokio::test]
async fn a_public_set_of_exercises_does_inside_what_it_does_outside() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, script) = (folder.path().join("exercises.zip"), folder.path().join("run.py"));
    std::fs::write(&script, RUN).expect("a file");
    let packed = output(Command::new(python()).args(["-I", "-c", PACK]).arg(&file), "the package algorithms");
    let parts: Vec<String> = packed.split_whitespace().map(|name| format!("algorithms.{name}")).collect();
    assert!(parts.len() > 15, "{packed}");
    // The sandbox's own interpreter, outside of any sandbox.
    let mut outside = Command::new("/usr/bin/python3");
    let outside = output(outside.arg("-I").arg(&script).arg(&file).args(&parts), "the same outside");
    let outside: Told = serde_json::from_str(&outside).expect("JSON");

    let worker = Worker::start().await;
    let (mut link, _) = worker.meet().await;
    let bytes = base64(&std::fs::read(&file).expect("our own file"));
    for (path, content) in [("exercises.zip", json!({ "base64": bytes })), ("run.py", json!({ "text": RUN }))]
    {
        let mut input = content;
        input["path"] = json!(path);
        let ended = link.run_in("exercises", "files.write", input).await;
        assert_eq!(ended.status, Status::Succeeded, "{}", ended.output);
    }
    let mut inside = Told::new();
    for part in &parts {
        let argv = ["python3", "-I", "run.py", "exercises.zip", part];
        let ended = link.run_in("exercises", "command.execute", json!({ "argv": argv })).await;
        assert_eq!(ended.status, Status::Succeeded, "{part}: {}", ended.output);
        let told = ended.output["stdout"].as_str().expect("text");
        inside.extend(serde_json::from_str::<Told>(told).expect("JSON"));
    }
    let tries: u64 = inside.values().filter_map(|told| told[0].as_u64()).sum();
    assert!(inside.len() > 300 && tries > 600, "{} modules, {tries} examples", inside.len());
    let differ: Vec<_> = outside
        .iter()
        .filter(|(name, told)| inside.get(*name) != Some(told) && !OF_NO_ORDER.contains(&name.as_str()))
        .map(|(name, told)| (name, told, inside.get(name)))
        .collect();
    assert!(differ.is_empty(), "outside and inside: {differ:?}");
}

/// The Python with the packages that tests need.
fn python() -> PathBuf {
    let named = std::env::var_os("ROLLCALL_TEST_PYTHON").map(PathBuf::from);
    let program = Path::new(env!("CARGO_BIN_EXE_rollcall-python-sandbox"));
    let built = || Some(program.parent()?.parent()?.join("venv/bin/python3"));
    let python = named.or_else(built).expect("a path");
    assert!(python.exists(), "{} is missing: run `make setup`", python.display());
    python
}

fn output(command: &mut Command, what: &str) -> String {
    let output = command.output().expect("Python starts");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: run `make setup` if it is missing: {problem}");
    String::from_utf8(output.stdout).expect("text")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let all =
            three.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(all >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { digit.into() });
        }
    }
    text
}
