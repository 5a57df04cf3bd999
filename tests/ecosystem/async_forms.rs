//! The `_async` forms, on three executors.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use onceward::{Engine, ErrorKind, Fingerprint, Outcome, Reply, Resolution, Terms};

use support::engine::{Bench, LEASE, completed, eventually, granted, in_flight, key, request};

async fn every_form(bench: &Bench) {
    let (b, c, request) = (key("b"), key("c"), request());
    let engine = bench
        .builder()
        .replay_cache_bytes(0)
        .open_async(bench.path())
        .await
        .unwrap();
    let Outcome::Proceed(mut guard) = engine.begin_async(&key("a"), &request).await.unwrap() else {
        panic!("not granted");
    };
    guard.renew_async().await.unwrap();
    guard.complete_async(Reply::new(200, "a")).await.unwrap();
    let outcome = engine.begin_async(&key("a"), &request).await.unwrap();
    assert!(matches!(outcome, Outcome::Replay(reply) if reply.body() == "a"));
    assert!(engine.lookup_async(&key("a")).await.unwrap().is_some());
    assert!(engine.forget_async(&key("a")).await.unwrap());

    let begin = engine.begin_with_async(&b, &request, Terms::default());
    let Outcome::Proceed(guard) = begin.await.unwrap() else {
        panic!("not granted");
    };
    guard.release_async().await.unwrap();
    let reply = engine
        .run_async(&b, &request, || async {
            Ok::<_, std::io::Error>(Reply::new(200, "b"))
        })
        .await;
    assert_eq!(reply.unwrap().body(), "b");
    let wait = engine.begin_or_wait_async(&b, &request, LEASE);
    assert!(matches!(wait.await.unwrap(), Outcome::Replay(_)));

    drop(engine.begin_async(&key("c"), &request).await.unwrap());
    bench.clock.advance(LEASE);
    let release = engine.resolve_async(&c, Resolution::Release);
    release.await.unwrap();
    engine.sweep_async().await.unwrap();
    engine.close_async().await.unwrap();
}

#[test]
fn every_form_works_on_tokio() {
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(every_form(&Bench::new()));
}

#[test]
fn every_form_works_on_tokios_single_thread() {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(every_form(&Bench::new()));
}

#[test]
fn every_form_works_on_smol() {
    smol::block_on(every_form(&Bench::new()));
}

#[test]
fn every_form_works_on_the_futures_executor() {
    futures::executor::block_on(every_form(&Bench::new()));
}

/// Polls once and drops the future, whatever it said.
fn poll_once_and_drop<F: Future>(future: F) -> bool {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    matches!(future.as_mut().poll(&mut context), Poll::Ready(_))
}

/// The writer has done everything that was queued before this returns.
fn settle(engine: &Engine) {
    let barrier = key("a key that nobody uses");
    engine.forget(&barrier).unwrap();
    engine.forget(&barrier).unwrap();
}

#[test]
fn a_begin_whose_future_is_dropped_grants_nobody() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut dropped = 0;
    for round in 0..200 {
        let name = round.to_string();
        let fingerprint = request();
        let name_key = key(&name);
        if poll_once_and_drop(engine.begin_async(&name_key, &fingerprint)) {
            // The answer was there before the poll: what was dropped is a guard, not a future.
            continue;
        }
        dropped += 1;
        settle(&engine);
        let guard = granted(&engine, &name);
        assert_eq!(guard.attempt(), 1);
    }
    assert!(dropped > 100, "only {dropped} futures were dropped in time");
}

#[test]
fn a_begin_that_is_dropped_unpolled_asks_for_nothing() {
    let bench = Bench::new();
    let engine = bench.open();
    drop(engine.begin_async(&key("key"), &request()));
    settle(&engine);
    assert_eq!(engine.stats().entries_written, 0);
}

#[test]
fn a_dropped_takeover_keeps_the_count_of_attempts() {
    let bench = Bench::new();
    let engine = bench.open();
    let fingerprint = request();
    for round in 0..20 {
        let name = round.to_string();
        drop(granted(&engine, &name));
        bench.clock.advance(LEASE);
        let name_key = key(&name);
        if !poll_once_and_drop(engine.begin_async(&name_key, &fingerprint)) {
            settle(&engine);
            assert_eq!(granted(&engine, &name).attempt(), 3);
            return;
        }
    }
    panic!("no future was dropped in time");
}

#[test]
fn a_completion_whose_future_is_dropped_takes_effect() {
    let bench = Bench::new();
    let engine = bench.open();
    let guard = granted(&engine, "key");
    poll_once_and_drop(guard.complete_async(Reply::new(200, "kept")));
    settle(&engine);
    let outcome = engine.begin(&key("key"), &request()).unwrap();
    assert!(matches!(outcome, Outcome::Replay(reply) if reply.body() == "kept"));
}

#[test]
fn a_completion_that_is_dropped_unpolled_abandons() {
    let bench = Bench::new();
    let engine = bench.open();
    drop(granted(&engine, "key").complete_async(Reply::new(200, "never")));
    in_flight(&engine, "key");
    bench.clock.advance(LEASE);
    assert_eq!(granted(&engine, "key").attempt(), 2);
}

#[test]
fn a_cold_replay_in_async_code_reads_in_another_thread() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .replay_cache_bytes(0)
        .open(bench.path())
        .unwrap();
    completed(&engine, "key", "body");
    let (name, fingerprint) = (key("key"), request());
    // If this thread read the record, the first poll would always have the answer.
    let mut waited = (0, 0);
    for _ in 0..50 {
        waited.0 += usize::from(!poll_once_and_drop(engine.begin_async(&name, &fingerprint)));
        waited.1 += usize::from(!poll_once_and_drop(engine.lookup_async(&name)));
    }
    assert!(waited.0 > 0 && waited.1 > 0, "{waited:?}");
}

#[test]
fn closing_ends_every_future_with_closed() {
    let bench = Bench::new();
    let engine = bench.open();
    let guard = granted(&engine, "key");
    let (name, fingerprint) = (key("key"), request());
    let waiter = engine.clone();
    let waiting = std::thread::spawn(move || {
        smol::block_on(waiter.begin_or_wait_async(&key("key"), &request(), LEASE))
            .map(drop)
            .unwrap_err()
    });
    eventually(|| engine.stats().waiters == 1);
    let other = engine.clone();
    engine.close().unwrap();
    assert_eq!(waiting.join().unwrap().kind(), ErrorKind::Closed);
    smol::block_on(async {
        let begin = other.begin_async(&name, &fingerprint).await;
        assert_eq!(begin.map(drop).unwrap_err().kind(), ErrorKind::Closed);
        let begin = other.begin_async(&name, &Fingerprint::of("other")).await;
        assert_eq!(begin.map(drop).unwrap_err().kind(), ErrorKind::Closed);
        let lookup = other.lookup_async(&name).await;
        assert_eq!(lookup.unwrap_err().kind(), ErrorKind::Closed);
        let sweep = other.sweep_async().await;
        assert_eq!(sweep.unwrap_err().kind(), ErrorKind::Closed);
        let complete = guard.complete_async(Reply::new(200, "late")).await;
        assert_eq!(complete.unwrap_err().kind(), ErrorKind::Closed);
        other.close_async().await.unwrap();
    });
}
