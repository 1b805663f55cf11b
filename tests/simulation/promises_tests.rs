//! Histories that break one promise each: the second model must see every one of them.

use super::super::histories::*;
use super::*;

fn verdict(model: &mut Promises, effect: &Effect) -> String {
    match model.saw(effect) {
        Ok(()) => String::new(),
        Err(problem) => problem,
    }
}

/// A model that has seen a kept task accepted and handed over to a worker of one slot.
fn running() -> Promises {
    let mut model = Promises::default();
    model.told(&submit(1, Keep::Kept));
    model.saw(&record(1, 1, TaskState::Queued)).expect("a record breaks nothing");
    model.told(&durable(1));
    model.saw(&accepted(1)).expect("it is durable");
    model.told(&link_up(1, "ann#1", 1, &[]));
    model.saw(&execute(1, 1, 100)).expect("the worker is free");
    model
}

#[test]
fn an_honest_history_breaks_nothing() {
    let mut model = running();
    model.told(&result(1, 1, 100));
    model.saw(&record(2, 2, TaskState::Succeeded)).expect("a record breaks nothing");
    model.told(&durable(2));
    assert_eq!(verdict(&mut model, &finish(1, TaskState::Succeeded)), "");
    assert_eq!(model.settled(), Ok(()));
}

#[test]
fn an_id_given_out_before_it_is_durable_is_seen() {
    let mut model = Promises::default();
    model.told(&submit(1, Keep::Kept));
    model.saw(&record(1, 1, TaskState::Queued)).expect("a record breaks nothing");
    assert!(verdict(&mut model, &accepted(1)).contains("before it is kept"));
}

#[test]
fn a_task_that_vanishes_is_seen() {
    assert!(running().settled().is_err_and(|problem| problem.contains("never ended")));
}

#[test]
#[should_panic(expected = "is not there after a restart")]
fn a_task_that_a_restart_forgets_is_seen() {
    let mut model = running();
    model.dies(&BTreeMap::new());
    model.boots(&start(Vec::new()));
}

#[test]
fn a_second_end_is_seen() {
    let mut model = running();
    model.told(&result(1, 1, 100));
    model.saw(&record(2, 2, TaskState::Succeeded)).expect("a record breaks nothing");
    model.told(&durable(2));
    model.saw(&finish(1, TaskState::Succeeded)).expect("the first end is right");
    assert!(verdict(&mut model, &finish(1, TaskState::Succeeded)).contains("ended Succeeded and ended"));
}

#[test]
fn an_end_before_the_disk_has_it_is_seen() {
    let mut model = running();
    model.told(&result(1, 1, 100));
    assert!(verdict(&mut model, &finish(1, TaskState::Succeeded)).contains("before the disk had it"));
}

#[test]
fn a_result_of_an_older_attempt_is_seen() {
    let mut model = running();
    model.told(&link_up(2, "bob#1", 1, &[]));
    model.saw(&execute(2, 1, 101)).expect("the epoch rises");
    model.told(&result(1, 1, 100));
    model.saw(&record(2, 2, TaskState::Succeeded)).expect("a record breaks nothing");
    model.told(&durable(2));
    assert!(verdict(&mut model, &finish(1, TaskState::Succeeded)).contains("never returned"));
}

#[test]
fn an_epoch_that_does_not_rise_is_seen() {
    let mut model = running();
    model.told(&link_up(2, "bob#1", 1, &[]));
    assert!(verdict(&mut model, &execute(2, 1, 100)).contains("do not rise"));
}

#[test]
fn a_key_that_makes_two_tasks_is_seen() {
    let mut model = Promises::default();
    let keep = Keep::ByKey(KeyHash { key: 7, body: 7 });
    for task in [1, 2] {
        model.told(&submit(task, keep));
        model.saw(&record(task, task, TaskState::Queued)).expect("a record breaks nothing");
        model.told(&durable(u64::from(u32::try_from(task).expect("small"))));
    }
    assert_eq!(verdict(&mut model, &accepted(1)), "");
    assert!(verdict(&mut model, &accepted(2)).contains("one key made"));
}

#[test]
fn a_worker_given_more_than_its_slots_is_seen() {
    let mut model = running();
    model.told(&submit(2, Keep::Passing));
    assert!(verdict(&mut model, &execute(1, 2, 101)).contains("has 1 slots and the tasks"));
}

#[test]
fn a_worker_given_what_it_cannot_do_is_seen() {
    let mut model = running();
    model.told(&result(1, 1, 100));
    model.told(&submit(2, Keep::Passing));
    let other = execute_of(1, 2, 101, "figma.get");
    assert!(verdict(&mut model, &other).contains("cannot do"));
}
