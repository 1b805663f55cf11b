//! The sandbox worker's program.

use std::path::{Path, PathBuf};

/// The program, as the build leaves it beside the server's.
pub(crate) fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_rollcall")).parent().expect("it is in a folder");
    let program = built.join("rollcall-python-sandbox");
    assert!(
        program.exists(),
        "{} is missing: run `make test`, or `cargo build --workspace` first",
        program.display()
    );
    program
}
