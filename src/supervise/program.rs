//! Where a program is: a path as it stands; a bare name beside the server's own program, then on
//! `PATH`, so that the shipped workers are found without being installed.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Finds a program by the name in a `launch` block.
///
/// # Errors
/// A sentence that says where it was looked for.
pub fn find_program(name: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return if is_program(&path) { Ok(path) } else { Err(format!("{name} is no executable file")) };
    }
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .iter()
        .cloned()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| match beside {
            Some(folder) => format!("cannot find {name}, neither in {} nor on PATH", folder.display()),
            None => format!("cannot find {name} on PATH"),
        })
}

/// The program that offers the lifeline verb. A server that is `rollcall` uses the very file that
/// it runs from, which is still there when an upgrade has replaced the one on disk.
pub(super) fn find_shim() -> Result<PathBuf, String> {
    let own = env::current_exe().ok();
    if own.as_deref().and_then(Path::file_stem).is_some_and(|stem| stem == "rollcall") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    find_program("rollcall")
        .map_err(|why| format!("{why}; programs of `launch` blocks run under the rollcall program"))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_found_on_path_and_a_missing_one_is_named() {
        assert!(find_program("sh").is_ok_and(|path| path.is_absolute()));
        assert!(find_program("no-such-program-here").is_err_and(|why| why.contains("no-such-program-here")));
        assert!(find_program("/etc/passwd").is_err_and(|why| why.contains("no executable file")));
    }
}
