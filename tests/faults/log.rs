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
    fs::create_dir(path).unwrap();
    for file in fs::read_dir(&running).unwrap() {
        let name = file.unwrap().file_name();
        if name != "LOCK" {
            fs::copy(running.join(&name), path.join(&name)).unwrap();
        }
    }
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
