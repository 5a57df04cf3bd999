//! The power goes at any moment, and the disk keeps what was synced and any part of the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use onceward::faults::{Folder, Image, Op, Random, Recorder};
use onceward::{Fingerprint, ManualClock, Outcome, Reply};

use crate::expected::{Event, Expected, key};
use crate::user::{KEYS, User, builder};

/// Everything that happened in one life of a store.
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) log: Vec<Op>,
    pub(crate) events: Vec<Event>,
    /// Whether calls of the disk have failed.
    pub(crate) has_failed: bool,
}

fn live(path: &Path, seed: u64, steps: usize) -> Life {
    let clock = ManualClock::new();
    let recorder = Recorder::watch(path).unwrap();
    let engine = builder(&clock).open(path).unwrap();
    let mut user = User::new(&engine, &clock, &recorder, Random::new(seed));
    for _ in 0..steps {
        user.step();
    }
    // Guards that are dropped leave their keys alone.
    let events = std::mem::take(&mut user.events);
    drop(user);
    let agree = engine.do_counts_agree();
    assert_eq!(
        agree,
        Some(true),
        "the scopes' live keys are others than all"
    );
    engine.close().unwrap();
    let log = recorder.log();
    Life {
        name: format!("life {seed}"),
        log,
        events,
        has_failed: false,
    }
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

/// Opens what a cut left and checks it. Whether calls of the disk have failed before, too.
fn check(path: &Path, events: &[Event], has_failed: bool) -> Result<(), String> {
    let expected = Expected::after(events);
    let clock = ManualClock::at(expected.now.unwrap_or(SystemTime::UNIX_EPOCH));
    let opened = builder(&clock).open(path);
    let engine = opened.map_err(|error| format!("{error:?}"))?;
    expected.check(&engine)?;
    if !has_failed && engine.do_counts_agree().is_none() {
        return Err("the counts by scope are lost".to_owned());
    }
    // It goes on.
    let outcome = engine.begin(&key(KEYS), &Fingerprint::of("request"));
    let Outcome::Proceed(guard) = outcome.unwrap() else {
        return Err("a new key isn't free".to_owned());
    };
    guard.complete(Reply::new(200, "")).unwrap();
    engine.close().unwrap();
    Ok(())
}

/// Lays out what the power leaves after a call of a life, and checks it. A failure names the case, and what was
/// done to the files before.
pub(crate) fn check_cut(image: &Image, random: &mut Random, life: &Life, at: usize, path: &Path) {
    lay(&image.cut(random), path);
    let events = &life.events[..count_of(&life.log[..=at])];
    if let Err(problem) = check(path, events, life.has_failed) {
        let is_told = |op: &&Op| !matches!(op, Op::Write(..) | Op::Mark(_));
        let before = life.log[..=at].iter().filter(is_told);
        let before: Vec<String> = before.map(Op::summary).collect();
        let last = &before[before.len().saturating_sub(60)..];
        panic!(
            "{}, cut after call {at}, {}: {problem}; before:\n{}",
            life.name,
            life.log[at].summary(),
            last.join("\n")
        );
    }
}

pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    (folder, path)
}

pub(crate) fn is_full() -> bool {
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
        check_cut(&image, &mut Random::new(at as u64), &life, at, &path);
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
                check_cut(&image, &mut random, &life, at, &path);
            }
        }
    }
    println!("{} cuts in {lives} lives: nothing lost", lives * cuts);
}

#[test]
fn cuts_during_recovery_lose_nothing() {
    let (lives, cuts) = if is_full() { (53, 22) } else { (4, 5) };
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
            if let Err(problem) = check(&path, events, false) {
                panic!("life {seed}, cut {cut} at {at}, cut again: {problem}");
            }
        }
    }
    println!(
        "{} double and {} triple cuts: nothing lost",
        made[0], made[1]
    );
}
