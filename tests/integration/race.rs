//! Many callers, one key.

use std::sync::Arc;

use onceward::{Engine, EntryState, Outcome, Reply};
use tokio::sync::Barrier;

use crate::support::{Bench, folder, is_full_run, key, request};

const CALLERS: usize = 10_000;

/// All callers begin at once; gives how many were granted and how many found the key in flight.
async fn stampede(engine: &Engine, name: &str) -> (usize, usize) {
    let barrier = Arc::new(Barrier::new(CALLERS));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (engine, barrier) = (engine.clone(), Arc::clone(&barrier));
            let name = key(name);
            tokio::spawn(async move {
                barrier.wait().await;
                engine.begin_async(&name, &request()).await.unwrap()
            })
        })
        .collect();
    let (mut guards, mut in_flight) = (Vec::new(), 0);
    for task in tasks {
        match task.await.unwrap() {
            Outcome::Proceed(guard) => guards.push(guard),
            Outcome::InFlight(_) => in_flight += 1,
            other => panic!("{other:?}"),
        }
    }
    (guards.len(), in_flight)
}

#[test]
fn ten_thousand_simultaneous_begins_on_one_key_grant_exactly_one() {
    let rounds = if is_full_run() { 100 } else { 10 };
    let folder = folder();
    // A slow disk is no reason to refuse anybody here.
    let engine = Engine::builder()
        .queue_wait(std::time::Duration::from_secs(600))
        .open(folder.path().join("engine"))
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..rounds {
        let counts = runtime.block_on(stampede(&engine, &round.to_string()));
        assert_eq!(counts, (1, CALLERS - 1), "round {round}");
    }
    println!("{rounds} rounds of {CALLERS} begins: one grant in each");
}

#[test]
fn threads_that_race_for_many_keys_run_each_handler_once() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .segment_entries(50)
        .open(bench.path())
        .unwrap();
    let runs: Vec<_> = (0..100)
        .map(|_| std::sync::atomic::AtomicU32::new(0))
        .collect();
    std::thread::scope(|scope| {
        for caller in 0..8_usize {
            let (engine, runs) = (&engine, &runs);
            scope.spawn(move || {
                for step in 0..400_usize {
                    let at = (step * 7 + caller * 13) % runs.len();
                    let patience = std::time::Duration::from_secs(3_600);
                    match engine.begin_or_wait(&key(at.to_string()), &request(), patience) {
                        Ok(Outcome::Proceed(guard)) => {
                            runs[at].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            guard.complete(Reply::new(200, at.to_string())).unwrap();
                        }
                        Ok(Outcome::Replay(reply)) => assert_eq!(reply.body(), &at.to_string()),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    for run in &runs {
        assert_eq!(run.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}

#[test]
fn readers_writers_and_the_sweeper_agree_while_segments_roll_and_go() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .segment_entries(8)
        .merge_above(4)
        .replay_cache_bytes(4_096)
        .retention(std::time::Duration::from_secs(60))
        .lease(std::time::Duration::from_secs(10))
        .open(bench.path())
        .unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let engine = &engine;
                scope.spawn(move || {
                    for step in 0..600 {
                        let name = key(format!("{}", (step * 5 + caller) % 40));
                        match engine.begin(&name, &request()).unwrap() {
                            Outcome::Proceed(guard) if step % 7 == 0 => drop(guard),
                            Outcome::Proceed(guard) if step % 11 == 0 => {
                                drop(guard.release());
                            }
                            Outcome::Proceed(guard) => {
                                let body = name.key().to_owned();
                                // Another caller may have taken over since.
                                drop(guard.complete(Reply::new(200, body)));
                            }
                            Outcome::Replay(reply) => assert_eq!(reply.body(), name.key()),
                            Outcome::InFlight(_) => {}
                            Outcome::Conflict(_) => panic!("all requests are the same"),
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                bench.clock.advance(std::time::Duration::from_secs(3));
                engine.sweep().unwrap();
            }
        });
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let exported = engine.export().map(|entry| entry.unwrap());
                for entry in exported {
                    let key = entry.key.unwrap();
                    if let EntryState::Completed { reply, .. } = entry.state {
                        assert_eq!(reply.body(), key.key());
                    }
                }
                let found = engine.verify(|_| ()).unwrap();
                assert!(found.is_sound(), "{:?}", found.problems);
            }
        });
        for caller in callers {
            caller.join().unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let live = engine.stats().live_keys;
    engine.close().unwrap();
    let engine = bench.open();
    assert_eq!(engine.stats().live_keys, live);
}
