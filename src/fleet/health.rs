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

/// A worker's record of failures that are its own (the caller's failing code never counts).
#[derive(Debug, Clone, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    ejections: u32,
    /// Ejected until then.
    pub(super) until: Option<Mono>,
    returned: Mono,
}

impl Failures {
    /// An attempt went well.
    pub(super) fn success(&mut self, now: Mono, settings: &Settings) {
        self.in_a_row = 0;
        if self.ejections > 0 && now.since(self.returned) > settings.base_ejection {
            self.ejections -= 1;
            self.returned = now;
        }
    }

    /// An attempt failed by the worker's fault. True when it is time to eject.
    pub(super) fn failure(&mut self, settings: &Settings) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.in_a_row >= settings.consecutive_failures && self.until.is_none()
    }

    /// Takes it out: `base_ejection` times how often it was, at most `max_ejection`.
    pub(super) fn eject(&mut self, now: Mono, settings: &Settings) -> Mono {
        self.ejections = self.ejections.saturating_add(1);
        self.in_a_row = 0;
        let until = now + settings.base_ejection.saturating_mul(self.ejections).min(settings.max_ejection);
        self.until = Some(until);
        until
    }

    /// Lets it back in.
    pub(super) fn give_back(&mut self, now: Mono) {
        self.until = None;
        self.returned = now;
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
        let mut failures = Failures::default();
        let lengths: Vec<u64> = (0..12)
            .map(|_| {
                for _ in 0..4 {
                    assert!(!failures.failure(&settings));
                }
                assert!(failures.failure(&settings));
                let until = failures.eject(Mono(0), &settings);
                failures.give_back(Mono(0));
                until.since(Mono(0)).as_secs()
            })
            .collect();
        assert_eq!(lengths[..3], [30, 60, 90]);
        assert_eq!(lengths[11], 300);
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
