//! A launched worker must not outlive its server, however that ended. The server hands it the read
//! end of a pipe; when the pipe reports its end, the server is gone. (A parent-death signal would
//! fire when the *thread* that forked ends.)

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// The environment's name for the number of the inherited file descriptor: the read end of a pipe
/// whose write end only the server holds.
pub const LIFELINE_FD: &str = "ROLLCALL_LIFELINE_FD";

/// A token that is cancelled when the server that launched this worker is gone; never, where no
/// server did. The worker should then kill what it runs and end at once.
///
/// # Errors
/// When `ROLLCALL_LIFELINE_FD` is not the number of an open pipe: a worker that could not tell its
/// server's end should not start.
pub fn lifeline() -> io::Result<CancellationToken> {
    let cut = CancellationToken::new();
    if let Ok(number) = std::env::var(LIFELINE_FD) {
        let number: u32 = number.trim().parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{LIFELINE_FD} is not a number: {number:?}"))
        })?;
        // Opened anew by its path: adopting a bare number as an owned descriptor would be unsafe.
        let pipe = pipe::OpenOptions::new().open_receiver(format!("/dev/fd/{number}"))?;
        watch(pipe, cut.clone());
    }
    Ok(cut)
}

/// Cancels `cut` when the pipe ends.
fn watch(mut pipe: pipe::Receiver, cut: CancellationToken) {
    // Ends with the process: it holds nothing but the pipe.
    drop(tokio::spawn(async move {
        let mut ignored = [0; 64];
        while matches!(pipe.read(&mut ignored).await, Ok(1..)) {}
        cut.cancel();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_token_is_cancelled_when_the_other_end_is_gone() {
        use std::os::fd::AsRawFd;
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let open = || pipe::OpenOptions::new().open_receiver(&path).expect("our own pipe");
        let (early, late) = (CancellationToken::new(), CancellationToken::new());
        watch(open(), early.clone());
        tokio::task::yield_now().await;
        assert!(!early.is_cancelled());
        drop(writer);
        early.cancelled().await;
        // A server that died before the worker looked is noticed all the same.
        watch(open(), late.clone());
        late.cancelled().await;
    }
}
