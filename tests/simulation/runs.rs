//! Which seeds run, how far, and what a failure leaves behind.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rollcall::fleet::replay::{Line, replay};
use rollcall::fleet::{Effect, Fleet};

use super::world::World;
use super::{disk, faults, pools, reconnects, server};

/// Seeds of a normal test run, and the events that the core handles in each. More than a million
/// in all, and no run is so long that its failure takes long to replay.
pub(crate) const SEEDS: u64 = 150;
/// See [`SEEDS`].
const STEPS: u64 = 7_500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Runs a world to its end; what is wrong with it, if something is.
pub(crate) fn outcome(world: &mut World, steps: u64) -> Result<(), String> {
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(steps)));
    ended.map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
    })
}

/// Runs one seed; on a failure says how to see it again and leaves its recording.
fn run(seed: u64, steps: u64) -> Result<World, String> {
    let mut world = World::new(seed);
    if std::env::var_os("ROLLCALL_SIM_SEED").is_some() {
        let words = std::env::var("ROLLCALL_SIM_TRACE").unwrap_or_default();
        world.trace = words.split_whitespace().map(str::to_owned).collect();
    }
    let Err(problem) = outcome(&mut world, steps) else { return Ok(world) };
    let file = match world.recorder.write(seed) {
        Ok(Some(path)) => format!("the core's inputs: {}", path.display()),
        Ok(None) => "the core had not begun".to_owned(),
        Err(problem) => format!("its recording could not be written: {problem}"),
    };
    Err(format!(
        "seed {seed} failed at step {} ({:?}): {problem}\n  again: make sim SEED={seed} STEPS={steps}\n  {file}",
        world.steps,
        world.age()
    ))
}

/// The name of threads whose panics are told in the end, with all that is needed to replay them.
const WORLD: &str = "world";

/// A broken promise is a panic inside a world; its backtrace would only show the checker.
fn say_nothing_of_worlds() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let quiet = std::env::var_os("ROLLCALL_SIM_SEED").is_none();
            if !quiet || std::thread::current().name() != Some(WORLD) {
                usual(panic);
            }
        }));
    });
}

/// Does something with each of these on as many threads as there are cores: each world is its own.
pub(crate) fn on_all_cores<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    say_nothing_of_worlds();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let world = std::thread::Builder::new().name(WORLD.to_owned());
            let work = || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            };
            world.spawn_scoped(scope, work).expect("a thread can be made");
        }
    });
}

/// What many runs did together.
#[derive(Default)]
struct Total {
    steps: u64,
    met: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

fn run_all(seeds: &[u64], steps: u64) -> Total {
    let total = Mutex::new(Total::default());
    on_all_cores(seeds, |seed| {
        let ended = run(*seed, steps);
        let mut total = total.lock().expect("no thread panics here");
        match ended {
            Ok(world) => {
                total.steps += world.steps;
                for (what, times) in world.met {
                    *total.met.entry(what).or_default() += times;
                }
            }
            Err(failure) => total.failures.push(failure),
        }
    });
    total.into_inner().expect("no thread panics here")
}

/// What a normal test run counts, and whether it must have met it, or else proves nothing about it.
fn must_happen() -> impl Iterator<Item = (&'static str, bool)> {
    let faults = [
        server::CRASHED,
        server::CRASHED_WITHIN,
        server::PAUSED,
        server::RETRY_HELD,
        faults::WALL_JUMPED,
        disk::FAILED,
        disk::UNCLEAR,
        disk::TAKEN,
        disk::LOST,
        disk::BEHIND,
        disk::READ_AGAIN,
        disk::UNREAD,
        disk::DAMAGED,
        pools::GREW,
        pools::SHRANK,
        pools::FAILED,
        pools::MISSING,
        pools::REPLACED,
    ];
    let rare = |what: &str| [pools::MISSING, pools::REPLACED].contains(&what);
    reconnects::LINES.into_iter().chain(faults).map(move |what| (what, !rare(what)))
}

#[test]
fn every_promise_holds_in_every_simulated_run() {
    let steps = number("ROLLCALL_SIM_STEPS").unwrap_or(STEPS);
    let seeds: Vec<u64> = match number("ROLLCALL_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("ROLLCALL_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let Total { steps: total, met, failures } = run_all(&seeds, steps);
    assert!(
        failures.is_empty(),
        "{} of {} seeds failed ({total} steps in the others):\n\n{}",
        failures.len(),
        seeds.len(),
        failures.join("\n\n")
    );
    assert!(total >= seeds.len() as u64 * steps, "{total} steps are fewer than were asked for");
    let whole = seeds.len() as u64 >= SEEDS && steps >= STEPS;
    for (what, needed) in must_happen() {
        let times = met.get(what).copied().unwrap_or(0);
        eprintln!("{times:>7} times: {what}");
        assert!(times > 0 || !needed || !whole, "in {total} steps it never happened that {what}");
    }
}

/// The same seed makes the same world: the same inputs reach the core at the same times.
#[test]
fn a_seed_is_a_run() {
    let inputs = |seed| {
        let mut world = World::new(seed);
        world.run(3_000);
        let digest = world.server.fleet.as_ref().map(Fleet::digest);
        let (_, inputs) = world.recorder.recording().expect("the core has begun");
        (digest, inputs.to_vec())
    };
    for seed in [3, 17] {
        assert!(inputs(seed) == inputs(seed), "seed {seed} ran differently the second time");
    }
}

/// A recording, also one that went through its file, makes the same decisions and the same state.
#[test]
fn a_recording_replays_to_the_same_digest_and_effects() {
    for seed in 1..=6 {
        let mut world = World::new(seed);
        world.run(2_500);
        let (start, inputs) = world.recorder.recording().expect("the core has begun");
        let text: Vec<String> = std::iter::once(Line::Start(Box::new(start.clone())))
            .chain(inputs.iter().cloned().map(Line::Input))
            .map(|line| serde_json::to_string(&line).expect("every input has a JSON form"))
            .collect();
        let mut lines = text.iter().map(|line| serde_json::from_str::<Line>(line).expect("it reads back"));
        let Some(Line::Start(read)) = lines.next() else { panic!("a recording begins with its start") };
        let read_inputs = lines.map(|line| match line {
            Line::Input(input) => input,
            Line::Start(_) => panic!("a recording has one start"),
        });
        assert_eq!(*read, *start);
        let (mut first, mut second): (Vec<Effect>, Vec<Effect>) = (Vec::new(), Vec::new());
        let one = replay(start, inputs.iter().cloned(), |_, _, effects| first.extend_from_slice(effects));
        let other = replay(&read, read_inputs, |_, _, effects| second.extend_from_slice(effects));
        assert!(first == second, "seed {seed}: the effects differ");
        assert_eq!(one.digest(), other.digest(), "seed {seed}");
        let original = world.server.fleet.as_ref().map(Fleet::digest);
        assert_eq!(Some(one.digest()), original, "seed {seed}: the replayed core is another one");
    }
}
