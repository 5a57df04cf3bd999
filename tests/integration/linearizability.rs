//! Histories of many threads on few keys, each held against the state table: some order of what overlaps has to
//! explain every answer.
//!
//! 20,000 operations in `cargo test`, 1,000,000 with `ONCEWARD_FULL=1`. Every other round the clock stands still; in
//! the others one of the threads moves it while the rest goes on, and an operation may have been decided at any of the
//! times that the clock has shown between its call and its return.

mod checker;
mod examples;
mod mover;
mod reference;
mod verdict;
mod worker;

use std::collections::HashSet;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onceward::Clock as _;

use crate::support::{Bench, is_full_run};
use checker::Event;
use mover::{Move, Mover};
use reference::{Begun, LEASE, Op, RETENTION, Time};
use worker::{Round, Scale, Worker, ms};

const THREADS: usize = 32;
const KEYS: usize = 10;
const STEPS_PER_ROUND: usize = 4;
const ROUNDS_PER_OPEN: usize = 50;

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
    let moment = || moments.fetch_add(1, Ordering::SeqCst);
    let moving = RwLock::new(());
    let mut mover = Mover::new(&bench.clock, &moving);
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
            engine: &engine,
            scope: "tenant",
            scale: Scale::MS,
            moment: &moment,
            is_clock_moving: round % 2 == 1,
            moving: &moving,
        };
        std::thread::scope(|scope| {
            let mut mover = round.is_clock_moving.then_some(&mut mover);
            for worker in &mut workers {
                let round = &round;
                let mut mover = mover.take();
                scope.spawn(move || {
                    for _ in 0..STEPS_PER_ROUND {
                        let has_passed =
                            mover.as_mut().is_some_and(|mover| mover.may_pass(&moment));
                        if !has_passed {
                            worker.step(round);
                        }
                    }
                });
            }
        });
        mover.pass(&moment);
    }
    engine.close().unwrap();
    let events = workers.into_iter().flat_map(|worker| worker.events);
    let mut events: Vec<_> = events.collect();
    set_times(&mut events, start, &mover.moves);
    (events, mover.moves.len())
}

#[test]
fn histories_of_many_threads_are_those_of_the_state_table_in_some_order() {
    let operations = if is_full_run() { 1_000_000 } else { 20_000 };
    let (events, moves) = history(operations);
    let (violations, kinds) = verdict::on(&events, KEYS);
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
    println!(
        "{} operations, {moves} moves of the clock, {violations} violations: {kinds:?}",
        events.len()
    );
    assert_eq!(violations, 0);
    assert_eq!(kinds.len(), verdict::KINDS);
}
