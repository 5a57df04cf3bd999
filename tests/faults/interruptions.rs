//! What callers are told while the disk fails, and what is there afterwards.

use std::thread;
use std::time::{Duration, Instant};

use onceward::faults::{Failures, Image, Random, Recorder};
use onceward::{
    Clock, Engine, EntryState, ErrorKind, Fingerprint, Key, ManualClock, Outcome, Reply,
};

use crate::expected::{Event, State, key};
use crate::io_faults::{Failing, from_then_on, wait_until_well};
use crate::power_cuts::{Life, check_cut, folder, is_full};
use crate::user::{KEYS, LEASE, RETENTION, builder};

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

/// The key whose completion's sync fails.
const FAILS: usize = 10;

#[test]
fn while_the_disk_fails_everybody_is_told_and_what_is_in_memory_is_still_answered() {
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let recorder = Recorder::watch(&path).unwrap();
    let engine = builder(&clock).replay_cache_bytes(1 << 20);
    let engine = engine.open(&path).unwrap();
    let begin = |number| engine.begin(&key(number), &Fingerprint::of("request"));
    let Outcome::Proceed(known) = begin(0).unwrap() else {
        panic!("not granted");
    };
    known.complete(Reply::new(200, "known")).unwrap();
    let Outcome::Proceed(held) = begin(1).unwrap() else {
        panic!("not granted");
    };
    let waiter = {
        let engine = engine.clone();
        let patience = Duration::from_secs(3_600);
        let fingerprint = Fingerprint::of("request");
        std::thread::spawn(move || {
            let waited = engine.begin_or_wait(&key(1), &fingerprint, patience);
            waited.map(drop).unwrap_err().kind()
        })
    };
    while engine.stats().waiters == 0 {
        std::thread::yield_now();
    }
    recorder.fail(from_then_on(0));
    assert_eq!(begin(2).unwrap_err().kind(), ErrorKind::Io);
    // The one who waits is told, long before the lease ends.
    assert_eq!(waiter.join().unwrap(), ErrorKind::Unavailable);
    assert_eq!(begin(2).unwrap_err().kind(), ErrorKind::Unavailable);
    let reason = engine.health();
    let reason = reason.reason().unwrap();
    assert_eq!(reason.kind(), ErrorKind::Unavailable);
    assert!(matches!(begin(0).unwrap(), Outcome::Replay(_)));
    assert!(matches!(begin(1).unwrap(), Outcome::InFlight(_)));
    let (held, reply, error) = held
        .complete(Reply::new(200, "x"))
        .unwrap_err()
        .into_parts();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    recorder.fail(Failures::None);
    wait_until_well(&engine, "after the failures");
    held.complete(reply).unwrap();
    assert!(matches!(begin(1).unwrap(), Outcome::Replay(_)));
    let Outcome::Proceed(guard) = begin(2).unwrap() else {
        panic!("what failed took effect");
    };
    assert_eq!(guard.attempt(), 1);
    assert_eq!(engine.stats().resumptions, 1);
    // A store that is interrupted can be closed, and loses nothing by it.
    recorder.fail(from_then_on(0));
    assert_eq!(begin(3).unwrap_err().kind(), ErrorKind::Io);
    drop(engine.close());
    recorder.fail(Failures::None);
    let engine = builder(&clock).open(&path).unwrap();
    let entry = engine.lookup(&key(1)).unwrap().unwrap();
    assert!(matches!(entry.state, EntryState::Completed { .. }));
    assert!(engine.lookup(&key(2)).unwrap().is_some());
}

#[test]
fn a_caller_that_commits_alone_and_meets_an_error_leaves_nobody_behind() {
    let (_folder, path) = folder();
    let recorder = Recorder::watch(&path).unwrap();
    let engine = builder(&ManualClock::new()).segment_entries(10_000);
    let engine = engine.open(&path).unwrap();
    let begin = |name: String| engine.begin(&Key::new("tenant", name).unwrap(), &request());
    // Nobody else has anything to do, so that most of these callers commit in their own thread.
    for round in 0..20 {
        let Outcome::Proceed(guard) = begin(format!("sound {round}")).unwrap() else {
            panic!("a new key isn't free");
        };
        guard.complete(Reply::new(200, "body")).unwrap();
        recorder.fail(Failures::Syncs);
        let error = begin(format!("failing {round}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        recorder.fail(Failures::None);
        // Nobody asks for anything: it's the writer's thread that goes on.
        let since = Instant::now();
        while !engine.health().is_ready() {
            let has_time = since.elapsed() < Duration::from_secs(10);
            assert!(has_time, "the writer's thread never went on");
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(engine.stats().resumptions, 20);
}

#[test]
fn while_a_sync_takes_long_begins_are_refused_once_the_queue_is_full_and_completions_are_not() {
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let recorder = Recorder::watch(&path).unwrap();
    let wait = Duration::from_secs(5);
    let engine = builder(&clock).queue_depth(2).queue_wait(wait);
    let engine = engine.open(&path).unwrap();
    let begin = |number| {
        let engine = engine.clone();
        std::thread::spawn(move || engine.begin(&key(number), &Fingerprint::of("request")))
    };
    let Outcome::Proceed(guard) = begin(0).join().unwrap().unwrap() else {
        panic!("not granted");
    };
    recorder.hold_syncs(true);
    let mut begins = vec![begin(1)];
    while recorder.syncs_held() == 0 {
        std::thread::yield_now();
    }
    // Two more are queued, and two wait for room.
    begins.extend((2..6).map(begin));
    let completing = std::thread::spawn(move || guard.complete(Reply::new(200, "late")));
    while engine.stats().queued < 5 {
        std::thread::yield_now();
    }
    clock.advance(wait);
    while engine.stats().refused_overloaded < 2 {
        std::thread::yield_now();
    }
    recorder.hold_syncs(false);
    completing.join().unwrap().unwrap();
    let results = begins.into_iter().map(|begin| begin.join().unwrap());
    let refused: Vec<_> = results
        .filter_map(Result::err)
        .map(|error| error.kind())
        .collect();
    assert_eq!(refused, [ErrorKind::Overloaded; 2]);
}

/// Begins a key and completes it with a body that fills a page of the file by itself; gives whether both went through.
fn complete(bench: &Failing, engine: &Engine, number: usize, events: &mut Vec<Event>) -> bool {
    let now = bench.clock.wall();
    let attempt = State::Attempt {
        attempt: 1,
        lease_until: now + LEASE,
        kept_until: now + LEASE + RETENTION,
    };
    let body = vec![7; 3_000];
    let completed = State::Completed {
        attempt: 1,
        body: body.clone(),
        kept_until: now + RETENTION,
    };
    let Ok(Outcome::Proceed(guard)) = engine.begin(&key(number), &Fingerprint::of("request"))
    else {
        panic!("key {number} isn't granted");
    };
    events.push(Event::Settled(number, vec![attempt.clone()]));
    if number == FAILS {
        bench.recorder.fail(Failures::Syncs);
    }
    let is_completed = guard.complete(Reply::new(200, body)).is_ok();
    events.push(Event::Settled(
        number,
        match is_completed {
            true => vec![completed],
            false => vec![attempt, completed],
        },
    ));
    is_completed
}

#[test]
fn what_is_written_after_a_sync_of_a_former_process_failed_survives_power_cuts() {
    let cuts = if is_full() { 2_000 } else { 60 };
    let bench = Failing::open(Failures::None);
    bench.engine.clone().close().unwrap();
    let large = builder(&bench.clock).segment_entries(10_000);
    let mut events = vec![Event::Now(bench.clock.wall())];
    let first = large.clone().open(&bench.path).unwrap();
    for number in 0..=FAILS {
        assert_eq!(
            complete(&bench, &first, number, &mut events),
            number != FAILS
        );
    }
    // The page cache shows what never got to the disk, and nobody could note that.
    drop(first.close());
    bench.recorder.fail(Failures::None);
    let second = large.open(&bench.path).unwrap();
    for number in FAILS + 1..KEYS {
        assert!(complete(&bench, &second, number, &mut events));
    }
    bench.recorder.mark(events.len() - 1);
    let life = Life {
        name: "a life after a failed sync".to_owned(),
        log: bench.recorder.log(),
        events,
        has_failed: true,
    };
    second.close().unwrap();
    let Failing {
        _folder,
        path,
        recorder,
        ..
    } = bench;
    drop(recorder);
    let mut image = Image::default();
    life.log.iter().for_each(|op| image.apply(op));
    let last = life.log.len() - 1;
    for seed in 0..cuts {
        check_cut(&image, &mut Random::new(seed), &life, last, &path);
    }
    println!("{cuts} cuts after a failed sync and a restart: nothing lost");
}
