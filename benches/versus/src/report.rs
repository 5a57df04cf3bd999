//! The tables, the lines that a script reads, and RESULTS.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::figures::{median, rounded, with_spread};
use crate::load::QUANTILES;
use crate::machine::Machine;
use crate::replay::Replays;
use crate::results::{Callers, Cell, Preloaded, Results};
use crate::rivals::Kind;

/// The quantile whose spread is told.
const P99: usize = 1;

const THROUGHPUT_NOTE: &str = "\
Cycles per second by blocking callers, and by tokio tasks: medians over the rounds, in brackets how far the
rounds are apart, (max - min) / median.";
const LATENCY_NOTE: &str = "\
Microseconds for a cycle, begin and complete together: medians over the rounds, in brackets how far the
rounds are apart at p99.";
const REPLAY_NOTE: &str = "\
Replays per second. Hot: 1,000 keys. Cold: up to 100,000 keys spread over all that were written; onceward,
redb, SQLite and fjall were opened again with caches of 1 MiB or none, the others answer from the system's
page cache or from their server's memory.";

const ROUND_TRIPS_NOTE: &str = "\
How often each operation waits for the server; replays by a node that hasn't seen the reply. Nobody waits for
an announcement, which tells other nodes of many keys at once.";

/// Everything as Markdown whose columns are aligned, so that it can be read as it is.
pub(crate) fn tables(results: &Results) -> Result<String> {
    let mut text = String::new();
    let mut section = |title: &str, note: &str, rows: &[Vec<String>]| {
        writeln!(text, "## {title}\n\n{note}\n\n{}", table(rows))
    };
    section("Throughput", THROUGHPUT_NOTE, &throughput(results))?;
    for callers in &results.columns {
        let title = format!("Latency, {}", described(*callers));
        section(&title, LATENCY_NOTE, &latency(results, *callers))?;
    }
    if !results.replays.is_empty() {
        section("Replay", REPLAY_NOTE, &replays(results))?;
    }
    if let Some(preloaded) = &results.preloaded {
        section(
            &format!("{} live keys", grouped(preloaded.keys)),
            &format!(
                "Cycles per second with {} blocking callers.",
                preloaded.threads
            ),
            &live_keys(preloaded),
        )?;
    }
    if !results.round_trips.is_empty() {
        section("Round trips", ROUND_TRIPS_NOTE, &round_trips(results))?;
    }
    for reason in &results.left_out {
        writeln!(text, "Left out: {reason}")?;
    }
    Ok(text)
}

fn throughput(results: &Results) -> Vec<Vec<String>> {
    let mut head = vec!["rival".to_owned()];
    head.extend(results.columns.iter().map(|callers| callers.label()));
    let mut rows = vec![head];
    for kind in &results.kinds {
        let mut row = vec![kind.name().to_owned()];
        for callers in &results.columns {
            let cell = &results.cells[&(*kind, *callers)];
            row.push(with_spread(&cell.cycles_per_s));
        }
        rows.push(row);
    }
    rows
}

fn latency(results: &Results, callers: Callers) -> Vec<Vec<String>> {
    let mut head = vec!["rival".to_owned()];
    head.extend(QUANTILES.map(|(_, name)| name.to_owned()));
    let mut rows = vec![head];
    for kind in &results.kinds {
        let cell = &results.cells[&(*kind, callers)];
        let mut row = vec![kind.name().to_owned()];
        for at in 0..QUANTILES.len() {
            let rounds = cell.latencies_us(at);
            row.push(match rounds.is_empty() {
                true => "-".to_owned(),
                false if at == P99 => with_spread(&rounds),
                false => rounded(median(&rounds)),
            });
        }
        rows.push(row);
    }
    rows
}

fn replays(results: &Results) -> Vec<Vec<String>> {
    let mut head = vec!["rival".to_owned()];
    head.extend(Replays::ALL.map(Replays::label));
    let mut rows = vec![head];
    for kind in results.kinds.iter().filter(|kind| kind.keeps_replies()) {
        let mut row = vec![kind.name().to_owned()];
        row.extend(Replays::ALL.map(|replays| with_spread(&results.replays[&(*kind, replays)])));
        rows.push(row);
    }
    rows
}

fn round_trips(results: &Results) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for trips in &results.round_trips {
        if rows.is_empty() {
            let names = trips.each.iter().map(|(name, _)| (*name).to_owned());
            rows.push(std::iter::once("rival".to_owned()).chain(names).collect());
        }
        let counts = trips.each.iter().map(|(_, count)| format!("{count:.2}"));
        let name = trips.kind.name().to_owned();
        rows.push(std::iter::once(name).chain(counts).collect());
    }
    rows
}

fn live_keys(preloaded: &Preloaded) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["rival".to_owned(), "cycles/s".to_owned()]];
    let mut row = |name: &str, cell: &Cell| {
        rows.push(vec![name.to_owned(), with_spread(&cell.cycles_per_s)]);
    };
    row("onceward", &preloaded.onceward);
    row("onceward, empty", &preloaded.onceward_empty);
    if let Some(redb) = &preloaded.redb_grouped {
        row("redb-grouped", redb);
    }
    rows
}

/// One line for each rival and count of callers: how many times onceward's throughput is the rival's. Then what engines on
/// servers have beside bare statements, and their round trips.
pub(crate) fn ratios(results: &Results) -> Result<String> {
    let mut text = String::new();
    let mut line =
        |name: &str, callers: &str, ratio: f64| writeln!(text, "ratio {name} {callers} {ratio:.3}");
    for kind in &results.kinds {
        if *kind == Kind::Onceward {
            continue;
        }
        for callers in &results.columns {
            let onceward = &results.cells[&(Kind::Onceward, *callers)];
            let rival = &results.cells[&(*kind, *callers)];
            line(kind.name(), &callers.label(), onceward.ratio_to(rival))?;
        }
    }
    if let Some(preloaded) = &results.preloaded {
        let (onceward, threads) = (&preloaded.onceward, preloaded.threads.to_string());
        let ratio = onceward.ratio_to(&preloaded.onceward_empty);
        line("onceward-empty", &threads, ratio)?;
        if let Some(redb) = &preloaded.redb_grouped {
            line("redb-grouped-10M", &threads, onceward.ratio_to(redb))?;
        }
    }
    text.push_str(&ratios_of_raw(results)?);
    for trips in &results.round_trips {
        let each = trips.each.iter();
        let each: Vec<String> = each
            .map(|(name, count)| format!("{name} {count:.2}"))
            .collect();
        writeln!(text, "round-trips {} {}", trips.kind.name(), each.join(" "))?;
    }
    Ok(text)
}

/// How many times the throughput of an engine on a server is that of the bare statements on such a server.
fn ratios_of_raw(results: &Results) -> Result<String> {
    let mut text = String::new();
    for kind in &results.kinds {
        let Some(raw) = kind.raw().filter(|raw| results.kinds.contains(raw)) else {
            continue;
        };
        for callers in &results.columns {
            let ratio =
                results.cells[&(*kind, *callers)].ratio_to(&results.cells[&(raw, *callers)]);
            let (name, callers) = (kind.name(), callers.label());
            writeln!(text, "ratio-of-raw {name} {callers} {ratio:.3}")?;
        }
    }
    Ok(text)
}

/// What the machine is, as a list.
pub(crate) fn machine(machine: &Machine) -> Result<String> {
    let mut text = String::new();
    for (name, value) in &machine.facts {
        writeln!(text, "- {name}: {value}")?;
    }
    Ok(text)
}

pub(crate) fn write(folder: &Path, results: &Results, on: &Machine) -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!(
        "cargo run --release --manifest-path benches/versus/Cargo.toml -- {}",
        words.join(" ")
    );
    let mut text = String::new();
    writeln!(
        text,
        "# onceward and its rivals\n\n\
         Written by `{}`. A cycle is a begin under a fresh key and a completion with 512 bytes, each durable \
         before its call returns; every caller has one request at a time. What the rivals are and how they \
         are set up is at the head of each file in [src/rivals](src/rivals).\n\n\
         {}\n\
         ![Throughput](throughput.svg)\n\n\
         ![Latency](latency.svg)\n\n\
         {}\n\
         ## Ratios\n\n\
         How many times onceward's throughput is the rival's, the median over the rounds.\n\n\
         ```text\n{}```",
        command.trim_end().trim_end_matches(" --"),
        machine(on)?,
        tables(results)?,
        ratios(results)?,
    )?;
    let path = folder.join("RESULTS.md");
    fs::write(&path, text).with_context(|| path.display().to_string())
}

fn described(callers: Callers) -> String {
    match callers {
        Callers::Threads(1) => "1 thread".to_owned(),
        Callers::Threads(count) => format!("{count} threads"),
        Callers::Tasks(count) => format!("{} tokio tasks", grouped(count as u64)),
    }
}

fn grouped(count: u64) -> String {
    match count {
        1_000_000.. => format!("{} million", count / 1_000_000),
        1_000.. => format!("{},{:03}", count / 1_000, count % 1_000),
        _ => count.to_string(),
    }
}

/// The first row is the head; the first column reads from the left, the others from the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut lines = Vec::new();
    for row in rows {
        let values = row.iter().zip(&widths).enumerate();
        let values: Vec<String> = values
            .map(|(column, (value, width))| match column {
                0 => format!(" {value:<width$} "),
                _ => format!(" {value:>width$} "),
            })
            .collect();
        lines.push(format!("|{}|\n", values.join("|")));
    }
    let rules = widths.iter().enumerate().map(|(column, width)| {
        let end = if column == 0 { '-' } else { ':' };
        format!("{}{end}", "-".repeat(width + 1))
    });
    let rules: Vec<String> = rules.collect();
    if !lines.is_empty() {
        lines.insert(1, format!("|{}|\n", rules.join("|")));
    }
    lines.concat()
}
