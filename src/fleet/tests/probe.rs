//! Probes: into their own pool, under their own name, and nothing done for their sake.

use super::*;

fn two_pools() -> Stage {
    let pooled = |name: &str, pool: &str| WorkerSpec { pool: Some(pool.into()), ..spec(name, 2) };
    Stage::with(&[pooled("ann", "one"), pooled("bob", "two"), spec("cid", 2)])
}

impl Stage {
    fn probe(&mut self, pool: Option<&str>) -> TaskId {
        let canary = Canary { capability: "echo".into(), input: "{}".into() };
        let pool = pool.map(PoolName::from);
        let mut submission = self.submission("echo");
        submission.tenant = Tenant::of_probes();
        submission.spec = Arc::new(TaskSpec::probe(canary, pool.as_ref()));
        let id = submission.id;
        self.tell(Event::Submit(Box::new(submission)));
        id
    }

    fn counted(&self, capability: &str) -> CapabilityStats {
        let stats = self.fleet.stats(self.now);
        stats.capabilities.get(&Capability::from(capability)).cloned().unwrap_or_default()
    }
}

#[test]
fn a_probe_goes_to_its_pool_though_others_offer_the_same() {
    let mut stage = two_pools();
    for (pool, conn) in [(Some("one"), 1), (Some("two"), 2), (None, 3)].repeat(3) {
        let probe = stage.probe(pool);
        let (on, epoch) = stage.accept(probe);
        assert_eq!(on, ConnId(conn), "{pool:?}");
        stage.succeed(probe, on, epoch);
        assert_eq!(stage.finals(probe), [TaskState::Succeeded]);
    }
    assert_eq!(stage.counted(PROBE).accepted.iter().sum::<u64>(), 9);
    assert_eq!(stage.counted("echo").accepted.iter().sum::<u64>(), 0, "that is for callers");
    stage.restart(Term(2));
    assert_eq!(stage.counted(PROBE).live(), 0);
}

#[test]
fn a_probe_that_cannot_run_expires_and_counts_for_no_capability() {
    let mut stage = two_pools();
    let busy: Vec<TaskId> = (0..6).map(|_| stage.submit(Keep::Kept)).collect();
    assert!(busy.iter().all(|task| stage.handed(*task).is_some()));
    let probe = stage.probe(Some("one"));
    stage.advance(Duration::from_secs(20));
    assert_eq!((stage.counted(PROBE).queued, stage.counted("echo").queued), (1, 0));
    assert_eq!(stage.counted("echo").oldest_age, Duration::ZERO, "no caller's task waits");
    assert!(stage.counted(PROBE).oldest_age >= Duration::from_secs(19));
    for _ in 0..5 {
        for conn in 1..=3 {
            stage.tell(Event::Report(ConnId(conn), Report::Alive));
        }
        stage.advance(Duration::from_secs(10));
    }
    assert_eq!(stage.finals(probe), [TaskState::Expired]);
}

#[test]
fn a_probe_is_tried_once_and_is_no_dead_letter() {
    let mut stage = two_pools();
    let probe = stage.probe(Some("one"));
    stage.accept(probe);
    stage.tell(Event::LinkDown(ConnId(1), Why::PeerClosed));
    stage.connect("ann", 9, "second", Vec::new());
    stage.advance(Duration::from_secs(1));
    let record = stage.journal()[&probe].clone();
    assert_eq!((record.state, record.dead_letter, record.attempts.len()), (TaskState::Lost, false, 1));
    assert_eq!(record.counted_as(), Capability::from(PROBE));
}
