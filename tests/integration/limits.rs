//! Limits: the queue, the keys, and what the stats say of them.

use std::time::Duration;

use onceward::{Engine, ErrorKind, Outcome, Reply};

use crate::support::{
    Bench, LEASE, RETENTION, completed, eventually, granted, in_flight, key, replayed, request,
    sealed,
};

#[test]
fn new_keys_are_refused_at_the_limit_and_known_ones_never() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .max_live_keys(3)
        .segment_entries(4)
        .open(bench.path())
        .unwrap();
    completed(&engine, "done", "body");
    let running = granted(&engine, "running");
    drop(granted(&engine, "abandoned"));
    let error = engine.begin(&key("new"), &request()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.is_transient());
    assert_eq!(engine.health().reason().unwrap().kind(), ErrorKind::Full);
    assert_eq!(engine.stats().refused_full, 1);

    replayed(&engine, "done");
    in_flight(&engine, "running");
    running.complete(Reply::new(200, "")).unwrap();
    bench.clock.advance(LEASE);
    assert_eq!(granted(&engine, "abandoned").attempt(), 2);
    engine.forget(&key("done")).unwrap();
    assert!(engine.health().is_ready());
    completed(&engine, "new", "body");
    assert_eq!(engine.stats().live_keys, 3);
}

#[test]
fn expired_keys_make_room_once_they_are_swept() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .max_live_keys(8)
        .segment_entries(4)
        .open(bench.path())
        .unwrap();
    for number in 0..8 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    bench.clock.advance(RETENTION);
    assert_eq!(engine.stats().live_keys, 8);
    engine.sweep().unwrap();
    assert!(engine.stats().live_keys <= 1, "{:?}", engine.stats());
    completed(&engine, "new", "body");
}

#[test]
fn the_limit_holds_within_one_batch() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .max_live_keys(50)
        .open(bench.path())
        .unwrap();
    let granted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..200)
            .map(|number| {
                let engine = &engine;
                scope.spawn(move || engine.begin(&key(number.to_string()), &request()).is_ok())
            })
            .collect();
        threads
            .into_iter()
            .filter(|_| true)
            .map(|thread| usize::from(thread.join().unwrap()))
            .sum::<usize>()
    });
    assert_eq!(granted, 50);
    assert_eq!(engine.stats().live_keys, 50);
}

/// Begins many keys at once from tasks and gives the errors' kinds.
fn flood(engine: &Engine, begins: usize) -> Vec<ErrorKind> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tasks: Vec<_> = (0..begins)
        .map(|number| {
            let engine = engine.clone();
            runtime.spawn(async move {
                let name = key(number.to_string());
                engine.begin_async(&name, &request()).await.map(drop)
            })
        })
        .collect();
    let results = runtime.block_on(futures::future::join_all(tasks));
    results
        .into_iter()
        .filter_map(|result| result.unwrap().err())
        .map(|error| error.kind())
        .collect()
}

#[test]
fn begins_that_find_the_queue_full_wait_for_room() {
    let bench = Bench::new();
    // The clock stands still, so that nobody's time is ever up.
    let engine = bench.builder().queue_depth(1).open(bench.path()).unwrap();
    assert_eq!(flood(&engine, 2_000), []);
    let stats = engine.stats();
    assert_eq!(
        (stats.in_flight, stats.queued, stats.refused_overloaded),
        (2_000, 0, 0)
    );
}

#[test]
fn begins_that_wait_too_long_for_room_are_refused_and_completions_are_not() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .queue_depth(1)
        .queue_wait(Duration::from_millis(1))
        // The clock is moved on as fast as it can be.
        .lease(onceward::limits::MAX_LEASE)
        .open(bench.path())
        .unwrap();
    let guards: Vec<_> = (0..50)
        .map(|number| granted(&engine, &format!("guard {number}")))
        .collect();
    let refused = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&engine, 5_000));
        eventually(|| engine.stats().queued > 0 || flood.is_finished());
        for guard in guards {
            guard.complete(Reply::new(200, "")).unwrap();
        }
        while !flood.is_finished() {
            // Everybody who waits for room by now has waited too long.
            bench.clock.advance(Duration::from_millis(1));
        }
        flood.join().unwrap()
    });
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|kind| *kind == ErrorKind::Overloaded));
    let stats = engine.stats();
    assert_eq!(stats.refused_overloaded, refused.len() as u64);
    // Whoever was refused was not granted either.
    assert_eq!(stats.in_flight, 5_000 - refused.len() as u64);
    replayed(&engine, "guard 49");
}

#[test]
fn the_replay_cache_stays_within_its_bytes() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .replay_cache_bytes(200_000)
        .open(bench.path())
        .unwrap();
    for number in 0..300 {
        granted(&engine, &number.to_string())
            .complete(Reply::new(200, vec![7; 2_000]))
            .unwrap();
        let bytes = engine.stats().replay_cache_bytes;
        assert!(bytes <= 200_000, "{bytes}");
    }
    assert!(engine.stats().replay_cache_bytes > 50_000);
    for number in 0..300 {
        assert_eq!(replayed(&engine, &number.to_string()).body().len(), 2_000);
    }
}

#[test]
fn stats_show_the_limits_and_what_is_used() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "done", "body");
    let _guard = granted(&engine, "running");
    let stats = engine.stats();
    assert_eq!((stats.live_keys, stats.max_live_keys), (2, 10_000_000));
    assert_eq!((stats.queued, stats.queue_depth), (0, 4_096));
    assert_eq!((stats.in_flight, stats.waiters, stats.segments), (1, 0, 1));
    assert_eq!((stats.commits, stats.entries_written), (3, 3));
    assert_eq!(stats.max_reply_bytes, 1 << 20);
    assert!(stats.disk_bytes > 0 && stats.replay_cache_bytes > 0);
    assert!(engine.health().is_ready());
    let outcome = engine.begin(&key("done"), &request()).unwrap();
    assert!(matches!(outcome, Outcome::Replay(_)));
    assert_eq!(engine.stats().commits, 3);
}
