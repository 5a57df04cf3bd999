//! The next segment's log is made in the background, before it is needed.

use std::fs;
use std::path::PathBuf;

use onceward::{Builder, Engine};

use crate::support::{Bench, completed, eventually, replayed};

/// A request takes two blocks of the log, so that a segment has 128 of them.
const SEGMENT_BYTES: u64 = 1 << 20;
/// What a log takes that nothing was made ahead for.
const LEAST_BYTES: u64 = 64 << 10;

fn builder(bench: &Bench) -> Builder {
    bench.builder().segment_bytes(SEGMENT_BYTES)
}

fn log(bench: &Bench, number: u64, ending: &str) -> PathBuf {
    bench
        .path()
        .join(format!("segment-{number:010}.log{ending}"))
}

fn complete(engine: &Engine, numbers: std::ops::Range<u64>) {
    for number in numbers {
        completed(engine, &number.to_string(), "body");
    }
}

/// An engine whose next log is made, and after how many requests it is.
fn with_log_made(bench: &Bench) -> (Engine, u64) {
    let engine = builder(bench).open(bench.path()).unwrap();
    complete(&engine, 0..100);
    let made = log(bench, 2, ".new");
    eventually(|| fs::metadata(&made).is_ok_and(|made| made.len() > LEAST_BYTES));
    (engine, 100)
}

#[test]
fn a_roll_goes_on_in_the_log_that_was_made_ahead() {
    let bench = Bench::new();
    let (engine, done) = with_log_made(&bench);
    assert!(!log(&bench, 2, "").exists(), "it isn't a segment's yet");
    let mut all = done;
    while engine.stats().segments == 1 {
        complete(&engine, all..all + 1);
        all += 1;
    }
    let length = fs::metadata(log(&bench, 2, "")).unwrap().len();
    assert!(length > LEAST_BYTES, "{length}: it was made anew");
    assert!(!log(&bench, 2, ".new").exists());
    complete(&engine, all..all + 100);
    let crashed = bench.crashed();
    engine.close().unwrap();
    for bench in [&bench, &crashed] {
        let engine = builder(bench).open(bench.path()).unwrap();
        for number in 0..all + 100 {
            replayed(&engine, &number.to_string());
        }
    }
}

#[test]
fn a_log_that_was_made_ahead_in_vain_goes_with_a_close_or_the_next_open() {
    let bench = Bench::new();
    let (engine, done) = with_log_made(&bench);
    let crashed = bench.crashed();
    engine.close().unwrap();
    assert!(!log(&bench, 2, ".new").exists(), "a close leaves it");
    assert!(log(&crashed, 2, ".new").exists());
    for bench in [&bench, &crashed] {
        let engine = builder(bench).open(bench.path()).unwrap();
        assert!(!log(bench, 2, ".new").exists(), "an open leaves it");
        for number in 0..done {
            replayed(&engine, &number.to_string());
        }
        engine.close().unwrap();
        let names = fs::read_dir(bench.path()).unwrap();
        let mut names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert!(
            names.all(|name| !name.contains(".log")),
            "at rest there is no log"
        );
    }
}

#[test]
fn a_folder_takes_less_than_two_mebibytes_at_first_and_nothing_is_made_ahead_early() {
    let bench = Bench::new();
    let engine = bench.open();
    let files = fs::read_dir(bench.path()).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 2 << 20, "{bytes}");
    // About 5 of 192 MiB.
    complete(&engine, 0..600);
    assert!(!log(&bench, 2, ".new").exists());
}
