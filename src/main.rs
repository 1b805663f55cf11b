//! The `rollcall` program: hands its arguments to the command line.

use std::process::ExitCode;

/// Half of what a task costs beside the sockets is small allocations, many of them freed on the
/// journal's thread, where the system's allocator takes a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rollcall::cli::main()
}
