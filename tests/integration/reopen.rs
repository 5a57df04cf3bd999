//! What survives a reopen, and what rolls and sweeps away.

use std::fs;
use std::time::Duration;

use onceward::{Engine, Fingerprint, OnAbandon, Outcome, Reply, Terms};

use crate::support::{
    Bench, JUST_UNDER_LEASE, LEASE, MS, RETENTION, completed, eventually, folder_of_child, granted,
    in_child, in_flight, key, replayed, request, sealed,
};

fn tiny(bench: &Bench) -> Engine {
    let builder = bench.builder().segment_entries(4);
    builder.open(bench.path()).unwrap()
}

#[test]
fn everything_is_there_after_a_reopen() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..30 {
        completed(&engine, &format!("done {number}"), "body");
        drop(granted(&engine, &format!("abandoned {number}")));
        completed(&engine, &format!("forgotten {number}"), "body");
        engine.forget(&key(format!("forgotten {number}"))).unwrap();
    }
    for reopened in 0..3 {
        let engine = if reopened == 0 {
            engine.clone()
        } else {
            tiny(&bench)
        };
        for number in 0..30 {
            replayed(&engine, &format!("done {number}"));
            in_flight(&engine, &format!("abandoned {number}"));
            let forgotten = engine.lookup(&key(format!("forgotten {number}"))).unwrap();
            assert_eq!(forgotten, None);
        }
        let stats = engine.stats();
        assert_eq!((stats.live_keys, stats.in_flight), (60, 30));
        engine.close().unwrap();
    }
}

#[test]
fn tokens_rise_across_reopen_also_when_everything_is_gone() {
    let bench = Bench::new();
    let mut last = 0;
    for round in 0..6 {
        let engine = tiny(&bench);
        for number in 0..7 {
            let guard = granted(&engine, &format!("{round} {number}"));
            assert!(guard.token() > last);
            last = guard.token();
            guard.complete(Reply::new(200, "")).unwrap();
        }
        if round % 2 == 0 {
            bench.clock.advance(2 * RETENTION);
            engine.sweep().unwrap();
            // Rolled by age, then unlinked.
            bench.clock.advance(2 * RETENTION);
            engine.sweep().unwrap();
            let stats = engine.stats();
            assert_eq!((stats.live_keys, stats.segments), (0, 1));
        }
        engine.close().unwrap();
    }
}

#[test]
fn a_copied_folder_goes_on_with_higher_tokens() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    completed(&engine, "key", "body");
    engine.close().unwrap();
    let copy = bench.path().with_file_name("copy");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(bench.path()).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    // The original hands out tokens that the copy knows nothing of.
    let engine = tiny(&bench);
    let mut newest = 0;
    for number in 0..20 {
        newest = granted(&engine, &number.to_string()).token();
    }
    let engine = bench.builder().open(&copy).unwrap();
    assert!(granted(&engine, "new").token() > newest);
    replayed(&engine, "key");
}

#[test]
fn a_restored_snapshot_goes_on_with_higher_tokens_if_told_so() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    let before = granted(&engine, "a").token();
    engine.close().unwrap();
    let builder = bench.builder().restored_from_backup(true);
    let engine = builder.open(bench.path()).unwrap();
    let restored = granted(&engine, "b").token();
    assert!(restored > before + 1_000_000);
    engine.close().unwrap();
    assert_eq!(granted(&tiny(&bench), "c").token(), restored + 1);
}

#[test]
fn old_segments_are_unlinked_oldest_first_and_the_space_returns() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for day in 0..4 {
        for number in 0..10 {
            completed(&engine, &format!("{day} {number}"), "body");
            sealed(&engine);
        }
        bench.clock.advance(RETENTION / 2);
        engine.sweep().unwrap();
    }
    let stats = engine.stats();
    // The last half day's records; those of the one before have just expired.
    assert_eq!(stats.live_keys, 10);
    assert!(stats.segments <= 7, "{stats:?}");
    for number in 0..10 {
        assert_eq!(engine.lookup(&key(format!("0 {number}"))).unwrap(), None);
        replayed(&engine, &format!("3 {number}"));
    }
    engine.close().unwrap();
    let files = fs::read_dir(bench.path()).unwrap().count() as u64;
    // A log without an entry goes with the close.
    assert!(files == stats.segments + 3 || files == stats.segments + 2);
}

#[test]
fn a_superseded_entry_never_comes_back_to_life() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    completed(&engine, "key", "old");
    for number in 0..10 {
        completed(&engine, &number.to_string(), "body");
    }
    bench.clock.advance(RETENTION / 2);
    engine.forget(&key("key")).unwrap();
    for _ in 0..4 {
        bench.clock.advance(RETENTION / 4);
        engine.sweep().unwrap();
        assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    }
    engine.close().unwrap();
    let engine = tiny(&bench);
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    assert_eq!(granted(&engine, "key").attempt(), 1);
}

#[test]
fn longer_terms_outlive_their_segment() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    let month = 30 * RETENTION;
    let outcome = engine
        .begin_with(&key("long"), &request(), Terms::new(LEASE, month))
        .unwrap();
    let Outcome::Proceed(guard) = outcome else {
        panic!("not granted");
    };
    guard.complete(Reply::new(200, "kept for a month")).unwrap();
    for day in 0..29 {
        for number in 0..6 {
            completed(&engine, &format!("{day} {number}"), "body");
        }
        bench.clock.advance(RETENTION);
        engine.sweep().unwrap();
        assert_eq!(replayed(&engine, "long").body(), "kept for a month");
        let stats = engine.stats();
        assert!(stats.segments < 16 && stats.live_keys < 24, "{stats:?}");
    }
    engine.close().unwrap();
    let engine = tiny(&bench);
    bench.clock.advance(RETENTION - MS);
    replayed(&engine, "long");
    bench.clock.advance(MS);
    assert_eq!(engine.lookup(&key("long")).unwrap(), None);
}

#[test]
fn held_attempts_outlive_every_segment() {
    let bench = Bench::new();
    let open = || {
        let builder = bench.builder().on_abandon(OnAbandon::Hold);
        builder.segment_entries(4).open(bench.path()).unwrap()
    };
    let engine = open();
    let token = granted(&engine, "held").token();
    for day in 0..5 {
        for number in 0..6 {
            completed(&engine, &format!("{day} {number}"), "body");
            sealed(&engine);
        }
        bench.clock.advance(2 * RETENTION);
        engine.sweep().unwrap();
    }
    assert_eq!(engine.stats().live_keys, 1);
    engine.close().unwrap();
    let held = open().held().unwrap();
    assert_eq!((held.len(), held[0].token), (1, token));
}

#[test]
fn a_sweep_ends_though_what_it_carries_fills_segments_of_its_own() {
    let bench = Bench::new();
    let builder = bench.builder().on_abandon(OnAbandon::Hold);
    let engine = builder.segment_entries(2).open(bench.path()).unwrap();
    for number in 0..7 {
        drop(granted(&engine, &number.to_string()));
    }
    for _ in 0..3 {
        bench.clock.advance(2 * RETENTION);
        engine.sweep().unwrap();
        assert_eq!(engine.held().unwrap().len(), 7);
        assert!(engine.stats().segments <= 6, "{:?}", engine.stats());
    }
}

#[test]
fn an_attempt_renewed_for_longer_than_the_retention_lives_on() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    let mut guard = granted(&engine, "long");
    let renewals = 2 * RETENTION.as_secs() / LEASE.as_secs() / 20;
    for renewal in 0..renewals {
        for _ in 0..20 {
            bench.clock.advance(JUST_UNDER_LEASE);
            guard.renew().unwrap();
        }
        completed(&engine, &format!("filler {renewal}"), "body");
        engine.sweep().unwrap();
        in_flight(&engine, "long");
    }
    guard.complete(Reply::new(200, "at last")).unwrap();
    assert_eq!(replayed(&engine, "long").body(), "at last");
}

#[test]
fn a_guard_completes_though_its_begin_is_many_segments_old() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    let guard = granted(&engine, "slow");
    for number in 0..40 {
        completed(&engine, &number.to_string(), "body");
    }
    guard.complete(Reply::new(200, "slow")).unwrap();
    assert_eq!(replayed(&engine, "slow").body(), "slow");
    engine.close().unwrap();
    assert_eq!(replayed(&tiny(&bench), "slow").body(), "slow");
}

#[test]
fn an_idle_engine_still_rolls_and_unlinks_by_age() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "key", "body");
    bench.clock.advance(RETENTION / 24);
    engine.sweep().unwrap();
    assert_eq!(engine.stats().segments, 2);
    bench.clock.advance(RETENTION);
    let sweep = engine.sweep().unwrap();
    assert_eq!((sweep.segments, sweep.records), (1, 1));
    assert_eq!(engine.stats().live_keys, 0);
}

#[test]
fn the_background_sweeper_sweeps_without_being_asked() {
    let bench = Bench::new();
    let builder = bench.builder().sweep_interval(Duration::from_millis(1));
    let engine = builder.segment_entries(2).open(bench.path()).unwrap();
    completed(&engine, "key", "body");
    bench.clock.advance(RETENTION);
    eventually(|| engine.stats().live_keys == 0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_last_handle_closes_and_every_thread_ends() {
    let output = in_child("reopen::opens_and_drops_engines", &Bench::new().path());
    assert!(output.contains("0 threads are left"), "{output}");
}

#[test]
#[ignore = "the other process of the test above"]
fn opens_and_drops_engines() {
    if folder_of_child().is_none() {
        return;
    }
    let bench = Bench::new();
    for round in 0..20 {
        let engine = bench.open();
        let clone = engine.clone();
        drop(engine);
        // Still open: a clone is there.
        let guard = granted(&clone, "key");
        if round % 2 == 0 {
            guard.release().unwrap();
            drop(clone);
        } else {
            drop(clone);
            drop(guard);
            bench.clock.advance(LEASE);
        }
        drop(bench.builder().open_in_memory().unwrap());
    }
    // A thread that has been joined can stand in the list for a moment.
    eventually(|| threads_of_engines() == 0);
    println!("0 threads are left");
}

fn threads_of_engines() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("onceward-"))
        .count()
}

#[test]
fn a_restored_store_that_rolls_while_idle_keeps_its_tokens_rising() {
    let bench = Bench::new();
    let engine = bench.open();
    let before = granted(&engine, "before").token();
    engine.close().unwrap();
    bench.clock.advance(RETENTION / 12);
    let builder = bench.builder().restored_from_backup(true);
    let engine = builder.open(bench.path()).unwrap();
    // Old enough to roll, and without an entry in the new epoch.
    engine.sweep().unwrap();
    assert_eq!(engine.stats().segments, 2);
    engine.close().unwrap();
    let mut last = before + 1_000_000;
    for name in ["a", "b", "c"] {
        let engine = bench.open();
        let guard = granted(&engine, name);
        assert!(guard.token() > last, "{} after {last}", guard.token());
        last = guard.token();
        guard.complete(Reply::new(200, "")).unwrap();
        engine.close().unwrap();
    }
}

#[test]
fn a_segment_that_a_crash_left_behind_when_it_was_unlinked_is_removed() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    for number in 0..6 {
        completed(&engine, &number.to_string(), "old");
    }
    sealed(&engine);
    let oldest = bench.path().join("sealed-0000000001.redb");
    // The file outlives its place in the manifest, as after a kill between the two.
    let kept = bench.path().with_file_name("kept");
    fs::hard_link(&oldest, &kept).unwrap();
    bench.clock.advance(RETENTION);
    engine.sweep().unwrap();
    completed(&engine, "new", "body");
    engine.close().unwrap();
    assert!(!oldest.exists());
    fs::rename(&kept, &oldest).unwrap();
    let engine = tiny(&bench);
    assert!(!oldest.exists());
    replayed(&engine, "new");
    assert_eq!(engine.lookup(&key("0")).unwrap(), None);
}

#[test]
fn what_a_conflict_needs_survives_a_reopen() {
    let bench = Bench::new();
    let engine = tiny(&bench);
    drop(granted(&engine, "key"));
    bench.clock.advance(LEASE);
    engine.close().unwrap();
    let engine = tiny(&bench);
    let outcome = engine
        .begin(&key("key"), &Fingerprint::of("other"))
        .unwrap();
    assert!(matches!(outcome, Outcome::Conflict(_)));
    assert_eq!(granted(&engine, "key").attempt(), 2);
}

#[cfg(unix)]
#[test]
fn closing_lets_go_of_the_folder_though_processes_are_being_started() {
    let bench = Bench::new();
    // A process that is being started holds copies of all open files until it runs its program.
    let starter = std::thread::spawn(|| {
        for _ in 0..400 {
            std::process::Command::new("true").status().unwrap();
        }
    });
    let mut reopened = 0;
    while !starter.is_finished() {
        bench.open().close().unwrap();
        reopened += 1;
    }
    starter.join().unwrap();
    assert!(reopened > 10);
}
