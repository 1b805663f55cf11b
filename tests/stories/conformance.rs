//! Every worker interface passes the same cases: what holds for the mock holds for the real one,
//! whichever side dialled, and in
//! whichever language it is written. The tests play the core: they hold a connection's channels themselves.

mod dialling;
mod harness;
mod hostile;
mod subjects;

use std::time::Duration;

use rollcall::fleet::{AttemptOutcome, Order, Report, Why};
use rollcall::interface::Ended;

use harness::{Core, key, welcome};
use subjects::{Kind, Subject};

/// Longer than any test: a task that ends only when it is told to.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Each case once per kind of worker.
macro_rules! conformance {
    ($($(#[$doc:meta])* $case:ident($subject:ident) $body:block)*) => {
        $($(#[$doc])* async fn $case($subject: Kind) $body)*
        conformance!(@for mock Mock $($case)*);
        conformance!(@for dialled Dialled $($case)*);
        conformance!(@for dials_in DialsIn $($case)*);
        conformance!(@for python_dialled PythonDialled $($case)*);
        conformance!(@for python_dials_in PythonDialsIn $($case)*);
    };
    (@for $module:ident $kind:ident $($case:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Kind::$kind).await;
            })*
        }
    };
}

conformance! {
    a_worker_says_who_it_is_and_what_it_offers(kind) {
        let subject = Subject::start(kind, Duration::ZERO).await;
        let (_core, registration) = subject.connect(1).await;
        assert_eq!(registration.worker.as_str(), "ann");
        assert_eq!(registration.dialled, !kind.dials_in());
        assert!(!registration.instance.as_str().is_empty());
        let offered: Vec<_> = registration.capabilities.iter().map(|offer| offer.name.as_str()).collect();
        assert_eq!(offered, ["echo.*"]);
        assert_eq!((registration.attempts, registration.store), (vec![], None));
    }

    a_task_is_accepted_and_then_succeeds(kind) {
        let subject = Subject::start(kind, Duration::ZERO).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 7), r#"{"say": "hello"}"#, FOR_EVER).await;
        assert_eq!(core.report().await, accepted(1, 7));
        let end = core.result().await;
        assert_eq!((end.task, end.epoch, end.status), (key(1, 7).0, key(1, 7).1, AttemptOutcome::Succeeded));
        let output: serde_json::Value =
            serde_json::from_str(end.output.expect("an output").as_str()).expect("JSON");
        assert_eq!(output, serde_json::json!({"say": "hello"}));
        assert_eq!(end.error, None);
    }

    many_tasks_run_side_by_side(kind) {
        let subject = Subject::start(kind, Duration::from_millis(1)).await;
        let mut core = subject.registered(1).await;
        for n in 1..=50 {
            core.execute(key(n, n), "1", FOR_EVER).await;
        }
        let mut ended = Vec::new();
        while ended.len() < 50 {
            ended.push(core.result().await.epoch.0);
        }
        ended.sort_unstable();
        assert_eq!(ended, (1..=50).collect::<Vec<_>>());
    }

    a_cancel_is_answered_by_exactly_one_result(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        assert_eq!(core.report().await, accepted(1, 1));
        core.cancel(key(1, 1)).await;
        core.cancel(key(1, 1)).await;
        let end = core.result().await;
        assert_eq!((end.epoch.0, end.status), (1, AttemptOutcome::Cancelled));
        // Had the second cancel been answered, that would come before this.
        core.execute(key(2, 2), "1", FOR_EVER).await;
        assert_eq!(core.report().await, accepted(2, 2));
    }

    a_cancel_of_what_never_came_is_answered_too(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let mut core = subject.registered(1).await;
        core.cancel(key(1, 1)).await;
        let end = core.result().await;
        assert_eq!((end.epoch.0, end.status), (1, AttemptOutcome::Cancelled));
    }

    a_task_that_outruns_its_limit_is_timed_out(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 1), "1", Duration::from_millis(20)).await;
        assert_eq!(core.report().await, accepted(1, 1));
        let end = core.result().await;
        assert_eq!(end.status, AttemptOutcome::TimedOut);
        assert_eq!(&*end.error.expect("an error").code, "timeout");
    }

    an_attempt_is_never_started_twice(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        core.execute(key(1, 2), "1", FOR_EVER).await;
        assert_eq!(core.report().await, accepted(1, 1));
        assert_eq!(core.report().await, accepted(1, 2));
    }

    a_heartbeat_lists_what_runs_and_what_is_not_acknowledged(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let (mut core, _) = subject.connect(1).await;
        core.order(welcome(|welcome| welcome.heartbeat_interval = Duration::from_millis(30))).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        core.cancel(key(2, 2)).await;
        assert_eq!(core.heartbeat_listing(2).await, [key(1, 1), key(2, 2)]);
        core.acknowledge(key(2, 2)).await;
        assert_eq!(core.heartbeat_listing(1).await, [key(1, 1)]);
    }

    a_running_attempt_goes_on_over_a_cut_connection(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let (mut core, before) = subject.connect(1).await;
        core.order(welcome(|_| {})).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        assert_eq!(core.report().await, accepted(1, 1));
        core.cut();

        let (mut core, after) = subject.connect(2).await;
        assert_eq!(after.instance, before.instance);
        assert_eq!(after.store.expect("the store it served").as_str(), "store-a");
        assert_eq!(held(&after.attempts), [(key(1, 1), false)]);
        core.order(welcome(|welcome| welcome.keep = vec![key(1, 1)])).await;
        core.cancel(key(1, 1)).await;
        assert_eq!(core.result().await.status, AttemptOutcome::Cancelled);
    }

    an_unacknowledged_result_is_kept_and_sent_again_when_asked_for(kind) {
        let subject = Subject::start(kind, Duration::ZERO).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 1), r#""once""#, FOR_EVER).await;
        let first = core.result().await;
        core.cut();

        let (mut core, after) = subject.connect(2).await;
        assert_eq!(held(&after.attempts), [(key(1, 1), true)]);
        core.order(welcome(|welcome| welcome.resend = vec![key(1, 1)])).await;
        assert_eq!(core.result().await, first);
        core.acknowledge(key(1, 1)).await;
        core.close(Why::Moved).await;

        let (_core, after) = subject.connect(3).await;
        assert_eq!(after.attempts, []);
    }

    a_result_that_came_during_the_cut_is_not_lost(kind) {
        let subject = Subject::start(kind, Duration::from_millis(50)).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        assert_eq!(core.report().await, accepted(1, 1));
        core.cut();
        let (mut core, after) = subject.connect(2).await;
        // By now it may run or be done; either way its result comes.
        assert_eq!(after.attempts.len(), 1);
        let lists = |welcome: &mut rollcall::fleet::Welcome| match after.attempts[0].done {
            true => welcome.resend = vec![key(1, 1)],
            false => welcome.keep = vec![key(1, 1)],
        };
        core.order(welcome(lists)).await;
        assert_eq!(core.result().await.status, AttemptOutcome::Succeeded);
    }

    a_worker_tells_which_sessions_it_has_and_hears_of_their_end(kind) {
        let subject = Subject::start(kind, Duration::ZERO).await;
        let (mut core, first) = subject.connect(1).await;
        core.order(welcome(|_| {})).await;
        core.execute_in("me", key(1, 1), "1", FOR_EVER).await;
        assert_eq!(core.result().await.session_open, None);
        core.cut();
        let (core, then) = subject.connect(2).await;
        core.order(welcome(|_| {})).await;
        core.order(Order::EndSession { session: "me".into() }).await;
        core.close(Why::Moved).await;
        let (_core, last) = subject.connect(3).await;
        let told = [first, then, last].map(|registration| registration.sessions);
        // A mock remembers nothing, and says nothing of it.
        let kept = (kind != Kind::Mock).then(|| [vec![], vec!["me".into()], vec![]]);
        assert_eq!(told, kept.map_or([const { None }; 3], |kept| kept.map(Some)));
    }

    a_dropped_attempt_is_stopped_and_forgotten(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let mut core = subject.registered(1).await;
        core.execute(key(1, 1), "1", FOR_EVER).await;
        core.execute(key(2, 2), "1", FOR_EVER).await;
        core.report().await;
        core.report().await;
        core.cut();

        let (mut core, after) = subject.connect(2).await;
        assert_eq!(held(&after.attempts), [(key(1, 1), false), (key(2, 2), false)]);
        core.order(welcome(|welcome| {
            welcome.drop = vec![key(1, 1)];
            welcome.keep = vec![key(2, 2)];
        })).await;
        // No result of the first comes before that of the second.
        core.cancel(key(2, 2)).await;
        assert_eq!(core.result().await.epoch.0, 2);
        core.cut();
        let (_core, after) = subject.connect(3).await;
        assert_eq!(held(&after.attempts), [(key(2, 2), true)]);
    }

    a_close_comes_after_what_stands_before_it(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let core = subject.registered(1).await;
        for n in 1..=20 {
            core.execute(key(n, n), "1", FOR_EVER).await;
        }
        assert_eq!(core.close(Why::Superseded).await, Ended::Down(Why::Superseded));
        let (_core, after) = subject.connect(2).await;
        assert_eq!(after.attempts.len(), 20);
    }

    a_probe_measures_a_round_trip(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let core = subject.registered(1).await;
        assert!(core.probe().await < Duration::from_secs(5));
    }

    a_connection_whose_server_is_gone_ends(kind) {
        let subject = Subject::start(kind, FOR_EVER).await;
        let core = subject.registered(1).await;
        assert_eq!(core.gone().await, Ended::Down(Why::ServerShutdown));
    }
}

fn accepted(task: u64, epoch: u64) -> Report {
    let (task, epoch) = key(task, epoch);
    Report::Accepted { task, epoch }
}

fn held(attempts: &[rollcall::fleet::HeldAttempt]) -> Vec<(harness::Key, bool)> {
    let mut held: Vec<_> = attempts.iter().map(|held| ((held.task, held.epoch), held.done)).collect();
    held.sort_unstable();
    held
}

impl Core {
    async fn cancel(&self, (task, epoch): harness::Key) {
        self.order(Order::Cancel { task, epoch, reason: "cancelled" }).await;
    }
}
