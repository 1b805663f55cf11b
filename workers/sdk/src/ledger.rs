//! What a worker holds and has yet to say: running attempts, results that are not acknowledged, and
//! the frames that wait for the link. Plain state with bounds and no I/O; `hub.rs` owns it.

use std::collections::{HashMap, HashSet, VecDeque};

use rollcall_protocol::{AttemptRef, Credit, HeldAttempt, HeldPhase, Registered, TaskError, chunk, features};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::{CancelReason, TaskContext};

/// Unacknowledged results at most, in bytes; beyond, the oldest is given up.
const MAX_UNACKNOWLEDGED: usize = 64 << 20;

/// Live output and progress that waits for the link at most, in bytes; beyond, pieces are left out.
const MAX_OUTPUT: usize = 1 << 20;

/// Pieces of files that wait for the link at most.
const MAX_CHUNKS: usize = 4;

/// Frames after which a waiting piece of a file has its turn, so that endless output does not hold up
/// a file for ever.
const FRAMES_BEFORE_CHUNK: u32 = 8;

/// Attempts remembered after their end, so that none is started twice.
const MAX_FORGOTTEN: usize = 4_096;

/// Tasks at once of a worker that does not bound itself: the most that a server's configuration allows.
const MAX_SLOTS: usize = 1_024;

/// Where the connection is in its life.
#[derive(Debug, Default, PartialEq, Eq)]
enum Link {
    /// There is none.
    #[default]
    Down,
    /// `register` was sent.
    Registering,
    /// `registered` came, with this number.
    Up(u64),
}

/// An attempt that the worker answers for.
#[derive(Debug)]
enum Held {
    /// Its handler runs. One that the server dropped is on its way out, and only takes its slot.
    Running { context: TaskContext, dropped: bool },
    /// It has ended; the frame is kept until it is acknowledged.
    Done { frame: Utf8Bytes },
}

/// A frame that waits for the link.
#[derive(Debug)]
enum Outgoing {
    Frame(Utf8Bytes),
    /// Counts against `MAX_OUTPUT`.
    Output(Utf8Bytes),
    /// The result of an attempt, unless it is forgotten by then.
    Result(AttemptRef),
}

/// A file on its way to the server, over the connection on which it was announced.
#[derive(Debug)]
struct Upload {
    credit: u64,
    /// The server's last word.
    word: Option<Result<(), TaskError>>,
}

/// What an upload can do next.
#[derive(Debug, PartialEq)]
pub(crate) enum UploadStep {
    /// Send so many bytes at most.
    Send(u64),
    /// It is stored.
    Stored,
    /// It is not.
    Refused(Box<TaskError>),
    /// The connection is gone: announce it on the next one.
    Again,
}

/// What to do with an `execute`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start it.
    Start,
    /// Say `rejected`, and why.
    Reject(&'static str),
    /// It is not meant for this connection, or was started before.
    Ignore,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    link: Link,
    leaving: bool,
    held: HashMap<AttemptRef, Held>,
    running: usize,
    done: VecDeque<AttemptRef>,
    done_bytes: usize,
    forgotten: HashSet<AttemptRef>,
    forgotten_order: VecDeque<AttemptRef>,
    outbox: VecDeque<Outgoing>,
    output_bytes: usize,
    uploads: HashMap<u32, Upload>,
    next_upload: u32,
    /// Pieces of files, which go out when nothing else does, by and large.
    chunks: VecDeque<(u32, Vec<u8>)>,
    frames_since_chunk: u32,
    takes_artifacts: bool,
    store_id: Option<String>,
}

impl Ledger {
    /// A connection is made: what `register` says of attempts, and the store last served.
    pub(crate) fn begin_link(&mut self) -> (Vec<HeldAttempt>, Option<String>) {
        self.link = Link::Registering;
        // Results are listed in `register` and sent again when asked for; other frames belong to
        // the old connection. Output goes on: the server drops what it does not want.
        self.outbox.retain(|frame| matches!(frame, Outgoing::Output(_)));
        self.uploads.clear();
        self.chunks.clear();
        let phase = |held: &Held| match held {
            Held::Running { dropped: true, .. } => None,
            Held::Running { .. } => Some(HeldPhase::Running),
            Held::Done { .. } => Some(HeldPhase::Done),
        };
        let attempts = self.held.iter().filter_map(|(key, held)| {
            phase(held).map(|phase| HeldAttempt { task: key.task.clone(), epoch: key.epoch, phase })
        });
        (attempts.collect(), self.store_id.clone())
    }

    /// The server answered `register`: returns the attempts to stop.
    pub(crate) fn registered(&mut self, answer: &Registered) -> Vec<TaskContext> {
        self.link = Link::Up(answer.connection);
        self.store_id = Some(answer.store_id.clone());
        self.takes_artifacts = answer.features.iter().any(|name| name == features::ARTIFACTS);
        let mut stop = Vec::new();
        for key in &answer.drop {
            match self.held.get_mut(key) {
                Some(Held::Running { context, dropped }) => {
                    *dropped = true;
                    stop.push(context.clone());
                }
                Some(Held::Done { .. }) => self.forget(key),
                None => {}
            }
        }
        for key in &answer.resend {
            let queued = |item: &Outgoing| matches!(item, Outgoing::Result(other) if other == key);
            if matches!(self.held.get(key), Some(Held::Done { .. })) && !self.outbox.iter().any(queued) {
                self.outbox.push_back(Outgoing::Result(key.clone()));
            }
        }
        stop
    }

    /// The connection is gone.
    pub(crate) fn end_link(&mut self) {
        self.link = Link::Down;
        self.uploads.clear();
        self.chunks.clear();
    }

    /// Whether `registered` has come.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Judges an `execute`. Its `connection` must be the current one: a frame that was still
    /// buffered from an old one would start work that `register` did not list.
    pub(crate) fn judge(&self, key: &AttemptRef, connection: u64, slots: Option<u32>) -> Verdict {
        let slots = slots.map_or(MAX_SLOTS, |slots| usize::try_from(slots).unwrap_or(MAX_SLOTS));
        if self.link != Link::Up(connection) || self.held.contains_key(key) || self.forgotten.contains(key) {
            Verdict::Ignore
        } else if self.leaving {
            Verdict::Reject("the worker is stopping")
        } else if self.running >= slots {
            Verdict::Reject("no free slot")
        } else {
            Verdict::Start
        }
    }

    /// An attempt takes its slot; `accepted` goes out.
    pub(crate) fn start(&mut self, context: TaskContext, accepted: Utf8Bytes) {
        self.running += 1;
        self.held.insert(context.0.key.clone(), Held::Running { context, dropped: false });
        self.outbox.push_back(Outgoing::Frame(accepted));
    }

    /// A handler has ended: its slot is free, its result goes out and is kept. Returns the attempts
    /// whose results were given up for it.
    pub(crate) fn finish(&mut self, key: &AttemptRef, frame: Utf8Bytes) -> Vec<AttemptRef> {
        self.running -= 1;
        if matches!(self.held.get(key), Some(Held::Running { dropped: true, .. })) {
            self.forget(key);
            return Vec::new();
        }
        self.keep(key, frame)
    }

    /// A cancel came: the context to stop, if the attempt runs. One that never came here is answered
    /// with `frame`, so that every cancel has its one result; one that has ended has had its.
    pub(crate) fn cancel(&mut self, key: &AttemptRef, unknown: Utf8Bytes) -> Option<TaskContext> {
        match self.held.get(key) {
            Some(Held::Running { context, .. }) => return Some(context.clone()),
            Some(Held::Done { .. }) => {}
            None if self.forgotten.contains(key) => {}
            None => drop(self.keep(key, unknown)),
        }
        None
    }

    /// A result is acknowledged.
    pub(crate) fn acknowledged(&mut self, key: &AttemptRef) {
        if matches!(self.held.get(key), Some(Held::Done { .. })) {
            self.forget(key);
        }
    }

    /// Queues a frame for the current connection.
    pub(crate) fn say(&mut self, frame: Utf8Bytes) {
        if self.link != Link::Down {
            self.outbox.push_back(Outgoing::Frame(frame));
        }
    }

    /// Queues live output or progress of a running attempt, where there is room.
    pub(crate) fn output(&mut self, key: &AttemptRef, frame: Utf8Bytes) {
        let wanted = matches!(self.held.get(key), Some(Held::Running { dropped: false, .. }));
        if wanted && self.output_bytes + frame.len() <= MAX_OUTPUT {
            self.output_bytes += frame.len();
            self.outbox.push_back(Outgoing::Output(frame));
        }
    }

    /// Whether the server on the other side takes files.
    pub(crate) fn takes_artifacts(&self) -> bool {
        self.takes_artifacts
    }

    /// Whether this attempt runs and is wanted.
    pub(crate) fn is_wanted(&self, key: &AttemptRef) -> bool {
        matches!(self.held.get(key), Some(Held::Running { dropped: false, .. }))
    }

    /// Begins an upload; its announcement, made with its number, goes out.
    pub(crate) fn announce(&mut self, frame: impl FnOnce(u32) -> Utf8Bytes) -> u32 {
        let number = self.next_upload;
        self.next_upload = self.next_upload.wrapping_add(1);
        self.uploads.insert(number, Upload { credit: 0, word: None });
        self.outbox.push_back(Outgoing::Frame(frame(number)));
        number
    }

    /// What an upload, of which so many bytes are left, can do; `None`: wait.
    pub(crate) fn upload_step(&self, number: u32, left: u64) -> Option<UploadStep> {
        match self.uploads.get(&number) {
            None => Some(UploadStep::Again),
            Some(Upload { word: Some(Ok(())), .. }) => Some(UploadStep::Stored),
            Some(Upload { word: Some(Err(error)), .. }) => Some(UploadStep::Refused(Box::new(error.clone()))),
            Some(Upload { credit, .. }) if self.chunks.len() < MAX_CHUNKS => {
                Some(left.min(*credit)).filter(|most| *most > 0).map(UploadStep::Send)
            }
            Some(_) => None,
        }
    }

    /// Queues a piece of a file, within what [`Ledger::upload_step`] allowed.
    pub(crate) fn send_chunk(&mut self, number: u32, bytes: &[u8]) {
        if let Some(upload) = self.uploads.get_mut(&number) {
            upload.credit = upload.credit.saturating_sub(bytes.len() as u64);
            self.chunks.push_back((number, chunk(number, bytes)));
        }
    }

    /// The server's word about an upload.
    pub(crate) fn credit(&mut self, frame: Credit) {
        let Some(upload) = self.uploads.get_mut(&frame.number) else { return };
        upload.credit = upload.credit.saturating_add(frame.bytes);
        if let Some(error) = frame.error {
            upload.word = Some(Err(error));
        } else if frame.stored {
            upload.word = Some(Ok(()));
        }
    }

    /// An upload is over for whoever made it. Unless it is stored the server is told that nothing
    /// more will come, and that this is known here.
    pub(crate) fn end_upload(&mut self, number: u32) {
        let Some(upload) = self.uploads.remove(&number) else { return };
        self.chunks.retain(|(other, _)| *other != number);
        if upload.word != Some(Ok(())) {
            self.chunks.push_back((number, chunk(number, &[])));
        }
    }

    /// The next frame for the link. Nothing before `registered`.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        if !self.is_up() {
            return None;
        }
        self.frames_since_chunk += 1;
        if self.frames_since_chunk <= FRAMES_BEFORE_CHUNK
            && let Some(text) = self.pop_text()
        {
            return Some(Message::Text(text));
        }
        self.frames_since_chunk = 0;
        match self.chunks.pop_front() {
            Some((_, chunk)) => Some(Message::Binary(chunk.into())),
            None => self.pop_text().map(Message::Text),
        }
    }

    fn pop_text(&mut self) -> Option<Utf8Bytes> {
        while self.is_up() {
            match self.outbox.pop_front()? {
                Outgoing::Frame(frame) => return Some(frame),
                Outgoing::Output(frame) => {
                    self.output_bytes -= frame.len();
                    return Some(frame);
                }
                Outgoing::Result(key) => {
                    if let Some(Held::Done { frame }) = self.held.get(&key) {
                        return Some(frame.clone());
                    }
                }
            }
        }
        None
    }

    /// The attempts that a heartbeat lists: those that run and those not yet acknowledged.
    pub(crate) fn listed(&self) -> Vec<AttemptRef> {
        let listed = |held: &Held| !matches!(held, Held::Running { dropped: true, .. });
        self.held.iter().filter(|(_, held)| listed(held)).map(|(key, _)| key.clone()).collect()
    }

    /// Takes nothing new from now on.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether the worker takes nothing new.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// How many handlers run.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Whether all results are acknowledged, or no server is there to do so.
    pub(crate) fn is_settled(&self) -> bool {
        self.done.is_empty() || !self.is_up()
    }

    /// Tells every handler to stop.
    pub(crate) fn stop_all(&self, reason: CancelReason) {
        for held in self.held.values() {
            if let Held::Running { context, .. } = held {
                context.cancel(reason);
            }
        }
    }

    fn keep(&mut self, key: &AttemptRef, frame: Utf8Bytes) -> Vec<AttemptRef> {
        self.done_bytes += frame.len();
        self.done.push_back(key.clone());
        self.held.insert(key.clone(), Held::Done { frame });
        if self.link != Link::Down {
            self.outbox.push_back(Outgoing::Result(key.clone()));
        }
        let mut given_up = Vec::new();
        while self.done_bytes > MAX_UNACKNOWLEDGED && self.done.len() > 1 {
            let Some(oldest) = self.done.front().cloned() else { break };
            self.forget(&oldest);
            given_up.push(oldest);
        }
        given_up
    }

    fn forget(&mut self, key: &AttemptRef) {
        if let Some(Held::Done { frame }) = self.held.remove(key) {
            self.done_bytes -= frame.len();
            self.done.retain(|other| other != key);
        }
        if self.forgotten.insert(key.clone()) {
            self.forgotten_order.push_back(key.clone());
        }
        if self.forgotten_order.len() > MAX_FORGOTTEN
            && let Some(oldest) = self.forgotten_order.pop_front()
        {
            self.forgotten.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Worker;

    fn key(epoch: u64) -> AttemptRef {
        AttemptRef { task: "t".into(), epoch }
    }

    fn context(epoch: u64) -> TaskContext {
        TaskContext::new(key(epoch), Worker::builder("test").build().0)
    }

    fn up(ledger: &mut Ledger, change: impl FnOnce(&mut Registered)) {
        ledger.begin_link();
        let mut answer = Registered { connection: 1, ..Registered::default() };
        change(&mut answer);
        for stopped in ledger.registered(&answer) {
            stopped.cancel(CancelReason::Dropped);
        }
    }

    fn sent(ledger: &mut Ledger) -> Vec<String> {
        let text = |frame: Message| frame.into_text().map_or("(bytes)".to_owned(), |text| text.to_string());
        std::iter::from_fn(|| ledger.pop()).map(text).collect()
    }

    #[test]
    fn nothing_is_said_before_the_server_has_answered() {
        let mut ledger = Ledger::default();
        up(&mut ledger, |_| {});
        ledger.start(context(1), "accepted".into());
        ledger.begin_link();
        ledger.finish(&key(1), "result".into());
        assert_eq!(sent(&mut ledger), Vec::<String>::new());
        let stopped = ledger.registered(&Registered { keep: vec![key(1)], ..Registered::default() });
        // `accepted` belonged to the old connection; the result came after `register`.
        assert_eq!((stopped.len(), sent(&mut ledger)), (0, vec!["result".to_owned()]));
    }

    #[test]
    fn a_result_is_sent_once_for_each_connection_and_kept_until_acknowledged() {
        let mut ledger = Ledger::default();
        up(&mut ledger, |_| {});
        ledger.start(context(1), "accepted".into());
        ledger.finish(&key(1), "result".into());
        assert_eq!(sent(&mut ledger), ["accepted", "result"]);
        ledger.end_link();
        up(&mut ledger, |answer| answer.resend = vec![key(1), key(1)]);
        assert_eq!(sent(&mut ledger), ["result"]);
        ledger.acknowledged(&key(1));
        assert!(ledger.is_settled() && ledger.begin_link().0.is_empty());
    }

    #[test]
    fn unacknowledged_results_are_bounded_and_the_oldest_goes_first() {
        let mut ledger = Ledger::default();
        let large = Utf8Bytes::from("x".repeat(MAX_UNACKNOWLEDGED / 4));
        for epoch in 1..=4 {
            ledger.start(context(epoch), "accepted".into());
            assert_eq!(ledger.finish(&key(epoch), large.clone()), []);
        }
        ledger.start(context(5), "accepted".into());
        assert_eq!(ledger.finish(&key(5), large), [key(1)]);
        assert_eq!(ledger.listed().len(), 4);
    }

    #[test]
    fn a_dropped_attempt_keeps_its_slot_until_its_handler_has_ended() {
        let mut ledger = Ledger::default();
        up(&mut ledger, |_| {});
        ledger.start(context(1), "accepted".into());
        up(&mut ledger, |answer| answer.drop = vec![key(1)]);
        assert_eq!(ledger.judge(&key(2), 1, Some(1)), Verdict::Reject("no free slot"));
        assert_eq!(ledger.listed(), []);
        ledger.finish(&key(1), "result".into());
        assert_eq!(sent(&mut ledger), Vec::<String>::new());
        assert_eq!(ledger.judge(&key(2), 1, Some(1)), Verdict::Start);
        assert_eq!(ledger.judge(&key(1), 1, Some(1)), Verdict::Ignore);
    }

    #[test]
    fn output_has_a_bound_of_its_own() {
        let mut ledger = Ledger::default();
        up(&mut ledger, |_| {});
        ledger.start(context(1), "accepted".into());
        for _ in 0..100 {
            ledger.output(&key(1), "x".repeat(MAX_OUTPUT / 10).into());
        }
        ledger.output(&key(2), "nobody's".into());
        assert_eq!(sent(&mut ledger).len(), 1 + 10);
        ledger.output(&key(1), "room again".into());
        assert_eq!(sent(&mut ledger), ["room again"]);
    }
}
