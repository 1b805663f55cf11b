//! The days.

use super::*;

fn pool(min: u32, max: u32) -> Scaling {
    Scaling { min, max, ..Scaling::default() }
}

#[test]
fn a_pool_wakes_from_zero_within_a_look_and_goes_back_to_it() {
    let mut day = Day::new(pool(0, 8));
    day.until(secs(60));
    assert_eq!((day.running(), day.desired()), (0, 0));
    day.submit();
    day.until(secs(61));
    assert_eq!((day.running(), day.desired()), (1, 1), "it was asked for and is on its way");
    day.until(secs(70));
    day.all_done();
    assert!(day.waits[0] < Duration::from_millis(2_500), "{:?}", day.waits[0]);
    day.until(secs(60 + 15 * 60 + 20));
    assert_eq!((day.running(), day.desired()), (0, 0));
}

#[test]
fn bursts_are_served_and_the_pool_shrinks_after_the_last() {
    let mut day = Day::new(pool(1, 8));
    day.until(secs(30));
    for _ in 0..24 {
        for _ in 0..200 {
            day.submit();
        }
        let hour = day.now.mono.0 + secs(3_600);
        day.until(hour);
    }
    day.all_done();
    assert_eq!(day.desired(), 1);
    // Each burst is one way up and one way down.
    assert!(day.sizes.len() <= 24 * 4, "{:?}", day.sizes);
    assert!(day.sizes.iter().any(|(_, size)| *size == 8));
}

#[test]
fn a_saw_of_load_does_not_shake_the_pool() {
    let mut day = Day::new(pool(1, 8));
    day.load(1_800, |second| if second / 60 % 2 == 0 { 20.0 } else { 0.0 });
    day.all_done();
    let up = day.sizes.windows(2).filter(|pair| pair[1].1 > pair[0].1).count();
    let down = day.sizes.windows(2).filter(|pair| pair[1].1 < pair[0].1).count();
    // It may find once that it has one too many; it never follows the teeth, of which there are fifteen.
    assert!(down <= 1 && up <= 4, "{:?}", day.sizes);
}

#[test]
fn a_slow_ramp_is_followed_up_and_down_without_a_wobble() {
    let mut day = Day::new(pool(1, 10));
    let hours = 3_600.0;
    day.load(3_600, |second| {
        let at = f64::from(u32::try_from(second).expect("a day")) / hours;
        24.0 * (1.0 - (2.0 * at - 1.0).abs())
    });
    day.until(day.now.mono.0 + secs(900));
    day.all_done();
    let sizes: Vec<u32> = day.sizes.iter().map(|(_, size)| *size).collect();
    let top = sizes.iter().position(|size| size == sizes.iter().max().expect("some")).expect("there");
    assert!(sizes[..=top].is_sorted(), "{sizes:?}");
    assert!(sizes[top..].is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let mut waits = day.waits.clone();
    waits.sort();
    assert!(waits[waits.len() * 99 / 100] < Duration::from_secs(1), "{:?}", waits[waits.len() * 99 / 100]);
}

#[test]
fn a_failing_provider_is_called_ever_more_rarely_and_the_size_is_kept() {
    let mut day = Day::new(pool(0, 8));
    day.answers = std::iter::repeat_n(Answer::Fails, 5).collect();
    day.submit();
    day.until(secs(2));
    assert_eq!(day.calls, 1);
    for _ in 0..100 {
        day.submit();
    }
    day.until(secs(4));
    let held = day.decisions.last().expect("it is looked at");
    assert_eq!((held.to, held.reason), (1, Reason::ProviderError), "the last size is held");
    day.until(secs(400));
    assert_eq!(day.calls, 7, "five that failed, the one that did not, and the one for all of the work");
    day.all_done();
}

#[test]
fn a_hook_that_hangs_is_called_once_at_a_time() {
    let mut day = Day::new(pool(0, 8));
    day.answers.push_back(Answer::Hangs(Duration::from_secs(30)));
    for _ in 0..50 {
        day.submit();
        let next = day.now.mono.0 + SECOND / 2;
        day.until(next);
    }
    assert_eq!(day.calls, 1);
    day.until(secs(120));
    day.all_done();
}

#[test]
fn a_provider_that_lies_is_found_out_by_the_workers_that_do_not_come() {
    let mut day = Day::new(pool(0, 8));
    day.answers.push_back(Answer::Lies);
    day.submit();
    day.until(secs(100));
    assert!(day.fleet.pools()[0].missing.is_empty(), "it is given its time");
    day.starts = Duration::from_secs(2);
    day.until(secs(125));
    let view = &day.fleet.pools()[0];
    assert_eq!(view.missing, ["p-1".into()]);
    assert_eq!(view.provider.failures, 1);
    day.until(secs(200));
    day.all_done();
    assert!(day.fleet.pools()[0].missing.is_empty());
}

#[test]
fn a_flapping_hook_does_not_shake_the_pool() {
    let mut day = Day::new(pool(1, 8));
    day.answers =
        (0..40).map(|at| if at % 2 == 0 { Answer::Fails } else { Answer::Hangs(TASK * 5) }).collect();
    day.load(1_200, |second| if second % 10 < 5 { 30.0 } else { 0.0 });
    let reversals = day.sizes.windows(3).filter(|w| (w[0].1 < w[1].1) != (w[1].1 < w[2].1)).count();
    assert!(reversals <= 4, "{:?}", day.sizes);
}

#[test]
fn scheduled_minimums_come_and_go() {
    let office = ScheduledMin { days: 0b001_1111, from: 8 * 60, to: 18 * 60, min: 3 };
    let mut day = Day::new(Scaling { schedule: vec![office], ..pool(0, 8) });
    // The day begins on a Monday at midnight.
    day.until(secs(8 * 3_600 - 60));
    assert_eq!(day.desired(), 0);
    day.until(secs(8 * 3_600 + 30));
    assert_eq!((day.desired(), day.running()), (3, 3));
    day.until(secs(18 * 3_600 + 1_200));
    assert_eq!(day.desired(), 0);
    assert!(day.decisions.iter().any(|it| it.reason == Reason::Schedule && it.to == 3));
}

#[test]
fn a_pool_of_slots_that_are_never_all_idle_shrinks_all_the_same() {
    let mut day = Day::new(pool(1, 8));
    day.load(120, |_| 20.0);
    assert!(day.running() >= 7, "{}", day.running());
    day.load(900, |_| 5.0);
    assert_eq!(day.running(), 2, "five tasks at once fill two instances to three quarters");
    day.all_done();
}

#[test]
fn a_changed_template_replaces_instances_one_at_a_time() {
    let mut day = Day::new(pool(3, 6));
    day.until(secs(30));
    let before: BTreeSet<WorkerName> = day.machines.keys().cloned().collect();
    assert_eq!(before.len(), 3);
    day.edit(|spec| {
        spec.template.launch.as_mut().expect("it is launched").command.push("--new".to_owned());
    });
    let mut most = 0;
    for second in 31..90 {
        day.submit();
        day.until(secs(second));
        most = most.max(day.running());
        let ready = day.fleet.pools()[0].ready;
        assert!(ready >= 3, "only {ready} are ready at {second} s");
    }
    assert!(day.machines.keys().all(|name| !before.contains(name)) || most == 4, "{:?}", day.machines.keys());
    assert_eq!(day.fleet.pools()[0].outdated, 0);
    assert!(most <= 4, "one at a time, not {most}");
    day.until(secs(95));
    day.all_done();
    assert_eq!(day.running(), 3);
}

#[test]
fn what_changes_in_place_replaces_nobody() {
    let mut day = Day::new(pool(3, 6));
    day.until(secs(30));
    let conns: Vec<ConnId> = day.conns.keys().copied().collect();
    day.edit(|spec| spec.template.slots = Some(2));
    day.until(secs(60));
    assert_eq!(day.conns.keys().copied().collect::<Vec<_>>(), conns);
    assert!(day.fleet.workers().iter().all(|view| view.slots_total == 2));
}

#[test]
fn a_renamed_pool_keeps_its_instances() {
    let mut day = Day::new(pool(3, 6));
    day.until(secs(30));
    let conns: Vec<ConnId> = day.conns.keys().copied().collect();
    let mut spec = PoolSpec::clone(&day.topology.pools[&PoolName::from("p")]);
    (spec.formerly, spec.name) = (Some("p".into()), "q".into());
    day.topology.pools = BTreeMap::from([("q".into(), Arc::new(spec))]);
    day.topology.generation.0 += 1;
    day.tell(Event::Desired(Arc::new(day.topology.clone())));
    assert_eq!(day.conns.keys().copied().collect::<Vec<_>>(), conns);
    assert!(day.fleet.workers().iter().all(|view| view.pool == Some("q".into())));
    assert_eq!(day.fleet.pools()[0].ready, 3);
}

#[test]
fn a_removed_pool_drains() {
    let mut day = Day::new(pool(3, 6));
    day.until(secs(30));
    for _ in 0..8 {
        day.submit();
    }
    day.topology.pools.clear();
    day.topology.generation.0 += 1;
    day.tell(Event::Desired(Arc::new(day.topology.clone())));
    day.until(secs(40));
    day.all_done();
    assert_eq!(day.running(), 0);
    assert!(day.fleet.pools().is_empty());
}

#[test]
fn a_person_pauses_scales_and_resumes() {
    let mut day = Day::new(pool(1, 8));
    day.until(secs(30));
    day.tell(Event::Pool(PoolWord::Scale("p".into(), 5), Some("ann".into()), RequestId(1_000_000)));
    day.until(secs(60));
    assert_eq!((day.desired(), day.running()), (5, 5));
    day.tell(Event::Pool(PoolWord::Pause("p".into()), Some("ann".into()), RequestId(1_000_001)));
    day.load(600, |_| 30.0);
    assert_eq!(day.desired(), 5, "it is paused");
    let view = &day.fleet.pools()[0];
    assert_eq!((view.paused, view.paused_by.as_deref()), (Some("operator"), Some("ann")));
    day.tell(Event::Pool(PoolWord::Resume("p".into()), None, RequestId(1_000_002)));
    day.until(secs(700));
    assert_eq!(day.desired(), 8);
    day.until(secs(1_500));
    day.all_done();
}
