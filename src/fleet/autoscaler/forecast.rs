//! What would have been: recorded demand, run through another rule. A queue in seconds, with workers
//! that take a while to start; rough where the recording is, and the same for every rule.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::demand::work_of;
use super::rule::{Autoscaler, Hold, Inputs};
use super::spec::Scaling;
use crate::fleet::time::{Mono, Now, Wall};

/// What was asked for in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// When it began.
    pub at: Wall,
    /// How many whole seconds it lasted.
    pub seconds: u32,
    /// Tasks that came in.
    pub arrived: u64,
    /// What one of them takes.
    pub each: Duration,
}

/// What the workers of the pool are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Tasks at once.
    pub slots: u32,
    /// From the decision until it takes tasks.
    pub starts: Duration,
}

/// What a rule would have cost, and brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// Tasks that were served.
    pub tasks: u64,
    /// Seconds of all workers together.
    pub worker_seconds: u64,
    /// How long tasks waited, together; divided by `tasks`, the mean.
    pub waited: Duration,
    /// How long all but one of twenty waited at most.
    pub wait_p95: Duration,
    /// The longest wait.
    pub wait_most: Duration,
    /// Changes of the size.
    pub changes: u32,
    /// Changes that took the one before back: down after up, or up after down, within five minutes.
    pub flaps: u32,
    /// The most workers at once.
    pub most: u32,
}

/// Turning back so soon is a flap.
const FLAP: u64 = 300;

/// The shortest look of the simulation.
const SECOND: Duration = Duration::from_secs(1);

/// After the last demand, until the queue is empty, at most so long.
const MOST_AFTER: u64 = 24 * 3_600;

/// Runs recorded demand through the rule with these numbers.
pub fn forecast(demand: &[Demand], instance: Instance, scaling: &Scaling) -> Forecast {
    let first = demand.first().map_or(Wall(0), |first| first.at);
    let size = scaling.min_at(first);
    let mut rule = Autoscaler::new(Mono(0), size);
    // What is paused would tell nothing.
    let scaling = Scaling { paused: false, ..scaling.clone() };
    forecast_with(demand, instance, size, |now, inputs, size| {
        rule.decide(now, &scaling, inputs, size, Hold::No).to
    })
}

/// The same with any rule: it is asked every second for the size, given what is so far.
pub fn forecast_with(
    demand: &[Demand],
    instance: Instance,
    size: u32,
    mut rule: impl FnMut(Now, Inputs, u32) -> u32,
) -> Forecast {
    let mut world = World::new(instance, size);
    let first = demand.first().map_or(Wall(0), |first| first.at);
    for span in demand {
        let seconds = u64::from(span.seconds.max(1));
        for second in 0..seconds {
            let until = |second| span.arrived * second / seconds;
            world.step(first, until(second + 1) - until(second), span.each, &mut rule);
        }
    }
    let each = demand.last().map_or(SECOND, |last| last.each);
    for _ in 0..MOST_AFTER {
        if world.waiting == 0 {
            break;
        }
        world.step(first, 0, each, &mut rule);
    }
    world.told()
}

struct World {
    instance: Instance,
    second: u64,
    size: u32,
    /// Instances that take tasks.
    ready: u32,
    /// When others will.
    starting: VecDeque<u64>,
    /// Tasks that wait, by the second in which they came.
    queue: VecDeque<(u64, u64)>,
    waiting: u64,
    busy: u64,
    /// Slots that become free, by second.
    ends: BTreeMap<u64, u64>,
    /// Seconds waited, and by how many tasks.
    waits: BTreeMap<u64, u64>,
    last_change: Option<(u64, bool)>,
    told: Forecast,
}

impl World {
    fn new(instance: Instance, size: u32) -> Self {
        Self {
            instance,
            second: 0,
            size,
            ready: size,
            starting: VecDeque::new(),
            queue: VecDeque::new(),
            waiting: 0,
            busy: 0,
            ends: BTreeMap::new(),
            waits: BTreeMap::new(),
            last_change: None,
            told: Forecast { most: size, ..Forecast::default() },
        }
    }

    fn step(
        &mut self,
        first: Wall,
        arrived: u64,
        each: Duration,
        rule: &mut impl FnMut(Now, Inputs, u32) -> u32,
    ) {
        let second = self.second;
        self.busy -= self.ends.remove(&second).unwrap_or(0);
        while self.starting.front().is_some_and(|at| *at <= second) {
            self.starting.pop_front();
            self.ready += 1;
        }
        if arrived > 0 {
            self.queue.push_back((second, arrived));
            self.waiting += arrived;
        }
        self.serve(each);
        let inputs = Inputs {
            waiting: self.waiting,
            waiting_millislots: work_of(self.waiting, Some(each)),
            running: self.busy,
            slots: self.instance.slots,
        };
        let after = SECOND.saturating_mul(u32::try_from(second).unwrap_or(u32::MAX));
        let now = Now { mono: Mono(0) + after, wall: first + after };
        let wanted = rule(now, inputs, self.size);
        self.resize(wanted);
        self.told.worker_seconds += u64::from(self.ready) + self.starting.len() as u64;
        self.second += 1;
    }

    /// Hands waiting tasks to free slots, the oldest first.
    fn serve(&mut self, each: Duration) {
        let slots = u64::from(self.ready) * u64::from(self.instance.slots);
        // A slot does several short tasks in a second.
        let turns = (SECOND.as_micros() / each.as_micros().max(1)).clamp(1, 1_000_000);
        let turns = u64::try_from(turns).unwrap_or(1);
        let lasts = each.as_secs().max(1);
        let mut room = slots.saturating_sub(self.busy) * turns;
        let mut served = 0;
        while room > 0
            && let Some((came, count)) = self.queue.front_mut()
        {
            let taken = room.min(*count);
            *count -= taken;
            *self.waits.entry(self.second - *came).or_default() += taken;
            (room, served) = (room - taken, served + taken);
            if *count == 0 {
                self.queue.pop_front();
            }
        }
        if served > 0 {
            self.waiting -= served;
            let slots = served.div_ceil(turns);
            self.busy += slots;
            *self.ends.entry(self.second + lasts).or_default() += slots;
        }
    }

    fn resize(&mut self, wanted: u32) {
        if wanted != self.size {
            let up = wanted > self.size;
            let back = |(at, was_up): (u64, bool)| was_up != up && self.second - at < FLAP;
            self.told.changes += 1;
            self.told.flaps += u32::from(self.last_change.is_some_and(back));
            self.last_change = Some((self.second, up));
            self.size = wanted;
            self.told.most = self.told.most.max(wanted);
        }
        let have = |world: &Self| u64::from(world.ready) + world.starting.len() as u64;
        let ready_at = self.second + self.instance.starts.as_secs().max(1);
        while have(self) < u64::from(self.size) {
            self.starting.push_back(ready_at);
        }
        // Those that have not come yet go first, then idle ones; nobody busy.
        while have(self) > u64::from(self.size) {
            let needed = self.busy.div_ceil(u64::from(self.instance.slots.max(1)));
            if self.starting.pop_back().is_none() {
                if u64::from(self.ready) <= needed {
                    break;
                }
                self.ready -= 1;
            }
        }
    }

    fn told(mut self) -> Forecast {
        self.told.tasks = self.waits.values().sum();
        let mut seen = 0;
        for (wait, count) in &self.waits {
            let wait = Duration::from_secs(*wait);
            self.told.waited += wait.saturating_mul(u32::try_from(*count).unwrap_or(u32::MAX));
            self.told.wait_most = wait;
            if seen * 20 < self.told.tasks * 19 {
                self.told.wait_p95 = wait;
            }
            seen += count;
        }
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: Instance = Instance { slots: 4, starts: Duration::from_secs(5) };

    fn hours(count: u32, arrived: u64) -> Vec<Demand> {
        let at = |hour: u32| Wall(i64::from(hour) * 3_600_000);
        (0..count).map(|hour| Demand { at: at(hour), seconds: 3_600, arrived, each: SECOND }).collect()
    }

    #[test]
    fn steady_work_on_a_fixed_pool_costs_what_it_must_and_nobody_waits() {
        let told = forecast_with(&hours(2, 7_200), INSTANCE, 2, |_, _, _| 2);
        assert_eq!((told.tasks, told.worker_seconds), (14_400, 2 * 7_200));
        assert_eq!((told.wait_most, told.changes, told.most), (Duration::ZERO, 0, 2));
    }

    #[test]
    fn too_few_workers_make_the_work_wait() {
        let told = forecast_with(&hours(1, 18_000), INSTANCE, 1, |_, _, _| 1);
        assert_eq!(told.tasks, 18_000, "all of it is served in the end");
        assert!(told.wait_p95 > Duration::from_secs(800), "{told:?}");
    }

    #[test]
    fn a_larger_delay_costs_more_and_flaps_less() {
        let demand: Vec<Demand> = (0u32..120)
            .map(|turn| Demand {
                at: Wall(i64::from(turn) * 60_000),
                seconds: 60,
                arrived: if turn % 2 == 0 { 1_200 } else { 0 },
                each: SECOND,
            })
            .collect();
        let with = |delay| {
            let scaling =
                Scaling { min: 1, max: 8, downscale_delay: Duration::from_secs(delay), ..Scaling::default() };
            forecast(&demand, INSTANCE, &scaling)
        };
        let (quick, slow) = (with(5), with(300));
        assert!(quick.flaps > 50 && slow.flaps <= 2, "{quick:?} {slow:?}");
        assert!(quick.worker_seconds < slow.worker_seconds, "{quick:?} {slow:?}");
        assert!(quick.waited > slow.waited, "{quick:?} {slow:?}");
    }
}
