//! Histories of many threads on few keys, each held against the state table: some order of what overlaps has to
//! explain every answer.
//!
//! 20,000 operations in `cargo test`, 1,000,000 with `ONCEWARD_FULL=1`. Every other round the clock stands still; in
//! the others one of the threads moves it while the rest goes on, and an operation may have been decided at any of the
//! times that the clock has shown between its call and its return.

mod checker;
mod examples;
mod reference;
mod worker;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use onceward::Clock;

use crate::support::{Bench, is_full_run};
use checker::Event;
use reference::{Begun, Forgot, LEASE, Op, RETENTION, Time};
use worker::{Move, Round, Worker, ms};

const THREADS: usize = 32;
const KEYS: usize = 10;
const STEPS_PER_ROUND: usize = 4;
const ROUNDS_PER_OPEN: usize = 50;
/// How often each thing happened, so that it shows what the histories are made of.
fn kinds(events: &[(usize, Event)]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for (_, event) in events {
        let kind = match &event.op {
            Op::Begin {
                found: Begun::Proceed { attempt: 1, .. },
                ..
            } => "granted",
            Op::Begin {
                found: Begun::Proceed { .. },
                ..
            } => "taken over",
            Op::Begin {
                found: Begun::Replay { .. },
                ..
            } => "replayed",
            Op::Begin {
                found: Begun::Conflict,
                ..
            } => "conflicting",
            Op::Begin {
                found: Begun::InFlight { .. },
                ..
            } => "in flight",
            Op::Complete { is_done: true, .. } => "completed",
            Op::Release { is_done: true, .. } => "released",
            Op::Renew { until: Some(_), .. } => "renewed",
            Op::Complete { .. } | Op::Release { .. } | Op::Renew { .. } => "refused",
            Op::Forget(Forgot::Something) => "forgotten",
            Op::Forget(_) => "not forgotten",
            Op::Lookup(_) => "looked up",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Gives each event the times that the clock has shown between its call and its return.
fn set_times(events: &mut [(usize, Event)], start: Time, moves: &[Move]) {
    let mut times = vec![start];
    times.extend(moves.iter().scan(start, |now, moved| {
        *now += moved.by;
        Some(*now)
    }));
    for (_, event) in events {
        // A time is over once the next move has returned, and hasn't come before its own was called.
        let over = moves.partition_point(|moved| moved.returned < event.called);
        let come = moves.partition_point(|moved| moved.called < event.returned);
        event.times = times[over..=come].to_vec();
    }
}

/// Works in rounds until there are enough operations; gives them all, and how often the clock was moved.
fn history(operations: usize) -> (Vec<(usize, Event)>, usize) {
    let bench = Bench::new();
    let builder = bench
        .builder()
        .lease(Duration::from_millis(LEASE))
        .retention(Duration::from_millis(RETENTION))
        .sweep_interval(Duration::from_millis(50))
        .segment_entries(200)
        .merge_above(4)
        .replay_cache_bytes(2_000)
        .queue_wait(Duration::from_secs(600));
    let start = ms(bench.clock.wall());
    let moments = AtomicU64::new(0);
    let mut workers: Vec<_> = (0..THREADS).map(Worker::new).collect();
    let mut engine = builder.clone().open(bench.path()).unwrap();
    let done = |workers: &[Worker]| {
        workers
            .iter()
            .map(|worker| worker.events.len())
            .sum::<usize>()
    };
    for round in 0.. {
        if done(&workers) >= operations {
            break;
        }
        if round % ROUNDS_PER_OPEN == ROUNDS_PER_OPEN - 1 {
            for worker in &mut workers {
                worker.guards.clear();
            }
            engine.close().unwrap();
            engine = builder.clone().open(bench.path()).unwrap();
        }
        let round = Round {
            bench: &bench,
            engine: &engine,
            moments: &moments,
            is_clock_moving: round % 2 == 1,
        };
        std::thread::scope(|scope| {
            for worker in &mut workers {
                let round = &round;
                scope.spawn(move || (0..STEPS_PER_ROUND).for_each(|_| worker.step(round)));
            }
        });
        workers[0].pass(&round);
    }
    engine.close().unwrap();
    // One thread alone moves the clock.
    let moves = std::mem::take(&mut workers[0].moves);
    let events = workers.into_iter().flat_map(|worker| worker.events);
    let mut events: Vec<_> = events.collect();
    set_times(&mut events, start, &moves);
    (events, moves.len())
}

#[test]
fn histories_of_many_threads_are_those_of_the_state_table_in_some_order() {
    let operations = if is_full_run() { 1_000_000 } else { 20_000 };
    let (events, moves) = history(operations);
    let kinds = kinds(&events);
    assert_eq!(kinds.len(), 12, "{kinds:?}");
    let tokens = events.iter().filter_map(|(_, event)| match event.op {
        Op::Begin {
            found: Begun::Proceed { token, .. },
            ..
        } => Some(token),
        _ => None,
    });
    let tokens: Vec<_> = tokens.collect();
    let unique: HashSet<_> = tokens.iter().collect();
    assert_eq!(unique.len(), tokens.len(), "a token was given twice");
    let mut violations = 0;
    for number in 0..KEYS {
        let of_key = events.iter().filter(|(key, _)| *key == number);
        let of_key: Vec<_> = of_key.map(|(_, event)| event.clone()).collect();
        if let Err(violation) = checker::check(&of_key) {
            println!("key {number}: {violation}");
            violations += 1;
        }
    }
    println!(
        "{} operations, {moves} moves of the clock, {violations} violations: {kinds:?}",
        events.len()
    );
    assert_eq!(violations, 0);
}
