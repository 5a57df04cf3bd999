//! begin + complete against the disk, and the paths that don't write.
//!
//! `cargo bench --bench engine`; every commit is durable (fdatasync) before its caller goes on. One
//! iteration of a `cycles` bench is one cycle by each caller: the throughput shown is cycles per second.

mod naive;

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use naive::Naive;
use onceward::{Engine, Fingerprint, Key, ManualClock, Outcome, Reply, Terms};

const REPLY_BYTES: usize = 512;
const CALLERS: [usize; 4] = [1, 8, 64, 256];

fn folder() -> tempfile::TempDir {
    // Beside the build's output rather than in /tmp, which is memory on some machines.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written")
}

fn reply() -> Reply {
    Reply::new(201, vec![b'x'; REPLY_BYTES])
}

fn key(number: u64) -> Key {
    Key::new("bench", format!("3fa85f64-5717-4562-b3fc-{number:012}")).expect("a valid key")
}

fn fingerprint() -> Fingerprint {
    Fingerprint::of(b"POST /payments {\"amount\":100}")
}

fn grant(outcome: Outcome) -> onceward::Guard {
    match outcome {
        Outcome::Proceed(guard) => guard,
        other => panic!("a fresh key was not granted: {other:?}"),
    }
}

/// One request under a fresh key: granted, then completed.
fn cycle(engine: &Engine, next: &AtomicU64, fingerprint: &Fingerprint) {
    let key = key(next.fetch_add(1, Ordering::Relaxed));
    let guard = grant(engine.begin(&key, fingerprint).expect("a grant"));
    guard.complete(reply()).expect("a completion");
}

/// Runs `cycle` so often in each of so many threads, and gives the time from first to last.
fn in_threads(callers: usize, cycles_each: u64, cycle: impl Fn() + Sync) -> Duration {
    let barrier = Barrier::new(callers + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..cycles_each {
                        cycle();
                    }
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().expect("a caller panicked");
        }
        start.elapsed()
    })
}

fn cycles(criterion: &mut Criterion) {
    println!("each commit is one fdatasync; {REPLY_BYTES}-byte replies; a fresh key per cycle");
    let mut group = criterion.benchmark_group("cycles");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    let next = AtomicU64::new(0);
    let fingerprint = fingerprint();
    for callers in CALLERS {
        group.throughput(Throughput::Elements(callers as u64));
        let folder = folder();
        let engine = Engine::open(folder.path().join("engine")).expect("a new engine");
        group.bench_function(BenchmarkId::new("onceward, threads", callers), |bencher| {
            bencher.iter_custom(|cycles| {
                in_threads(callers, cycles, || cycle(&engine, &next, &fingerprint))
            });
        });
        tasks(&mut group, &engine, callers, &next);
        engine.close().expect("a clean close");

        let naive = Naive::open(&folder.path().join("naive"));
        group.bench_function(
            BenchmarkId::new("naive redb, threads", callers),
            |bencher| {
                bencher.iter_custom(|cycles| {
                    in_threads(callers, cycles, || {
                        let key = key(next.fetch_add(1, Ordering::Relaxed));
                        assert!(naive.begin(&key), "a fresh key is granted");
                        naive.complete(&key, &reply());
                    })
                });
            },
        );
    }
}

fn tasks(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    engine: &Engine,
    callers: usize,
    next: &AtomicU64,
) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    group.bench_function(BenchmarkId::new("onceward, tokio", callers), |bencher| {
        bencher.iter_custom(|cycles| {
            let first = next.fetch_add(cycles * callers as u64, Ordering::Relaxed);
            let start = Instant::now();
            runtime.block_on(async {
                let tasks: Vec<_> = (0..callers as u64)
                    .map(|caller| {
                        let engine = engine.clone();
                        tokio::spawn(async move {
                            let fingerprint = fingerprint();
                            for cycle in 0..cycles {
                                let key = key(first + caller * cycles + cycle);
                                let outcome = engine.begin_async(&key, &fingerprint).await;
                                let guard = grant(outcome.expect("a grant"));
                                guard.complete_async(reply()).await.expect("a completion");
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("a task panicked");
                }
            });
            start.elapsed()
        });
    });
}

/// Fills an engine with completed keys.
fn filled(path: &Path, keys: u64, replay_cache_bytes: usize) -> Engine {
    let engine = Engine::builder()
        .replay_cache_bytes(replay_cache_bytes)
        .open(path)
        .expect("a new engine");
    let next = AtomicU64::new(0);
    let fingerprint = fingerprint();
    in_threads(64, keys / 64, || cycle(&engine, &next, &fingerprint));
    engine
}

fn answers(criterion: &mut Criterion) {
    const KEYS: u64 = 64_000;
    let mut group = criterion.benchmark_group("answers");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(1));
    let folder = folder();
    let (fingerprint, other) = (fingerprint(), Fingerprint::of("another request"));

    let engine = filled(&folder.path().join("hot"), KEYS, 256 << 20);
    let keys: Vec<Key> = (0..KEYS).map(key).collect();
    let mut at = 0;
    let mut next = |among: usize| {
        at = (at + 7_919) % among;
        &keys[at]
    };
    for (name, among) in [
        ("replay, hot (1,000 keys)", 1_000),
        ("replay, hot (64,000 keys)", keys.len()),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| match engine.begin(next(among), &fingerprint) {
                Ok(Outcome::Replay(reply)) => reply,
                other => panic!("not replayed: {other:?}"),
            });
        });
    }
    group.bench_function("conflict", |bencher| {
        bencher.iter(|| match engine.begin(next(1_000), &other) {
            Ok(Outcome::Conflict(conflict)) => conflict,
            other => panic!("no conflict: {other:?}"),
        });
    });
    let running = key(KEYS + 1);
    let guard = grant(engine.begin(&running, &fingerprint).expect("a grant"));
    group.bench_function("in flight", |bencher| {
        bencher.iter(|| match engine.begin(&running, &fingerprint) {
            Ok(Outcome::InFlight(in_flight)) => in_flight,
            other => panic!("not in flight: {other:?}"),
        });
    });
    guard.release().expect("a release");
    engine.close().expect("a clean close");

    let engine = filled(&folder.path().join("cold"), KEYS, 0);
    group.bench_function("replay, cold (64,000 keys)", |bencher| {
        bencher.iter(|| match engine.begin(next(keys.len()), &fingerprint) {
            Ok(Outcome::Replay(reply)) => reply,
            other => panic!("not replayed: {other:?}"),
        });
    });
}

fn sweep(criterion: &mut Criterion) {
    const KEYS: u64 = 6_400;
    let mut group = criterion.benchmark_group("sweep");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(1))
        .throughput(Throughput::Elements(KEYS));
    group.bench_function("6,400 expired records", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| time_of_sweep(KEYS)).sum());
    });
}

fn time_of_sweep(keys: u64) -> Duration {
    let folder = folder();
    let clock = ManualClock::new();
    let terms = Terms::default();
    let engine = Engine::builder()
        .clock(clock.clone())
        .segment_entries(keys / 2)
        .open(folder.path().join("engine"))
        .expect("a new engine");
    let next = AtomicU64::new(0);
    let fingerprint = fingerprint();
    in_threads(64, keys / 64, || cycle(&engine, &next, &fingerprint));
    clock.advance(terms.retention);
    let start = Instant::now();
    let swept = engine.sweep().expect("a sweep");
    let elapsed = start.elapsed();
    assert_eq!(swept.records, keys, "everything had expired");
    elapsed
}

criterion_group!(benches, cycles, answers, sweep);
criterion_main!(benches);
