//! The public shape, used as the README shows it.

use std::fmt::Write;

use onceward::{
    Engine, EntryState, ErrorKind, Fingerprint, Key, OnAbandon, Outcome, Reply, Resolution,
    RunError, Terms,
};

use crate::support::{Bench, LEASE, completed, granted, in_flight, key, replayed, request};

#[test]
fn a_retry_gets_the_first_answer_to_the_byte() {
    let bench = Bench::new();
    let engine = bench.open();
    let reply = Reply::new(201, vec![0, 255, 10, 13])
        .with_header("set-cookie", "a=1")
        .with_header("set-cookie", "b=2")
        .with_header("x-bytes", vec![0x80, 0xff]);
    granted(&engine, "key").complete(reply.clone()).unwrap();
    assert_eq!(replayed(&engine, "key"), reply);
    engine.close().unwrap();
    assert_eq!(replayed(&bench.open(), "key"), reply);
}

#[test]
fn a_cold_replay_is_the_same_as_a_hot_one() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .replay_cache_bytes(0)
        .segment_entries(2)
        .open(bench.path())
        .unwrap();
    for number in 0..20 {
        completed(&engine, &number.to_string(), "body");
    }
    for number in 0..20 {
        assert_eq!(replayed(&engine, &number.to_string()).body(), "body");
    }
    assert_eq!(engine.stats().replay_cache_bytes, 0);
}

#[test]
fn one_tenants_key_tells_nothing_of_anothers() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "key", "mine");
    let others = [
        Key::new("tenan", "tkey").unwrap(),
        Key::new("tenantk", "ey").unwrap(),
        Key::new("other", "key").unwrap(),
        Key::unscoped("key").unwrap(),
        Key::unscoped("tenantkey").unwrap(),
    ];
    for other in &others {
        let outcome = engine.begin(other, &request()).unwrap();
        assert!(matches!(outcome, Outcome::Proceed(_)), "{other:?}");
    }
}

#[test]
fn a_conflict_names_the_part_that_differs() {
    let bench = Bench::new();
    let engine = bench.open();
    let fingerprint = |path: &str, body: &str| {
        Fingerprint::builder()
            .part("path", path)
            .part("body", body)
            .build()
            .unwrap()
    };
    let guard = match engine.begin(&key("key"), &fingerprint("/a", "1")).unwrap() {
        Outcome::Proceed(guard) => guard,
        other => panic!("{other:?}"),
    };
    let part = |path, body| match engine.begin(&key("key"), &fingerprint(path, body)).unwrap() {
        Outcome::Conflict(conflict) => conflict.part().map(str::to_owned),
        other => panic!("{other:?}"),
    };
    assert_eq!(part("/a", "2").as_deref(), Some("body"));
    assert_eq!(part("/b", "1").as_deref(), Some("path"));
    guard.complete(Reply::new(200, "")).unwrap();
    assert_eq!(part("/a", "2").as_deref(), Some("body"));
    engine.close().unwrap();
    let engine = bench.open();
    let outcome = engine.begin(&key("key"), &fingerprint("/a", "2")).unwrap();
    assert!(matches!(outcome, Outcome::Conflict(conflict) if conflict.part() == Some("body")));
}

#[test]
fn run_executes_once_and_replays_after() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut runs = 0;
    for _ in 0..3 {
        let reply = engine
            .run(&key("key"), &request(), || {
                runs += 1;
                Ok::<_, std::io::Error>(Reply::new(200, "done"))
            })
            .unwrap();
        assert_eq!(reply.body(), "done");
    }
    assert_eq!(runs, 1);
    let other = engine.run(&key("key"), &Fingerprint::of("other"), || {
        Ok::<_, std::io::Error>(Reply::new(200, "never"))
    });
    assert!(matches!(other, Err(RunError::Conflict(_))));
}

#[test]
fn a_failing_run_releases_and_a_panicking_one_abandons() {
    let bench = Bench::new();
    let engine = bench.open();
    let failed = engine.run(&key("fails"), &request(), || Err::<Reply, _>("no"));
    assert!(matches!(failed, Err(RunError::Handler("no"))));
    assert_eq!(granted(&engine, "fails").attempt(), 1);

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        engine.run(&key("panics"), &request(), || -> Result<Reply, ()> {
            panic!("in the handler")
        })
    }));
    assert!(panicked.is_err());
    in_flight(&engine, "panics");
    bench.clock.advance(LEASE);
    assert_eq!(granted(&engine, "panics").attempt(), 2);
}

#[test]
fn terms_of_a_call_override_the_engines() {
    let bench = Bench::new();
    let engine = bench.open();
    let second = std::time::Duration::from_secs(1);
    let begin = || {
        engine
            .begin_with(&key("key"), &request(), Terms::new(second, 10 * second))
            .unwrap()
    };
    assert!(matches!(begin(), Outcome::Proceed(_)));
    bench.clock.advance(second);
    let Outcome::Proceed(guard) = begin() else {
        panic!("the lease of a second is over");
    };
    guard.complete(Reply::new(200, "")).unwrap();
    bench.clock.advance(9 * second);
    replayed(&engine, "key");
    bench.clock.advance(second);
    assert_eq!(granted(&engine, "key").attempt(), 1);
}

#[test]
fn lookup_shows_each_state_and_the_key() {
    let bench = Bench::new();
    let engine = bench.open();
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    let guard = granted(&engine, "key");
    let entry = engine.lookup(&key("key")).unwrap().unwrap();
    assert_eq!(entry.key, Some(key("key")));
    assert_eq!((entry.attempt, entry.token), (1, guard.token()));
    assert!(matches!(
        entry.state,
        EntryState::InFlight { is_held: false, .. }
    ));
    guard.complete(Reply::new(200, "body")).unwrap();
    let entry = engine.lookup(&key("key")).unwrap().unwrap();
    let EntryState::Completed { reply, .. } = entry.state else {
        panic!("not completed");
    };
    assert_eq!(reply.body(), "body");
}

#[test]
fn without_key_text_only_digests_are_kept() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .keep_key_text(false)
        .open(bench.path())
        .unwrap();
    let canary = "canary-key-text";
    completed(&engine, canary, "body");
    assert_eq!(engine.lookup(&key(canary)).unwrap().unwrap().key, None);
    engine.close().unwrap();
    for file in std::fs::read_dir(bench.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let found = bytes
            .windows(canary.len())
            .any(|window| window == canary.as_bytes());
        assert!(!found);
    }
    replayed(&bench.open(), canary);
}

#[test]
fn forget_makes_a_replay_impossible_at_once_and_after_reopen() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "key", "old");
    replayed(&engine, "key");
    assert!(engine.forget(&key("key")).unwrap());
    assert!(!engine.forget(&key("key")).unwrap());
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    engine.close().unwrap();
    let engine = bench.open();
    let guard = granted(&engine, "key");
    let error = engine.forget(&key("key")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InFlight);
    guard.complete(Reply::new(200, "new")).unwrap();
    assert_eq!(replayed(&engine, "key").body(), "new");
}

#[test]
fn held_attempts_wait_for_an_operator() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .on_abandon(OnAbandon::Hold)
        .open(bench.path())
        .unwrap();
    for name in ["a", "b", "c"] {
        drop(granted(&engine, name));
    }
    assert!(engine.held().unwrap().is_empty());
    bench.clock.advance(LEASE);
    let held = engine.held().unwrap();
    let names: Vec<_> = held
        .iter()
        .map(|entry| entry.key.as_ref().unwrap().key().to_owned())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(in_flight(&engine, "a").is_held());

    let reply = Reply::new(200, "it had happened");
    engine
        .resolve(&key("a"), Resolution::Complete(reply.clone()))
        .unwrap();
    engine.resolve(&key("b"), Resolution::Release).unwrap();
    assert_eq!(replayed(&engine, "a"), reply);
    assert_eq!(granted(&engine, "b").attempt(), 1);
    assert_eq!(engine.held().unwrap().len(), 1);
    let again = engine.resolve(&key("a"), Resolution::Release).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotInFlight);
}

#[test]
fn a_lapsed_guard_loses_to_the_newer_one_and_changes_nothing() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut first = granted(&engine, "key");
    bench.clock.advance(LEASE);
    let second = granted(&engine, "key");
    assert!(second.token() > first.token());
    assert_eq!(second.attempt(), 2);
    let before = engine.lookup(&key("key")).unwrap();
    assert_eq!(first.renew().unwrap_err().kind(), ErrorKind::LeaseLost);
    let error = first.complete(Reply::new(200, "stale")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    let (first, reply, error) = error.into_parts();
    assert_eq!(reply.body(), "stale");
    assert!(error.to_string().contains("attempt 2"), "{error}");
    assert_eq!(first.release().unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(engine.lookup(&key("key")).unwrap(), before);
    second.complete(Reply::new(200, "fresh")).unwrap();
    assert_eq!(replayed(&engine, "key").body(), "fresh");
}

#[test]
fn the_engine_and_its_guards_can_go_to_any_thread() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Engine>();
    check::<onceward::Guard>();
    check::<onceward::Error>();
    check::<onceward::CompleteError>();
    check::<onceward::Outcome>();
    check::<onceward::Builder>();
}

#[test]
fn nothing_secret_shows_in_debug_output_or_errors() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .pepper("canary-pepper-of-16")
        .open(bench.path());
    let engine = engine.unwrap();
    let name = Key::new("canary-scope", "canary-key").unwrap();
    let outcome = engine.begin(&name, &Fingerprint::of("canary")).unwrap();
    let shown = format!(
        "{engine:?} {outcome:?} {name:?} {:?}",
        bench.builder().pepper("canary-pepper-of-16")
    );
    assert!(!shown.contains("canary"), "{shown}");
    let Outcome::Proceed(guard) = outcome else {
        panic!("not granted");
    };
    bench.clock.advance(LEASE);
    drop(engine.begin(&name, &Fingerprint::of("canary")).unwrap());
    let error = guard
        .complete(Reply::new(200, "canary").with_header("canary", "canary"))
        .unwrap_err();
    let mut shown = format!("{error:?} {error}");
    let other = engine.begin(&name, &Fingerprint::of("another canary"));
    let entry = engine.lookup(&name).unwrap().unwrap();
    write!(shown, "{other:?} {entry:?} {:?}", engine.held().unwrap()).unwrap();
    let reply = Reply::new(200, vec![b'c'; 2 << 20]).with_header("canary", "canary");
    write!(shown, "{reply:?} {:?}", Resolution::Complete(reply.clone())).unwrap();
    let resolved = engine.resolve(&name, Resolution::Complete(reply));
    write!(shown, "{:?}", resolved.unwrap_err()).unwrap();
    for (scope, key) in [
        ("canary\n", "canary"),
        ("canary", "canary\0"),
        ("", "canary"),
    ] {
        write!(shown, "{:?}", Key::new(scope, key).unwrap_err()).unwrap();
    }
    let chunks: Vec<_> = engine.export().collect();
    write!(shown, "{chunks:?}").unwrap();
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("ReplyTooLarge") && shown.contains("InvalidKey"));
}
