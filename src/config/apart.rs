//! Reading where it holds nobody up. A file may be a pipe that nobody writes to, or lie on a mount that
//! no longer answers: whoever opens it then waits for ever, and no signal reaches a thread of the
//! runtime that does. So it is read on a thread of its own, which is the one kind of thread here that
//! nobody joins: it ends with the file's answer, or with the process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// A place for one such thread: while it hangs, there is no second one.
#[derive(Debug, Clone)]
pub struct Apart(Arc<Semaphore>);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// It did not come in so long a time; the thread waits on.
    Late(Duration),
    /// No thread could be had, or what it did panicked.
    Failed,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(patience) => write!(
                f,
                "nothing came in {patience:?}; is it a pipe that nobody writes to, or on a mount that does not answer?"
            ),
            Self::Failed => f.write_str("there is no thread to read it on, or a bug in Rollcall ended that"),
        }
    }
}

impl std::error::Error for NoAnswer {}

impl Default for Apart {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Apart {
    /// Does the work on the thread, once that is free, and waits so long for both. Cancel-safe: what
    /// has begun goes on, and its answer is lost.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let answered = async {
            let place = Arc::clone(&self.0).acquire_owned().await.map_err(|_| NoAnswer::Failed)?;
            let (reply, answer) = oneshot::channel();
            let begun = std::thread::Builder::new().name("read apart".to_owned()).spawn(move || {
                let _place = place;
                // Whoever asked may have lost patience.
                drop(reply.send(work()));
            });
            begun.map_err(|_| NoAnswer::Failed)?;
            answer.await.map_err(|_| NoAnswer::Failed)
        };
        tokio::time::timeout(patience, answered).await.unwrap_or(Err(NoAnswer::Late(patience)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_hangs_is_waited_for_and_never_doubled() {
        let apart = Apart::default();
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let brief = Duration::from_millis(20);
        let hangs = apart.run(brief, move || held.recv().is_err()).await;
        assert_eq!(hangs, Err(NoAnswer::Late(brief)));
        assert_eq!(apart.run(brief, || 1).await, Err(NoAnswer::Late(brief)), "the place is taken");
        drop(let_go);
        assert_eq!(apart.run(Duration::from_secs(10), || 2).await, Ok(2));
        let panics = apart.run(Duration::from_secs(10), || -> u8 { panic!("a bug") }).await;
        assert_eq!(panics, Err(NoAnswer::Failed));
        assert_eq!(apart.run(Duration::from_secs(10), || 3).await, Ok(3), "and the place is free again");
    }
}
