//! onceward and redb-grouped with 10 million live keys, one after the other, and an empty onceward beside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use crate::figures::{per_second, rounded};
use crate::load::{self, Numbers, Window};
use crate::results::{Cell, Preloaded};
use crate::rival::{Caller, Digest, Rival, Task, digest, expect_grant, key, reply};
use crate::rivals::{Caches, Kind, preload_redb};
use crate::{folder, interrupt};

const KEYS: u64 = 10_000_000;
const THREADS: usize = 64;
const TASKS: usize = 1_024;
const SETTLING: Duration = Duration::from_secs(5);
const NEWS_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) fn run(
    folder: &Path,
    window: Window,
    rounds: usize,
    has_redb: bool,
    numbers: &'static Numbers,
) -> Result<Preloaded> {
    let (full_folder, empty_folder) = (folder.join("full"), folder.join("empty"));
    let full = open(Kind::Onceward, &full_folder)?;
    fill(full.as_ref(), numbers)?;
    let empty = open(Kind::Onceward, &empty_folder)?;
    settle()?;
    let (mut onceward, mut onceward_empty) = (Cell::default(), Cell::default());
    for _ in 0..rounds {
        for (name, rival, cell) in [
            ("onceward, 10 million keys", &full, &mut onceward),
            ("onceward, empty", &empty, &mut onceward_empty),
        ] {
            measure(name, rival.as_ref(), window, numbers, cell)?;
        }
    }
    drop((full, empty));
    folder::remove(&full_folder);
    folder::remove(&empty_folder);
    let redb_grouped = if has_redb {
        Some(redb_grouped(&full_folder, window, rounds, numbers)?)
    } else {
        None
    };
    Ok(Preloaded {
        keys: KEYS,
        threads: THREADS,
        onceward,
        onceward_empty,
        redb_grouped,
    })
}

fn open(kind: Kind, folder: &Path) -> Result<Box<dyn Rival>> {
    fs::create_dir_all(folder)?;
    kind.open(folder, Caches::Usual)
}

fn measure(
    name: &str,
    rival: &dyn Rival,
    window: Window,
    numbers: &Numbers,
    cell: &mut Cell,
) -> Result<()> {
    let callers: Result<Vec<Box<dyn Caller>>> = (0..THREADS).map(|_| rival.caller()).collect();
    let load = load::in_threads(&mut callers?, numbers, window)?;
    eprintln!("{name}: {} cycles a second", rounded(load.cycles_per_s));
    cell.add(&load);
    Ok(())
}

fn redb_grouped(folder: &Path, window: Window, rounds: usize, numbers: &Numbers) -> Result<Cell> {
    fs::create_dir_all(folder)?;
    let first = numbers.take(KEYS);
    let mut sorted: Vec<(Digest, u64)> = (first..first + KEYS)
        .map(|number| Ok((digest(&key(number)?), number)))
        .collect::<Result<_>>()?;
    sorted.sort_unstable();
    let records = sorted
        .into_iter()
        .map(|(digest, number)| (digest, reply(number)));
    let mut news = News::new("redb-grouped");
    preload_redb(folder, records, |loaded| {
        news.tell(loaded);
        interrupt::check()
    })?;
    let rival = Kind::RedbGrouped.open(folder, Caches::Usual)?;
    settle()?;
    let mut cell = Cell::default();
    for _ in 0..rounds {
        measure(
            "redb-grouped, 10 million keys",
            rival.as_ref(),
            window,
            numbers,
            &mut cell,
        )?;
    }
    drop(rival);
    folder::remove(folder);
    Ok(cell)
}

/// Lets what the loading has left behind get to the disk, so that it isn't measured.
fn settle() -> Result<()> {
    let status = Command::new("sync").status().context("sync")?;
    ensure!(status.success(), "sync failed");
    std::thread::sleep(SETTLING);
    interrupt::check()
}

/// Begins and completes the keys as any server would, with many tasks.
fn fill(rival: &dyn Rival, numbers: &'static Numbers) -> Result<()> {
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let completed = Arc::new(AtomicU64::new(0));
        let end = numbers.take(KEYS) + KEYS;
        let next = Arc::new(AtomicU64::new(end - KEYS));
        let mut running = Vec::new();
        for task in rival.tasks(TASKS).await? {
            let (next, completed) = (Arc::clone(&next), Arc::clone(&completed));
            running.push(tokio::spawn(fill_in_task(task, next, end, completed)));
        }
        let mut news = News::new("onceward");
        while !running.iter().all(tokio::task::JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            news.tell(completed.load(Ordering::Relaxed));
        }
        for running in running {
            running.await.context("a task panicked")??;
        }
        interrupt::check()
    })
}

async fn fill_in_task(
    mut task: Box<dyn Task>,
    next: Arc<AtomicU64>,
    end: u64,
    completed: Arc<AtomicU64>,
) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end || interrupt::is_set() {
            return Ok(());
        }
        let key = key(number)?;
        expect_grant(&task.begin(&key).await?, &key)?;
        task.complete(&key, reply(number)).await?;
        completed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says now and then how far the loading is.
struct News {
    name: &'static str,
    since: Instant,
    told: Instant,
}

impl News {
    fn new(name: &'static str) -> Self {
        let now = Instant::now();
        Self {
            name,
            since: now,
            told: now,
        }
    }

    fn tell(&mut self, loaded: u64) {
        if self.told.elapsed() < NEWS_INTERVAL && loaded < KEYS {
            return;
        }
        self.told = Instant::now();
        eprintln!(
            "loading {}: {} of {} keys, {} a second",
            self.name,
            loaded,
            KEYS,
            rounded(per_second(loaded, self.since.elapsed()))
        );
    }
}
