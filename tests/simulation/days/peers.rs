//! The same days under our rule and under those of others, as their documentation gives them: what
//! each costs, how long work waits, and how often the size turns back.

use std::fmt::Write as _;

use rollcall::fleet::autoscaler::{Demand, Forecast, Inputs, Instance, forecast, forecast_with};

use super::*;

const INSTANCE: Instance = Instance { slots: 4, starts: Duration::from_secs(8) };
const MOST: u32 = 12;

/// Slots that are asked for: waiting and running tasks.
fn asked(inputs: &Inputs) -> f64 {
    let tasks = inputs.waiting + inputs.running;
    f64::from(u32::try_from(tasks).unwrap_or(u32::MAX))
}

fn bounded(wish: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within 0 and 12")]
    let wish = wish.ceil().clamp(0.0, f64::from(MOST)) as u32;
    wish
}

/// Dask's `Adaptive`: occupancy over a target duration of 5 s, down after three looks alike.
fn dask() -> impl FnMut(Now, Inputs, u32) -> u32 {
    let mut lower = 0;
    move |_, inputs, size| {
        let seconds = asked(&inputs) * TASK.as_secs_f64();
        let wish = bounded(seconds / 5.0 / 4.0).max(u32::from(seconds > 0.0));
        if wish >= size {
            lower = 0;
            return wish;
        }
        lower += 1;
        if lower < 3 {
            return size;
        }
        lower = 0;
        wish
    }
}

/// Ray Serve: ongoing over target_ongoing_requests, up after 30 s, down after 600 s.
fn ray() -> impl FnMut(Now, Inputs, u32) -> u32 {
    let (mut up, mut down) = (0, 0);
    move |_, inputs, size| {
        let wish = bounded(asked(&inputs) / 3.0);
        // From zero it does not wait.
        if size == 0 {
            return wish.min(1);
        }
        (up, down) = (if wish > size { up + 1 } else { 0 }, if wish < size { down + 1 } else { 0 });
        if up > 30 || down > 600 {
            (up, down) = (0, 0);
            return wish;
        }
        size
    }
}

/// KEDA with the HPA: polled every 30 s from zero, a sync every 15 s, a tolerance of a tenth, at most
/// twice as many (or four more) in a step, the most of the last 300 s on the way down, zero after 300 s.
fn keda() -> impl FnMut(Now, Inputs, u32) -> u32 {
    let (mut second, mut recent, mut active) = (0u64, VecDeque::new(), 0u64);
    move |_, inputs, size| {
        second += 1;
        if asked(&inputs) > 0.0 {
            active = second;
        }
        if size == 0 {
            return u32::from(asked(&inputs) > 0.0 && second.is_multiple_of(30));
        }
        if !second.is_multiple_of(15) {
            return size;
        }
        let ratio = asked(&inputs) / (3.0 * f64::from(size));
        let wish = if (ratio - 1.0).abs() <= 0.1 { size } else { bounded(f64::from(size) * ratio).max(1) };
        recent.push_back((second, wish));
        while recent.front().is_some_and(|(at, _)| second - at > 300) {
            recent.pop_front();
        }
        if wish > size {
            return wish.min((size * 2).max(size + 4));
        }
        if second - active > 300 {
            return 0;
        }
        recent.iter().map(|(_, wish)| *wish).max().unwrap_or(wish).min(size)
    }
}

/// Nomad's autoscaler with `target-value`: every 10 s, with a cooldown of 5 minutes after a change.
fn nomad() -> impl FnMut(Now, Inputs, u32) -> u32 {
    let (mut second, mut changed) = (0u64, None);
    move |_, inputs, size| {
        second += 1;
        if !second.is_multiple_of(10) || changed.is_some_and(|at| second - at < 300) {
            return size;
        }
        let wish = bounded(asked(&inputs) / 3.0);
        if wish != size {
            changed = Some(second);
        }
        wish
    }
}

fn day(rate: impl Fn(u32) -> u64) -> Vec<Demand> {
    let span = |minute: u32| Demand {
        at: Wall(i64::from(minute) * 60_000),
        seconds: 60,
        arrived: rate(minute),
        each: TASK,
    };
    (0..24 * 60).map(span).collect()
}

/// Days of different kinds, with the tasks of each minute.
fn days() -> [(&'static str, Vec<Demand>); 4] {
    [
        ("bursts", day(|minute| if minute % 60 == 7 { 1_200 } else { 0 })),
        ("sawtooth", day(|minute| if minute / 4 % 2 == 0 { 1_500 } else { 60 })),
        ("office", day(|minute| if (480..1_080).contains(&minute) { 1_200 } else { 30 })),
        ("ramp", day(|minute| u64::from(minute.min(1_440 - minute)) * 2)),
    ]
}

fn rules(demand: &[Demand]) -> Vec<(&'static str, Forecast)> {
    let ours = Scaling { min: 0, max: MOST, ..Scaling::default() };
    vec![
        ("rollcall", forecast(demand, INSTANCE, &ours)),
        ("dask", forecast_with(demand, INSTANCE, 0, dask())),
        ("ray serve", forecast_with(demand, INSTANCE, 0, ray())),
        ("keda/hpa", forecast_with(demand, INSTANCE, 0, keda())),
        ("nomad", forecast_with(demand, INSTANCE, 0, nomad())),
    ]
}

#[test]
fn our_rule_keeps_work_waiting_no_longer_than_those_of_others_and_turns_back_no_more_often() {
    let mut table =
        String::from("day       rule       worker-hours  wait mean   p95    max  changes  flaps\n");
    for (name, demand) in days() {
        let told = rules(&demand);
        for (rule, it) in &told {
            let mean = it.waited.as_secs_f64() / f64::from(u32::try_from(it.tasks).expect("a day's work"));
            let _infallible = writeln!(
                table,
                "{name:<9} {rule:<10} {:>12.1} {mean:>9.2}s {:>5}s {:>5}s {:>8} {:>6}",
                f64::from(u32::try_from(it.worker_seconds).expect("a day")) / 3_600.0,
                it.wait_p95.as_secs(),
                it.wait_most.as_secs(),
                it.changes,
                it.flaps
            );
        }
        let (_, ours) = told[0];
        let all: u64 = demand.iter().map(|span| span.arrived).sum();
        for (rule, it) in &told {
            assert_eq!(it.tasks, all, "{rule} leaves work undone on the day of {name}\n{table}");
        }
        for (rule, it) in &told[1..] {
            // Dask asks for the most at once, whatever the work; that may be a little quicker.
            assert!(ours.waited <= it.waited * 6 / 5, "{rule} on the day of {name}\n{table}");
            assert!(ours.flaps <= it.flaps, "{rule} on the day of {name}\n{table}");
        }
    }
    eprintln!("{table}");
}
