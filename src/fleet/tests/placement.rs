//! Where tasks would rather run: near first, elsewhere after a wait.

use super::*;

/// One worker in each region.
fn regions() -> Stage {
    let labelled = |name: &str, region: &str| WorkerSpec {
        labels: [("region".into(), region.into())].into_iter().collect(),
        ..spec(name, 1)
    };
    Stage::with(&[labelled("ann", "north"), labelled("bob", "south")])
}

impl Stage {
    fn submit_preferring(&mut self, region: &str, fallback_after: Option<Duration>) -> TaskId {
        let mut submission = self.submission("echo");
        let preferred = [("region".into(), region.into())].into_iter().collect();
        let placement = Some(Placement { preferred, fallback_after });
        submission.spec = Arc::new(TaskSpec { placement, ..TaskSpec::new("echo", "{}") });
        let id = submission.id;
        self.tell(Event::Submit(Box::new(submission)));
        id
    }

    fn region_of(&self, task: TaskId) -> Option<&'static str> {
        self.handed(task).map(|(conn, _)| if conn == ConnId(1) { "north" } else { "south" })
    }
}

const WAIT: Option<Duration> = Some(Duration::from_secs(10));

#[test]
fn a_preferred_worker_goes_first_and_any_other_will_do_when_none_is_free() {
    let mut stage = regions();
    for region in ["south", "north"] {
        let task = stage.submit_preferring(region, None);
        assert_eq!(stage.region_of(task), Some(region));
        let (conn, epoch) = stage.accept(task);
        stage.succeed(task, conn, epoch);
    }
    let [first, second] = [0, 1].map(|_| stage.submit_preferring("north", None));
    assert_eq!((stage.region_of(first), stage.region_of(second)), (Some("north"), Some("south")));
}

#[test]
fn a_task_waits_for_its_region_and_then_falls_back_to_another() {
    let mut stage = regions();
    let busy = stage.submit_preferring("north", WAIT);
    let task = stage.submit_preferring("north", WAIT);
    stage.advance(Duration::from_secs(4));
    assert_eq!((stage.region_of(busy), stage.region_of(task)), (Some("north"), None));
    let why = stage.fleet.explain(task).expect("it waits");
    assert_eq!(why.wait, Wait::Preferred);
    assert!(
        why.summary.starts_with("until 00:00:10 UTC it waits for a worker with region=north"),
        "{}",
        why.summary
    );
    stage.advance(Duration::from_secs(6));
    assert_eq!(stage.region_of(task), Some("south"));
}

#[test]
fn a_region_that_is_lost_is_left_after_the_wait_and_used_again_when_it_is_back() {
    let mut stage = regions();
    stage.tell(Event::LinkDown(ConnId(1), Why::Io));
    let task = stage.submit_preferring("north", WAIT);
    assert_eq!(stage.fleet.stats(stage.now).capabilities["echo"].unroutable, 0, "it will take any soon");
    stage.advance(Duration::from_secs(10));
    assert_eq!(stage.region_of(task), Some("south"));
    stage.connect("ann", 1, "first", Vec::new());
    let task = stage.submit_preferring("north", WAIT);
    assert_eq!(stage.region_of(task), Some("north"));
}

#[test]
fn a_preferred_worker_that_is_free_in_time_gets_the_task() {
    let mut stage = regions();
    let busy = stage.submit_preferring("north", WAIT);
    let (conn, epoch) = stage.accept(busy);
    let task = stage.submit_preferring("north", WAIT);
    stage.advance(Duration::from_secs(9));
    stage.succeed(busy, conn, epoch);
    assert_eq!(stage.region_of(task), Some("north"));
    stage.advance(Duration::from_secs(5));
    assert_eq!(stage.handed(task).map(|(conn, _)| conn), Some(ConnId(1)), "once");
}

#[test]
fn a_task_that_falls_back_keeps_its_place_in_the_queue() {
    let mut stage = regions();
    let busy: Vec<TaskId> = ["north", "south"].map(|region| stage.submit_preferring(region, WAIT)).to_vec();
    let early = stage.submit_preferring("north", WAIT);
    let late = stage.submit(Keep::Passing);
    stage.advance(Duration::from_secs(10));
    let (conn, epoch) = stage.accept(busy[1]);
    stage.succeed(busy[1], conn, epoch);
    assert_eq!((stage.region_of(early), stage.region_of(late)), (Some("south"), None));
}
