//! A thread of the store panics: at each of its steps, for the first time and later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use onceward::faults::{Failures, Recorder};
use onceward::{
    Clock, Engine, ErrorKind, Fingerprint, Key, ManualClock, Outcome, Reply, Stats, Terms,
};

use crate::power_cuts::{folder, is_full};
use crate::user::{RETENTION, builder};

/// The steps of the writer, after which nothing can be granted any more.
const OF_THE_WRITER: [&str; 10] = [
    "Decided",
    "Committing",
    "Committed",
    "Publishing",
    "Published",
    "Answering",
    "Rolling",
    "RollListed",
    "Interrupted",
    "Resuming",
];
/// The steps of the sealer and the sweeper, after which everything goes on.
const OF_OTHERS: [&str; 11] = [
    "Sealing",
    "SealWritten",
    "SealRenamed",
    "SealListed",
    "Merging",
    "MergeWritten",
    "MergeListed",
    "Tidied",
    "Carried",
    "Unlisted",
    "Unlinked",
];
const DAY: Duration = Duration::from_secs(86_400);
const CALLERS: usize = 4;
/// A step that isn't come to by then isn't one.
const GIVES_UP_AFTER: Duration = Duration::from_secs(10);
/// No call may take longer.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// What callers were told before the panic, and how long the slowest call took.
struct Told {
    /// With the times at which the answers are over at the earliest.
    acknowledged: Vec<(Key, SystemTime)>,
    slowest: Duration,
    error: Option<ErrorKind>,
}

/// Begins and completes until a call fails or it is told to stop.
fn caller(
    engine: Engine,
    name: usize,
    clock: ManualClock,
    is_over: Arc<AtomicBool>,
) -> JoinHandle<Told> {
    thread::spawn(move || {
        let mut told = Told {
            acknowledged: Vec::new(),
            slowest: Duration::ZERO,
            error: None,
        };
        for number in 0.. {
            // Or the sealer never gets round to merging. It may rest, though, after an error of the
            // disk.
            let is_behind = |stats: Stats| stats.segments - stats.sealed_segments > 2;
            let mut longest = 50;
            while is_behind(engine.stats()) && longest > 0 {
                thread::sleep(Duration::from_millis(1));
                longest -= 1;
            }
            thread::sleep(Duration::from_millis(8));
            let key = Key::new("tenant", format!("{name} {number}")).unwrap();
            let over_at = clock.wall() + RETENTION;
            let begun = Instant::now();
            let result = complete(&engine, &key);
            told.slowest = told.slowest.max(begun.elapsed());
            match result {
                Ok(()) => told.acknowledged.push((key, over_at)),
                Err(error) if is_over.load(Ordering::SeqCst) => {
                    told.error = Some(error);
                    break;
                }
                // A failure of the disk comes before some of the panics.
                Err(error) => assert!(
                    [ErrorKind::Io, ErrorKind::Unavailable, ErrorKind::Failed].contains(&error),
                    "{error:?}"
                ),
            }
            if is_over.load(Ordering::SeqCst) {
                break;
            }
        }
        told
    })
}

fn complete(engine: &Engine, key: &Key) -> Result<(), ErrorKind> {
    let outcome = engine.begin(key, &Fingerprint::of("request"));
    match outcome.map_err(|error| error.kind())? {
        Outcome::Proceed(guard) => {
            let completed = guard.complete(Reply::new(200, vec![7; 300]));
            completed.map_err(|refused| refused.kind())
        }
        other => panic!("a new key gives {other:?}"),
    }
}

/// Waits for a key that somebody holds.
fn waiter(engine: &Engine) -> JoinHandle<Option<ErrorKind>> {
    let key = Key::new("tenant", "held").unwrap();
    let fingerprint = Fingerprint::of("request");
    let terms = Terms::new(DAY, DAY);
    let outcome = engine.begin_with(&key, &fingerprint, terms).unwrap();
    // Abandoned, and held until its lease ends.
    assert!(matches!(outcome, Outcome::Proceed(_)));
    let waiting = engine.clone();
    let waiter = thread::spawn(move || {
        let waited = waiting.begin_or_wait(&key, &fingerprint, DAY);
        waited.err().map(|error| error.kind())
    });
    while engine.stats().waiters == 0 {
        thread::yield_now();
    }
    waiter
}

/// Lets a thread panic under load and checks what follows. Gives the longest that a call took, or that anybody waited to
/// be told after the panic; `None` if there was no panic.
fn panic_under_load(step: &str, nth: usize) -> Option<Duration> {
    let case = format!("{step} for the time {nth}");
    let is_over = Arc::new(AtomicBool::new(false));
    let (_folder, path) = folder();
    let clock = ManualClock::new();
    let recorder = Recorder::watch(&path).unwrap();
    let engine = builder(&clock).open(&path).unwrap();
    let waiter = waiter(&engine);
    recorder.panic_at(step, nth);
    let callers: Vec<_> = (0..CALLERS)
        .map(|name| caller(engine.clone(), name, clock.clone(), Arc::clone(&is_over)))
        .collect();
    let began = Instant::now();
    let needs_failures = ["Interrupted", "Resuming"].contains(&step);
    let one = Failures::Calls {
        after: 50,
        count: 1,
    };
    if needs_failures {
        recorder.fail(one);
    }
    while !recorder.has_panicked() && began.elapsed() < GIVES_UP_AFTER {
        thread::sleep(Duration::from_millis(2));
        clock.advance(RETENTION / 400);
        drop(engine.sweep());
        if needs_failures && recorder.calls().1 > 0 {
            recorder.fail(one);
        }
    }
    let has_panicked = recorder.has_panicked();
    recorder.fail(Failures::None);
    is_over.store(true, Ordering::SeqCst);
    let panicked = Instant::now();
    let told: Vec<Told> = callers
        .into_iter()
        .map(|caller| caller.join().unwrap())
        .collect();
    let mut slowest = told.iter().map(|told| told.slowest).max().unwrap();
    assert!(slowest < HANGS_AFTER, "{case}: a call took {slowest:?}");
    if has_panicked && OF_THE_WRITER.contains(&step) {
        // Everybody is told, and nothing is granted. Who waited was told of the interruption
        // before, if there was one.
        let told_waiter = waiter.join().unwrap();
        let was_interrupted = needs_failures && told_waiter == Some(ErrorKind::Unavailable);
        assert!(
            was_interrupted || told_waiter == Some(ErrorKind::Failed),
            "{case}: {told_waiter:?}"
        );
        slowest = slowest.max(panicked.elapsed());
        // The failure of the disk may have been told, too, where it came first.
        let is_told =
            |kind| kind == ErrorKind::Failed || needs_failures && kind != ErrorKind::Closed;
        assert!(told.iter().all(|told| told.error.is_none_or(is_told)));
        let new = Key::new("tenant", "new").unwrap();
        assert_eq!(complete(&engine, &new), Err(ErrorKind::Failed), "{case}");
        assert!(!engine.health().is_ready(), "{case}");
        drop(engine.close());
    } else {
        assert_eq!(
            complete(&engine, &Key::new("tenant", "new").unwrap()),
            Ok(()),
            "{case}"
        );
        assert!(engine.health().is_ready(), "{case}");
        engine.sweep().unwrap();
        engine.close().unwrap();
        drop(waiter.join());
    }
    drop(recorder);
    let engine = builder(&clock).open(&path).unwrap();
    let found = engine.verify(|_| ()).unwrap();
    assert!(found.is_sound(), "{case}: {found:?}");
    let now = clock.wall();
    for (key, over_at) in told.iter().flat_map(|told| &told.acknowledged) {
        let outcome = engine.begin(key, &Fingerprint::of("request")).unwrap();
        assert!(
            *over_at <= now || matches!(outcome, Outcome::Replay(_)),
            "{case}: {key:?} gives {outcome:?}"
        );
    }
    has_panicked.then_some(slowest)
}

fn panic_at_each(steps: &[&str]) {
    let times = if is_full() { 20 } else { 2 };
    let mut panics = 0;
    let mut slowest = Duration::ZERO;
    for step in steps {
        for nth in 0..times {
            let waited = panic_under_load(step, nth);
            slowest = slowest.max(waited.unwrap_or_else(|| panic!("{step} isn't come to")));
            panics += 1;
        }
    }
    println!(
        "{panics} panics at {} steps: everybody was told; the longest took {slowest:.1?}",
        steps.len()
    );
}

#[test]
fn after_a_panic_of_the_writer_everybody_is_told_and_nothing_is_granted() {
    panic_at_each(&OF_THE_WRITER);
}

#[test]
fn after_a_panic_of_the_sealer_or_the_sweeper_everything_goes_on() {
    panic_at_each(&OF_OTHERS);
}
