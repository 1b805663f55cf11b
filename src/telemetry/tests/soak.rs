//! Names come and go without end, and the pages stay bounded and forget them.

use super::*;

/// Every kind of series that a name can make, made for these.
fn used(metrics: &Metrics, capability: &str, pool: &str) {
    for outcome in ["deduplicated", "invalid", "queue_full"] {
        metrics.note(&submitted(capability, outcome));
    }
    metrics.note(&attempt(capability, pool));
    metrics.note(&Note::Assigned { capability: capability.into(), wait: Duration::ZERO });
    metrics.note(&Note::RetryHeld { capability: capability.into() });
    let up = Note::Connected {
        worker: "w".into(),
        pool: Some(pool.into()),
        outcome: ConnectOutcome::Ok,
        again: true,
        took: Some(Duration::ZERO),
        down: Some(Duration::ZERO),
        detail: None,
    };
    metrics.note(&up);
    metrics.rtt(&"w".into(), Duration::ZERO);
}

#[test]
fn two_hundred_renamed_pools_and_a_thousand_names_leave_nothing_behind() {
    let metrics = Metrics::default();
    let base = || topology([spec("w", Some("home"), &["home.run"])]);
    metrics.topology_applied(&base());
    let baseline = samples(&page(&metrics)).len();
    let mut most = 0;
    for round in 0..200 {
        let (pool, capability) = (format!("pool-{round}"), format!("made.up.{round}"));
        metrics.topology_applied(&topology([spec("w", Some(&pool), &[&capability])]));
        used(&metrics, &capability, &pool);
        for n in 0..5 {
            // What clients and strangers say.
            used(&metrics, &format!("random.{round}.{n}"), &format!("nobody-{n}"));
            metrics.http_request(&format!("METHOD{round}"), "(no route)", 404, None);
        }
        let text = page(&metrics);
        most = most.max(samples(&text).len());
        assert!(!text.contains(&format!("pool-{}\"", round + 200)) && text.contains(&pool));
        if round > 0 {
            let before = format!("pool=\"pool-{}\"", round - 1);
            assert!(!text.contains(&before), "a series of the pool before");
        }
    }
    assert!(most < 5_000, "{most} series");

    metrics.topology_applied(&base());
    let text = page(&metrics);
    assert!(!text.contains("made.up.") && !text.contains("random.") && !text.contains("pool-"));
    // What was folded stays, as `other`: one more capability, and the methods and codes of strangers.
    let after = samples(&text).len();
    assert!(after < baseline + 200, "{baseline} series before, {after} after");
}
