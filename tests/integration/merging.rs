//! Adjacent sealed segments are merged in the background when there are many of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use onceward::{Builder, Engine, Entry, ErrorKind, Outcome, Reply, Terms};

use crate::support::{
    Bench, LEASE, MS, RETENTION, completed, eventually, granted, key, replayed, request, sealed,
};

/// Segments of two requests each, merged when there are more than four that are sealed.
fn merging(bench: &Bench) -> Builder {
    bench
        .builder()
        .segment_entries(4)
        .merge_above(4)
        .replay_cache_bytes(0)
}

/// The same segments, never merged.
fn splitting(bench: &Bench) -> Builder {
    merging(bench).merge_above(64)
}

fn open(builder: &Builder, bench: &Bench) -> Engine {
    builder.clone().open(bench.path()).unwrap()
}

fn complete_all(engine: &Engine, names: impl IntoIterator<Item = String>) {
    for name in names {
        completed(engine, &name, "body");
        sealed(engine);
    }
}

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

fn name_of(entry: &Entry) -> String {
    entry.key.as_ref().unwrap().key().to_owned()
}

/// Each size is merged once there are four of it, so some are left of each.
fn until_most_are_merged(engine: &Engine) {
    eventually(|| engine.stats().sealed_segments <= 9);
}

fn until_merged(engine: &Engine, segments: u64) {
    eventually(|| engine.stats().sealed_segments == segments);
}

fn sealed_names(path: &Path) -> Vec<String> {
    let files = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("sealed"))
        .collect();
    names.sort();
    names
}

/// Copies the files of one folder into another, where those of other names stay.
fn copy(from: &Path, to: &Path, names: &[String]) {
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_merged_segment_takes_the_place_of_four() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    complete_all(&engine, numbers(0..11));
    until_merged(&engine, 2);
    let expected = [
        "sealed-0000000001-0000000004.redb",
        "sealed-0000000005.redb",
    ];
    eventually(|| sealed_names(&bench.path()) == expected);
    engine.close().unwrap();
    for _ in 0..2 {
        let engine = open(&merging(&bench), &bench);
        assert_eq!(engine.stats().live_keys, 11);
        assert_eq!(engine.export().count(), 11);
        for name in numbers(0..11) {
            assert_eq!(replayed(&engine, &name).body(), "body");
        }
        let found = engine.verify(|_| ()).unwrap();
        assert!(found.is_sound(), "{:?}", found.problems);
        assert_eq!(engine.stats().failed_seals, 0);
        engine.close().unwrap();
    }
}

#[test]
fn merged_segments_are_merged_again() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    complete_all(&engine, numbers(0..101));
    // What was merged once has four numbers.
    let is_merged_again = || {
        let first = sealed_names(&bench.path()).swap_remove(0);
        let last = first.strip_prefix("sealed-0000000001-");
        last.is_some_and(|last| last > "0000000004.redb")
    };
    eventually(is_merged_again);
    eventually(|| engine.stats().sealed_segments <= 16);
    engine.close().unwrap();
    let engine = open(&merging(&bench), &bench);
    assert_eq!(engine.stats().live_keys, 101);
    for name in numbers(0..101) {
        assert_eq!(replayed(&engine, &name).body(), "body");
    }
}

#[test]
fn of_a_key_that_stood_in_several_segments_the_newest_answer_is_left() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    for round in 0..6 {
        // Each answer takes the place of one that was forgotten, in an older segment.
        granted(&engine, "key")
            .complete(Reply::new(200, format!("round {round}")))
            .unwrap();
        complete_all(&engine, numbers(round * 10..round * 10 + 2));
        if round < 5 {
            engine.forget(&key("key")).unwrap();
        }
    }
    completed(&engine, "gone", "body");
    complete_all(&engine, numbers(100..103));
    engine.forget(&key("gone")).unwrap();
    complete_all(&engine, numbers(103..120));
    until_most_are_merged(&engine);
    assert_eq!(engine.stats().live_keys, 33);
    engine.close().unwrap();
    let engine = open(&merging(&bench), &bench);
    assert_eq!(replayed(&engine, "key").body(), "round 5");
    assert_eq!(engine.lookup(&key("gone")).unwrap(), None);
    assert_eq!(engine.stats().live_keys, 33);
    assert_eq!(engine.export().count(), 33);
    assert!(engine.verify(|_| ()).unwrap().is_sound());
}

#[test]
fn a_removal_is_kept_as_long_as_an_older_segment_has_the_key() {
    let bench = Bench::new();
    let engine = open(&splitting(&bench), &bench);
    completed(&engine, "key", "body");
    // Much larger than the others, so that those are merged first.
    for number in 0..40 {
        completed(&engine, &format!("large {number}"), "body");
    }
    engine.close().unwrap();
    let engine = open(&splitting(&bench).segment_entries(200), &bench);
    for number in 40..140 {
        completed(&engine, &format!("large {number}"), "body");
    }
    sealed(&engine);
    assert!(engine.forget(&key("key")).unwrap());
    engine.close().unwrap();
    let engine = open(&splitting(&bench), &bench);
    complete_all(&engine, numbers(0..20));
    let before = engine.stats().sealed_segments;
    engine.close().unwrap();
    let engine = open(&merging(&bench), &bench);
    eventually(|| {
        assert_eq!(engine.lookup(&key("key")).unwrap(), None);
        engine.stats().sealed_segments <= before / 2
    });
    engine.close().unwrap();
    let engine = open(&merging(&bench), &bench);
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    assert_eq!(engine.stats().live_keys, 160);
}

#[test]
fn attempts_in_flight_are_found_in_a_merged_segment() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    for round in 0..4 {
        // Begun in one segment and, half of them, ended in another.
        let ended = granted(&engine, &format!("ended {round}"));
        std::mem::forget(granted(&engine, &format!("held {round}")));
        complete_all(&engine, numbers(round * 10..round * 10 + 4));
        ended.complete(Reply::new(200, "ended")).unwrap();
    }
    complete_all(&engine, numbers(100..110));
    until_most_are_merged(&engine);
    engine.close().unwrap();
    let engine = open(&merging(&bench), &bench);
    assert_eq!(engine.stats().in_flight, 4);
    for round in 0..4 {
        let begin = engine.begin(&key(format!("held {round}")), &request());
        assert!(matches!(begin.unwrap(), Outcome::InFlight(_)));
        assert_eq!(replayed(&engine, &format!("ended {round}")).body(), "ended");
    }
    bench.clock.advance(LEASE);
    assert_eq!(granted(&engine, "held 0").attempt(), 2);
}

/// A folder whose segments were merged, and the same as it was before.
fn merged_and_split() -> (Bench, Bench) {
    let (merged, split) = (Bench::new(), Bench::new());
    let engine = open(&splitting(&merged), &merged);
    complete_all(&engine, numbers(0..10));
    engine.close().unwrap();
    fs::create_dir(split.path()).unwrap();
    let mut names = sealed_names(&merged.path());
    for name in ["manifest.redb", "secret"] {
        names.push(name.to_owned());
    }
    copy(&merged.path(), &split.path(), &names);
    let engine = open(&merging(&merged), &merged);
    until_merged(&engine, 2);
    engine.close().unwrap();
    (merged, split)
}

fn has_all(engine: &Engine) {
    assert_eq!(engine.stats().live_keys, 10);
    for name in numbers(0..10) {
        assert_eq!(replayed(engine, &name).body(), "body");
    }
}

const MERGED: &str = "sealed-0000000001-0000000004.redb";

#[test]
fn segments_that_a_crash_left_beside_the_one_they_were_merged_into_are_removed() {
    let (merged, split) = merged_and_split();
    let expected = sealed_names(&merged.path());
    assert_eq!(expected, [MERGED, "sealed-0000000005.redb"]);
    let members = sealed_names(&split.path());
    copy(&split.path(), &merged.path(), &members[..4]);
    let unfinished = "sealed-0000000002-0000000005.redb.new";
    fs::write(merged.path().join(unfinished), "half a file").unwrap();
    let engine = open(&splitting(&merged), &merged);
    assert_eq!(sealed_names(&merged.path()), expected);
    has_all(&engine);
}

#[test]
fn a_merged_segment_that_was_not_listed_yet_is_removed() {
    let (merged, split) = merged_and_split();
    let expected = sealed_names(&split.path());
    copy(&merged.path(), &split.path(), &[MERGED.to_owned()]);
    let engine = open(&splitting(&split), &split);
    assert_eq!(sealed_names(&split.path()), expected);
    has_all(&engine);
}

#[test]
fn a_merged_segment_that_is_not_listed_is_kept_if_what_it_was_made_of_is_lost() {
    let (merged, split) = merged_and_split();
    copy(&merged.path(), &split.path(), &[MERGED.to_owned()]);
    fs::remove_file(split.path().join("sealed-0000000002.redb")).unwrap();
    let error = splitting(&split).open(split.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(split.path().join(MERGED).exists());
}

/// Changes a bit of the first body in a file, or of the last one.
fn damage(path: &Path, is_last: bool) {
    let mut bytes = fs::read(path).unwrap();
    let mut windows = bytes.windows(4);
    let is_body = |window: &[u8]| window == b"body";
    let at = if is_last {
        windows.rposition(is_body)
    } else {
        windows.position(is_body)
    };
    bytes[at.unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn segments_with_something_damaged_stay_as_they_are() {
    let bench = Bench::new();
    let engine = open(&splitting(&bench), &bench);
    complete_all(&engine, numbers(0..21));
    engine.close().unwrap();
    // Each of the bodies is in its segment's file as it is. One is found when the segment is opened, the other
    // one when it is read on.
    damage(&bench.path().join("sealed-0000000003.redb"), false);
    damage(&bench.path().join("sealed-0000000008.redb"), true);
    let engine = open(&merging(&bench), &bench);
    let expected = [
        "sealed-0000000001.redb",
        "sealed-0000000002.redb",
        "sealed-0000000003.redb",
        "sealed-0000000004-0000000007.redb",
        "sealed-0000000008.redb",
        "sealed-0000000009.redb",
        "sealed-0000000010.redb",
        "sealed-0000000011.redb",
    ];
    eventually(|| sealed_names(&bench.path()) == expected);
    let answers = numbers(0..21).map(|name| engine.begin(&key(name), &request()));
    let lost = answers.filter(|answer| match answer {
        Ok(Outcome::Replay(_)) => false,
        Err(error) => error.kind() == ErrorKind::Corrupt,
        other => panic!("{other:?}"),
    });
    assert_eq!(lost.count(), 2);
    assert_eq!(engine.verify(|_| ()).unwrap().problems.len(), 2);
    assert_eq!(engine.stats().failed_seals, 0);
}

#[test]
fn nothing_is_merged_while_somebody_walks_through_the_segments() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    complete_all(&engine, numbers(0..2));
    let mut export = engine.export();
    let first = export.next().unwrap().unwrap();
    complete_all(&engine, numbers(2..21));
    assert_eq!(engine.stats().sealed_segments, 10);
    let mut names = vec![name_of(&first)];
    names.extend(export.by_ref().map(|entry| name_of(&entry.unwrap())));
    let count = names.len();
    assert!(count >= 20, "{count}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "none came twice");
    assert!(export.next().is_none());
    until_most_are_merged(&engine);
}

#[test]
fn a_segment_does_not_wait_long_for_the_end_of_one_it_was_merged_with() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    for number in 0..20 {
        complete_all(&engine, numbers(number..number + 1));
        bench.clock.advance(RETENTION / 20 - MS);
    }
    complete_all(&engine, numbers(20..21));
    let names = sealed_names(&bench.path());
    assert!(names.len() > 8);
    assert!(
        names
            .iter()
            .all(|name| name.len() == "sealed-0000000001.redb".len()),
        "{names:?}"
    );
    bench.clock.advance(RETENTION / 2);
    let swept = engine.sweep().unwrap();
    assert_eq!(engine.stats().live_keys, 21 - swept.records);
    assert!(swept.records >= 8, "{swept:?}");
}

#[test]
fn answers_that_are_kept_for_longer_outlive_their_merged_segment() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    let terms = Terms::new(LEASE, 3 * RETENTION);
    for number in 0..30 {
        let name = key(format!("long {number}"));
        match engine.begin_with(&name, &request(), terms).unwrap() {
            Outcome::Proceed(guard) => guard.complete(Reply::new(200, "long")).unwrap(),
            other => panic!("{other:?}"),
        }
        completed(&engine, &number.to_string(), "short");
        sealed(&engine);
    }
    until_most_are_merged(&engine);
    bench.clock.advance(RETENTION + Duration::from_secs(1));
    // The last of them may be in the active segment.
    let swept = engine.sweep().unwrap().records;
    assert!((25..=30).contains(&swept), "{swept}");
    assert_eq!(engine.stats().live_keys, 60 - swept);
    engine.close().unwrap();
    let engine = open(&merging(&bench), &bench);
    assert_eq!(engine.stats().live_keys, 60 - swept);
    for number in 0..30 {
        assert_eq!(replayed(&engine, &format!("long {number}")).body(), "long");
        assert_eq!(engine.lookup(&key(number.to_string())).unwrap(), None);
    }
}

#[test]
fn live_keys_are_counted_on_from_merged_segments_after_a_crash() {
    let bench = Bench::new();
    let engine = open(&merging(&bench), &bench);
    complete_all(&engine, numbers(0..31));
    until_most_are_merged(&engine);
    // What follows isn't counted in the manifest: each takes the place of an entry in a merged segment.
    assert!(engine.forget(&key("3")).unwrap());
    assert!(engine.forget(&key("4")).unwrap());
    assert_eq!(engine.stats().live_keys, 29);
    // As a crash would leave it: nothing is closed.
    let crashed = Bench::new();
    fs::create_dir(crashed.path()).unwrap();
    let files = fs::read_dir(bench.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| name != "LOCK").collect();
    copy(&bench.path(), &crashed.path(), &names);
    let engine = open(&merging(&crashed), &crashed);
    assert_eq!(engine.stats().live_keys, 29);
    assert_eq!(engine.export().count(), 29);
    assert_eq!(engine.lookup(&key("3")).unwrap(), None);
}
