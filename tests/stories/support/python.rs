//! Workers written in Python, each in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A Python program that runs; dropping kills it.
pub(crate) struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Starts a file. It can import the SDK from this repository.
    pub(crate) fn start(file: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(interpreter())
            .arg(file)
            .args(arguments)
            .env("PYTHONPATH", sdk())
            .env_remove("ROLLCALL_TOKEN")
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output }
    }

    /// The address that the program tells in its first line, after these words.
    pub(crate) fn address(&mut self, words: &str) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it tells where it listens");
        let address = line.trim().strip_prefix(words).map(str::trim);
        address.unwrap_or_else(|| panic!("{words} was awaited, not {line:?}")).to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only for one that has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The Python of `make setup`, which has what the tests need.
pub(crate) fn interpreter() -> PathBuf {
    let made = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv/bin/python3");
    let python = std::env::var_os("ROLLCALL_TEST_PYTHON").map_or_else(made, PathBuf::from);
    assert!(python.exists(), "{} is not there; run `make setup` first", python.display());
    python
}

/// Where the Python SDK's package is.
pub(crate) fn sdk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/sdk-python/src")
}

/// A page's code blocks of a language, in order.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let opening = format!("```{language}\n");
    let after = text.split(&opening).skip(1);
    after.map(|rest| rest.split_once("```").expect("a block that ends").0.to_owned()).collect()
}
