//! HealthMonitor: how long a worker may be silent, and when its failures take it out for a while.
//! Plain functions over one worker's numbers; the registry applies what they say.

use std::time::Duration;

use super::time::Mono;
use super::topology::Settings;

/// What a worker's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It was heard lately; look again then.
    Alive { look_again: Mono },
    /// Silent for `suspect_after`: no new work; look again then.
    Suspect { look_again: Mono },
    /// Silent for `heartbeat.timeout`.
    Dead,
}

/// Judges the silence since `last_alive`.
pub(super) fn liveness(now: Mono, last_alive: Mono, settings: &Settings) -> Liveness {
    let silence = now.since(last_alive);
    if silence >= settings.heartbeat_timeout {
        Liveness::Dead
    } else if silence >= settings.suspect_after {
        Liveness::Suspect { look_again: last_alive + settings.heartbeat_timeout }
    } else {
        Liveness::Alive { look_again: last_alive + settings.suspect_after }
    }
}

/// What the gap between two heartbeats is called: `on_time`, `late` (over 1.1 intervals) or
/// `missed` (over 2).
pub(super) fn punctuality(gap: Duration, interval: Duration) -> &'static str {
    if gap > interval * 2 {
        "missed"
    } else if gap > interval + interval / 10 {
        "late"
    } else {
        "on_time"
    }
}

/// Whether a worker's process may be given tasks, by what it has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    /// A process that has shown nothing yet: a canary goes first.
    #[default]
    New,
    /// It takes as many tasks as it has slots.
    Good,
    /// Its failures took it out until then.
    Ejected(Mono),
    /// Its time out is over: a canary decides.
    HalfOpen,
    /// Back from an ejection: it takes so many tasks at once, and with each one that goes well one more.
    Returning(u32),
}

/// Why a worker that failed often enough to be ejected is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldBack {
    /// As much of its pool as may be is ejected already.
    PoolLimit,
    /// It is the last ready worker for something that it offers.
    LastReady,
}

impl HeldBack {
    /// The word used in notes and labels.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::PoolLimit => "pool_limit",
            Self::LastReady => "last_ready",
        }
    }

    /// The rest of a sentence that begins with the worker.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::PoolLimit => "kept because enough of its pool is ejected",
            Self::LastReady => "kept as the last ready worker for what it offers",
        }
    }
}

/// A worker's record of failures that are its own (the caller's failing code never counts).
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    pub(super) standing: Standing,
    /// Failures since anything went well.
    pub(super) in_a_row: u32,
    /// How often it was ejected; forgotten one by one while all goes well.
    pub(super) ejections: u32,
    /// Ejections since it last was in good standing, by this process.
    relapses: u32,
    /// It ought to be ejected, and is not.
    pub(super) held_back: Option<HeldBack>,
    /// When it last showed that it works.
    pub(super) proven: Mono,
    returned: Mono,
}

/// Ejections without a recovery between them after which a launched program is made anew.
const RELAPSES: u32 = 2;

impl Health {
    /// Something went well. `slots`: how many it has.
    pub(super) fn success(&mut self, now: Mono, slots: u32, settings: &Settings) {
        self.in_a_row = 0;
        self.held_back = None;
        self.proven = now;
        if let Standing::Returning(open) = self.standing {
            if open < slots {
                self.standing = Standing::Returning(open + 1);
            } else {
                self.recovered();
            }
        }
        if self.ejections > 0 && now.since(self.returned) > settings.base_ejection {
            self.ejections -= 1;
            self.returned = now;
        }
    }

    /// An attempt failed by the worker's fault. True when it is time to eject: after so many in a row,
    /// and at once when it has only just come back.
    pub(super) fn failure(&mut self, settings: &Settings) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match self.standing {
            Standing::New | Standing::Good => self.in_a_row >= settings.consecutive_failures,
            Standing::Returning(_) => true,
            Standing::Ejected(_) | Standing::HalfOpen => false,
        }
    }

    /// Takes it out: `base_ejection` times how often it was, at most `max_ejection`.
    pub(super) fn eject(&mut self, now: Mono, settings: &Settings) -> Mono {
        self.ejections = self.ejections.saturating_add(1);
        self.relapses = self.relapses.saturating_add(1);
        self.in_a_row = 0;
        self.held_back = None;
        let until = now + settings.base_ejection.saturating_mul(self.ejections).min(settings.max_ejection);
        self.standing = Standing::Ejected(until);
        until
    }

    /// Its canary went well, or its kind has none.
    pub(super) fn proved(&mut self, now: Mono) {
        self.in_a_row = 0;
        self.held_back = None;
        self.proven = now;
        match self.standing {
            Standing::New if self.relapses == 0 && self.ejections == 0 => self.standing = Standing::Good,
            Standing::New | Standing::HalfOpen | Standing::Ejected(_) => {
                self.standing = Standing::Returning(1);
                self.returned = now;
            }
            Standing::Good | Standing::Returning(_) => {}
        }
    }

    /// It has come back for good.
    pub(super) fn recovered(&mut self) {
        self.standing = Standing::Good;
        self.relapses = 0;
    }

    /// Another process: what it can do is not known. How often the ones before it were ejected is
    /// remembered, so that one that is sick from birth is not made anew in a tight loop.
    pub(super) fn new_process(&mut self) {
        *self = Self { ejections: self.ejections, returned: self.returned, ..Self::default() };
    }

    /// Whether its failures, or those of its canary, took it out.
    pub(super) fn is_out(&self) -> bool {
        match self.standing {
            Standing::Ejected(_) | Standing::HalfOpen => true,
            Standing::New | Standing::Good | Standing::Returning(_) => false,
        }
    }

    /// Until when it is ejected.
    pub(super) fn until(&self) -> Option<Mono> {
        match self.standing {
            Standing::Ejected(until) => Some(until),
            Standing::New | Standing::Good | Standing::HalfOpen | Standing::Returning(_) => None,
        }
    }

    /// Whether it stays sick: ejected again before it had recovered, or kept although it fails on.
    pub(super) fn stays_sick(&self, settings: &Settings) -> bool {
        let fails_on = self.in_a_row >= settings.consecutive_failures.saturating_mul(2);
        self.relapses >= RELAPSES || (self.held_back.is_some() && fails_on)
    }
}

/// A wait that grows: `initial * factor^tries`, at most `max`. `jitter_percent` of it is drawn:
/// with 100 it is anything from zero on ("full jitter", AWS Architecture Blog, 2015).
/// `fraction` is the draw, 0 to 999.
pub(super) fn backoff(
    initial: Duration,
    max: Duration,
    factor_percent: u32,
    tries: u32,
    jitter_percent: u32,
    fraction: u32,
) -> Duration {
    let mut wait = initial;
    for _ in 0..tries.min(64) {
        if wait >= max {
            break;
        }
        wait = wait.saturating_mul(factor_percent.max(100)) / 100;
    }
    let wait = wait.min(max);
    let drawn = wait / 100 * jitter_percent.min(100);
    (wait - drawn) + drawn / 1000 * fraction.min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_suspect_at_one_and_a_half_intervals_and_dead_at_two_and_a_half() {
        let settings = Settings::default();
        let heard = Mono(0);
        let at = |seconds| liveness(Mono(0) + Duration::from_secs(seconds), heard, &settings);
        assert_eq!(at(44), Liveness::Alive { look_again: Mono(0) + Duration::from_secs(45) });
        assert_eq!(at(45), Liveness::Suspect { look_again: Mono(0) + Duration::from_secs(75) });
        assert_eq!(at(75), Liveness::Dead);
    }

    #[test]
    fn ejections_grow_longer_up_to_their_limit() {
        let settings = Settings::default();
        let mut health = Health { standing: Standing::Good, ..Health::default() };
        let lengths: Vec<u64> = (0..12)
            .map(|_| {
                for _ in 0..4 {
                    assert!(!health.failure(&settings));
                }
                assert!(health.failure(&settings));
                let until = health.eject(Mono(0), &settings);
                health.recovered();
                until.since(Mono(0)).as_secs()
            })
            .collect();
        assert_eq!(lengths[..3], [30, 60, 90]);
        assert_eq!(lengths[11], 300);
    }

    #[test]
    fn a_worker_that_comes_back_starts_slowly_and_one_failure_sends_it_out_again() {
        let settings = Settings::default();
        let mut health = Health { standing: Standing::HalfOpen, ejections: 1, ..Health::default() };
        health.proved(Mono(0));
        assert_eq!(health.standing, Standing::Returning(1));
        health.success(Mono(1), 2, &settings);
        assert_eq!(health.standing, Standing::Returning(2));
        assert!(health.failure(&settings));
        health.eject(Mono(2), &settings);
        assert!(!health.stays_sick(&settings));
        health.proved(Mono(3));
        assert!(health.failure(&settings));
        health.eject(Mono(4), &settings);
        assert!(health.stays_sick(&settings), "ejected again before it had recovered");
        health.new_process();
        assert_eq!((health.standing, health.ejections), (Standing::New, 3));
    }

    #[test]
    fn backoff_doubles_to_its_limit_and_full_jitter_spans_it_all() {
        let wait = |tries, fraction| {
            backoff(Duration::from_millis(100), Duration::from_secs(30), 200, tries, 100, fraction)
                .as_millis()
        };
        assert_eq!([wait(0, 1000), wait(1, 1000), wait(2, 1000), wait(50, 1000)], [100, 200, 400, 30_000]);
        assert_eq!(wait(9, 0), 0);
        assert_eq!(wait(2, 500), 200);
    }
}
