//! One key, and several who want it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onceward::{Engine, ErrorKind, Outcome};
use shuttle::rand::Rng;
use shuttle::sync::mpsc;
use shuttle::thread::{self, JoinHandle};

use crate::explore::{Bench, DAY, LEASE, explore, granted, key, reply, request};

/// What somebody who began was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Granted with this token, and completed.
    Completed(u64),
    /// Granted, but another one was granted the key before the completion.
    Lost,
    /// Granted, and released.
    Released,
    Replay(String),
    InFlight,
}

fn told(outcome: Outcome, name: &str) -> Told {
    match outcome {
        Outcome::Proceed(guard) => {
            let token = guard.token();
            match guard.complete(reply(name)) {
                Ok(()) => Told::Completed(token),
                Err(refused) if refused.kind() == ErrorKind::LeaseLost => Told::Lost,
                Err(refused) => panic!("{refused:?}"),
            }
        }
        Outcome::Replay(reply) => Told::Replay(String::from_utf8(reply.body().to_vec()).unwrap()),
        Outcome::InFlight(_) => Told::InFlight,
        Outcome::Conflict(conflict) => panic!("{conflict:?}"),
    }
}

/// Begins the key, waits for it, and completes it if it is granted.
fn caller(engine: &Engine, name: &'static str, patience: Duration) -> JoinHandle<Told> {
    let engine = engine.clone();
    thread::spawn(move || {
        let outcome = engine.begin_or_wait(&key("key"), &request(), patience);
        told(outcome.unwrap(), name)
    })
}

fn are_completed_once(all: &[Told], by: &str) {
    let completed = all.iter().filter(|told| matches!(told, Told::Completed(_)));
    assert_eq!(completed.count(), 1, "{all:?}");
    for told in all {
        if let Told::Replay(body) = told {
            assert!(by.is_empty() || body == by, "{all:?}");
        }
    }
}

fn of_several_who_begin_one_is_granted(bench: Bench) {
    let engine = bench.open();
    let callers = ["first", "second", "third"].map(|name| caller(&engine, name, DAY));
    let all = callers.map(|caller| caller.join().unwrap());
    are_completed_once(&all, "");
    let bodies: Vec<&Told> = all
        .iter()
        .filter(|told| matches!(told, Told::Replay(_)))
        .collect();
    assert_eq!(bodies.len(), 2, "{all:?}");
    assert_eq!(bodies[0], bodies[1]);
    engine.close().unwrap();
}

fn a_late_completion_or_a_takeover_wins(bench: Bench) {
    let engine = bench.open();
    let owner = granted(engine.begin(&key("key"), &request()).unwrap());
    let token = owner.token();
    let waiter = caller(&engine, "waiter", DAY);
    let clock = bench.clock.clone();
    let time = thread::spawn(move || clock.advance(LEASE));
    let late = told(Outcome::Proceed(owner), "owner");
    let waited = waiter.join().unwrap();
    time.join().unwrap();
    match (&late, &waited) {
        (Told::Completed(_), Told::Replay(body)) => assert_eq!(body, "owner"),
        (Told::Lost, Told::Completed(newer)) => assert!(*newer > token),
        both => panic!("{both:?}"),
    }
    engine.close().unwrap();
}

/// Whoever takes an attempt over abandons it in turn.
fn each_lease_s_end_wakes_one(bench: Bench) {
    let engine = bench.open();
    drop(granted(engine.begin(&key("key"), &request()).unwrap()));
    let (granting, grants) = mpsc::channel();
    let waiters = [granting.clone(), granting].map(|granting| {
        let engine = engine.clone();
        thread::spawn(move || {
            let outcome = engine.begin_or_wait(&key("key"), &request(), DAY);
            let guard = granted(outcome.unwrap());
            granting.send(guard.attempt()).unwrap();
        })
    });
    for attempt in 2..4 {
        bench.clock.advance(LEASE);
        assert_eq!(grants.recv(), Ok(attempt));
    }
    for waiter in waiters {
        waiter.join().unwrap();
    }
    engine.close().unwrap();
}

fn a_release_wakes_the_next_waiter(bench: Bench) {
    let engine = bench.open();
    let owner = granted(engine.begin(&key("key"), &request()).unwrap());
    let releasing = {
        let engine = engine.clone();
        thread::spawn(move || {
            let outcome = engine.begin_or_wait(&key("key"), &request(), DAY);
            match outcome.unwrap() {
                Outcome::Proceed(guard) => {
                    guard.release().unwrap();
                    Told::Released
                }
                other => told(other, ""),
            }
        })
    };
    let completing = caller(&engine, "completing", DAY);
    owner.release().unwrap();
    let all = [releasing.join().unwrap(), completing.join().unwrap()];
    are_completed_once(&all, "completing");
    engine.close().unwrap();
}

/// One waiter's patience ends while the key comes to be free.
fn a_waiter_who_gives_up_passes_the_turn_on(bench: Bench) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let engine = bench.open();
    let owner = granted(engine.begin(&key("key"), &request()).unwrap());
    let impatient = caller(&engine, "impatient", PATIENCE);
    let patient = caller(&engine, "patient", DAY);
    let clock = bench.clock.clone();
    let time = thread::spawn(move || clock.advance(PATIENCE));
    owner.release().unwrap();
    let all = [impatient.join().unwrap(), patient.join().unwrap()];
    time.join().unwrap();
    are_completed_once(&all, "");
    assert_ne!(all[1], Told::InFlight);
    engine.close().unwrap();
}

/// One waiter's begin is refused, because others fill the queue and time goes on.
fn a_waiter_who_is_refused_passes_the_turn_on(bench: Bench) {
    const QUEUE_WAIT: Duration = Duration::from_millis(1);
    let engine = bench.open_with(|builder| builder.queue_depth(1).queue_wait(QUEUE_WAIT));
    let owner = granted(engine.begin(&key("key"), &request()).unwrap());
    let waiter = || {
        let engine = engine.clone();
        thread::spawn(move || {
            let outcome = engine.begin_or_wait(&key("key"), &request(), DAY);
            outcome
                .map(|outcome| told(outcome, ""))
                .map_err(|error| error.kind())
        })
    };
    let waiting = [waiter(), waiter()];
    let crowd = [0, 1, 2].map(|member| {
        let (engine, clock) = (engine.clone(), bench.clock.clone());
        thread::spawn(move || {
            for number in 0..3 {
                let _granted_or_refused = engine.begin(&key(10 * member + number), &request());
                clock.advance(QUEUE_WAIT);
            }
        })
    });
    owner.release().unwrap();
    let told = waiting.map(|waiter| waiter.join().unwrap());
    crowd.into_iter().for_each(|member| member.join().unwrap());
    let refused = told
        .iter()
        .filter(|told| **told == Err(ErrorKind::Overloaded));
    let completed = told
        .iter()
        .filter(|told| matches!(told, Ok(Told::Completed(_))));
    let expected = usize::from(refused.count() < 2);
    assert_eq!(completed.count(), expected, "{told:?}");
    engine.close().unwrap();
}

/// One waiter's future is dropped, perhaps with the turn or with a grant in it.
fn a_waiter_who_is_dropped_passes_the_turn_on(bench: Bench) {
    let engine = bench.open();
    let owner = granted(engine.begin(&key("key"), &request()).unwrap());
    let dropped = {
        let engine = engine.clone();
        thread::spawn(move || {
            let (key, request) = (key("key"), request());
            let mut waiting = pin!(engine.begin_or_wait_async(&key, &request, DAY));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..shuttle::rand::thread_rng().gen_range(1..=3) {
                if let Poll::Ready(outcome) = waiting.as_mut().poll(&mut context) {
                    return Some(told(outcome.unwrap(), "dropped"));
                }
                thread::yield_now();
            }
            None
        })
    };
    let patient = caller(&engine, "patient", DAY);
    owner.release().unwrap();
    let mut all = vec![patient.join().unwrap()];
    all.extend(dropped.join().unwrap());
    are_completed_once(&all, "");
    assert_ne!(all[0], Told::InFlight);
    engine.close().unwrap();
}

#[test]
fn of_several_who_begin_a_key_one_is_granted_it_and_all_get_its_reply() {
    explore("several begin one key", of_several_who_begin_one_is_granted);
}

#[test]
fn at_the_lease_s_end_a_late_completion_or_a_takeover_wins() {
    explore("a lease ends", a_late_completion_or_a_takeover_wins);
}

#[test]
fn each_lease_that_ends_wakes_the_next_waiter() {
    explore("leases end in turn", each_lease_s_end_wakes_one);
}

#[test]
fn each_release_wakes_the_next_waiter() {
    explore("a release", a_release_wakes_the_next_waiter);
}

#[test]
fn a_waiter_whose_patience_ends_takes_no_turn_along() {
    explore(
        "a waiter's patience ends",
        a_waiter_who_gives_up_passes_the_turn_on,
    );
}

#[test]
fn a_waiter_who_is_refused_takes_no_turn_along() {
    explore(
        "a waiter is refused",
        a_waiter_who_is_refused_passes_the_turn_on,
    );
}

#[test]
fn a_waiter_whose_future_is_dropped_takes_no_turn_along() {
    explore(
        "a waiter's future is dropped",
        a_waiter_who_is_dropped_passes_the_turn_on,
    );
}
