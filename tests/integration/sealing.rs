//! Rolled segments are sealed in the background; verify and export walk through both kinds.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Mutex;
use std::time::Duration;

use onceward::{
    Engine, Entry, EntryState, ErrorKind, Fingerprint, OnAbandon, Outcome, Progress, Reply, Stage,
    Terms,
};

use crate::support::{
    Bench, LEASE, MS, RETENTION, completed, eventually, folder, granted, in_flight, key, replayed,
    request, sealed,
};

/// An engine whose segments hold two requests each.
fn tiny(bench: &Bench) -> Engine {
    let builder = bench.builder().segment_entries(4);
    builder.open(bench.path()).unwrap()
}

fn names(bench: &Bench) -> Vec<String> {
    let files = fs::read_dir(bench.path()).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("segment") || name.starts_with("sealed"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_sealed_segment_takes_its_journals_place_on_the_disk() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..4 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    let expected = [
        "sealed-0000000001.redb",
        "sealed-0000000002.redb",
        "segment-0000000003.log",
    ];
    eventually(|| names(&bench) == expected);
    for number in 0..4 {
        assert_eq!(replayed(&engine, &number.to_string()).body(), "body");
    }
    engine.close().unwrap();
    let engine = bench.builder().replay_cache_bytes(0);
    let engine = engine.open(bench.path()).unwrap();
    assert_eq!(engine.stats().sealed_segments, 2);
    assert_eq!(engine.stats().live_keys, 4);
    for number in 0..4 {
        assert_eq!(replayed(&engine, &number.to_string()).body(), "body");
    }
}

#[test]
fn replies_of_every_size_come_back_from_sealed_segments() {
    let bench = Bench::new();
    let builder = bench
        .builder()
        .segment_entries(30)
        .replay_cache_bytes(0)
        .max_reply_bytes(4 << 20);
    let engine = builder.clone().open(bench.path()).unwrap();
    let sizes = [
        0_usize,
        1,
        100,
        4_000,
        8_100,
        8_160,
        8_176,
        8_200,
        16_384,
        70_000,
        1 << 20,
        3 << 20,
    ];
    let reply = |size: usize| {
        let bytes: Vec<u8> = (0..size)
            .map(|at| (at * 7 + size).to_le_bytes()[0])
            .collect();
        Reply::new(200, bytes).with_header("x-size", size.to_string())
    };
    for size in sizes {
        let guard = granted(&engine, &size.to_string());
        guard.complete(reply(size)).unwrap();
    }
    for number in 0..6 {
        completed(&engine, &format!("filler {number}"), "");
    }
    sealed(&engine);
    assert!(engine.stats().sealed_segments > 0);
    for engine in [engine.clone(), engine] {
        for size in sizes {
            assert_eq!(replayed(&engine, &size.to_string()), reply(size));
        }
    }
    let engine = builder.open(bench.path()).unwrap();
    for size in sizes {
        assert_eq!(replayed(&engine, &size.to_string()), reply(size));
    }
}

#[test]
fn attempts_in_flight_are_completed_renewed_and_taken_over_though_their_segment_is_sealed() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    let [to_complete, mut to_renew, to_release, abandoned] =
        ["complete", "renew", "release", "abandoned"].map(|name| granted(&engine, name));
    drop(abandoned);
    for number in 0..6 {
        completed(&engine, &format!("filler {number}"), "");
    }
    sealed(&engine);
    in_flight(&engine, "complete");
    to_complete.complete(Reply::new(200, "done")).unwrap();
    assert_eq!(replayed(&engine, "complete").body(), "done");
    to_release.release().unwrap();
    drop(granted(&engine, "release"));
    bench.clock.advance(LEASE - MS);
    to_renew.renew().unwrap();
    bench.clock.advance(MS);
    in_flight(&engine, "renew");
    assert_eq!(granted(&engine, "abandoned").attempt(), 2);
}

#[test]
fn an_attempt_abandoned_long_ago_is_read_from_the_disk_and_still_counts() {
    for reopens in [false, true] {
        let bench = Bench::new();
        let mut engine = tiny(&bench);
        drop(granted(&engine, "abandoned"));
        for number in 0..6 {
            completed(&engine, &format!("filler {number}"), "");
        }
        sealed(&engine);
        bench.clock.advance(RETENTION / 2);
        engine.sweep().unwrap();
        assert_eq!(engine.stats().in_flight, 0, "its memory is given back");
        if reopens {
            engine.close().unwrap();
            engine = tiny(&bench);
        }
        assert!(engine.lookup(&key("abandoned")).unwrap().is_some());
        let other = engine.begin(&key("abandoned"), &Fingerprint::of("other"));
        assert!(matches!(other.unwrap(), Outcome::Conflict(_)));
        assert_eq!(granted(&engine, "abandoned").attempt(), 2);
        assert_eq!(engine.stats().live_keys, 7);
    }
}

#[test]
fn a_forgotten_key_stays_free_though_an_older_sealed_segment_holds_it() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for round in 0..3 {
        completed(&engine, "key", "body");
        completed(&engine, &format!("{round}"), "body");
        sealed(&engine);
        assert!(engine.forget(&key("key")).unwrap());
        for number in 0..4 {
            completed(&engine, &format!("{round} {number}"), "body");
            sealed(&engine);
        }
        assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    }
    let live_keys = engine.stats().live_keys;
    assert_eq!(live_keys, 15);
    engine.close().unwrap();
    let engine = tiny(&bench);
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    assert_eq!(engine.stats().live_keys, live_keys);
    drop(granted(&engine, "key"));
}

#[test]
fn what_a_crash_left_of_a_seal_is_removed() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..5 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    let bench = bench.crashed();
    let file = |name: &str| bench.path().join(name);
    // Half a file, and a journal that outlived its seal.
    fs::write(file("sealed-0000000003.redb.new"), "half a file").unwrap();
    fs::copy(
        file("segment-0000000003.log"),
        file("segment-0000000001.log"),
    )
    .unwrap();
    // A whole file that the manifest doesn't list yet.
    fs::copy(
        file("sealed-0000000002.redb"),
        file("sealed-0000000003.redb"),
    )
    .unwrap();
    let engine = tiny(&bench);
    let expected = [
        "sealed-0000000001.redb",
        "sealed-0000000002.redb",
        "sealed-0000000003.redb",
        "segment-0000000004.log",
    ];
    eventually(|| names(&bench) == expected);
    for number in 0..5 {
        replayed(&engine, &number.to_string());
    }
}

#[test]
fn segments_that_were_rolled_and_not_sealed_are_sealed_by_the_next_open() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    // Closed at once, so that some are still waiting.
    for number in 0..40 {
        completed(&engine, &number.to_string(), "body");
    }
    engine.close().unwrap();
    let engine = tiny(&bench);
    sealed(&engine);
    assert!(engine.stats().sealed_segments > 4);
    for number in 0..40 {
        replayed(&engine, &number.to_string());
    }
    assert_eq!(engine.stats().live_keys, 40);
}

#[test]
fn the_page_caches_stay_within_their_budget_however_many_segments_there_are() {
    const BUDGET: usize = 2 << 20;
    let bench = Bench::new();
    let builder = bench
        .builder()
        .segment_entries(64)
        .cache_bytes(BUDGET)
        .replay_cache_bytes(0);
    let engine = builder.open(bench.path()).unwrap();
    for number in 0..640 {
        let guard = granted(&engine, &number.to_string());
        guard.complete(Reply::new(200, vec![7; 4_096])).unwrap();
    }
    sealed(&engine);
    assert!(engine.stats().sealed_segments >= 9);
    for number in 0..640 {
        replayed(&engine, &number.to_string());
        assert!(engine.stats().page_cache_bytes <= BUDGET as u64);
    }
    assert!(engine.stats().page_cache_bytes > 100_000);
    assert!(engine.stats().index_bytes > 0);
}

fn exported(engine: &Engine) -> BTreeMap<String, Entry> {
    let mut exported = BTreeMap::new();
    for entry in engine.export() {
        let entry = entry.unwrap();
        let name = entry.key.as_ref().unwrap().key().to_owned();
        assert!(
            exported.insert(name.clone(), entry).is_none(),
            "{name} came twice"
        );
    }
    exported
}

#[test]
fn an_export_has_every_live_entry_once_and_nothing_else() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..9 {
        completed(&engine, &format!("done {number}"), "body");
        drop(granted(&engine, &format!("abandoned {number}")));
        completed(&engine, &format!("forgotten {number}"), "body");
        engine.forget(&key(format!("forgotten {number}"))).unwrap();
        let terms = Terms::new(LEASE, Duration::from_secs(1));
        let short = engine.begin_with(&key(format!("short {number}")), &request(), terms);
        let Outcome::Proceed(guard) = short.unwrap() else {
            panic!("a fresh key was not granted");
        };
        guard.complete(Reply::new(200, "")).unwrap();
    }
    bench.clock.advance(LEASE);
    let guard = granted(&engine, "abandoned 3");
    guard.complete(Reply::new(200, "second attempt")).unwrap();
    for waits in [false, true] {
        if waits {
            sealed(&engine);
        }
        let exported = exported(&engine);
        assert_eq!(exported.len(), 18, "{:?}", exported.keys());
        for (name, entry) in &exported {
            assert_eq!(engine.lookup(&key(name)).unwrap().as_ref(), Some(entry));
        }
        let EntryState::Completed { reply, .. } = &exported["abandoned 3"].state else {
            panic!("{:?}", exported["abandoned 3"]);
        };
        assert_eq!(reply.body(), "second attempt");
    }
    let memory = Engine::builder().open_in_memory().unwrap();
    completed(&memory, "key", "body");
    assert_eq!(exported(&memory).len(), 1);
}

#[test]
fn an_export_ends_with_an_error_when_the_engine_is_closed_and_holds_nobody_up() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..30 {
        completed(&engine, &number.to_string(), "body");
    }
    let mut export = engine.export();
    export.next().unwrap().unwrap();
    engine.close().unwrap();
    let rest: Vec<_> = export.collect();
    let (last, before) = rest.split_last().unwrap();
    assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::Closed);
    assert!(before.iter().all(Result::is_ok));
}

#[test]
fn an_export_as_a_future_has_the_same_entries() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..20 {
        completed(&engine, &number.to_string(), "body");
    }
    let mut export = engine.export();
    let count = futures::executor::block_on(async {
        let mut count = 0;
        while let Some(entry) = export.next_async().await {
            entry.unwrap();
            count += 1;
        }
        count
    });
    assert_eq!(count, 20);
}

#[test]
fn verify_finds_nothing_wrong_in_a_sound_store_and_tells_its_progress() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..21 {
        completed(&engine, &number.to_string(), "body");
        drop(granted(&engine, &format!("abandoned {number}")));
        completed(&engine, &format!("forgotten {number}"), "body");
        engine.forget(&key(format!("forgotten {number}"))).unwrap();
    }
    // Opened anew, so that no roll is still to come.
    engine.close().unwrap();
    let engine = tiny(&bench);
    sealed(&engine);
    let mut told = Vec::new();
    let found = engine
        .verify(|progress: Progress| told.push(progress))
        .unwrap();
    assert!(found.is_sound(), "{found:?}");
    assert_eq!(found.segments, engine.stats().segments);
    let last = told.last().unwrap();
    assert_eq!((last.stage, last.done), (Stage::Verifying, found.entries));
    assert!((last.fraction() - 1.0).abs() < f64::EPSILON);
    let again = futures::executor::block_on(engine.verify_async(|_| {})).unwrap();
    assert_eq!(again, found);
}

/// Damages one byte of `body` in a file, and touches nothing else: somebody may have it open.
fn damage(path: &std::path::Path, body: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(body.len()).position(|window| window == body);
    let at = at.unwrap() + 3;
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[bytes[at] ^ 1]).unwrap();
}

#[test]
fn verify_says_which_file_is_damaged() {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(4).replay_cache_bytes(0);
    let engine = builder.clone().open(bench.path()).unwrap();
    for (name, body) in [
        ("1", "first reply"),
        ("2", "second reply"),
        ("3", "third reply"),
    ] {
        completed(&engine, name, body);
        sealed(&engine);
    }
    engine.close().unwrap();
    let files = ["sealed-0000000001.redb", "segment-0000000003.log"];
    damage(&bench.path().join(files[0]), b"second reply");
    let engine = builder.open(bench.path()).unwrap();
    completed(&engine, "4", "fourth reply");
    // One entry fewer than the segment takes: it isn't sealed meanwhile.
    let running = granted(&engine, "5");
    damage(&bench.path().join(files[1]), b"fourth reply");
    let found = engine.verify(|_| {}).unwrap();
    let problems: Vec<_> = found
        .problems
        .iter()
        .map(|problem| &problem.file[..])
        .collect();
    assert_eq!(problems, files, "{found:?}");
    let shown = format!("{found:?}");
    assert!(shown.contains("checksum"), "{shown}");
    assert!(shown.contains("from 8192 to 12288"), "{shown}");
    assert!(!shown.contains("tenant"), "{shown}");
    replayed(&engine, "1");
    replayed(&engine, "3");
    in_flight(&engine, "5");
    for name in ["2", "4"] {
        let error = engine.begin(&key(name), &request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    let error = engine.lookup(&key("4")).unwrap_err().to_string();
    assert!(error.contains("bytes at 82"), "{error}");
    let errors = engine.export().filter(Result::is_err).count();
    assert_eq!((errors, engine.export().count()), (2, 5));
    drop(running);
}

#[test]
fn damage_in_a_journal_is_still_damage_once_it_is_sealed() {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(4).replay_cache_bytes(0);
    let engine = builder.clone().open(bench.path()).unwrap();
    completed(&engine, "damaged", "first reply");
    damage(&bench.path().join("segment-0000000001.log"), b"first reply");
    completed(&engine, "sound", "second reply");
    completed(&engine, "other", "third reply");
    sealed(&engine);
    assert_eq!(engine.stats().sealed_segments, 1);
    for engine in [engine.clone(), engine] {
        let error = engine.begin(&key("damaged"), &request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(replayed(&engine, "sound").body(), "second reply");
    }
}

#[test]
fn a_file_that_somebody_removed_from_an_open_engine_is_noticed_by_verify() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..3 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    fs::remove_file(bench.path().join("sealed-0000000001.redb")).unwrap();
    let found = engine.verify(|_| {}).unwrap();
    assert_eq!(found.problems.len(), 1, "{found:?}");
    assert_eq!(found.problems[0].file, "sealed-0000000001.redb");
}

#[test]
fn held_attempts_in_sealed_segments_are_listed_after_a_reopen() {
    let bench = Bench::new();
    let builder = bench
        .builder()
        .segment_entries(4)
        .on_abandon(OnAbandon::Hold);
    let engine = builder.clone().open(bench.path()).unwrap();
    for number in 0..9 {
        drop(granted(&engine, &number.to_string()));
    }
    sealed(&engine);
    bench.clock.advance(RETENTION / 2);
    engine.sweep().unwrap();
    assert_eq!(engine.held().unwrap().len(), 9);
    engine.close().unwrap();
    let engine = builder.open(bench.path()).unwrap();
    assert_eq!(engine.held().unwrap().len(), 9);
    assert!(in_flight(&engine, "3").is_held());
}

#[test]
fn an_open_tells_how_far_it_has_got() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..9 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    let bench = bench.crashed();
    let told = std::sync::Arc::new(Mutex::new(Vec::new()));
    let builder = bench.builder().on_progress({
        let told = std::sync::Arc::clone(&told);
        move |progress| told.lock().unwrap().push(progress)
    });
    builder.open(bench.path()).unwrap();
    let told = told.lock().unwrap();
    let last_of = |stage| {
        told.iter()
            .rfind(|told| told.stage == stage)
            .unwrap()
            .fraction()
    };
    for stage in [Stage::Opening, Stage::Indexing] {
        assert!((last_of(stage) - 1.0).abs() < f64::EPSILON);
    }
}

#[test]
fn sealing_waits_for_nobody_and_nobody_for_it() {
    let folder = folder();
    let builder = Engine::builder().segment_entries(16);
    let engine = builder.open(folder.path().join("engine")).unwrap();
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                for number in 0..100 {
                    let name = format!("{caller} {number}");
                    completed(engine, &name, "body");
                    assert_eq!(replayed(engine, &name).body(), "body");
                    let earlier = format!("{caller} {}", number / 2);
                    assert_eq!(replayed(engine, &earlier).body(), "body");
                }
            });
        }
    });
    assert_eq!(engine.stats().live_keys, 800);
    eventually(|| engine.stats().sealed_segments > 10);
    assert!(engine.verify(|_| {}).unwrap().is_sound());
}

#[test]
fn a_flipped_bit_in_a_sealed_block_never_makes_a_key_absent() {
    let bench = Bench::in_memory();
    let builder = bench.builder().segment_entries(4).replay_cache_bytes(0);
    let engine = builder.clone().open(bench.path()).unwrap();
    for number in 0..2 {
        completed(&engine, &number.to_string(), "a reply");
    }
    eventually(|| engine.stats().sealed_segments == 1);
    engine.close().unwrap();
    let path = bench.path().join("sealed-0000000001.redb");
    let sound = fs::read(&path).unwrap();
    // The block holds the replies; its list stands before them.
    let reply = sound.windows(7).position(|window| window == b"a reply");
    let block = reply.unwrap() / 4_096 * 4_096;
    for bit in 0..8 * 700 {
        let mut damaged = sound.clone();
        damaged[block + bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        let Ok(engine) = builder.clone().open(bench.path()) else {
            continue;
        };
        for number in 0..2 {
            match engine.begin(&key(number.to_string()), &request()) {
                Ok(Outcome::Replay(reply)) => assert_eq!(reply.body(), "a reply"),
                Ok(other) => panic!("bit {bit}: {other:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
            }
        }
        drop(engine.close());
    }
}

#[test]
fn an_engine_can_be_closed_by_whoever_is_told_of_a_verification() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..9 {
        completed(&engine, &number.to_string(), "body");
    }
    let mut other = Some(engine.clone());
    let error = engine.verify(|_| {
        if let Some(other) = other.take() {
            other.close().unwrap();
        }
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_sealed_file_that_is_missing_costs_no_journal() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    completed(&engine, "0", "body");
    let journal = bench.path().join("segment-0000000001.log");
    let kept = bench.path().with_file_name("kept");
    fs::hard_link(&journal, &kept).unwrap();
    for number in 1..3 {
        completed(&engine, &number.to_string(), "body");
    }
    eventually(|| engine.stats().sealed_segments == 1);
    engine.close().unwrap();
    fs::rename(&kept, &journal).unwrap();
    let sealed_file = bench.path().join("sealed-0000000001.redb");
    let bytes = fs::read(&sealed_file).unwrap();
    fs::remove_file(&sealed_file).unwrap();
    let error = bench.builder().open(bench.path()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(journal.exists());
    fs::write(&sealed_file, bytes).unwrap();
    replayed(&bench.open(), "0");
    assert!(!journal.exists());
}
