//! Calls of the system that fail: one, some in a row, and those that need room on a full disk.

use std::time::{Duration, Instant};

use onceward::faults::{Failures, Image, Random, Recorder};
use onceward::{Engine, EntryState, ErrorKind, Fingerprint, ManualClock, Outcome, Reply};

use crate::expected::key;
use crate::power_cuts::{Life, check_cut, folder, is_full};
use crate::user::{KEYS, User, builder};

/// How many steps a life has, and how many of them the disk fails at most.
const STEPS: usize = 150;
const FAILING_STEPS: usize = 30;
/// No call may take longer, whatever fails. Mostly they take a few milliseconds.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// What came of a life whose disk failed.
#[derive(Default)]
struct Lived {
    calls: usize,
    failed: usize,
    errors: usize,
    resumptions: u64,
    longest_call: Duration,
}

impl Lived {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.errors += other.errors;
        self.resumptions += other.resumptions;
        self.longest_call = self.longest_call.max(other.longest_call);
    }
}

fn open(path: &std::path::Path, clock: &ManualClock, recorder: &Recorder) -> Engine {
    builder(clock).open(path).unwrap_or_else(|error| {
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        recorder.fail(Failures::None);
        let opened = builder(clock).open(path);
        opened.unwrap_or_else(|error| panic!("after the disk is well again: {error:?}"))
    })
}

/// Waits until the engine has gone on by itself, and can read everything.
fn wait_until_well(engine: &Engine, case: &str) {
    let until = Instant::now() + HANGS_AFTER;
    loop {
        let unread = (0..KEYS).find_map(|number| engine.lookup(&key(number)).err());
        let unsound = engine.verify(|_| ()).map(|found| !found.is_sound());
        let unwell = engine.health().reason().map(ToString::to_string);
        if unread.is_none() && unwell.is_none() && unsound.as_ref().is_ok_and(|unsound| !unsound) {
            return;
        }
        assert!(
            Instant::now() < until,
            "{case}: it isn't well again: {unwell:?}, {unread:?}, {unsound:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lives through the failures, and checks what is left: in the engine that went on, and after power cuts.
fn live_through(which: Failures, seed: u64, cuts: usize) -> Lived {
    let case = format!("{which:?} in life {seed}");
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let recorder = Recorder::watch(&path).unwrap();
    recorder.fail(which);
    let engine = open(&path, &clock, &recorder);
    let mut user = User::new(&engine, &clock, &recorder, seed).tolerant();
    let mut failing_steps = 0;
    for _ in 0..STEPS {
        user.step();
        failing_steps += usize::from(recorder.calls().1 > 0);
        if failing_steps == FAILING_STEPS {
            // Kept: the counts begin anew.
            break;
        }
    }
    let (calls, failed) = recorder.calls();
    recorder.fail(Failures::None);
    wait_until_well(&engine, &case);
    user.no_longer_tolerant();
    for _ in 0..20 {
        user.step();
    }
    let log = recorder.log();
    if let Err(problem) = user.known().check(&engine) {
        panic!("{case}: {problem}");
    }
    let lived = Lived {
        calls,
        failed,
        errors: user.errors,
        resumptions: engine.stats().resumptions,
        longest_call: user.longest_call,
    };
    assert!(lived.longest_call < HANGS_AFTER, "{case}: a call hung");
    let events = std::mem::take(&mut user.events);
    drop(user);
    let closed = engine.close();
    assert!(closed.is_ok(), "{case}: {closed:?}");
    drop(recorder);
    let life = Life {
        name: case,
        log,
        events,
    };
    cut(&life, &path, seed, cuts);
    lived
}

/// Ends the process while the disk fails, goes on in another one, and checks what power cuts leave of that.
fn restart_during(which: Failures, seed: u64, cuts: usize) -> Lived {
    let name = format!("a restart during {which:?} in life {seed}");
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let recorder = Recorder::watch(&path).unwrap();
    recorder.fail(which);
    let engine = open(&path, &clock, &recorder);
    let mut user = User::new(&engine, &clock, &recorder, seed).tolerant();
    let mut failing_steps = 0;
    while failing_steps < 4 && user.events.len() < 4 * STEPS {
        user.step();
        failing_steps += usize::from(recorder.calls().1 > 0);
    }
    let (calls, failed) = recorder.calls();
    drop(engine.clone().close());
    recorder.fail(Failures::None);
    let again = builder(&clock).open(&path);
    let again = again.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let mut user = user.restarted(&again);
    user.no_longer_tolerant();
    for _ in 0..STEPS / 2 {
        user.step();
    }
    let lived = Lived {
        calls,
        failed,
        errors: user.errors,
        longest_call: user.longest_call,
        ..Lived::default()
    };
    let life = Life {
        name,
        log: recorder.log(),
        events: std::mem::take(&mut user.events),
    };
    drop(user);
    again.close().unwrap();
    drop(recorder);
    cut(&life, &path, seed, cuts);
    lived
}

/// Cuts the power at some moments of a life, and at its end.
fn cut(life: &Life, path: &std::path::Path, seed: u64, cuts: usize) {
    let mut random = Random::new(seed);
    let mut moments: Vec<usize> = (0..cuts).map(|_| random.below(life.log.len())).collect();
    moments.push(life.log.len() - 1);
    moments.sort_unstable();
    let mut moments = moments.into_iter().peekable();
    let mut image = Image::default();
    for (at, op) in life.log.iter().enumerate() {
        image.apply(op);
        while moments.next_if_eq(&at).is_some() {
            check_cut(&image, &mut random, life, at, path);
        }
    }
}

fn every_call(name: &str, every: usize, live: impl Fn(usize) -> Lived) {
    let calls = live_through(Failures::None, 1, 0).calls;
    let mut sum = Lived::default();
    let mut lives = 0;
    for after in (0..calls).step_by(every) {
        sum.add(&live(after));
        lives += 1;
    }
    println!(
        "{name}: {lives} lives, {} calls of the disk failed, {} calls of the engine with them, {} new segments; \
         the longest call took {:?}",
        sum.failed, sum.errors, sum.resumptions, sum.longest_call
    );
}

fn once(after: usize) -> Failures {
    Failures::Calls { after, count: 1 }
}

fn from_then_on(after: usize) -> Failures {
    Failures::Calls {
        after,
        count: usize::MAX,
    }
}

#[test]
fn any_one_call_that_fails_loses_nothing() {
    let every = if is_full() { 1 } else { 53 };
    every_call("one call fails", every, |after| {
        live_through(once(after), 1, 2)
    });
}

#[test]
fn calls_that_fail_for_a_while_lose_nothing() {
    let every = if is_full() { 1 } else { 97 };
    every_call("all calls fail for a while", every, |after| {
        live_through(from_then_on(after), 1, 2)
    });
}

#[test]
fn a_full_disk_loses_nothing_and_the_engine_goes_on_once_there_is_room() {
    let every = if is_full() { 1 } else { 97 };
    every_call("the disk is full for a while", every, |after| {
        live_through(Failures::NoRoom { after }, 1, 2)
    });
}

#[test]
fn a_restart_while_calls_fail_loses_nothing() {
    let every = if is_full() { 1 } else { 53 };
    every_call("a restart while all calls fail", every, |after| {
        restart_during(from_then_on(after), 1, 4)
    });
    every_call("a restart after one call has failed", every, |after| {
        restart_during(once(after), 1, 4)
    });
}

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

#[test]
#[ignore = "one case, again and again: ONCEWARD_CASE says which call fails"]
fn a_case_again() {
    let Ok(case) = std::env::var("ONCEWARD_CASE") else {
        return;
    };
    let after: usize = case.parse().unwrap();
    for _ in 0..20 {
        for after in after.saturating_sub(6)..after + 6 {
            live_through(once(after), 1, 150);
        }
    }
}
