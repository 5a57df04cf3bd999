//! What grows with the number of keys and what doesn't: memory, disk, the time to open, to sweep, and the
//! latency while segments are rolled, sealed and swept.
//!
//! Each step is a process of its own, so that its memory is its own, and so that one can be killed.

mod step;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::figures::rounded;
use crate::{folder, interrupt};

pub(crate) use step::run as run_step;

/// How many keys each row of the table has.
const SIZES: [u64; 3] = [100_000, 1_000_000, 10_000_000];

/// What the table shows: a name in the steps' output, and what it is called.
const COLUMNS: [(&str, &str); 21] = [
    ("load_per_s", "loading, cycles/s (1,024 tasks)"),
    ("rss_mib", "resident memory after loading, MiB"),
    (
        "above_caches_mib",
        "- above the configured caches (128 MiB), MiB",
    ),
    ("index_mib", "- of that indexes and filters, MiB"),
    ("segments", "segments"),
    ("bytes_per_key", "disk bytes per live key"),
    ("open_clean_ms", "open after a clean close, ms"),
    ("open_rss_mib", "- resident memory then, MiB"),
    ("absent_us", "looking up an absent key, one thread, us"),
    ("cold_per_s", "cold replays/s, one thread"),
    ("begin_p50_us", "begin under load (64 threads), p50, us"),
    ("begin_p99_us", "- p99, us"),
    ("begin_p999_us", "- p99.9, us"),
    ("begin_p9999_us", "- p99.99, us"),
    ("cycle_ratio", "- whole cycle, p99 / p50"),
    ("cycle_tail", "- whole cycle, p99.9 / p50"),
    ("rolled", "- segments rolled meanwhile"),
    ("open_killed_ms", "open after SIGKILL under that load, ms"),
    ("sweep_ms", "sweeping everything, ms"),
    ("swept_per_ms", "- records per ms"),
    (
        "sweep_begin_p99_us",
        "- begin's p99 meanwhile (8 threads), us",
    ),
];

type Figures = BTreeMap<String, f64>;

/// Measures and prints the table.
pub(crate) fn run(place: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for keys in SIZES {
        let place = place.join(format!("scale-{keys}"));
        std::fs::create_dir_all(&place)?;
        rows.push(measure(&place, keys)?);
        folder::remove(&place);
    }
    let churn = steady_state(place)?;
    println!("# How onceward scales\n");
    print!("| keys |");
    for keys in SIZES {
        print!(" {} |", rounded_keys(keys));
    }
    println!("\n|---|{}", "---:|".repeat(SIZES.len()));
    for (name, title) in COLUMNS {
        print!("| {title} |");
        for row in &rows {
            match row.get(name) {
                Some(figure) => print!(" {} |", rounded(*figure)),
                None => print!(" - |"),
            }
        }
        println!();
    }
    println!(
        "\nTen retentions of churn: {} MiB after the first two, at most {} MiB later ({:.2} times).",
        rounded(churn["after_two_mib"]),
        rounded(churn["most_later_mib"]),
        churn["most_later_mib"] / churn["after_two_mib"]
    );
    Ok(())
}

fn rounded_keys(keys: u64) -> String {
    if keys < 1_000_000 {
        format!("{} thousand", keys / 1_000)
    } else {
        format!("{} million", keys / 1_000_000)
    }
}

fn measure(place: &Path, keys: u64) -> Result<Figures> {
    let mut figures = Figures::new();
    let count = keys.to_string();
    for step in ["load", "open", "work", "burn", "reopen", "sweep"] {
        eprintln!("{count} keys: {step}");
        let is_killed = step == "burn";
        figures.extend(child(
            &[step, &place.display().to_string(), &count],
            is_killed,
        )?);
        interrupt::check()?;
    }
    Ok(figures)
}

fn steady_state(place: &Path) -> Result<Figures> {
    eprintln!("churn over ten retentions");
    let place = place.join("scale-churn");
    std::fs::create_dir_all(&place)?;
    let figures = child(&["churn", &place.display().to_string(), "0"], false)?;
    folder::remove(&place);
    Ok(figures)
}

/// Runs a step in a process of its own; it is killed once it says so, if it is to be.
fn child(words: &[&str], is_killed: bool) -> Result<Figures> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--scale-step")
        .args(words)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("the step has no output")?;
    let mut figures = Figures::new();
    for line in BufReader::new(out).lines() {
        let line = line?;
        if line == "kill me" && is_killed {
            child.kill()?;
            break;
        }
        let Some((name, figure)) = line.split_once(' ') else {
            bail!("a step said: {line}");
        };
        figures.insert(name.to_owned(), figure.parse()?);
    }
    let status = child.wait()?;
    ensure!(status.success() || is_killed, "a step failed: {words:?}");
    Ok(figures)
}
