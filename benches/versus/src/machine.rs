//! What the figures were measured on.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figures::median;
use crate::servers;

pub(crate) struct Machine {
    /// What it is called, and what it is.
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) sync: Duration,
}

impl Machine {
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let filesystem = filesystem(folder).unwrap_or_else(|| "unknown".to_owned());
        ensure!(
            !["tmpfs", "ramfs"].contains(&filesystem.as_str()),
            "{} is in memory, where a sync costs nothing: name a folder on a disk with --folder",
            folder.display()
        );
        let sync = sync_time(folder)?;
        let cores = std::thread::available_parallelism()?;
        let mut facts = vec![
            ("date", date()),
            ("processor", first_after("/proc/cpuinfo", "model name")),
            ("cores", cores.to_string()),
            ("memory", first_after("/proc/meminfo", "MemTotal")),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("file system", filesystem),
            (
                "fdatasync",
                format!(
                    "{:.0} µs, the median for a 4 KiB overwrite",
                    sync.as_secs_f64() * 1e6
                ),
            ),
        ];
        let redis = servers::redis_program();
        let postgres = servers::postgres_programs().map(|folder| folder.join("postgres"));
        for (name, program) in [("redis", redis), ("postgres", postgres)] {
            if let Some(version) = program.and_then(|program| servers::version(&program)) {
                facts.push((name, version));
            }
        }
        Ok(Self { facts, sync })
    }
}

fn sync_time(folder: &Path) -> Result<Duration> {
    const OVERWRITES: usize = 500;
    const PATIENCE: Duration = Duration::from_secs(2);
    let path = folder.join("sync-time");
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)?;
    file.write_all_at(&[0; 4_096], 0)?;
    file.sync_all()?;
    let (mut times, since) = (Vec::new(), Instant::now());
    while times.is_empty() || times.len() < OVERWRITES && since.elapsed() < PATIENCE {
        let start = Instant::now();
        file.write_all_at(&[1; 4_096], 0)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64());
    }
    fs::remove_file(&path)?;
    Ok(Duration::from_secs_f64(median(&times)))
}

/// The type of the file system that is mounted closest above the folder.
fn filesystem(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (Path::new(fields.next()?), fields.next()?);
        folder
            .starts_with(place)
            .then(|| (place.components().count(), kind.to_owned()))
    });
    // The last of those that are equally close hides the others.
    let (_, kind) = above.max_by_key(|(depth, _)| *depth)?;
    Some(kind)
}

fn first_after(file: &str, name: &str) -> String {
    let text = read(file);
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(
        || "unknown".to_owned(),
        |(_, value)| value.trim().to_owned(),
    )
}

fn read(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().to_owned()
}

fn date() -> String {
    let output = Command::new("date").args(["-u", "+%F %H:%M UTC"]).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
