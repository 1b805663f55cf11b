//! The rule: how many instances a pool ought to have. Up fast, down slow, and every answer says what
//! it was made from and what held it. Plain functions over numbers; whose numbers they are is told
//! in `evaluate.rs`, so that a recorded day can be judged by another policy with the same code.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::Scaling;
use crate::fleet::time::{Mono, Now, Wall};

/// Further apart than this, two looks leave a gap in which nothing was known: delays are not served
/// in it.
const GAP: Duration = Duration::from_secs(60);

/// What a decision is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// Tasks that wait and that this pool could run.
    pub waiting: u64,
    /// The same in thousandths of a slot: a task counts as one slot, or where its usual execution
    /// time is known, as that time's share of [`super::WORK_HORIZON`].
    pub waiting_millislots: u64,
    /// Tasks that its instances hold.
    pub running: u64,
    /// Slots of one instance.
    pub slots: u32,
}

impl Inputs {
    /// Slots that are asked for, in thousandths.
    pub fn demand_millislots(&self) -> u64 {
        self.running.saturating_mul(1_000).saturating_add(self.waiting_millislots)
    }
}

/// Where a decision leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More instances.
    Up,
    /// Fewer.
    Down,
    /// As many as before.
    Hold,
}

impl Direction {
    /// Every direction, in label order.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Hold];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Hold => "hold",
        }
    }
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Tasks wait.
    Backlog,
    /// What runs.
    Utilisation,
    /// A scheduled minimum begins or ends.
    Schedule,
    /// A person, or the configuration.
    Manual,
    /// A delay is not over.
    Cooldown,
    /// The provider fails, or what is needed is not known.
    ProviderError,
}

impl Reason {
    /// Every reason, in label order.
    pub const ALL: [Self; 6] =
        [Self::Backlog, Self::Utilisation, Self::Schedule, Self::Manual, Self::Cooldown, Self::ProviderError];

    /// The word used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Utilisation => "utilisation",
            Self::Schedule => "schedule",
            Self::Manual => "manual",
            Self::Cooldown => "cooldown",
            Self::ProviderError => "provider_error",
        }
    }
}

/// What cut a wish. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Fewer were wished for than there must be.
    pub min: bool,
    /// More were wished for than there may be.
    pub max: bool,
    /// A delay is not over.
    pub cooldown: bool,
    /// `max_step`.
    pub rate: bool,
}

impl Limits {
    /// Each limit by its word, and whether it cut.
    pub fn by_word(self) -> [(&'static str, bool); 4] {
        [("min", self.min), ("max", self.max), ("cooldown", self.cooldown), ("rate", self.rate)]
    }
}

/// One look at a pool, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Wall,
    /// Instances that were wanted before.
    pub from: u32,
    /// Instances that are wanted now.
    pub to: u32,
    /// Where that leads.
    pub direction: Direction,
    /// What decided.
    pub reason: Reason,
    /// What cut the wish.
    pub limits: Limits,
    /// What it was made from.
    pub inputs: Inputs,
    /// What the formula gave, before any limit.
    pub wish: u32,
    /// The bounds at that time, the schedule included.
    pub min: u32,
    /// See `min`.
    pub max: u32,
    /// How long until the delay that held it is over, should nothing change.
    pub wait: Option<Duration>,
}

/// What keeps a pool's size as it is, beside the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    No,
    /// A person or the configuration paused it.
    Paused,
    /// Its provider fails, or what is needed is not known.
    Blind,
}

/// What the rule remembers of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autoscaler {
    /// What was wanted lately: falling sizes, each with the last time that it was wanted. The first
    /// is the most that was wanted within the delay.
    peaks: VecDeque<(Mono, u32)>,
    /// Since when more has been wanted without a break.
    above: Option<Mono>,
    /// When a step up, and one down, was last made.
    stepped: [Option<Mono>; 2],
    /// When anything was last asked for.
    busy: Mono,
    seen: Mono,
    /// The minimum of the last look.
    floor: u32,
}

impl Autoscaler {
    /// The rule of a pool that has this size. The delays begin now.
    pub fn new(now: Mono, size: u32) -> Self {
        Self {
            peaks: VecDeque::from([(now, size)]),
            above: None,
            stepped: [None; 2],
            busy: now,
            seen: now,
            floor: 0,
        }
    }

    /// A person wants this size: it holds for a delay, unless more is needed.
    pub fn set(&mut self, now: Mono, size: u32) {
        self.peaks = VecDeque::from([(now, size)]);
        self.above = None;
        self.busy = now;
    }

    /// Looks at a pool of size `from`.
    pub fn decide(&mut self, now: Now, scaling: &Scaling, inputs: Inputs, from: u32, hold: Hold) -> Decision {
        let wish = wish(scaling, &inputs);
        let (min, max) = (scaling.min_at(now.wall), scaling.max);
        let bounded = wish.clamp(min, max);
        let limits = Limits { min: wish < min, max: wish > max, ..Limits::default() };
        let mut decision = Decision {
            at: now.wall,
            from,
            to: from,
            direction: Direction::Hold,
            reason: if inputs.waiting > 0 { Reason::Backlog } else { Reason::Utilisation },
            limits,
            inputs,
            wish,
            min,
            max,
            wait: None,
        };
        let floor = std::mem::replace(&mut self.floor, min);
        if hold != Hold::Blind {
            self.bridge(now.mono);
            self.remember(now.mono, bounded, &inputs);
        }
        // The bounds are the operator's word: no delay holds them, and no failure.
        if from < min || from > max {
            let scheduled = from < min && min > scaling.min;
            decision.reason = if scheduled { Reason::Schedule } else { Reason::Manual };
            if from < min && hold == Hold::No && bounded > min {
                decision.reason = Reason::Backlog;
                return self.up(now.mono, scaling, bounded, decision);
            }
            return ended(decision, from.clamp(min, max));
        }
        match hold {
            Hold::Paused => {
                decision.reason = Reason::Manual;
                return decision;
            }
            Hold::Blind => {
                decision.reason = Reason::ProviderError;
                return decision;
            }
            Hold::No => {}
        }
        if bounded > from {
            let since = *self.above.get_or_insert(now.mono);
            let left = scaling.upscale_delay.saturating_sub(now.mono.since(since));
            if left.is_zero() { self.up(now.mono, scaling, bounded, decision) } else { held(decision, left) }
        } else {
            self.above = None;
            if bounded == from {
                return decision;
            }
            if floor > min && floor > bounded {
                decision.reason = Reason::Schedule;
            }
            self.down(now.mono, scaling, decision)
        }
    }

    fn up(&mut self, now: Mono, scaling: &Scaling, bounded: u32, mut decision: Decision) -> Decision {
        let (to, wait) = self.step(0, now, scaling, decision.from, bounded);
        decision.limits.rate = to != bounded;
        decision.wait = wait;
        ended(decision, to)
    }

    /// Less is wanted: as much as was wanted at most within the delay, and none only after the delay
    /// for that.
    fn down(&mut self, now: Mono, scaling: &Scaling, mut decision: Decision) -> Decision {
        let from = decision.from;
        let over = |at: Mono| now.since(at) >= scaling.downscale_delay;
        // The last entry is what is wanted now.
        while self.peaks.len() > 1 && self.peaks.front().is_some_and(|(at, _)| over(*at)) {
            self.peaks.pop_front();
        }
        let &(at, most) = self.peaks.front().unwrap_or(&(now, from));
        if most >= from {
            return held(decision, scaling.downscale_delay.saturating_sub(now.since(at)));
        }
        let to_zero = scaling.downscale_to_zero_delay.saturating_sub(now.since(self.busy));
        let to = if most == 0 && !to_zero.is_zero() { 1 } else { most };
        if to >= from {
            return held(decision, to_zero);
        }
        let (stepped, wait) = self.step(1, now, scaling, from, to);
        decision.limits.rate = stepped != to;
        decision.wait = wait;
        ended(decision, stepped)
    }

    /// Cuts a change to what `max_step` allows now.
    fn step(
        &mut self,
        way: usize,
        now: Mono,
        scaling: &Scaling,
        from: u32,
        to: u32,
    ) -> (u32, Option<Duration>) {
        let Some(most) = scaling.max_step else { return (to, None) };
        let left =
            self.stepped[way].map_or(Duration::ZERO, |at| Scaling::STEP_EVERY.saturating_sub(now.since(at)));
        if !left.is_zero() {
            return (from, Some(left));
        }
        self.stepped[way] = Some(now);
        let cut =
            if to > from { from.saturating_add(most).min(to) } else { from.saturating_sub(most).max(to) };
        (cut, (cut != to).then_some(Scaling::STEP_EVERY))
    }

    /// Notes what is wanted now.
    fn remember(&mut self, now: Mono, bounded: u32, inputs: &Inputs) {
        if inputs.demand_millislots() > 0 {
            self.busy = now;
        }
        while self.peaks.back().is_some_and(|(_, size)| *size <= bounded) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, bounded));
    }

    /// Nobody looked for a while: the delays go on where they were.
    fn bridge(&mut self, now: Mono) {
        let gap = now.since(self.seen);
        self.seen = now;
        if gap <= GAP {
            return;
        }
        self.busy = self.busy + gap;
        for at in self.peaks.iter_mut().map(|(at, _)| at).chain(&mut self.above) {
            *at = *at + gap;
        }
    }
}

/// The formula: as many instances as fill `target_load` of their slots with the demand, and the spare
/// ones.
fn wish(scaling: &Scaling, inputs: &Inputs) -> u32 {
    // Thousandths of slots over hundredths of the slots of one instance.
    let each = 10 * u64::from(scaling.target_load_percent.max(1)) * u64::from(inputs.slots.max(1));
    let needed = inputs.demand_millislots().div_ceil(each);
    u32::try_from(needed).unwrap_or(u32::MAX).saturating_add(scaling.spare)
}

fn held(mut decision: Decision, left: Duration) -> Decision {
    decision.reason = Reason::Cooldown;
    decision.limits.cooldown = true;
    decision.wait = Some(left);
    decision
}

fn ended(mut decision: Decision, to: u32) -> Decision {
    decision.to = to;
    decision.direction = match to.cmp(&decision.from) {
        std::cmp::Ordering::Greater => Direction::Up,
        std::cmp::Ordering::Less => Direction::Down,
        std::cmp::Ordering::Equal => Direction::Hold,
    };
    if decision.direction == Direction::Hold && decision.limits.rate {
        decision.reason = Reason::Cooldown;
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A pool in a world of its own: one second a look.
    struct Pool {
        scaling: Scaling,
        rule: Autoscaler,
        size: u32,
        second: u64,
    }

    impl Pool {
        fn new(scaling: Scaling, size: u32) -> Self {
            Self { scaling, rule: Autoscaler::new(Mono(0), size), size, second: 0 }
        }

        fn now(&self) -> Now {
            let mono = Mono(0) + SECOND * u32::try_from(self.second).expect("a short test");
            Now { mono, wall: Wall(i64::try_from(self.second * 1_000).expect("a short test")) }
        }

        /// The next second, with so many tasks running and waiting.
        fn look(&mut self, running: u64, waiting: u64) -> Decision {
            self.second += 1;
            let inputs = Inputs { waiting, waiting_millislots: waiting * 1_000, running, slots: 4 };
            let decision = self.rule.decide(self.now(), &self.scaling, inputs, self.size, Hold::No);
            self.size = decision.to;
            decision
        }

        /// So many seconds of the same; the sizes at which it changed, each with its second.
        fn spend(&mut self, seconds: u64, running: u64) -> Vec<(u64, u32)> {
            let mut changes = Vec::new();
            for _ in 0..seconds {
                if self.look(running, 0).direction != Direction::Hold {
                    changes.push((self.second, self.size));
                }
            }
            changes
        }
    }

    fn up_to(max: u32) -> Scaling {
        Scaling { max, ..Scaling::default() }
    }

    #[test]
    fn demand_fills_the_target_share_of_the_slots() {
        let mut pool = Pool::new(up_to(100), 0);
        let decision = pool.look(10, 20);
        // 30 tasks on 4 slots of which three quarters are to be filled.
        assert_eq!((decision.wish, decision.to, decision.reason), (10, 10, Reason::Backlog));
        pool.scaling.spare = 2;
        assert_eq!(pool.look(10, 20).to, 12);
    }

    #[test]
    fn one_waiting_task_wakes_a_pool_at_once() {
        let mut pool = Pool::new(up_to(8), 0);
        let decision = pool.look(0, 1);
        assert_eq!((decision.from, decision.to, decision.direction), (0, 1, Direction::Up));
    }

    #[test]
    fn the_wish_is_cut_at_both_ends_and_says_so() {
        let mut pool = Pool::new(Scaling { min: 2, ..up_to(3) }, 2);
        let most = pool.look(0, 100);
        assert_eq!((most.to, most.limits.max), (3, true));
        let mut pool = Pool::new(Scaling { min: 2, ..up_to(3) }, 2);
        let least = pool.look(0, 0);
        assert_eq!((least.to, least.limits.min, least.direction), (2, true, Direction::Hold));
    }

    #[test]
    fn less_is_taken_away_only_when_less_was_wanted_for_the_whole_delay() {
        let mut pool = Pool::new(up_to(8), 0);
        pool.look(0, 20);
        assert_eq!(pool.size, 7);
        // Nine are running in the first minute (three instances), then three (one).
        assert_eq!(pool.spend(60, 9), []);
        assert_eq!(pool.spend(400, 3), [(301, 3), (361, 1)]);
    }

    #[test]
    fn a_saw_does_not_shake_the_pool() {
        let mut pool = Pool::new(up_to(8), 0);
        let mut changes = Vec::new();
        for round in 0..40 {
            changes.extend(pool.spend(30, if round % 2 == 0 { 24 } else { 0 }));
        }
        assert_eq!(changes, [(1, 8)]);
    }

    #[test]
    fn the_last_instance_has_a_delay_of_its_own() {
        let mut pool = Pool::new(up_to(8), 0);
        pool.look(0, 6);
        assert_eq!(pool.spend(1_000, 0), [(301, 1), (901, 0)]);
    }

    #[test]
    fn a_pool_that_waits_to_grow_grows_only_for_what_lasts() {
        let mut pool = Pool::new(Scaling { upscale_delay: SECOND * 10, ..up_to(8) }, 1);
        for _ in 0..9 {
            assert_eq!(pool.look(12, 0).to, 1);
        }
        assert_eq!(pool.look(3, 0).to, 1);
        let held = pool.look(12, 0);
        assert_eq!((held.reason, held.wait), (Reason::Cooldown, Some(SECOND * 10)));
        assert_eq!(pool.spend(12, 12), [(21, 4)]);
    }

    #[test]
    fn steps_are_no_larger_than_allowed() {
        let mut pool = Pool::new(Scaling { max_step: Some(2), ..up_to(8) }, 0);
        let first = pool.look(24, 0);
        assert_eq!((first.to, first.limits.rate), (2, true));
        assert_eq!(pool.spend(60, 24), [(16, 4), (31, 6), (46, 8)]);
    }

    #[test]
    fn a_pool_whose_provider_fails_keeps_its_size() {
        let mut pool = Pool::new(up_to(8), 3);
        for second in 1..1_000 {
            let now = Now { mono: Mono(0) + SECOND * second, wall: Wall(0) };
            let decision = pool.rule.decide(now, &pool.scaling, Inputs::default(), 3, Hold::Blind);
            assert_eq!((decision.to, decision.reason), (3, Reason::ProviderError));
        }
        // The time in which nothing was known does not count.
        pool.second = 1_000;
        assert_eq!(pool.look(0, 0).to, 3);
    }

    #[test]
    fn new_bounds_hold_at_once_even_while_paused() {
        let mut pool = Pool::new(up_to(8), 6);
        pool.scaling.max = 4;
        let now = pool.now();
        let decision = pool.rule.decide(now, &pool.scaling, Inputs::default(), 6, Hold::Paused);
        assert_eq!((decision.to, decision.reason), (4, Reason::Manual));
    }
}
