//! The bounded way from the manager to one connection. There are as many as connections, most of
//! them empty at any time: it takes room for what waits in it and nearly none beside (tokio's
//! channel takes 2.5 KiB each).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::LinkCommand;

/// Commands whose room is kept once a mailbox has been emptied.
const KEPT: usize = 16;

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// So many wait that the connection cannot be reading them.
    Full,
    /// The connection is gone.
    Closed,
}

/// The manager's end; dropping it tells the connection that nothing more will come.
#[derive(Debug)]
pub struct Sender(Arc<Shared>);

/// The connection's end.
#[derive(Debug)]
pub struct Mailbox(Arc<Shared>);

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    waiting: VecDeque<LinkCommand>,
    most: usize,
    /// One of the two ends is gone.
    closed: bool,
    reader: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mailbox for up to `most` commands.
pub fn mailbox(most: usize) -> (Sender, Mailbox) {
    let state = State { waiting: VecDeque::new(), most, closed: false, reader: None };
    let shared = Arc::new(Shared(Mutex::new(state)));
    (Sender(Arc::clone(&shared)), Mailbox(shared))
}

impl Sender {
    /// Hands a command over; never waits.
    ///
    /// # Errors
    /// [`NotTaken`], and the command is dropped.
    pub fn send(&self, command: LinkCommand) -> Result<(), NotTaken> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(NotTaken::Closed);
        }
        if state.waiting.len() >= state.most {
            return Err(NotTaken::Full);
        }
        state.waiting.push_back(command);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Mailbox {
    /// The next command; `None` once the manager's end is gone and all that it said was taken.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<LinkCommand>> {
        let mut state = self.0.lock();
        if let Some(command) = state.waiting.pop_front() {
            return Poll::Ready(Some(command));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        if state.waiting.capacity() > KEPT {
            state.waiting = VecDeque::new();
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// As [`Mailbox::poll_recv`]. Cancel-safe.
    pub async fn recv(&mut self) -> Option<LinkCommand> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        // Dropped outside the lock: a probe's answer wakes who waits for it.
        let unheard = std::mem::take(&mut state.waiting);
        drop(state);
        drop(unheard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Why;

    fn close() -> LinkCommand {
        LinkCommand::Close(Why::Drained)
    }

    #[tokio::test]
    async fn what_was_said_is_heard_in_order_and_then_the_end() {
        let (sender, mut mailbox) = mailbox(2);
        let reader = tokio::spawn(async move {
            let mut heard = Vec::new();
            while let Some(LinkCommand::Close(why)) = mailbox.recv().await {
                heard.push(why);
            }
            heard
        });
        // It waits for the first, and is woken.
        tokio::task::yield_now().await;
        assert_eq!(sender.send(close()), Ok(()));
        assert_eq!(sender.send(LinkCommand::Close(Why::Io)), Ok(()));
        drop(sender);
        assert_eq!(reader.await.expect("no panic"), [Why::Drained, Why::Io]);
    }

    #[test]
    fn a_full_mailbox_and_a_closed_one_take_nothing() {
        let (sender, mailbox) = mailbox(1);
        assert_eq!(sender.send(close()), Ok(()));
        assert_eq!(sender.send(close()), Err(NotTaken::Full));
        drop(mailbox);
        assert_eq!(sender.send(close()), Err(NotTaken::Closed));
    }

    #[tokio::test]
    async fn a_probe_that_nobody_hears_is_answered_by_the_end() {
        let (sender, mailbox) = mailbox(1);
        let (answer, answered) = tokio::sync::oneshot::channel();
        assert_eq!(sender.send(LinkCommand::Probe(answer)), Ok(()));
        drop(mailbox);
        assert!(answered.await.is_err());
    }

    #[test]
    fn an_empty_mailbox_gives_its_room_back() {
        let (sender, mut mailbox) = mailbox(1_000);
        for _ in 0..1_000 {
            sender.send(close()).expect("there is room");
        }
        let mut cx = Context::from_waker(Waker::noop());
        while mailbox.poll_recv(&mut cx).is_ready() {}
        assert!(mailbox.0.lock().waiting.capacity() <= KEPT);
    }
}
