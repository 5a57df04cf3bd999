//! The queue, and its end.

use onceward::{Engine, ErrorKind, Outcome};
use shuttle::thread::{self, JoinHandle};

use crate::explore::{Bench, DAY, explore, granted, key, reply, request};

const CALLERS: usize = 3;

/// How far somebody got.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// The begin was refused.
    Refused,
    /// It was granted, and the completion refused.
    Granted,
    Completed,
}

fn caller(engine: &Engine, name: usize) -> JoinHandle<Told> {
    let engine = engine.clone();
    thread::spawn(move || {
        let guard = match engine.begin(&key(name), &request()) {
            Ok(outcome) => granted(outcome),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Closed);
                return Told::Refused;
            }
        };
        assert_eq!(guard.attempt(), 1);
        match guard.complete(reply(name)) {
            Ok(()) => Told::Completed,
            Err(refused) => {
                assert_eq!(refused.kind(), ErrorKind::Closed);
                Told::Granted
            }
        }
    })
}

fn begins_race_with_the_close(bench: Bench) {
    // A queue of one, so that others are parked.
    let engine = bench.open_with(|builder| builder.queue_depth(1));
    let held = granted(engine.begin(&key("held"), &request()).unwrap());
    let waiter = {
        let engine = engine.clone();
        thread::spawn(move || {
            let waited = engine.begin_or_wait(&key("held"), &request(), DAY);
            waited.unwrap_err().kind()
        })
    };
    let callers = [0, 1, 2].map(|name| caller(&engine, name));
    engine.close().unwrap();
    let told: [Told; CALLERS] = callers.map(|caller| caller.join().unwrap());
    assert_eq!(waiter.join().unwrap(), ErrorKind::Closed);
    drop(held);
    let engine = bench.open();
    for (name, told) in told.into_iter().enumerate() {
        let outcome = engine.begin(&key(name), &request()).unwrap();
        match (told, &outcome) {
            (Told::Completed, Outcome::Replay(found)) => assert_eq!(*found, reply(name)),
            (Told::Granted, Outcome::InFlight(_) | Outcome::Replay(_)) => {}
            (Told::Refused, Outcome::Proceed(guard)) => assert_eq!(guard.attempt(), 1),
            both => panic!("{both:?}"),
        }
    }
    let held = engine.begin(&key("held"), &request()).unwrap();
    assert!(matches!(held, Outcome::InFlight(_)));
    engine.close().unwrap();
}

/// What is answered while the files are being closed is the truth, too.
fn looks_race_with_the_close(bench: Bench) {
    let engine = bench.open();
    for name in 0..2 {
        let outcome = engine.begin(&key(name), &request()).unwrap();
        granted(outcome).complete(reply(name)).unwrap();
    }
    let looking = {
        let engine = engine.clone();
        thread::spawn(move || match engine.lookup(&key(0)) {
            Ok(found) => assert!(found.is_some()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
        })
    };
    let beginning = {
        let engine = engine.clone();
        thread::spawn(move || match engine.begin(&key(1), &request()) {
            Ok(Outcome::Replay(found)) => assert_eq!(found, reply(1)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
        })
    };
    engine.close().unwrap();
    looking.join().unwrap();
    beginning.join().unwrap();
    assert!(bench.open().lookup(&key(0)).unwrap().is_some());
}

fn a_full_queue_parks_begins(bench: Bench) {
    let engine = bench.open_with(|builder| builder.queue_depth(1));
    let callers = [0, 1, 2].map(|name| caller(&engine, name));
    for caller in callers {
        assert!(matches!(caller.join().unwrap(), Told::Completed));
    }
    engine.close().unwrap();
}

#[test]
fn every_call_that_races_with_the_close_returns_and_what_was_acknowledged_is_kept() {
    explore("begins and a close", begins_race_with_the_close);
}

#[test]
fn what_is_looked_up_during_the_close_is_found_or_refused() {
    explore("looks and a close", looks_race_with_the_close);
}

#[test]
fn begins_that_find_the_queue_full_are_all_answered() {
    explore("a full queue", a_full_queue_parks_begins);
}
