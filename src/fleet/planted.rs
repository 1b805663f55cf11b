//! Bugs that can be planted into the core, each at the one rule that it breaks, so that the simulator
//! can show that it would notice. Only debug builds with the feature `planted-bugs` (the tests') can
//! plant one; everywhere else the question is a constant `false` and nothing of it is compiled.

/// A bug. Its name says what is the case once it is planted.
#[cfg_attr(
    not(all(feature = "planted-bugs", debug_assertions)),
    expect(unreachable_pub, reason = "only a build that can plant bugs shows them")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A result is recorded whatever its epoch.
    StaleResultRecorded,
    /// A task's id is given out before its record is durable.
    AcceptedBeforeCommit,
    /// A worker may forget a result before its record is durable.
    AckBeforeCommit,
    /// A registering worker drops a result whose record is not durable yet.
    ResultDroppedBeforeCommit,
    /// A lease is measured on the wall clock.
    LeaseByWallClock,
    /// The server's own pause counts as the workers' silence.
    PauseNotForgiven,
    /// A task kept by key is handed over before its record is durable.
    KeyedBeforeCommit,
    /// A key that the journal reports as taken makes a second task all the same.
    TakenKeyIgnored,
    /// A slot is free as soon as its task is cancelled.
    SlotFreeAtCancel,
    /// A lease ends with its connection.
    LeaseEndsWithSocket,
    /// A restarted server does not know which worker has a task.
    HintLost,
    /// A restarted server issues epochs again that its predecessor had issued.
    EpochsReused,
    /// Of two records of a task the older one is recovered.
    OlderVersionRecovered,
    /// An attempt that began and was lost is repeated although that is not safe.
    UnsafeRepeated,
    /// A task is tried again however often it was.
    AttemptsUnbounded,
    /// Retries cost nothing.
    RetryBudgetIgnored,
    /// A fairness key whose turn is over has no further turn.
    FairnessKeyForgotten,
    /// A worker that leaves the topology loses at once what it runs.
    RemovalKillsWork,
    /// A reconnecting worker goes on with whatever attempt of a task it has.
    StaleAttemptResumed,
    /// A worker gets work before its process is on the roster.
    RosterNotAwaited,
    /// Tasks of one session run at once.
    SessionTurnIgnored,
    /// A session is believed to be on another process of its worker.
    SessionOutlivesProcess,
    /// A worker that must pass a canary first gets tasks at once.
    CanaryIgnored,
    /// Failures of the caller's own code eject workers.
    CallersErrorsEject,
    /// However many of a pool are out, one more may go.
    EjectsWholePools,
    /// A task waits for the workers that it prefers for ever.
    NeverFallsBack,
    /// A task takes whatever worker is free, before it has waited for those that it prefers.
    PreferenceIgnored,
    /// An ejected worker never comes back.
    EjectedForEver,
    /// A restarted server knows nothing of sessions.
    SessionForgottenAtRestart,
    /// Tasks to be kept are accepted while the journal takes no writes.
    StoreFailureIgnored,
}

/// Whether this bug is planted.
#[cfg(not(all(feature = "planted-bugs", debug_assertions)))]
pub(super) const fn planted(_: Planted) -> bool {
    false
}

#[cfg(all(feature = "planted-bugs", debug_assertions))]
pub(super) use switch::planted;

#[cfg(all(feature = "planted-bugs", debug_assertions))]
pub use switch::plant;

#[cfg(all(feature = "planted-bugs", debug_assertions))]
mod switch {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        /// Beside the core, not in it: so that a restarted core has it too, and none is built otherwise.
        static BUG: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Plants a bug into every core that runs on this thread; `None` takes it out.
    pub fn plant(bug: Option<Planted>) {
        BUG.set(bug);
    }

    pub(in super::super) fn planted(bug: Planted) -> bool {
        BUG.get() == Some(bug)
    }
}
