//! A log that is damaged is refused, and taken as far as it can be read by whoever says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use onceward::{Builder, Damage, Engine, ErrorKind, Outcome, Reply, Result};

use crate::support::{
    Bench, LEASE, completed, eventually, granted, in_flight, key, replayed, request,
};

const BLOCK: usize = 4_096;

fn log(bench: &Bench, number: u64) -> PathBuf {
    bench.path().join(format!("segment-{number:010}.log"))
}

/// Completes so many keys, each change in a frame of its own: the numbers are 1 and 2, 3 and 4, and
/// so on.
fn complete(engine: &Engine, keys: std::ops::Range<u64>) {
    for key in keys {
        completed(engine, &key.to_string(), "body");
    }
}

/// Leaves the folder as a crash at this moment would, at its place: a copy begins a new epoch by
/// itself.
fn crash(bench: &Bench, engine: Engine) {
    let files = || {
        let files = fs::read_dir(bench.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|file| !file.ends_with("LOCK"))
    };
    let crashed: Vec<_> = files()
        .map(|file| (fs::read(&file).unwrap(), file))
        .collect();
    engine.close().unwrap();
    files().for_each(|file| fs::remove_file(file).unwrap());
    for (bytes, file) in crashed {
        fs::write(file, bytes).unwrap();
    }
}

/// Where the frames that hold something stand in a log.
fn frames(path: &Path) -> Vec<usize> {
    let bytes = fs::read(path).unwrap();
    let holds_some = |at: &usize| {
        let block = &bytes[*at..*at + BLOCK];
        block.starts_with(b"1WARDlog") && block[52..56] != [0; 4]
    };
    let blocks = (0..bytes.len()).step_by(BLOCK);
    blocks.filter(holds_some).collect()
}

/// Damages the frame of the change with this number, counted from the first in the file; gives
/// where it stands.
fn damage(path: &Path, number: usize) -> u64 {
    let at = frames(path)[number - 1];
    let mut bytes = fs::read(path).unwrap();
    bytes[at + 70] ^= 1;
    fs::write(path, bytes).unwrap();
    at as u64
}

/// Opens a folder and accepts its damage; gives what was told.
fn accepting(builder: Builder, bench: &Bench) -> (Result<Engine>, Vec<Damage>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&told);
    let builder = builder.accept_damage(move |damage| noted.lock().unwrap().push(damage.clone()));
    let opened = builder.open(bench.path());
    let told = told.lock().unwrap().clone();
    (opened, told)
}

#[test]
fn what_is_left_of_a_damaged_log_is_taken_and_what_is_missing_is_told() {
    let bench = Bench::new();
    let engine = bench.open();
    complete(&engine, 0..10);
    crash(&bench, engine);
    let crashed = bench;
    let path = log(&crashed, 1);
    // The completion of 4, and all of 5.
    let [begin, .., end] = [10, 11, 12].map(|number| damage(&path, number));
    let refused = crashed.builder().open(crashed.path()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.to_string().contains("accept_damage"), "{refused}");

    let (opened, told) = accepting(crashed.builder(), &crashed);
    let engine = opened.unwrap();
    let [told] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(told.file, "segment-0000000001.log");
    assert!(
        told.bytes.start <= begin && end < told.bytes.end,
        "{told:?}"
    );
    assert_eq!(told.numbers, Some(10..13));

    let again = crashed.crashed();
    let check = |engine: &Engine| {
        for name in (0..10).filter(|name| ![4, 5].contains(name)) {
            replayed(engine, &name.to_string());
        }
        in_flight(engine, "4");
        assert_eq!(engine.stats().live_keys, 9);
    };
    check(&engine);
    let token = granted(&engine, "5").token();
    assert!(token > 1 << 20, "{token}: of no new epoch");
    engine.close().unwrap();

    // It isn't to be said again, whether the log was sealed meanwhile or not.
    let engine = again.open();
    check(&engine);
    engine.close().unwrap();
    let (engine, told) = accepting(again.builder(), &again);
    assert!(told.is_empty(), "{told:?}");
    let engine = engine.unwrap();
    check(&engine);
    again.clock.advance(LEASE);
    let Outcome::Proceed(guard) = engine.begin(&key("4"), &request()).unwrap() else {
        panic!("its lease is over");
    };
    assert_eq!(guard.attempt(), 2);
    assert!(engine.verify(|_| ()).unwrap().is_sound());
}

#[test]
fn what_a_lost_change_took_the_place_of_is_not_counted_twice() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut guard = granted(&engine, "key");
    guard.renew().unwrap();
    guard.complete(Reply::new(200, "body")).unwrap();
    crash(&bench, engine);
    damage(&log(&bench, 1), 2);
    let (engine, told) = accepting(bench.builder(), &bench);
    assert_eq!(told[0].numbers, Some(2..3));
    let engine = engine.unwrap();
    replayed(&engine, "key");
    assert_eq!(engine.stats().live_keys, 1);
}

#[test]
fn without_damage_accepting_it_changes_nothing() {
    let bench = Bench::new();
    let engine = bench.open();
    complete(&engine, 0..10);
    crash(&bench, engine);
    let (opened, told) = accepting(bench.builder(), &bench);
    let engine = opened.unwrap();
    assert!(told.is_empty(), "{told:?}");
    for name in 0..10 {
        replayed(&engine, &name.to_string());
    }
    assert_eq!(granted(&engine, "new").token(), 21);
}

#[test]
fn a_log_that_was_cut_short_is_taken_up_to_there() {
    let bench = Bench::new();
    let engine = bench.open();
    complete(&engine, 0..10);
    let crashed = bench.crashed();
    let path = log(&crashed, 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(frames(&path)[10]);
    fs::write(&path, bytes).unwrap();
    assert!(crashed.builder().open(crashed.path()).is_err());
    let (opened, told) = accepting(crashed.builder(), &crashed);
    let engine = opened.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].numbers, None, "nothing says how many there were");
    for name in 0..5 {
        replayed(&engine, &name.to_string());
    }
    assert!(granted(&engine, "5").token() > 1 << 20);
}

#[test]
fn of_a_segment_that_was_rolled_it_is_known_what_is_missing_at_its_end() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .segment_entries(20)
        .open(bench.path())
        .unwrap();
    // What is in the way of sealing it.
    let hindrance = bench.path().join("sealed-0000000001.redb.new");
    fs::create_dir(&hindrance).unwrap();
    complete(&engine, 0..14);
    eventually(|| engine.stats().failed_seals > 0);
    fs::remove_dir(&hindrance).unwrap();
    let crashed = bench.crashed();
    let path = log(&crashed, 1);
    damage(&path, 4);
    damage(&path, 20);
    let open = || crashed.builder().open(crashed.path());
    assert_eq!(open().unwrap_err().kind(), ErrorKind::Corrupt);
    let (opened, told) = accepting(crashed.builder(), &crashed);
    let engine = opened.unwrap();
    let numbers: Vec<_> = told.iter().map(|told| told.numbers.clone()).collect();
    assert_eq!(numbers, [Some(4..5), Some(20..21)], "{told:?}");
    let again = crashed.crashed();
    engine.close().unwrap();
    for engine in [open().unwrap(), again.open()] {
        for name in (0..14).filter(|name| ![1, 9].contains(name)) {
            replayed(&engine, &name.to_string());
        }
        in_flight(&engine, "1");
        in_flight(&engine, "9");
        engine.close().unwrap();
    }
}

#[test]
fn a_segment_of_which_nothing_is_left_is_no_hindrance_later() {
    // With something in the segment after it, and as the last.
    for keys in [24, 20] {
        lose_all_of_the_second_segment(keys);
    }
}

fn lose_all_of_the_second_segment(keys: u64) {
    let bench = Bench::new();
    let open = || bench.builder().segment_entries(20).open(bench.path());
    let engine = open().unwrap();
    complete(&engine, 0..12);
    // One that is whole comes before.
    eventually(|| engine.stats().sealed_segments == 1);
    let hindrance = bench.path().join("sealed-0000000002.redb.new");
    fs::create_dir(&hindrance).unwrap();
    complete(&engine, 12..keys);
    eventually(|| engine.stats().failed_seals > 0);
    fs::remove_dir(&hindrance).unwrap();
    crash(&bench, engine);
    let path = log(&bench, 2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[BLOCK..].fill(0);
    fs::write(&path, bytes).unwrap();
    let (opened, told) = accepting(bench.builder().segment_entries(20), &bench);
    let mut engine = opened.unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    let lost = told[0].numbers.clone().unwrap();
    for _ in 0..3 {
        for name in (0..keys).filter(|name| !lost.contains(&(2 * name + 1))) {
            let is_whole = !lost.contains(&(2 * name + 2));
            if is_whole {
                replayed(&engine, &name.to_string());
            } else {
                in_flight(&engine, &name.to_string());
            }
        }
        engine.close().unwrap();
        engine = open().unwrap();
    }
}

#[test]
fn a_second_damage_in_the_same_log_can_be_accepted_too() {
    let bench = Bench::new();
    let engine = bench.open();
    complete(&engine, 0..10);
    crash(&bench, engine);
    let path = log(&bench, 1);
    damage(&path, 4);
    // What is in the way of sealing comes to be there during the open, which would remove it at its
    // beginning.
    let hindrance = bench.path().join("sealed-0000000001.redb.new");
    let hinders = hindrance.clone();
    let builder = bench.builder();
    let builder = builder.accept_damage(move |_| fs::create_dir(&hinders).unwrap());
    let engine = builder.open(bench.path()).unwrap();
    eventually(|| engine.stats().failed_seals > 0);
    fs::remove_dir(&hindrance).unwrap();
    crash(&bench, engine);
    damage(&path, 8);
    assert!(bench.builder().open(bench.path()).is_err());
    let (opened, told) = accepting(bench.builder(), &bench);
    let numbers: Vec<_> = told.iter().map(|told| told.numbers.clone()).collect();
    assert_eq!(numbers, [Some(4..5), Some(8..9)]);
    let engine = opened.unwrap();
    in_flight(&engine, "1");
    in_flight(&engine, "3");
    replayed(&engine, "9");
}
