//! One step of the scale table, in a process of its own. Each prints lines of a name and a figure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use onceward::{Builder, Clock, Engine, Fingerprint, ManualClock, Outcome, Reply, SystemClock};
use tokio::runtime::Runtime;

use crate::figures::{float, per_second};
use crate::rival::{key, reply};

const TASKS: usize = 1_024;
const THREADS: usize = 64;
const CACHES_MIB: f64 = 128.0;
const MIB: f64 = 1_048_576.0;
/// Long enough for segments to be rolled and sealed.
const WORK: Duration = Duration::from_secs(20);
const BURN: Duration = Duration::from_secs(7);
const COLD_READS: u64 = 300_000;
const ABSENT: u64 = 1 << 40;
const RETENTION: Duration = Duration::from_hours(24);

pub(crate) fn run(words: &[String]) -> Result<()> {
    let [step, folder, keys] = words else {
        bail!("a step needs a name, a folder and a number of keys");
    };
    let (folder, keys) = (Path::new(folder), keys.parse()?);
    match step.as_str() {
        "load" => load(folder, keys),
        "open" => open(folder, keys),
        "work" => work(folder),
        "burn" => burn(folder),
        "reopen" => reopen(folder),
        "sweep" => sweep(folder),
        "churn" => churn(folder),
        _ => bail!("there is no step {step}"),
    }
}

fn builder() -> Builder {
    Engine::builder().max_live_keys(100_000_000)
}

fn opened(builder: Builder, folder: &Path) -> Result<(Engine, Duration)> {
    let since = Instant::now();
    let engine = builder.open(folder.join("engine"))?;
    Ok((engine, since.elapsed()))
}

fn say(name: &str, figure: f64) {
    println!("{name} {figure}");
}

fn say_ms(name: &str, time: Duration) {
    say(name, time.as_secs_f64() * 1e3);
}

/// Resident memory in MiB.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<f64>()? / 1_024.0)
}

/// Waits until everything but the active segment is sealed.
fn settle(engine: &Engine) {
    while engine.stats().sealed_segments + 1 < engine.stats().segments {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn load(folder: &Path, keys: u64) -> Result<()> {
    let (engine, _) = opened(builder(), folder)?;
    let next = Arc::new(AtomicU64::new(0));
    let since = Instant::now();
    Runtime::new()?.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| tokio::spawn(load_in_task(engine.clone(), Arc::clone(&next), keys)))
            .collect();
        for task in tasks {
            task.await.context("a task panicked")??;
        }
        anyhow::Ok(())
    })?;
    say("load_per_s", per_second(keys, since.elapsed()));
    settle(&engine);
    let stats = engine.stats();
    ensure!(stats.live_keys == keys, "{} live keys", stats.live_keys);
    let resident = resident()?;
    say("rss_mib", resident);
    say("above_caches_mib", resident - CACHES_MIB);
    say("index_mib", float(stats.index_bytes) / MIB);
    say("segments", float(stats.segments));
    Ok(engine.close()?)
}

async fn load_in_task(engine: Engine, next: Arc<AtomicU64>, keys: u64) -> Result<()> {
    let fingerprint = Fingerprint::of("request");
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= keys {
            return Ok(());
        }
        let Outcome::Proceed(guard) = engine.begin_async(&key(number)?, &fingerprint).await? else {
            bail!("a fresh key was not granted");
        };
        guard.complete_async(Reply::new(201, reply(number))).await?;
    }
}

fn open(folder: &Path, keys: u64) -> Result<()> {
    let (engine, time) = opened(builder(), folder)?;
    say_ms("open_clean_ms", time);
    say("open_rss_mib", resident()?);
    let stats = engine.stats();
    say(
        "bytes_per_key",
        float(stats.disk_bytes) / float(stats.live_keys),
    );
    let since = Instant::now();
    for number in ABSENT..ABSENT + COLD_READS {
        ensure!(
            engine.lookup(&key(number)?)?.is_none(),
            "an absent key was found"
        );
    }
    say(
        "absent_us",
        since.elapsed().as_secs_f64() * 1e6 / float(COLD_READS),
    );
    let fingerprint = Fingerprint::of("request");
    // The first half warms the operating system's cache up, where it has room.
    let mut cold = Duration::ZERO;
    for _ in 0..2 {
        let since = Instant::now();
        for read in 0..COLD_READS {
            let number = read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
            let Outcome::Replay(found) = engine.begin(&key(number)?, &fingerprint)? else {
                bail!("a completed key was not replayed");
            };
            ensure!(*found.body() == reply(number), "another reply");
        }
        cold = since.elapsed();
    }
    say("cold_per_s", per_second(COLD_READS, cold));
    Ok(engine.close()?)
}

/// The latencies of begins and of whole cycles, in microseconds.
struct Latencies {
    begin: Histogram<u64>,
    cycle: Histogram<u64>,
}

/// Lets many threads begin and complete fresh keys until they are told to stop.
fn callers(engine: &Engine, threads: usize, stop: &AtomicBool) -> Result<Latencies> {
    let first = fresh();
    let mut all = Latencies {
        begin: Histogram::new(3)?,
        cycle: Histogram::new(3)?,
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads as u64)
            .map(|thread| scope.spawn(move || cycles(engine, first + (thread << 32), stop)))
            .collect();
        for running in running {
            let Ok(latencies) = running.join() else {
                bail!("a caller panicked");
            };
            let latencies = latencies?;
            all.begin.add(latencies.begin)?;
            all.cycle.add(latencies.cycle)?;
        }
        Ok(())
    })?;
    Ok(all)
}

/// Numbers of keys that no other step has used.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis() & 0xff_ffff);
    (1 << 50) + (u64::try_from(ms).unwrap_or(0) << 40)
}

fn cycles(engine: &Engine, first: u64, stop: &AtomicBool) -> Result<Latencies> {
    let fingerprint = Fingerprint::of("request");
    let mut latencies = Latencies {
        begin: Histogram::new(3)?,
        cycle: Histogram::new(3)?,
    };
    let us = |since: Instant| u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    for number in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, reply) = (key(number)?, reply(number));
        let since = Instant::now();
        let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? else {
            bail!("a fresh key was not granted");
        };
        latencies.begin.record(us(since))?;
        guard.complete(Reply::new(201, reply))?;
        latencies.cycle.record(us(since))?;
    }
    Ok(latencies)
}

fn work(folder: &Path) -> Result<()> {
    let (engine, _) = opened(builder(), folder)?;
    let before = engine.stats().segments;
    let stop = AtomicBool::new(false);
    let latencies = std::thread::scope(|scope| {
        let callers = scope.spawn(|| callers(&engine, THREADS, &stop));
        std::thread::sleep(WORK);
        stop.store(true, Ordering::Relaxed);
        callers.join()
    });
    let Ok(latencies) = latencies else {
        bail!("the callers panicked");
    };
    let Latencies { begin, cycle } = latencies?;
    say("begin_p50_us", float(begin.value_at_quantile(0.5)));
    say("begin_p99_us", float(begin.value_at_quantile(0.99)));
    say("begin_p999_us", float(begin.value_at_quantile(0.999)));
    say("begin_p9999_us", float(begin.value_at_quantile(0.9999)));
    let over_median =
        |part| float(cycle.value_at_quantile(part)) / float(cycle.value_at_quantile(0.5));
    say("cycle_ratio", over_median(0.99));
    say("cycle_tail", over_median(0.999));
    say("rolled", float(engine.stats().segments - before));
    Ok(engine.close()?)
}

/// Works until it is killed.
fn burn(folder: &Path) -> Result<()> {
    let (engine, _) = opened(builder(), folder)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers = scope.spawn(|| callers(&engine, THREADS, &stop));
        std::thread::sleep(BURN);
        println!("kill me");
        // The parent reads the line and kills; this is for one that doesn't.
        std::thread::sleep(Duration::from_mins(1));
        stop.store(true, Ordering::Relaxed);
        drop(callers.join());
    });
    bail!("nobody killed this")
}

fn reopen(folder: &Path) -> Result<()> {
    let (engine, time) = opened(builder(), folder)?;
    say_ms("open_killed_ms", time);
    settle(&engine);
    Ok(engine.close()?)
}

/// The system's clock, set forward.
#[derive(Debug)]
struct Ahead {
    clock: SystemClock,
    by: Duration,
}

impl Clock for Ahead {
    fn wall(&self) -> SystemTime {
        self.clock.wall() + self.by
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

fn sweep(folder: &Path) -> Result<()> {
    let clock = Ahead {
        clock: SystemClock::new(),
        by: RETENTION + Duration::from_hours(1),
    };
    // After a step of the clock nothing is unlinked for one interval. The sweeper begins a new interval with each
    // sweep that it is asked for, so that none comes in between.
    let interval = Duration::from_secs(3);
    let (engine, _) = opened(builder().clock(clock).sweep_interval(interval), folder)?;
    let before = engine.stats();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers = scope.spawn(|| callers(&engine, 8, &stop));
        std::thread::sleep(interval / 2);
        let mut swept = 0;
        let since = Instant::now();
        while swept == 0 && since.elapsed() < Duration::from_secs(10) {
            let since = Instant::now();
            swept = engine.sweep()?.records;
            if swept > 0 {
                say_ms("sweep_ms", since.elapsed());
                say(
                    "swept_per_ms",
                    float(swept) / (since.elapsed().as_secs_f64() * 1e3),
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        let Ok(latencies) = callers.join() else {
            bail!("the callers panicked");
        };
        say(
            "sweep_begin_p99_us",
            float(latencies?.begin.value_at_quantile(0.99)),
        );
        Ok(())
    })?;
    let after = engine.stats();
    ensure!(
        after.disk_bytes < before.disk_bytes / 2 || before.segments < 3,
        "the space didn't return: {} bytes before, {} after",
        before.disk_bytes,
        after.disk_bytes
    );
    Ok(engine.close()?)
}

/// Ten retentions of even work, with a clock that is moved.
fn churn(folder: &Path) -> Result<()> {
    const SLICES: u64 = 24;
    const KEYS_PER_SLICE: u64 = 4_000;
    let clock = ManualClock::new();
    let (engine, _) = opened(builder().clock(clock.clone()), folder)?;
    let mut most_later = 0_u64;
    let runtime = Runtime::new()?;
    for slice in 0..10 * SLICES {
        let next = Arc::new(AtomicU64::new(slice * KEYS_PER_SLICE));
        runtime.block_on(async {
            let end = (slice + 1) * KEYS_PER_SLICE;
            let tasks: Vec<_> = (0..64)
                .map(|_| tokio::spawn(load_in_task(engine.clone(), Arc::clone(&next), end)))
                .collect();
            for task in tasks {
                task.await.context("a task panicked")??;
            }
            anyhow::Ok(())
        })?;
        clock.advance(RETENTION / u32::try_from(SLICES)?);
        engine.sweep()?;
        settle(&engine);
        let bytes = engine.stats().disk_bytes;
        if slice + 1 == 2 * SLICES {
            say("after_two_mib", float(bytes) / MIB);
        }
        if slice >= 2 * SLICES {
            most_later = most_later.max(bytes);
        }
    }
    say("most_later_mib", float(most_later) / MIB);
    Ok(engine.close()?)
}
