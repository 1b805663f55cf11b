//! The logs' rules, without a server.

use super::log::{MAX_BYTES, MAX_EVENTS};
use super::*;
use crate::fleet::*;

const CONN: ConnId = ConnId(7);
const EPOCH: Epoch = Epoch(1 << 32 | 1);

fn record(id: u128, state: TaskState) -> TaskRecord {
    TaskRecord::in_state(TaskId(id), TaskSpec::new("echo", "{}"), state, Wall(1_000))
}

fn state(state: TaskState) -> Happening {
    Happening::State { state, attempt: 1, worker: Some("ann".into()), reason: None }
}

fn hand_over(logs: &TaskLogs, id: u128) {
    logs.gate(TaskId(id), EPOCH, Door::Open(CONN));
    logs.publish(TaskId(id), state(TaskState::Assigned), Wall(1_001));
    logs.publish(TaskId(id), state(TaskState::Running), Wall(1_002));
}

fn say(logs: &TaskLogs, id: u128, text: &str) {
    logs.output(CONN, TaskId(id), EPOCH, OutputStream::Stdout, 0, text);
}

fn end(logs: &TaskLogs, id: u128) {
    logs.publish(TaskId(id), state(TaskState::Succeeded), Wall(1_003));
    logs.gate(TaskId(id), EPOCH, Door::Shut);
    logs.finish(TaskId(id), &record(id, TaskState::Succeeded));
}

/// Logs, and their bytes.
fn held(logs: &TaskLogs) -> (usize, usize) {
    let shelf = logs.shelf();
    (shelf.logs.len(), shelf.bytes)
}

/// What a watcher of a task that is on the shelf, or has ended, is told.
fn watched(logs: &Arc<TaskLogs>, record: &TaskRecord, last: Option<&str>) -> Subscription {
    logs.subscribe(record, last).unwrap_or_else(|| logs.look_back(record, None, last))
}

/// All that a watcher gets until the end, a word each.
async fn all(mut watch: Subscription) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(item) = watch.next().await {
        words.push(match item {
            Item::Event(TaskEvent { what: What::State(change), .. }) => change.state.as_str().to_owned(),
            Item::Event(TaskEvent { what: What::Output { data, .. }, .. }) => data.to_string(),
            Item::Event(TaskEvent { what: What::Progress { message, .. }, .. }) => {
                format!("progress {}", message.as_deref().unwrap_or_default())
            }
            Item::Event(TaskEvent { what: What::Artifact(artifact), .. }) => {
                format!("artifact {}", artifact.name)
            }
            Item::Reset(_) => "reset".to_owned(),
            Item::Gone => "gone".to_owned(),
        });
    }
    words
}

#[test]
fn a_task_that_nobody_watches_and_that_says_nothing_leaves_nothing_behind() {
    let logs = TaskLogs::new(Term(1));
    logs.publish(
        TaskId(1),
        Happening::State { state: TaskState::Queued, attempt: 0, worker: None, reason: None },
        Wall(1),
    );
    assert_eq!(held(&logs), (0, 0), "a waiting task needs no log");
    hand_over(&logs, 1);
    assert_eq!(held(&logs), (1, 0));
    end(&logs, 1);
    assert_eq!(held(&logs), (0, 0));
    assert!(logs.shelf().finished.is_empty());
}

#[tokio::test]
async fn a_watcher_sees_states_and_output_in_order_and_the_final_state_last() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    let watch = watched(&logs, &record(1, TaskState::Queued), None);
    hand_over(&logs, 1);
    say(&logs, 1, "hello");
    logs.progress(CONN, TaskId(1), EPOCH, Some(7.0), Some("half"));
    end(&logs, 1);
    let seen = all(watch).await;
    assert_eq!(seen, ["queued", "assigned", "running", "hello", "progress half", "succeeded"]);
}

#[tokio::test]
async fn a_watcher_who_comes_late_begins_with_the_current_state() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    hand_over(&logs, 1);
    let watch = watched(&logs, &record(1, TaskState::Running), None);
    say(&logs, 1, "hello");
    end(&logs, 1);
    assert_eq!(all(watch).await, ["running", "hello", "succeeded"]);
    let later = watched(&logs, &record(1, TaskState::Succeeded), None);
    assert_eq!(all(later).await, ["running", "hello", "succeeded"], "kept for a minute");
}

#[tokio::test]
async fn numbers_rise_by_one_and_a_watcher_goes_on_where_it_was() {
    let logs = Arc::new(TaskLogs::new(Term(3)));
    let mut watch = watched(&logs, &record(1, TaskState::Queued), None);
    hand_over(&logs, 1);
    say(&logs, 1, "a");
    let mut numbers = Vec::new();
    for _ in 0..4 {
        let Some(Item::Event(event)) = watch.next().await else { panic!("four events are there") };
        numbers.push(event.number);
    }
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let last = watch.event_id(numbers[2]);
    assert!(last.starts_with("3-"));
    end(&logs, 1);
    let again = watched(&logs, &record(1, TaskState::Succeeded), Some(&last));
    assert_eq!(all(again).await, ["a", "succeeded"]);
    let Some(Item::Event(end)) = watch.next().await else { panic!("the end is there") };
    assert!(watched(&logs, &record(1, TaskState::Succeeded), Some(&watch.event_id(end.number))).is_over());
}

#[tokio::test]
async fn an_id_that_cannot_be_continued_is_answered_by_one_reset() {
    let logs = Arc::new(TaskLogs::new(Term(3)));
    hand_over(&logs, 1);
    say(&logs, 1, "a");
    end(&logs, 1);
    for last in ["2-5", "3-1", "3-99999999999999", "nonsense", "", "3-", "-"] {
        let watch = watched(&logs, &record(1, TaskState::Succeeded), Some(last));
        assert_eq!(all(watch).await, ["reset", "running", "a", "succeeded"], "{last:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_is_reset_and_never_holds_up_the_writer() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    hand_over(&logs, 1);
    let mut watch = watched(&logs, &record(1, TaskState::Running), None);
    assert!(matches!(watch.next().await, Some(Item::Event(_))));
    for _ in 0..MAX_EVENTS + 5 {
        say(&logs, 1, "x");
    }
    assert!(matches!(watch.next().await, Some(Item::Reset(_))));
    for _ in 0..MAX_EVENTS {
        assert!(
            matches!(watch.next().await, Some(Item::Event(_))),
            "after the reset it goes on without a gap"
        );
    }
    end(&logs, 1);
    assert_eq!(all(watch).await, ["succeeded"]);
}

#[tokio::test]
async fn long_output_is_cut_at_characters_and_bounded_per_task_and_in_all() {
    let logs = Arc::new(TaskLogs::with_limit(Term(1), 400 << 10));
    for id in 1..=3 {
        hand_over(&logs, id);
        say(&logs, id, &"ä".repeat(MAX_BYTES));
        assert!(logs.bytes() <= 400 << 10, "{}", logs.bytes());
    }
    end(&logs, 1);
    end(&logs, 2);
    end(&logs, 3);
    assert!(logs.bytes() <= 400 << 10);
    let watch = watched(&logs, &record(3, TaskState::Succeeded), None);
    let words = all(watch).await;
    assert_eq!(words.first().map(String::as_str), Some("reset"), "its beginning was dropped");
    assert_eq!(words.last().map(String::as_str), Some("succeeded"));
}

#[test]
fn what_comes_for_a_shut_door_is_dropped_and_counted() {
    let logs = TaskLogs::new(Term(1));
    hand_over(&logs, 1);
    logs.output(ConnId(8), TaskId(1), EPOCH, OutputStream::Stderr, 0, "another connection");
    logs.output(CONN, TaskId(1), Epoch(5), OutputStream::Stderr, 0, "an older attempt");
    logs.output(CONN, TaskId(2), EPOCH, OutputStream::Stderr, 0, "another task");
    logs.gate(TaskId(1), Epoch(5), Door::Shut);
    assert_eq!((logs.dropped(), logs.bytes()), (3, 0));
    say(&logs, 1, "mine");
    assert!(logs.bytes() > 0);
    logs.gate(TaskId(1), EPOCH, Door::Shut);
    say(&logs, 1, "too late");
    assert_eq!(logs.dropped(), 4);
}

#[tokio::test]
async fn a_log_that_is_gone_tells_the_end_from_the_record() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    let done = record(1, TaskState::Failed);
    let mut watch = watched(&logs, &done, None);
    let Some(Item::Event(end)) = watch.next().await else { panic!("the end is told") };
    let last = watch.event_id(end.number);
    assert_eq!(all(watch).await, Vec::<String>::new());
    assert_eq!(all(watched(&logs, &done, Some("1-12"))).await, ["reset", "failed"]);
    let restarted = Arc::new(TaskLogs::new(Term(2)));
    assert!(watched(&restarted, &done, Some(&last)).is_over(), "its id is the same for every server");
}

#[tokio::test]
async fn a_watcher_whose_log_is_forgotten_is_told() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    hand_over(&logs, 1);
    let watch = watched(&logs, &record(1, TaskState::Running), None);
    end(&logs, 1);
    logs.shelf().forget_before(Some(Instant::now()));
    assert_eq!(held(&logs), (0, 0));
    assert_eq!(all(watch).await, ["gone"]);
}

#[tokio::test]
async fn a_watcher_of_a_waiting_task_leaves_nothing_behind() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    let watch = watched(&logs, &record(1, TaskState::Queued), None);
    assert!(logs.bytes() > 0);
    drop(watch);
    assert_eq!(held(&logs), (0, 0));
}

#[tokio::test]
async fn a_reader_that_waits_is_woken() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    hand_over(&logs, 1);
    let watch = watched(&logs, &record(1, TaskState::Running), None);
    let reader = tokio::spawn(all(watch));
    tokio::task::yield_now().await;
    say(&logs, 1, "hello");
    tokio::task::yield_now().await;
    end(&logs, 1);
    assert_eq!(reader.await.expect("the reader ends"), ["running", "hello", "succeeded"]);
}

/// The log of a task as the store would keep it, and the ids that a watcher was told.
async fn kept(logs: &Arc<TaskLogs>, id: u128) -> (bytes::Bytes, Vec<String>) {
    let mut watch = watched(logs, &record(id, TaskState::Running), None);
    let kept = logs.conclude(&record(id, TaskState::Succeeded)).expect("it has said something");
    end(logs, id);
    let mut ids = Vec::new();
    while let Some(Item::Event(event)) = watch.next().await {
        ids.push(watch.event_id(event.number));
    }
    (kept, ids)
}

#[tokio::test]
async fn what_the_store_keeps_is_told_under_the_same_ids_after_a_restart() {
    let logs = Arc::new(TaskLogs::new(Term(3)));
    hand_over(&logs, 1);
    say(&logs, 1, "a");
    say(&logs, 1, "b");
    let (kept, ids) = kept(&logs, 1).await;
    let restarted = Arc::new(TaskLogs::new(Term(4)));
    let back = |last: Option<&str>| {
        assert!(restarted.subscribe(&record(1, TaskState::Succeeded), last).is_none());
        restarted.look_back(&record(1, TaskState::Succeeded), Some(&kept), last)
    };
    assert_eq!(all(back(None)).await, ["running", "a", "b", "succeeded"]);
    let mut again = back(None);
    for id in &ids {
        let Some(Item::Event(event)) = again.next().await else { panic!("no event of {id}") };
        assert_eq!(again.event_id(event.number), *id);
    }
    assert_eq!(all(back(Some(&ids[1]))).await, ["b", "succeeded"], "without gap or repeat");
    assert!(back(ids.last().map(String::as_str)).is_over());
    for foreign in ["4-7", "3-1", "3-99999999999", ""] {
        assert_eq!(
            all(back(Some(foreign))).await,
            ["reset", "running", "a", "b", "succeeded"],
            "{foreign:?}"
        );
    }
}

#[tokio::test]
async fn nothing_comes_after_what_the_store_was_told_but_the_end() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    hand_over(&logs, 1);
    say(&logs, 1, "a");
    let watch = watched(&logs, &record(1, TaskState::Running), None);
    assert!(logs.conclude(&record(1, TaskState::Succeeded)).is_some());
    say(&logs, 1, "too late");
    end(&logs, 1);
    assert_eq!(all(watch).await, ["running", "a", "succeeded"]);
    assert_eq!(logs.conclude(&record(1, TaskState::Succeeded)), None, "once");
}

#[test]
fn a_task_that_said_nothing_and_that_nobody_watched_has_no_log_to_keep() {
    let logs = TaskLogs::new(Term(1));
    hand_over(&logs, 1);
    hand_over(&logs, 2);
    assert_eq!(logs.conclude(&record(1, TaskState::Succeeded)), None);
    say(&logs, 2, "a");
    assert_eq!(logs.conclude(&record(1, TaskState::Succeeded)), None);
    assert!(logs.conclude(&record(2, TaskState::Succeeded)).is_some());
}

#[tokio::test]
async fn a_kept_log_is_bounded_and_says_that_its_beginning_is_missing() {
    let logs = Arc::new(TaskLogs::new(Term(1)));
    hand_over(&logs, 1);
    for _ in 0..40 {
        // Six bytes of JSON each.
        say(&logs, 1, &"\u{1}".repeat(8 << 10));
    }
    let kept = logs.conclude(&record(1, TaskState::TimedOut)).expect("it has said something");
    assert!(kept.len() <= 512 << 10, "{}", kept.len());
    let told = all(logs.look_back(&record(1, TaskState::TimedOut), Some(&kept), None)).await;
    assert_eq!(
        (told.first().map(String::as_str), told.last().map(String::as_str)),
        (Some("reset"), Some("timed_out"))
    );
    assert!(told.len() > 3, "{}", told.len());
}
