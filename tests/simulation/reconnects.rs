//! The table of a reconnect: what each attempt that a registering worker reports, or lacks, must
//! become. Judged from outside, by what the core showed of the task just before; and counted, so that
//! a run in which a line of the table never came up does not count as a proof of it.

use std::sync::Arc;

use rollcall::fleet::*;

use super::observer::Verdict;
use super::world::World;

/// Every line of the table, as it is counted.
pub(crate) const LINES: [&str; 15] = [
    "a running attempt goes on",
    "a finished attempt sends its result",
    "an attempt lost on the way is queued again",
    "an attempt of a process that died is queued again",
    "an attempt of a launched process that ended is queued again",
    "an attempt that was written off goes on",
    "an attempt that was written off sends its result",
    "an attempt goes on after a restart of the server",
    "an attempt sends its result after a restart of the server",
    "a hand-over that left no trace before a crash goes on",
    "an attempt that another one followed is dropped",
    "an attempt of an ended task is dropped",
    "an attempt of an unknown task is dropped",
    "an attempt of another process is dropped",
    "a worker that has left the configuration goes on with what it has",
];

/// What a worker reports and what the core knows of it.
pub(crate) struct Reported {
    conn: ConnId,
    worker: WorkerName,
    instance: Instance,
    attempts: Vec<(HeldAttempt, Option<Arc<TaskRecord>>)>,
}

/// What may become of an attempt.
#[derive(PartialEq, Eq)]
enum Fate {
    /// It goes on, or its result is sent.
    Lives,
    /// It is dropped; a result that is taken and not yet durable is sent once more.
    Dropped,
    /// Nobody outside can tell.
    Either,
}

impl World {
    /// Looks at what a worker is about to report, while the core does not know of it yet.
    pub(crate) fn before_reconnect(&self, event: &Event) -> Option<Reported> {
        let Event::LinkUp(conn, registration) = event else { return None };
        let fleet = self.server.fleet.as_ref()?;
        let attempts = registration.attempts.iter().map(|held| (*held, fleet.task(held.task)));
        let (worker, instance) = (registration.worker.clone(), registration.instance.clone());
        Some(Reported { conn: *conn, worker, instance, attempts: attempts.collect() })
    }

    /// Compares the core's answer with the table.
    pub(crate) fn after_reconnect(&mut self, reported: &Reported, effects: &[Effect]) -> Verdict {
        let welcome = effects.iter().find_map(|effect| match effect {
            Effect::Order(conn, Order::Registered(welcome)) if *conn == reported.conn => Some(welcome),
            _ => None,
        });
        // A worker that is refused hears nothing of its attempts.
        let Some(welcome) = welcome else { return Ok(()) };
        for (held, record) in &reported.attempts {
            let attempt = (held.task, held.epoch);
            let lives = welcome.keep.contains(&attempt) || welcome.resend.contains(&attempt);
            let (line, fate) = judge(held, record.as_deref(), &reported.instance);
            let fits = match fate {
                Fate::Lives => lives,
                // Result or not: nothing that was dropped by the table runs on.
                Fate::Dropped => !welcome.keep.contains(&attempt) && (!lives || was_reported(held, record)),
                Fate::Either => true,
            };
            if !fits {
                return Err(format!("reconnect: {line}, but {attempt:?} became {welcome:?} of {record:?}"));
            }
            if fate != Fate::Either || lives {
                self.count(line);
            }
            if lives && !self.with_instances(&self.server.told).workers.contains_key(&reported.worker) {
                self.count(LINES[14]);
            }
        }
        for effect in effects {
            if let Effect::Note(Note::Reconciled { task, decision: "rerun" }) = effect {
                let record = self.server.fleet.as_ref().and_then(|fleet| fleet.task(*task));
                let lost = record.as_ref().and_then(|record| {
                    record
                        .attempts
                        .iter()
                        .rev()
                        .find(|attempt| attempt.outcome == Some(AttemptOutcome::WorkerLost))
                });
                match lost {
                    Some(attempt) if attempt.instance == reported.instance => self.count(LINES[2]),
                    Some(_) => self.count(LINES[3]),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// A launched process has ended: what it had is lost.
    pub(crate) fn after_process_gone(&mut self, effects: &[Effect]) {
        let lost = |effect: &&Effect| {
            matches!(effect, Effect::Note(Note::AttemptEnded { outcome: AttemptOutcome::WorkerLost, .. }))
        };
        for _ in effects.iter().filter(lost) {
            self.count(LINES[4]);
        }
    }
}

/// The line of the table for an attempt, and what may become of it.
fn judge(held: &HeldAttempt, record: Option<&TaskRecord>, instance: &Instance) -> (&'static str, Fate) {
    let Some(record) = record else { return (LINES[12], Fate::Dropped) };
    if record.state.is_final() {
        return (LINES[11], Fate::Dropped);
    }
    let Some(newest) = record.attempts.last() else { return (LINES[9], Fate::Either) };
    if newest.epoch > held.epoch {
        return (LINES[10], Fate::Dropped);
    }
    if newest.epoch < held.epoch {
        return (LINES[9], Fate::Either);
    }
    if newest.instance != *instance {
        return (LINES[13], Fate::Dropped);
    }
    if record.state != TaskState::Queued {
        return (if held.done { LINES[1] } else { LINES[0] }, Fate::Lives);
    }
    if has_ended(newest) {
        return (LINES[10], Fate::Dropped);
    }
    let line = match (record.hint.is_some(), held.done) {
        (false, false) => LINES[5],
        (false, true) => LINES[6],
        (true, false) => LINES[7],
        (true, true) => LINES[8],
    };
    (line, Fate::Lives)
}

/// Whether an attempt has an end that is its own, and not one that the core only supposed.
fn has_ended(attempt: &AttemptRecord) -> bool {
    !matches!(attempt.outcome, None | Some(AttemptOutcome::WorkerLost | AttemptOutcome::Superseded))
}

/// Whether the core has this attempt's result already, so that what the worker has is a copy.
fn was_reported(held: &HeldAttempt, record: &Option<Arc<TaskRecord>>) -> bool {
    let same = |attempt: &&AttemptRecord| attempt.epoch == held.epoch;
    let attempt = record.as_ref().and_then(|record| record.attempts.iter().find(same));
    held.done && attempt.is_some_and(has_ended)
}
