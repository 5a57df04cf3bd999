//! Runs callers for a while, each with one request at a time, and counts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::Histogram;

use crate::figures::per_second;
use crate::interrupt;
use crate::rival::{Caller, Task, expect_grant, key, reply};

/// The quantiles that are reported, and what they are called.
pub(crate) const QUANTILES: [(f64, &str); 4] = [
    (0.5, "p50"),
    (0.99, "p99"),
    (0.999, "p99.9"),
    (0.9999, "p99.99"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Window {
    pub(crate) fn total(self) -> Duration {
        self.warm_up + self.measured
    }
}

/// The numbers of the keys: none is used twice in a run.
#[derive(Debug)]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn next(&self) -> u64 {
        self.take(1)
    }

    /// The first of so many.
    pub(crate) fn take(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed)
    }
}

/// What one measurement found.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) cycles_per_s: f64,
    /// Of whole cycles, begin and complete together, at [`QUANTILES`]. `None` if no cycle began and ended
    /// in the measurement.
    pub(crate) latency_us: Option<[u64; QUANTILES.len()]>,
    /// The numbers of the keys that were completed, in the warm-up too.
    pub(crate) completed: Vec<u64>,
}

/// The time that counts.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    until: Instant,
}

impl Span {
    fn starting_now(window: Window) -> Self {
        let from = Instant::now() + window.warm_up;
        Self {
            from,
            until: from + window.measured,
        }
    }
}

pub(crate) struct Tally {
    span: Span,
    /// Begins and completions that ended in the span: half a cycle each, so that a slow rival with many
    /// callers is counted fairly.
    steps: u64,
    latencies_us: Vec<u32>,
    completed: Vec<u64>,
}

impl Tally {
    fn new(span: Span) -> Self {
        Self {
            span,
            steps: 0,
            latencies_us: Vec::new(),
            completed: Vec::new(),
        }
    }

    /// For a measurement that begins with its warm-up now.
    pub(crate) fn starting_now(window: Window) -> Self {
        Self::new(Span::starting_now(window))
    }

    /// What was measured, by this alone.
    pub(crate) fn alone(self, window: Window) -> Result<Load> {
        sum(vec![self], window)
    }

    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.span.until && !interrupt::is_set()
    }

    pub(crate) fn begun(&mut self) {
        self.step(Instant::now());
    }

    fn cycled(&mut self, number: u64, started: Instant) {
        self.cycled_unnamed(started);
        self.completed.push(number);
    }

    /// A cycle under no key, which can't be replayed.
    pub(crate) fn cycled_unnamed(&mut self, started: Instant) {
        let ended = Instant::now();
        if self.step(ended) {
            let us = ended.duration_since(started).as_micros();
            self.latencies_us.push(us.try_into().unwrap_or(u32::MAX));
        }
    }

    /// Whether it counts.
    fn step(&mut self, ended: Instant) -> bool {
        let counts = self.span.from <= ended && ended < self.span.until;
        self.steps += u64::from(counts);
        counts
    }
}

/// One cycle after another in a thread for each caller.
pub(crate) fn in_threads(
    callers: &mut [Box<dyn Caller>],
    numbers: &Numbers,
    window: Window,
) -> Result<Load> {
    // Set once all threads are there.
    let span = OnceLock::new();
    let tallies: Result<Vec<Tally>> = std::thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter_mut()
            .map(|caller| scope.spawn(|| cycles(caller.as_mut(), numbers, *span.wait())))
            .collect();
        span.get_or_init(|| Span::starting_now(window));
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a caller panicked"))?)
            .collect()
    });
    sum(tallies?, window)
}

fn cycles(caller: &mut dyn Caller, numbers: &Numbers, span: Span) -> Result<Tally> {
    let mut tally = Tally::new(span);
    while tally.goes_on() {
        let number = numbers.next();
        let (key, reply) = (key(number)?, reply(number));
        let started = Instant::now();
        expect_grant(&caller.begin(&key)?, &key)?;
        tally.begun();
        if !tally.goes_on() {
            break;
        }
        caller.complete(&key, reply)?;
        tally.cycled(number, started);
    }
    Ok(tally)
}

/// One cycle after another in as many tokio tasks, which come back in the end.
pub(crate) async fn in_tasks(
    tasks: &mut Vec<Box<dyn Task>>,
    count: usize,
    numbers: &'static Numbers,
    window: Window,
) -> Result<Load> {
    let span = Span::starting_now(window);
    let mut running = Vec::new();
    for mut task in tasks.drain(..count) {
        running.push(tokio::spawn(async move {
            let tally = cycles_async(task.as_mut(), numbers, span).await;
            (task, tally)
        }));
    }
    let mut tallies = Vec::new();
    for running in running {
        let (task, tally) = running.await.context("a task panicked")?;
        tasks.push(task);
        tallies.push(tally?);
    }
    sum(tallies, window)
}

async fn cycles_async(task: &mut dyn Task, numbers: &Numbers, span: Span) -> Result<Tally> {
    let mut tally = Tally::new(span);
    while tally.goes_on() {
        let number = numbers.next();
        let (key, reply) = (key(number)?, reply(number));
        let started = Instant::now();
        expect_grant(&task.begin(&key).await?, &key)?;
        tally.begun();
        if !tally.goes_on() {
            break;
        }
        task.complete(&key, reply).await?;
        tally.cycled(number, started);
    }
    Ok(tally)
}

fn sum(tallies: Vec<Tally>, window: Window) -> Result<Load> {
    interrupt::check()?;
    let (mut steps, mut completed) = (0, Vec::new());
    let mut latencies = Histogram::<u64>::new(3)?;
    for tally in tallies {
        steps += tally.steps;
        completed.extend(tally.completed);
        for us in tally.latencies_us {
            latencies.record(u64::from(us))?;
        }
    }
    Ok(Load {
        cycles_per_s: per_second(steps, window.measured) / 2.0,
        latency_us: (!latencies.is_empty())
            .then(|| QUANTILES.map(|(quantile, _)| latencies.value_at_quantile(quantile))),
        completed,
    })
}
