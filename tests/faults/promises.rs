//! What must hold though nothing fails; here for the mutants' sake.

use std::time::Duration;

use onceward::{Engine, ErrorKind, Fingerprint, Guard, Key, ManualClock, Outcome, Reply, Terms};

const LEASE: Duration = Duration::from_secs(120);
const RETENTION: Duration = Duration::from_secs(3_600);

fn engine(clock: &ManualClock) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let builder = Engine::builder().clock(clock.clone()).lease(LEASE);
    let builder = builder.retention(RETENTION).segment_entries(4);
    let builder = builder.replay_cache_bytes(0);
    let engine = builder.open(folder.path().join("engine")).unwrap();
    (folder, engine)
}

fn begin(engine: &Engine, scope: &str, key: &str) -> Outcome {
    let key = Key::new(scope, key).unwrap();
    engine.begin(&key, &Fingerprint::of("request")).unwrap()
}

fn granted(engine: &Engine, key: &str) -> Guard {
    match begin(engine, "tenant", key) {
        Outcome::Proceed(guard) => guard,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn a_guard_that_was_taken_over_cannot_complete() {
    let clock = ManualClock::new();
    let (_folder, engine) = engine(&clock);
    let late = granted(&engine, "key");
    clock.advance(LEASE);
    let second = granted(&engine, "key");
    let refused = late.complete(Reply::new(200, "late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    second.complete(Reply::new(200, "second")).unwrap();
}

#[test]
fn the_same_key_of_another_scope_is_another_key() {
    let (_folder, engine) = engine(&ManualClock::new());
    granted(&engine, "key")
        .complete(Reply::new(200, ""))
        .unwrap();
    assert!(matches!(
        begin(&engine, "other", "key"),
        Outcome::Proceed(_)
    ));
}

/// Waits for the sealer: while it is behind, segments grow beyond their limit.
fn until_sealed(engine: &Engine) {
    while engine.stats().sealed_segments + 1 < engine.stats().segments {
        std::thread::yield_now();
    }
}

#[test]
fn what_was_forgotten_stays_so_though_the_removal_is_over_before_the_answer_is() {
    let clock = ManualClock::new();
    let (_folder, engine) = engine(&clock);
    for name in ["key", "other"] {
        granted(&engine, name)
            .complete(Reply::new(200, ""))
            .unwrap();
        until_sealed(&engine);
    }
    // A segment of nothing but what is soon over.
    assert!(engine.forget(&Key::new("tenant", "key").unwrap()).unwrap());
    let short = Terms::new(LEASE, RETENTION / 6);
    for number in 0..8 {
        let key = Key::new("tenant", number.to_string()).unwrap();
        let outcome = engine.begin_with(&key, &Fingerprint::of("request"), short);
        assert!(matches!(outcome.unwrap(), Outcome::Proceed(_)));
        until_sealed(&engine);
    }
    clock.advance(RETENTION / 2);
    engine.sweep().unwrap();
    assert!(matches!(
        begin(&engine, "tenant", "other"),
        Outcome::Replay(_)
    ));
    assert!(matches!(
        begin(&engine, "tenant", "key"),
        Outcome::Proceed(_)
    ));
}
