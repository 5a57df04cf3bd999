//! Sweeping, rolling, sealing and merging beside begins and completions.

use std::fmt::Display;

use onceward::{Clock, Engine, ErrorKind, Key, Outcome, Terms};
use shuttle::thread;

use crate::explore::{Bench, DAY, RETENTION, explore, granted, key, reply, request};

fn complete(engine: &Engine, name: impl Display) {
    let name = name.to_string();
    let outcome = engine.begin(&key(&name), &request()).unwrap();
    granted(outcome).complete(reply(&name)).unwrap();
}

fn is_replayed(engine: &Engine, name: impl Display) {
    let name = name.to_string();
    match engine.begin(&key(&name), &request()).unwrap() {
        Outcome::Replay(found) => assert_eq!(found, reply(&name)),
        other => panic!("{name}: {other:?}"),
    }
}

fn is_sound(engine: &Engine) {
    let found = engine.verify(|_| ()).unwrap();
    assert!(found.is_sound(), "{found:?}");
}

/// Completes a key and begins it again at once.
fn complete_and_retry(engine: &Engine, clock: &impl Clock, name: usize) {
    let begun = clock.monotonic();
    let is_late = || clock.monotonic() - begun >= RETENTION;
    let guard = match engine.begin(&key(name), &request()) {
        Ok(outcome) => granted(outcome),
        // More than half of its lease was over twice, so that it was given back.
        Err(refused) => {
            assert_eq!(refused.kind(), ErrorKind::Unavailable);
            assert!(is_late());
            return;
        }
    };
    if let Err(refused) = guard.complete(reply(name)) {
        assert_eq!(refused.kind(), ErrorKind::LeaseLost);
        assert!(is_late());
        return;
    }
    match engine.begin(&key(name), &request()) {
        Ok(Outcome::Replay(found)) => assert_eq!(found, reply(name)),
        Ok(Outcome::Proceed(_)) => assert!(is_late()),
        Err(refused) if refused.kind() == ErrorKind::Unavailable => assert!(is_late()),
        other => panic!("{other:?}"),
    }
}

fn a_sweep_takes_nothing_that_is_wanted(bench: Bench) {
    let engine = bench.open();
    let begin_long = |name: &str| {
        let terms = Terms::new(DAY, DAY);
        granted(engine.begin_with(&key(name), &request(), terms).unwrap())
    };
    begin_long("kept").complete(reply("kept")).unwrap();
    let held = begin_long("held");
    let completing = begin_long("completing");
    let user = {
        let (engine, clock) = (engine.clone(), bench.clock.clone());
        thread::spawn(move || {
            for name in 0..3 {
                complete_and_retry(&engine, &clock, name);
            }
            completing.complete(reply("completing")).unwrap();
        })
    };
    for _ in 0..2 {
        bench.clock.advance(RETENTION);
        engine.sweep().unwrap();
    }
    user.join().unwrap();
    is_sound(&engine);
    drop(held);
    engine.close().unwrap();
    let engine = bench.open();
    for name in ["kept", "completing"] {
        is_replayed(&engine, name);
    }
    let outcome = engine.begin(&key("held"), &request()).unwrap();
    assert!(matches!(outcome, Outcome::InFlight(_)));
    engine.close().unwrap();
}

/// Somebody begins and looks back, somebody else walks through the segments, and these are sealed and merged.
fn segments_are_merged_beside_all_others(bench: Bench) {
    const KEYS: usize = 7;
    let engine = bench.open_with(|builder| builder.merge_above(4));
    let user = {
        let engine = engine.clone();
        thread::spawn(move || {
            for name in 0..KEYS {
                complete(&engine, name);
                is_replayed(&engine, name / 2);
            }
        })
    };
    is_sound(&engine);
    user.join().unwrap();
    is_sound(&engine);
    engine.close().unwrap();
    let engine = bench.open_with(|builder| builder.merge_above(4));
    for name in 0..KEYS {
        is_replayed(&engine, name);
    }
    engine.close().unwrap();
}

/// What is being published isn't taken for damage.
fn a_verification_races_with_a_begin(bench: Bench) {
    let engine = bench.open();
    let user = {
        let engine = engine.clone();
        thread::spawn(move || {
            complete(&engine, "key");
        })
    };
    is_sound(&engine);
    user.join().unwrap();
    engine.close().unwrap();
}

/// What stays as it is comes once, wherever it is moved meanwhile.
fn an_export_races_with_seals(bench: Bench) {
    let engine = bench.open();
    (0..2).for_each(|name| complete(&engine, name));
    let changing = granted(engine.begin(&key("changing"), &request()).unwrap());
    let user = {
        let engine = engine.clone();
        thread::spawn(move || {
            changing.complete(reply("changing")).unwrap();
            for name in 2..4 {
                complete(&engine, name);
            }
        })
    };
    let exported: Vec<Key> = engine
        .export()
        .map(|entry| entry.unwrap().key.unwrap())
        .collect();
    let count = |wanted: &Key| exported.iter().filter(|key| *key == wanted).count();
    assert_eq!([count(&key(0)), count(&key(1))], [1, 1], "{exported:?}");
    assert!((1..3).contains(&count(&key("changing"))), "{exported:?}");
    user.join().unwrap();
    engine.close().unwrap();
}

/// A retry reads an answer from the disk, and keeps it for the next one, while it is forgotten.
fn a_retry_races_with_a_forget(bench: Bench) {
    let open = || bench.open_with(|builder| builder.replay_cache_bytes(1 << 16));
    let engine = open();
    complete(&engine, "key");
    engine.close().unwrap();
    let engine = open();
    let retry = {
        let engine = engine.clone();
        thread::spawn(
            move || match engine.begin(&key("key"), &request()).unwrap() {
                Outcome::Replay(found) => {
                    assert_eq!(found, reply("key"));
                    None
                }
                outcome => Some(granted(outcome)),
            },
        )
    };
    // Unless the retry came later, and was granted the key.
    let forgotten = engine.forget(&key("key"));
    let retried = retry.join().unwrap();
    let outcome = engine.begin(&key("key"), &request()).unwrap();
    match (&forgotten, &retried) {
        (Ok(true), None) => assert_eq!(granted(outcome).attempt(), 1),
        (Ok(true), Some(_)) => assert!(matches!(outcome, Outcome::InFlight(_))),
        both => panic!("{both:?}"),
    }
    engine.close().unwrap();
}

#[test]
fn a_sweep_beside_begins_completions_and_rolls_takes_nothing_that_is_wanted() {
    explore("a sweep", a_sweep_takes_nothing_that_is_wanted);
}

#[test]
fn merging_beside_begins_and_a_verification_loses_nothing() {
    explore("merges", segments_are_merged_beside_all_others);
}

#[test]
fn what_was_forgotten_is_not_replayed_by_a_retry_that_read_it_before() {
    explore("a retry and a forget", a_retry_races_with_a_forget);
}

#[test]
fn a_verification_beside_a_begin_and_a_completion_finds_no_damage() {
    explore(
        "a verification and a begin",
        a_verification_races_with_a_begin,
    );
}

#[test]
fn an_export_beside_rolls_and_seals_tells_what_stays_as_it_is_once() {
    explore("an export", an_export_races_with_seals);
}
