//! The simulator's own proof: bugs are planted one at a time, and each must be caught.

use std::sync::Mutex;

use rollcall::fleet::{Planted, plant};

use super::runs::{on_all_cores, outcome};
use super::world::World;

/// Seeds that are tried at most for each bug.
const SEEDS: u64 = 140;
/// Events that the core handles in each.
const STEPS: u64 = 2_500;

/// Where a bug is planted.
#[derive(Debug, Clone, Copy)]
enum Bug {
    /// In the core.
    Core(Planted),
    /// In the simulated journal: it confirms what it has only begun to write.
    JournalConfirmsEarly,
}

/// Every bug, the seed to begin with (it caught the bug when this was written), and words of what is
/// broken by it.
const BUGS: [(Bug, u64, &str); 31] = [
    (Bug::Core(Planted::SessionTurnIgnored), 1, ""),
    (Bug::Core(Planted::SessionOutlivesProcess), 1, ""),
    (Bug::Core(Planted::SessionForgottenAtRestart), 1, "begun anew"),
    (Bug::Core(Planted::RetryBudgetIgnored), 17, "G10"),
    (Bug::Core(Planted::PauseNotForgiven), 110, "I4"),
    (Bug::Core(Planted::StaleAttemptResumed), 5, "reconnect"),
    (Bug::Core(Planted::SlotFreeAtCancel), 3, "I7"),
    (Bug::Core(Planted::StaleResultRecorded), 30, ""),
    (Bug::Core(Planted::AcceptedBeforeCommit), 1, "I1"),
    (Bug::Core(Planted::AckBeforeCommit), 1, "acknowledged before it is durable"),
    (Bug::Core(Planted::ResultDroppedBeforeCommit), 5, "dropped before it is durable"),
    (Bug::Core(Planted::LeaseByWallClock), 13, "I4"),
    (Bug::Core(Planted::KeyedBeforeCommit), 1, ""),
    (Bug::Core(Planted::TakenKeyIgnored), 6, ""),
    (Bug::Core(Planted::LeaseEndsWithSocket), 1, "I4"),
    (Bug::Core(Planted::HintLost), 45, "I4"),
    (Bug::Core(Planted::EpochsReused), 6, "I3"),
    (Bug::Core(Planted::OlderVersionRecovered), 6, ""),
    (Bug::Core(Planted::UnsafeRepeated), 4, "I11"),
    (Bug::Core(Planted::AttemptsUnbounded), 1, "I6"),
    (Bug::Core(Planted::FairnessKeyForgotten), 1, "waits although a worker is free"),
    (Bug::Core(Planted::RemovalKillsWork), 5, "I4"),
    (Bug::Core(Planted::RosterNotAwaited), 1, "before it was durably on the roster"),
    (Bug::Core(Planted::StoreFailureIgnored), 10, "I12"),
    (Bug::Core(Planted::CanaryIgnored), 1, "I15"),
    (Bug::Core(Planted::CallersErrorsEject), 1, "I15"),
    (Bug::Core(Planted::EjectsWholePools), 1, "I15"),
    (Bug::Core(Planted::NeverFallsBack), 1, "prefers for ever"),
    (Bug::Core(Planted::PreferenceIgnored), 1, "I16"),
    (Bug::Core(Planted::EjectedForEver), 1, "ejected for ever"),
    (Bug::JournalConfirmsEarly, 10, "promise"),
];

/// Runs a seed with a bug, or without one.
fn run(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(seed);
    match bug {
        Some(Bug::Core(bug)) => plant(Some(bug)),
        Some(Bug::JournalConfirmsEarly) => world.disk.confirms_early = true,
        None => {}
    }
    let outcome = outcome(&mut world, STEPS);
    plant(None);
    outcome
}

/// Looks for a seed that catches a bug by what is expected; what is wrong with the proof, if
/// something is.
fn prove(bug: Bug, first: u64, broken: &str) -> Option<String> {
    let mut otherwise = String::new();
    for seed in (first..first + SEEDS).map(|seed| (seed - 1) % SEEDS + 1) {
        let Err(problem) = run(seed, Some(bug)) else { continue };
        if problem.contains(broken) {
            eprintln!("seed {seed:>2} catches {bug:?}: {problem:.160}");
            let clean = run(seed, None);
            return clean.err().map(|problem| format!("seed {seed} fails without {bug:?}, too: {problem}"));
        }
        otherwise = format!("; seed {seed} has only {problem}");
    }
    Some(format!("{bug:?} breaks no {broken:?} in {SEEDS} seeds{otherwise}"))
}

#[test]
fn every_planted_bug_is_caught_and_the_same_seed_without_it_is_clean() {
    let failures = Mutex::new(Vec::new());
    on_all_cores(&BUGS, |(bug, first, broken)| {
        let failure = prove(*bug, *first, broken);
        failures.lock().expect("no thread panics here").extend(failure);
    });
    let failures = failures.into_inner().expect("no thread panics here");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
