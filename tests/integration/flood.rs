//! Distinct keys without end: what is held stays bounded, and what was granted can be completed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use onceward::{Engine, ErrorKind, Key, Outcome, Reply};

use crate::support::{Bench, is_full_run, key, replayed, request};

const THREADS: u64 = 8;
/// Of so many granted keys one is completed at the very end only.
const LATE: u64 = 500;

/// What a flood has come to.
#[derive(Debug, Default)]
struct Flood {
    completed: Vec<u64>,
    refused: u64,
}

/// Begins so many distinct keys, completes what is granted, and some of it last of all.
fn flood(engine: &Engine, keys: u64, body_bytes: usize) -> Flood {
    let next = AtomicU64::new(0);
    let swim = || {
        let mut flood = Flood::default();
        let mut late = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= keys {
                break;
            }
            match engine.begin(&key(number.to_string()), &request()) {
                Ok(Outcome::Proceed(guard)) if number.is_multiple_of(LATE) => {
                    late.push((number, guard));
                }
                Ok(Outcome::Proceed(guard)) => {
                    let reply = Reply::new(200, vec![7; body_bytes]);
                    guard.complete(reply).unwrap();
                    flood.completed.push(number);
                }
                Ok(other) => panic!("a new key gives {other:?}"),
                Err(error) => {
                    let kinds = [ErrorKind::Full, ErrorKind::ScopeFull];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                    flood.refused += 1;
                }
            }
        }
        for (number, guard) in late {
            guard
                .complete(Reply::new(200, vec![7; body_bytes]))
                .unwrap();
            flood.completed.push(number);
        }
        flood
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(swim)).collect();
        let floods = threads.into_iter().map(|thread| thread.join().unwrap());
        floods.fold(Flood::default(), |mut sum, flood| {
            sum.completed.extend(flood.completed);
            sum.refused += flood.refused;
            sum
        })
    })
}

/// The bytes of the disk that a folder takes.
#[cfg(unix)]
fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(path).unwrap();
    let sizes = files.map(|file| {
        file.unwrap()
            .metadata()
            .map_or(0, |file| file.blocks() * 512)
    });
    sizes.sum()
}

/// The most that a folder takes while something goes on.
#[cfg(unix)]
fn most_taken<T>(path: &Path, work: impl FnOnce() -> T) -> (T, u64) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(taken(path));
                thread::sleep(std::time::Duration::from_millis(2));
            }
            most.max(taken(path))
        });
        let result = work();
        is_over.store(true, Ordering::Relaxed);
        (result, watch.join().unwrap())
    })
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

#[test]
fn a_flood_of_keys_stays_within_the_limit_on_keys_and_evicts_none() {
    let (keys, limit) = if is_full_run() {
        (10_000_000, 1_000_000)
    } else {
        (20_000, 5_000)
    };
    let bench = Bench::new();
    let builder = bench.builder().max_live_keys(limit);
    let engine = builder
        .segment_entries(limit / 10)
        .open(bench.path())
        .unwrap();
    let flood = flood(&engine, keys, 64);
    let granted = flood.completed.len() as u64;
    assert_eq!(granted, limit);
    assert_eq!(granted + flood.refused, keys);
    assert_eq!(engine.stats().live_keys, limit);
    for number in flood.completed.iter().rev().take(2_000) {
        replayed(&engine, &number.to_string());
    }
    println!(
        "{keys} keys against {limit}: {granted} granted and kept, {} refused; {} MiB of memory",
        flood.refused,
        memory_kib() >> 10
    );
}

#[cfg(unix)]
#[test]
fn a_flood_of_keys_stays_within_the_limit_on_disk_space_and_what_was_granted_is_completed() {
    let (keys, mebibytes) = if is_full_run() {
        (10_000_000, 1_024)
    } else {
        (40_000, 64)
    };
    let limit = mebibytes << 20;
    let bench = Bench::new();
    let builder = bench.builder().max_disk_bytes(limit);
    let engine = builder.open(bench.path()).unwrap();
    let (flood, most) = most_taken(&bench.path(), || flood(&engine, keys, 4_096));
    let granted = flood.completed.len() as u64;
    assert!(
        flood.refused > 0 && most <= limit,
        "{most} bytes, {} refused",
        flood.refused
    );
    // And not much less than that.
    assert!(granted * 4_096 > limit / 3, "{granted} granted");
    assert_eq!(granted + flood.refused, keys);
    let health = engine.health();
    assert_eq!(health.reason().unwrap().kind(), ErrorKind::Full);
    for number in flood.completed.iter().rev().take(2_000) {
        replayed(&engine, &number.to_string());
    }
    println!(
        "{keys} keys against {mebibytes} MiB: {granted} granted and kept, {} refused; {} MiB of the disk at most, {} \
         MiB of memory",
        flood.refused,
        most >> 20,
        memory_kib() >> 10
    );
}

/// One tenant floods, and others go on beside it.
#[test]
fn a_flood_of_one_tenant_s_keys_leaves_the_others_their_room() {
    let (keys, limit, others) = if is_full_run() {
        (10_000_000, 1_000_000, 100_000_u64)
    } else {
        (20_000, 5_000, 1_000)
    };
    let bench = Bench::new();
    // There is no room left but for them.
    let builder = bench.builder().max_live_keys(limit + others);
    let builder = builder.max_live_keys_per_scope(limit);
    let engine = builder
        .segment_entries(limit / 10)
        .open(bench.path())
        .unwrap();
    let begin_other = |number: u64| {
        let scope = format!("tenant {}", number % 1_000);
        let key = Key::new(scope, number.to_string()).unwrap();
        match engine.begin(&key, &request()).unwrap() {
            Outcome::Proceed(guard) => guard.complete(Reply::new(200, "")).unwrap(),
            other => panic!("another tenant's new key gives {other:?}"),
        }
    };
    let flood = thread::scope(|scope| {
        scope.spawn(|| (0..others).for_each(begin_other));
        flood(&engine, keys, 64)
    });
    let granted = flood.completed.len() as u64;
    assert_eq!(granted, limit);
    assert_eq!(granted + flood.refused, keys);
    assert_eq!(engine.stats().live_keys, limit + others);
    println!(
        "{keys} keys of one tenant against {limit}: {granted} granted and kept; {others} of 1000 other tenants granted \
         beside them; {} MiB of memory",
        memory_kib() >> 10
    );
}

#[cfg(unix)]
#[test]
fn what_expires_makes_room_on_the_disk_again() {
    let bench = Bench::in_memory();
    let builder = bench.builder().max_disk_bytes(64 << 20);
    let engine = builder.open(bench.path()).unwrap();
    for round in 0..3 {
        let flood = flood_from(&engine, round);
        assert!(flood > 1_000, "round {round}: {flood} granted");
        assert!(!engine.health().is_ready());
        bench.clock.advance(crate::support::RETENTION);
        // The first rolls the active segment, the second unlinks it.
        for _ in 0..2 {
            engine.sweep().unwrap();
            bench.clock.advance(crate::support::RETENTION);
        }
        engine.sweep().unwrap();
        assert!(engine.health().is_ready(), "{:?}", engine.stats());
    }
}

/// Completes keys until they are refused; gives how many there were.
fn flood_from(engine: &Engine, round: usize) -> usize {
    for number in 0.. {
        let key = key(format!("{round} {number}"));
        match engine.begin(&key, &request()) {
            Ok(Outcome::Proceed(guard)) => {
                guard.complete(Reply::new(200, vec![7; 16_384])).unwrap();
            }
            Ok(other) => panic!("a new key gives {other:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
                return number;
            }
        }
    }
    0
}
