//! onceward beside other ways to keep idempotency records, in one interleaved run.
//!
//! One cycle is a begin under a fresh key and a completion with a reply of 512 bytes, each durable before
//! its call returns. The rivals do less than onceward: no fingerprints, no leases, no fencing tokens, no
//! retention; and a rival's replay is a plain lookup, as if it knew that the request is a retry.

mod args;
mod check;
mod figures;
mod folder;
mod group;
mod interrupt;
mod load;
mod machine;
mod plots;
mod preload;
mod progress;
mod proxy;
mod replay;
mod report;
mod results;
mod rival;
mod rivals;
mod round_trips;
mod rounds;
mod scale;
mod servers;
mod slow_sync;
mod woken;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::{Args, Mode, USAGE};
use crate::folder::WorkFolder;
use crate::load::Numbers;
use crate::machine::Machine;
use crate::replay::Replays;
use crate::results::Results;
use crate::rivals::Kind;
use crate::rounds::{Plan, Run};

const THREADS: [usize; 4] = [1, 8, 64, 256];
const TASKS: [usize; 2] = [64, 1_024];

static NUMBERS: Numbers = Numbers::new();

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    if let Some(args) = Args::parse(std::env::args().skip(1))? {
        return run(&args);
    }
    print!("{USAGE}");
    Ok(())
}

fn run(args: &Args) -> Result<()> {
    if let Mode::ScaleStep(words) = &args.mode {
        return scale::run_step(words);
    }
    let folder = match slow_sync::folder_of_restart() {
        Some(folder) => folder,
        None => WorkFolder::make(args.folder.as_deref())?,
    };
    if args.slow_sync_ms > 0 && !slow_sync::is_on() {
        slow_sync::restart(args.slow_sync_ms, &folder)?;
    }
    interrupt::watch()?;
    let machine = Machine::of(folder.path())?;
    ensure!(
        machine.sync >= Duration::from_millis(args.slow_sync_ms),
        "the syncs were not slowed down: they take {:?}",
        machine.sync
    );
    if args.mode == Mode::Scale {
        scale::run(folder.path())?;
        print!("\n{}", report::machine(&machine)?);
        return Ok(());
    }
    let results = measure(args, folder.path())?;
    print!(
        "{}\n{}\n{}",
        report::machine(&machine)?,
        report::tables(&results)?,
        report::ratios(&results)?
    );
    if args.is_publishable() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        report::write(here, &results, &machine)?;
        plots::throughput(&results, &here.join("throughput.svg"))?;
        plots::latency(&results, &here.join("latency.svg"))?;
    }
    Ok(())
}

fn measure(args: &Args, folder: &Path) -> Result<Results> {
    let mut left_out = Vec::new();
    let mut kinds = args.kinds();
    kinds.retain(|kind| {
        let missing = kind.missing();
        if let Some(reason) = missing {
            eprintln!("{} is left out: {reason}", kind.name());
            left_out.push(format!("{}: {reason}", kind.name()));
        }
        missing.is_none()
    });
    let round_trips = round_trips::count(&kinds, folder, &NUMBERS)?;
    let has_redb = kinds.contains(&Kind::RedbGrouped);
    let plan = Plan {
        kinds,
        threads: THREADS.to_vec(),
        tasks: match args.mode {
            Mode::Full => TASKS.to_vec(),
            _ => Vec::new(),
        },
        replays: match args.mode {
            Mode::Full => Replays::ALL.to_vec(),
            _ => Vec::new(),
        },
        window: args.window,
        rounds: args.rounds,
    };
    let mut results = Run::new(plan, &NUMBERS)?.go(folder)?;
    results.round_trips = round_trips;
    results.left_out = left_out;
    if args.has_preload {
        let preloaded = preload::run(folder, args.window, args.rounds, has_redb, &NUMBERS)?;
        results.preloaded = Some(preloaded);
    }
    Ok(results)
}
