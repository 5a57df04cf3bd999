//! What stands in the log of an engine that crashed, and what it is taken for.

use std::fs;
use std::path::{Path, PathBuf};

use onceward::{Engine, ErrorKind, Fingerprint, Key, ManualClock, Outcome, Reply};

use crate::power_cuts::folder;

const BLOCK: usize = 4_096;
const LOG: &str = "segment-0000000001.log";

fn key(number: usize) -> Key {
    Key::new("tenant", number.to_string()).unwrap()
}

fn open(path: &Path) -> onceward::Result<Engine> {
    Engine::builder().clock(ManualClock::new()).open(path)
}

/// A folder as a crash leaves it after three keys, the log in it, and how many blocks that has.
fn crashed(path: &Path) -> (PathBuf, Vec<u8>, usize) {
    let running = path.with_extension("running");
    let engine = open(&running).unwrap();
    for number in 0..3 {
        let outcome = engine.begin(&key(number), &Fingerprint::of("request"));
        let Outcome::Proceed(guard) = outcome.unwrap() else {
            panic!("a new key isn't free");
        };
        guard.complete(Reply::new(200, "body")).unwrap();
    }
    copy(&running, path);
    let log = fs::read(path.join(LOG)).unwrap();
    // The first one, and those of three begins and completions. There may be an empty one behind.
    (path.join(LOG), log, 7)
}

fn all_replayed(engine: &Engine) {
    for number in 0..3 {
        let outcome = engine.begin(&key(number), &Fingerprint::of("request"));
        assert!(matches!(outcome, Ok(Outcome::Replay(_))), "{outcome:?}");
    }
}

#[test]
fn damage_before_the_last_frame_is_never_an_end() {
    for block in 1..6 {
        let (_folder, path) = folder();
        let (log, mut bytes, _) = crashed(&path);
        bytes[block * BLOCK + 60] ^= 1;
        fs::write(log, bytes).unwrap();
        let error = open(&path).map(drop).expect_err("it was opened");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn a_frame_that_stands_elsewhere_is_none() {
    let (_folder, path) = folder();
    let (log, mut bytes, end) = crashed(&path);
    // A write that went astray, with a torn one before it.
    bytes.copy_within(2 * BLOCK..3 * BLOCK, (end + 3) * BLOCK);
    fs::write(log, bytes).unwrap();
    all_replayed(&open(&path).unwrap());
}

#[test]
fn frames_of_another_store_are_none() {
    let ((_folder, path), (_other, other)) = (folder(), folder());
    let (log, mut bytes, _) = crashed(&path);
    let (_, others, _) = crashed(&other);
    // As a client can put them there, in a body at the right place, and the body's own frame is torn.
    let torn = 5 * BLOCK;
    bytes[torn..torn + BLOCK].fill(0);
    bytes[torn + BLOCK..].copy_from_slice(&others[torn + BLOCK..]);
    fs::write(&log, &bytes).unwrap();
    let opened = open(&path);
    assert!(opened.is_ok(), "{opened:?}");
}

/// Completes a key in a folder that a crash has left, which begins its second log, and gives that
/// as a crash leaves it.
fn second_log(path: &Path, name: &str) -> (PathBuf, Vec<u8>) {
    const SECOND: &str = "segment-0000000002.log";
    let running = path.with_extension(name);
    let engine = open(path).unwrap();
    for number in 0..if name == "long" { 6 } else { 1 } {
        let outcome = engine.begin(&key(10 + number), &Fingerprint::of("request"));
        let Outcome::Proceed(guard) = outcome.unwrap() else {
            panic!("a new key isn't free");
        };
        guard.complete(Reply::new(200, "body")).unwrap();
    }
    // What the first log held is sealed, and no file goes meanwhile.
    while engine.stats().sealed_segments == 0 {
        std::thread::yield_now();
    }
    while path.join(LOG).exists() {
        std::thread::yield_now();
    }
    copy(path, &running);
    let log = fs::read(running.join(SECOND)).unwrap();
    (running.join(SECOND), log)
}

/// Copies a folder as a crash would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let name = file.unwrap().file_name();
        if name != "LOCK" {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

#[test]
fn frames_of_an_earlier_file_of_the_segment_are_nothing_behind_its_end() {
    let (_folder, path) = folder();
    crashed(&path);
    let twin = path.with_extension("twin");
    copy(&path, &twin);
    // Of the same store and with the same number, as a file that a failed roll has left and whose
    // blocks come back.
    let (_, earlier) = second_log(&twin, "long");
    let (log, mut bytes) = second_log(&path, "short");
    let behind = 6 * BLOCK;
    bytes[behind..].copy_from_slice(&earlier[behind..]);
    fs::write(&log, bytes).unwrap();
    all_replayed(&open(log.parent().unwrap()).unwrap());
}
