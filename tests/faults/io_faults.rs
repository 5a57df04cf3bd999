//! Calls of the system that fail: one, some in a row, and those that need room on a full disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onceward::faults::{Failures, Image, Random, Recorder};
use onceward::{Engine, ErrorKind, ManualClock};

use tempfile::TempDir;

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

/// A store whose disk fails.
pub(crate) struct Failing {
    pub(crate) _folder: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) clock: ManualClock,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) engine: Engine,
}

impl Failing {
    /// The open may fail with the disk, too, and has to succeed once that is well.
    pub(crate) fn open(which: Failures) -> Self {
        let (folder, path) = folder();
        let clock = ManualClock::new();
        let recorder = Recorder::watch(&path).unwrap();
        recorder.fail(which);
        let engine = builder(&clock).open(&path).unwrap_or_else(|error| {
            assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
            recorder.fail(Failures::None);
            let opened = builder(&clock).open(&path);
            opened.unwrap_or_else(|error| panic!("after the disk is well again: {error:?}"))
        });
        Self {
            _folder: folder,
            path,
            clock,
            recorder,
            engine,
        }
    }

    /// A user who makes these choices.
    pub(crate) fn user_by(&self, random: Random) -> User<'_> {
        User::new(&self.engine, &self.clock, &self.recorder, random).tolerant()
    }

    fn user(&self, seed: u64) -> User<'_> {
        self.user_by(Random::new(seed))
    }
}

/// Waits until the engine has gone on by itself, and can read everything.
pub(crate) fn wait_until_well(engine: &Engine, case: &str) {
    let until = Instant::now() + HANGS_AFTER;
    loop {
        // The writer may still be about to learn of a call that failed before: it answers this after that.
        let unswept = engine.sweep().err();
        let unread = (0..KEYS).find_map(|number| engine.lookup(&key(number)).err());
        let unsound = engine.verify(|_| ()).map(|found| !found.is_sound());
        let unwell = engine.health().reason().map(ToString::to_string);
        let is_well = unswept.is_none() && unwell.is_none() && unread.is_none();
        if is_well && unsound.as_ref().is_ok_and(|unsound| !unsound) {
            return;
        }
        assert!(
            Instant::now() < until,
            "{case}: it isn't well again: {unwell:?}, {unswept:?}, {unread:?}, {unsound:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lives through the failures, and checks what is left: in the engine that went on, and after power cuts.
fn live_through(which: Failures, seed: u64, cuts: usize) -> Lived {
    let case = format!("{which:?} in life {seed}");
    let bench = Failing::open(which);
    let mut user = bench.user(seed);
    let mut failing_steps = 0;
    for _ in 0..STEPS {
        user.step();
        failing_steps += usize::from(bench.recorder.calls().1 > 0);
        if failing_steps == FAILING_STEPS {
            // Kept: the counts begin anew.
            break;
        }
    }
    let (calls, failed) = bench.recorder.calls();
    bench.recorder.fail(Failures::None);
    wait_until_well(&bench.engine, &case);
    user.no_longer_tolerant();
    for _ in 0..20 {
        user.step();
    }
    let log = bench.recorder.log();
    if let Err(problem) = user.known().check(&bench.engine) {
        panic!("{case}: {problem}");
    }
    let lived = Lived {
        calls,
        failed,
        errors: user.errors,
        resumptions: bench.engine.stats().resumptions,
        longest_call: user.longest_call,
    };
    assert!(lived.longest_call < HANGS_AFTER, "{case}: a call hung");
    let events = std::mem::take(&mut user.events);
    drop(user);
    let Failing {
        _folder,
        path,
        recorder,
        engine,
        ..
    } = bench;
    let closed = engine.close();
    drop(recorder);
    assert!(closed.is_ok(), "{case}: {closed:?}");
    let life = Life {
        name: case,
        log,
        events,
        has_failed: true,
    };
    cut(&life, &path, seed, cuts);
    lived
}

/// Ends the process while the disk fails, goes on in another one, and checks what power cuts leave of that.
fn restart_during(which: Failures, seed: u64, cuts: usize) -> Lived {
    let name = format!("a restart during {which:?} in life {seed}");
    let bench = Failing::open(which);
    let mut user = bench.user(seed);
    let mut failing_steps = 0;
    while failing_steps < 4 && user.events.len() < 4 * STEPS {
        user.step();
        failing_steps += usize::from(bench.recorder.calls().1 > 0);
    }
    let (calls, failed) = bench.recorder.calls();
    drop(bench.engine.clone().close());
    bench.recorder.fail(Failures::None);
    let again = builder(&bench.clock).open(&bench.path);
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
        log: bench.recorder.log(),
        events: std::mem::take(&mut user.events),
        has_failed: true,
    };
    drop(user);
    again.close().unwrap();
    let Failing {
        _folder,
        path,
        recorder,
        ..
    } = bench;
    drop(recorder);
    cut(&life, &path, seed, cuts);
    lived
}

/// Cuts the power at some moments of a life, and at its end.
pub(crate) fn cut(life: &Life, path: &std::path::Path, seed: u64, cuts: usize) {
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

pub(crate) fn from_then_on(after: usize) -> Failures {
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
