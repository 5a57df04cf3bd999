//! The power goes at any moment, and the disk keeps what was synced and any part of the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use onceward::faults::{Folder, Image, Op, Random, Recorder};
use onceward::{Builder, Clock, Engine, Fingerprint, Guard, ManualClock, Outcome, Reply, Terms};

use crate::expected::{Event, Expected, State, key};

const LEASE: Duration = Duration::from_secs(120);
const RETENTION: Duration = Duration::from_secs(3_600);
const KEYS: usize = 24;

/// Segments of a few requests, so that rolling, sealing, merging and sweeping happen all the time.
fn builder(clock: &ManualClock) -> Builder {
    Engine::builder()
        .clock(clock.clone())
        .lease(LEASE)
        .retention(RETENTION)
        .segment_entries(6)
        .merge_above(4)
        .cache_bytes(1 << 20)
        .replay_cache_bytes(0)
        .sweep_interval(Duration::from_secs(600))
}

/// A user who does one thing after the other.
struct User<'a> {
    engine: &'a Engine,
    clock: &'a ManualClock,
    recorder: &'a Recorder,
    random: Random,
    events: Vec<Event>,
    /// With their keys and retentions.
    guards: Vec<(usize, Duration, Guard)>,
    last_token: u64,
}

impl User<'_> {
    fn tell(&mut self, event: Event) {
        self.recorder.mark(self.events.len());
        self.events.push(event);
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=7 => self.begin(),
            8..=12 => self.complete(),
            13 => self.renew(),
            14..=15 => self.release(),
            16 => self.forget(),
            17 => {
                self.engine.sweep().unwrap();
            }
            18 => self.pass(Duration::from_secs(1)),
            _ => {
                let seconds = [30, 400, 1_500][self.random.below(3)];
                self.pass(Duration::from_secs(seconds));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        // Known before it passes: what the engine writes meanwhile may be of the later moment.
        self.tell(Event::Now(self.clock.wall() + time));
        self.clock.advance(time);
    }

    /// The key's state as the user knows it.
    fn last_of(&self, number: usize) -> State {
        let mut newest_first = self.events.iter().rev();
        let last = newest_first.find_map(|event| match event {
            Event::Returned(key, state) if *key == number => Some(state.clone()),
            _ => None,
        });
        last.unwrap_or(State::Free)
    }

    fn begin(&mut self) {
        let number = self.random.below(KEYS);
        let now = self.clock.wall();
        let last = self.last_of(number);
        // Some are kept for longer than their segment, and have to be carried forward.
        let kept_for = [RETENTION, RETENTION, 3 * RETENTION][self.random.below(3)];
        let attempt = match &last {
            State::Attempt {
                attempt,
                kept_until,
                ..
            } if now < *kept_until => attempt + 1,
            _ => 1,
        };
        let granted = State::Attempt {
            attempt,
            lease_until: now + LEASE,
            kept_until: now + kept_for,
        };
        self.tell(Event::Began(number, granted.clone()));
        let terms = Terms::new(LEASE, kept_for);
        let fingerprint = Fingerprint::of("request");
        let outcome = self.engine.begin_with(&key(number), &fingerprint, terms);
        let outcome = outcome.unwrap();
        assert!(
            last.allows(&outcome, now),
            "{outcome:?}, but the key is {last:?}"
        );
        let Outcome::Proceed(guard) = outcome else {
            return self.tell(Event::Returned(number, last));
        };
        assert!(guard.token() > self.last_token, "tokens rise");
        self.last_token = guard.token();
        self.tell(Event::Returned(number, granted));
        self.guards.push((number, kept_for, guard));
    }

    /// A guard, the retention it was granted with, and whether it surely still has its key.
    fn take_guard(&mut self) -> Option<(usize, Duration, Guard, bool)> {
        let count = self.guards.len();
        if count == 0 {
            return None;
        }
        let (number, kept_for, guard) = self.guards.swap_remove(self.random.below(count));
        let now = self.clock.wall();
        let is_current = match self.last_of(number) {
            State::Attempt {
                attempt,
                lease_until,
                ..
            } => attempt == guard.attempt() && now < lease_until,
            _ => false,
        };
        Some((number, kept_for, guard, is_current))
    }

    fn complete(&mut self) {
        let Some((number, kept_for, guard, is_current)) = self.take_guard() else {
            return;
        };
        let size = self.random.below(2_000);
        let body: Vec<u8> = (0..size)
            .map(|_| self.random.next().to_le_bytes()[0])
            .collect();
        let completed = State::Completed {
            attempt: guard.attempt(),
            body: body.clone(),
            kept_until: self.clock.wall() + kept_for,
        };
        self.tell(Event::Began(number, completed.clone()));
        let result = guard.complete(Reply::new(200, body));
        assert!(result.is_ok() || !is_current, "the holder was refused");
        let now = if result.is_ok() {
            completed
        } else {
            self.last_of(number)
        };
        self.tell(Event::Returned(number, now));
    }

    fn renew(&mut self) {
        let Some((number, kept_for, mut guard, true)) = self.take_guard() else {
            return;
        };
        let State::Attempt { kept_until, .. } = self.last_of(number) else {
            return;
        };
        let lease_until = self.clock.wall() + LEASE;
        let renewed = State::Attempt {
            attempt: guard.attempt(),
            lease_until,
            kept_until: kept_until.max(lease_until),
        };
        self.tell(Event::Began(number, renewed.clone()));
        guard.renew().unwrap();
        self.tell(Event::Returned(number, renewed));
        self.guards.push((number, kept_for, guard));
    }

    fn release(&mut self) {
        let Some((number, _, guard, true)) = self.take_guard() else {
            return;
        };
        let State::Attempt {
            attempt,
            kept_until,
            ..
        } = self.last_of(number)
        else {
            return;
        };
        // The first attempt leaves nothing behind; a later one is remembered, so that the next goes on counting.
        let released = if attempt == 1 {
            State::Free
        } else {
            State::Attempt {
                attempt,
                lease_until: self.clock.wall(),
                kept_until,
            }
        };
        self.tell(Event::Began(number, released.clone()));
        guard.release().unwrap();
        self.tell(Event::Returned(number, released));
    }

    fn forget(&mut self) {
        let number = self.random.below(KEYS);
        let last = self.last_of(number);
        self.tell(Event::Began(number, State::Free));
        let result = self.engine.forget(&key(number));
        let is_forgotten = matches!(result, Ok(true));
        let now = if is_forgotten { State::Free } else { last };
        self.tell(Event::Returned(number, now));
    }
}

/// Everything that happened in one life of a store.
struct Life {
    log: Vec<Op>,
    events: Vec<Event>,
}

fn live(path: &Path, seed: u64, steps: usize) -> Life {
    let clock = ManualClock::new();
    let recorder = Recorder::watch(path).unwrap();
    let engine = builder(&clock).open(path).unwrap();
    let mut user = User {
        engine: &engine,
        clock: &clock,
        recorder: &recorder,
        random: Random::new(seed),
        events: Vec::new(),
        guards: Vec::new(),
        last_token: 0,
    };
    user.tell(Event::Now(clock.wall()));
    for _ in 0..steps {
        user.step();
    }
    // Guards that are dropped leave their keys alone.
    let events = std::mem::take(&mut user.events);
    drop(user);
    engine.close().unwrap();
    let log = recorder.log();
    Life { log, events }
}

/// Puts a folder's files in the place of what is there. The lock file stays, which tells one folder from another.
fn lay(folder: &Folder, path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "LOCK" {
            fs::remove_file(path).unwrap();
        }
    }
    for (path, bytes) in folder {
        fs::write(path, bytes).unwrap();
    }
}

fn count_of(log: &[Op]) -> usize {
    let marks = log.iter().filter_map(|op| match op {
        Op::Mark(number) => Some(number + 1),
        _ => None,
    });
    marks.max().unwrap_or(0)
}

/// Opens what a cut left and checks it; the error names the case.
fn check(path: &Path, events: &[Event], case: &str) {
    let expected = Expected::after(events);
    let clock = ManualClock::at(expected.now.unwrap_or(SystemTime::UNIX_EPOCH));
    let engine = builder(&clock)
        .open(path)
        .unwrap_or_else(|error| panic!("{case}: {error:?}"));
    if let Err(problem) = expected.check(&engine) {
        panic!("{case}: {problem}");
    }
    // It goes on.
    let outcome = engine.begin(&key(KEYS), &Fingerprint::of("request"));
    let Outcome::Proceed(guard) = outcome.unwrap() else {
        panic!("{case}: a new key isn't free");
    };
    guard.complete(Reply::new(200, "")).unwrap();
    engine.close().unwrap();
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    (folder, path)
}

fn is_full() -> bool {
    std::env::var_os("ONCEWARD_FULL").is_some()
}

#[test]
fn a_cut_at_every_call_loses_nothing() {
    let (_folder, path) = folder();
    let life = live(&path, 1, 300);
    let mut image = Image::default();
    let mut cuts = 0;
    let every = if is_full() { 1 } else { 7 };
    for (at, op) in life.log.iter().enumerate() {
        image.apply(op);
        if matches!(op, Op::Mark(_)) || at % every != 0 {
            continue;
        }
        let case = format!("cut after call {at}, {}", op.summary());
        lay(&image.cut(&mut Random::new(at as u64)), &path);
        check(&path, &life.events[..count_of(&life.log[..=at])], &case);
        cuts += 1;
    }
    println!(
        "{cuts} cuts in a life of {} calls: nothing lost",
        life.log.len()
    );
}

#[test]
fn random_cuts_lose_nothing() {
    let (lives, cuts) = if is_full() { (100, 100) } else { (10, 20) };
    for seed in 0..lives {
        let (_folder, path) = folder();
        let life = live(&path, 1_000 + seed, 100);
        let mut random = Random::new(seed);
        let mut moments: Vec<usize> = (0..cuts).map(|_| random.below(life.log.len())).collect();
        moments.sort_unstable();
        let mut image = Image::default();
        let mut moments = moments.into_iter().peekable();
        for (at, op) in life.log.iter().enumerate() {
            image.apply(op);
            while moments.next_if_eq(&at).is_some() {
                let case = format!("life {seed}, cut after call {at}, {}", op.summary());
                lay(&image.cut(&mut random), &path);
                check(&path, &life.events[..count_of(&life.log[..=at])], &case);
            }
        }
    }
    println!("{} cuts in {lives} lives: nothing lost", lives * cuts);
}

#[test]
fn cuts_during_recovery_lose_nothing() {
    let (lives, cuts) = if is_full() { (50, 22) } else { (4, 5) };
    let mut made = [0, 0];
    for seed in 0..lives {
        let (_folder, path) = folder();
        let life = live(&path, 2_000 + seed, 100);
        let mut random = Random::new(seed);
        for cut in 0..cuts {
            let at = random.below(life.log.len());
            let mut image = Image::default();
            life.log[..=at].iter().for_each(|op| image.apply(op));
            let events = &life.events[..count_of(&life.log[..=at])];
            lay(&image.cut(&mut random), &path);
            // Every tenth is cut a third time.
            let depth = if cut % 10 == 0 { 2 } else { 1 };
            made[depth - 1] += 1;
            for _ in 0..depth {
                let now = Expected::after(events)
                    .now
                    .unwrap_or(SystemTime::UNIX_EPOCH);
                let recorder = Recorder::watch(&path).unwrap();
                let opened = builder(&ManualClock::at(now)).open(&path).unwrap();
                let log = recorder.log();
                drop(opened);
                drop(recorder);
                // What was there when it was opened is surely there.
                let base = log.iter().position(|op| matches!(op, Op::SyncFolder(_)));
                let base = base.unwrap_or(0);
                let at = base + random.below(log.len() - base);
                let mut image = Image::default();
                log[..=at].iter().for_each(|op| image.apply(op));
                lay(&image.cut(&mut random), &path);
            }
            check(
                &path,
                events,
                &format!("life {seed}, cut {cut} at {at}, cut again"),
            );
        }
    }
    println!(
        "{} double and {} triple cuts: nothing lost",
        made[0], made[1]
    );
}
