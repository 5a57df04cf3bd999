//! `begin_or_wait`: woken, never polled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use onceward::{Engine, ErrorKind, Fingerprint, OnAbandon, Outcome, Reply, Resolution};

use crate::support::{Bench, LEASE, completed, eventually, granted, key, request};

const LONG: Duration = Duration::from_secs(3_600);

fn until_waiting(engine: &Engine, waiters: u64) {
    eventually(|| engine.stats().waiters == waiters);
}

/// A thread that waits for the key; gives what it got.
fn waiter(engine: &Engine, patience: Duration) -> std::thread::JoinHandle<Outcome> {
    let engine = engine.clone();
    std::thread::spawn(move || {
        engine
            .begin_or_wait(&key("key"), &request(), patience)
            .unwrap()
    })
}

#[test]
fn what_is_settled_already_is_not_waited_for() {
    let bench = Bench::new();
    let engine = bench.open();
    let begin = |fingerprint| {
        engine
            .begin_or_wait(&key("key"), &fingerprint, LONG)
            .unwrap()
    };
    let Outcome::Proceed(guard) = begin(request()) else {
        panic!("not granted");
    };
    assert!(matches!(
        begin(Fingerprint::of("other")),
        Outcome::Conflict(_)
    ));
    guard.complete(Reply::new(200, "")).unwrap();
    assert!(matches!(begin(request()), Outcome::Replay(_)));
}

#[test]
fn a_completion_wakes_every_waiter_with_the_reply() {
    for memory in [false, true] {
        let bench = Bench::new();
        let engine = if memory {
            bench.builder().open_in_memory().unwrap()
        } else {
            bench.open()
        };
        let guard = granted(&engine, "key");
        let waiters: Vec<_> = (0..20).map(|_| waiter(&engine, LONG)).collect();
        until_waiting(&engine, 20);
        guard.complete(Reply::new(200, "body")).unwrap();
        for waiter in waiters {
            let outcome = waiter.join().unwrap();
            assert!(matches!(outcome, Outcome::Replay(reply) if reply.body() == "body"));
        }
        assert_eq!(engine.stats().waiters, 0);
    }
}

#[test]
fn a_release_wakes_one_waiter_and_its_release_the_next() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut guard = granted(&engine, "key");
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let engine = engine.clone();
            std::thread::spawn(move || {
                let outcome = engine.begin_or_wait(&key("key"), &request(), LONG).unwrap();
                match outcome {
                    Outcome::Proceed(guard) => guard.release().unwrap(),
                    other => panic!("not granted: {other:?}"),
                }
            })
        })
        .collect();
    until_waiting(&engine, 10);
    guard.renew().unwrap();
    guard.release().unwrap();
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn the_end_of_a_lease_wakes_one_waiter_and_the_others_wait_for_that_one() {
    let bench = Bench::new();
    let engine = bench.open();
    drop(granted(&engine, "key"));
    let waiters: Vec<_> = (0..10).map(|_| waiter(&engine, LONG)).collect();
    until_waiting(&engine, 10);
    for granted in 1..=10 {
        bench.clock.advance(LEASE);
        let finished = || waiters.iter().filter(|waiter| waiter.is_finished()).count();
        eventually(|| finished() == granted);
        // One that had only just joined may look at the key once more on its own account.
        until_waiting(&engine, 10 - granted as u64);
        assert_eq!(finished(), granted);
    }
    let attempts: std::collections::BTreeSet<_> = waiters
        .into_iter()
        .map(|waiter| match waiter.join().unwrap() {
            Outcome::Proceed(guard) => guard.attempt(),
            other => panic!("not granted: {other:?}"),
        })
        .collect();
    assert!(attempts.into_iter().eq(2..=11));
}

#[test]
fn a_renewal_moves_the_moment_at_which_waiters_are_woken() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut guard = granted(&engine, "key");
    let waiter = waiter(&engine, LONG);
    until_waiting(&engine, 1);
    bench.clock.advance(LEASE / 2);
    guard.renew().unwrap();
    bench.clock.advance(LEASE);
    match waiter.join().unwrap() {
        Outcome::Proceed(guard) => assert_eq!(guard.attempt(), 2),
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn patience_ends_on_the_engines_clock() {
    let bench = Bench::new();
    let engine = bench.open();
    let _guard = granted(&engine, "key");
    let waiter = waiter(&engine, Duration::from_secs(10));
    until_waiting(&engine, 1);
    bench.clock.advance(Duration::from_secs(10));
    let outcome = waiter.join().unwrap();
    assert!(matches!(outcome, Outcome::InFlight(_)));
}

#[test]
fn no_patience_means_no_wait() {
    let bench = Bench::new();
    let engine = bench.open();
    let _guard = granted(&engine, "key");
    let outcome = engine.begin_or_wait(&key("key"), &request(), Duration::ZERO);
    assert!(matches!(outcome.unwrap(), Outcome::InFlight(_)));
}

#[test]
fn a_held_key_is_waited_for_until_it_is_resolved() {
    let bench = Bench::new();
    let builder = bench.builder().on_abandon(OnAbandon::Hold);
    let engine = builder.open(bench.path()).unwrap();
    drop(granted(&engine, "key"));
    let waiter = waiter(&engine, LONG);
    until_waiting(&engine, 1);
    bench.clock.advance(LEASE);
    // It looks again at the lease's end, and goes on waiting.
    bench.clock.advance(LEASE);
    until_waiting(&engine, 1);
    let reply = Resolution::Complete(Reply::new(200, "resolved"));
    engine.resolve(&key("key"), reply).unwrap();
    let outcome = waiter.join().unwrap();
    assert!(matches!(outcome, Outcome::Replay(reply) if reply.body() == "resolved"));
}

#[test]
fn a_waiter_that_goes_passes_its_turn_on() {
    let bench = Bench::new();
    let engine = bench.open();
    for round in 0..100 {
        let name = key(round.to_string());
        let fingerprint = request();
        let Outcome::Proceed(guard) = engine.begin(&name, &fingerprint).unwrap() else {
            panic!("not granted");
        };
        let mut first = Box::pin(engine.begin_or_wait_async(&name, &fingerprint, LONG));
        let mut second = Box::pin(engine.begin_or_wait_async(&name, &fingerprint, LONG));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        // The first is woken by the release, and goes without a further poll.
        guard.release().unwrap();
        drop(first);
        let outcome = futures::executor::block_on(second).unwrap();
        assert!(matches!(outcome, Outcome::Proceed(_)), "round {round}");
    }
    assert_eq!(engine.stats().waiters, 0);
}

#[test]
fn a_waiter_that_fails_at_its_turn_passes_it_on() {
    let bench = Bench::new();
    let engine = bench.builder().max_live_keys(1).open(bench.path()).unwrap();
    let (name, fingerprint) = (key("key"), request());
    let guard = granted(&engine, "key");
    let mut first = Box::pin(engine.begin_or_wait_async(&name, &fingerprint, LONG));
    let mut second = Box::pin(engine.begin_or_wait_async(&name, &fingerprint, LONG));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    guard.release().unwrap();
    // Before the first gets to it, another key takes the only place.
    let _other = granted(&engine, "other");
    let error = futures::executor::block_on(first).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    match second.as_mut().poll(&mut context) {
        std::task::Poll::Ready(result) => {
            assert_eq!(result.map(drop).unwrap_err().kind(), ErrorKind::Full);
        }
        std::task::Poll::Pending => panic!("the second was not woken"),
    }
}

/// Counts how often a waiting task is polled.
struct Counted<F> {
    future: std::pin::Pin<Box<F>>,
    polls: Arc<AtomicUsize>,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.future.as_mut().poll(context)
    }
}

#[test]
fn ten_thousand_waiters_on_one_key_are_woken_once() {
    const WAITERS: usize = 10_000;
    let bench = Bench::new();
    let engine = bench.open();
    let guard = granted(&engine, "key");
    let polls = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let engine = engine.clone();
            let future = async move {
                engine
                    .begin_or_wait_async(&key("key"), &request(), LONG)
                    .await
                    .unwrap()
            };
            runtime.spawn(Counted {
                future: Box::pin(future),
                polls: Arc::clone(&polls),
            })
        })
        .collect();
    until_waiting(&engine, WAITERS as u64);
    completed(&engine, "another key", "body");
    assert_eq!(polls.load(Ordering::Relaxed), WAITERS);
    guard.complete(Reply::new(200, "body")).unwrap();
    for outcome in runtime.block_on(join_all(waiters)) {
        assert!(matches!(outcome.unwrap(), Outcome::Replay(_)));
    }
    // Once to wait and once to be done.
    assert_eq!(polls.load(Ordering::Relaxed), 2 * WAITERS);
    assert_eq!(engine.stats().waiters, 0);
}
