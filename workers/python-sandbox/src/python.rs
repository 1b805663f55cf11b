//! Finds the Python interpreter that sandboxes run.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::profile::SYSTEM;

/// Where to look when the operator names none. Never `PATH`: what is first there may be a shell
/// script that picks a version, slow, and not to be seen from inside a sandbox.
const USUAL: [&str; 2] = ["/usr/bin/python3", "/usr/local/bin/python3"];

/// The interpreter's real path.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    match named {
        Some(path) => check(path),
        None => USUAL.iter().map(Path::new).find(|path| path.exists()).map_or_else(
            || {
                Err(format!(
                    "there is none at {}; install python3, or name one with --python",
                    USUAL.join(" or ")
                ))
            },
            check,
        ),
    }
}

fn check(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    let real = path.canonicalize().map_err(|problem| format!("{shown}: {problem}"))?;
    let mut start = [0; 2];
    std::fs::File::open(&real)
        .and_then(|mut file| file.read_exact(&mut start))
        .map_err(|problem| format!("{}: {problem}", real.display()))?;
    if &start == b"#!" {
        return Err(format!("{} is a script; name the interpreter itself with --python", real.display()));
    }
    if !SYSTEM.iter().any(|folder| real.starts_with(folder)) {
        let real = real.display();
        return Err(format!(
            "{real} cannot be seen from inside a sandbox, which shows only {}",
            SYSTEM.join(", ")
        ));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_interpreter_is_a_real_program() {
        let path = find(None).expect("python3 is installed");
        assert!(path.starts_with("/usr"));
    }

    #[test]
    fn a_script_and_a_hidden_program_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("python3");
        std::fs::write(&script, "#!/bin/sh\n").expect("a file");
        assert!(find(Some(&script)).expect_err("a shim").contains("is a script"));
        std::fs::write(&script, "\x7fELF").expect("a file");
        assert!(find(Some(&script)).expect_err("outside").contains("cannot be seen"));
        assert!(find(Some(&folder.path().join("none"))).expect_err("absent").contains("No such file"));
    }
}
